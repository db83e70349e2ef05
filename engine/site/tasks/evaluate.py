"""A model measured on images of the site: figures of each image go back under neutral numbers."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from engine.data.tiling import Eye
from engine.evaluation.figures import pack_figures
from engine.evaluation.looks import measure_looks
from engine.evaluation.segmentation import measure_images
from engine.evaluation.variants import MODEL_BYTES, measure_file, measure_half
from engine.federation.tasks import LOOKS, OWN_ROUND, STUDENT_KIND, VARIANT_PX, SiteReply, SiteRequest
from engine.models.arrays import load_arrays
from engine.models.roles import Role
from engine.site.context import SiteContext
from engine.site.own_parameters import receive


def evaluate(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Measure what was sent; its settings name the model's ``role`` and the ``split`` (validation or test).

    What the message lacks of the model is the site's own part after the round ``own_round`` of the settings; a student
    of all sites is whole, and of the server's kind where ``student_kind`` names it: this site's may be another.
    With ``looks`` the reply's figures say which way of looking at images is best (``engine.evaluation.looks``), and
    what half the side costs (``engine.evaluation.variants``). With ``variant_px`` an ONNX file of that side is what was
    sent, and its mean Dice on validation images is all that goes back.
    In float32, as the exported model is served, so that a bundle's figures are its own.
    """
    if VARIANT_PX in request.settings:
        return _variant(site, request)
    role, split = cast(Role, request.settings["role"]), request.settings["split"]
    if STUDENT_KIND in request.settings:
        model = site.models.student_of_kind(str(request.settings[STUDENT_KIND]))
        load_arrays(model, request.arrays)
    else:
        model = receive(site, request.arrays, before_round=int(request.settings.get(OWN_ROUND, 0)) + 1, role=role)
    images = site.data.test if split == "test" else site.data.validation
    records = measure_images(
        model,
        images,
        classes=site.data.classes,
        model_name=str(request.settings["model"]),
        site=site.site,
        split="test" if split == "test" else "validation",
        config=site.config.evaluation,
        device=site.models.device,
        precision="fp32",
        check_cancelled=site.listener.check_cancelled,
    )
    looks = _looks(site, model) if request.settings.get(LOOKS) and split == "validation" else {}
    return SiteReply(pack_figures(records), looks, len(images))


def _looks(site: SiteContext, model: nn.Module) -> dict[str, float]:
    """Measure which way of looking at the site's validation images shows the model the most, and what half costs."""
    data, items = site.config.data, site.data.validation.items
    how: dict[str, Any] = {
        "eye": Eye(data.image_px, cast(int, model.mask_stride), data.normalise, data.fit),
        "device": site.models.device,
        "check_cancelled": site.listener.check_cancelled,
    }
    half = measure_half(model, items, stride=cast(int, model.feature_stride), **how)
    return (measure_looks(model, items, **how) or {}) | half


def _variant(site: SiteContext, request: SiteRequest) -> SiteReply:
    items = site.data.validation.items
    found = measure_file(
        request.arrays[MODEL_BYTES].tobytes(),
        items,
        image_px=int(request.settings[VARIANT_PX]),
        data=site.config.data,
        check_cancelled=site.listener.check_cancelled,
    )
    return SiteReply({}, found, len(items))

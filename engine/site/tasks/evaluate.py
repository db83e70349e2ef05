"""A model measured on images of the site: figures of each image go back under neutral numbers."""

from __future__ import annotations

from typing import cast

from torch import nn

from engine.data.tiling import Eye
from engine.evaluation.figures import pack_figures
from engine.evaluation.looks import measure_looks
from engine.evaluation.segmentation import measure_images
from engine.federation.tasks import LOOKS, OWN_ROUND, STUDENT_KIND, SiteReply, SiteRequest
from engine.models.arrays import load_arrays
from engine.models.roles import Role
from engine.site.context import SiteContext
from engine.site.own_parameters import receive


def evaluate(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Measure what was sent; its settings name the model's ``role`` and the ``split`` (validation or test).

    What the message lacks of the model is the site's own part after the round ``own_round`` of the settings; a student
    of all sites is whole, and of the server's kind where ``student_kind`` names it: this site's may be another.
    With ``looks`` the reply's figures say which way of looking at images is best (``engine.evaluation.looks``).
    In float32, as the exported model is served, so that a bundle's figures are its own.
    """
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
    looks = _looks(site, model) if request.settings.get(LOOKS) and split == "validation" else None
    return SiteReply(pack_figures(records), looks or {}, len(images))


def _looks(site: SiteContext, model: nn.Module) -> dict[str, float] | None:
    """Measure which way of looking at the site's validation images shows the model the most."""
    data = site.config.data
    return measure_looks(
        model,
        site.data.validation.items,
        eye=Eye(data.image_px, cast(int, model.mask_stride), data.normalise, data.fit),
        device=site.models.device,
        check_cancelled=site.listener.check_cancelled,
    )

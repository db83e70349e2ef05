"""Faster variants of the exported student: which are made, calibrated on what, and what the sites say of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from engine.errors import UserError
from engine.evaluation.variants import HALF_DICE, MODEL_BYTES, VARIANT_DICE, VARIANT_IMAGES, fault_of, half_px, together
from engine.federation.checks import bad_reply
from engine.federation.tasks import EVALUATE, VARIANT_PX, SiteReply
from engine.methods.catalogue import ModelSpec
from engine.models.roles import build_role
from engine.stages.context import RunContext
from engine.stages.evaluation import VARIANTS_FILE
from engine.stages.files import read_json
from engine.stages.synthetic_set import LIST_FILE, load_pool
from export.manifest import Manifest, VariantDice
from export.variants import MOST_CALIBRATION, VariantPlan

Told = Mapping[str, Mapping[str, float]]
"""By site: figures of ``engine.evaluation.variants``."""


def variant_plan(context: RunContext, spec: ModelSpec) -> VariantPlan:
    """Return which variants of the model ``spec`` are exported, as ``export.variants`` says.

    Half the side was measured with the evaluation, where the model was at the sites. A variant in 8 bits is another
    model: its file goes down to each site with validation images, as kind ``evaluated``, and its Dice comes up.
    """
    config = context.config
    names = config.export.variants
    if not names:
        return VariantPlan()
    path = context.run_dir / VARIANTS_FILE
    measured: Told = read_json(path).get(spec.name, {}) if path.is_file() else {}  # none in runs of before

    def measure(name: str, file: Path, image_px: int) -> VariantDice | None:
        if not name.endswith("int8"):
            return _dice(measured, HALF_DICE)
        return _dice(_ask(context, name, file, image_px=image_px, known=measured), VARIANT_DICE)

    model = build_role(config, spec.architecture, num_classes=len(context.description.classes))  # type: ignore[arg-type]
    return VariantPlan(
        names=names,
        half_px=half_px(config.data.image_px, stride=cast(int, model.feature_stride)),
        calibration_N3HW=_calibration(context) if any(name.endswith("int8") for name in names) else None,
        measure=measure,
        tell=lambda text: context.reporter.log("warning", text),
        threads=config.threads,
        check_cancelled=context.reporter.check_cancelled,
    )


def told(manifest: Manifest) -> list[str]:
    """Return a sentence on each faster variant, and on which one answers by itself."""
    sentences = []
    for variant in manifest.variants[1:]:
        own = manifest.variants[0].timing
        assert variant.timing is not None and own is not None, "all are timed together"
        times = own.seconds / variant.timing.seconds
        dice = "no site has measured its Dice"
        if variant.measured is not None:
            points, images = variant.measured.points, variant.measured.num_images
            dice = f"{points:+.1f} points of Dice on {images} validation images"
        took = f"{times:.1f} times as fast ({1000 * variant.timing.seconds:.0f} ms)"
        sentences.append(f"Variant {variant.name}: {took}, {dice}.")
    if sentences:
        sentences.append(f"By itself the variant '{manifest.quickest('whole').name}' answers.")
    return sentences


def _calibration(context: RunContext) -> np.ndarray | None:
    """Return synthetic images of the run, evenly from all of them, as the model sees them; None where it has none."""
    if not (context.run_dir / LIST_FILE).is_file():
        return None
    pool = load_pool(context)
    count = min(MOST_CALIBRATION, len(pool))
    return pool.batch([place * len(pool) // count for place in range(count)])[0] if count else None


def _ask(context: RunContext, name: str, file: Path, *, image_px: int, known: Told) -> Told:
    """Return what the sites say of a variant's file, with what they said of the model itself.

    A site that fails, or has not measured the model, does not count; the log names it.
    """
    found: dict[str, dict[str, Any]] = {}
    content = np.frombuffer(file.read_bytes(), np.uint8)
    counts = context.description.num_validation
    for site in (site for site in context.sites.names if counts[site] and site in known):
        context.reporter.progress(0, 1, message=f"measuring the variant {name} at {site}")
        try:
            (reply,) = context.sites.ask(
                EVALUATE,
                kind="evaluated",
                reply_kind="figures",
                to=[site],
                arrays={MODEL_BYTES: content},
                settings={VARIANT_PX: image_px, "split": "validation"},
                round_number=1 + context.config.export.variants.index(name),  # type: ignore[arg-type]  # a name of these
                on_reply=partial(_check, known[site]),
            ).values()
        except UserError as error:
            if not error.code.startswith("federation."):
                raise
            context.reporter.log("warning", f"The variant {name} counts without {site}. {error.what}")
            continue
        found[site] = {**known[site], **reply.metrics}
    return found


def _check(known: Mapping[str, float], round_number: int, site: str, reply: SiteReply) -> None:
    fault = fault_of(reply.metrics, most_images=int(known[VARIANT_IMAGES]), wanted=(VARIANT_DICE,))
    if fault is None and reply.metrics.get(VARIANT_IMAGES) != known[VARIANT_IMAGES]:
        fault = "it has measured the variant on other images than the model"
    if fault is not None:
        raise bad_reply(site, round_number=round_number, problem=fault)


def _dice(of_sites: Told, name: str) -> VariantDice | None:
    figures = together(of_sites, name=name)
    return None if figures is None else VariantDice(dice=figures[0], full=figures[1], num_images=figures[2])

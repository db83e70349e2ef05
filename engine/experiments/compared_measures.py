"""What a comparison shows of a model at a site: Dice, IoU or HD95, with interval, images and misses. Torch-free.

Dice has the interval that the run has stored. Those of IoU and HD95 are worked out from the figures of images, with
the run's own seed, number of resamples and stream: of the same images they are what evaluation would have stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.config import RunConfig
from engine.evaluation.bootstrap import count_groups, mean_interval
from engine.experiments.statistics import ImageFigure
from engine.seeding import numpy_generator
from engine.types import EvaluationRow

DICE, IOU, HD95 = "dice", "iou", "hd95_px"


@dataclass(frozen=True)
class ComparedMeasure:
    """One figure of images. ``key`` names it in the records of images and in the rows of results."""

    key: str
    title: str
    decimals: int
    higher_is_better: bool


COMPARED: dict[str, ComparedMeasure] = {
    measure.key: measure
    for measure in (
        ComparedMeasure(DICE, "Dice", 3, True),
        ComparedMeasure(IOU, "IoU", 3, True),
        ComparedMeasure(HD95, "HD95 (px)", 1, False),
    )
}
"""By key. HD95 is in pixels of the scored grid, over the images in which both masks have foreground."""


@dataclass(frozen=True)
class SiteFigure:
    """A measure of one model at one site; ``low`` and ``high`` are the ends of its 95 % interval over patients."""

    value: float | None
    """None where no image has one."""
    low: float | None
    high: float | None
    num_images: int | None
    """Images that have the measure; None in runs from before those of HD95 were counted."""
    num_groups: int | None
    """Patients among them."""
    num_missed: int | None
    """Of all the site's images: masks of which nothing was predicted."""
    num_spurious: int | None
    """Of all the site's images: predictions where there is nothing."""


def site_figure(
    row: EvaluationRow, measure: ComparedMeasure, images: Sequence[ImageFigure] | None, config: RunConfig | None
) -> SiteFigure:
    """Return a measure of the row's model at its site.

    ``images`` are the figures that the row is the mean of, in the order of evaluation; without them, or without the
    run's settings, IoU and HD95 have no interval.
    """
    value = getattr(row, measure.key)
    value = value if value is not None and math.isfinite(value) else None
    num_images = row.num_hd95 if measure.key == HD95 else row.num_images
    num_groups = row.num_groups
    low, high = row.dice_low, row.dice_high
    if measure.key != DICE:
        low, high = _interval(row, images, config) if images and config is not None else (None, None)
        if measure.key == HD95:
            num_groups = count_groups([image.group for image in images]) if images else None
    return SiteFigure(value, low, high, num_images, num_groups, row.num_missed, row.num_spurious)


def figures_of(records: Sequence[Any], measure: ComparedMeasure, *, num_images: int) -> tuple[ImageFigure, ...] | None:
    """Return a measure of every image that has it; None where the records are not those of ``num_images`` images.

    ``records`` have ``site``, ``name`` and ``group``. HD95 is null where a mask has no foreground on either side.
    """
    found = []
    for record in records:
        value = record.get(measure.key)
        if value is None and measure.key == HD95 and measure.key in record:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return None
        group = f"{record['site']}/{record['group']}" if record["group"] else ""
        found.append(ImageFigure(f"{record['site']}/{record['name']}", group, float(value)))
    return tuple(found) if len(records) == num_images else None


def _interval(
    row: EvaluationRow, images: Sequence[ImageFigure], config: RunConfig
) -> tuple[float | None, float | None]:
    # The stream is that of the row's Dice: measures and models are resampled alike.
    rng = numpy_generator(config.seed, "bootstrap", row.site, row.split, row.class_name)
    found = mean_interval(
        [image.value for image in images],
        groups=[image.group for image in images],
        num_samples=config.evaluation.bootstrap_samples,
        rng=rng,
    )
    return (None, None) if found is None else found

"""Corrections of an answered picture: clicks and boxes (``export.clicks``), and strokes, in one order. Pure numpy.

Shape legend: H and W the image's side in pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.probability import Kept
from app.strokes import Stroke, covered, is_kind, stroke_of
from export.clicks import Ask, Box, Click, Prompt, change, fill_box
from export.levels import STEPS, above, levels

MAX_CORRECTIONS = 100
"""Of one image (ours): each is worked out anew when the threshold changes."""
MAX_WORK_PX = 1_000_000_000
"""Of all corrections of an image, as :func:`work_px` counts them (ours): some 6 s, each time that one is added. A usual
one on 1024 x 1024 pixels takes a hundredth of its share."""
CLICK_PASSES, LINE_PX = 7, 100
"""What a click's pixel, and a row of a piece of a stroke, take in place of a stroke's pixel (measured, ours)."""
Correction = Prompt | Stroke


@dataclass(frozen=True, eq=False)
class Corrected:
    """One class of a picture after its corrections: (H, W) each, the mask uint8 in {0, 1}.

    ``levels_HW`` is what the mask was made of. ``painted_HW`` is where strokes went: there the mask is what it is at
    every threshold, None where there are none. ``last_px`` counts the pixels that the last correction changed.
    """

    mask_HW: np.ndarray
    levels_HW: np.ndarray
    painted_HW: np.ndarray | None
    last_px: int


def corrected(
    kept: Kept, corrections: Sequence[Correction], *, percent: int, class_index: int, ask: Ask | None = None
) -> Corrected:
    """Return one class's mask after the corrections of it, in their order; ``ask`` where a decoder answers prompts."""
    logits_HW = kept.plane(class_index)
    levels_HW = levels(logits_HW)
    mask_HW = above(levels_HW, percent)
    painted_HW, last_px = None, 0
    least = math.log(percent / (STEPS - percent))
    clicks: list[Click] = []
    for one in corrections:
        if one.class_index != class_index:
            continue
        if not isinstance(one, Stroke):
            if isinstance(one, Box):
                last_px = fill_box(mask_HW, logits_HW, one)
            else:
                clicks.append(one)
                last_px = change(mask_HW, logits_HW, one, least=least, ask=ask, clicks=clicks)
            continue
        area = covered(one, size_hw=kept.size_hw)
        last_px = area.fill(mask_HW, one.kind == "brush")
        painted_HW = np.zeros(kept.size_hw, bool) if painted_HW is None else painted_HW
        area.fill(painted_HW, True)
    return Corrected(mask_HW, levels_HW, painted_HW, last_px)


def work_px(one: Correction, *, size_hw: tuple[int, int]) -> int:
    """Return about how much work a correction is, as pixels that a stroke's area would have to be filled in."""
    if isinstance(one, Click):
        across = [min(2 * one.reach_px + 1, size) for size in size_hw]
        return CLICK_PASSES * across[0] * across[1]
    if isinstance(one, Box):
        return CLICK_PASSES * (one.last_row - one.row + 1) * (one.last_column - one.column + 1)
    places_N2, width_px = one.places_N2, one.size_px
    height, width = np.minimum(np.ptp(places_N2, axis=0) + width_px, size_hw)
    rows = np.abs(np.diff(places_N2[:, 0])).sum() + width_px * max(1, len(places_N2) - 1)
    return int(height * width + LINE_PX * rows)


def correction_of(
    kind: object,
    class_index: object,
    *,
    index: object,
    stroke: object,
    reach: object,
    shown_hw: tuple[int, int],
    size_hw: tuple[int, int],
    num_classes: int,
) -> Correction | None:
    """Return the click, box or stroke that a browser asks for; None for what is none of them.

    A click's ``index`` is a place (row, column) of the picture of ``shown_hw`` that a browser shows of the image. A
    box has two opposite corners in place of a ``stroke``: row, column, row, column of the image.
    """
    if type(class_index) is not int or not 0 <= class_index < num_classes:
        return None
    if is_kind(kind):
        return stroke_of(kind, class_index, stroke, size_hw=size_hw)
    if kind == "box":
        return _box_of(class_index, stroke, size_hw=size_hw)
    found = place(index, shown_hw=shown_hw, size_hw=size_hw)
    if found is None or (kind != "add" and kind != "remove"):
        return None
    return Click("add" if kind == "add" else "remove", class_index, *found, reach_of(reach, size_hw=size_hw))


def _box_of(class_index: int, told: object, *, size_hw: tuple[int, int]) -> Box | None:
    if not (isinstance(told, list) and len(told) == 4 and all(type(number) is int for number in told)):
        return None
    if not all(0 <= number < size_hw[at % 2] for at, number in enumerate(told)):
        return None
    top, bottom = sorted(told[::2])
    left, right = sorted(told[1::2])
    return Box(class_index, top, left, bottom, right)


def place(index: object, *, shown_hw: tuple[int, int], size_hw: tuple[int, int]) -> tuple[int, int] | None:
    """Return (row, column) of the image for a place (row, column) of the picture that a browser shows of it.

    None for what is no place of that picture.
    """
    if not (isinstance(index, list | tuple) and len(index) == 2 and all(type(number) is int for number in index)):
        return None
    if not all(0 <= number < shown for number, shown in zip(index, shown_hw, strict=True)):
        return None
    row, column = (
        int((number + 0.5) * size / shown) for number, shown, size in zip(index, shown_hw, size_hw, strict=True)
    )
    return row, column


def reach_of(percent: object, *, size_hw: tuple[int, int]) -> int:
    """Return how far a click reaches, in pixels, for 1 to 100 percent of the image's longer side."""
    share = percent if isinstance(percent, int | float) and math.isfinite(percent) else 0.0
    return max(1, round(min(max(share, 1.0), 100.0) / 100 * max(size_hw)))

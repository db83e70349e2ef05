"""Corrections that change a mask in the picture. Pure numpy and scipy.

A stroke sets or clears pixels (``app.strokes``). A click changes the connected region at its place, a box what lies in it,
and nothing else. Of a model that was taught prompts its decoder says what belongs to the region (``Ask``); of any other,
and where the decoder does not follow a click, the probabilities that are there do: a region grows down to half of the
odds at the click, or up to twice of them where it goes away, and ``BORDER_TIMES`` as far as the next border of the mask is
from the click. Pixels belong together where they touch, by a corner too. Shape legend: H and W the image's side in
pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.probability import Kept
from app.strokes import Stroke, covered, is_kind, stroke_of
from export.levels import STEPS, above, levels

MAX_CORRECTIONS = 100
MAX_WORK_PX = 1_000_000_000
"""Of all corrections of an image, as :func:`work_px` counts them (ours): some 6 s, each time that one is added. A usual
one on 1024 x 1024 pixels takes a hundredth of its share."""
CLICK_PASSES, LINE_PX = 12, 100
"""What a click's pixel, and a row of a piece of a stroke, take in place of a stroke's pixel (measured, ours)."""
"""Of one image (ours): each is worked out anew when the threshold changes."""
ODDS_SHARE = 0.5
"""Share of the odds at the click that a region grows down to, and what they are a share of where it goes away (ours)."""
BORDER_TIMES, LEAST_PX = 2.5, 2
"""How far a click reaches at most, in distances to the next border of the mask, and at least in pixels (ours, measured by
``bench.prompts``): the middle of a rim that is wrong changes that rim, and the middle of a nucleus all of it."""
TOUCHING = np.ones((3, 3))


@dataclass(frozen=True)
class Click:
    """One click. ``row`` and ``column`` are pixels of the image from its upper left, ``reach_px`` a radius."""

    kind: Literal["add", "remove"]
    class_index: int
    row: int
    column: int
    reach_px: int


@dataclass(frozen=True)
class Box:
    """A box from (``row``, ``column``) to (``last_row``, ``last_column``): pixels of the image, all of them in it."""

    class_index: int
    row: int
    column: int
    last_row: int
    last_column: int
    kind: Literal["box"] = "box"


Prompt = Click | Box
Correction = Prompt | Stroke
Ask = Callable[[Sequence[Prompt], slice, slice], tuple[np.ndarray, slice, slice]]
"""Takes all prompts of a class up to the one that is answered, and a window of the image (rows, columns); returns the
logits that the decoder gives there, (rows, columns) float32, and the part of the window that it saw."""


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
    prompts: list[Prompt] = []
    for one in corrections:
        if one.class_index != class_index:
            continue
        if not isinstance(one, Stroke):
            prompts.append(one)
            if isinstance(one, Box):
                last_px = fill_box(mask_HW, logits_HW, one, least=least, ask=ask, prompts=prompts)
            else:
                last_px = change(mask_HW, logits_HW, one, least=least, ask=ask, prompts=prompts)
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

    A click's ``index`` is a place (row, column) of the picture of ``shown_hw`` that a browser shows of the image; a box's
    are the places of two opposite corners, one after the other.
    """
    if type(class_index) is not int or not 0 <= class_index < num_classes:
        return None
    if is_kind(kind):
        return stroke_of(kind, class_index, stroke, size_hw=size_hw)
    if kind == "box":
        return _box_of(class_index, index, shown_hw=shown_hw, size_hw=size_hw)
    found = place(index, shown_hw=shown_hw, size_hw=size_hw)
    if found is None or (kind != "add" and kind != "remove"):
        return None
    return Click("add" if kind == "add" else "remove", class_index, *found, reach_of(reach, size_hw=size_hw))


def _box_of(class_index: int, index: object, *, shown_hw: tuple[int, int], size_hw: tuple[int, int]) -> Box | None:
    if not (isinstance(index, list | tuple) and len(index) == 4):
        return None
    corners = [place(list(index[at : at + 2]), shown_hw=shown_hw, size_hw=size_hw) for at in (0, 2)]
    if corners[0] is None or corners[1] is None:
        return None
    (top, bottom), (left, right) = (sorted(sides) for sides in zip(corners[0], corners[1], strict=True))
    return Box(class_index, top, left, bottom, right)


def change(
    mask_HW: np.ndarray,
    logits_HW: np.ndarray,
    click: Click,
    *,
    least: float = 0.0,
    ask: Ask | None = None,
    prompts: Sequence[Prompt] = (),
) -> int:
    """Change a mask {0, 1} in place by one click and return how many pixels that were.

    0 where it cannot do anything: there is nothing to remove at its place, or what it would add is there. ``least`` is the
    logit above which a pixel belongs to a mask; ``prompts`` are those of the class, the click last.
    """
    rows = slice(max(0, click.row - click.reach_px), click.row + click.reach_px + 1)
    columns = slice(max(0, click.column - click.reach_px), click.column + click.reach_px + 1)
    mask, logits = mask_HW[rows, columns], logits_HW[rows, columns]
    at = (click.row - rows.start, click.column - columns.start)
    adds = click.kind == "add"
    if bool(mask[at]) == adds:
        return 0
    down, across = np.ogrid[: mask.shape[0], : mask.shape[1]]
    square = (down - at[0]) ** 2 + (across - at[1]) ** 2
    region = None
    if ask is not None:
        region = _asked(mask, at, ask, prompts, rows=rows, columns=columns, least=least, adds=adds)
    if region is None:
        region = _by_probabilities(mask, logits, at, square, reach_px=click.reach_px, adds=adds)
    region &= square <= click.reach_px**2
    mask[region] = adds
    return int(np.count_nonzero(region))


def _asked(
    mask: np.ndarray,
    at: tuple[int, int],
    ask: Ask,
    prompts: Sequence[Prompt],
    *,
    rows: slice,
    columns: slice,
    least: float,
    adds: bool,
) -> np.ndarray | None:
    """Return the region at ``at`` that a decoder would change; None where it leaves that place as it is."""
    window = slice(rows.start, rows.start + mask.shape[0]), slice(columns.start, columns.start + mask.shape[1])
    answered, seen_rows, seen_columns = ask(prompts, *window)
    inside = slice(seen_rows.start - rows.start, seen_rows.stop - rows.start), slice(
        seen_columns.start - columns.start, seen_columns.stop - columns.start
    )
    changes = np.zeros(mask.shape, bool)
    changes[inside] = ((answered > least) == adds) & ((mask[inside] > 0) != adds)
    return _region(changes, at) if changes[at] else None


def _by_probabilities(
    mask: np.ndarray, logits: np.ndarray, at: tuple[int, int], square: np.ndarray, *, reach_px: int, adds: bool
) -> np.ndarray:
    """Return the region that a click at ``at`` adds or removes; ``square`` is how far pixels are from it, squared."""
    others = square[(mask > 0) == adds]
    far = BORDER_TIMES**2 * float(others.min()) if others.size else math.inf
    near = square <= min(max(far, LEAST_PX**2), reach_px**2)
    if adds:
        return _region(near & (mask == 0) & (logits >= logits[at] + math.log(ODDS_SHARE)), at)
    piece = _region(mask > 0, at)
    if not np.any(piece & ~near):
        return piece
    return _region(piece & near & (logits <= logits[at] - math.log(ODDS_SHARE)), at)


def _region(candidates: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """Return the connected region of ``candidates`` at a place of them."""
    from scipy import ndimage  # not before the first click: the first paint needs none

    regions, _ = ndimage.label(candidates, TOUCHING)
    return regions == regions[at]


def fill_box(
    mask_HW: np.ndarray,
    logits_HW: np.ndarray,
    box: Box,
    *,
    least: float = 0.0,
    ask: Ask | None = None,
    prompts: Sequence[Prompt] = (),
) -> int:
    """Change a mask {0, 1} in place by a box, and nothing outside it; return how many pixels that changed.

    A decoder says what the box holds. Without one, what has the higher odds of two kinds (Otsu, 1979) is added.
    """
    rows, columns = slice(box.row, box.last_row + 1), slice(box.column, box.last_column + 1)
    if ask is not None:
        answered, rows, columns = ask(prompts, rows, columns)
        wanted = answered > least
    else:
        wanted = (mask_HW[rows, columns] > 0) | (logits_HW[rows, columns] > parting(logits_HW[rows, columns]))
    mask = mask_HW[rows, columns]
    changed = int(np.count_nonzero((mask > 0) != wanted))
    mask[...] = wanted
    return changed


def parting(values: np.ndarray, *, num_bins: int = 256) -> float:
    """Return where values part into two kinds whose means are furthest apart, by their numbers (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=num_bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above_it = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above_it * (sums / below - (sums[-1] - sums) / above_it) ** 2
    return float(edges[1 + int(np.nanargmax(apart[:-1]))])


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

"""Clicks as a person would give them, drawn from masks: what a student learns to answer prompts with.

Shape legend: B images, K classes, h = w the decoder's grid, N points an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from engine.data.prompt_maps import MOST_LOGIT, prompt_map
from engine.models.prompts import PADDING_LABEL, Prompts

MOST_CLICKS = 3
REMOVED_SHARE, MISSED_SHARE = 0.25, 0.25
"""Of the images of a batch (ours): those with a click on a structure that then is to go, and those with a click on one
that is kept from the decoder as if the model had missed it. The others have clicks where the model is wrong: these are
mostly borders, and from them alone a decoder would learn nothing of whole structures."""
LEAST_CELLS = 8
"""Of a region that is wrong, below which nobody clicks there (ours)."""
GROWN_SHARE, GROWN_CELLS = 0.25, 3
"""By how much the surroundings of a prompt reach beyond what it is about (ours)."""
TOUCHING = np.ones((3, 3))


@dataclass(frozen=True, eq=False)
class Simulated:
    """Prompts of a batch, what the model is to answer, and where that is looked at once more.

    ``class_B`` (int64) is the class that an image's prompts are about; ``target_B1hw`` (float32 in {0, 1}) its mask as
    the person wants it; ``near_B1hw`` (bool) the surroundings of the prompts.
    """

    prompts: Prompts
    class_B: Tensor
    target_B1hw: Tensor
    near_B1hw: Tensor


def simulate(logits_BKhw: np.ndarray, mask_BKhw: np.ndarray, *, stride: int, rng: np.random.Generator) -> Simulated:
    """Return prompts on what a model answers without any, and masks {0, 1}, both on its grid of ``stride`` pixels."""
    points = np.zeros((len(mask_BKhw), MOST_CLICKS, 2), np.float32)
    labels = np.full(points.shape[:2], PADDING_LABEL, np.int64)
    classes = rng.integers(mask_BKhw.shape[1], size=len(mask_BKhw))
    targets, near, maps = [], [], []
    for row, index in enumerate(classes):
        own_hw = logits_BKhw[row, index].copy()
        one = _draw(own_hw > 0, mask_BKhw[row, index] > 0, rng=rng)
        if one.hidden_hw is not None:
            own_hw[one.hidden_hw] = -MOST_LOGIT
        for number, (at, label) in enumerate(one.points):
            points[row, number], labels[row, number] = (at + 0.5) * stride - 0.5, label
        maps.append(prompt_map(own_hw, points[row], labels[row], stride=stride))
        targets.append(one.target_hw)
        near.append(one.near_hw)
    return Simulated(
        Prompts(
            points_BN2=torch.from_numpy(points),
            labels_BN=torch.from_numpy(labels),
            mask_B1HW=torch.from_numpy(np.stack(maps)[:, None]),
        ),
        torch.from_numpy(classes),
        torch.from_numpy(np.stack(targets)[:, None].astype(np.float32)),
        torch.from_numpy(np.stack(near)[:, None]),
    )


@dataclass(frozen=True, eq=False)
class _One:
    points: list[tuple[np.ndarray, int]]
    """((x, y) in cells of the grid, label) each."""
    target_hw: np.ndarray
    near_hw: np.ndarray
    hidden_hw: np.ndarray | None = None
    """What the decoder is not told of what the model found."""


def _draw(found_hw: np.ndarray, true_hw: np.ndarray, *, rng: np.random.Generator) -> _One:
    kind = rng.random()
    pieces_hw, count = ndimage.label(true_hw, TOUCHING)
    near_hw = np.zeros(true_hw.shape, bool)
    if count and kind < REMOVED_SHARE + MISSED_SHARE:
        piece_hw = pieces_hw == 1 + rng.integers(count)
        near_hw[_around(piece_hw)] = True
        at = innermost(piece_hw)
        if kind < REMOVED_SHARE:
            return _One([(at, 0)], true_hw & ~piece_hw, near_hw)
        return _One([(at, 1)], true_hw, near_hw, ndimage.binary_dilation(piece_hw, TOUCHING, iterations=2))
    points = []
    for region_hw in _wrong(found_hw, true_hw, most=1 + int(rng.integers(MOST_CLICKS)), rng=rng):
        near_hw[_around(region_hw)] = True
        at = innermost(region_hw)
        points.append((at, int(true_hw[int(at[1]), int(at[0])])))
    if not points:  # nothing is wrong: a click says what is so already
        at = np.array([rng.integers(true_hw.shape[1]), rng.integers(true_hw.shape[0])], np.float32)
        points.append((at, int(true_hw[int(at[1]), int(at[0])])))
    return _One(points, true_hw, near_hw)


def _wrong(found_hw: np.ndarray, true_hw: np.ndarray, *, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return up to ``most`` connected regions that are missed or false, large ones likelier."""
    regions_hw = np.zeros(true_hw.shape, np.int64)
    count = 0
    for wrong_hw in (true_hw & ~found_hw, found_hw & ~true_hw):
        labelled_hw, more = ndimage.label(wrong_hw, TOUCHING)
        regions_hw[wrong_hw] = labelled_hw[wrong_hw] + count
        count += more
    if not count:
        return []
    areas = np.bincount(regions_hw.ravel(), minlength=count + 1)[1:]
    areas[areas < LEAST_CELLS] = 0
    if not areas.any():
        return []
    most = min(most, int(np.count_nonzero(areas)))
    chosen = rng.choice(count, size=most, replace=False, p=areas / areas.sum())
    return [regions_hw == 1 + number for number in chosen]


def innermost(region_hw: np.ndarray) -> np.ndarray:
    """Return (x, y) of the cell of a region that is furthest from its border, float32; the first of several."""
    rows, columns = _box_of(region_hw)
    depth = ndimage.distance_transform_edt(np.pad(region_hw[rows, columns], 1))
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return np.array([columns.start + column - 1, rows.start + row - 1], np.float32)


def _box_of(region_hw: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(region_hw.any(axis=1)), np.flatnonzero(region_hw.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _around(region_hw: np.ndarray) -> tuple[slice, slice]:
    grown = []
    for part in _box_of(region_hw):
        more = GROWN_CELLS + round(GROWN_SHARE * (part.stop - part.start))
        grown.append(slice(max(0, part.start - more), part.stop + more))
    return grown[0], grown[1]

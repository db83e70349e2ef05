"""The order of a volume's slices: by where they lie, with what is missing or there twice named. Torch-free.

Slices are put in the order in which they lie along the normal of their plane (columns x rows: feet to head for axial
ones); where the files do not say where they lie, in the order of their InstanceNumber.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.data.pixels import Unsupported

SAME_PLANE = 1e-3
"""How far rows and columns of two slices may differ, in mm a pixel (ours)."""
STEP_SHARE = 0.1
"""How far a step between two slices may differ from the others', as a share of them (ours): headers round."""


class NoVolume(Unsupported):
    """Slices that are no volume; the text says why and begins with "the slices" or "its slices"."""


@dataclass(frozen=True, eq=False)
class Placed:
    """One slice: its ``affine`` (4, 4) from (column, row, slice) to LPS mm and its InstanceNumber, None if not told.

    ``frame`` counts the slices of one file, which have one number.
    """

    affine: np.ndarray | None
    number: float | None
    frame: int = 0


def stack(slices: Sequence[Placed]) -> tuple[list[int], np.ndarray | None]:
    """Return the order of ``slices`` and the affine (4, 4) of the stack in LPS mm, None where they have no places.

    Raises :class:`NoVolume`: slices in different planes, one missing, one there twice, without place and number.
    """
    if any(one.affine is None for one in slices):
        if any(one.number is None for one in slices):
            raise NoVolume("its slices say neither where they lie nor which number they have")
        numbers = [(one.number or 0.0, one.frame) for one in slices]
        twice = [number for number, count in Counter(numbers).items() if count > 1]
        if twice:
            raise NoVolume(f"several of its slices have number {min(twice)[0]:g}, and not all say where they lie")
        return sorted(range(len(slices)), key=numbers.__getitem__), None
    affines = np.array([one.affine for one in slices])
    if np.abs(affines[:, :3, :2] - affines[0, :3, :2]).max() > SAME_PLANE:
        raise NoVolume("the slices of its series lie in different planes")
    normal = np.cross(affines[0, :3, 0], affines[0, :3, 1])
    normal /= np.linalg.norm(normal)
    depths = affines[:, :3, 3] @ normal
    order = [int(index) for index in np.argsort(depths, kind="stable")]
    matrix = affines[order[0]].copy()
    if len(order) > 1:
        _refuse_uneven([slices[index] for index in order], depths[order])
        places = affines[order, :3, 3]
        matrix[:3, 2] = (places[-1] - places[0]) / (len(order) - 1)
        drift = places - (places[0] + np.outer(np.arange(len(order)), matrix[:3, 2]))
        if np.abs(drift).max() > STEP_SHARE * float(np.linalg.norm(matrix[:3, :3], axis=0).max()):
            raise NoVolume("the slices of its series are shifted against each other sideways")
    return order, matrix


def _refuse_uneven(ordered: Sequence[Placed], depths: np.ndarray) -> None:
    """Raise :class:`NoVolume` that names the first slice which is there twice, or the gap where some are missing."""
    steps = np.diff(depths)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    for at, step in enumerate(steps):
        here, there = _called(ordered[at], depths[at]), _called(ordered[at + 1], depths[at + 1])
        if step <= STEP_SHARE * usual:
            raise NoVolume(f"the slices of its series lie at unequal distances: {here} and {there} lie in one place")
        if step > (1 + STEP_SHARE) * usual:
            lost = round(step / usual) - 1
            gap = f"between {here} and {there}, where one is expected every {usual:.4g} mm"
            told = "one is" if lost == 1 else f"{lost} are" if lost else "a part of one is"
            raise NoVolume(f"the slices of its series lie at unequal distances: {told} missing {gap}")
    if steps.max() - steps.min() > STEP_SHARE * steps.mean():
        raise NoVolume("the slices of its series lie at unequal distances: some are missing or there twice")


def _called(one: Placed, depth: float) -> str:
    number = "" if one.number is None else f"number {one.number:g} "
    return f"{number}at {depth:.4g} mm"

"""A part of the plot of samples that a person has drawn round or given in numbers, as a browser sends it. Pure.

What is sent says where a region lies, never which samples are in it: of a large pool the plot shows some only, and
those that it does not show are within or without all the same.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from app import region_text as words
from engine.errors import UserError

MAX_SHAPES, MAX_CORNERS = 16, 400
"""Drawn in one selection at most (ours); ``scatter.js`` sends fewer."""
MAX_VALUE = 1e12
CORNER = 2
"""Numbers of a corner."""
Kind = Literal["lasso", "box", "areas", "ranges"]
Bounds = tuple[float, float, float, float]
"""Least and greatest L_GT, then of L_KL; infinite where a side is open."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the plane of L_GT (x) and L_KL (y).

    ``shapes`` are outlines, each of rings (V, 2) float64 whose last corner joins the first; where rings of a shape
    overlap there is a hole. ``bounds`` is set for ranges alone, which have no shapes.
    """

    kind: Kind
    shapes: tuple[tuple[np.ndarray, ...], ...] = ()
    bounds: Bounds | None = None

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return which of the points lie within, bool (N,); ``x`` and ``y`` are (N,), NaN lies nowhere.

        The edges of boxes and ranges belong to them.
        """
        inside = np.zeros(len(x), dtype=bool)
        if self.bounds is not None:
            return _in_box(self.bounds, x, y)
        for rings in self.shapes:
            box = box_of(rings)
            inside |= _in_box(box, x, y) if box is not None else _in_rings(rings, x, y)
        return inside


def parse(text: str | None) -> Region | None:
    """Return the region that a browser's text names, ``None`` for an empty one.

    The text is JSON: ``{"shapes": [[[x, y, x, y, ...], ...], ...]}``, or ``{"ranges": [x, x, y, y]}`` with null for an
    open side. Raises ``UserError`` ``app.region`` for everything else.
    """
    if not text or not text.strip():
        return None
    try:
        sent = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(words.BAD_WHY) from None
    if not isinstance(sent, dict) or len(sent) != 1:
        raise _refused(words.BAD_WHY)
    if "ranges" in sent:
        return of_ranges(*_four(sent["ranges"]))
    return _of_shapes(sent.get("shapes"))


def of_ranges(x_from: float | None, x_to: float | None, y_from: float | None, y_to: float | None) -> Region:
    """Return the region between these ends, ``None`` being open; ``UserError`` ``app.region`` where they are none."""
    ends = (x_from, x_to, y_from, y_to)
    if all(end is None for end in ends):
        raise _refused(words.NO_RANGE_WHY, fix=words.NO_RANGE_FIX)
    low, high, bottom, top = (_number(end) if end is not None else None for end in ends)
    for name, least, most in ((words.X_NAME, low, high), (words.Y_NAME, bottom, top)):
        if least is not None and most is not None and least > most:
            raise _refused(words.ORDER_WHY.format(name=name, low=least, high=most), fix=words.ORDER_FIX)
    opened = [
        (math.inf if at % 2 else -math.inf) if end is None else end for at, end in enumerate((low, high, bottom, top))
    ]
    return Region("ranges", bounds=(opened[0], opened[1], opened[2], opened[3]))


def text_of(region: Region) -> str:
    """Return ranges as :func:`parse` reads them; what is drawn is written in the browser."""
    assert region.bounds is not None
    return json.dumps({"ranges": [end if math.isfinite(end) else None for end in region.bounds]})


def box_of(rings: tuple[np.ndarray, ...]) -> Bounds | None:
    """Return the bounds of a shape that is an upright box, ``None`` for any other."""
    if len(rings) != 1 or len(rings[0]) != 4:
        return None
    corners, turned = rings[0], np.roll(rings[0], -1, axis=0)
    alike = corners == turned
    if not (alike.any(axis=1).all() and (alike[:, 0] == np.roll(alike[:, 1], 1)).all()):
        return None
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(right), float(bottom), float(top)


def outlines(region: Region, *, x: tuple[float, float], y: tuple[float, float]) -> list[dict[str, Any]]:
    """Return what plotly draws of a region (``layout.selections``); open sides end a little beyond ``x`` and ``y``."""
    boxes = [region.bounds] if region.bounds is not None else [box_of(rings) for rings in region.shapes]
    drawn = []
    for at, box in enumerate(boxes):
        if box is None:
            drawn.append({"type": "path", "path": "".join(_path(ring) for ring in region.shapes[at])})
            continue
        beyond = [0.02 * (end[1] - end[0] or 1.0) for end in (x, y)]
        left, right = max(box[0], x[0] - beyond[0]), min(box[1], x[1] + beyond[0])
        bottom, top = max(box[2], y[0] - beyond[1]), min(box[3], y[1] + beyond[1])
        drawn.append({"type": "rect", "x0": left, "x1": right, "y0": bottom, "y1": top})
    return [{**one, "xref": "x", "yref": "y"} for one in drawn]


def _of_shapes(sent: Any) -> Region:
    if not isinstance(sent, list) or not sent:
        raise _refused(words.BAD_WHY)
    if len(sent) > MAX_SHAPES:
        raise _refused(words.MANY_WHY.format(most=MAX_SHAPES), fix=words.MANY_FIX)
    rings = [ring for shape in sent if isinstance(shape, list) for ring in shape]
    if not all(isinstance(ring, list) for ring in rings) or sum(map(len, rings)) > MAX_CORNERS * CORNER:
        raise _refused(words.LONG_WHY.format(most=MAX_CORNERS), fix=words.MANY_FIX)
    shapes = tuple(_shape(shape) for shape in sent)
    kind: Kind = "areas"
    if len(shapes) == 1:
        kind = "lasso" if box_of(shapes[0]) is None else "box"
    return Region(kind, shapes)


def _shape(sent: Any) -> tuple[np.ndarray, ...]:
    if not isinstance(sent, list) or not sent:
        raise _refused(words.BAD_WHY)
    return tuple(_ring(ring) for ring in sent)


def _ring(sent: list[Any]) -> np.ndarray:
    if len(sent) < 3 * CORNER or len(sent) % CORNER:
        raise _refused(words.BAD_WHY)
    return np.array([_number(value) for value in sent], dtype=np.float64).reshape(-1, CORNER)


def _four(sent: Any) -> tuple[Any, Any, Any, Any]:
    if not isinstance(sent, list) or len(sent) != 4:
        raise _refused(words.BAD_WHY)
    return sent[0], sent[1], sent[2], sent[3]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_VALUE:
        raise _refused(words.NUMBER_WHY)
    return float(value)


def _in_box(bounds: Bounds, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    left, right, bottom, top = bounds
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)


def _in_rings(rings: tuple[np.ndarray, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points see an odd number of edges to their right, bool (N,)."""
    inside = np.zeros(len(x), dtype=bool)
    for ring in rings:
        for (x_0, y_0), (x_1, y_1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y_0 != y_1:
                crossed = (y_0 > y) != (y_1 > y)
                inside ^= crossed & (x < (x_1 - x_0) * (y - y_0) / (y_1 - y_0) + x_0)
    return inside


def _path(ring: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.9g},{y:.9g}" for x, y in ring) + "Z"


def _refused(why: str, *, fix: str = words.BAD_FIX) -> UserError:
    return UserError("app.region", what=words.BAD_WHAT, why=why, fix=fix)

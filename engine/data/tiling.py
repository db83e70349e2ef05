"""How a model with a square input sees an image: at once, or in parts, at its own resolution or enlarged. Torch-free.

Shape legend: H and W the image's side in pixels, K classes, h and w the model's logit grid over all of the image, g
the side of the grid of one input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from engine.data.transforms import (
    apply_window,
    content_box,
    intensity_window,
    prepare_image,
    resize_image,
    to_levels,
)

Looks = Literal["whole", "parts", "fine"]
"""How a model sees an image: at once, reduced to the side of its input; part by part, each at the image's resolution;
or in smaller parts that are enlarged by a third. Each takes longer than the one before."""
OVERLAP = 0.25
"""Least share of a part's side that it has in common with the next (ours): what a model sees of a thing that is cut
through by one part's border is whole in the other."""
ENLARGED = {"parts": 1.0, "fine": 4 / 3}
"""How many times an image is enlarged before it is cut into parts (ours). On validation images of nuclei a third more
gave as much as two thirds; twice was worse."""
MOST_LOOKS = 200
"""Looks that a site spends on finding out which way is best (ours): a minute of a small model's on two cores."""
Part = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Run = Callable[[np.ndarray], np.ndarray]
"""A model: its input (1, 3, image_px, image_px) float32 in [0, 1], its logits (K, g, g) float32."""


@dataclass(frozen=True)
class View:
    """One model input and what it shows of an image: ``place`` is its (top, left) among the parts, in their pixels.

    Row r of the image is at ``scale_hw[0] * r + offset_hw[0]`` of the input, both counted from the upper border;
    ``side`` is the input's.
    """

    place: tuple[int, int]
    scale_hw: tuple[float, float]
    offset_hw: tuple[float, float]
    size_hw: tuple[int, int]
    side: int
    stride: int

    def input_place(self, row: float, column: float) -> tuple[float, float]:
        """Return (x, y) of the input for a place of the image, both from the upper left border."""
        return (
            self.scale_hw[1] * column + self.offset_hw[1],
            self.scale_hw[0] * row + self.offset_hw[0],
        )

    def has(self, place: tuple[float, float]) -> bool:
        """Return whether the middle of a pixel (row, column) of the image is seen."""
        return all(0 <= at < self.side for at in self.input_place(place[0] + 0.5, place[1] + 0.5))

    def within(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Return what is seen of a window of the image."""
        found = []
        for part, scale, offset, most in zip((rows, columns), self.scale_hw, self.offset_hw, self.size_hw, strict=True):
            first, last = math.ceil(-offset / scale - 1e-9), math.floor((self.side - offset) / scale + 1e-9)
            found.append(slice(max(part.start, first, 0), min(part.stop, last, most)))
        return found[0], found[1]

    def part_of(self, rows: slice, columns: slice) -> Part:
        """Return where a window of the image lies on the input's grid of logits, in its cells."""
        left, top = self.input_place(rows.start, columns.start)
        right, bottom = self.input_place(rows.stop, columns.stop)
        most = float(self.side // self.stride)
        return (
            max(left / self.stride, 0.0),
            max(top / self.stride, 0.0),
            min(right / self.stride, most),
            min(bottom / self.stride, most),
        )


@dataclass(frozen=True)
class Eye:
    """What has to be known of a model's input: its side, the pixels of a logit, how images are prepared for it."""

    image_px: int
    mask_stride: int
    normalise: Literal["none", "per_image"]
    fit: Literal["squash", "letterbox"]

    def look(self, run: Run, image_HW3: np.ndarray, looks: Looks) -> np.ndarray:
        """Return the logits (K, h, w) float32 of an image that is looked at so; :meth:`part_of` says where it lies."""
        if looks == "whole":
            return run(self.whole_input(image_HW3))
        return self._in_parts(run, image_HW3, enlarged=ENLARGED[looks])

    def whole_input(self, image_HW3: np.ndarray) -> np.ndarray:
        """Return the model input (1, 3, image_px, image_px), float32 in [0, 1], exactly as training prepares it."""
        prepared_HW3 = prepare_image(image_HW3, self.image_px, self.normalise, self.fit)
        return np.ascontiguousarray(prepared_HW3.transpose(2, 0, 1)[None])

    def num_looks(self, size_hw: tuple[int, int], looks: Looks) -> int:
        """Return how many times the model looks for one image of ``size_hw``."""
        if looks == "whole":
            return 1
        return len(places(enlarged_hw(size_hw, ENLARGED[looks]), side=self.image_px, stride=self.mask_stride))

    def part_of(self, size_hw: tuple[int, int], looks: Looks) -> Part:
        """Return where an image of ``size_hw`` lies on the grid of logits, in its cells. Beyond it is padding."""
        stride = self.mask_stride
        if looks == "whole":
            box = content_box(size_hw, self.image_px, self.fit)
            left, top = box.left / stride, box.top / stride
            return left, top, left + box.width / stride, top + box.height / stride
        height, width = enlarged_hw(size_hw, ENLARGED[looks])
        return 0.0, 0.0, width / stride, height / stride

    def view_at(self, size_hw: tuple[int, int], looks: Looks, place: tuple[float, float]) -> View:
        """Return the input that shows a place (row, column) of an image best: the one whose middle is nearest."""
        if looks == "whole":
            box = content_box(size_hw, self.image_px, self.fit)
            scale_hw = (box.height / size_hw[0], box.width / size_hw[1])
            return View((0, 0), scale_hw, (box.top, box.left), size_hw, self.image_px, self.mask_stride)
        larger_hw = enlarged_hw(size_hw, ENLARGED[looks])
        scale_hw = (larger_hw[0] / size_hw[0], larger_hw[1] / size_hw[1])
        row, column = (scale * (at + 0.5) for scale, at in zip(scale_hw, place, strict=True))
        half = self.image_px / 2
        top, left = min(
            places(larger_hw, side=self.image_px, stride=self.mask_stride),
            key=lambda at: (at[0] + half - row) ** 2 + (at[1] + half - column) ** 2,
        )
        return View((top, left), scale_hw, (-top, -left), size_hw, self.image_px, self.mask_stride)

    def input_of(self, image_HW3: np.ndarray, looks: Looks, view: View) -> np.ndarray:
        """Return one model input (1, 3, image_px, image_px), as :meth:`look` gives it to the model."""
        if looks == "whole":
            return self.whole_input(image_HW3)
        padded_HW3, window, _ = self._enlarged(image_HW3, ENLARGED[looks])
        return self._part(padded_HW3, window, view.place)

    def _enlarged(
        self, image_HW3: np.ndarray, enlarged: float
    ) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
        """Return an image enlarged and padded, its window, and its enlarged size without padding."""
        levels_HW3 = to_levels(image_HW3, self.normalise)
        window = intensity_window(levels_HW3, self.normalise)
        size_hw = enlarged_hw((image_HW3.shape[0], image_HW3.shape[1]), enlarged)
        padded_HW3 = _mirrored(resize_image(levels_HW3, *size_hw), side=self.image_px, stride=self.mask_stride)
        return padded_HW3, window, size_hw

    def _part(self, padded_HW3: np.ndarray, window: tuple[float, float], place: tuple[int, int]) -> np.ndarray:
        top, left = place
        part_HW3 = apply_window(padded_HW3[top : top + self.image_px, left : left + self.image_px], window)
        return np.ascontiguousarray(part_HW3.transpose(2, 0, 1)[None])

    def _in_parts(self, run: Run, image_HW3: np.ndarray, *, enlarged: float) -> np.ndarray:
        """Return the logits of all parts, a cell for ``mask_stride`` of their pixels.

        Where squares overlap, the mean of their logits counts, weighted by the distance to the square's border. The
        window of ``per_image`` is that of the whole image: a square of empty background must not be stretched until
        its noise looks like tissue. An image that is smaller than a square goes on beside its edges as its mirror
        image.
        """
        side, stride = self.image_px, self.mask_stride
        padded_HW3, window, size_hw = self._enlarged(image_HW3, enlarged)
        grid_hw = tuple(length // stride for length in padded_HW3.shape[:2])
        weighted_Khw: np.ndarray | None = None
        weights_hw = np.zeros(grid_hw, np.float32)
        ramp = np.minimum(np.arange(1, side // stride + 1), np.arange(side // stride, 0, -1)).astype(np.float32)
        weight_gg = np.minimum.outer(ramp, ramp)
        for top, left in places(size_hw, side=side, stride=stride):
            logits_Kgg = run(self._part(padded_HW3, window, (top, left)))
            if weighted_Khw is None:
                weighted_Khw = np.zeros((len(logits_Kgg), *grid_hw), np.float32)
            rows, columns = (slice(at // stride, (at + side) // stride) for at in (top, left))
            weighted_Khw[:, rows, columns] += weight_gg * logits_Kgg
            weights_hw[rows, columns] += weight_gg
        assert weighted_Khw is not None, "an image has at least one part"
        return np.divide(weighted_Khw, weights_hw, out=weighted_Khw)


def places(size_hw: tuple[int, int], *, side: int, stride: int) -> list[tuple[int, int]]:
    """Return (top, left) of the squares that cover an image, in pixels, each a multiple of ``stride``."""
    rows, columns = (_starts(_padded(length, side=side, stride=stride), side=side, stride=stride) for length in size_hw)
    return [(top, left) for top in rows for left in columns]


def enlarged_hw(size_hw: tuple[int, int], times: float) -> tuple[int, int]:
    """Return height and width of the image that is cut into parts."""
    height, width = (max(1, round(side * times)) for side in size_hw)
    return height, width


def resize_logits(logits_Khw: np.ndarray, *, size_hw: tuple[int, int], part: Part | None = None) -> np.ndarray:
    """Return logits resized to (K, H, W), float32, bilinearly with pixel centres aligned.

    Upwards this equals torch's ``interpolate(mode="bilinear", align_corners=False)``; downwards it is antialiased.
    ``part``, in pixels of the logits and fractions of them, is what is resized; all of it without.
    """
    height, width = size_hw
    planes = [Image.fromarray(np.asarray(plane, dtype=np.float32)) for plane in logits_Khw]
    resized = [plane.resize((width, height), Image.Resampling.BILINEAR, box=part) for plane in planes]
    return np.stack([np.asarray(plane) for plane in resized])


def _starts(length: int, *, side: int, stride: int) -> list[int]:
    """Return where squares begin along one side: as few as overlap by ``OVERLAP``, evenly, the last at the end."""
    cells, wide = length // stride, side // stride
    step = max(1, int(wide * (1 - OVERLAP)))
    gaps = -(-(cells - wide) // step)
    return [stride * (number * (cells - wide) // max(gaps, 1)) for number in range(gaps + 1)]


def _padded(length: int, *, side: int, stride: int) -> int:
    return max(side, -(-length // stride) * stride)


def _mirrored(levels_HW3: np.ndarray, *, side: int, stride: int) -> np.ndarray:
    """Return the image with its mirror image below and right of it, as far as squares need."""
    more = [(0, _padded(length, side=side, stride=stride) - length) for length in levels_HW3.shape[:2]]
    return np.pad(levels_HW3, [*more, (0, 0)], mode="symmetric") if any(after for _, after in more) else levels_HW3

"""Looks at a large image in parts, at its own resolution or enlarged, so that small things stay apart. Torch-free.

Shape legend: H and W the image's side in pixels, K classes, h and w the model's logit grid over all of the image.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from engine.data.transforms import apply_window, intensity_window, resize_image, to_levels
from engine.errors import UserError
from export.manifest import Looks
from export.runtime import BundleSession

OVERLAP = 0.25
"""Least share of a part's side that it has in common with the next (ours): what a model sees of a thing that is cut
through by one part's border is whole in the other."""
ENLARGED = {"parts": 1.0, "fine": 4 / 3}
"""How many times an image is enlarged before it is cut into parts (ours). On validation images of nuclei a third more
gave as much as two thirds; twice was worse."""


def looks_of(name: str) -> Looks:
    """Return a way of looking by its name; raise ``UserError`` ``looks.unknown`` for another."""
    if name not in get_args(Looks):
        raise UserError(
            "looks.unknown",
            what=f"'{name[:40]}' is no way of looking at an image.",
            why="A model sees an image as a 'whole', in 'parts' at full resolution, or in smaller, 'fine' ones.",
            fix="Name one of the three, or none: the model then does what it is best at.",
        )
    return name  # type: ignore[return-value]  # one of these


def looking(session: BundleSession, looks: Looks) -> BundleSession:
    """Return a session that looks at images so."""
    return session.whole if looks == "whole" else TiledSession(session, enlarged=ENLARGED[looks])


class TiledSession(BundleSession):
    """A bundle whose model is given squares of ``image_px`` of the image's pixels, one after the other.

    The pixels are the image's own, or, with ``enlarged`` above 1, those of the image enlarged so many times.

    Where squares overlap, the mean of their logits counts, weighted by the distance to the square's border. The window
    of ``per_image`` is that of the whole image: a square of empty background must not be stretched until its noise
    looks like tissue. An image that is smaller than a square goes on beside its edges as its mirror image. Masks and
    probabilities are what :class:`~export.runtime.BundleSession` makes of the logits.
    """

    def __init__(self, session: BundleSession, *, enlarged: float = 1.0) -> None:
        super().__init__(session.manifest, session.inference)
        self._whole, self._enlarged = session.whole, enlarged

    @property
    def whole(self) -> BundleSession:
        """Return the session of the same model that looks at images as a whole."""
        return self._whole

    @property
    def part_px(self) -> int:
        """Return the side of a part, in pixels of the image."""
        return round(self.manifest.image_px / self._enlarged)

    def look(self, image_HW3: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the logits (K, h, w) float32 of all parts, a cell for ``mask_stride`` of their pixels, and the ms."""
        manifest = self.manifest
        side, stride = manifest.image_px, manifest.mask_stride
        levels_HW3 = to_levels(image_HW3, manifest.normalise)
        window = intensity_window(levels_HW3, manifest.normalise)
        size_hw = self._pixels((image_HW3.shape[0], image_HW3.shape[1]))
        padded_HW3 = _mirrored(resize_image(levels_HW3, *size_hw), side=side, stride=stride)
        height, width = (length // stride for length in padded_HW3.shape[:2])
        weighted_Khw = np.zeros((len(manifest.classes), height, width), np.float32)
        weights_hw = np.zeros((height, width), np.float32)
        ramp = np.minimum(np.arange(1, side // stride + 1), np.arange(side // stride, 0, -1)).astype(np.float32)
        weight_gg = np.minimum.outer(ramp, ramp)
        inference_ms = 0.0
        for top, left in places(size_hw, side=side, stride=stride):
            part_HW3 = apply_window(padded_HW3[top : top + side, left : left + side], window)
            part_13HW = np.ascontiguousarray(part_HW3.transpose(2, 0, 1)[None])
            logits_Kgg, part_ms = self.run(part_13HW)
            inference_ms += part_ms
            rows, columns = (slice(at // stride, (at + side) // stride) for at in (top, left))
            weighted_Khw[:, rows, columns] += weight_gg * logits_Kgg
            weights_hw[rows, columns] += weight_gg
        return np.divide(weighted_Khw, weights_hw, out=weighted_Khw), inference_ms

    def num_looks(self, size_hw: tuple[int, int]) -> int:
        """Return how many parts an image of ``size_hw`` has."""
        return len(places(self._pixels(size_hw), side=self.manifest.image_px, stride=self.manifest.mask_stride))

    def part_of(self, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return where the image lies on the grid: left, top, right, bottom. Beyond it is what was mirrored."""
        height, width = self._pixels(size_hw)
        return 0.0, 0.0, width / self.manifest.mask_stride, height / self.manifest.mask_stride

    def _pixels(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the image that is cut into parts."""
        height, width = (max(1, round(side * self._enlarged)) for side in size_hw)
        return height, width


def places(size_hw: tuple[int, int], *, side: int, stride: int) -> list[tuple[int, int]]:
    """Return (top, left) of the squares that cover an image, in pixels, each a multiple of ``stride``."""
    rows, columns = (_starts(_padded(length, side=side, stride=stride), side=side, stride=stride) for length in size_hw)
    return [(top, left) for top in rows for left in columns]


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

"""Images and mask pictures of a site at the side of its generator, read once: what Pix2Pix and DDPM train on.

Shape legend: N images, B batch, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.generation.conditioning import mask_condition
from engine.generation.images import ImageSource, batch_indices, read_scaled

CONDITION_CHANNELS = 3
"""Of a mask picture, whatever the classes: a generator of one data set has the shapes of any other's."""


class ConditionImages:
    """The pairs of one site, in memory, and its batches."""

    def __init__(self, images: ImageSource, *, px: int, batch_size: int, seed: int, site: str) -> None:
        pairs = list(read_scaled(images, px, device=torch.device("cpu")))
        self._image_N3HW = torch.cat([image for image, _ in pairs])
        self._condition_N3HW = torch.cat([mask_condition(mask) for _, mask in pairs]) * 2.0 - 1.0
        self._batch_size, self._seed, self._site = batch_size, seed, site

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return images and mask pictures (B, 3, H, W), both in [-1, 1], of batch ``number``."""
        chosen = batch_indices(
            number, count=len(self._image_N3HW), size=self._batch_size, seed=self._seed, site=self._site
        )
        return self._image_N3HW[chosen], self._condition_N3HW[chosen]

"""What generators read of a site's images, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.data.transforms import mask_to_grid
from engine.seeding import numpy_generator

READ_BATCH = 8
"""Images that are read and encoded at once."""


class ImageSource(Protocol):
    """What is read of a site's images: :class:`engine.data.datasets.ImageSet` has it."""

    def __len__(self) -> int:
        """Return N."""

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, 3, H, W) float32 in [0, 1] and masks (B, K, H, W) uint8 in {0, 1}."""


def batch_indices(number: int, *, count: int, size: int, seed: int, site: str) -> np.ndarray:
    """Return the images of batch ``number``: passes over the site in an order shuffled anew for each pass."""
    positions = np.arange(number * size, (number + 1) * size)
    orders = {
        epoch: numpy_generator(seed, "generator", site, "order", int(epoch)).permutation(count)
        for epoch in np.unique(positions // count)
    }
    return np.array([orders[position // count][position % count] for position in positions])


def read_scaled(images: ImageSource, px: int, *, device: torch.device) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Give images (B, 3, px, px) in [-1, 1] on ``device`` and masks (B, K, px, px) uint8, in order."""
    for start in range(0, len(images), READ_BATCH):
        image, mask = images.batch(np.arange(start, min(start + READ_BATCH, len(images))))
        image_B3HW = torch.from_numpy(image).to(device) * 2.0 - 1.0
        if image_B3HW.shape[-1] != px:
            image_B3HW = functional.interpolate(image_B3HW, size=(px, px), mode="bilinear", antialias=True)
        yield image_B3HW, mask_to_grid(mask, px)

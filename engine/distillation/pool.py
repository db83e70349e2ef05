"""The pairs that SAM and TinySAM learn from: the synthetic set, or real images for the bound of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from engine.config import DataConfig
from engine.data.datasets import ImageSet, mask_to_grid
from engine.data.transforms import augment_batch, normalise_image
from engine.errors import UserError
from engine.types import SyntheticSample

MAX_MASK_CLASSES = 3
"""Classes that one mask file (and one ControlNet condition image) can carry: its red, green and blue planes."""


def encode_mask(mask_KHW: np.ndarray) -> Image.Image:
    """Return a mask {0, 1} as a picture: grey for one class, else a plane a class (the third stays black for two)."""
    if len(mask_KHW) > MAX_MASK_CLASSES:
        raise UserError(
            "data.too_many_classes",
            what=f"The masks have {len(mask_KHW)} classes.",
            why=f"A generator's condition image has {MAX_MASK_CLASSES} planes, one a class.",
            fix=f"Choose at most {MAX_MASK_CLASSES} of them with data.classes.",
        )
    if len(mask_KHW) == 1:
        return Image.fromarray(mask_KHW[0].astype(np.uint8) * 255)
    planes = np.zeros((3, *mask_KHW.shape[1:]), dtype=np.uint8)
    planes[: len(mask_KHW)] = mask_KHW * 255
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def decode_mask(picture: Image.Image, *, num_classes: int) -> np.ndarray:
    """Return the mask (K, H, W), uint8 {0, 1}, that :func:`encode_mask` wrote."""
    values = np.asarray(picture)
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)[:num_classes]
    return (planes > 127).astype(np.uint8)


class SyntheticPool:
    """Generated pairs read from the run's folder, at the size that the models take.

    Images are resized bilinearly to ``data.image_px`` (methods 1.11) and normalised like real ones; they stay in memory
    as uint8: 3 * image_px^2 bytes each.
    """

    def __init__(
        self, samples: Sequence[SyntheticSample], *, run_dir: Path, data: DataConfig, num_classes: int
    ) -> None:
        self.names = tuple(sample.sample_id for sample in samples)
        self._data = data
        size = (data.image_px, data.image_px)
        self._images = np.empty((len(samples), *size, 3), dtype=np.uint8)
        self._masks = []
        for i, sample in enumerate(samples):
            with Image.open(run_dir / sample.image_path) as picture:
                self._images[i] = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))
            with Image.open(run_dir / sample.mask_path) as picture:
                self._masks.append(decode_mask(picture, num_classes=num_classes))

    def __len__(self) -> int:
        return len(self.names)

    def grid_batch(
        self, indices: np.ndarray, *, grid_px: int, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image_B3HW float32 [0, 1] and mask_BKhw uint8 on the grid; augmented when ``rng`` is given."""
        images = np.stack([normalise_image(self._images[i], mode=self._data.normalise) for i in indices])
        image_B3HW = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        mask_BKHW = np.stack([self._masks[i] for i in indices])
        if rng is not None:
            mask_BKHW = mask_to_grid(mask_BKHW, self._data.image_px)
            image_B3HW, mask_BKHW = augment_batch(image_B3HW, mask_BKHW, mode=self._data.augment, rng=rng)
        return image_B3HW, mask_to_grid(mask_BKHW, grid_px)


class RealPool:
    """Several sites' real images as one pool: the bound that tells the generator's share of what is missing."""

    def __init__(self, image_sets: Sequence[ImageSet]) -> None:
        self._sets = tuple(image_sets)
        self._places = [(s, i) for s, image_set in enumerate(self._sets) for i in range(len(image_set))]
        self.names = tuple(f"{s}/{self._sets[s].names[i]}" for s, i in self._places)

    def __len__(self) -> int:
        return len(self._places)

    def grid_batch(
        self, indices: np.ndarray, *, grid_px: int, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image_B3HW float32 [0, 1] and mask_BKhw uint8 on the grid; augmented when ``rng`` is given."""
        pairs = []
        for index in indices:
            image_set, i = self._places[index]
            pairs.append(self._sets[image_set].batch(np.array([i]), rng=rng))
        images, masks = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return images, mask_to_grid(masks, grid_px)

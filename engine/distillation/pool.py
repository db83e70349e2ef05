"""The synthetic set as a pool: generated pairs read, resized, normalised and augmented like real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.config import DataConfig
from engine.data.imagesets import ImageSet, PixelCache
from engine.errors import UserError
from engine.types import MAX_MASK_CLASSES, SyntheticSample

POOL_CACHE_BYTES = 1 << 30


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


@dataclass(frozen=True)
class SyntheticItem:
    """A generated pair on disk, in the form that ``ImageSet`` reads; the pair is its own patient."""

    site: str
    name: str
    image: Path
    mask: Path
    num_classes: int
    split: None = None

    @property
    def group(self) -> str:
        """Return the pair's own name: no patient is behind it."""
        return self.name

    @property
    def has_mask(self) -> bool:
        """Return True: it was drawn from one."""
        return True

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image (H, W, 3) uint8 and mask (K, H, W) uint8 in {0, 1}."""
        with Image.open(self.image) as picture:
            image = np.asarray(picture.convert("RGB"))
        with Image.open(self.mask) as picture:
            mask = decode_mask(picture, num_classes=self.num_classes)
        return image, mask

    def picture(self) -> np.ndarray:
        """Return the image alone."""
        return self.read()[0]


def synthetic_pool(
    samples: Sequence[SyntheticSample], *, run_dir: Path, data: DataConfig, num_classes: int
) -> ImageSet:
    """Return the generated pairs as a set named by sample id, bilinear to ``data.image_px`` (methods 1.11)."""
    items = tuple(
        SyntheticItem(s.site, s.sample_id, run_dir / s.image_path, run_dir / s.mask_path, num_classes) for s in samples
    )
    planes = tuple(range(num_classes))
    cache = PixelCache(budget_bytes=POOL_CACHE_BYTES)
    return ImageSet(items, data.image_px, planes, data.normalise, data.augment, cache, data.fit)

"""The public labelled set as arrays, the form in which it goes from the server to the sites; the images stay the same.

``image.00000`` is (1 or 3, h, w) uint8 at the model's size, without padding; ``mask.00000`` its (K, h, w) as bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.config import DataConfig
from engine.data.imagesets import CACHE_BYTES, ImageSet, PixelCache
from engine.data.public import FILES, PATIENTS, PublicSet
from engine.data.transforms import content_box

IMAGE, MASK = "image.", "mask."


@dataclass(frozen=True, eq=False)
class ArrayItem:
    """A public image with its mask, in memory."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    site: str = "public"
    split: None = None
    has_mask: bool = True

    @property
    def group(self) -> str:
        """Return the image's name."""
        return self.name

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image (h, w, 3) uint8 and mask (K, h, w) uint8 in {0, 1}."""
        return self.picture(), self.mask

    def picture(self) -> np.ndarray:
        """Return the image alone."""
        return np.broadcast_to(self.image, (3, *self.image.shape[1:])).transpose(1, 2, 0)


def pack_public(public: PublicSet) -> dict[str, np.ndarray]:
    """Return images, masks and digests of the public set as arrays that may cross a border."""
    images, arrays = public.images, public.digests()
    for index in range(len(images)):
        levels, mask = images.read(index)
        is_grey = np.array_equal(levels[0], levels[1]) and np.array_equal(levels[0], levels[2])
        box = content_box((levels.shape[1], levels.shape[2]), images.image_px, images.fit)
        arrays[f"{IMAGE}{index:05d}"] = np.ascontiguousarray(levels[:1] if is_grey else levels)
        arrays[f"{MASK}{index:05d}"] = np.packbits(box.of(mask))
    return arrays


def unpack_public(arrays: Mapping[str, np.ndarray], *, config: DataConfig, num_classes: int) -> ImageSet:
    """Return the images that :func:`pack_public` has packed, to be read and augmented as the run's settings say."""
    items = []
    for name in sorted(key for key in arrays if key.startswith(IMAGE)):
        image, number = arrays[name], name.removeprefix(IMAGE)
        shape = (num_classes, *image.shape[1:])
        bits = np.unpackbits(arrays[f"{MASK}{number}"], count=int(np.prod(shape)))
        items.append(ArrayItem(number, image, bits.reshape(shape)))
    cache, planes = PixelCache(budget_bytes=CACHE_BYTES), tuple(range(num_classes))
    return ImageSet(tuple(items), config.image_px, planes, config.normalise, config.augment, cache, config.fit)


def digests_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what :func:`engine.data.public.refuse_shared` compares with."""
    return {name: arrays[name] for name in (PATIENTS, FILES)}

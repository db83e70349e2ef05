"""Batches of images and masks at the model's size, read when first asked for and kept as 8 bits within a budget."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from engine.data import nnunet_augmentation, styles
from engine.data.augmentation import Augment, Change, draw_change, place, tone_curve
from engine.data.sources import Item
from engine.data.transforms import (
    PADDING,
    Box,
    Fit,
    Normalise,
    apply_window,
    content_box,
    fit_mask,
    intensity_window,
    resize_image,
    to_levels,
)
from engine.errors import UserError

CACHE_BYTES = 1 << 30
"""Memory that decoded images may take; 1 GiB holds 4,000 colour images at 256 pixels, 300 at 1024."""
LEVELS = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class Pixels:
    """One image at the model's size: levels (1 or 3, h, w) uint8 inside ``box``, its window, and its mask's bits."""

    levels: np.ndarray
    window: tuple[float, float]
    mask_bits: np.ndarray
    mask_shape: tuple[int, int, int]
    box: Box

    @property
    def num_bytes(self) -> int:
        """Return the memory it takes."""
        return self.levels.nbytes + self.mask_bits.nbytes

    def mask(self) -> np.ndarray:
        """Return the mask (K, H, W) uint8 in {0, 1}."""
        count = int(np.prod(self.mask_shape))
        return np.unpackbits(self.mask_bits, count=count).reshape(self.mask_shape)


class PixelCache:
    """Keeps decoded images until ``budget_bytes`` are full; what comes later is read each time.

    Nothing is ever thrown out: an epoch visits every image once, and under such a visit the last-used rule would throw
    out each image just before it is needed again.
    """

    def __init__(self, *, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._kept: dict[Item, Pixels] = {}
        self._lock = threading.Lock()

    def get(
        self,
        item: Item,
        *,
        image_px: int,
        normalise: Normalise,
        planes: tuple[int, ...],
        fit: Fit = "squash",
        labelled: bool = True,
    ) -> Pixels:
        """Return the pixels of ``item``, from memory where they are; one cache serves one set of settings."""
        pixels = self._kept.get(item)
        if pixels is None:
            planes = planes if labelled else ()
            pixels = read_pixels(item, image_px=image_px, normalise=normalise, planes=planes, fit=fit)
            with self._lock:
                if item not in self._kept and self.used_bytes + pixels.num_bytes <= self.budget_bytes:
                    self._kept[item] = pixels
                    self.used_bytes += pixels.num_bytes
        return pixels


def read_pixels(
    item: Item, *, image_px: int, normalise: Normalise, planes: tuple[int, ...], fit: Fit = "squash"
) -> Pixels:
    """Read ``item`` and bring it to the model's size; ``planes`` picks and orders the mask's classes.

    Without planes its mask, if there is one, is not looked at.
    """
    image, mask = item.read() if planes else (item.picture(), None)
    box = content_box(image.shape[:2], image_px, fit)
    levels = to_levels(resize_image(image, box.height, box.width), normalise)
    window = intensity_window(levels, normalise)
    is_grey = np.array_equal(levels[..., 0], levels[..., 1]) and np.array_equal(levels[..., 0], levels[..., 2])
    channels = levels[..., :1] if is_grey else levels
    if mask is None:
        bits, shape = np.empty(0, np.uint8), (0, image_px, image_px)
    else:
        mask = fit_mask(mask[list(planes)], image_px, box)
        bits, shape = np.packbits(mask), mask.shape
    return Pixels(np.ascontiguousarray(channels.transpose(2, 0, 1)), window, bits, shape, box)


@dataclass(frozen=True)
class ImageSet:
    """Images with masks of one site and one purpose.

    Attributes
    ----------
    items : where each image comes from.
    image_px : side of what ``batch`` returns.
    planes : indices of the dataset's classes that are used, in order.
    cache : shared by the sets of a federation.
    fit : how pictures that are not square become so.
    labelled : whether masks may be read; where not, whoever asks for one is refused.
    """

    items: tuple[Item, ...]
    image_px: int
    planes: tuple[int, ...]
    normalise: Normalise = "none"
    augment: Augment = "none"
    cache: PixelCache = field(default_factory=lambda: PixelCache(budget_bytes=0), repr=False, compare=False)
    fit: Fit = "squash"
    labelled: bool = True

    def __len__(self) -> int:
        """Return N."""
        return len(self.items)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the images' names, unique within a site."""
        return tuple(item.name for item in self.items)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Return the patient of each image."""
        return tuple(item.group for item in self.items)

    @property
    def num_classes(self) -> int:
        """Return K."""
        return len(self.planes)

    def batch(
        self, indices: Sequence[int] | np.ndarray, *, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image_B3HW float32 in [0, 1] and mask_BKHW uint8 in {0, 1}, H = W = image_px.

        Normalised as the configuration says; augmented only when ``rng`` is given, with draws in the order of
        ``indices``. Raises ``UserError`` that names site and file where a file cannot be used.
        """
        self._require_masks()
        side = self.image_px
        image = np.full((len(indices), 3, side, side), PADDING, np.float32)
        mask = np.empty((len(indices), len(self.planes), side, side), np.uint8)
        for slot, index in enumerate(indices):
            pixels = self._pixels(int(index))
            change = None if rng is None else draw_change(rng, self.augment)
            if change is None:
                inside = pixels.box.of(image[slot])
                apply_window(pixels.levels, pixels.window, out=inside[: len(pixels.levels)])
                inside[len(pixels.levels) :] = inside[0]
                mask[slot] = pixels.mask()
                if rng is not None and self.augment == "nnunet":
                    image[slot], mask[slot] = nnunet_augmentation.augment(image[slot], mask[slot], rng)
            else:
                image[slot], mask[slot] = _changed(pixels, change)
                if rng is not None and self.augment == "flips_styles":
                    is_padded = self.fit == "letterbox"
                    image[slot] = styles.apply_style(image[slot], styles.draw_style(rng), rng=rng, is_padded=is_padded)
        return image, mask

    def read_mask(self, index: int) -> np.ndarray:
        """Return one mask (K, image_px, image_px) uint8 in {0, 1}."""
        self._require_masks()
        return self._pixels(index).mask()

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return image_B3HW as ``batch`` does, not augmented, of images that may have no masks."""
        side = self.image_px
        image = np.full((len(indices), 3, side, side), PADDING, np.float32)
        for slot, index in enumerate(indices):
            pixels = self._pixels(int(index))
            inside = pixels.box.of(image[slot])
            apply_window(pixels.levels, pixels.window, out=inside[: len(pixels.levels)])
            inside[len(pixels.levels) :] = inside[0]
        return image

    def content(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return where the images are picture and not padding: uint8 (B, 1, image_px, image_px), 1 inside."""
        return np.stack([self._pixels(int(index)).box.mask(self.image_px)[None] for index in indices])

    def read_levels(self, index: int) -> np.ndarray:
        """Return one image (3, h, w) uint8 at the model's size, without padding, not normalised; may be a view."""
        levels = self._pixels(index).levels
        return np.broadcast_to(levels, (3, *levels.shape[1:]))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what ``read_levels`` and ``read_mask`` do, of one image decoded once; no plane without masks."""
        pixels = self._pixels(index)
        return np.broadcast_to(pixels.levels, (3, *pixels.levels.shape[1:])), pixels.mask()

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """Return the set of ``indices`` in that order, on the same cache."""
        return replace(self, items=tuple(self.items[int(index)] for index in indices))

    def _require_masks(self) -> None:
        if not self.labelled:
            raise UserError(
                "data.no_labels",
                what=f"A mask was asked for of the images of '{self.items[0].site if self.items else ''}', which are "
                "without labels in this run (data.site_labels = 'ignored').",
                why="Nothing is learnt from a site's masks where the run says that there are none.",
                fix="Set data.site_labels = 'read', or choose a method whose sites train without masks, as samfed.",
            )

    def _pixels(self, index: int) -> Pixels:
        return self.cache.get(
            self.items[index],
            image_px=self.image_px,
            normalise=self.normalise,
            planes=self.planes,
            fit=self.fit,
            labelled=self.labelled,
        )


def pool_sets(sets: Sequence[ImageSet]) -> ImageSet:
    """Return one set of all images of ``sets`` (of one federation), in order; names may repeat across sites."""
    return replace(sets[0], items=tuple(item for one in sets for item in one.items))


def _changed(pixels: Pixels, change: Change) -> tuple[np.ndarray, np.ndarray]:
    # 256 levels pass through the window and the tone curve once, not every pixel
    curve = apply_window(LEVELS, pixels.window)
    if change.is_tonal:
        curve = tone_curve(curve, change)
    mask = pixels.mask()
    image = np.full((len(pixels.levels), *mask.shape[1:]), PADDING, np.float32)  # padding keeps its value in any tone
    pixels.box.of(image)[...] = np.take(curve, pixels.levels)
    return place(image, mask, change)

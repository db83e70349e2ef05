"""Random changes of training images: flips and quarter turns, tone, hue, and a mild crop (ours; the paper has none)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Augment = Literal["none", "flips", "flips_colour", "flips_styles", "nnunet"]
"""No :class:`Change` are nnU-Net's (``engine.data.nnunet_augmentation``) and styles (``engine.data.styles``)."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. 601 weights: a hue turn keeps this brightness."""


@dataclass(frozen=True)
class Change:
    """One image's draw. ``crop`` is (top, left, side) as shares of the image; tone is None where colours stay."""

    flip_rows: bool
    flip_columns: bool
    transpose: bool
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    hue_rad: float = 0.0
    crop: tuple[float, float, float] | None = None

    @property
    def is_tonal(self) -> bool:
        """Return whether intensities change."""
        return (self.gamma, self.contrast, self.brightness) != (1.0, 1.0, 0.0)


def draw_change(rng: np.random.Generator, kind: Augment) -> Change | None:
    """Return a random change of ``kind``, or None for "none" and "nnunet" (nothing is drawn then).

    flips: each of the eight symmetries of the square is equally likely. flips_colour adds gamma exp(±0.25), contrast
    0.8 to 1.25, brightness ±0.1, a hue turn of ±18 degrees, and a square crop of side 0.8 to 1 stretched back;
    flips_styles begins with the same.
    """
    if kind in ("none", "nnunet"):
        return None
    flip_rows, flip_columns, transpose = (bool(bit) for bit in rng.integers(0, 2, size=3))
    if kind == "flips":
        return Change(flip_rows, flip_columns, transpose)
    gamma, contrast, brightness, turn, side, top, left = rng.uniform(-1, 1, size=7)
    side = 0.9 + 0.1 * side
    return Change(
        flip_rows,
        flip_columns,
        transpose,
        gamma=float(np.exp(0.25 * gamma)),
        contrast=float(np.exp(np.log(1.25) * contrast)),
        brightness=0.1 * float(brightness),
        hue_rad=float(np.deg2rad(18) * turn),
        crop=((1 - side) * (top + 1) / 2, (1 - side) * (left + 1) / 2, side),
    )


def tone_curve(values: np.ndarray, change: Change) -> np.ndarray:
    """Return ``values`` (float32 in [0, 1]) after gamma, contrast about 0.5 and brightness, clipped to [0, 1]."""
    bent = np.power(values, np.float32(change.gamma))
    return np.clip((bent - 0.5) * change.contrast + 0.5 + change.brightness, 0.0, 1.0).astype(np.float32)


def turn_hue(image_3HW: np.ndarray, angle_rad: float) -> np.ndarray:
    """Return ``image_3HW`` (float32 in [0, 1]) with its chroma turned about the grey axis; luma and grey stay."""
    grey = np.tile(LUMA, (3, 1))
    axis = np.float32(1 / np.sqrt(3))
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32)
    even = np.full((3, 3), 1 / 3, np.float32)
    cosine, sine = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    rotation = cosine * np.eye(3, dtype=np.float32) + sine * cross + (1 - cosine) * even
    chroma = np.eye(3, dtype=np.float32) - grey
    matrix = grey + chroma @ rotation @ chroma
    turned = matrix @ image_3HW.reshape(3, -1)
    return np.clip(turned, 0.0, 1.0, out=turned).reshape(image_3HW.shape)


def crop_image(image_CHW: np.ndarray, crop: tuple[float, float, float]) -> np.ndarray:
    """Return the crop of ``image_CHW`` (float32) stretched back to H x W, bilinear."""
    top, left, side = crop
    height, width = image_CHW.shape[1:]
    box = (left * width, top * height, (left + side) * width, (top + side) * height)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR, box=box) for plane in image_CHW]
    return np.stack([np.asarray(plane) for plane in planes])


def crop_mask(mask_KHW: np.ndarray, crop: tuple[float, float, float]) -> np.ndarray:
    """Return the crop of ``mask_KHW`` (uint8) stretched back to H x W, nearest."""
    top, left, side = crop
    rows = np.rint(_positions(mask_KHW.shape[1], top, side)).astype(int)
    columns = np.rint(_positions(mask_KHW.shape[2], left, side)).astype(int)
    return np.take(mask_KHW[:, rows], columns, axis=2)


def move(array_CHW: np.ndarray, change: Change) -> np.ndarray:
    """Return a view of a square ``array_CHW`` under the change's flips and transposition."""
    if change.flip_rows:
        array_CHW = array_CHW[:, ::-1]
    if change.flip_columns:
        array_CHW = array_CHW[:, :, ::-1]
    return array_CHW.swapaxes(1, 2) if change.transpose else array_CHW


def augment_batch(
    image_B3HW: np.ndarray, mask_BKHW: np.ndarray, *, mode: Augment, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return changed copies of image_B3HW (float32 in [0, 1], square) and mask_BKHW (uint8), one draw an image."""
    images, masks = np.array(image_B3HW), np.array(mask_BKHW)
    for slot in range(len(images)):
        change = draw_change(rng, mode)
        if change is not None:
            curved = tone_curve(images[slot], change) if change.is_tonal else images[slot]
            images[slot], masks[slot] = place(curved, masks[slot], change)
    return images, masks


def place(image_CHW: np.ndarray, mask_KHW: np.ndarray, change: Change) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask after all of ``change`` but the tone curve; may be views."""
    if change.hue_rad and len(image_CHW) == 3:
        image_CHW = turn_hue(image_CHW, change.hue_rad)
    if change.crop is not None:
        image_CHW, mask_KHW = crop_image(image_CHW, change.crop), crop_mask(mask_KHW, change.crop)
    # a flipped view of the target's own memory must not be written back onto it
    return np.ascontiguousarray(move(image_CHW, change)), np.ascontiguousarray(move(mask_KHW, change))


def _positions(size_px: int, start: float, side: float) -> np.ndarray:
    centres = start * size_px + (np.arange(size_px) + 0.5) * side - 0.5
    return np.clip(centres, 0, size_px - 1)

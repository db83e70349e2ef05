"""nnU-Net's changes of training images, in its order, with its chances and ranges (defaults of its version 2, 2-D).

It changes images of mean 0 and deviation 1; these are in [0, 1], so means and deviations are the image's own here, and
the result is cut to [0, 1]. Another difference: channels are changed alike, so that grey images stay grey. There is no
oversampling of foreground, and no crop of a larger image: the side is ``data.image_px``.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

ROTATION_CHANCE, SCALING_CHANCE = 0.2, 0.2
SCALES = (0.7, 1.4)
NOISE_CHANCE, NOISE_VARIANCE = 0.1, 0.1
BLUR_CHANCE, BLUR_SIGMA_PX = 0.2, (0.5, 1.0)
BRIGHTNESS_CHANCE, BRIGHTNESS = 0.15, (0.75, 1.25)
CONTRAST_CHANCE, CONTRAST = 0.15, (0.75, 1.25)
COARSE_CHANCE, COARSE_SCALES = 0.25, (0.5, 1.0)
INVERTED_GAMMA_CHANCE, GAMMA_CHANCE, GAMMAS = 0.1, 0.3, (0.7, 1.5)
CHANNEL_CHANCE = 0.5
"""Chance of blur and of coarseness for a channel that was chosen; for all channels together here."""


def augment(image_CHW: np.ndarray, mask_KHW: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return changed copies of a square image, float32 in [0, 1], and of its mask, uint8 in {0, 1}."""
    image, mask = turn_and_scale(
        image_CHW,
        mask_KHW,
        angle_rad=rng.uniform(-np.pi, np.pi) if rng.random() < ROTATION_CHANCE else 0.0,
        scale=_scale(rng) if rng.random() < SCALING_CHANCE else 1.0,
    )
    if rng.random() < NOISE_CHANCE:
        deviation = np.sqrt(rng.uniform(0, NOISE_VARIANCE)) * image.std()
        image = image + deviation * rng.standard_normal((1, *image.shape[1:]))
    if rng.random() < BLUR_CHANCE * CHANNEL_CHANCE:
        image = ndimage.gaussian_filter(image, (0, *2 * (rng.uniform(*BLUR_SIGMA_PX),)))
    if rng.random() < BRIGHTNESS_CHANCE:
        image = stretch(image, rng.uniform(*BRIGHTNESS))
    if rng.random() < CONTRAST_CHANCE:
        image = np.clip(stretch(image, rng.uniform(*CONTRAST)), image.min(), image.max())
    if rng.random() < COARSE_CHANCE * CHANNEL_CHANCE:
        image = coarsen(image, rng.uniform(*COARSE_SCALES))
    if rng.random() < INVERTED_GAMMA_CHANCE:
        image = 1 - bend(1 - image, rng.uniform(*GAMMAS))
    if rng.random() < GAMMA_CHANCE:
        image = bend(image, rng.uniform(*GAMMAS))
    for axis in (1, 2):
        if rng.random() < 0.5:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    return np.ascontiguousarray(np.clip(image, 0, 1), np.float32), np.ascontiguousarray(mask)


def turn_and_scale(
    image_CHW: np.ndarray, mask_KHW: np.ndarray, *, angle_rad: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return both turned about the centre, and magnified ``1 / scale`` times: bilinear with the channel's mean outside,
    and nearest with background outside."""
    if angle_rad == 0 and scale == 1:
        return image_CHW, mask_KHW
    cosine, sine = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    centre = (np.array(image_CHW.shape[1:]) - 1) / 2
    offset = centre - matrix @ centre
    image = [ndimage.affine_transform(c, matrix, offset, order=1, cval=float(c.mean())) for c in image_CHW]
    mask = [ndimage.affine_transform(plane, matrix, offset, order=0, cval=0) for plane in mask_KHW]
    return np.stack(image), np.stack(mask)


def stretch(image_CHW: np.ndarray, factor: float) -> np.ndarray:
    """Return the image with its distance from its mean multiplied."""
    mean = image_CHW.mean()
    return mean + (image_CHW - mean) * factor


def coarsen(image_CHW: np.ndarray, scale: float) -> np.ndarray:
    """Return the image as if taken at ``scale`` of its resolution: fewer pixels by nearest, stretched back bilinear."""
    side = image_CHW.shape[-1]
    small = max(1, round(side * scale))
    chosen = ((np.arange(small) + 0.5) * side / small).astype(int)
    coarse = image_CHW[:, chosen][:, :, chosen]
    places = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
    grid = np.meshgrid(places, places, indexing="ij")
    return np.stack([ndimage.map_coordinates(channel, grid, order=1) for channel in coarse])


def bend(image_CHW: np.ndarray, gamma: float) -> np.ndarray:
    """Return the image under a gamma curve between its extremes, with the mean and deviation that it had."""
    low, span = image_CHW.min(), np.ptp(image_CHW)
    if span == 0:
        return image_CHW
    bent = ((image_CHW - low) / span) ** gamma
    return (bent - bent.mean()) * (image_CHW.std() / bent.std()) + image_CHW.mean()


def _scale(rng: np.random.Generator) -> float:
    """Smaller and larger are equally likely, as in nnU-Net."""
    return float(rng.uniform(SCALES[0], 1) if rng.random() < 0.5 else rng.uniform(1, SCALES[1]))

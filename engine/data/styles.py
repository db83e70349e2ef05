"""Strong random changes of how an image looks, never of where things are: another scanner, camera or stain (ours).

Torch-free. Grey images stay grey, so that CT and MR get no colours that their kind does not have. The widths were
chosen on phantom fundus images alone (unseen site ``handheld_camera``, seed 1337).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from engine.data.augmentation import turn_hue
from engine.data.transforms import PADDING

GAMMA_LOG, CONTRAST_LOG, BRIGHTNESS, GAIN_LOG, HUE_RAD = 0.7, float(np.log(1.9)), 0.15, 0.3, float(np.pi / 2)
"""Half widths of uniform draws: log gamma, log contrast about 0.5, brightness, log gain of a channel, turn of hue."""
BLUR_SHARE, BLUR_MOST = 0.3, 1.5 / 128
"""Share of the images that are blurred, and the largest standard deviation as a share of the side."""
NOISE_SHARE, NOISE_MOST = 0.3, 0.08
"""Share of the images that get Gaussian noise, and its largest standard deviation."""


@dataclass(frozen=True)
class Style:
    """One image's draw; ``gains`` of red, green and blue and ``hue_rad`` are for colour images alone."""

    gamma: float
    contrast: float
    brightness: float
    gains: tuple[float, float, float]
    hue_rad: float
    blur: float
    """Standard deviation as a share of the image's side; 0 is none."""
    noise: float
    """Standard deviation in units of the image's range; 0 is none."""


def draw_style(rng: np.random.Generator) -> Style:
    """Return a random style; the same number of draws whatever comes out."""
    gamma, contrast, brightness, red, green, blue, hue, blur, noise = rng.uniform(-1, 1, size=9)
    is_blurred, is_noisy = rng.uniform(size=2) < (BLUR_SHARE, NOISE_SHARE)
    gains = np.exp(GAIN_LOG * np.array([red, green, blue]))
    return Style(
        gamma=float(np.exp(GAMMA_LOG * gamma)),
        contrast=float(np.exp(CONTRAST_LOG * contrast)),
        brightness=float(BRIGHTNESS * brightness),
        gains=(float(gains[0]), float(gains[1]), float(gains[2])),
        hue_rad=float(HUE_RAD * hue),
        blur=float(BLUR_MOST * abs(blur)) if is_blurred else 0.0,
        noise=float(NOISE_MOST * abs(noise)) if is_noisy else 0.0,
    )


def apply_style(
    image_3HW: np.ndarray, style: Style, *, rng: np.random.Generator, is_padded: bool = False
) -> np.ndarray:
    """Return a new image (float32, [0, 1]) in the style. ``rng`` draws the noise.

    Where the image ``is_padded``, what has the value of padding in all channels keeps it.

    The order is gamma, contrast about 0.5 and brightness, gains, hue, blur, noise; clipped once, at the end, but for
    the range that a turn of hue is defined on.
    """
    is_grey = bool((image_3HW[0] == image_3HW[1]).all() and (image_3HW[1] == image_3HW[2]).all())
    styled = np.power(image_3HW, np.float32(style.gamma))
    styled = (styled - 0.5) * np.float32(style.contrast) + np.float32(0.5 + style.brightness)
    if not is_grey:
        styled = styled * np.array(style.gains, np.float32)[:, None, None]
        styled = turn_hue(np.clip(styled, 0.0, 1.0), style.hue_rad)
    if style.blur:
        styled = ndimage.gaussian_filter(styled, (0, *(style.blur * side for side in styled.shape[1:])))
    if style.noise:
        shape = (1 if is_grey else 3, *styled.shape[1:])
        styled = styled + np.float32(style.noise) * rng.standard_normal(shape, dtype=np.float32)
    styled = np.clip(styled, 0.0, 1.0).astype(np.float32)
    if is_padded:
        styled[:, (image_3HW == PADDING).all(axis=0)] = PADDING
    return styled


def restyle(image_B3HW: np.ndarray, *, rng: np.random.Generator, is_padded: bool = False) -> np.ndarray:
    """Return a copy of a batch (float32, [0, 1]), each image in a style of its own."""
    return np.stack([apply_style(image, draw_style(rng), rng=rng, is_padded=is_padded) for image in image_B3HW])

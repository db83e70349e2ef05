"""The last step of every phantom: tone, colour, blur, sensor noise and compression of one site's device.

Style keys, all optional: ``gain_r/g/b`` (white balance), ``brightness`` (offset), ``contrast`` (about mid-grey),
``gamma``, ``saturation``, ``vignette``, ``blur`` (share of the width), ``motion`` (share of the width),
``noise`` and ``colour_noise`` (standard deviations, 0..1), ``jpeg`` (quality; 95 and more: none).
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from engine.data.phantoms.base import Streams, Style, present
from engine.data.phantoms.canvas import grid, noise

LEVELS = 1024


def tone_curves(style: Style) -> np.ndarray:
    """Return one lookup table a channel, (3, LEVELS) float32 in 0..1."""
    level = np.linspace(0.0, 1.0, LEVELS, dtype=np.float64)
    curves = []
    for channel in "rgb":
        value = level * style.get(f"gain_{channel}", 1.0)
        value = (value - 0.5) * style.get("contrast", 1.0) + 0.5 + style.get("brightness", 0.0)
        curves.append(np.clip(value, 0.0, 1.0) ** style.get("gamma", 1.0))
    return np.array(curves, dtype=np.float32)


def expose(image: np.ndarray, style: Style, streams: Streams, *, grey: bool = False) -> np.ndarray:
    """Turn a (3, px, px) or, for ``grey``, (px, px) float image in 0..1 into the device's (px, px, 3) uint8 picture."""
    planes = image[None] if grey else image
    px = planes.shape[-1]
    rng = streams.rng("camera")
    if present(style, "vignette"):
        y, x = grid(px)
        shift_x, shift_y = rng.uniform(-0.25, 0.25, 2)
        planes = planes * (1.0 - np.float32(style["vignette"] * 0.5) * ((x - shift_x) ** 2 + (y - shift_y) ** 2))
    saturation = style.get("saturation", 1.0)
    if saturation != 1.0 and not grey:
        mean = planes.mean(axis=0, dtype=np.float32)
        planes = mean + (planes - mean) * np.float32(saturation)
    index = (np.clip(planes, 0.0, 1.0) * (LEVELS - 1)).astype(np.uint16)
    curves = tone_curves(style)
    planes = np.stack([curve[plane] for curve, plane in zip(curves, index, strict=False)])
    planes = optics(planes, style, rng)
    planes = planes + sensor_noise(planes, style, rng)
    picture = np.clip(planes * 255.0 + 0.5, 0, 255).astype(np.uint8)
    picture = np.repeat(picture, 3, axis=0) if grey else picture
    return compress(np.ascontiguousarray(picture.transpose(1, 2, 0)), style.get("jpeg", 100.0))


def optics(planes: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Apply defocus and motion blur to (C, px, px) planes; the drawn direction does not depend on whether it is
    used."""
    px = planes.shape[-1]
    angle = rng.uniform(0, np.pi)
    radius = present(style, "blur") * px
    if radius > 0.25:
        blurred = []
        for plane in planes:
            picture = Image.fromarray((np.clip(plane, 0, 1) * 255 + 0.5).astype(np.uint8))
            blurred.append(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255)
        planes = np.stack(blurred)
    reach = present(style, "motion") * px
    if reach > 0.7:
        steps = max(3, min(7, round(reach) + 1))
        total = np.zeros_like(planes)
        for along in np.linspace(-reach / 2, reach / 2, steps):
            shift = (round(along * np.sin(angle)), round(along * np.cos(angle)))
            total += np.roll(planes, shift, axis=(1, 2))
        planes = total / steps
    return planes


def sensor_noise(planes: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return noise (broadcastable to the planes): a common part that grows with the signal, and a coloured part."""
    px = planes.shape[-1]
    sigma, colour, grain = present(style, "noise"), present(style, "colour_noise"), style.get("grain", 1.0)
    # Grain above 1 px: the noise of an interpolated or denoised picture.
    common = rng.standard_normal((px, px), dtype=np.float32) if grain <= 1.05 else noise(rng, px, int(px / grain))
    result = common * np.float32(sigma) * (0.5 + planes)
    if colour > 0 and planes.shape[0] == 3:
        result = result + rng.standard_normal(planes.shape, dtype=np.float32) * np.float32(colour)
    return result


def compress(picture: np.ndarray, quality: float) -> np.ndarray:
    """Return the (px, px, 3) uint8 picture after a JPEG round trip at ``quality``; unchanged at 95 and above."""
    if quality >= 95:
        return picture
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=max(5, int(quality)))
    return np.array(Image.open(buffer))

"""Skin lesions: dermoscopy and clinical photographs over the whole range of skin tones.

Style keys: ``tone`` (0 light .. 1 dark skin), ``warmth``, ``lesion`` (pigment depth), ``size`` (log2 radius),
``ragged`` and ``soft`` (border), ``network``, ``patches`` (several colours), ``veil`` (blue-white), ``pale`` (lighter
than the skin), ``rosy``, ``hair``, ``hair_dark``, ``ruler``, ``ink``, ``sticker``, ``bubbles``, ``circle`` (black
surround), ``shine``, ``lines`` (skin relief), ``flush`` (redness), ``naevi`` (small distractors), ``uneven`` (light),
and the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.phantoms.base import PhantomTask, Recipe, Streams, Style, present
from engine.data.phantoms.camera import expose
from engine.data.phantoms.canvas import Blob, blob, cover, curve, depth, fractal, grid, noise, resize, strokes, tint


@dataclass(frozen=True)
class Lesion:
    """The outline: a blob whose border is displaced by a coarse field ``ripple`` (12, 12) times ``ragged``; the
    aperture is what a dermoscope shows."""

    outline: Blob
    ripple: np.ndarray
    ragged: float
    aperture: float


def anatomy(style: Style, streams: Streams, position: float) -> Lesion:
    """Draw one lesion near the middle of the picture."""
    rng = streams.rng("lesion")
    radius = float(np.clip(2.0 ** style["size"], 0.12, 0.85))
    far = max(0.0, 0.8 - radius) * 0.6
    x, y = rng.uniform(-far, far, 2)
    outline = blob(
        rng, x, y, radius, radius * rng.uniform(0.6, 1.0), angle=rng.uniform(0, np.pi), rough=style["ragged"]
    )
    aperture = float(rng.uniform(0.95, 1.3)) if present(style, "circle") > 0 else np.inf
    return Lesion(outline, rng.standard_normal((12, 12), dtype=np.float32), style["ragged"] * 0.7, aperture)


def lesion_depth(lesion: Lesion, px: int) -> np.ndarray:
    """Return the (px, px) depth inside the lesion, 0 on the border."""
    y, x = grid(px)
    return depth(lesion.outline, y, x) + resize(lesion.ripple, px) * np.float32(lesion.ragged)


def masks(lesion: Lesion, px: int) -> np.ndarray:
    """Return the lesion, (1, px, px) uint8."""
    y, x = grid(px)
    near = (x - lesion.outline.x) ** 2 + (y - lesion.outline.y) ** 2 < (1.6 * lesion.outline.rx) ** 2
    near &= x * x + y * y < lesion.aperture**2
    return ((lesion_depth(lesion, px) > 0) & near).astype(np.uint8)[None]


def skin_colour(tone: float, warmth: float) -> np.ndarray:
    """Return RGB 0..1 between light and dark skin, shifted to red by ``warmth``."""
    light, middle, dark = np.array([0.9, 0.74, 0.67]), np.array([0.72, 0.51, 0.4]), np.array([0.32, 0.21, 0.17])
    base = light + (middle - light) * tone * 2 if tone < 0.5 else middle + (dark - middle) * (tone - 0.5) * 2
    return np.clip(base * (1 + warmth * np.array([0.05, -0.08, -0.1])), 0.02, 1)


def paint(lesion: Lesion, mask: np.ndarray, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Paint skin, lesion, then everything that lies on top."""
    rng = streams.rng("paint")
    base = skin_colour(style["tone"], style["warmth"])
    image = np.empty((3, px, px), np.float32)
    mottle, pores = fractal(rng, px, cells=3, octaves=4), noise(rng, px, 90) * np.float32(0.5)
    crease = np.abs(noise(rng, px, 34, stretch=1.6)) + np.abs(noise(rng, px, 30))
    surface = 1 + 0.05 * mottle + np.float32(0.04 * style["lines"]) * (crease - 1 + pores)
    for channel, swing in enumerate((0.5, 1.0, 1.0)):
        image[channel] = np.float32(base[channel]) * (1 + (surface - 1) * np.float32(swing))
    tint(
        image,
        base * [1.0, 0.62, 0.6],
        np.clip(noise(rng, px, 4) - 0.4, 0, 1) * np.float32(0.5 * present(style, "flush")),
    )
    naevi(image, base, style, rng, px)
    inside = lesion_depth(lesion, px)
    paint_lesion(image, base, inside, style, rng, px)
    on_top(image, style, rng, px)
    if present(style, "shine") > 0:
        gloss = np.clip((noise(rng, px, 40) + noise(rng, px, 5) - 2.6) * 0.8, 0, 1)
        tint(image, (0.97, 0.96, 0.98), gloss * np.float32(style["shine"]))
    y, x = grid(px)
    tilt = rng.uniform(-1, 1, 2) * style["uneven"]
    image *= 1 + x * np.float32(tilt[0]) + y * np.float32(tilt[1])
    if np.isfinite(lesion.aperture):
        image *= np.clip(
            (np.float32(lesion.aperture) - np.sqrt(x * x + y * y)) * np.float32(px / 2 / rng.uniform(1, 8)), 0, 1
        )
    return expose(image, style, streams)


def naevi(image: np.ndarray, base: np.ndarray, style: Style, rng: np.random.Generator, px: int) -> None:
    """Paint small freckles, in place: pigmented like the lesion, but no part of the mask."""
    for _ in range(round(present(style, "naevi") * 9)):
        radius = rng.uniform(0.02, 0.07)
        shape = blob(rng, *rng.uniform(-0.95, 0.95, 2), radius, radius * rng.uniform(0.7, 1), rough=0.08)
        tint(image, base * rng.uniform(0.45, 0.8), cover(shape, px, soft=0.8) * np.float32(rng.uniform(0.4, 0.9)))


def paint_lesion(
    image: np.ndarray, base: np.ndarray, inside: np.ndarray, style: Style, rng: np.random.Generator, px: int
) -> None:
    """Blend the lesion's colours into the skin, in place."""
    alpha = np.clip(0.5 + inside / np.float32(max(style["soft"], 0.02)), 0, 1)
    pigment = base * np.array([0.62, 0.45, 0.38]) * (1.15 - 0.75 * style["lesion"]) + style["rosy"] * np.array(
        [0.25, 0.05, 0.06]
    )
    # Hypopigmented or inflamed lesions are lighter and pinker than dark skin around them.
    if present(style, "pale") > 0:
        pigment = np.clip(base * (1.2 + 0.5 * style["pale"]) + np.array([0.16, 0.07, 0.07]), 0, 1)
    variety = fractal(rng, px, cells=4, octaves=4)
    strength = (
        np.float32(style["lesion"]) * (0.75 + 0.25 * np.clip(inside * 2.5, -1, 1)) * (1 + np.float32(0.22) * variety)
    )
    tint(image, np.clip(pigment, 0.01, 1), alpha * np.clip(strength + 0.25, 0, 1))
    spots = alpha * np.clip((noise(rng, px, 5) - 0.6) * 2, 0, 1) * np.float32(present(style, "patches"))
    tint(image, base * [0.3, 0.2, 0.18], spots)
    pale = alpha * np.clip((noise(rng, px, 5) - 0.9) * 2, 0, 1)
    tint(image, base * 0.95, pale * np.float32(0.7 * present(style, "patches")))
    tint(image, (0.5, 0.54, 0.62), alpha * np.clip(noise(rng, px, 4) - 0.7, 0, 1) * np.float32(present(style, "veil")))
    if present(style, "network") > 0:
        mesh = np.exp(-((noise(rng, px, 30) * np.float32(2.6)) ** 2))
        tint(image, base * [0.35, 0.25, 0.2], alpha * mesh * np.float32(0.55 * style["network"]))


def on_top(image: np.ndarray, style: Style, rng: np.random.Generator, px: int) -> None:
    """Paint hairs, ruler, ink, stickers and gel bubbles, in place."""
    lines = []
    for _ in range(round(present(style, "hair") * 26)):
        start = rng.uniform(-1.1, 1.1, 2)
        end = start + rng.normal(0, 0.75, 2)
        lines.append(
            (
                curve(start, (start + end) / 2 + rng.normal(0, 0.2, 2), end),
                rng.uniform(0.006, 0.018),
                rng.uniform(0.5, 1),
            )
        )
    if lines:
        colour = np.array([0.12, 0.08, 0.06]) + (1 - style["hair_dark"]) * np.array([0.6, 0.5, 0.4])
        tint(image, colour, strokes(lines, px) * np.float32(0.9))
    if present(style, "ruler") > 0:
        edge, step = rng.uniform(0.75, 0.95), rng.uniform(0.06, 0.14)
        marks = [
            (np.array([[at, edge], [at, edge - (0.14 if number % 5 == 0 else 0.07)]]), 0.012, 0.9)
            for number, at in enumerate(np.arange(-1, 1, step))
        ]
        marks.append((np.array([[-1, edge], [1, edge]]), 0.01, 0.9))
        drawn = strokes(marks, px)
        tint(image, (0.08, 0.08, 0.1), drawn.T if rng.random() < 0.5 else drawn)
    if present(style, "ink") > 0:
        start, end = rng.uniform(-1, 1, (2, 2))
        stroke = strokes([(curve(start, rng.uniform(-1, 1, 2), end), rng.uniform(0.03, 0.07), 0.8)], px)
        tint(image, (0.3, 0.2, 0.55), stroke * np.float32(0.8))
    if present(style, "sticker") > 0:
        shape = Blob(*(rng.choice([-1, 1], 2) * rng.uniform(0.8, 1.1, 2)), *rng.uniform(0.25, 0.5, 2))
        tint(image, rng.uniform(0.1, 0.95, 3), cover(shape, px))
    for _ in range(round(present(style, "bubbles") * 7)):
        radius = rng.uniform(0.03, 0.12)
        shape = Blob(*rng.uniform(-1, 1, 2), radius, radius)
        ring = cover(shape, px, soft=0.15) - cover(shape.scaled(0.85), px, soft=0.3)
        tint(image, (1, 1, 1), np.clip(ring, 0, 1) * np.float32(0.6))


BASE = {
    "tone": (0.0, 1.0), "warmth": (-0.6, 1.2), "lesion": (0.25, 0.95), "size": (-2.5, -0.35), "ragged": (0.02, 0.16),
    "soft": (0.03, 0.4), "network": (-0.5, 1.0), "patches": (-0.3, 0.9), "veil": (-0.8, 0.9), "pale": (-1.5, 0.6),
    "shine": (-1.0, 0.8), "rosy": (-0.1, 0.7), "hair": (-0.8, 1.0), "hair_dark": (0.2, 1.0), "ruler": (-1.0, 0.3),
    "ink": (-1.0, 0.15), "sticker": (-1.0, 0.15), "bubbles": (-1.0, 0.6), "circle": (-1.0, 0.5), "lines": (0.1, 1.5),
    "flush": (-0.5, 1.0), "naevi": (-0.6, 0.8), "uneven": (0.0, 0.25), "vignette": (-0.4, 0.7),
    "gain_r": (0.85, 1.15), "gain_g": (0.88, 1.1), "gain_b": (0.8, 1.25), "contrast": (0.75, 1.3),
    "brightness": (-0.1, 0.12), "gamma": (0.75, 1.35), "saturation": (0.55, 1.5), "blur": (-0.004, 0.008),
    "noise": (-0.02, 0.035), "colour_noise": (-0.02, 0.012), "grain": (0.7, 2.0), "jpeg": (35, 130),
}  # fmt: skip

LOOKS = {
    "dermoscope_polarised": BASE | {
        "tone": (0.05, 0.3), "pale": (-1, -0.5), "size": (-1.3, -0.2), "rosy": (0.2, 0.9), "lesion": (0.2, 0.6),
        "network": (0.3, 1.0), "gain_b": (0.95, 1.05), "gamma": (0.75, 0.95), "saturation": (1.1, 1.4),
        "circle": (-1, -0.5), "hair": (-0.5, 0.7), "bubbles": (-1, -0.5), "blur": (-0.004, 0.001), "noise": (0, 0.01),
        "ruler": (-1, -0.5), "ink": (-1, -0.5), "jpeg": (80, 120),
    },
    "dermoscope_immersion": BASE | {
        "tone": (0.15, 0.45), "pale": (-1, -0.5), "gain_r": (0.9, 1.0), "gain_b": (1.15, 1.3), "bubbles": (0.1, 1.0),
        "circle": (0.1, 0.5), "saturation": (0.6, 0.85), "veil": (0, 0.9), "vignette": (0.3, 0.8),
        "hair": (-0.2, 0.6), "ruler": (-0.5, 0.5), "size": (-1.6, -0.35), "ink": (-1, -0.5),
    },
    "clinic_phone": BASE | {
        "tone": (0.25, 0.6), "pale": (-1, -0.3), "warmth": (0.3, 1.2), "network": (-1, -0.5), "soft": (0.15, 0.5),
        "size": (-2.6, -1.2), "naevi": (0, 1.0), "flush": (0.2, 1.0), "blur": (0.002, 0.007), "noise": (0.02, 0.045),
        "colour_noise": (0, 0.012), "circle": (-1, -0.5), "jpeg": (25, 50), "sticker": (-1, 0.8), "ink": (-1, 0.5),
        "lesion": (0.2, 0.6), "gain_b": (0.7, 0.8), "gamma": (1.1, 1.35), "bubbles": (-1, -0.5),
    },
    "dark_skin_clinic": BASE | {
        "tone": (0.72, 1.0), "pale": (-0.5, 0.6), "shine": (0.2, 1.0), "naevi": (0.2, 1.0), "size": (-2.3, -0.9),
        "lesion": (0.3, 0.7), "hair": (0.2, 1.0), "hair_dark": (0.8, 1.0), "gamma": (0.8, 1.1), "lines": (0.6, 1.5),
        "rosy": (-0.1, 0.3), "circle": (-1, -0.3), "ruler": (-0.5, 0.5), "contrast": (0.85, 1.1),
    },
}  # fmt: skip

RECIPE = Recipe(
    task=PhantomTask("skin", "dermoscopy photograph of a skin lesion", ("lesion",), tuple(LOOKS)),
    looks=LOOKS,
    generic=((1.0, BASE),),
    anatomy=anatomy,
    masks=masks,
    paint=paint,
)

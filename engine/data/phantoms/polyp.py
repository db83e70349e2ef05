"""Colonoscopy: a folded mucosal tube with a polyp, lit from the camera.

Folds, polyps and distracting bulges form one height field; its slopes give shading and specular highlights, so a
polyp is told from a fold by shape and slight colour, as in the real thing.

Style keys: ``red`` (mucosa), ``green`` and ``blue`` (shares of red), ``mottle``, ``vessels``, ``stool``, ``dye``
(blue), ``folds``, ``fold_rate``, ``warp``, ``bulges``, ``size`` (log2 of the polyp's radius), ``dome`` (its height),
``edge`` (its softness), ``polyp_red`` and ``polyp_pale`` (colour change), ``polyp_texture``, ``ambient``, ``near``
and ``falloff`` (light), ``lumen`` (darkness), ``shadow``, ``gloss``, ``instrument``, ``frame`` (0 none, 1 octagon, 2
rounded), ``frame_aspect``, ``corner``, ``border``, ``inset``, and the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.phantoms.base import PhantomTask, Recipe, Streams, Style, present
from engine.data.phantoms.camera import expose
from engine.data.phantoms.canvas import (
    Blob,
    blob,
    curve,
    fractal,
    grid,
    local_depth,
    noise,
    raster,
    relief,
    strokes,
    tint,
    wide_blur,
)

NO_FRAME, OCTAGON = 0, 1


@dataclass(frozen=True)
class Colon:
    """Window (centre, half-axes; frame kind and corner), lumen, polyps and bulges that are not polyps."""

    view: tuple[float, float, float, float]
    frame: int
    corner: float
    lumen: tuple[float, float, float]
    polyps: tuple[Blob, ...]
    bulges: tuple[Blob, ...]


def anatomy(style: Style, streams: Streams, position: float) -> Colon:
    """Choose the view, the lumen and one polyp (two in a tenth of the images) inside the view."""
    rng = streams.rng("colon")
    half_x = 1.0 if style["frame"] < 0.5 else float(np.clip(style["frame_aspect"], 0.4, 1.02))
    half_y = 1.0 if style["frame"] < 0.5 else float(rng.uniform(0.92, 1.05))
    view = (float(rng.uniform(-0.1, 1.0) * (1 - min(1, half_x))), float(rng.uniform(-0.03, 0.03)), half_x, half_y)
    lumen_angle, lumen_far = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.1)
    lumen = (
        view[0] + lumen_far * np.cos(lumen_angle) * half_x,
        lumen_far * np.sin(lumen_angle),
        rng.uniform(0.15, 0.4),
    )
    polyps = []
    for _ in range(2 if rng.random() < 0.1 else 1):
        radius = float(np.clip(2.0 ** style["size"] * rng.uniform(0.85, 1.15), 0.09, 0.75))
        reach = max(0.05, 0.85 - radius * 0.8)
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1)) * reach
        x, y = view[0] + far * np.cos(angle) * half_x, view[1] + far * np.sin(angle) * half_y
        squeeze = rng.uniform(0.6, 1.0)
        polyps.append(
            blob(
                rng,
                x,
                y,
                radius * half_x**0.5,
                radius * squeeze,
                angle=rng.uniform(0, np.pi),
                rough=rng.uniform(0.02, 0.14),
            )
        )
    bulges = tuple(
        blob(
            rng,
            *rng.uniform(-0.9, 0.9, 2),
            rng.uniform(0.15, 0.5),
            rng.uniform(0.1, 0.3),
            angle=rng.uniform(0, 3.1),
            rough=0.12,
        )
        for _ in range(round(present(style, "bulges") * 4))
    )
    return Colon(view, round(max(0.0, style["frame"])), style["corner"], lumen, tuple(polyps), bulges)


def field_of_view(scene: Colon, px: int) -> np.ndarray:
    """Return the (px, px) coverage 0..1 of the endoscope's window; ones without a frame."""
    if scene.frame == NO_FRAME:
        return np.ones((px, px), np.float32)
    y, x = grid(px)
    u, v = np.abs(x - scene.view[0]) / scene.view[2], np.abs(y - scene.view[1]) / scene.view[3]
    if scene.frame == OCTAGON:
        edge = 1.0 - np.maximum(np.maximum(u, v), (u + v) / np.float32(2 - scene.corner))
    else:
        power = np.float32(2 + 6 * (1 - scene.corner))
        edge = 1.0 - (u**power + v**power) ** (1 / power)
    return np.clip(edge * np.float32(px / 3), 0, 1)


def masks(scene: Colon, px: int) -> np.ndarray:
    """Return the polyps, clipped to the window, (1, px, px) uint8."""
    union = np.zeros((px, px), np.uint8)
    for shape in scene.polyps:
        union |= raster(shape, px)
    return (union * (field_of_view(scene, px) > 0.5))[None]


def height_field(scene: Colon, style: Style, streams: Streams, px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the height without fine texture, the distance from the lumen, and the polyps' soft coverage."""
    rng = streams.rng("height")
    y, x = grid(px)
    warp = noise(rng, px, 4)
    distance = np.sqrt((x - scene.lumen[0]) ** 2 + (y - scene.lumen[1]) ** 2) + 0.22 * warp * np.float32(style["warp"])
    distance = np.maximum(distance, 0.02)
    ring = np.log(distance) * np.float32(style["fold_rate"]) + np.float32(rng.uniform(0, 6.3)) + 0.5 * noise(rng, px, 3)
    # Skewed towards the lumen (a fold hides what lies behind it) and fading around the ring: crescents, not circles.
    fold = (0.5 + 0.5 * np.sin(ring + 0.7 * np.sin(ring))) ** 2 * np.clip(0.4 + 0.6 * noise(rng, px, 3), 0, 1.2)
    height = fold * np.float32(0.16 * style["folds"]) * np.minimum(distance, 1.0)
    height += fractal(rng, px, cells=3, octaves=3, gain=0.4) * np.float32(0.035)
    for shape in scene.bulges:
        where, inside = local_depth(shape, px)
        height[where] += np.float32(0.16) * np.clip(inside, 0, 1) ** 1.5
    soft = np.zeros((px, px), np.float32)
    for shape in scene.polyps:
        where, inside = local_depth(shape, px)
        size = min(shape.rx, shape.ry)
        dome = np.clip(inside * (2 - inside), 0, 1)
        # A fold ends at the polyp's foot: it does not run on over the polyp.
        height[where] *= 1 - 0.85 * np.clip(inside * 4, 0, 1)
        height[where] += dome * np.float32(size * style["dome"])
        soft[where] = np.maximum(
            soft[where], np.clip(0.5 + inside * np.float32(size * px * 0.5 / (1 + style["edge"])), 0, 1)
        )
    return height, distance, soft


def mucosa_colour(style: Style) -> np.ndarray:
    """Return the mean tissue colour, RGB 0..1."""
    return style["red"] * np.array([1.0, style["green"], style["blue"]])


def mucosa(style: Style, streams: Streams, px: int) -> np.ndarray:
    """Return the unlit tissue colour (3, px, px): mottling, vessels and stool."""
    rng = streams.rng("mucosa")
    base = mucosa_colour(style)
    image = np.empty((3, px, px), np.float32)
    mottle = fractal(rng, px, cells=4, octaves=5)
    for channel, swing in enumerate((0.04, 0.09, 0.09)):
        image[channel] = np.float32(base[channel]) * (1 + np.float32(swing * style["mottle"]) * mottle)
    ridge = np.exp(-((fractal(rng, px, cells=5, octaves=3, gain=0.5) * np.float32(11)) ** 2))
    ridge += np.exp(-((noise(rng, px, 14) * np.float32(6)) ** 2)) * 0.5
    tint(
        image,
        base * [0.8, 0.5, 0.55],
        np.clip(ridge * present(style, "vessels"), 0, 0.8),
    )
    stool = np.clip((noise(rng, px, 9) - 2.2 + 0.7 * present(style, "stool")) * 4, 0, 1) * (present(style, "stool") > 0)
    tint(image, (0.75, 0.58, 0.18), stool * 0.85)
    if present(style, "dye") > 0:
        tint(image, (0.12, 0.42, 0.55), np.clip(0.5 + 0.5 * noise(rng, px, 3), 0, 1) * np.float32(style["dye"]))
    return image


def paint(scene: Colon, mask: np.ndarray, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Shade the tube, colour the polyps, add highlights, frame and overlays."""
    rng = streams.rng("paint")
    height, distance, soft = height_field(scene, style, streams, px)
    image = mucosa(style, streams, px)
    tone = mucosa_colour(style)
    shade = tone * (1 + np.array([0.12, -0.25, -0.22]) * style["polyp_red"]) + style["polyp_pale"] * (0.95 - tone)
    texture = fractal(rng, px, cells=16, octaves=3, gain=0.7)
    tint(image, np.clip(shade, 0, 1), soft * np.float32(0.85))
    image *= 1 + soft * texture * np.float32(0.14 * present(style, "polyp_texture"))
    bumps = height + fractal(rng, px, cells=12, octaves=3, gain=0.6) * np.float32(0.004)
    lambert, facing = relief(bumps, light=tuple(rng.uniform(-0.4, 0.4, 2)))
    y, x = grid(px)
    lit = 1.2 - np.float32(style["falloff"]) * ((x - scene.view[0]) ** 2 + (y - scene.view[1]) ** 2) * 0.45
    deep = np.clip((distance - np.float32(scene.lumen[2] * 0.3)) / np.float32(scene.lumen[2] * 2.2), 0, 1)
    lit *= np.float32(1 - style["lumen"]) + np.float32(style["lumen"]) * np.maximum(deep, soft * 0.8)
    # Near light: what rises towards the camera is brighter, most of all on its summit.
    lit *= 1 + np.float32(style["near"]) * (np.clip(height, 0, 0.6) - 0.1) * 1.5
    ambient = np.float32(style["ambient"])
    image *= (ambient + (1 - ambient) * lambert) * lit
    shadow = wide_blur(soft, 0.05)
    image *= 1 - np.clip(shadow - soft, 0, 1) * np.float32(style["shadow"])
    wet = np.clip((facing - 0.9) * 10, 0, 1) * lit
    glint = (
        noise(rng, px, 40, stretch=float(rng.uniform(0.6, 1.8)))
        + fractal(rng, px, cells=6, octaves=2)
        + np.clip(height, 0, 0.4) * 2
    )
    spark = np.clip((glint + 0.7 * lit - 4.1 + style["gloss"]) * 3, 0, 1)
    tint(image, (1.0, 0.98, 0.94), np.clip(spark * (0.3 + wet), 0, 1))
    instrument(image, style, rng, px)
    window = field_of_view(scene, px)
    image = image * window + np.float32(style["border"]) * (1 - window)
    overlays(image, window, style, rng, px)
    return expose(image, style, streams)


def instrument(image: np.ndarray, style: Style, rng: np.random.Generator, px: int) -> None:
    """Draw a grey snare or forceps from the edge towards the middle, in place, in some images."""
    start = np.array([rng.uniform(-1, 1), 1.1]) * rng.choice([-1, 1])
    end = rng.uniform(-0.4, 0.4, 2)
    width = rng.uniform(0.03, 0.1)
    if present(style, "instrument") > 0:
        path = curve(start, (start + end) / 2 + rng.uniform(-0.1, 0.1, 2), end)
        tint(image, (0.25, 0.25, 0.27), strokes([(path, width, 0.9)], px))
        tint(image, (0.8, 0.8, 0.82), strokes([(path, width * 0.25, 0.9)], px))


def overlays(image: np.ndarray, window: np.ndarray, style: Style, rng: np.random.Generator, px: int) -> None:
    """Draw the processor's insets (a coloured box, a thumbnail) outside the tissue, in place."""
    width, tall = (int(px * value) for value in rng.uniform([0.18, 0.25], [0.3, 0.4]))
    colour = np.array([[0.16, 0.7, 0.55], [0.3, 0.4, 0.8], [0.1, 0.1, 0.6]])[int(rng.integers(3))] * rng.uniform(
        0.7, 1.1
    )
    margin = int(rng.uniform(0, 0.06) * px)
    if present(style, "inset") > 0:
        rows, columns = slice(px - tall - margin, px - margin), slice(margin, margin + width)
        free = window[rows, columns] < 0.01
        for channel in range(3):
            plane = image[channel, rows, columns]
            plane[free] = colour[channel]


BASE = {
    "red": (0.55, 0.92), "green": (0.5, 0.82), "blue": (0.3, 0.7), "ambient": (0.25, 0.65), "near": (0.0, 1.2),
    "mottle": (0.2, 1.1), "vessels": (-0.4, 0.5), "stool": (-1.6, 1.2), "dye": (-8.0, 0.9), "folds": (0.2, 1.4),
    "fold_rate": (3.0, 9.0), "warp": (0.2, 1.4), "bulges": (-0.5, 1.0), "size": (-3.0, -0.45), "dome": (0.3, 1.2),
    "edge": (0.2, 4.0), "polyp_red": (-0.5, 1.2), "polyp_pale": (-0.05, 0.45), "polyp_texture": (-0.4, 0.8),
    "falloff": (0.2, 1.0), "lumen": (0.3, 0.95), "shadow": (0.2, 0.9), "gloss": (-0.6, 0.9),
    "instrument": (-1.0, 0.12), "frame": (-0.49, 2.4), "frame_aspect": (0.5, 1.02), "corner": (0.15, 0.6),
    "border": (0.0, 0.07), "inset": (-1, 0.25), "gain_r": (0.9, 1.12), "gain_g": (0.9, 1.08), "gain_b": (0.85, 1.12),
    "contrast": (0.8, 1.3), "brightness": (-0.1, 0.1), "gamma": (0.75, 1.35), "saturation": (0.65, 1.25),
    "blur": (-0.006, 0.008), "motion": (-0.03, 0.022), "noise": (-0.03, 0.025), "colour_noise": (-0.02, 0.012),
    "grain": (0.7, 2.0), "jpeg": (35, 130),
}  # fmt: skip

LOOKS = {
    "tower_hd": BASE | {
        "size": (-2.4, -0.6), "polyp_red": (0.3, 1.2), "red": (0.68, 0.8), "green": (0.58, 0.68),
        "blue": (0.38, 0.48), "frame": (-0.4, 0.4), "vessels": (0.1, 0.5), "gloss": (0.2, 0.8),
        "saturation": (1.0, 1.2), "noise": (0, 0.015), "blur": (-0.003, 0.002), "motion": (-0.03, 0.0),
        "gamma": (0.8, 0.95), "inset": (-1, -0.5),
    },
    "scope_octagon": BASE | {
        "red": (0.62, 0.75), "green": (0.48, 0.58), "blue": (0.42, 0.52), "frame": (1, 1),
        "frame_aspect": (0.75, 0.85), "corner": (0.5, 0.65), "gamma": (1.2, 1.5), "folds": (0.7, 1.4),
        "noise": (0.01, 0.03), "inset": (-1, -0.5), "polyp_pale": (0.2, 0.5), "size": (-2.3, -0.6),
    },
    "guided_inset": BASE | {
        "red": (0.6, 0.75), "green": (0.68, 0.8), "blue": (0.6, 0.72), "frame": (2, 2), "frame_aspect": (0.5, 0.62),
        "corner": (0.4, 0.6), "inset": (0.2, 1), "border": (0.05, 0.07), "gloss": (0.3, 0.9),
        "saturation": (0.6, 0.85), "size": (-2.6, -1.1), "dye": (-5, -1), "polyp_red": (0.5, 1.3),
        "polyp_pale": (-0.05, 0.1),
    },
    "portable_yellow": BASE | {
        "red": (0.65, 0.8), "green": (0.6, 0.72), "blue": (0.25, 0.36), "frame": (2, 2), "frame_aspect": (0.7, 1.0),
        "corner": (0.0, 0.2), "gain_b": (0.7, 0.85), "blur": (0.003, 0.009), "motion": (-0.01, 0.03),
        "noise": (0.025, 0.05), "colour_noise": (0.005, 0.015), "jpeg": (25, 45), "vessels": (-0.5, 0.2),
        "polyp_red": (0.5, 1.2), "size": (-2.4, -0.8), "inset": (-1, -0.5), "dye": (-5, -1), "stool": (0.2, 1.2),
    },
}  # fmt: skip

RECIPE = Recipe(
    task=PhantomTask("polyp", "colonoscopy video frame", ("polyp",), tuple(LOOKS)),
    looks=LOOKS,
    generic=((1.0, BASE),),
    anatomy=anatomy,
    masks=masks,
    paint=paint,
)

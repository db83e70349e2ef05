"""Colour fundus photographs: mostly crops around the optic disc, a share of whole retinas.

Style keys: ``zoom`` (disc radius, share of half the width), ``cdr`` (vertical cup-to-disc ratio), ``red/green/blue``
(retina), ``disc_light`` and ``cup_light`` (contrast of disc and cup), ``disc_soft`` and ``cup_soft`` (edge width,
share of the radius), ``tessellation`` (choroid), ``atrophy`` (bright ring beside the disc), ``glow`` (around the
disc), ``exudates``, ``bleeds``, ``reflex``, ``vessels``, ``haze``, ``ghost`` (lens reflection), ``uneven`` (light),
and the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.phantoms.base import PhantomTask, Recipe, Streams, Style, present
from engine.data.phantoms.camera import expose
from engine.data.phantoms.canvas import Blob, blob, cover, fractal, grid, noise, raster, strokes, tint, wide_blur

WHOLE_RETINA_BELOW = 0.22


@dataclass(frozen=True)
class Retina:
    """Disc, cup, atrophy crescent, macula centre, vessel lines (points, width, strength; artery flag) and the side."""

    disc: Blob
    cup: Blob
    crescent: Blob
    macula: tuple[float, float]
    veins: list[tuple[np.ndarray, float, float]]
    arteries: list[tuple[np.ndarray, float, float]]
    side: int


def anatomy(style: Style, streams: Streams, position: float) -> Retina:
    """Place the disc, the cup inside it and the vessel tree that leaves it."""
    rng = streams.rng("retina")
    radius, side = style["zoom"], int(rng.choice([-1, 1]))
    if radius < WHOLE_RETINA_BELOW:
        x, y = side * rng.uniform(0.2, 0.6), rng.uniform(-0.15, 0.15)
    else:
        x, y = rng.normal(0, 0.5 * (1 - radius) * 0.4, 2)
    width = radius * rng.uniform(0.84, 0.98)
    tilt = rng.normal(0, 0.15)
    disc = blob(rng, x, y, width, radius, angle=tilt, rough=0.025)
    ratio = float(np.clip(style["cdr"] + rng.normal(0, 0.05), 0.22, 0.88))
    play = (1 - ratio) * 0.35
    cup_x = x - side * rng.uniform(-0.1, 0.5) * play * width
    cup = blob(
        rng, cup_x, y + rng.uniform(-0.5, 0.5) * play * radius, width * ratio * rng.uniform(0.9, 1.08), radius * ratio,
        angle=tilt, rough=0.035,
    )  # fmt: skip
    crescent = blob(
        rng, x - side * width * rng.uniform(0.1, 0.35), y, width * rng.uniform(1.05, 1.3), radius * 1.08, rough=0.06
    )
    macula = (x - side * radius * rng.uniform(4.6, 5.4), y + radius * rng.uniform(0.3, 0.8))
    trees = [vessel_tree(rng, disc, side, width=radius * thick) for thick in (0.105, 0.075)]
    return Retina(disc, cup, crescent, macula, trees[0], trees[1], side)


def vessel_tree(
    rng: np.random.Generator, disc: Blob, side: int, *, width: float
) -> list[tuple[np.ndarray, float, float]]:
    """Return four main arcades with branches as polylines; lengths scale with the disc."""
    lines = []
    for upward in (-1, 1):
        for temporal in (True, False):
            heading = np.pi / 2 * upward + rng.normal(0, 0.2) + (-0.35 if temporal == (side * upward > 0) else 0.35)
            turn = (-side if temporal else side) * -upward * rng.uniform(0.03, 0.09 if temporal else 0.06)
            start = np.array([disc.x, disc.y]) + rng.normal(0, 0.06 * disc.rx, 2)
            lines.extend(
                branch(rng, start, heading, turn, step=disc.ry * 0.5, width=width * rng.uniform(0.8, 1.2), level=0)
            )
    return lines


def branch(
    rng: np.random.Generator, start: np.ndarray, heading: float, turn: float, *, step: float, width: float, level: int
) -> list[tuple[np.ndarray, float, float]]:
    """Walk a vessel in steps with drifting heading; children leave it at an angle (two levels)."""
    steps = 16 if level == 0 else 9
    headings = heading + np.cumsum(rng.normal(turn, 0.13, steps))
    points = start + np.concatenate(
        [[[0, 0]], np.cumsum(np.stack([np.cos(headings), np.sin(headings)], 1) * step, axis=0)]
    )
    middle = steps // 2
    lines = [(points[: middle + 1], width, 0.9), (points[middle:], width * 0.7, 0.75)]
    if level < 2:
        for at in rng.choice(np.arange(1, steps - 1), size=3 if level == 0 else 1, replace=False):
            away = headings[at] + rng.choice([-1, 1]) * rng.uniform(0.5, 1.0)
            lines.extend(branch(rng, points[at], away, 0.0, step=step * 0.8, width=width * 0.6, level=level + 1))
    return lines


def masks(retina: Retina, px: int) -> np.ndarray:
    """Return disc and cup, (2, px, px) uint8; the cup is clipped to the disc."""
    disc = raster(retina.disc, px)
    return np.stack([disc, raster(retina.cup, px) & disc])


def background(retina: Retina, style: Style, rng: np.random.Generator, px: int) -> np.ndarray:
    """Return the retina without disc and vessels (3, px, px)."""
    y, x = grid(px)
    base = np.array([style["red"], style["green"], style["blue"]])
    coarse = max(3, round(0.5 / style["zoom"]))
    mottle = fractal(rng, px, cells=coarse, octaves=4)
    image = np.empty((3, px, px), np.float32)
    for channel, swing in enumerate((0.05, 0.1, 0.12)):
        image[channel] = np.float32(base[channel]) * (1 + np.float32(swing) * mottle)
    choroid = np.abs(noise(rng, px, coarse * 4)) + np.abs(noise(rng, px, coarse * 7)) * 0.5
    tint(
        image,
        base * [1.15, 1.35, 1.3],
        np.clip(1 - choroid * 1.3, 0, 1) * np.float32(0.6 * present(style, "tessellation")),
    )
    far = ((x - retina.macula[0]) ** 2 + (y - retina.macula[1]) ** 2) / np.float32((2.2 * style["zoom"]) ** 2)
    tint(image, base * [0.65, 0.5, 0.6], 0.75 * np.exp(-far))
    near = ((x - retina.disc.x) ** 2 + (y - retina.disc.y) ** 2) / np.float32((3.0 * style["zoom"]) ** 2)
    image *= 1 + np.float32(0.35 * style["glow"]) * np.exp(-near)
    return image


def lesions(image: np.ndarray, retina: Retina, style: Style, rng: np.random.Generator, px: int) -> None:
    """Paint exudates (yellow, bright: not discs) and bleeds (dark), in place."""
    scale = style["zoom"]
    for name, colour, largest in (("exudates", (0.95, 0.85, 0.5), 0.3), ("bleeds", (0.35, 0.06, 0.04), 0.35)):
        centre = rng.uniform(-0.9, 0.9, 2)
        for _ in range(round(present(style, name) * 14)):
            at = centre + rng.normal(0, 0.9 * scale + 0.05, 2)
            size = scale * largest * rng.uniform(0.15, 1) ** 2
            shape = blob(rng, at[0], at[1], size, size * rng.uniform(0.6, 1), rough=0.12)
            tint(image, colour, cover(shape, px, soft=0.4) * np.float32(rng.uniform(0.4, 0.85)))


def paint(retina: Retina, mask: np.ndarray, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Paint retina, atrophy, disc, cup, vessels and lesions, then the camera."""
    rng = streams.rng("paint")
    image = background(retina, style, rng, px)
    base = np.array([style["red"], style["green"], style["blue"]])
    if present(style, "atrophy") > 0:
        rim = cover(retina.crescent, px, soft=0.15) * (1 + 0.25 * noise(rng, px, 24))
        tint(image, base * [1.1, 1.45, 1.5] + 0.06, np.clip(rim, 0, 1) * np.float32(style["atrophy"]))
    disc = cover(retina.disc, px, soft=style["disc_soft"])
    light = base + (np.array([0.98, 0.8, 0.52]) - base) * style["disc_light"]
    tint(image, light, disc * np.clip(1 + 0.12 * noise(rng, px, 12), 0, 1.15))
    cup = cover(retina.cup, px, soft=style["cup_soft"]) * disc
    cup_colour = light + (np.array([1.0, 0.97, 0.82]) - light) * style["cup_light"]
    tint(image, cup_colour, cup)
    lesions(image, retina, style, rng, px)
    lines = strokes(retina.veins, px) * np.float32(present(style, "vessels"))
    arteries = strokes(retina.arteries, px) * np.float32(present(style, "vessels") * 0.8)
    fade = 1 - 0.35 * cup
    tint(image, base * [0.55, 0.28, 0.35], np.clip(lines * fade, 0, 1))
    tint(image, base * [0.85, 0.45, 0.4], np.clip(arteries * fade, 0, 1))
    if present(style, "reflex") > 0:
        sheen = np.clip(noise(rng, px, 5) - 0.8, 0, 1)
        tint(image, (0.9, 0.9, 0.75), sheen * np.float32(0.4 * style["reflex"]))
    frame(image, style, rng, px)
    return expose(image, style, streams)


def frame(image: np.ndarray, style: Style, rng: np.random.Generator, px: int) -> None:
    """Apply uneven light, haze and, for whole retinas, the black surround; in place."""
    y, x = grid(px)
    tilt = rng.uniform(-1, 1, 2) * style["uneven"]
    image *= 1 + x * np.float32(tilt[0]) + y * np.float32(tilt[1])
    if present(style, "haze") > 0:
        image += (np.float32(0.75) - image) * np.float32(0.45 * style["haze"])
    radius = rng.uniform(0.93, 1.06)
    if style["zoom"] < WHOLE_RETINA_BELOW:
        image *= np.clip((radius - np.sqrt(x * x + y * y)) * np.float32(px / 4), 0, 1)
    if present(style, "ghost") > 0:
        shape = Blob(*rng.uniform(-0.8, 0.8, 2), *rng.uniform(0.15, 0.4, 2))
        tint(image, (0.8, 0.75, 0.6), wide_blur(cover(shape, px, soft=0.6), 0.03) * np.float32(0.35 * style["ghost"]))


BASE = {
    "zoom": (0.13, 0.62), "cdr": (0.3, 0.82), "red": (0.4, 0.88), "green": (0.16, 0.5), "blue": (0.04, 0.3),
    "disc_light": (0.25, 0.85), "cup_light": (0.12, 0.85), "disc_soft": (0.05, 0.35), "cup_soft": (0.12, 0.6),
    "tessellation": (-0.5, 1.0), "glow": (0.0, 0.8), "atrophy": (-0.6, 0.8), "exudates": (-1.0, 1.0),
    "bleeds": (-1.0, 0.8), "vessels": (0.45, 1.0), "reflex": (-1.0, 0.8), "haze": (-1.0, 0.7), "ghost": (-1.0, 0.8),
    "uneven": (0.0, 0.3), "vignette": (-0.3, 0.6), "gain_r": (0.85, 1.15), "gain_g": (0.85, 1.15),
    "gain_b": (0.75, 1.2), "contrast": (0.75, 1.3), "brightness": (-0.1, 0.1), "gamma": (0.75, 1.4),
    "saturation": (0.45, 1.4), "blur": (-0.004, 0.01), "noise": (-0.02, 0.035), "colour_noise": (-0.02, 0.012),
    "grain": (0.7, 2.0), "jpeg": (35, 130),
}  # fmt: skip

LOOKS = {
    "glaucoma_clinic": BASE | {
        "zoom": (0.36, 0.5), "cdr": (0.5, 0.82), "red": (0.7, 0.8), "green": (0.34, 0.42), "blue": (0.1, 0.18),
        "disc_light": (0.5, 0.8), "cup_light": (0.5, 0.85), "blur": (-0.004, 0.002), "noise": (0, 0.015),
        "haze": (-1, -0.5), "exudates": (-1, -0.2), "gamma": (0.85, 1.0), "saturation": (1.0, 1.2),
        "atrophy": (-0.8, 0.3),
    },
    "screening_van": BASE | {
        "zoom": (0.2, 0.32), "cdr": (0.3, 0.6), "red": (0.5, 0.62), "green": (0.18, 0.25), "blue": (0.05, 0.1),
        "gamma": (1.1, 1.5), "cup_light": (0.25, 0.55), "exudates": (-0.2, 1.0), "bleeds": (-0.2, 0.8),
        "vignette": (0.2, 0.7), "haze": (-1, -0.3), "jpeg": (60, 90),
    },
    "handheld_camera": BASE | {
        "zoom": (0.28, 0.45), "red": (0.75, 0.88), "green": (0.45, 0.55), "blue": (0.28, 0.4), "haze": (0.1, 0.55),
        "blur": (0.005, 0.012), "noise": (0.02, 0.04), "colour_noise": (0.004, 0.012), "ghost": (0, 1.0),
        "reflex": (0, 1.0), "disc_soft": (0.15, 0.4), "disc_light": (0.4, 0.65), "cup_light": (0.25, 0.5),
        "jpeg": (25, 50), "saturation": (0.5, 0.8),
    },
    "myopia_centre": BASE | {
        "zoom": (0.28, 0.42), "cdr": (0.35, 0.7), "tessellation": (0.6, 1.0), "atrophy": (0.35, 0.9),
        "red": (0.6, 0.75), "green": (0.4, 0.5), "blue": (0.22, 0.32), "disc_light": (0.25, 0.5),
        "cup_light": (0.2, 0.5), "gain_r": (0.85, 0.95), "gain_g": (1.0, 1.12), "exudates": (-1, -0.2),
        "vessels": (0.4, 0.7),
    },
}  # fmt: skip

RECIPE = Recipe(
    task=PhantomTask("fundus", "colour fundus photograph", ("disc", "cup"), tuple(LOOKS)),
    looks=LOOKS,
    generic=((1.0, BASE),),
    anatomy=anatomy,
    masks=masks,
    paint=paint,
)

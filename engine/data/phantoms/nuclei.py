"""Cell nuclei: fluorescence (bright on very dark), haematoxylin and eosin (purple on pink), transmitted light (grey).

Style keys: ``stain`` (0 fluorescence, 1 H&E, 2 transmitted light), ``radius`` (share of the width), ``spread`` of
radii, ``ratio`` (short axis / long axis), ``spacing`` (lattice step in diameters), ``fill`` (share of lattice sites
used), ``clump`` (how far density follows a slow field), ``align`` (orientation follows a slow field), and the stain's
own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.phantoms.base import PhantomTask, Recipe, Streams, Style, present
from engine.data.phantoms.camera import expose
from engine.data.phantoms.canvas import fractal, noise, resize, soften, wide_blur

MAX_NUCLEI = 420
FLUORESCENCE, HE, TRANSMITTED = 0, 1, 2


@dataclass(frozen=True)
class Nuclei:
    """Arrays over the n nuclei: centre ``x, y`` and ``radius`` in 0..1, ``ratio``, ``angle``, waves (n, 4),
    ``glow``."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    ratio: np.ndarray
    angle: np.ndarray
    waves: np.ndarray
    glow: np.ndarray


def anatomy(style: Style, streams: Streams, position: float) -> Nuclei:
    """Place nuclei on a jittered lattice thinned by a slow density field."""
    rng = streams.rng("nuclei")
    radius = style["radius"]
    step = max(style["spacing"] * 2 * radius, 1.0 / np.sqrt(MAX_NUCLEI))
    side = int(np.ceil(1.0 / step)) + 2
    row, column = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    offset = rng.uniform(0, step, 2)
    x = ((column + 0.5 * (row % 2) - 1) * step + offset[0]).ravel() + rng.normal(0, 0.28 * step, side * side)
    y = ((row - 1) * step + offset[1]).ravel() + rng.normal(0, 0.28 * step, side * side)
    slow = resize(rng.standard_normal((5, 5), dtype=np.float32), 64)
    flow = resize(rng.standard_normal((4, 4), dtype=np.float32), 64) * 2.0
    at = (np.clip(y * 64, 0, 63).astype(int), np.clip(x * 64, 0, 63).astype(int))
    chance = rng.standard_normal(side * side) * (1 - style["clump"]) + slow[at] * style["clump"] * 1.5
    inside = (x > -0.03) & (x < 1.03) & (y > -0.03) & (y < 1.03)
    keep = inside & (chance >= np.quantile(chance[inside], 1 - style["fill"]))
    count = int(keep.sum())
    size = np.clip(rng.lognormal(0, style["spread"], count), 0.45, 2.2) * radius
    ratio = np.clip(rng.normal(style["ratio"], 0.1, count), 0.35, 1.0)
    free = rng.uniform(0, np.pi, count)
    angle = flow[at][keep] * style["align"] + free * (1 - style["align"])
    waves = rng.normal(0, style.get("rough", 0.05), (count, 4))
    glow = np.clip(rng.lognormal(0, style.get("glow_spread", 0.25), count), 0.35, 2.5)
    return Nuclei(x[keep], y[keep], size, ratio, angle, waves, glow)


def patches(cells: Nuclei, px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the corner of every nucleus's window (n, 2) as row, column, and its depth (n, w, w), 0 on the outline."""
    reach = float((cells.radius.max() if len(cells.x) else 0.01) * px * 1.35 + 1.5)
    width = int(np.ceil(2 * reach)) + 1
    corner = np.floor(np.stack([cells.y, cells.x], 1) * px - reach).astype(int)
    axis = np.arange(width, dtype=np.float32)[None] + 0.5
    dy = (axis + corner[:, :1] - cells.y[:, None] * px).astype(np.float32)[:, :, None]
    dx = (axis + corner[:, 1:] - cells.x[:, None] * px).astype(np.float32)[:, None, :]
    along = np.stack([np.cos(cells.angle), np.sin(cells.angle)]).astype(np.float32)[:, :, None, None]
    long, short = (1 / (cells.radius * px)), (1 / (cells.radius * cells.ratio * px))
    u = (dx * along[0] + dy * along[1]) * long.astype(np.float32)[:, None, None]
    v = (dy * along[0] - dx * along[1]) * short.astype(np.float32)[:, None, None]
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    c1, s1 = u / rho, v / rho
    c2, s2 = c1 * c1 - s1 * s1, 2 * s1 * c1
    c3, s3 = c2 * c1 - s2 * s1, s2 * c1 + c2 * s1
    w = cells.waves.astype(np.float32)[:, :, None, None]
    outline = 1 + c2 * w[:, 0] + s2 * w[:, 1] + c3 * w[:, 2] + s3 * w[:, 3]
    return corner, 1 - rho / np.maximum(outline, 0.3)


def compose(cells: Nuclei, px: int, *, soft_px: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coverage, glow-weighted coverage and height (all (px, px) float32) of the nuclei."""
    layers = np.zeros((3, px, px), np.float32)
    if not len(cells.x):
        return layers[0], layers[1], layers[2]
    corner, inside = patches(cells, px)
    scale = (cells.radius * np.sqrt(cells.ratio) * px / soft_px).astype(np.float32)[:, None, None]
    alpha = np.clip(0.5 + inside * scale, 0, 1)
    stack = np.stack([alpha, alpha * cells.glow.astype(np.float32)[:, None, None], np.sqrt(np.maximum(inside, 0))], 1)
    width = inside.shape[1]
    for (row, column), patch in zip(corner, stack, strict=True):
        top, left = max(0, row), max(0, column)
        bottom, right = min(px, row + width), min(px, column + width)
        if top < bottom and left < right:
            target = layers[:, top:bottom, left:right]
            np.maximum(target, patch[:, top - row : bottom - row, left - column : right - column], out=target)
    return layers[0], layers[1], layers[2]


def masks(cells: Nuclei, px: int) -> np.ndarray:
    """Return the union of all nuclei, (1, px, px) uint8."""
    return (compose(cells, px)[0] > 0.5).astype(np.uint8)[None]


def ghosts(rng: np.random.Generator, style: Style, px: int, *, count: int) -> np.ndarray:
    """Return out-of-focus nuclei (px, px) that belong to another plane and to no mask."""
    n = int(count)
    radius = np.full(n, style["radius"] * 1.5)
    cells = Nuclei(
        rng.uniform(0, 1, n), rng.uniform(0, 1, n), radius, rng.uniform(0.6, 1, n), rng.uniform(0, 3, n),
        np.zeros((n, 4)), rng.uniform(0.3, 1, n),
    )  # fmt: skip
    return wide_blur(compose(cells, max(32, px // 2))[1], style["radius"] * 0.9)


def specks(rng: np.random.Generator, style: Style, px: int, *, count: int) -> np.ndarray:
    """Return small sharp debris (px, px), a fraction of a nucleus across."""
    n = int(count)
    cells = Nuclei(
        rng.uniform(0, 1, n), rng.uniform(0, 1, n), rng.uniform(0.004, max(0.006, style["radius"] * 0.3), n),
        rng.uniform(0.4, 1, n), rng.uniform(0, 3, n), np.zeros((n, 4)), rng.uniform(0.5, 1.6, n),
    )  # fmt: skip
    return compose(cells, px)[1]


def paint(cells: Nuclei, mask: np.ndarray, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Paint by the stain of the style."""
    stain = round(style["stain"])
    if stain == HE:
        return paint_he(cells, style, streams, px)
    return paint_grey(cells, style, streams, px, bright=stain == FLUORESCENCE)


def paint_grey(cells: Nuclei, style: Style, streams: Streams, px: int, *, bright: bool) -> np.ndarray:
    """Paint fluorescence (``bright``) or transmitted light: the same layers with other signs."""
    rng = streams.rng("texture")
    covered, glow, height = compose(cells, px, soft_px=1.0 + style["softness"] * px / 256)
    chromatin = fractal(rng, px, cells=24, octaves=3, gain=0.7)
    body = glow * (1 + style["chromatin"] * chromatin) * (1 - style["dome"] + style["dome"] * 1.3 * height)
    haze = wide_blur(glow, 0.06) * style["haze"] + noise(rng, px, 3) * style["uneven"]
    count = present(style, "ghosts") * 14
    stray = np.zeros((px, px), np.float32)
    if count >= 1:
        stray = resize(ghosts(rng, style, px, count=count), px) * 0.6
    if present(style, "debris") * 20 >= 1:
        stray = np.maximum(stray, specks(rng, style, px, count=style["debris"] * 20) * 1.3)
    if bright:
        image = style["background"] + style["peak"] * (np.maximum(body, stray) + haze)
        return expose(np.maximum(image, 0), style, streams, grey=True)
    rim = np.clip(wide_blur(covered, 0.012) - covered, 0, 1)
    grime = fractal(rng, px, cells=6, octaves=4)
    image = style["background"] * (1 + 0.3 * style["uneven"] * noise(rng, px, 3)) + style["grime"] * grime
    image = image - style["peak"] * (body + 0.5 * stray) + style["halo"] * rim
    return expose(image, style, streams, grey=True)


def paint_he(cells: Nuclei, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Paint haematoxylin and eosin by Beer-Lambert: each channel is white times exp(-optical density)."""
    rng = streams.rng("texture")
    _, glow, height = compose(cells, px, soft_px=1.0 + style["softness"] * px / 256)
    chromatin = fractal(rng, px, cells=20, octaves=3, gain=0.8)
    nuclear = glow * (1 + style["chromatin"] * chromatin) * (1.15 - 0.35 * style["dome"] * height)
    tissue = fractal(rng, px, cells=3, octaves=5)
    fibre = noise(rng, px, 40, stretch=8.0)
    lumen = np.clip((noise(rng, px, 4) - 1.6 + 1.6 * present(style, "lumen")) * 3, 0, 1) * (glow < 0.1)
    eosin = np.maximum(0.75 + 0.3 * tissue + 0.2 * style["fibre"] * fibre, 0.05) * (1 - 0.9 * lumen)
    stray = np.zeros((px, px), np.float32)
    if present(style, "ghosts") * 14 >= 1:
        stray = resize(ghosts(rng, style, px, count=style["ghosts"] * 14), px)
    blood = np.clip((noise(rng, px, 9) - 2.6 + present(style, "blood")) * 5, 0, 1) * (glow < 0.1)
    purple = (nuclear + 0.3 * stray + style["basophilia"] * np.maximum(tissue + 1, 0) * 0.25) * style["haematoxylin"]
    pink = eosin * style["eosin"]
    h_vector = (style["h_red"], style["h_green"], style["h_blue"])
    image = np.empty((3, px, px), np.float32)
    for channel, (h, e, b) in enumerate(
        zip(h_vector, (0.12, style["e_green"], style["e_blue"]), (0.05, 1.4, 1.1), strict=True)
    ):
        image[channel] = np.exp(-(purple * np.float32(h) + pink * np.float32(e) + blood * np.float32(b)))
    return expose(soften(image * np.float32(style["white"])), style, streams)


FLUO = {
    "stain": (0, 0), "radius": (0.014, 0.075), "spread": (0.08, 0.35), "ratio": (0.6, 0.92), "spacing": (0.9, 2.6),
    "fill": (0.06, 0.95), "clump": (0.0, 0.9), "align": (0.0, 0.7), "rough": (0.01, 0.09), "glow_spread": (0.05, 0.5),
    "softness": (0, 3.5), "chromatin": (0.02, 0.3), "dome": (0.0, 0.7), "haze": (0.0, 0.3), "uneven": (0.0, 0.05),
    "ghosts": (-0.8, 0.9), "debris": (-0.8, 0.8), "background": (0.0, 0.1), "peak": (0.06, 0.8),
    "gamma": (0.75, 1.25), "blur": (-0.003, 0.006), "noise": (-0.005, 0.03), "grain": (0.7, 1.8), "jpeg": (60, 150),
}  # fmt: skip
STAINED = {
    "stain": (1, 1), "radius": (0.018, 0.085), "spread": (0.1, 0.4), "ratio": (0.45, 0.9), "spacing": (0.85, 2.2),
    "fill": (0.15, 0.95), "clump": (0.0, 0.9), "align": (0.0, 1.0), "rough": (0.02, 0.09),
    "glow_spread": (0.05, 0.45), "softness": (0, 3.0), "chromatin": (0.05, 0.4), "dome": (0.0, 1.0),
    "lumen": (-0.6, 0.9), "fibre": (0, 1.2), "ghosts": (-0.5, 1.0), "blood": (-3, 0.9), "basophilia": (0.0, 1.0),
    "haematoxylin": (0.7, 1.7), "eosin": (0.1, 1.1), "h_red": (0.45, 1.1), "h_green": (0.6, 1.3),
    "h_blue": (0.12, 0.5), "e_green": (0.3, 0.9), "e_blue": (0.08, 0.55), "white": (0.82, 1.0), "gain_r": (0.9, 1.05),
    "gain_b": (0.9, 1.05), "gamma": (0.8, 1.2), "saturation": (0.6, 1.4), "blur": (-0.003, 0.006),
    "noise": (-0.02, 0.035), "grain": (0.7, 1.8), "jpeg": (50, 150),
}  # fmt: skip
GREY = FLUO | {
    "stain": (2, 2), "background": (0.45, 0.95), "peak": (0.1, 0.5), "uneven": (0.0, 0.3), "grime": (0.0, 0.06),
    "halo": (0.0, 0.6), "noise": (-0.01, 0.04), "debris": (-0.4, 0.8), "haze": (0.0, 0.1),
}  # fmt: skip

LOOKS = {
    "dapi_20x": FLUO | {
        "radius": (0.018, 0.026), "spacing": (1.2, 1.9), "fill": (0.25, 0.8), "ratio": (0.6, 0.85),
        "background": (0.005, 0.03), "peak": (0.2, 0.4), "noise": (0.005, 0.02), "ghosts": (-0.5, 0.6),
        "debris": (-0.2, 0.5), "jpeg": (100, 100),
    },
    "hoechst_63x": FLUO | {
        "radius": (0.055, 0.075), "spacing": (1.1, 1.5), "fill": (0.45, 0.75), "background": (0.03, 0.06),
        "peak": (0.05, 0.11), "softness": (1.5, 3.0), "noise": (0.01, 0.03), "debris": (0.1, 0.8),
        "ghosts": (0.2, 0.8), "gamma": (0.9, 1.0), "glow_spread": (0.1, 0.25), "jpeg": (100, 100),
    },
    "he_pink": STAINED | {
        "radius": (0.022, 0.035), "eosin": (0.7, 1.0), "e_green": (0.6, 0.85), "e_blue": (0.25, 0.4),
        "h_red": (0.8, 1.0), "h_green": (0.9, 1.2), "basophilia": (0, 0.3), "jpeg": (70, 90),
    },
    "he_violet": STAINED | {
        "radius": (0.045, 0.07), "eosin": (0.15, 0.4), "e_green": (0.35, 0.5), "e_blue": (0.08, 0.16),
        "h_red": (0.55, 0.75), "h_green": (0.8, 1.1), "h_blue": (0.12, 0.22), "basophilia": (0.4, 0.9),
        "white": (0.82, 0.9), "align": (0.4, 1.0), "blood": (-3, 0.4), "jpeg": (100, 100),
    },
    "brightfield_grey": GREY | {
        "radius": (0.03, 0.05), "background": (0.6, 0.8), "peak": (0.14, 0.3), "grime": (0.02, 0.05),
        "noise": (0.01, 0.035), "halo": (0.2, 0.6), "jpeg": (100, 100),
    },
}  # fmt: skip

RECIPE = Recipe(
    task=PhantomTask("nuclei", "microscopy of cell nuclei", ("nucleus",), tuple(LOOKS)),
    looks=LOOKS,
    generic=((0.5, FLUO), (0.35, STAINED), (0.15, GREY)),
    anatomy=anatomy,
    masks=masks,
    paint=paint,
)

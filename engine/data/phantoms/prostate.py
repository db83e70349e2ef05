"""T2-weighted axial MR of the pelvis; four slices from base to apex share one patient.

Lengths are in units of the gland's half-width, which the style key ``zoom`` sets as a share of half the picture.
Distractors: bladder, rectum (with an endorectal coil at some sites), obturator muscles, levator, seminal vesicles.
"""

from __future__ import annotations

import numpy as np

from engine.data.phantoms.base import PhantomTask, Recipe, Streams, Style, present
from engine.data.phantoms.canvas import blob
from engine.data.phantoms.section import Layer, Pen, Section, masks, paint_section

TISSUES = (
    "air", "fat", "muscle", "marrow", "urine", "wall", "lumen", "peripheral", "transition", "bright_nodule",
    "dark_nodule", "levator", "veins",
)  # fmt: skip
AIR, FAT, MUSCLE, MARROW, URINE, WALL, LUMEN, PERIPHERAL, TRANSITION, BRIGHT, DARK, LEVATOR, VEINS = range(13)
ORGAN = (PERIPHERAL, TRANSITION, BRIGHT, DARK)


def anatomy(style: Style, streams: Streams, position: float) -> Section:
    """Return one slice; ``position`` runs from base (-1) to apex (1)."""
    rng = streams.rng("pelvis")
    pen = Pen([], rng, rng.normal(0, 0.05), rng.normal(0.02, 0.06), style["zoom"])
    add = pen.add
    width = rng.uniform(5.2, 6.4)
    add(FAT, 0, 0.2, width, width * rng.uniform(0.62, 0.75), rough=0.03)
    add(MUSCLE, 0, 0.2, width * 0.86, width * 0.55, rough=0.05)
    add(FAT, 0, 0.1, 2.5 + 0.2 * position, rng.uniform(2.3, 2.8), rough=0.08)
    for side in (-1, 1):
        add(MARROW, side * rng.uniform(3.2, 3.6), -0.3, 0.9, 1.0 - 0.15 * position, rough=0.06)
        add(
            MUSCLE,
            side * rng.uniform(1.85, 2.1),
            -0.1,
            rng.uniform(0.4, 0.55),
            rng.uniform(1.2, 1.5),
            angle=side * 0.25,
        )
        add(MUSCLE, side * 1.5, 2.7, 1.1, 0.7, angle=side * 0.6, rough=0.08)
        add(VEINS, side * rng.uniform(1.15, 1.3), rng.uniform(0.1, 0.4), 0.2, 0.3, rough=0.2)
    add(MARROW, 0, -2.3 + 0.1 * position, 1.1, 0.5, rough=0.1)
    levator = pen.part(streams.rng("levator"))
    for side in (-1, 1) if position > -0.4 else ():
        levator.add(LEVATOR, side * levator.rng.uniform(1.12, 1.25), 0.75, 0.12, 0.8, angle=-side * 0.3)
    size = float(np.sqrt(1 - (0.8 * position) ** 2)) * style["gland"]
    pelvic_organs(pen.part(streams.rng("pelvic")), style, position, size)
    gland(pen.part(streams.rng("gland")), style, size)
    return Section(tuple(pen.layers), ORGAN)


def pelvic_organs(pen: Pen, style: Style, position: float, size: float) -> None:
    """Add bladder, seminal vesicles and rectum around the gland."""
    rng, add = pen.rng, pen.add
    full = max(0.0, 0.25 - position) * style["bladder"]
    wide, tall, shift = rng.uniform(0.9, 1.5), rng.uniform(0.6, 0.9), rng.normal(0, 0.15)
    if full > 0.1:
        add(WALL, shift, -0.75 - 0.35 * full, wide * (0.4 + 0.6 * full), tall * (0.5 + 0.5 * full), rough=0.05)
        add(URINE, shift, -0.78 - 0.35 * full, wide * (0.34 + 0.56 * full), tall * (0.42 + 0.46 * full), rough=0.05)
    if position < -0.5:
        for side in (-1, 1):
            add(VEINS, side * 0.6, 0.55, 0.55, 0.2, angle=-side * 0.35, rough=0.15)
    radius = rng.uniform(0.45, 0.65) * (1 + 0.5 * present(style, "coil"))
    down = 0.72 * size + radius * 0.95
    swing, gas = rng.normal(0, 0.12), rng.uniform(0.55, 0.85)
    add(WALL, swing, down, radius * rng.uniform(1.0, 1.25), radius, rough=0.06)
    add(LUMEN, swing, down, radius * gas * 1.1, radius * gas, rough=0.08)


def gland(pen: Pen, style: Style, size: float) -> None:
    """Append capsule, peripheral and transition zone and nodules; only the gland's own tissue is covered by nodules."""
    rng, layers, unit, x0, y0 = pen.rng, pen.layers, pen.unit, pen.x0, pen.y0
    wide, tall = unit * size, unit * size * rng.uniform(0.72, 0.88)
    outline = blob(rng, x0, y0, wide, tall, angle=rng.normal(0, 0.08), rough=0.05)
    layers.append(Layer(outline.scaled(1.07), MUSCLE))
    layers.append(Layer(outline, PERIPHERAL))
    share = style["transition_share"]
    inner = blob(rng, x0, y0 - tall * 0.18, wide * share, tall * share * 0.95, rough=0.06)
    layers.append(Layer(inner, TRANSITION, (PERIPHERAL,)))
    for _ in range(int(rng.integers(2, 6))):
        at, angle = rng.uniform(0.1, 0.75) * share, rng.uniform(0, 2 * np.pi)
        radius = unit * size * rng.uniform(0.1, 0.28)
        place = (x0 + at * wide * np.cos(angle), y0 - tall * 0.18 + at * tall * np.sin(angle))
        kind = BRIGHT if rng.random() < 0.5 else DARK
        layers.append(Layer(blob(rng, *place, radius, radius * rng.uniform(0.7, 1), rough=0.12), kind, ORGAN))
    if rng.random() < style["tumour"]:
        side, radius = rng.choice([-1, 1]), unit * size * rng.uniform(0.12, 0.3)
        place = (x0 + side * wide * 0.6, y0 + tall * 0.5)
        layers.append(Layer(blob(rng, *place, radius, radius * 0.7, rough=0.15), DARK, ORGAN))


def paint(section: Section, mask: np.ndarray, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Paint one slice; a coil, where the site uses one, lies in the rectum."""
    rectum = next(layer.shape for layer in reversed(section.layers) if layer.label == LUMEN)
    return paint_section(section, style, streams, px, tissues=TISSUES, coil=(rectum.x, rectum.y))


BASE = {
    "zoom": (0.2, 0.46), "gland": (0.85, 1.1), "bladder": (0.2, 1.2), "transition_share": (0.45, 0.85),
    "tumour": (0, 1), "coil": (-1.0, 0.8), "air": (0.0, 0.02), "fat": (0.4, 0.95), "muscle": (0.1, 0.3),
    "marrow": (0.3, 0.7), "urine": (0.7, 1.0), "wall": (0.12, 0.35), "lumen": (0.0, 0.35), "peripheral": (0.4, 0.9),
    "transition": (0.25, 0.5), "bright_nodule": (0.4, 0.75), "dark_nodule": (0.15, 0.35), "levator": (0.1, 0.3),
    "veins": (0.45, 0.9), "texture": (0.02, 0.12), "bias": (0.0, 0.35), "ghosting": (-1.0, 1.0),
    "rician": (-0.01, 0.05), "brightness": (-0.06, 0.08), "contrast": (0.7, 1.4), "gamma": (0.7, 1.5),
    "blur": (-0.003, 0.008), "noise": (-0.02, 0.03), "grain": (0.8, 1.8),
}  # fmt: skip

LOOKS = {
    "vendor_a_3t": BASE | {
        "zoom": (0.3, 0.38), "coil": (-1, -0.5), "bias": (0, 0.08), "rician": (0.01, 0.025), "fat": (0.6, 0.75),
        "peripheral": (0.65, 0.85), "blur": (-0.003, 0.001), "ghosting": (-1, -0.2), "contrast": (1.0, 1.15),
        "gamma": (0.9, 1.05),
    },
    "vendor_b_1t5_coil": BASE | {
        "zoom": (0.38, 0.46), "coil": (0.4, 0.9), "bias": (0.15, 0.3), "rician": (0.02, 0.04), "lumen": (0.0, 0.05),
        "gamma": (0.75, 0.9), "peripheral": (0.6, 0.8), "texture": (0.05, 0.12),
    },
    "vendor_c_wide": BASE | {
        "zoom": (0.19, 0.25), "coil": (-1, -0.5), "fat": (0.8, 0.95), "gamma": (1.15, 1.5), "rician": (0.02, 0.04),
        "bias": (0.05, 0.2), "blur": (0.001, 0.004), "lumen": (0.05, 0.3), "peripheral": (0.5, 0.65),
    },
    "vendor_d_low_field": BASE | {
        "zoom": (0.28, 0.36), "coil": (-1, -0.5), "contrast": (0.55, 0.75), "brightness": (0.05, 0.12),
        "rician": (0.04, 0.07), "blur": (0.005, 0.01), "ghosting": (0.2, 1.0), "fat": (0.4, 0.55),
        "peripheral": (0.38, 0.52), "transition": (0.28, 0.42), "bias": (0.15, 0.35),
    },
}  # fmt: skip

RECIPE = Recipe(
    task=PhantomTask("prostate", "T2-weighted prostate MR", ("prostate",), tuple(LOOKS)),
    looks=LOOKS,
    generic=((1.0, BASE),),
    anatomy=anatomy,
    masks=masks,
    paint=paint,
    slices_per_patient=4,
)

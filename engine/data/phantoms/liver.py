"""Abdominal CT and MR with the liver; four slices from the dome to the lower edge share one patient.

The patient's right is on the left. Distractors of like brightness lie beside the liver: spleen, kidneys, stomach,
bowel, vessels, gall bladder. Lengths are in units of half the body's width, set by ``zoom``.
"""

from __future__ import annotations

import numpy as np

from engine.data.phantoms.base import PhantomTask, Recipe, Streams, Style
from engine.data.phantoms.canvas import Blob
from engine.data.phantoms.section import Layer, Pen, Section, masks, paint_section

TISSUES = (
    "air", "fat", "muscle", "cavity", "bone", "cord", "lung", "liver", "liver_vessel", "liver_lesion", "spleen",
    "kidney", "pelvis",
    "stomach", "gas", "vessel", "bile", "bowel",
)  # fmt: skip
(AIR, FAT, MUSCLE, CAVITY, BONE, CORD, LUNG, LIVER, LIVER_VESSEL, LIVER_LESION, SPLEEN, KIDNEY, PELVIS, STOMACH, GAS,
VESSEL, BILE,
 BOWEL) = range(18)  # fmt: skip
ORGAN = (LIVER, LIVER_VESSEL, LIVER_LESION)
SOFT = (CAVITY, STOMACH, GAS, BOWEL, SPLEEN)


def anatomy(style: Style, streams: Streams, position: float) -> Section:
    """Return one slice; ``position`` runs from the dome (-1) to the lower edge (1)."""
    rng = streams.rng("body")
    pen = Pen([], rng, rng.normal(0, 0.03), rng.normal(0, 0.03), style["zoom"], style["body_depth"])
    rind = style["fat_rind"]
    body = pen.add(FAT, 0, 0, 1.0, 1.0, rough=0.025)
    pen.layers.append(Layer(body.scaled(1 - rind), MUSCLE))
    pen.layers.append(Layer(body.scaled(1 - rind - 0.07), CAVITY))
    ribs(pen.layers, rng, body.scaled(1 - rind - 0.04))
    upper_organs(pen.part(streams.rng("upper")), position)
    bowel(pen.part(streams.rng("bowel")), position)
    liver(pen.part(streams.rng("liver")), position, style)
    lower_organs(pen.part(streams.rng("lower")), position)
    spine(pen.part(streams.rng("spine")))
    return Section(tuple(pen.layers), ORGAN)


def ribs(layers: list[Layer], rng: np.random.Generator, wall: Blob) -> None:
    """Append cut ribs in the muscle wall."""
    phase = rng.uniform(0, 1)
    for angle in (np.arange(12) + phase) * (2 * np.pi / 12):
        if np.sin(angle) > -0.75:
            x, y = wall.x + wall.rx * np.cos(angle), wall.y + wall.ry * np.sin(angle)
            layers.append(Layer(Blob(x, y, 0.05, 0.022, angle + np.pi / 2), BONE, (MUSCLE, CAVITY)))


def upper_organs(pen: Pen, position: float) -> None:
    """Add what the liver may overlap: lungs, stomach, spleen."""
    rng, add = pen.rng, pen.add
    if position < -0.4:
        for side in (-1, 1):
            shape = Blob(
                pen.x0 + side * 0.55 * pen.unit, pen.y0 + 0.3 * pen.unit, 0.25 * -position, 0.28 * -position, side * 0.4
            )
            pen.layers.append(Layer(shape, LUNG, (CAVITY,)))
    big = rng.uniform(0.7, 1.15)
    stomach = (rng.uniform(0.25, 0.45), rng.uniform(-0.4, -0.2), 0.3 * big, 0.28 * big)
    tilt, spleen_y = rng.uniform(-0.5, 0.5), rng.uniform(0.15, 0.3)
    if position < 0.6:
        add(STOMACH, *stomach, angle=tilt, over=(CAVITY,), rough=0.1)
        add(GAS, stomach[0], stomach[1] - 0.12, stomach[2] * 0.6, stomach[3] * 0.35, over=(STOMACH,))
    grow = 1 - 0.5 * max(0.0, position)
    add(
        SPLEEN,
        0.66,
        spleen_y,
        0.17 * grow * big,
        0.34 * grow,
        angle=-0.25,
        over=(CAVITY, LUNG),
        rough=0.08,
    )


def bowel(pen: Pen, position: float) -> None:
    """Add loops of bowel, more of them lower down."""
    rng, add = pen.rng, pen.add
    for _ in range(int(3 + 7 * max(0.0, position + 0.3))):
        x, y = rng.uniform(-0.6, 0.65), rng.uniform(-0.6, 0.15)
        radius = rng.uniform(0.08, 0.15)
        add(BOWEL, x, y, radius, radius * 0.8, over=(CAVITY,), rough=0.15)
        if rng.random() < 0.4:
            add(GAS, x, y - 0.02, radius * 0.5, radius * 0.4, over=(BOWEL,))


def liver(pen: Pen, position: float, style: Style) -> None:
    """Add right and left lobe, fissure, vessels and lesions."""
    rng, add = pen.rng, pen.add
    size = style["liver_size"] * (1 - 0.4 * max(0.0, position) ** 1.5 - 0.2 * max(0.0, -position - 0.3))
    right = (-0.42 - 0.04 * position, 0.02 + 0.1 * position)
    over = (*SOFT, LUNG)
    add(LIVER, *right, 0.46 * size, 0.68 * size, angle=rng.normal(0.1, 0.12), over=over, rough=0.07)
    left = style["left_lobe"] * (1 - 0.75 * max(0.0, position)) * size
    add(
        LIVER,
        -0.1 + 0.15 * left,
        -0.42,
        0.48 * left + 0.05,
        0.26 * left + 0.05,
        angle=rng.normal(0.15, 0.15),
        over=over,
        rough=0.08,
    )
    if -0.5 < position < 0.7:
        add(CAVITY, rng.uniform(-0.15, -0.02), -0.3, 0.02, 0.16, angle=0.5, over=ORGAN)
        add(VESSEL, -0.12, -0.02, 0.08, 0.05, angle=0.4)
    for _ in range(int(rng.integers(4, 10))):
        x, y = right[0] + rng.normal(0, 0.18), right[1] + rng.normal(0, 0.25)
        add(
            LIVER_VESSEL,
            x,
            y,
            rng.uniform(0.015, 0.03),
            rng.uniform(0.03, 0.14),
            angle=rng.uniform(0, np.pi),
            over=(LIVER,),
        )
    for _ in range(int(rng.integers(0, 3)) if rng.random() < style["lesions"] else 0):
        radius = rng.uniform(0.03, 0.14)
        add(
            LIVER_LESION,
            right[0] + rng.normal(0, 0.15),
            right[1] + rng.normal(0, 0.2),
            radius,
            radius * 1.2,
            over=ORGAN,
            rough=0.1,
        )


def lower_organs(pen: Pen, position: float) -> None:
    """Add what lies in front of or notches the liver: gall bladder, kidneys, great vessels."""
    rng, add = pen.rng, pen.add
    if position > 0.0:
        add(BILE, rng.uniform(-0.35, -0.2), -0.2, 0.1, 0.15, angle=0.5, over=(*ORGAN, *SOFT))
    for side in (-1, 1):
        if position > (0.0 if side < 0 else -0.35):
            x, y, grow = side * rng.uniform(0.4, 0.47), rng.uniform(0.38, 0.45), 0.75 + 0.25 * min(1.0, position + 0.3)
            add(KIDNEY, x, y, 0.15 * grow, 0.24 * grow, angle=side * 0.35, over=(*ORGAN, *SOFT))
            add(PELVIS, x - side * 0.05, y, 0.05 * grow, 0.1 * grow, angle=side * 0.35, over=(KIDNEY,))
    add(VESSEL, -0.14, 0.2, 0.07, 0.07)
    add(VESSEL, 0.09, 0.3, 0.07, 0.09)


def spine(pen: Pen) -> None:
    """Add vertebra, spinal canal and back muscles."""
    add = pen.add
    for side in (-1, 1):
        add(MUSCLE, side * 0.22, 0.78, 0.2, 0.17, rough=0.08)
        add(BONE, side * 0.12, 0.66, 0.12, 0.04, angle=side * 0.3)
    add(BONE, 0, 0.5, 0.16, 0.17, rough=0.04)
    add(BONE, 0, 0.8, 0.035, 0.14)
    add(CORD, 0, 0.68, 0.06, 0.06)


def paint(section: Section, mask: np.ndarray, style: Style, streams: Streams, px: int) -> np.ndarray:
    """Paint one slice."""
    return paint_section(section, style, streams, px, tissues=TISSUES)


SHAPE = {
    "zoom": (0.78, 1.15), "body_depth": (0.65, 0.85), "fat_rind": (0.04, 0.16), "liver_size": (0.82, 1.12),
    "left_lobe": (0.5, 1.15), "lesions": (0, 1), "brightness": (-0.05, 0.08), "contrast": (0.75, 1.3),
    "gamma": (0.75, 1.35), "blur": (-0.003, 0.007), "grain": (0.8, 1.8),
}  # fmt: skip
CT = SHAPE | {
    "air": (-0.4, -0.3), "fat": (0.1, 0.35), "muscle": (0.42, 0.58), "cavity": (0.12, 0.38), "bone": (0.85, 1.0),
    "cord": (0.4, 0.5), "lung": (-0.3, 0.05), "liver": (0.48, 0.72), "liver_vessel": (0.45, 0.85),
    "liver_lesion": (0.35, 0.55), "spleen": (0.45, 0.78), "kidney": (0.42, 0.9), "pelvis": (0.3, 0.9),
    "stomach": (0.38, 0.6), "gas": (-0.4, -0.2), "vessel": (0.45, 0.95), "bile": (0.35, 0.45), "bowel": (0.35, 0.65),
    "texture": (0.0, 0.06), "bias": (0.0, 0.03), "streaks": (-0.5, 1.0), "quantum": (0.005, 0.09),
    "quantum_grain": (1.0, 2.0),
}  # fmt: skip
T1 = SHAPE | {
    "air": (0, 0.02), "fat": (0.5, 1.0), "muscle": (0.25, 0.5), "cavity": (0.45, 0.95), "bone": (0.3, 0.6),
    "cord": (0.2, 0.4), "lung": (0, 0.08), "liver": (0.35, 0.7), "liver_vessel": (0.15, 0.45),
    "liver_lesion": (0.2, 0.45), "spleen": (0.25, 0.5), "kidney": (0.25, 0.55), "pelvis": (0.2, 0.6),
    "stomach": (0.1, 0.4), "gas": (0, 0.05), "vessel": (0.1, 0.5), "bile": (0.15, 0.6), "bowel": (0.2, 0.5),
    "texture": (0.02, 0.12), "bias": (0.05, 0.35), "ghosting": (-0.8, 1.0), "rician": (-0.01, 0.045),
    "noise": (-0.02, 0.03),
}  # fmt: skip
T2 = T1 | {
    "fat": (0.08, 0.6), "muscle": (0.06, 0.2), "cavity": (0.08, 0.5), "bone": (0.1, 0.35), "cord": (0.6, 1.0),
    "liver": (0.18, 0.4), "liver_vessel": (0.05, 0.5), "liver_lesion": (0.35, 0.8), "spleen": (0.4, 0.75),
    "kidney": (0.45, 0.8), "pelvis": (0.6, 1.0), "stomach": (0.3, 1.0), "vessel": (0.03, 0.3), "bile": (0.7, 1.0),
    "bowel": (0.3, 0.8),
}  # fmt: skip

LOOKS = {
    "ct_venous": CT | {
        "liver": (0.62, 0.7), "liver_vessel": (0.74, 0.84), "spleen": (0.66, 0.74), "kidney": (0.78, 0.88),
        "vessel": (0.76, 0.86), "fat": (0.15, 0.22), "cavity": (0.18, 0.25), "quantum": (0.01, 0.035),
        "contrast": (0.95, 1.1), "gamma": (0.95, 1.05), "blur": (-0.003, 0.001), "zoom": (0.85, 1.0),
    },
    "ct_low_dose": CT | {
        "liver": (0.5, 0.58), "liver_vessel": (0.45, 0.52), "spleen": (0.48, 0.54), "kidney": (0.44, 0.52),
        "vessel": (0.45, 0.52), "pelvis": (0.4, 0.45), "quantum": (0.06, 0.1), "streaks": (0.3, 1.0),
        "quantum_grain": (1.3, 1.9), "zoom": (0.78, 0.92), "fat_rind": (0.1, 0.18), "contrast": (0.75, 0.9),
    },
    "mr_t1_in": T1 | {
        "liver": (0.42, 0.54), "fat": (0.85, 1.0), "cavity": (0.78, 0.95), "spleen": (0.32, 0.42),
        "bias": (0.1, 0.25), "rician": (0.01, 0.04), "zoom": (0.8, 0.95), "gamma": (0.95, 1.2),
    },
    "mr_t2_fat_sat": T2 | {
        "liver": (0.2, 0.3), "fat": (0.08, 0.16), "cavity": (0.1, 0.18), "bias": (0.15, 0.35), "rician": (0.02, 0.04),
        "ghosting": (-0.2, 1.0), "gamma": (0.75, 0.95), "blur": (0.001, 0.006),
    },
}  # fmt: skip

RECIPE = Recipe(
    task=PhantomTask("liver", "axial abdominal CT or MR slice", ("liver",), tuple(LOOKS)),
    looks=LOOKS,
    generic=((0.4, CT), (0.35, T1), (0.25, T2)),
    anatomy=anatomy,
    masks=masks,
    paint=paint,
    slices_per_patient=4,
)

"""Cross-sections of the body for the volume tasks (prostate, liver): a stack of blobs in painter's order, a tissue a
label.

The mask is a set of labels of the rasterised stack, so it is exact whatever lies in front of the organ.
Style keys used here: one brightness a tissue name, ``texture``, ``bias`` (slow shading, log units), ``ghosting``
(phase ghosts),
``streaks``, ``quantum`` and ``quantum_grain`` (CT), ``rician`` (MR), and the camera's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.data.phantoms.base import Streams, Style, present
from engine.data.phantoms.camera import expose
from engine.data.phantoms.canvas import Blob, blob, fractal, grid, noise, soften, stamp


@dataclass(frozen=True)
class Layer:
    """One blob, its tissue label, and the labels it may cover (None: all)."""

    shape: Blob
    label: int
    over: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Pen:
    """Adds blobs to ``layers`` in body units: ``unit`` is one length in picture units, ``tall`` squeezes the vertical.

    Every part of the body has its own stream (:meth:`part`), so that an organ missing in one slice does not change the
    others.
    """

    layers: list[Layer]
    rng: np.random.Generator
    x0: float
    y0: float
    unit: float
    tall: float = 1.0

    def part(self, rng: np.random.Generator) -> Pen:
        """Return a pen on the same layers that draws from ``rng``."""
        return replace(self, rng=rng)

    def add(
        self,
        label: int,
        x: float,
        y: float,
        rx: float,
        ry: float,
        *,
        angle: float = 0.0,
        rough: float = 0.05,
        over: tuple[int, ...] | None = None,
    ) -> Blob:
        """Append a blob of ``label`` at (x, y) with radii (rx, ry) in body units; return it."""
        step = self.unit * self.tall
        centre = (self.x0 + x * self.unit, self.y0 + y * step)
        shape = blob(self.rng, *centre, rx * self.unit, ry * step, angle=angle, rough=rough)
        self.layers.append(Layer(shape, label, over))
        return shape


@dataclass(frozen=True)
class Section:
    """Layers in painter's order, and the labels that make up the organ."""

    layers: tuple[Layer, ...]
    organ: tuple[int, ...]


def label_map(section: Section, px: int) -> np.ndarray:
    """Return the tissue label of every pixel centre, (px, px) uint8."""
    labels = np.zeros((px, px), np.uint8)
    for layer in section.layers:
        if layer.over is None:
            stamp(labels, layer.shape, layer.label)
        else:
            allowed = np.zeros(256, bool)
            allowed[list(layer.over)] = True
            stamp(labels, layer.shape, layer.label, within=allowed[labels])
    return labels


def masks(section: Section, px: int) -> np.ndarray:
    """Return the organ, (1, px, px) uint8."""
    table = np.zeros(256, np.uint8)
    table[list(section.organ)] = 1
    return table[label_map(section, px)][None]


def paint_section(
    section: Section,
    style: Style,
    streams: Streams,
    px: int,
    *,
    tissues: Sequence[str],
    coil: tuple[float, float] | None = None,
) -> np.ndarray:
    """Paint tissues by their brightness in the style; ``coil`` is the place of a surface coil whose signal falls
    off."""
    rng = streams.rng("paint")
    labels = label_map(section, px)
    table = np.zeros(256, np.float32)
    jitter = streams.rng("tissue").normal(1.0, 0.04, len(tissues))
    table[: len(tissues)] = [style[name] * factor for name, factor in zip(tissues, jitter, strict=True)]
    image = soften(table[labels], 1 + (px > 160))
    fine = fractal(rng, px, cells=10, octaves=4, gain=0.8)
    image = image * (1 + np.float32(style["texture"]) * fine)
    image *= np.exp(np.float32(style["bias"]) * noise(rng, px, 3))
    y, x = grid(px)
    tilt = rng.uniform(-1, 1, 2) * style["bias"] * 0.6
    image *= 1 + np.float32(tilt[0]) * x + np.float32(tilt[1]) * y
    if coil is not None and present(style, "coil") > 0:
        distance = (x - np.float32(coil[0])) ** 2 + (y - np.float32(coil[1])) ** 2
        image *= 0.45 + np.float32(1.5 * style["coil"]) * np.exp(-distance * 5)
    if present(style, "ghosting") > 0:
        shift = round(px * rng.uniform(0.06, 0.2))
        image += np.float32(0.18 * style["ghosting"]) * (np.roll(image, shift, 0) + np.roll(image, -shift, 0)) * 0.5
    if present(style, "streaks") > 0:
        angle = rng.uniform(0, np.pi)
        along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        image += (
            np.float32(0.03 * style["streaks"]) * np.sin(along * np.float32(rng.uniform(40, 90))) * noise(rng, px, 5)
        )
    if present(style, "quantum") > 0:
        # CT: the noise comes before the display window, which clips it away where air lies below the window.
        image = image + noise(rng, px, int(px / style["quantum_grain"])) * np.float32(style["quantum"])
    sigma = np.float32(present(style, "rician"))
    if sigma > 0:
        # Magnitude of a complex signal: the noise floor of air is raised, as in MR.
        real, imaginary = rng.standard_normal((2, px, px), dtype=np.float32) * sigma
        image = np.sqrt((image + real) ** 2 + imaginary**2)
    return expose(image, style, streams, grey=True)

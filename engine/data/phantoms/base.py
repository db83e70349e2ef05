"""Records and the drawing protocol that the six phantom tasks share.

A task is a :class:`Recipe`: ranges of appearance for each named site and for the *generic* families, a function that
draws the anatomy, one that rasterises its exact masks and one that paints the picture. Randomness comes from named
streams, so the anatomy does not move when the resolution or the texture code changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.seeding import numpy_generator

Style = dict[str, float]
Ranges = Mapping[str, tuple[float, float]]

GENERIC_SITE = "generic"


@dataclass(frozen=True)
class PhantomTask:
    """What a task is called and shows; ``modality`` is plain text and serves as the diffusion prompt."""

    name: str
    modality: str
    classes: tuple[str, ...]
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Phantom:
    """One image with its exact mask.

    Attributes
    ----------
    image : (H, W, 3) uint8, RGB, 0..255; grey modalities have three equal channels.
    mask : (K, H, W) uint8 in {0, 1}, one plane a class in the order of ``PhantomTask.classes``; planes may overlap.
    site, group : names of the site and of the patient; split data by ``group``.
    style : the appearance parameters that were drawn, dimensionless unless the task's file says otherwise.
    """

    image: np.ndarray
    mask: np.ndarray
    site: str
    group: str
    style: Style = field(default_factory=dict)


@dataclass(frozen=True)
class Streams:
    """Independent named random generators below one path (task, site, patient or image)."""

    seed: int
    path: tuple[str | int, ...]

    def rng(self, name: str) -> np.random.Generator:
        """Return a fresh generator for ``name``; asking twice gives the same stream from its start."""
        return numpy_generator(self.seed, "phantom", *self.path, name)


@dataclass(frozen=True)
class Recipe:
    """How a task is drawn.

    Attributes
    ----------
    looks : ranges of the style parameters for each named site.
    generic : families (weight, ranges) of the generic site.
    slices_per_patient : consecutive indices that share one patient's anatomy and style.
    anatomy : ``(style, patient streams, position in -1..1) -> geometry`` (resolution-free).
    masks : ``(geometry, image_px) -> (K, H, W) uint8``.
    paint : ``(geometry, masks, style, image streams, image_px) -> (H, W, 3) uint8``.
    """

    task: PhantomTask
    looks: Mapping[str, Ranges]
    generic: Sequence[tuple[float, Ranges]]
    anatomy: Callable[[Style, Streams, float], Any]
    masks: Callable[[Any, int], np.ndarray]
    paint: Callable[[Any, np.ndarray, Style, Streams, int], np.ndarray]
    slices_per_patient: int = 1

    def style(self, site: str, streams: Streams) -> Style:
        """Draw a style for ``site`` ("generic" draws a family first); uniform in each range."""
        rng = streams.rng("style")
        if site == GENERIC_SITE:
            weights = np.array([weight for weight, _ in self.generic])
            ranges = self.generic[int(rng.choice(len(weights), p=weights / weights.sum()))][1]
        else:
            ranges = self.looks[site]
        return {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()}


def present(style: Style, name: str) -> float:
    """Return an amount that may be absent: ranges with a negative part mean "not in every image"."""
    return max(0.0, style.get(name, 0.0))

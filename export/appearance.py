"""What a bundle says of the images that its model was trained on, in figures of whole sites. Torch-free.

With it a program that serves the model can tell that an image is of another kind (``export.foreign``).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.data.appearance import FIGURES, Look, measure

NUM_FIGURES = len(FIGURES)
DIGITS = 9
Row = Annotated[tuple[float, ...], Field(min_length=NUM_FIGURES, max_length=NUM_FIGURES)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class SiteLook(BaseModel):
    """The look of one site's training images; the site is not named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: Count
    mean: Row
    covariance: Annotated[tuple[Row, ...], Field(min_length=NUM_FIGURES, max_length=NUM_FIGURES)]

    @classmethod
    def of(cls, look: Look, *, num_images: int) -> SiteLook:
        """Return a look for a manifest, to ``DIGITS`` decimals."""
        mean, covariance = (np.round(values, DIGITS).tolist() for values in (look.mean, look.covariance))
        return cls(num_images=num_images, mean=tuple(mean), covariance=tuple(map(tuple, covariance)))


class TrainingAppearance(BaseModel):
    """All that a bundle says of its training images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: Literal["appearance-1"] = "appearance-1"
    """Which figures: ``engine.data.appearance.FIGURES``."""
    sites: Annotated[tuple[SiteLook, ...], Field(min_length=1, max_length=1000)]
    threshold: float | None
    """An image further than this from every site is unlike them; None where the sources had too few
    validation images for it."""
    num_validation: Count
    """Images that the threshold comes from."""
    colour_share: Annotated[float, Field(ge=0, le=1)]
    """Share of the training images that have colour."""
    spacing_mm: tuple[float, float] | None = None
    """Least and greatest distance of pixels in the training images that say it."""
    files: dict[Literal["dicom", "nifti", "picture"], Count]
    """Training images by kind of file."""

    @model_validator(mode="after")
    def _check(self) -> TrainingAppearance:
        numbers = [*(value for site in self.sites for row in (site.mean, *site.covariance) for value in row)]
        numbers += [value for value in (self.threshold, *(self.spacing_mm or ())) if value is not None]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("figures of training images must be finite")
        for site in self.sites:
            matrix = np.array(site.covariance)
            if not np.allclose(matrix, matrix.T, atol=10**-DIGITS) or np.linalg.eigvalsh(matrix)[0] < -(10**-6):
                raise ValueError("a covariance must be symmetric and not negative")
        return self

    @cached_property
    def _looks(self) -> tuple[Look, ...]:
        return tuple(Look(np.array(site.mean), np.array(site.covariance)) for site in self.sites)

    def distance(self, image_3HW: np.ndarray) -> float:
        """Return how far a model's input (3, H, W) in [0, 1] is from the nearest site's training images."""
        figures = measure(image_3HW)
        return min(look.distance(figures) for look in self._looks)

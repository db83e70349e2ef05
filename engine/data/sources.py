"""One image with its mask, wherever it comes from: a file of a folder dataset, or a phantom drawn on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from engine.data.description import DatasetDescription
from engine.data.masks import MaskRule, MaskValueError
from engine.data.phantoms import render
from engine.data.pixels import Geometry
from engine.data.readers import read_image, read_mask
from engine.errors import UserError

Split = Literal["train", "validation"]


class Item(Protocol):
    """An image with its mask; ``name`` is unique within the site, ``group`` is the patient."""

    @property
    def site(self) -> str:
        """Return the site's name."""

    @property
    def name(self) -> str:
        """Return the image's name."""

    @property
    def group(self) -> str:
        """Return the patient's name."""

    @property
    def split(self) -> Split | None:
        """Return the half that the dataset itself puts the image in, if it does."""

    @property
    def has_mask(self) -> bool:
        """Return whether anybody has said what it shows."""

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image (H, W, 3) uint8, uint16 or float32 in [0, 1], and mask (K, h, w) uint8 in {0, 1}."""

    def picture(self) -> np.ndarray:
        """Return the image alone."""


@dataclass(frozen=True)
class FolderItem:
    """An image file (or one slice of it) with its mask file, or its masks by class."""

    site: str
    name: str
    group: str
    image: Path
    masks: tuple[Path, ...]
    description: DatasetDescription = field(compare=False)
    geometry: Geometry = field(compare=False)
    """Of the image, as its header told when the dataset was scanned; its masks are brought to it."""
    slice_index: int = 0
    split: Split | None = None
    patient: str | None = None
    """As meta.csv names it. ``group`` is what the split keeps together: the patient, or the file alone where none is
    named, and with it whatever shows the same picture."""
    series: tuple[Path, ...] = field(default=(), compare=False)
    """Files of its DICOM series at this site, which have one range where they have no window; () for other images."""

    @property
    def has_mask(self) -> bool:
        """Return whether there is a mask file; only where masks are optional is there none."""
        return bool(self.masks)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask; a ``UserError`` names site and file."""
        return self.picture(), self.planes()

    def picture(self) -> np.ndarray:
        """Return the image (H, W, 3)."""
        try:
            image, _ = read_image(
                self.image,
                slice_index=self.slice_index,
                slice_axis=self.description.slice_axis,
                value_range=self.description.value_range,
                window=self.description.window,
                series=self.series,
            )
        except UserError as error:
            raise self._located(error) from error
        return image

    def planes(self) -> np.ndarray:
        """Return the mask (K, h, w) uint8 in {0, 1}."""
        return self.planes_of([self.labels(path) for path in self.masks])

    def labels(self, path: Path) -> np.ndarray:
        """Return the numbers stored in one of the mask files, (h, w) or (h, w, C), on the image's pixels."""
        try:
            axis = self.description.slice_axis
            white = MaskRule.of(self.description).white
            return read_mask(path, slice_index=self.slice_index, slice_axis=axis, like=self.geometry, white=white)
        except UserError as error:
            raise self._located(error) from error

    def planes_of(self, labels: list[np.ndarray]) -> np.ndarray:
        """Return the mask (K, h, w) uint8 in {0, 1} that the stored numbers of its files stand for."""
        try:
            return MaskRule.of(self.description).planes(labels)
        except MaskValueError as error:
            raise UserError(
                "data.mask_values",
                what=f"At site '{self.site}' the mask {self.masks[error.file]} {error}.",
                why="A pixel whose class is not declared cannot be trained on.",
                fix="Save the mask with the declared values, or declare mask_values or mask_threshold in dataset.toml.",
            ) from error

    def _located(self, error: UserError) -> UserError:
        what = error.what[0].lower() + error.what[1:]
        return UserError(error.code, what=f"At site '{self.site}': {what}", why=error.why, fix=error.fix)


@dataclass(frozen=True)
class PhantomItem:
    """A phantom, drawn when it is read; ``seed`` is the run's."""

    task: str
    site: str
    index: int
    group: str
    image_px: int
    seed: int
    split: Split | None = None

    @property
    def name(self) -> str:
        """Return the image's name."""
        return f"{self.site}_{self.index:04d}"

    @property
    def has_mask(self) -> bool:
        """Return True: what is drawn is known."""
        return True

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image (image_px, image_px, 3) uint8 and mask (K, image_px, image_px) uint8 in {0, 1}."""
        phantom = render(self.task, site=self.site, index=self.index, image_px=self.image_px, seed=self.seed)
        return phantom.image, phantom.mask

    def picture(self) -> np.ndarray:
        """Return the image alone."""
        return self.read()[0]

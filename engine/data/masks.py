"""From the numbers stored in mask files to one plane of {0, 1} for each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.description import DatasetDescription
from engine.data.samples import LEVELS, White

PLAIN = ((0, 1), (0, 255))
"""(background, foreground) of masks for which nothing is declared."""


class MaskValueError(ValueError):
    """A mask holds values, or a shape, that the dataset's description does not allow; the text says which.

    ``file`` counts the files of an image with one a class.
    """

    def __init__(self, text: str, *, file: int = 0) -> None:
        super().__init__(text)
        self.file = file


@dataclass(frozen=True)
class MaskRule:
    """How stored labels become planes; built from a dataset's description.

    Attributes
    ----------
    classes : names in the order of the planes.
    values : (background, foreground); or values by class for a label map; None accepts {0, 1} and {0, 255}.
    background : values of a label map that belong to no class.
    threshold : foreground from this level on; None for none.
    """

    classes: tuple[str, ...]
    values: tuple[int, int] | dict[str, tuple[int, ...]] | None = None
    background: tuple[int, ...] = (0,)
    threshold: float | None = None

    @classmethod
    def of(cls, description: DatasetDescription) -> MaskRule:
        """Return the rule that ``description`` states."""
        return cls(
            description.classes, description.mask_values, description.mask_background, description.mask_threshold
        )

    @property
    def white(self) -> White:
        """What white is in a mask whose palette has black and white alone; None where its own numbers are declared.

        A threshold is one of grey levels, which a palette's numbers are not.

        {0, 1} and {0, 255} are what is read without a declaration, too, so declaring them says nothing of a palette.
        """
        if self.threshold is not None:
            return LEVELS
        if self.values is None or self.values in PLAIN:
            return self.values[1] if isinstance(self.values, tuple) else PLAIN[-1][1]
        return None

    def planes(self, labels: list[np.ndarray]) -> np.ndarray:
        """Return (K, H, W) uint8 in {0, 1} of one file for all classes, or one file a class; classes may overlap."""
        if len(labels) == len(self.classes) > 1:
            return np.stack([self._of_file(k, plane) for k, plane in enumerate(labels)])
        stored = labels[0]
        if isinstance(self.values, dict):
            return self._label_map(_flat(stored))
        if len(self.classes) == 1:
            return self.binary(_flat(stored))[None]
        if stored.ndim == 3 and stored.shape[2] == len(self.classes):
            return np.stack([self.binary(stored[..., k]) for k in range(stored.shape[2])])
        raise MaskValueError(
            f"has shape {stored.shape}, but there are {len(self.classes)} classes: give masks/<class>/ folders, "
            "a channel a class (npy), or mask_values = {class = [values]} for a label map"
        )

    def _of_file(self, k: int, labels: np.ndarray) -> np.ndarray:
        try:
            return self.binary(_flat(labels))
        except MaskValueError as error:
            raise MaskValueError(str(error), file=k) from error

    def binary(self, labels_HW: np.ndarray) -> np.ndarray:
        """Return one class's plane (H, W) uint8 in {0, 1}."""
        if self.threshold is not None:
            return (labels_HW >= self.threshold).astype(np.uint8)
        pairs = PLAIN if not isinstance(self.values, tuple) else (self.values,)
        for background, foreground in pairs:
            plane = labels_HW == foreground
            if (plane | (labels_HW == background)).all():
                return plane.astype(np.uint8)
        allowed = " or ".join(f"{{{low}, {high}}}" for low, high in pairs)
        raise MaskValueError(f"holds the values {_listed(labels_HW)}, but only {allowed} are declared")

    def _label_map(self, labels_HW: np.ndarray) -> np.ndarray:
        assert isinstance(self.values, dict)
        known = {*self.background, *(value for values in self.values.values() for value in values)}
        if not np.isin(labels_HW, list(known)).all():
            raise MaskValueError(f"holds the values {_listed(labels_HW)}, but only {sorted(known)} are declared")
        return np.stack([np.isin(labels_HW, self.values[name]) for name in self.classes]).astype(np.uint8)


def _flat(labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 3 and labels.shape[2] == 1:
        return labels[..., 0]
    if labels.ndim == 3:
        raise MaskValueError(f"has {labels.shape[2]} channels where one plane is expected")
    return labels


def _listed(labels: np.ndarray) -> str:
    values = np.unique(labels)
    shown = ", ".join(str(int(value)) for value in values[:6])
    return f"{shown}, … ({values.size} different)" if values.size > 6 else shown

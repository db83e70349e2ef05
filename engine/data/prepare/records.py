"""What is known of a public dataset, what was found of it, and what each of its images becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from engine.data.prepare.downloads import Downloads, Entry


class LeaveOut(ValueError):
    """A case that cannot be used; the text ends the sentence "NAME was left out: …"."""


@dataclass(frozen=True)
class Part:
    """One archive of a dataset: what it holds, how it is called, where to get it, and its published MD5, if any."""

    title: str
    file: str
    page: str
    md5: str | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels (X, Y, Z) in stored order, and where they lie.

    ``affine_lps`` (4, 4) leads from (x, y, z, 1) of the array to LPS mm; None where nothing is known of it.
    """

    voxels: np.ndarray
    affine_lps: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Made:
    """An image with its masks, ready to be written.

    ``image`` is a file to be copied as it is, a picture (H, W) or (H, W, 3) uint8, or a volume. ``masks`` are planes
    (H, W) of {0, 1}, volumes or files by class, or one under "" where a file holds all classes. ``site`` is given where
    only the pixels decide it.
    """

    image: Entry | np.ndarray | Volume
    masks: Mapping[str, Entry | np.ndarray | Volume]
    site: str | None = None


class Bench(Protocol):
    """Where a case is made: files of archives are brought to the disk, for a decoder that wants a path.

    Files of one folder of an archive lie in one folder there, and those of others elsewhere.
    """

    def local(self, entry: Entry) -> Path:
        """Return the path of a file; gone when the case is written."""

    def kept(self, entry: Entry) -> Path:
        """Return the path of a large file that many cases read; gone when the dataset is written."""


@dataclass(frozen=True)
class Case:
    """One image of the dataset: from which files it is made, and how. ``patient`` is None where nobody tells.

    ``site`` is None where ``make`` decides it.
    """

    site: str | None
    name: str
    patient: str | None
    sources: tuple[Entry, ...]
    make: Callable[[Bench], Made] = field(compare=False)


@dataclass(frozen=True)
class LeftOut:
    """A file or case that is not in the dataset, and why."""

    name: str
    why: str


@dataclass
class Findings:
    """What the downloads hold of a dataset; filled by its ``find``."""

    cases: list[Case] = field(default_factory=list)
    missing: list[Part] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    """Keys of dataset.toml that only the files tell."""

    def leave_out(self, name: str, why: str) -> None:
        """Note that ``name`` is not used."""
        self.left_out.append(LeftOut(name, why))

    def paired(self, images: Mapping[Any, Entry], masks: Mapping[Any, Entry]) -> list[tuple[Any, Entry, Entry]]:
        """Return (key, image, mask) of the keys that have both, sorted; name the others."""
        for key in sorted(set(images) - set(masks), key=str):
            self.leave_out(images[key].path, "it has no mask in these downloads")
        for key in sorted(set(masks) - set(images), key=str):
            self.leave_out(masks[key].path, "this mask belongs to no image in these downloads")
        return [(key, images[key], masks[key]) for key in sorted(set(images) & set(masks), key=_natural)]


def _natural(key: Any) -> list[tuple[int, int | str]]:
    """Return what sorts 2 before 10."""
    parts = re.split(r"(\d+)", " ".join(key) if isinstance(key, tuple) else str(key))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


@dataclass(frozen=True)
class PublicDataset:
    """A dataset that can be prepared: what is printed of it, what it consists of, and how its files are found.

    ``keys`` are further keys of dataset.toml (``mask_values``, ``group_scope``, ...).
    """

    name: str
    title: str
    modality: str
    classes: tuple[str, ...]
    licence: str
    citation: str
    page: str
    parts: tuple[Part, ...]
    find: Callable[[Downloads, Findings], None] = field(compare=False)
    keys: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``data prepare --list --json`` prints."""
        told = {key: getattr(self, key) for key in ("name", "title", "modality", "licence", "citation", "page")}
        return told | {"classes": list(self.classes), "parts": [asdict(part) for part in self.parts]}

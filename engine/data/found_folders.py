"""Which folders look like datasets, told by names alone: nothing in them is opened. Torch-free."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.data.description import FILE_NAME
from engine.data.names import folded, is_litter
from engine.data.readers import is_supported

Layout = Literal["sites", "npy", "nnunet"]
NPY_FOLDERS = ("data_npy", "val_data_npy")
NNUNET_FILE, NNUNET_IMAGES, CHANNEL = "dataset.json", "imagesTr", "_0000."
DEPTH = 4
MOST_FOLDERS = 5000
MOST_ENTRIES = 20_000
"""Of one folder; more are neither counted nor looked through (ours)."""


@dataclass(frozen=True)
class FoundFolder:
    """A folder that looks like a dataset, with how many files it has that are called as images are."""

    path: Path
    layout: Layout
    num_sites: int
    num_images: int


def layout_of(folder: Path) -> Layout | None:
    """Return the layout that a folder's names are those of; None where it is no dataset that is known here.

    ``sites`` has a folder of images at each site, ``npy`` is the authors', ``nnunet`` nnU-Net's and the Decathlon's.
    """
    entries = _entries(folder)
    names = {entry.name for entry in entries}
    if NNUNET_FILE in names and NNUNET_IMAGES in names:
        return "nnunet"
    held = [{folded(inner.name) for inner in _entries(Path(entry.path))} for entry in entries if _is_folder(entry)]
    if any(held_here & set(NPY_FOLDERS) for held_here in held):
        return "npy"
    return "sites" if FILE_NAME in names or any("images" in held_here for held_here in held) else None


def holds_foreign(folder: Path) -> bool:
    """Return whether a folder, or one right below it, is a dataset in the layout of nnU-Net or the Decathlon."""
    return "nnunet" in (layout_of(folder), *(layout_of(Path(e.path)) for e in _entries(folder) if _is_folder(e)))


def find_datasets(roots: Sequence[Path], *, most_s: float, depth: int = DEPTH) -> tuple[list[FoundFolder], bool]:
    """Return the datasets at ``roots`` or up to ``depth`` folders below them, and whether all of it was seen.

    Folders of a dataset are not looked through, links and hidden folders neither. It ends after ``most_s`` seconds or
    ``MOST_FOLDERS`` folders.
    """
    ends_at, found = time.monotonic() + most_s, []
    waiting, seen = deque((root, 0) for root in roots if root.is_dir()), set[Path]()
    while waiting:
        if time.monotonic() > ends_at or len(seen) >= MOST_FOLDERS:
            return found, False
        folder, below = waiting.popleft()
        if folder in seen:  # a root may lie below another
            continue
        seen.add(folder)
        layout = layout_of(folder)
        if layout is not None:
            found.append(_counted(folder, layout))
        elif below < depth:
            waiting.extend((Path(entry.path), below + 1) for entry in _entries(folder) if _is_folder(entry))
    return found, True


def _counted(folder: Path, layout: Layout) -> FoundFolder:
    if layout == "nnunet":
        names = [entry.name for entry in _entries(folder / NNUNET_IMAGES) if _is_image(entry)]
        firsts = [name for name in names if CHANNEL in name]
        return FoundFolder(folder, layout, 1, len(firsts or names))
    wanted = NPY_FOLDERS if layout == "npy" else ("images",)
    counts = [_images_in(Path(entry.path), wanted) for entry in _entries(folder) if _is_folder(entry)]
    return FoundFolder(folder, layout, sum(count > 0 for count in counts), sum(counts))


def _images_in(site: Path, wanted: Sequence[str]) -> int:
    folders = [entry for entry in _entries(site) if folded(entry.name) in wanted and _is_folder(entry)]
    return sum(_is_image(entry) for folder in folders for entry in _entries(Path(folder.path)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the first entries of a folder that are not litter, by name; none of one that cannot be read."""
    try:
        with os.scandir(folder) as listing:
            first = [entry for _, entry in zip(range(MOST_ENTRIES), listing, strict=False)]
    except OSError:
        return []
    return sorted((entry for entry in first if not is_litter(Path(entry.name))), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return is_supported(Path(entry.name)) and not entry.is_dir()

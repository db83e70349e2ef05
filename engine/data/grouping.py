"""Files that show the same picture stay on one side of the split, whatever they and their patients are called.

And files that are slices of one DICOM series are shown in one range, as they are where a model is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from engine.data.copies import equal_files, file_digest
from engine.data.readers import DICOM_SUFFIXES, file_suffix
from engine.data.scan import Scan
from engine.data.sources import FolderItem
from engine.data.volumes import placed_series
from engine.errors import UserError

SHOWN = 4
"""Names written out in a warning; the rest is counted."""


def copied_files(items: Iterable[FolderItem]) -> list[list[FolderItem]]:
    """Return the lists of different files with equal content, one item a file, for which there is more than one.

    Pictures of one level are left out: the empty first slices of two patients are no copies.
    """
    by_file: dict[Path, list[FolderItem]] = {}
    for item in items:
        by_file.setdefault(item.image, []).append(item)
    middle = {path: slices[len(slices) // 2] for path, slices in by_file.items()}
    equal = [[middle[path] for path in paths] for paths in equal_files(by_file)]
    return [copies for copies in equal if not _shows_nothing(copies[0])]


def _shows_nothing(item: FolderItem) -> bool:
    try:
        picture = item.picture()
    except UserError:  # it is told where the pixels are read
        return False
    return bool(picture.min() == picture.max())


def keep_copies_together(scan: Scan) -> None:
    """Give images of one site that are equal byte for byte one group, with the patients they belong to, and tell it."""
    for site, items in scan.items.items():
        copies = copied_files(items)
        for same in copies:
            _tell(scan, site, same)
        joined = _joined_groups(copies)
        scan.items[site] = [replace(item, group=joined.get(item.group, item.group)) for item in items]


def _joined_groups(copies: list[list[FolderItem]]) -> dict[str, str]:
    """Return the common name of each group that shares a picture with another: a patient's name, where there is one."""
    members: dict[str, set[str]] = {}
    named = {item.group for items in copies for item in items if item.patient is not None}
    for items in copies:
        together = set().union(*(members.get(item.group, {item.group}) for item in items))
        members.update(dict.fromkeys(together, together))
    return {group: min(together & named or together) for group, together in members.items()}


def _tell(scan: Scan, site: str, items: list[FolderItem]) -> None:
    names = ", ".join(item.image.name for item in items[:SHOWN]) + (", …" if len(items) > SHOWN else "")
    patients = sorted({item.patient for item in items if item.patient is not None})
    under = f", under the patients {', '.join(map(repr, patients))}" if len(patients) > 1 else ""
    masks = {tuple(file_digest(path) for path in item.masks) for item in items if item.masks}
    differ = "; their masks differ" if len(masks) > 1 else ""
    scan.warn(
        "data.copied_image",
        site=site,
        path=items[-1].image,
        what=f"At site '{site}' {len(items)} files are the same picture, byte for byte ({names}){under}{differ}. They "
        "stay on one side of the split, and count as often as they are there.",
        fix="Keep one of them, with the right mask and patient.",
    )


def with_series(items: list[FolderItem]) -> list[FolderItem]:
    """Return a site's images, those that are slices of one DICOM series knowing its files; others as they are.

    What counts as a series is what does when a model is used: files that say where they lie, under one
    SeriesInstanceUID. Their range is looked for only where neither a range nor another window is declared.
    """
    slices = [item for item in items if _may_be_slice(item)]
    files: dict[str, list[Path]] = {}
    series_of = {path: placed_series(path) for path in dict.fromkeys(item.image for item in slices)}
    for path, series in series_of.items():
        files.setdefault(series, []).append(path)
    known = {path: tuple(files[series]) for path, series in series_of.items() if series and len(files[series]) > 1}
    return [replace(item, series=known.get(item.image, ())) for item in items] if known else items


def _may_be_slice(item: FolderItem) -> bool:
    about = item.description
    is_dicom = file_suffix(item.image) in DICOM_SUFFIXES
    return is_dicom and item.geometry.num_slices == 1 and about.value_range is None and about.window == "auto"

"""Checks a folder dataset before anything trains on it; every fault is found in one go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from engine.data.class_checks import Tally, tell_classes
from engine.data.copies import equal_files
from engine.data.fingerprints import Shown, Sketchbook, near_copies
from engine.data.grouping import copied_files
from engine.data.layout import scan_dataset
from engine.data.masks import MaskValueError
from engine.data.names import folded
from engine.data.problems import Problem, faults_of
from engine.data.scan import Scan
from engine.data.sources import FolderItem, Item
from engine.errors import UserError

OVERLAP = "a copy at the held-out site would make its score meaningless"


def check_dataset(root: str | Path) -> list[Problem]:
    """Return every fault of the dataset in ``root``, all files decoded; empty means that all of it can be used.

    Warnings are left out. A dataset that cannot be scanned at all (no folder, no or bad ``dataset.toml``, no site)
    gives that one problem.
    """
    try:
        scan = scan_dataset(Path(root))
    except UserError as error:
        return [Problem(error.code, error.what, error.fix)]
    check_sites(scan, thorough=True)
    return faults_of(scan.problems)


@dataclass(frozen=True)
class Examination:
    """What was kept of a dataset's pixels: fingerprints of the pictures, and what the masks of each site showed."""

    shown: list[Shown]
    tallies: Mapping[str, Tally]


def check_sites(
    scan: Scan, *, thorough: bool, min_images: int = 2, classes: Sequence[str] | None = None
) -> Examination:
    """Add the faults of whole sites to ``scan.problems``: too few images, no foreground, shared patients and copies.

    With ``thorough`` every image and mask is decoded, once: classes that are nowhere, and pictures that are copies of
    others though their files differ, are found, as far as the scan's watch has not had enough. Else masks are read
    only until one with foreground is found.
    ``classes`` are those that somebody wants to segment; all when left out.
    """
    book = Sketchbook(scan.items)
    tallies: dict[str, Tally] = {}
    scan.watch.on_scanned(scan.items)
    for site, items in scan.items.items():
        if 0 < len(items) < min_images:
            scan.fault(
                "data.site_one_image",
                site=site,
                what=f"Site '{site}' has one image ({items[0].name}).",
                fix="A site trains on some images and validates on others: add images, or leave it out (data.sites).",
            )
        tallies[site] = Tally(scan.description)
        _read_site(scan, items, tallies[site], book if thorough else None)
        _check_own_split(scan, site, items)
    is_complete = thorough and not scan.watch.has_enough
    tell_classes(scan, tallies, wanted=classes or scan.description.classes, complete=is_complete)
    scan.problems.extend(check_shared_patients(scan.items))
    scan.problems.extend(check_copies(scan.items))
    examination = Examination(book.shown(), tallies)
    scan.problems.extend(check_near_copies(examination.shown))
    return examination


def check_shared_patients(items: Mapping[str, Sequence[Item]]) -> list[Problem]:
    """Return a problem for each patient that two sites share, in any spelling; images of no named patient share none.

    With ``group_scope = "site"`` a patient's name begins with its site's: two sites share one only where they are the
    same hospital, in the training set and in a test set.
    """
    sites_of: dict[str, dict[str, str]] = {}
    for site, found in items.items():
        for patient in {item.patient for item in found if isinstance(item, FolderItem) and item.patient is not None}:
            sites_of.setdefault(folded(patient), {}).setdefault(site, patient)
    return [
        Problem(
            "data.shared_patient",
            f"The patient {' or '.join(repr(name) for name in sorted(set(sites.values())))} is in meta.csv of "
            f"{' and '.join(repr(site) for site in sites)}.",
            "Keep a patient's images at one site; if the sites number their patients independently, "
            'set group_scope = "site" in dataset.toml.',
            site=next(iter(sites)),
        )
        for _, sites in sorted(sites_of.items())
        if len(sites) > 1
    ]


def check_copies(items: Mapping[str, Sequence[Item]]) -> list[Problem]:
    """Return a problem for each image file that lies at two sites, byte for byte; phantoms have no files."""
    site_of = {item.image: site for site, found in items.items() for item in found if isinstance(item, FolderItem)}
    order = list(items)
    files = (item for found in items.values() for item in found if isinstance(item, FolderItem))
    problems = []
    for copies in copied_files(files):
        copies.sort(key=lambda item: order.index(site_of[item.image]))  # a site that trains before a test set
        if len({site_of[item.image] for item in copies}) > 1:
            told = " and ".join(f"{item.image.name} at {site_of[item.image]!r}" for item in copies)
            problems.append(
                Problem(
                    "data.shared_image",
                    f"The same picture lies at two sites: {told}.",
                    f"Keep it at one of them: {OVERLAP}.",
                    site=site_of[copies[0].image],
                    file=_place(copies[0]),
                )
            )
    return problems


def _place(item: FolderItem) -> str:
    """Return the image's path relative to its dataset: in every layout it lies in a folder of its site's."""
    return "/".join(item.image.parts[-3:])


def check_near_copies(files: Sequence[Shown], *, validated: Collection[Item] | None = None) -> list[Problem]:
    """Return a fault for each two sites' files that show one picture, and a warning for two of one site.

    Files that are equal byte for byte are left out: :func:`check_copies` and the layout tell them. So are two of one
    patient at one site and, where the split is known by the images ``validated`` on, two that it keeps on one side.
    """
    problems = []
    equal = {
        path: number for number, same in enumerate(equal_files(file.item.image for file in files)) for path in same
    }
    for one, two in near_copies(files):
        if one.image in equal and equal[one.image] == equal.get(two.image):
            continue
        if one.site != two.site:
            problems.append(
                Problem(
                    "data.shared_image",
                    f"The same picture lies at two sites, though not as the same file: {one.image.name} at "
                    f"'{one.site}' and {two.image.name} at '{two.site}' (encoded, resized or brightened anew).",
                    f"Keep it at one of them: {OVERLAP}.",
                    site=one.site,
                    file=_place(one),
                )
            )
        elif validated is None or (one in validated) != (two in validated):
            problems.append(
                Problem(
                    "data.near_copy",
                    f"At site '{one.site}' {one.image.name} and {two.image.name} show the same picture, though not as "
                    "the same file (encoded, resized or brightened anew): training and validation may get one each.",
                    "Keep one of them, or give both the same group in meta.csv, which keeps them on one side.",
                    site=one.site,
                    file=_place(one),
                    weight="warning",
                )
            )
    return problems


def _read_site(scan: Scan, items: Sequence[FolderItem], tally: Tally, book: Sketchbook | None) -> None:
    told: set[tuple[str, Path]] = set()
    at_fault = {scan.root / known.file for known in faults_of(scan.problems) if known.file is not None}
    for item in items:
        planes = None
        if at_fault.intersection(item.masks):  # its header was enough
            tally.num_unread += 1
        elif item.masks:
            known, planes = _read_masks(scan, item, told)
            tally.add(known, planes)
        if book is not None and not scan.watch.has_enough:
            picture = _read(scan, item, item.picture, item.image, told)
            if picture is not None:
                book.draw(item, picture)
            scan.watch.on_image(item, picture, planes)
        elif tally.has_foreground:
            break


def _read_masks(
    scan: Scan, item: FolderItem, told: set[tuple[str, Path]]
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return the stored numbers of each file and the planes; None where a file cannot be read."""
    labels = [_read(scan, item, partial(item.labels, path), path, told) for path in item.masks]
    known = [one for one in labels if one is not None]
    if len(known) < len(labels):
        return known, None
    try:
        return known, item.planes_of(known)
    except UserError as error:
        at = error.__cause__.file if isinstance(error.__cause__, MaskValueError) else 0
        _note(scan, item, error, item.masks[at], told)
        return known, None


def _read(
    scan: Scan, item: FolderItem, read: Callable[[], np.ndarray], path: Path, told: set[tuple[str, Path]]
) -> np.ndarray | None:
    try:
        return read()
    except UserError as error:
        _note(scan, item, error, path, told)
        return None


def _note(scan: Scan, item: FolderItem, error: UserError, path: Path, told: set[tuple[str, Path]]) -> None:
    if (error.code, path) not in told:  # a damaged volume is one fault, not one for each slice
        told.add((error.code, path))
        scan.fault(error.code, site=item.site, path=path, what=error.what, fix=error.fix)


def _check_own_split(scan: Scan, site: str, items: Sequence[FolderItem]) -> None:
    halves = [{item.group: item for item in items if item.split == split} for split in ("train", "validation")]
    for group in sorted(halves[0].keys() & halves[1].keys()):
        one, two = (half[group] for half in halves)
        if one.patient is not None and one.patient == two.patient:
            what = f"At site '{site}' the patient '{one.patient}' is in data_npy and in val_data_npy."
            fix = "Move all images of a patient to one side."
        else:
            what = f"At site '{site}' data_npy and val_data_npy hold the same picture ({one.name}, {two.name})."
            fix = "Take it out of one of them: what is validated on must not be trained on."
        code = "data.split_shares_patient" if one.patient is not None else "data.split_shares_image"
        scan.fault(code, site=site, what=what, fix=fix)

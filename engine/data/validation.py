"""Checks a folder dataset before anything trains on it; every fault is found in one go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.data.layout import scan_dataset
from engine.data.names import folded
from engine.data.problems import Problem, faults_of
from engine.data.scan import Scan
from engine.data.sources import FolderItem, Item
from engine.errors import UserError


def check_dataset(root: str | Path) -> list[Problem]:
    """Return every fault of the dataset in ``root``, all files decoded; empty means that all of it can be used.

    Warnings are left out.

    A dataset that cannot be scanned at all (no folder, no or bad ``dataset.toml``, no site) gives that one problem.
    """
    root = Path(root)
    try:
        scan = scan_dataset(root)
    except UserError as error:
        return [Problem(error.code, error.what, error.fix)]
    check_sites(scan, thorough=True)
    return faults_of(scan.problems)


def check_sites(scan: Scan, *, thorough: bool, min_images: int = 2) -> None:
    """Add the faults of whole sites to ``scan.problems``: too few images, no foreground, shared patients.

    With ``thorough`` every image and mask is decoded, and copies of a picture at two sites are found; else masks are
    read only until one with foreground is found.
    """
    for site, items in scan.items.items():
        if 0 < len(items) < min_images:
            scan.fault(
                "data.site_one_image",
                site=site,
                what=f"Site '{site}' has one image ({items[0].name}).",
                fix="A site trains on some images and validates on others: add images, or leave it out (data.sites).",
            )
        _check_pixels(scan, site, items, thorough=thorough)
        _check_own_split(scan, site, items)
    scan.problems.extend(check_shared_patients(scan.items))
    if thorough:
        scan.problems.extend(check_copies(scan.items))


def check_shared_patients(items: Mapping[str, Sequence[Item]]) -> list[Problem]:
    """Return a problem for each patient that two sites share; images without a patient's name share none.

    With ``group_scope = "site"`` a group begins with its site's name: two sites share it only where they are the same
    hospital, in the training set and in a test set.
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
    by_size: dict[int, dict[Path, str]] = {}
    for site, found in items.items():
        for path in {item.image for item in found if isinstance(item, FolderItem)}:
            by_size.setdefault(path.stat().st_size, {})[path] = site
    owners: dict[bytes, list[tuple[str, Path]]] = {}
    for paths in by_size.values():
        if len(set(paths.values())) > 1:  # only files of equal length can be copies: few are opened
            for path, site in sorted(paths.items()):
                with path.open("rb") as stream:
                    owners.setdefault(hashlib.file_digest(stream, "sha256").digest(), []).append((site, path))
    return [
        Problem(
            "data.shared_image",
            f"The same picture lies at two sites: {' and '.join(f'{path.name} at {site!r}' for site, path in copies)}.",
            "Keep it at one of them: a copy at the held-out site would make its score meaningless.",
            site=copies[0][0],
        )
        for copies in owners.values()
        if len({site for site, _ in copies}) > 1
    ]


def _check_pixels(scan: Scan, site: str, items: Sequence[FolderItem], *, thorough: bool) -> None:
    has_foreground = False
    told: set[tuple[str, Path]] = set()
    for item in items:
        if item.masks:
            planes = _read(scan, item, item.planes, item.masks[0], told)
            has_foreground = has_foreground or planes is None or bool(planes.any())  # a fault of its own is enough
        if thorough:
            _read(scan, item, item.picture, item.image, told)
        elif has_foreground:
            break
    if not has_foreground and any(item.masks for item in items):
        scan.fault(
            "data.site_no_foreground",
            site=site,
            what=f"No mask of site '{site}' has a single foreground pixel.",
            fix="Check how the masks were exported, or leave the site out (data.sites).",
        )


def _read(
    scan: Scan, item: FolderItem, read: Callable[[], np.ndarray], path: Path, told: set[tuple[str, Path]]
) -> np.ndarray | None:
    try:
        return read()
    except UserError as error:
        if (error.code, path) not in told:  # a damaged volume is one fault, not one for each slice
            told.add((error.code, path))
            scan.fault(error.code, site=item.site, path=path, what=error.what, fix=error.fix)
        return None


def _check_own_split(scan: Scan, site: str, items: Sequence[FolderItem]) -> None:
    halves = [{item.group for item in items if item.split == split} for split in ("train", "validation")]
    for group in sorted(halves[0] & halves[1]):
        scan.fault(
            "data.split_shares_patient",
            site=site,
            what=f"At site '{site}' the patient '{group}' is in data_npy and in val_data_npy.",
            fix="Move all images of a patient to one side.",
        )

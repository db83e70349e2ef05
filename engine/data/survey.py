"""What a person should see of a dataset before a run: every finding, what each site has, how far apart they look.

A folder is read as ``data check`` reads it; phantoms are drawn and not checked. Nothing is written. Torch-free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.config import DataConfig
from engine.data.apart import ROUGH_BELOW, Apart
from engine.data.datasets import Federation, cut_federation
from engine.data.folders import Folders, held_out_site, read_folders
from engine.data.impressions import Impressions, Thumbnail
from engine.data.partition import PREVIEW_IMAGES
from engine.data.problems import Problem, faults_of
from engine.data.sources import FolderItem, Item, PhantomItem
from engine.data.watch import Watch
from engine.errors import UserError

PHANTOMS = ROUGH_BELOW
"""Phantoms of a site that are drawn to be looked at."""
Role = Literal["source", "test"]
Kind = Literal["folder", "phantom", "described"]
"""Where what is known comes from: a folder that was read, phantoms that were drawn, sites that have told it."""
Parts = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class SiteSurvey:
    """What one site has; slices of volumes count as images."""

    site: str
    role: Role
    num_images: int
    num_patients: int | None
    """None where no patient is named."""
    parts: Parts | None
    """Images to train, to validate and to test on; None where faults keep a run from cutting them."""
    sizes_px: tuple[tuple[int, int], tuple[int, int]] | None = None
    """The smallest and the largest (width, height), by area; None where no image was opened."""
    spacing_mm: tuple[float, float] | None = None
    """The finest and the coarsest distance of pixels; None where no file says any."""
    thumbnails: tuple[Thumbnail, ...] = ()


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found. ``num_decoded`` of ``num_images`` were read to their last pixel before time was over."""

    name: str
    classes: tuple[str, ...]
    problems: tuple[Problem, ...]
    sites: tuple[SiteSurvey, ...]
    apart: Apart | None
    num_decoded: int
    num_images: int
    kind: Kind

    @property
    def is_usable(self) -> bool:
        """Whether a run could begin with it."""
        return not faults_of(self.problems)


@dataclass(frozen=True)
class Step:
    """How far a survey is: files whose headers are read while ``total`` is 0, then images of ``total``."""

    done: int
    total: int


class _Follower(Watch):
    """Tells how far a reading is, and has enough of decoding after ``most_s``, which begin with the first image."""

    def __init__(self, impressions: Impressions, on_step: Callable[[Step], None], *, most_s: float) -> None:
        self._impressions, self._on_step, self._most_s = impressions, on_step, most_s
        self._ends_at: float | None = None
        self._headers = 0
        self.decoded = self.total = 0
        self.scanned: list[dict[str, Sequence[FolderItem]]] = []

    @property
    def has_enough(self) -> bool:
        """Return whether the time is over."""
        return self._ends_at is not None and time.monotonic() > self._ends_at

    def on_header(self) -> None:
        """Count a file."""
        self._headers += 1
        self._on_step(Step(self._headers, 0))

    def on_scanned(self, items: Mapping[str, Sequence[FolderItem]]) -> None:
        """Choose what to look at more closely; the second folder is the test set."""
        self._ends_at = self._ends_at or time.monotonic() + self._most_s
        known = self.scanned[0] if self.scanned else {}
        named = {f"{site}_test" if site in known else site: found for site, found in items.items()}
        self.scanned.append(named)
        self.total += sum(map(len, named.values()))
        self._impressions.choose(named, most=PREVIEW_IMAGES)

    def on_image(self, item: FolderItem, picture: np.ndarray | None, planes: np.ndarray | None) -> None:
        """Look at an image."""
        self.decoded += 1
        self._on_step(Step(self.decoded, self.total))
        if picture is not None:
            self._impressions.see(item, picture, planes)


def survey(config: DataConfig, *, seed: int, on_step: Callable[[Step], None], most_s: float) -> Survey:
    """Return what a run on ``config`` with ``seed`` would begin with, and every fault that would keep it from that.

    ``on_step`` is told of every file and image; what it raises ends the survey. Images are decoded for ``most_s``
    seconds; those that come later are read when a run begins. A folder with nothing to look at has one fault.
    """
    if config.source == "phantom":
        return _of_phantoms(config, seed=seed, on_step=on_step, most_s=most_s)
    impressions = Impressions(config)
    follower = _Follower(impressions, on_step, most_s=most_s)
    try:
        folders = read_folders(config, thorough=True, watch=follower)
    except UserError as error:
        return _nothing(config.root.name if config.root else "", error, kind="folder")
    except OSError as error:
        return _nothing(config.root.name if config.root else "", _unreadable(error), kind="folder")
    problems, federation = list(folders.problems), None
    if not faults_of(problems):
        try:
            federation = cut_federation(config, folders, seed=seed)
        except UserError as error:
            problems.append(_problem(error))
    about = folders.training.description
    sites = _sites(config, folders, follower, federation)
    return Survey(
        about.name, about.classes, tuple(problems), tuple(_shown(*site, impressions) for site in sites),
        impressions.apart(), follower.decoded, follower.total, "folder",
    )  # fmt: skip


def _of_phantoms(config: DataConfig, *, seed: int, on_step: Callable[[Step], None], most_s: float) -> Survey:
    impressions, ends_at = Impressions(config), time.monotonic() + most_s
    try:
        federation = cut_federation(config, None, seed=seed)
        parts = {name: [*site.train.items, *site.validation.items] for name, site in federation.sites.items()}
        sites: list[tuple[str, Role, Sequence[Item], Parts | None]] = [
            (name, "source", sorted(items, key=lambda item: item.name), _parts(federation, name))
            for name, items in parts.items()
        ]
        tested = federation.test.test.items
        sites.append((federation.test.name, "test", tested, (0, 0, len(tested))))
        impressions.choose({name: items for name, _, items, _ in sites}, most=PHANTOMS)
        chosen = impressions.chosen()
        for done, item in enumerate(chosen):
            on_step(Step(done, len(chosen)))
            if time.monotonic() < ends_at:
                impressions.see(item, *item.read())
    except UserError as error:
        return _nothing(config.task, error, kind="phantom")
    shown = tuple(_shown(*site, impressions) for site in sites)
    total = sum(site.num_images for site in shown)
    return Survey(federation.name, federation.classes, (), shown, impressions.apart(), total, total, "phantom")


def _unreadable(error: OSError) -> UserError:
    return UserError(
        "data.folder_unreadable",
        what=f"{error.filename or 'A file of the dataset'} cannot be read: {error.strerror or error}.",
        why="A run would stop there.",
        fix="Give whoever runs this program the right to read it, or see to its disk.",
    )


def _nothing(name: str, error: UserError, *, kind: Kind) -> Survey:
    return Survey(name, (), (_problem(error),), (), None, 0, 0, kind)


def _problem(error: UserError) -> Problem:
    return Problem(error.code, error.what, error.fix)


def _sites(
    config: DataConfig, folders: Folders, follower: _Follower, federation: Federation | None
) -> list[tuple[str, Role, Sequence[Item], Parts | None]]:
    """Return name, role, images and their parts of every site, those of the test last."""
    training, *tests = follower.scanned
    held_out = held_out_site(config, training) if folders.test is None and training else None
    found: list[tuple[str, Role, Sequence[Item], Parts | None]] = [
        (name, "source", items, None if federation is None else _parts(federation, name))
        for name, items in training.items()
        if name != held_out
    ]
    tested = [*([(held_out, training[held_out])] if held_out in training else []), *(tests[0].items() if tests else ())]
    for name, items in tested:
        found.append((name, "test", items, None if federation is None else (0, 0, len(items))))
    return found


def _parts(federation: Federation, site: str) -> Parts:
    cut = federation.sites[site]
    return len(cut.train), len(cut.validation), 0


def _shown(site: str, role: Role, items: Sequence[Item], parts: Parts | None, impressions: Impressions) -> SiteSurvey:
    on_disk = [item for item in items if isinstance(item, FolderItem)]
    sizes = {(item.geometry.width_px, item.geometry.height_px) for item in on_disk}
    sizes |= {(item.image_px, item.image_px) for item in items if isinstance(item, PhantomItem)}
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    steps = [step for item in on_disk for step in item.geometry.spacing_mm or ()]
    is_named = any(item.patient is not None for item in on_disk) or len(on_disk) < len(items)
    return SiteSurvey(
        site,
        role,
        len(items),
        len({item.group for item in items}) if is_named else None,
        parts,
        (ordered[0], ordered[-1]) if ordered else None,
        (min(steps), max(steps)) if steps else None,
        impressions.thumbnails(site),
    )

"""Image and corrected mask of an answer join a dataset of this server: who may, which ones, and what is said first.

Torch-free. What is written where is in ``engine.data.teaching``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from app import answers, dataset_folders, server_paths
from app import teach_text as words
from app.access import Visitor
from app.dataset_uploads import TAUGHT
from engine.errors import UserError

if TYPE_CHECKING:
    from app.studio import Studio
    from engine.data.description import DatasetDescription
    from engine.data.teaching import Lesson, Place

OWNER_FILE = ".taught_by"
"""In a dataset that was made here: the key of the visitor whose it is. Hidden, so that no scan reads it."""
MAX_NAME = 60
OTHER_SIGNS = frozenset(" -_.()")


@dataclass(frozen=True)
class Wish:
    """What a visitor fills in: a dataset's path ("" for a new one, called ``name``), a site and a patient's code."""

    dataset: str
    name: str
    site: str
    patient: str

    @classmethod
    def of(cls, dataset: object, name: object, site: object, patient: object) -> Wish:
        """Return it of a browser's values, blanks at the ends taken off."""
        return cls(*(value.strip() if isinstance(value, str) else "" for value in (dataset, name, site, patient)))


@dataclass(frozen=True)
class Kept:
    """Where an image was kept, and the sentence that says so."""

    root: Path
    said: str


def choices(studio: Studio, *, by: Visitor) -> dataset_folders.Choices:
    """Return a new dataset and those that can be added to, as choices; for who is no operator the new one alone."""
    from engine.data.found_folders import layout_of

    found, _ = dataset_folders.offered(studio, by=by)
    return [(words.NEW, ""), *(one for one in found if layout_of(Path(one[1])) == "sites")]


def ask(studio: Studio, shown: answers.Shown | None, wish: Wish, *, percent: int, by: Visitor) -> str:
    """Return the question (HTML) that says what would be written where; nothing is written.

    Raises ``UserError``: ``app.read_only``, ``app.viewer``, ``app.teach_*``, ``teach.*``.
    """
    _check_who(studio, by)
    lesson = _lesson(studio, shown, wish, percent=percent)
    if not wish.dataset:
        place, told = _new_place(studio, shown, wish, lesson), words.NEW_DATASET
    else:
        root = _root(studio, wish.dataset, by=by)
        place, told = _found_place(studio, root, wish, lesson), words.OLD_DATASET
    folder = place.root.name if wish.dataset else studio.datasets.folder.name
    dataset = told.format(name=place.description.name, folder=folder)
    said = "".join(f"<li>{escape(one)}</li>" for one in _said(place, lesson, len(shown.corrections) if shown else 0))
    return f"<p><strong>{escape(words.QUESTION.format(dataset=dataset))}</strong></p><ul>{said}</ul>"


def keep(studio: Studio, shown: answers.Shown | None, wish: Wish, *, percent: int, by: Visitor) -> Kept:
    """Write image and mask; raises as :func:`ask` and ``app.datasets_full``."""
    from engine.data import teaching

    _check_who(studio, by)
    lesson = _lesson(studio, shown, wish, percent=percent)
    if wish.dataset:
        root = _root(studio, wish.dataset, by=by)
        with studio.datasets.adding(lesson.num_bytes, root=root):
            place = _found_place(studio, root, wish, lesson)
            teaching.write(place, lesson)
    else:
        root = _new_name(studio)
        with studio.datasets.adding(lesson.num_bytes, root=None), _new_folder(root, by=by) as part:
            about = _describe(studio, shown, wish)
            teaching.begin(part, name=about.name, modality=about.modality, classes=about.classes)
            place = teaching.place_of_new(part, wish.site, lesson, about)
            teaching.write(place, lesson)
    done = words.DONE.format(files=", ".join(place.files[:-1]), dataset=f"“{place.description.name}”")
    lacks = "" if place.num_images else f" {words.DONE_NOT_ENOUGH.format(site=place.site)}"
    return Kept(root, done + lacks)


def _said(place: Place, lesson: Lesson, num_corrections: int) -> Iterator[str]:
    *files, table = place.files
    yield words.FILES.format(files=", ".join(files))
    yield words.META.format(line=f"{place.image.name}, {place.patient}", file=table)
    yield words.SITE_NEW if place.is_new_site else _counted(words.SITE_HAS, place.num_images)
    yield _counted(words.CORRECTED, num_corrections) if num_corrections else words.UNCORRECTED
    empty = [name for name, mask in lesson.masks.items() if not mask.any()]
    if empty:
        yield words.EMPTY.format(names=", ".join(empty))
    yield words.NEEDS if place.is_new_site else words.READ_THEN


def _counted(forms: Sequence[str], count: int) -> str:
    return forms[count != 1].format(count=count)


def _check_who(studio: Studio, by: Visitor) -> None:
    studio.permissions.check_role(by)
    if by.role != "operator":
        raise UserError("app.teach_who", what=words.WHO_WHAT, why=words.WHO_WHY, fix=words.WHO_FIX)


def _lesson(studio: Studio, shown: answers.Shown | None, wish: Wish, *, percent: int) -> Lesson:
    from engine.data.teaching import Lesson

    answer = studio.answers.get(shown.key) if shown else None
    if shown is None or answer is None or answer.read is None:
        raise UserError("app.teach_gone", what=words.GONE_WHAT, why=words.GONE_WHY, fix=words.GONE_FIX)
    image_HW3, masks = answers.taught(answer, percent=percent, corrections=shown.corrections)
    return Lesson(image_HW3, masks, wish.patient)


def _root(studio: Studio, dataset: str, *, by: Visitor) -> Path:
    """Return the folder of a dataset that ``by`` may add to."""
    root = Path(dataset)
    roots = dataset_folders.roots(studio)
    if "\0" in dataset or not root.is_absolute() or not server_paths.below(root, roots) or not root.is_dir():
        raise UserError("app.teach_unknown", what=words.UNKNOWN_WHAT, why=words.UNKNOWN_WHY, fix=words.UNKNOWN_FIX)
    owner = root / OWNER_FILE
    if studio.mode != "local" and owner.is_file() and owner.read_text(encoding="utf-8") != by.key:
        raise UserError("app.teach_others", what=words.OTHERS_WHAT, why=words.OTHERS_WHY, fix=words.OTHERS_FIX)
    if root.stat().st_uid != os.geteuid() or not os.access(root, os.W_OK | os.X_OK):
        raise UserError("app.teach_locked", what=words.LOCKED_WHAT, why=words.LOCKED_WHY, fix=words.LOCKED_FIX)
    for run in studio.store.list(status=["queued", "running"]):
        if any(place.resolve() == root.resolve() for place in server_paths.places(run.config)):
            what = words.IN_USE_WHAT.format(run_id=run.run_id)
            raise UserError("app.teach_in_use", what=what, why=words.IN_USE_WHY, fix=words.IN_USE_FIX)
    return root


def _found_place(studio: Studio, root: Path, wish: Wish, lesson: Lesson) -> Place:
    from engine.data.teaching import find_place

    return find_place(root, wish.site, lesson)


def _new_place(studio: Studio, shown: answers.Shown | None, wish: Wish, lesson: Lesson) -> Place:
    from engine.data.teaching import place_of_new

    return place_of_new(studio.datasets.folder / TAUGHT, wish.site, lesson, _describe(studio, shown, wish))


def _describe(studio: Studio, shown: answers.Shown | None, wish: Wish) -> DatasetDescription:
    """Return what a new dataset says of itself: it shows what the model's images do."""
    from engine.data.description import DatasetDescription

    fits = wish.name.isprintable() and len(wish.name) <= MAX_NAME
    if not wish.name or not fits or not all(one.isalnum() or one in OTHER_SIGNS for one in wish.name):
        what = words.NAME_BAD if wish.name else words.NAME_WHAT
        raise UserError("app.teach_name", what=what, why=words.NAME_WHY, fix=words.NAME_FIX)
    manifest = studio.manifest((shown.model if shown else "") or "")
    return DatasetDescription(name=wish.name, modality=manifest.modality, classes=manifest.classes)


def _new_name(studio: Studio) -> Path:
    day = time.strftime("%Y%m%d", time.localtime())
    return studio.datasets.folder / f"{TAUGHT}{day}_{secrets.token_hex(6)}"


@contextmanager
def _new_folder(folder: Path, *, by: Visitor) -> Iterator[Path]:
    """Give a hidden place for a new dataset, which has its name and its owner when all of it was written."""
    part = folder.with_name(f".{folder.name}.part")
    try:
        yield part
        (part / OWNER_FILE).write_text(by.key, encoding="utf-8")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)

"""An image whose mask a person has corrected joins a site of a dataset: nothing there is written over. Torch-free.

The picture is kept without what its file says beside it (DICOM tags, EXIF), under a name of its own content, so that
the same image joins once and its name tells of nobody. Masks are written as the dataset's description reads them, and
both are read back before they get their names. Shape legend: H and W the image's side in pixels.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data import meta
from engine.data.description import FILE_NAME, DatasetDescription, read_description
from engine.data.found_folders import layout_of
from engine.data.layout import scan_dataset
from engine.data.mask_storing import stored_masks, unstorable
from engine.data.masks import MaskRule, MaskValueError
from engine.data.names import child, folded, is_litter
from engine.data.plain_text import decode
from engine.data.problems import raise_problems
from engine.data.readers import read_image, read_mask
from engine.data.scan import Scan
from engine.errors import UserError

PREFIX = "taught_"
"""How the names of such images begin."""
SITE_NAME = re.compile(r"[^\W_][\w .-]{0,62}[\w-]|[^\W_]")
MAX_PATIENT = 64


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is to be learned: ``image_HW3`` uint8, uint16 or float32 in [0, 1]; by class masks (H, W) uint8 {0, 1}.

    ``patient`` is a code that keeps images of one patient on one side of a split.
    """

    image_HW3: np.ndarray
    masks: Mapping[str, np.ndarray]
    patient: str

    @property
    def stem(self) -> str:
        """Return the image's name: the same for the same pixels."""
        told = (str(self.image_HW3.dtype).encode(), str(self.image_HW3.shape).encode(), self.image_HW3.tobytes())
        return PREFIX + hashlib.sha256(b"|".join(told)).hexdigest()[:16]

    @property
    def num_bytes(self) -> int:
        """Return what it takes on a disk at most."""
        return self.image_HW3.nbytes + sum(mask.nbytes for mask in self.masks.values()) + 4096


@dataclass(frozen=True, eq=False)
class Place:
    """Where a lesson goes in the dataset at ``root``: ``files`` are new, relative to it, ``meta_csv`` is rewritten."""

    root: Path
    site: str
    patient: str
    description: DatasetDescription
    image: Path
    masks: tuple[Path, ...]
    meta_csv: Path
    is_new_site: bool
    num_images: int
    """That the site has now."""
    others: tuple[str, ...] = ()
    """File names of the site's images, where no meta.csv names patients yet."""

    @property
    def files(self) -> tuple[str, ...]:
        """Return what is written, as paths below ``root``."""
        return tuple(path.relative_to(self.root).as_posix() for path in (self.image, *self.masks, self.meta_csv))


def begin(root: Path, *, name: str, modality: str, classes: tuple[str, ...]) -> DatasetDescription:
    """Make a dataset without images at ``root``, which is new, and return its description."""
    description = DatasetDescription(name=name, modality=modality, classes=classes)
    root.mkdir(mode=0o700)
    lines = [f"name = {_toml(name)}", f"modality = {_toml(modality)}", f"classes = [{', '.join(map(_toml, classes))}]"]
    (root / FILE_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_description(root) == description
    return description


def place_of_new(root: Path, site: str, lesson: Lesson, description: DatasetDescription) -> Place:
    """Return where a lesson goes in a dataset that has no images yet, and perhaps no folder."""
    _check_words(site, lesson.patient)
    _check_classes(lesson, description)
    return _place(Scan(root, description), site, lesson, patient=lesson.patient)


def find_place(root: Path, site: str, lesson: Lesson) -> Place:
    """Return where a lesson goes in an existing dataset; reads its headers, writes nothing.

    Raises ``UserError``: ``teach.site_name``, ``teach.patient``, ``teach.layout``, ``teach.classes``,
    ``teach.site_unlisted``, ``teach.patient_elsewhere``, ``teach.there``, ``teach.link``, and what a scan of the
    dataset raises or finds: one with faults is mended first.
    """
    _check_words(site, lesson.patient)
    if layout_of(root) != "sites":
        raise UserError(
            "teach.layout",
            what=f"The folder {root} is no dataset with a folder of images for each site.",
            why="An image and its mask join <site>/images and <site>/masks.",
            fix="Choose another dataset, or make one of it on the Train tab first.",
        )
    description = read_description(root)
    if description is not None:
        _check_classes(lesson, description)
        if description.sites is not None and folded(site) not in map(folded, description.sites):
            raise UserError(
                "teach.site_unlisted",
                what=f"{description.name} lists its sites, and '{site}' is none of them.",
                why=f"{FILE_NAME} says which folders are sites; another would not be read.",
                fix=f"Use one of {', '.join(description.sites)}, or add it there.",
            )
    scan = scan_dataset(root)
    raise_problems(scan.problems, dataset=str(root))
    there = child(root, site)
    known = there.name if there is not None else site
    patient = _known_patient(scan, known, lesson.patient)
    return _place(scan, known, lesson, patient=patient)


def write(place: Place, lesson: Lesson) -> None:
    """Write a lesson: read back first, then given its names, which nothing has yet; raises ``UserError`` and undoes.

    A program that is ended in between leaves hidden files, which no dataset has, or an image and mask without a line in
    meta.csv: the image then counts as a patient of its own.
    """
    before = place.meta_csv.read_bytes() if place.meta_csv.exists() else None
    table = _with_line(before, place)
    site = place.root / place.site
    made = [folder for folder in _folders(place) if not folder.exists()]
    parts: dict[Path, Path] = {}
    linked: list[Path] = []
    try:
        for folder in made:
            folder.mkdir(mode=0o700)
        parts = _written(place, lesson)
        meta_part = site / f".{place.meta_csv.name}.{lesson.stem}.part"
        parts[meta_part] = meta_part
        _write_new(meta_part, table)
        for part, path in parts.items():  # masks first: an image is there when its mask is
            if part != path:
                _name(part, path)
                linked.append(path)
        meta_part.replace(place.meta_csv)
    except FileExistsError as error:
        _take_back(linked, made)
        raise _is_there(place.image.name) from error
    except BaseException:
        _take_back(linked, made)
        raise
    finally:
        _remove(parts)


def _name(part: Path, path: Path) -> None:
    """Give a written file its name; raises ``FileExistsError`` where something has it."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # a disk without links: the name is taken first
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        part.replace(path)


def _take_back(linked: list[Path], made: list[Path]) -> None:
    for path in linked:
        path.unlink(missing_ok=True)
    for folder in reversed(made):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(place: Place) -> list[Path]:
    """Return the folders that are needed, the outer ones first."""
    wanted = {folder for path in (place.image, *place.masks) for folder in path.relative_to(place.root).parents}
    return [place.root / folder for folder in sorted(wanted, key=lambda one: len(one.parts)) if folder.parts]


def _written(place: Place, lesson: Lesson) -> dict[Path, Path]:
    """Write masks and image under hidden names, read them back, and return by hidden name what each is to be."""
    about = place.description
    planes = [lesson.masks[name] for name in about.classes]
    stored = stored_masks(about, planes, num_files=len(place.masks))
    parts = {path.with_name(f".{path.name}.part{path.suffix}"): path for path in (*place.masks, place.image)}
    try:
        for part, labels in zip(parts, stored, strict=False):
            _write_new(part, _png(labels))
        part = list(parts)[-1]
        _write_new(part, (_png if part.suffix == ".png" else _npy)(lesson.image_HW3))
        reading = {"slice_axis": about.slice_axis, "value_range": about.value_range, "window": about.window}
        image = read_image(part, **reading)[0]  # type: ignore[arg-type]
        if not (image.dtype == lesson.image_HW3.dtype and np.array_equal(image, lesson.image_HW3)):
            raise UserError(
                "teach.range",
                what=f"{about.name} reads its images by a range of values that this picture is not stored in.",
                why=f"It would be trained on with another brightness than was shown ({FILE_NAME}: value_range).",
                fix="Keep it in a new dataset, or in one of the same kind of files.",
            )
        rule = MaskRule.of(about)
        labels = [read_mask(one, white=rule.white) for one in list(parts)[:-1]]
        if not np.array_equal(rule.planes(labels), np.stack(planes)):
            raise unstorable(about)
    except MaskValueError as error:
        _remove(parts)
        raise unstorable(about) from error
    except BaseException:
        _remove(parts)
        raise
    return parts


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink(missing_ok=True)


def _known_patient(scan: Scan, site: str, patient: str) -> str:
    """Return the patient in the spelling that the site has; raises ``teach.patient_elsewhere``."""
    for other, items in scan.items.items():
        by_site = scan.description.group_scope == "site"
        names = {(item.patient.partition("/")[2] if by_site else item.patient) for item in items if item.patient}
        found = next((name for name in sorted(names) if folded(name) == folded(patient)), None)
        if found is None:
            continue
        if other == site:
            return found
        if not by_site:
            raise UserError(
                "teach.patient_elsewhere",
                what=f"The patient '{found}' is at site '{other}' already.",
                why="A patient at two sites would be trained on and measured on.",
                fix=f"Keep the image at site '{other}', or give the code that is this patient's own.",
            )
    return patient


def _place(scan: Scan, site: str, lesson: Lesson, *, patient: str) -> Place:
    root, about, folder = scan.root, scan.description, scan.root / site
    items = scan.items.get(site, [])
    files = {item.image for item in items}
    images = child(folder, "images") or folder / "images"
    masks = child(folder, "masks") or folder / "masks"
    table = child(folder, meta.FILE_NAME) or folder / meta.FILE_NAME
    by_class = [child(masks, name) for name in about.classes]
    if items:
        one_file = any(len(item.masks) == 1 for item in items) and not all(by_class)
    else:
        one_file = len(about.classes) == 1 or isinstance(about.mask_values, dict)
    named = zip(about.classes, by_class, strict=True)
    mask_folders = [masks] if one_file else [there or masks / name for name, there in named]
    for path in (folder, images, masks, table, *mask_folders):
        if path.is_symlink():
            raise UserError(
                "teach.link",
                what=f"{path.relative_to(root)} is a link.",
                why="Nothing is written through links.",
                fix="Put the folder itself there, or choose another site.",
            )
    if any(folded(path.stem) == folded(lesson.stem) for path in files):
        raise _is_there(lesson.stem)
    suffix = ".png" if lesson.image_HW3.dtype == np.uint8 else ".npy"
    return Place(
        root, site, patient, about, images / f"{lesson.stem}{suffix}",
        tuple(one / f"{lesson.stem}.png" for one in mask_folders), table,
        is_new_site=not folder.exists(), num_images=len(files),
        others=() if table.exists() else tuple(sorted(path.name for path in files)),
    )  # fmt: skip


def _with_line(before: bytes | None, place: Place) -> bytes:
    """Return meta.csv with a line for the image; of a new one also a line for each other image, without a patient."""
    row = {"file": place.image.name, "group": place.patient}
    if before is None:
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerows([("file", "group"), *((name, "") for name in place.others), tuple(row.values())])
        return out.getvalue().encode()
    text = decode(before)
    first = next(line for line in text.splitlines() if line.strip() and not line.lower().startswith("sep="))
    delimiter = max(meta.DELIMITERS, key=first.count)
    header = [folded(name) for name in next(csv.reader([first], delimiter=delimiter))]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow([row.get(name, "") for name in header])
    ends = "" if not text or text.endswith("\n") else "\n"
    return (text + ends + out.getvalue()).encode()


def _check_words(site: str, patient: str) -> None:
    if not SITE_NAME.fullmatch(site) or is_litter(Path(site)) or folded(site) == folded(meta.FILE_NAME):
        raise UserError(
            "teach.site_name",
            what=f"'{site[:MAX_PATIENT]}' is no name of a site." if site else "No site is named.",
            why="It becomes a folder's name, on disks of all systems.",
            fix="Use up to 64 letters, digits, blanks, dots, - and _, a letter or digit first.",
        )
    if not patient or len(patient) > MAX_PATIENT or not patient.isprintable() or "/" in patient:
        raise UserError(
            "teach.patient",
            what="It is not said whose image this is." if not patient else "This is no patient's code.",
            why="Images of one patient stay on one side of every split; figures would mislead otherwise.",
            fix=f"Give a code of up to {MAX_PATIENT} signs, the same for all images of this patient, and no name.",
        )


def _check_classes(lesson: Lesson, description: DatasetDescription) -> None:
    if set(lesson.masks) != set(description.classes):
        raise UserError(
            "teach.classes",
            what=f"{description.name} has the classes {', '.join(description.classes)}, "
            f"the mask {', '.join(lesson.masks)}.",
            why="An image without one of them would teach that it is not there.",
            fix="Choose a dataset of the same classes, or a new one.",
        )


def _is_there(name: str) -> UserError:
    return UserError(
        "teach.there",
        what=f"This image is at the site already ({name}).",
        why="Nothing is written over, and an image that is there twice counts twice.",
        fix="Take the older files away by hand if the new mask is to stand in their place.",
    )


def _write_new(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _npy(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, pixels, allow_pickle=False)
    return out.getvalue()


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

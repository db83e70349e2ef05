"""The stored files of one synthetic pair as pictures, class by class. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from app import overlays, text
from engine.errors import UserError
from engine.types import SyntheticSample

DETAIL_PX = 384


@dataclass(frozen=True, eq=False)
class ClassPictures:
    """One class of a pair, (H, W, 3) uint8 each: its mask in its colour, and both predictions where they are stored."""

    name: str
    mask: np.ndarray
    teacher: np.ndarray | None = None
    student: np.ndarray | None = None
    dispute: np.ndarray | None = None
    kl: np.ndarray | None = None
    """Symmetric KL of the predictions at each pixel: black 0, white ``overlays.FULL_KL`` and more."""


@dataclass(frozen=True, eq=False)
class SamplePictures:
    """One pair: the image, the image with every class outlined, and each class for itself."""

    image: np.ndarray
    outlined: np.ndarray
    classes: tuple[ClassPictures, ...]


def sample_pictures(
    run_dir: Path,
    sample: SyntheticSample,
    *,
    longest_px: int = DETAIL_PX,
    predictions: bool = True,
    class_names: tuple[str, ...] = (),
) -> SamplePictures:
    """Read one pair of a run and return its pictures, enlarged or reduced to ``longest_px``.

    Without ``class_names`` the classes are those that the mask picture shows, by number. Raises ``UserError``
    ``app.sample_unreadable`` where a file is missing or damaged.
    """
    from export.results import overlay

    paths = (sample.teacher_path, sample.student_path) if predictions else (None, None)
    try:
        with Image.open(run_dir / sample.image_path) as picture:
            height, width = overlays.fit(picture.height, picture.width, longest_px=longest_px)
            image = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
        with Image.open(run_dir / sample.mask_path) as picture:
            resized = picture.resize((width, height), Image.Resampling.NEAREST)
        teacher, student = (read_maps(run_dir / path, (width, height)) if path else () for path in paths)
    except OSError as error:
        raise UserError(
            "app.sample_unreadable",
            what=f"The files of sample {sample.sample_id} cannot be read ({error}).",
            why="Pictures are shown from the run's own folder.",
            fix="Run the generation stage again if the files are gone: fork the run from it.",
        ) from error
    mask_KHW = read_mask_planes(resized, num_classes=len(class_names) or None)
    numbered = (text.CLASS_NUMBER.format(number=at + 1) for at in range(len(mask_KHW)))
    names = class_names[: len(mask_KHW)] or tuple(numbered)
    return SamplePictures(
        image=image,
        outlined=overlay(image, mask_KHW, opacity=0.0, outline_px=2),
        classes=tuple(
            _class_pictures(name, image, mask_KHW, at=at, teacher=teacher[at : at + 1], student=student[at : at + 1])
            for at, name in enumerate(names)
        ),
    )


def read_mask_planes(picture: Image.Image, *, num_classes: int | None = None) -> np.ndarray:
    """Return a stored mask as (K, H, W) uint8 {0, 1}: grey for one class, else a colour plane a class.

    Where ``num_classes`` is not known, an empty third plane is taken for the filling of a two-class picture.
    """
    values = np.asarray(picture)
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    used = len(planes) if planes[2:].any() else 2
    return (planes[: num_classes or used] > 127).astype(np.uint8)


def read_maps(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Return a stored prediction as probability maps in [0, 1] of ``size`` (width, height), one a stored class.

    Pictures of a single plane hold the only class, or the first of several: older runs stored no other.
    """
    with Image.open(path) as picture:
        grey = picture.mode == "L"
        values = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255.0
    return (values,) if grey else tuple(values.transpose(2, 0, 1))


def _class_pictures(
    name: str,
    image_HW3: np.ndarray,
    mask_KHW: np.ndarray,
    *,
    at: int,
    teacher: tuple[np.ndarray, ...],
    student: tuple[np.ndarray, ...],
) -> ClassPictures:
    """Return the pictures of class ``at``; ``teacher`` and ``student`` hold its map, or nothing."""
    from export.results import class_colour

    mask = np.zeros_like(image_HW3)
    mask[mask_KHW[at] > 0] = class_colour(at)
    if not teacher or not student:
        return ClassPictures(name, mask)
    dispute = overlays.disagreement(image_HW3, teacher[0], student[0])
    kl = overlays.heat(overlays.symmetric_kl(teacher[0], student[0]) / overlays.FULL_KL)
    return ClassPictures(name, mask, overlays.heat(teacher[0]), overlays.heat(student[0]), dispute, kl)

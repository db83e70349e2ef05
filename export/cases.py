"""A folder, a zip or a file of images as cases, and each case's masks and figures as files. Torch-free.

A case is a picture, a volume in one file, or the files of one DICOM series. Its masks are PNG for a picture, NIfTI for
NIfTI, a DICOM Segmentation for DICOM volumes (NIfTI or TIFF where that cannot be), and a TIFF stack for a TIFF stack.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from engine.data.archives import Member, is_dicom
from engine.data.names import folded
from engine.data.readers import file_stem, is_supported
from engine.data.volume_cache import Held, held_open
from engine.data.volumes import SourceVolume, open_series, open_volume, placed_series
from engine.errors import UserError
from export import foreign_volumes
from export.foreign import marked, refuse
from export.levels import MODEL_PERCENT, STEPS, above
from export.outputs.dicom_seg import write_dicom_seg
from export.outputs.measurements import GreySums, Measurement, measure
from export.outputs.nifti import write_nifti
from export.outputs.references import read_reference
from export.results import displayable, mask_file, overlay, plain_name
from export.runtime import BundleSession
from export.volumes import empty_masks, label_volume, segment_slice

OTHERWISE = "Give it to another model."
Keep = Callable[[SourceVolume, int, np.ndarray], None]
"""Takes a volume, the number of a slice, and its probabilities (K, H, W) in hundredths, uint8."""
SEG_SUFFIX, NIFTI_SUFFIX, TIFF_SUFFIX = "_seg.dcm", "_mask.nii.gz", "_mask.tif"


@dataclass(frozen=True)
class Case:
    """What is segmented as one: its files, and the stem of what is made of it. ``name`` is what people call it."""

    name: str
    stem: str
    paths: tuple[Path, ...]
    is_series: bool = False

    def open(self, *, slice_axis: int) -> SourceVolume:
        """Return the case's slices; errors are those of ``engine.data.volumes``."""
        return open_series(self.paths) if self.is_series else open_volume(self.paths[0], slice_axis=slice_axis)


@dataclass(frozen=True, eq=False)
class Segmented:
    """One case answered."""

    case: Case
    volume: SourceVolume
    masks_KSHW: np.ndarray
    measurements: list[Measurement]
    wall_ms: float
    unlike: tuple[str, ...] = ()
    """In which ways the case is unlike the images of training: it was answered on request."""
    percent: int = MODEL_PERCENT
    """The threshold of its masks."""
    corrected_px: tuple[int, ...] = ()
    """How many voxels of each class a person has changed; () where nobody has."""

    @property
    def stem(self) -> str:
        """Return the stem of what is made of it: it says what is unlike training's, or at another threshold."""
        stem = marked(self.case.stem) if self.unlike else self.case.stem
        stem = stem if self.percent == MODEL_PERCENT else f"{stem}_threshold_{self.percent / STEPS:.2f}"
        return plain_name(f"{stem}_corrected_by_hand" if any(self.corrected_px) else stem)

    @property
    def note(self) -> str:
        """Return what its files say of a mask that is not the model's own; "" for the model's."""
        return BY_HAND.format(count=sum(self.corrected_px)) if any(self.corrected_px) else ""


BY_HAND = "corrected by hand, {count} voxels"
"""What files say of a mask that a person has corrected."""


def find_cases(files: Sequence[Member], *, series_name: str | None = None) -> list[Case]:
    """Return the cases among ``files``, in their order; several series are numbered.

    Only DICOM files that say where they lie are gathered into series: radiographs of one series stay pictures.
    ``series_name`` is what a series is called, the name of its folder without it.
    """
    groups: dict[str, list[Member]] = {}
    for at, member in enumerate(files):
        groups.setdefault(_series(member) or f" {at}", []).append(member)
    num_series = sum(len(group) > 1 for group in groups.values())
    cases: list[Case] = []
    for group in groups.values():
        if len(group) == 1:
            name = group[0].name
            bare = Path(name)
            stem = file_stem(bare) if is_supported(bare) else bare.name
            cases.append(Case(name, stem, (group[0].path,)))
            continue
        number = 1 + sum(case.is_series for case in cases)
        name = series_name or group[0].path.parent.name
        stem = name if num_series == 1 else f"{name}_series{number}"
        cases.append(Case(stem, stem, tuple(member.path for member in group), is_series=True))
    return cases


def told_apart(cases: Sequence[Case]) -> list[Case]:
    """Return the cases with stems that no disk takes for one: images of several folders of a zip may have one name."""
    taken: set[str] = set()
    apart = []
    for case in cases:
        stem, number = case.stem, 1
        while folded(plain_name(stem)) in taken:
            number += 1
            stem = f"{case.stem}_{number}"
        taken.add(folded(plain_name(stem)))
        apart.append(replace(case, stem=stem))
    return apart


def segment_case(
    session: BundleSession,
    case: Case,
    *,
    reference: Path | None = None,
    anyway: bool = False,
    fix: str = OTHERWISE,
    percent: int = MODEL_PERCENT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Segmented:
    """Return the masks and figures of one case, all of its slices; ``progress`` is told how many are done of all.

    ``reference`` is a mask file to compare with; masks are what is above the threshold ``percent``, the model's own by
    itself. Stops where ``progress`` raises. Raises ``UserError`` as reading,
    segmenting and ``export.volumes.empty_masks`` do, and ``image.foreign``, with the mend ``fix``, for what is unlike
    the images of training, unless ``anyway``.
    """
    steps = segment_steps(session, case, reference=reference, anyway=anyway, fix=fix, percent=percent)
    while True:
        try:
            progress(*next(steps))
        except StopIteration as end:
            return end.value


def segment_steps(
    session: BundleSession,
    case: Case,
    *,
    reference: Path | None = None,
    anyway: bool = False,
    fix: str = OTHERWISE,
    percent: int = MODEL_PERCENT,
    keep: Keep = lambda volume, number, levels_KHW: None,
    num_models: int = 1,
    held: Held | None = None,
) -> Generator[tuple[int, int], None, Segmented]:
    """Yield (done, all) after every slice and return what :func:`segment_case` does: between two it can be left.

    ``keep`` is given the probabilities of each slice, in hundredths. A reference that does not fit is refused first.
    With ``num_models`` that many such generators of this case live at once, and their masks share the limit; in
    ``held`` each finds open what another has read.
    """
    started = time.perf_counter()
    classes = session.manifest.classes
    held = OrderedDict() if held is None else held
    with held_open(held):
        volume = case.open(slice_axis=session.manifest.slice_axis)
        unlike = foreign_volumes.reasons(session, volume)
        if unlike and not anyway:
            raise refuse(session, unlike, fix=fix)
        masks_KSHW = empty_masks(volume, num_classes=len(classes), num_models=num_models)
        greys = GreySums(len(classes))
        compared = None if reference is None else read_reference(reference, volume, num_classes=len(classes))
    for number in range(len(volume)):
        with held_open(held):
            levels_KHW = segment_slice(session, volume, number)
            keep(volume, number, levels_KHW)
            masks_KSHW[:, number] = mask_KHW = above(levels_KHW, percent)
            greys.add(volume.values(number), mask_KHW)
        yield number + 1, len(volume)
    wall_ms = 1000 * (time.perf_counter() - started)
    about = {"name": case.name, "classes": classes, "threshold": percent / STEPS}
    figures = measure(volume, masks_KSHW, greys=greys, reference_KSHW=compared, **about)  # type: ignore[arg-type]
    return Segmented(case, volume, masks_KSHW, figures, wall_ms, unlike, percent)


def corrected_case(
    session: BundleSession,
    case: Case,
    masks_KSHW: np.ndarray,
    corrected_KSHW: np.ndarray,
    *,
    reference: Path | None = None,
    percent: int = MODEL_PERCENT,
    unlike: tuple[str, ...] = (),
) -> Segmented:
    """Return a case whose masks (K, S, H, W) {0, 1} a person has corrected, with the figures of these: no inference."""
    started = time.perf_counter()
    classes = session.manifest.classes
    volume = case.open(slice_axis=session.manifest.slice_axis)
    compared = None if reference is None else read_reference(reference, volume, num_classes=len(classes))
    greys = GreySums(len(classes))
    for number in range(len(volume)):
        greys.add(volume.values(number), corrected_KSHW[:, number])
    pairs = zip(masks_KSHW, corrected_KSHW, strict=True)
    changed = tuple(int(np.count_nonzero(before != after)) for before, after in pairs)
    about = {"name": case.name, "classes": classes, "threshold": percent / STEPS}
    figures = measure(volume, corrected_KSHW, greys=greys, reference_KSHW=compared, **about)  # type: ignore[arg-type]
    told = [replace(one, corrected_px=count) for one, count in zip(figures, changed, strict=True)]
    wall_ms = 1000 * (time.perf_counter() - started)
    return Segmented(case, volume, corrected_KSHW, told, wall_ms, unlike, percent, changed)


def write_masks(found: Segmented, out: Path, *, session: BundleSession) -> list[Path]:
    """Write a case's masks below ``out`` and return the files: one, but for the reasons of this module's head.

    A DICOM volume that cannot be referred to is written as NIfTI, and as TIFF where nothing says where it lies.
    """
    stem, volume, manifest = found.stem, found.volume, session.manifest
    if volume.kind == "picture" or (volume.kind == "dicom" and len(volume) == 1):
        name, content = mask_file(found.masks_KSHW[:, 0], classes=manifest.classes, stem=stem, note=found.note)
        (out / name).write_bytes(content)
        return [out / name]
    if volume.kind == "dicom":
        try:
            write_dicom_seg(out / f"{stem}{SEG_SUFFIX}", volume, found.masks_KSHW, manifest=manifest, note=found.note)
            return [out / f"{stem}{SEG_SUFFIX}"]
        except UserError as error:
            if error.code != "output.no_segmentation":
                raise
    labels_SHW = label_volume(found.masks_KSHW)
    if volume.geometry.affine_lps is not None:
        write_nifti(out / f"{stem}{NIFTI_SUFFIX}", volume, labels_SHW, note=found.note)
        return [out / f"{stem}{NIFTI_SUFFIX}"]
    tifffile.imwrite(out / f"{stem}{TIFF_SUFFIX}", labels_SHW, photometric="minisblack", compression="zlib",
                     description=found.note or None)  # fmt: skip
    return [out / f"{stem}{TIFF_SUFFIX}"]


def write_overlays(found: Segmented, out: Path, *, session: BundleSession) -> None:
    """Write each slice with its mask over it as PNG."""
    manifest = session.manifest
    with held_open():
        for number in range(len(found.volume)):
            picture = found.volume.picture(number, value_range=manifest.value_range, window=manifest.window)
            blended = overlay(displayable(picture), found.masks_KSHW[:, number])
            suffix = "" if len(found.volume) == 1 else f"_slice{number + 1:03d}"
            Image.fromarray(blended).save(out / f"{found.stem}{suffix}_overlay.png")


def _series(member: Member) -> str:
    """Return the series that a file belongs to, "" where it is none; what cannot be read is told when it is opened."""
    try:
        return placed_series(member.path) if is_dicom(member.path) else ""
    except (UserError, OSError):
        return ""

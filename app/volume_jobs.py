"""Whole volumes, series and zips that visitors send: segmented in steps, and saved where nobody else can guess.

Memory: reading one file and the masks of one volume are each held to ``Settings.max_read_mb``; what a zip holds is
written to the page's own folder, within the same bytes, and deleted with the job.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app import model_text, volume_view
from app import volume_text as words
from app.answers import MIB
from engine.data.archives import Member, is_archive, unpack
from engine.data.budget import at_most
from engine.data.identifiers import identifying_tags
from engine.data.readers import file_stem, is_supported
from engine.data.volume_cache import held_open
from engine.errors import UserError
from export.cases import Case, Segmented, find_cases, segment_steps, told_apart, write_masks
from export.levels import MODEL_PERCENT
from export.outputs.measurements import Measurement, as_csv
from export.outputs.nifti import write_nifti
from export.results import plain_name
from export.runtime import BundleSession
from export.volumes import label_volume

if TYPE_CHECKING:
    from app.studio import Studio

VIEW_FILE = "volume.bin.gz"
CSV_FILE = "measurements.csv"


@dataclass(frozen=True)
class Step:
    """How far a job is: which case of how many, which slice of how many."""

    name: str
    case: int
    num_cases: int
    slice: int
    num_slices: int


@dataclass
class Result:
    """What a job gave: files to save by path, figures, what could not be segmented, and what the viewer draws."""

    num_cases: int
    masks: str = ""
    nifti: str = ""
    csv: str = ""
    measurements: list[Measurement] = field(default_factory=list)
    faults: list[UserError] = field(default_factory=list)
    identifiers: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    """In which ways the last such case is unlike the images of training: it was answered on request."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Slices, columns and rows of the last case."""
    percent: int = MODEL_PERCENT
    """The threshold of masks, files and figures."""
    view: volume_view.View | None = None
    view_path: str = ""
    wall_s: float = 0.0


def run(
    studio: Studio, session: BundleSession, upload: Path, *, anyway: bool = False, percent: int = MODEL_PERCENT
) -> Generator[Step, None, Result]:
    """Yield after every slice and return the result; left in between, nothing of it stays.

    What is unlike the images of training is segmented only with ``anyway``. Masks are what is above ``percent``.

    A single case that cannot be segmented raises its ``UserError``; of several, each is named in ``faults``. Files are
    called by the names that they came with.
    """
    started = time.perf_counter()
    limit = studio.settings.max_read_mb * MIB
    name = studio.uploads.name_of(upload)
    with tempfile.TemporaryDirectory(dir=studio.scratch.path, prefix="job-") as made:
        inside, out = Path(made) / "in", Path(made) / "out"
        inside.mkdir()
        out.mkdir()
        members = [Member(upload, name)]
        with at_most(limit):
            if is_archive(upload):
                try:
                    members = unpack(upload, inside, most_bytes=limit)
                except UserError as error:
                    raise _renamed(error, {upload: name}, name) from error
            cases = told_apart(find_cases(members, series_name=_stem(name)))
        known = {member.path: member.name for member in members}
        result = Result(len(cases), percent=percent)
        for at, case in enumerate(cases):
            shown = volume_view.Shown()
            steps = segment_steps(
                session, case, anyway=anyway, fix=model_text.FOREIGN_FIX, percent=percent, keep=shown.take
            )
            try:
                found = yield from _segmented(steps, case, at=at, of=len(cases), limit=limit, known=known, archive=name)
            except UserError as error:
                if len(cases) == 1:
                    raise
                result.faults.append(error)
                continue
            with at_most(limit), held_open():
                _keep(studio, session, found, result, out, shown=shown if len(cases) == 1 else None)
        _save(studio, result, out, stem=plain_name(_stem(name)))
    result.wall_s = time.perf_counter() - started
    return result


def _segmented(
    steps: Generator[tuple[int, int], None, Segmented],
    case: Case,
    *,
    at: int,
    of: int,
    limit: int,
    known: dict[Path, str],
    archive: str,
) -> Generator[Step, None, Segmented]:
    try:
        while True:
            with at_most(limit):
                done, total = next(steps)
            yield Step(case.name, at + 1, of, done, total)
    except StopIteration as end:
        return end.value
    except UserError as error:
        raise _renamed(error, known, archive) from error


def _keep(
    studio: Studio,
    session: BundleSession,
    found: Segmented,
    result: Result,
    out: Path,
    *,
    shown: volume_view.Shown | None,
) -> None:
    """Write one case's masks, and, of a case that is alone, what is shown of it."""
    volume, classes = found.volume, session.manifest.classes
    written = write_masks(found, out, session=session)
    result.measurements += found.measurements
    result.unlike = found.unlike or result.unlike
    result.size = (len(volume), volume.geometry.width_px, volume.geometry.height_px)
    if volume.kind == "dicom":
        told = (*result.identifiers, *identifying_tags(volume.dicom_file().tags))
        result.identifiers = tuple(dict.fromkeys(told))
    if shown is None:
        return
    result.view = volume_view.view(volume, shown, classes=classes, percent=result.percent)
    result.view_path = studio.save(VIEW_FILE, result.view.packed)
    labels_SHW = label_volume(found.masks_KSHW)
    if volume.kind == "dicom" and volume.geometry.affine_lps is not None and not written[0].name.endswith(".nii.gz"):
        path = out / f"{found.stem}_mask.nii.gz"
        write_nifti(path, volume, labels_SHW)
        result.nifti = studio.save(path.name, path.read_bytes())
        path.unlink()


def _save(studio: Studio, result: Result, out: Path, *, stem: str) -> None:
    """Offer the one file of masks, or all of them with their figures as a zip."""
    if not result.measurements:
        return
    table = as_csv(result.measurements).encode()
    result.csv = studio.save(f"{stem}_{CSV_FILE}", table)
    files = sorted(out.iterdir())
    if len(files) == 1 and result.num_cases == 1:
        result.masks = studio.save(files[0].name, files[0].read_bytes())
        return
    path = Path(studio.save(f"{stem}_masks.zip", b""))
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
        archive.writestr(CSV_FILE, table)
    result.masks = str(path)


def _renamed(error: UserError, known: dict[Path, str], archive: str) -> UserError:
    """Return the error with names as they were sent in place of where files lie here."""
    what = error.what
    for path, name in known.items():
        what = what.replace(str(path), name)
    for folder in {path.parent for path in known}:
        what = what.replace(str(folder), archive)
    return UserError(error.code, what=what, why=error.why, fix=error.fix)


def _stem(name: str) -> str:
    path = Path(name)
    return file_stem(path) if is_supported(path) else path.stem


def progress_words(step: Step) -> str:
    """Return what is being done."""
    if step.num_cases == 1:
        return words.PROGRESS.format(name=step.name, done=step.slice, total=step.num_slices)
    return words.PROGRESS_MANY.format(
        at=step.case, of=step.num_cases, name=step.name, done=step.slice, total=step.num_slices
    )

"""Whole volumes, series and zips that visitors send: segmented in steps, and saved where nobody else can guess.

Memory: reading one file and the masks of one volume are each held to ``Settings.max_read_mb``; what a zip holds is
written to the page's own folder, within the same bytes, and deleted with the job.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app import model_text, reference_text, volume_view
from app import volume_text as words
from app.answers import MIB
from app.visitor_words import for_visitor
from app.volume_corrections import packed
from app.volume_strokes import Grid
from engine.data.archives import Member, is_archive, unpack
from engine.data.budget import at_most
from engine.data.identifiers import identifying_tags
from engine.data.readers import file_stem, is_supported
from engine.data.volume_cache import held_open
from engine.errors import UserError
from export.cases import Case, Segmented, find_cases, write_masks
from export.levels import MODEL_PERCENT
from export.outputs.compared import Compared, pairs_csv
from export.outputs.instance_files import write_instances
from export.outputs.measurements import Measurement, as_csv
from export.outputs.nifti import write_nifti
from export.pairs import Models, together_steps
from export.results import plain_name
from export.volumes import label_volume

if TYPE_CHECKING:
    from app.studio import Studio
    from export.runtime import BundleSession

VIEW_FILE = "volume.bin.gz"
CSV_FILE = "measurements.csv"
MASKS_FILE = "masks.bits"


@dataclass(frozen=True)
class Step:
    """How far a job is: which case of how many, which slice of how many, by which model of how many."""

    name: str
    case: int
    num_cases: int
    slice: int
    num_slices: int
    model: int = 1
    num_models: int = 1

    @property
    def done(self) -> int:
        """Return how many slices are segmented, of ``num_slices`` for each model."""
        return (self.slice - 1) * self.num_models + self.model


@dataclass
class Result:
    """What a job gave: files to save by path, figures, what could not be segmented, and what the viewer draws."""

    num_cases: int
    models: tuple[str, ...] = ("",)
    """What the job's models are called: one, or two that are compared."""
    masks: str = ""
    nifti: str = ""
    second_masks: str = ""
    """Of the second model, where there is one and the masks are no zip: that has those of both."""
    second_nifti: str = ""
    instances: str = ""
    """Of the first model's masks: things that are counted apart, numbered."""
    csv: str = ""
    measurements: list[Measurement] = field(default_factory=list)
    """Of the first model's masks."""
    compared: list[Compared] = field(default_factory=list)
    """Both models' figures side by side; none of one model."""
    faults: list[UserError] = field(default_factory=list)
    identifiers: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    """In which ways the last such case is unlike the images of training: it was answered on request."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Slices, columns and rows of the last case."""
    percent: int = MODEL_PERCENT
    """The threshold of masks, files and figures."""
    reference: str = ""
    """The name of the mask that they are compared with."""
    view: volume_view.View | None = None
    view_path: str = ""
    kept: tuple[str, tuple[int, ...], Grid, tuple[str, ...]] | None = None
    """Of a volume by one model: the file of its masks, their shape, what is shown of them, and ``unlike``."""
    wall_s: float = 0.0


def run(
    studio: Studio,
    models: Models,
    upload: Path,
    *,
    anyway: bool = False,
    percent: int = MODEL_PERCENT,
    reference: Path | None = None,
) -> Generator[Step, None, Result]:
    """Yield after every slice of every model and return the result; left in between, nothing of it stays.

    What is unlike the images of training is segmented only with ``anyway``. Masks are what is above ``percent``.
    ``reference`` is a mask to compare with; raises ``UserError`` ``reference.several`` where there are several cases.

    A single case that cannot be segmented raises its ``UserError``; of several, each is named in ``faults``. Files are
    called by the names that they came with.
    """
    started = time.perf_counter()
    limit = studio.settings.max_read_mb * MIB
    name = studio.uploads.name_of(upload)
    with tempfile.TemporaryDirectory(dir=studio.scratch.path, prefix="job-") as made:
        inside, out = Path(made) / "in", Path(made) / "out"
        out.mkdir()
        found, known = cases_of(studio, upload, inside, limit=limit)
        cases = models.cases(found)
        result = Result(len(cases), models.names, percent=percent)
        if reference is not None:
            _refuse_several(name, len(cases))
            known[reference] = result.reference = studio.uploads.name_of(reference)
        for at, case in enumerate(cases):
            shown = [volume_view.Shown(num_models=len(models)) for _ in case]
            how = {"anyway": anyway, "fix": model_text.FOREIGN_FIX, "percent": percent, "reference": reference}
            steps = together_steps(models, case, keeps=[one.take for one in shown], **how)  # type: ignore[arg-type]
            place = Step(case[0].name, at + 1, len(cases), 0, 0, num_models=len(models))
            try:
                found = yield from _segmented(steps, place, limit=limit, known=known, archive=name)
            except UserError as error:
                if len(cases) == 1:
                    raise _fix_here(error, result.reference) from error
                result.faults.append(error)
                continue
            with at_most(limit), held_open():
                _keep(studio, models, found, result, out, shown=shown if len(cases) == 1 else None)
        keep_figures(studio, result, out, stem=plain_name(_stem(name)))
    result.wall_s = time.perf_counter() - started
    return result


def cases_of(studio: Studio, upload: Path, inside: Path, *, limit: int) -> tuple[list[Case], dict[Path, str]]:
    """Return the cases of an upload, unpacked into ``inside`` if it is a zip, and by path what each file is called."""
    name = studio.uploads.name_of(upload)
    inside.mkdir()
    members = [Member(upload, name)]
    with at_most(limit):
        if is_archive(upload):
            try:
                members = unpack(upload, inside, most_bytes=limit)
            except UserError as error:
                raise _renamed(error, {upload: name}, name) from error
        known = {member.path: member.name for member in members}
        try:
            return find_cases(members, series_name=_stem(name)), known
        except UserError as error:
            raise _renamed(error, known, name) from error


def _segmented(
    steps: Generator[tuple[int, int], None, tuple[Segmented, ...]],
    place: Step,
    *,
    limit: int,
    known: dict[Path, str],
    archive: str,
) -> Generator[Step, None, tuple[Segmented, ...]]:
    """Yield ``place`` with how far its case is, and return what each model gave."""
    try:
        while True:
            with at_most(limit):
                done, total = next(steps)
            number, by = divmod(done - 1, place.num_models)
            yield replace(place, slice=number + 1, num_slices=total // place.num_models, model=by + 1)
    except StopIteration as end:
        return end.value
    except UserError as error:
        raise _renamed(error, known, archive) from error


def _keep(
    studio: Studio,
    models: Models,
    found: tuple[Segmented, ...],
    result: Result,
    out: Path,
    *,
    shown: list[volume_view.Shown] | None,
) -> None:
    """Write one case's masks, and, of a case that is alone, what is shown of it."""
    volume = found[0].volume
    written = [write_masks(one, out, session=session) for one, session in zip(found, models.sessions, strict=True)]
    result.measurements += found[0].measurements
    result.compared += models.compared(found)
    result.unlike = _unlike(models, found) or result.unlike
    result.size = (len(volume), volume.geometry.width_px, volume.geometry.height_px)
    if volume.kind == "dicom":
        told = (*result.identifiers, *identifying_tags(volume.dicom_file().tags))
        result.identifiers = tuple(dict.fromkeys(told))
    if shown is None:
        return
    result.view = volume_view.view(
        volume, shown, classes=models.classes, percent=result.percent, models=models.names, orders=models.orders
    )
    result.view_path = studio.save(VIEW_FILE, result.view.packed)
    for one, paths in zip(found, written, strict=True):
        _keep_written(studio, one, result, out, paths=paths, is_second=one is not found[0])
    _keep_instances(studio, found[0], result, out, classes=models.classes)
    if len(models) == 1 and volume.kind != "picture":
        masks_file = studio.save(MASKS_FILE, packed(found[0].masks_KSHW))
        about, turn = result.view.about, volume_view.turn_of(volume)
        grid = Grid(tuple(about["shape"]), tuple(about["every"]), turn)
        result.kept = (masks_file, found[0].masks_KSHW.shape, grid, found[0].unlike)


def keep_files(studio: Studio, found: Segmented, result: Result, out: Path, *, session: BundleSession) -> None:
    """Write the masks of one case, its instances too, and keep its figures and files in ``result``."""
    volume = found.volume
    result.measurements = found.measurements
    result.size = (len(volume), volume.geometry.width_px, volume.geometry.height_px)
    _keep_written(studio, found, result, out, paths=write_masks(found, out, session=session))
    _keep_instances(studio, found, result, out, classes=session.manifest.classes)


def _keep_written(
    studio: Studio, found: Segmented, result: Result, out: Path, *, paths: list[Path], is_second: bool = False
) -> None:
    volume = found.volume
    is_placed = volume.kind == "dicom" and volume.geometry.affine_lps is not None
    as_nifti = is_placed and not paths[0].name.endswith(".nii.gz")
    nifti = _saved_nifti(studio, found, out) if as_nifti else ""
    masks = studio.save(paths[0].name, paths[0].read_bytes())
    if is_second:
        result.second_masks, result.second_nifti = masks, nifti
    else:
        result.masks, result.nifti = masks, nifti


def _keep_instances(studio: Studio, found: Segmented, result: Result, out: Path, *, classes: tuple[str, ...]) -> None:
    path = write_instances(out, found.stem, found.volume, found.masks_KSHW, classes, note=found.note)
    result.instances = studio.save(path.name, path.read_bytes()) if path else ""


def _saved_nifti(studio: Studio, found: Segmented, out: Path) -> str:
    path = out / f"{found.stem}_mask.nii.gz"
    write_nifti(path, found.volume, label_volume(found.masks_KSHW), note=found.note)
    return studio.save(path.name, path.read_bytes())


def _unlike(models: Models, found: tuple[Segmented, ...]) -> tuple[str, ...]:
    """Return in which ways a case is unlike the images of training; of two models by name where they differ."""
    if len({one.unlike for one in found}) == 1:
        return found[0].unlike
    return tuple(f"{name}: {' '.join(one.unlike)}" for name, one in zip(models.names, found, strict=True) if one.unlike)


def keep_figures(studio: Studio, result: Result, out: Path, *, stem: str) -> None:
    """Offer the figures, and of several cases all masks with them as a zip."""
    if not result.measurements:
        return
    table = (pairs_csv(result.compared) if result.compared else as_csv(result.measurements)).encode()
    result.csv = studio.save(f"{stem}_{CSV_FILE}", table)
    if result.num_cases == 1:
        return
    path = Path(studio.save(f"{stem}_masks.zip", b""))
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_STORED) as archive:
        for file in sorted(out.iterdir()):
            archive.write(file, file.name)
        archive.writestr(CSV_FILE, table)
    result.masks = str(path)


def _refuse_several(name: str, count: int) -> None:
    if count > 1:
        what = reference_text.SEVERAL_WHAT.format(name=name, count=count)
        fix = reference_text.SEVERAL_FIX
        raise UserError("reference.several", what=what, why=reference_text.SEVERAL_WHY, fix=fix)


def _fix_here(error: UserError, reference: str) -> UserError:
    """Return the error; of a reference mask that does not fit with what can be done on this page."""
    if not reference or reference not in error.what or not error.code.startswith(("reference.", "data.")):
        return error
    return UserError(error.code, what=error.what, why=error.why, fix=reference_text.FIX)


def _renamed(error: UserError, known: dict[Path, str], archive: str) -> UserError:
    """Return the error with names as they were sent in place of where files lie here."""
    folders = {str(path.parent): archive for path in known}
    return for_visitor(error, names={str(path): name for path, name in known.items()} | folders)


def _stem(name: str) -> str:
    path = Path(name)
    return file_stem(path) if is_supported(path) else path.stem


def progress_words(step: Step) -> str:
    """Return what is being done."""
    how_far = {"name": step.name, "done": step.slice, "total": step.num_slices}
    told = words.PROGRESS.format(**how_far)
    if step.num_cases > 1:
        told = words.PROGRESS_MANY.format(at=step.case, of=step.num_cases, **how_far)
    return told if step.num_models == 1 else words.PROGRESS_BY.format(told=told, model=step.model)

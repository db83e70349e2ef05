"""A volume's mask corrected by hand: what a browser's session remembers of it, and its figures and files.

The masks that the model gave lie packed beside the page's other files, as long as what is shown is kept; strokes are
in the session. Shape legend: K classes; S, H, W slices, rows and columns of the volume as it was read.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app import volume_text as words
from app.answers import MIB
from app.corrections import MAX_WORK_PX, work_px
from app.visitor_words import for_visitor
from app.volume_strokes import MAX_STROKES, Grid, PlaneStroke, apply, plane_stroke
from engine.data.budget import at_most
from engine.data.volume_cache import held_open
from engine.errors import UserError
from export.cases import corrected_case

if TYPE_CHECKING:
    from app.studio import Studio
    from app.volume_jobs import Result
    from engine.data.tiling import Looks


@dataclass(frozen=True)
class Kept:
    """What is remembered of a volume that was answered: enough for its corrected mask.

    ``masks_file`` holds the model's masks of ``shape`` (K, S, H, W), a bit each. ``model`` is the key of the model,
    and how it looked.
    """

    upload: Path
    reference: Path | None
    model: tuple[str, Looks | None, str]
    percent: int
    masks_file: str
    shape: tuple[int, int, int, int]
    grid: Grid
    unlike: tuple[str, ...] = ()
    strokes: tuple[PlaneStroke, ...] = ()
    undone: tuple[PlaneStroke, ...] = ()
    heard: int = 0
    """The number of the browser's last event."""

    def after(self, number: object, value: object, stroke: object) -> tuple[Kept, str]:
        """Return it after an event of the viewer, and what to say: what is none of its events changes nothing."""
        heard = replace(self, heard=number if type(number) is int else self.heard)
        if value == "undo" and self.strokes:
            return replace(heard, strokes=self.strokes[:-1], undone=(*self.undone, self.strokes[-1])), ""
        if value == "redo" and self.undone:
            return replace(heard, strokes=(*self.strokes, self.undone[-1]), undone=self.undone[:-1]), ""
        one = plane_stroke(value, stroke, grid=self.grid, num_classes=self.shape[0])
        if one is None:
            return heard, ""
        if len(self.strokes) >= MAX_STROKES:
            return heard, words.TOO_MANY.format(most=MAX_STROKES)
        done = (*self.strokes, one)
        if sum(work_px(each.stroke, size_hw=self.grid.plane_size(each.axis)) for each in done) > MAX_WORK_PX:
            return heard, words.TOO_MUCH
        return replace(heard, strokes=done, undone=()), ""


def packed(masks_KSHW: np.ndarray) -> bytes:
    """Return masks {0, 1} a bit each."""
    return np.packbits(masks_KSHW).tobytes()


def unpacked(content: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return what :func:`packed` packed, uint8 {0, 1}."""
    return np.unpackbits(np.frombuffer(content, np.uint8), count=int(np.prod(shape))).reshape(shape)


def settle(studio: Studio, kept: Kept) -> Result:
    """Return figures and files of the corrected mask; raises ``UserError`` ``app.volume_gone`` where it is not kept."""
    from app import volume_jobs

    if not kept.upload.exists() or not Path(kept.masks_file).exists():
        raise UserError("app.volume_gone", what=words.GONE_WHAT, why=words.GONE_WHY, fix=words.GONE_FIX)
    key, way, variant = kept.model
    session = studio.session(key, looks=way, variant=variant)
    limit = studio.settings.max_read_mb * MIB
    with tempfile.TemporaryDirectory(dir=studio.scratch.path, prefix="job-") as made, at_most(limit), held_open():
        out = Path(made) / "out"
        out.mkdir()
        (case,), files = volume_jobs.cases_of(studio, kept.upload, Path(made) / "in", limit=limit)
        masks_KSHW = unpacked(Path(kept.masks_file).read_bytes(), kept.shape)
        corrected_KSHW = masks_KSHW.copy()
        apply(corrected_KSHW, kept.strokes, grid=kept.grid)
        how = {"reference": kept.reference, "percent": kept.percent, "unlike": kept.unlike}
        try:
            found = corrected_case(session, case, masks_KSHW, corrected_KSHW, **how)  # type: ignore[arg-type]
        except UserError as error:
            raise for_visitor(error, names={str(path): name for path, name in files.items()}) from error
        result = volume_jobs.Result(1, (session.manifest.name,), percent=kept.percent)
        volume_jobs.keep_files(studio, found, result, out, session=session)
        volume_jobs.keep_figures(studio, result, out, stem=found.stem)
    return result

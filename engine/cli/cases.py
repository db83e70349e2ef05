"""What `predict` is given, as cases, and what it makes of each: mask files, overlays, figures."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.cli.output import print_error, print_json, print_table
from engine.data.archives import Member, is_archive, is_dicom, unpack
from engine.data.budget import limit_bytes
from engine.data.names import LITTER, folded, visible_files
from engine.data.readers import is_supported
from engine.errors import UserError
from export.cases import Case, Segmented, find_cases, write_masks, write_overlays
from export.levels import MODEL_PERCENT, STEPS
from export.outputs.compared import Compared, pairs_csv
from export.outputs.measurements import Measurement, as_csv
from export.pairs import Models, together_steps
from export.results import plain_name

CSV_FILE = "measurements.csv"
FIGURES = (
    ("Vertical cup-to-disc", "cup_to_disc"), ("Dice", "dice"), ("IoU", "iou"), ("HD95", "hd95"),
    ("Surface Dice", "surface_dice"), ("within", "surface_tolerance"),
)  # fmt: skip
"""Columns of the figures that are printed: by name and field, each where any case has it."""
LENGTHS = frozenset({"hd95", "surface_tolerance"})
"""Fields that are in the case's ``length_unit``."""
TOLD_ABOVE = 8
"""Slices above which progress is told (ours)."""


@dataclass
class Job:
    """One call: what was written, and what could not be."""

    models: Models
    out: Path
    overlay: bool
    reference: Path | None
    quiet: bool
    anyway: bool = False
    percent: int = MODEL_PERCENT
    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)

    def segment(self, case: tuple[Case, ...]) -> None:
        """Segment one case, one of :meth:`export.pairs.Models.cases`, and write its files."""
        found = self._answered(case)
        written = []
        for one, session in zip(found, self.models.sessions, strict=True):
            written += write_masks(one, self.out, session=session)
            if self.overlay:
                write_overlays(one, self.out, session=session)
        self._note(found, written)

    def _answered(self, case: tuple[Case, ...]) -> tuple[Segmented, ...]:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True, disable=self.quiet) as shown:
            name = case[0].name
            task = shown.add_task(name, total=None, visible=False)
            fix = f"Give {name} to another model, or add --anyway."
            how = {"reference": self.reference, "anyway": self.anyway, "fix": fix, "percent": self.percent}
            steps = together_steps(self.models, case, **how)  # type: ignore[arg-type]
            while True:
                try:
                    done, total = next(steps)
                except StopIteration as end:
                    return end.value
                shown.update(task, completed=done, total=total, visible=total > TOLD_ABOVE)

    def _note(self, found: tuple[Segmented, ...], written: list[Path]) -> None:
        """Keep what is told of one case; ``written`` are its masks, one of each model."""
        first, session = found[0], self.models.sessions[0]
        self.measurements += first.measurements
        row = {
            "image": first.case.name,
            "mask": str(written[0]),
            "wall_ms": first.wall_ms,
            "slices": len(first.volume),
            "threshold": self.percent / STEPS,
            "parts": session.num_looks((first.volume.geometry.height_px, first.volume.geometry.width_px)),
            "foreground": {one.class_name: one.share for one in first.measurements},
            "measurements": [asdict(one) for one in first.measurements],
        }
        if first.unlike:
            row["unlike_training"] = list(first.unlike)
        if len(found) == 2:
            pairs = self.models.compared(found)
            self.compared += pairs
            row["compared"] = {"mask": str(written[1]), "classes": [_common(pair) for pair in pairs]}
            if found[1].unlike:
                row["compared"]["unlike_training"] = list(found[1].unlike)
        self.rows.append(row)

    def print_figures(self) -> None:
        """Print the figures that are asked for, or are of few tasks only: cup and disc."""
        each = [((), one) for one in self.measurements]
        if self.compared:
            each = [
                ((name,), one) for pair in self.compared for name, one in zip(pair.models, pair.figures, strict=True)
            ]
        shown = [(name, key) for name, key in FIGURES if any(getattr(one, key) is not None for _, one in each)]
        if not shown:
            return
        head = ("Image", *(("Model",) if self.compared else ()), "Class")
        cells = [(one.image, *by, one.class_name, *(_told(one, key) for _, key in shown)) for by, one in each]
        print()
        print_table((*head, *(name for name, _ in shown)), cells, right=range(len(head), len(head) + len(shown)))

    def write_csv(self) -> None:
        """Write the figures of all cases."""
        table = pairs_csv(self.compared) if self.compared else as_csv(self.measurements)
        (self.out / CSV_FILE).write_text(table, encoding="utf-8")


def print_job(job: Job, *, as_json: bool) -> None:
    """Print what was written and what could not be."""
    if as_json:
        first = job.models.sessions[0]
        told = {"model": job.models.names[0], "variant": first.variant.name, "provider": first.provider}
        told |= {"compared_with": job.models.names[1]} if len(job.models) == 2 else {}
        print_json(told | {"predictions": job.rows, "faults": job.faults})
        return
    lines = [(r["image"], r["mask"], f"{r['wall_ms']:.0f}") for r in job.rows]
    print_table(("Image", "Mask", "ms"), lines, right=(2,))
    job.print_figures()
    if job.compared:
        print_compared(job.compared)
    for fault in job.faults:
        print_error(fault["error"], as_json=False)


def print_compared(pairs: Sequence[Compared]) -> None:
    """Print what two models have in common, class by class; without a volume in pixels."""

    def size(pair: Compared, num_px: int) -> str:
        volume = pair.ml(num_px)
        return f"{num_px} px" if volume is None else f"{volume:.2f} mL"

    lines = [
        (
            one.figures[0].image,
            one.figures[0].class_name,
            *(size(one, figures.foreground_px) for figures in one.figures),
            f"{one.dice:.3f}",
            size(one, one.differing_px),
        )
        for one in pairs
    ]
    print_table(("Image", "Class", *pairs[0].models, "Dice of both", "Disagreement"), lines, right=(2, 3, 4, 5))


def _common(pair: Compared) -> dict[str, Any]:
    """Return one class of two models' masks as JSON has it; volumes in mL, None where there are none."""
    first, second = pair.figures
    return {
        "class_name": first.class_name,
        "volume_ml": [first.volume_ml, second.volume_ml],
        "foreground_px": [first.foreground_px, second.foreground_px],
        "dice": pair.dice,
        "only_px": list(pair.only_px),
        "differing_px": pair.differing_px,
        "differing_ml": pair.ml(pair.differing_px),
    }


@contextmanager
def waiting_cases(paths: Sequence[Path], *, out: Path) -> Iterator[list[Case]]:
    """Give the cases in files, folders and zips; what zips hold is unpacked while the body lasts.

    What an earlier call has written to ``out`` is no image to segment, where that folder lies inside one of ``paths``;
    nor is what an operating system keeps beside the images (``._a.png``, ``__MACOSX``, ``Thumbs.db``).
    """
    with ExitStack() as meanwhile:
        cases: list[Case] = []
        files: list[Member] = []
        for path in paths:
            if path.name.lower() in LITTER:  # a shell's * names it, no person does; a hidden file he has named himself
                continue
            if path.is_dir():
                files += [Member(file, str(file)) for file in _images(path, out=out)]
            elif is_archive(path):
                folder = Path(meanwhile.enter_context(tempfile.TemporaryDirectory(prefix="dsfedmed-")))
                members = unpack(path, folder, most_bytes=limit_bytes())
                cases += find_cases(members, series_name=path.stem)
            else:
                files.append(Member(path, str(path)))
        cases = find_cases(files) + cases
        if not cases:
            raise UserError(
                "predict.no_images",
                what=f"No images in {', '.join(map(str, paths))}.",
                why="There is nothing to segment.",
                fix="Give image files, or folders that hold some.",
            )
        yield cases


def refuse_same_names(cases: Sequence[Case]) -> None:
    """Raise ``UserError`` ``predict.same_name`` where masks would overwrite each other, as many disks compare names."""
    names = Counter(folded(plain_name(case.stem)) for case in cases)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(
            "predict.same_name",
            what=f"The masks of several images would be called '{twice[0]}'.",
            why="A mask takes its image's name, with signs other than letters, digits, dots and dashes as '_'.",
            fix="Segment them one after the other, each with an --out of its own, or rename one.",
        )


def _images(folder: Path, *, out: Path) -> list[Path]:
    holds_out = _is_below(out, folder)
    found = (file for file in visible_files(folder) if is_supported(file) or is_dicom(file))
    return [file for file in found if not (holds_out and _is_below(file, out)) and file.name.upper() != "DICOMDIR"]


def _told(one: Measurement, key: str) -> str:
    value = getattr(one, key)
    if value is None:
        return "-"
    return f"{value:.2f} {one.length_unit}" if key in LENGTHS else f"{value:.3f}"


def _is_below(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.resolve().parents

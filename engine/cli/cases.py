"""What `predict` is given, as cases, and what it makes of each: mask files, overlays, figures."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.output import print_table
from engine.data.archives import Member, is_archive, is_dicom, unpack
from engine.data.budget import limit_bytes
from engine.data.names import LITTER, folded, visible_files
from engine.data.readers import is_supported
from engine.errors import UserError
from export.cases import Case, find_cases, segment_case, write_masks, write_overlays
from export.levels import MODEL_PERCENT, STEPS
from export.outputs.measurements import Measurement, as_csv
from export.results import plain_name

if TYPE_CHECKING:
    from export.runtime import BundleSession

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

    session: BundleSession
    out: Path
    overlay: bool
    reference: Path | None
    quiet: bool
    anyway: bool = False
    percent: int = MODEL_PERCENT
    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    def segment(self, case: Case) -> None:
        """Segment one case and write its files."""
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True, disable=self.quiet) as shown:
            task = shown.add_task(case.name, total=None, visible=False)

            def progress(done: int, total: int) -> None:
                shown.update(task, completed=done, total=total, visible=total > TOLD_ABOVE)

            fix = f"Give {case.name} to another model, or add --anyway."
            how = {"reference": self.reference, "anyway": self.anyway, "fix": fix, "percent": self.percent}
            found = segment_case(self.session, case, **how, progress=progress)  # type: ignore[arg-type]
        (mask,) = write_masks(found, self.out, session=self.session)
        if self.overlay:
            write_overlays(found, self.out, session=self.session)
        self.measurements += found.measurements
        figures = [asdict(one) for one in found.measurements]
        self.rows.append(
            {
                "image": case.name,
                "mask": str(mask),
                "wall_ms": found.wall_ms,
                "slices": len(found.volume),
                "threshold": self.percent / STEPS,
                "parts": self.session.num_looks((found.volume.geometry.height_px, found.volume.geometry.width_px)),
                "foreground": {one.class_name: one.share for one in found.measurements},
                "measurements": figures,
            }
            | ({"unlike_training": list(found.unlike)} if found.unlike else {})
        )

    def print_rows(self) -> None:
        """Print what was written, and the figures that are asked for, or are of few tasks only: cup and disc."""
        lines = [(row["image"], row["mask"], f"{row['wall_ms']:.0f}") for row in self.rows]
        print_table(("Image", "Mask", "ms"), lines, right=(2,))
        shown = [
            (name, key) for name, key in FIGURES if any(getattr(one, key) is not None for one in self.measurements)
        ]
        if not shown:
            return
        print()
        cells = [(one.image, one.class_name, *(_told(one, key) for _, key in shown)) for one in self.measurements]
        print_table(("Image", "Class", *(name for name, _ in shown)), cells, right=range(2, 2 + len(shown)))

    def write_csv(self) -> None:
        """Write the figures of all cases."""
        (self.out / CSV_FILE).write_text(as_csv(self.measurements), encoding="utf-8")


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

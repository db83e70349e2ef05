"""From an experiment and the runs of a store to the files of its table. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import UserError
from engine.experiments import formats, recorded
from engine.experiments.cells import Cell
from engine.experiments.measures import MEASURES
from engine.experiments.paper_traffic import ROUNDS, TOLERANCE, TrafficRow, paper_traffic
from engine.experiments.planned import PLAN_COLUMNS, PlannedRow, planned_grid
from engine.experiments.results import CELL_COLUMNS, CellRun, Entry, cell_rows, make_entries, traffic_rows
from engine.experiments.spec import ExperimentSpec, Scale, load_published
from engine.experiments.spreadsheet import rows_csv
from engine.experiments.sweep import Outcome, finished_runs
from engine.runs.store import RunStore

TRAFFIC_COLUMNS = ("system", "dataset", "held_out", "seed", "run_id", "stage", "site", "direction", "kind", "bytes",
                   "messages")  # fmt: skip
PAPER_TRAFFIC_TABLE = "3"
"""The table whose traffic at the paper's scale follows from what the models weigh."""


@dataclass(frozen=True)
class Table:
    """A filled table: texts by the end of their file's name, and what went into them."""

    entries: tuple[Entry, ...]
    runs: tuple[CellRun, ...]
    texts: dict[str, str]
    title: str
    grids: tuple[formats.Grid, ...]
    notes: tuple[str, ...]

    @property
    def markdown(self) -> str:
        """The table for people."""
        return self.texts[".md"]

    @property
    def failed(self) -> tuple[CellRun, ...]:
        """Cells that were run, or could not be, without a result."""
        return tuple(run for run in self.runs if run.status in ("failed", "cancelled", "interrupted"))

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write every text as ``STEMsuffix`` into ``folder``, and return the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for suffix, text in self.texts.items():
            path = folder / f"{stem}{suffix}"
            path.write_text(text, encoding="utf-8")
            paths.append(path)
        return paths


def chosen(experiment: ExperimentSpec, scale: Scale, *, systems: str | None, datasets: str | None) -> ExperimentSpec:
    """Return the experiment with the named systems and datasets alone (commas between them).

    Raises ``UserError`` ``experiment.unknown_part`` for a name that it does not have.
    """
    spec = experiment.at(scale)
    if datasets is not None:
        wanted = _named(datasets, [dataset.name for dataset in spec.datasets])
        spec = spec.model_copy(update={"datasets": tuple(d for d in spec.datasets if d.name in wanted)})
    kept = experiment.systems
    if systems is not None:
        names = _named(systems, [system.name for system in kept])
        kept = tuple(system for system in kept if system.name in names)
    reference = experiment.reference if any(s.name == experiment.reference for s in kept) else None
    return experiment.model_copy(update={"systems": kept, "reference": reference, scale: spec})


def _named(text: str, known: Sequence[str]) -> set[str]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    wrong = sorted(names - set(known))
    if wrong or not names:
        raise UserError(
            "experiment.unknown_part",
            what=f"The experiment has no {', '.join(wrong) or 'part without a name'}.",
            why="Only what its file names can be chosen.",
            fix=f"Choose among {', '.join(known)}.",
        )
    return names


def there_already(store: RunStore, cells: Sequence[Cell]) -> dict[str, Outcome]:
    """Return the outcomes of the cells whose runs are finished, by hash; nothing is started."""
    found = finished_runs(store)
    return {cell.key: Outcome("finished", found[cell.key]) for cell in cells if cell.key in found}


def fill(
    which: str,
    experiment: ExperimentSpec,
    scale: Scale,
    store: RunStore,
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    planned: Sequence[PlannedRow] = (),
) -> Table:
    """Return the table of what is there: its CSV, Markdown and LaTeX, the rows of cells, and the traffic's.

    With ``planned``, what the cells would take and send stands below it.
    """
    runs = tuple(CellRun(cell, store, outcomes.get(cell.key) if cell.config is not None else None) for cell in cells)
    entries = tuple(make_entries(experiment, scale, runs, load_published(which)))
    grids = formats.make_grids(entries, reference=experiment.reference)
    texts: dict[str, str] = {}
    if which == PAPER_TRAFFIC_TABLE and scale == "paper":
        rows = paper_traffic()
        published = {system: value for (system, _, name), (value, _) in load_published(which).items()
                     if name == "traffic_client_mib"}  # fmt: skip
        grids.insert(0, paper_traffic_grid(rows, published))
        texts["_model_traffic.csv"] = _paper_traffic_csv(rows, published)
    if planned:
        grids.append(planned_grid(planned))
        texts["_plan.csv"] = rows_csv([asdict(row) for row in planned], columns=PLAN_COLUMNS)
    notes = _notes(experiment, scale, runs, entries)
    title = f"{experiment.title} ({experiment.source}), {scale} scale"
    texts |= {
        ".csv": formats.entries_csv(entries),
        ".md": formats.to_markdown(title, grids, notes),
        ".tex": formats.to_latex(title, grids, notes),
        "_cells.csv": rows_csv(
            cell_rows(runs, experiment.measures),
            columns=(*(column.name for column in CELL_COLUMNS), *experiment.measures),
        ),
    }
    if "traffic_all_mib" in experiment.measures:
        texts["_traffic.csv"] = rows_csv(traffic_rows(runs), columns=TRAFFIC_COLUMNS)
    return Table(entries, runs, texts, title, tuple(grids), tuple(notes))


def paper_traffic_grid(rows: Sequence[TrafficRow], published: Mapping[str, float]) -> formats.Grid:
    """Return the published traffic beside what explains it and what this engine sends."""
    header = ("System", "Published", "Explained", "Off by", "This engine", "What is sent")
    lines = [
        (
            row.title,
            _mib(published.get(row.system)),
            "not explained" if row.explained_mib is None else _mib(row.explained_mib),
            formats.NOTHING if (off := off_by(row, published)) is None else f"{off:+.2%}",
            "not in this version" if row.ours_mib is None else _mib(row.ours_mib),
            row.note,
        )
        for row in rows
    ]
    heading = f"Traffic of one client over {ROUNDS} rounds, MiB, from the models' states"
    return formats.Grid(heading, header, tuple(lines))


def off_by(row: TrafficRow, published: Mapping[str, float]) -> float | None:
    """Return how far the explanation is from the published figure, as a share of it."""
    value = published.get(row.system)
    return None if value is None or row.explained_mib is None else row.explained_mib / value - 1


def _paper_traffic_csv(rows: Sequence[TrafficRow], published: Mapping[str, float]) -> str:
    lines = [
        {**asdict(row), "published_mib": published.get(row.system), "off_by": off,
         "within_tolerance": "" if off is None else str(abs(off) <= TOLERANCE).lower()}
        for row in rows
        for off in (off_by(row, published),)
    ]  # fmt: skip
    columns = ("system", "title", "published_mib", "explained_mib", "off_by", "within_tolerance", "ours_mib", "note")
    return rows_csv(lines, columns=columns)


def _mib(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:,.0f}"


def _notes(experiment: ExperimentSpec, scale: Scale, runs: Sequence[CellRun], entries: Sequence[Entry]) -> list[str]:
    """Return what has to be said beside the figures: how they were made, who leads, what is missing and why."""
    notes = [
        "Mean ± sd over seeds, and the 95 % interval of the mean over patients (images without a patient), resampled "
        "within each held-out site. P values are Wilcoxon's signed-rank test over patients, not corrected."
    ]
    notes += [experiment.note.strip()] if experiment.note.strip() else []
    if scale == "mini" and any(entry.published is not None for entry in entries):
        notes.append("Published figures are of the paper's images and sizes: at the mini scale they are no yardstick.")
    if any(MEASURES[name].at == "training_sites" for name in experiment.measures):
        notes.append(
            "Dice at the sites that train is of images that they keep from training, a mean in which every site counts "
            "the same. Each seed cuts them anew; the interval is of means over seeds of images of one number."
        )
        if any(run.cell.config is not None and run.cell.config.federation.patience is not None for run in runs):
            notes.append("Patience has chosen the round by these very images: read that Dice as a validation's.")
    used = [run.recorded for run in runs if run.recorded is not None]
    notes += [said] if (said := recorded.said(used, len(runs))) else []
    notes += formats.leaders(entries, reference=experiment.reference)
    absent = {run.cell.system.title: run.reason for run in runs if run.cell.missing}
    notes += [f"{title}: not in this version ({reason})." for title, reason in absent.items()]
    for run in runs:
        if run.status in ("failed", "cancelled", "interrupted"):
            notes.append(f"{run.cell.title}: {run.status}. {run.reason}".rstrip())
    left = sum(1 for run in runs if run.cell.config is not None and run.outcome is None)
    notes += [f"{left} of {len(runs)} cells have not been run."] if left else []
    return notes

"""What the finished runs of an experiment found: rows of cells with declared columns, and the lines of its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.experiments.cells import Cell
from engine.experiments.measures import MEASURES, Measure, crossed
from engine.experiments.record import RecordedRun
from engine.experiments.spec import ColumnSpec, DatasetSpec, ExperimentSpec, Scale
from engine.experiments.statistics import (
    IMAGES_FILE,
    ImageFigure,
    Images,
    Paired,
    Spread,
    paired,
    spread_of_images,
    spread_of_runs,
)
from engine.runs.records import TrafficTotal
from engine.runs.store import RunStore
from engine.types import MEAN_CLASS

if TYPE_CHECKING:
    from engine.experiments.sweep import Outcome

NOT_HERE, NOT_RUN = "not in this version", "not run"


@dataclass(frozen=True)
class CellRun:
    """A cell with its finished run, if it has one."""

    cell: Cell
    store: RunStore
    outcome: Outcome | None

    @property
    def run_id(self) -> str | None:
        """The run, where it is finished."""
        return self.outcome.run_id if self.outcome is not None and self.outcome.status == "finished" else None

    @property
    def recorded(self) -> RecordedRun | None:
        """Its figures, where they were recorded before and no run of the store has them."""
        return None if self.outcome is None else self.outcome.recorded

    @property
    def status(self) -> str:
        """``finished``, ``not in this version``, ``not run``, or how the run ended instead."""
        if self.cell.missing:
            return NOT_HERE
        if self.cell.fault is not None:
            return "failed"
        return NOT_RUN if self.outcome is None else self.outcome.status

    @property
    def reason(self) -> str:
        """Return why there is no result, in words."""
        if self.cell.fault is not None:
            return str(self.cell.fault)
        return self.cell.missing or ("" if self.outcome is None else self.outcome.reason)

    @cached_property
    def images(self) -> tuple[dict[str, Any], ...]:
        """Every model's figures of each image and class, at every site."""
        if self.run_id is None:
            return ()
        if self.recorded is not None:
            return self.recorded.images
        path = self.store.run_dir(self.run_id) / IMAGES_FILE
        try:
            return tuple(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(
                "experiment.no_images",
                what=f"The run {self.run_id} ({self.cell.title}) has no readable {IMAGES_FILE}: {error}.",
                why="Means, intervals and tests of a table are worked out from the figures of images.",
                fix=f"Restore the run's folder from a backup, or fork {self.run_id} from evaluation.",
            ) from error

    @cached_property
    def training_sites(self) -> frozenset[str]:
        """The sites that train and have images which they keep from training."""
        if self.run_id is None:
            return frozenset()
        if self.recorded is not None:
            return frozenset(self.recorded.training_sites)
        return frozenset(row.site for row in self.store.evaluation(self.run_id) if row.split == "validation")

    def _measured(self, measure: Measure) -> list[dict[str, Any]]:
        """Return the records of the images that a measure is of, by the model that it is of."""
        at_training_sites = measure.at == "training_sites"
        own = {self.cell.site_model} & {record["model"] for record in self.images} if at_training_sites else set()
        model = next(iter(own), self.cell.model)
        return [
            record
            for record in self.images
            if record["model"] == model and (record["site"] in self.training_sites) == at_training_sites
        ]

    def figures(self, measure: Measure, column: ColumnSpec) -> dict[str, tuple[ImageFigure, ...]]:
        """Return a measure of every image, of the column's class, by what counts the same in a mean: the site held out,
        or each site that trains."""
        key, records = measure.image_key, self._measured(measure)
        assert key is not None
        classes = {record["class_name"] for record in records}
        wanted = column.class_name or (MEAN_CLASS if MEAN_CLASS in classes else next(iter(classes), ""))
        found: dict[str, list[ImageFigure]] = {}
        for r in records:
            if r["class_name"] == wanted and r[key] is not None:
                place = self.cell.held_out if measure.at == "held_out" else self.place_of(r["site"])
                group = f"{r['site']}/{r['group']}" if r["group"] else ""
                found.setdefault(place, []).append(ImageFigure(f"{r['site']}/{r['name']}", group, float(r[key])))
        return {place: tuple(images) for place, images in found.items()}

    def place_of(self, site: str) -> str:
        """Return what a site that trains is called in the table, the site held out beside it."""
        return f"{site}, without {self.cell.held_out}" if self.cell.held_out else site

    @property
    def totals(self) -> tuple[TrafficTotal, ...]:
        """The bytes that crossed each site's border, without those of measuring; none without a result."""
        if self.recorded is not None:
            return self.recorded.totals
        return () if self.run_id is None else crossed(self.store, self.run_id)

    def value(self, measure: Measure, column: ColumnSpec) -> float | None:
        """Return a measure of the cell; ``None`` where it has none."""
        if self.run_id is None:
            return None
        if measure.of_run is not None and self.recorded is not None:
            return self.recorded.figures.get(measure.name)
        if measure.of_run is not None:
            return measure.of_run(self.store, self.run_id)
        places = self.figures(measure, column).values()
        return fmean(fmean(figure.value for figure in images) for images in places) if places else None


@dataclass(frozen=True)
class ResultColumn:
    """One column of the rows of cells: its name, what it is, and where it comes from."""

    name: str
    meaning: str
    of: Callable[[CellRun, ColumnSpec], Any]


CELL_COLUMNS = (
    ResultColumn("system", "row of the table", lambda run, _: run.cell.system.name),
    ResultColumn("method", "method of the catalogue", lambda run, _: run.cell.system.method),
    ResultColumn("dataset", "images", lambda run, _: run.cell.dataset.name),
    ResultColumn("column", "column of the table", lambda _, column: column.title),
    ResultColumn("held_out", "site held out; empty: the preset's", lambda run, _: run.cell.held_out),
    ResultColumn("seed", "seed of the run", lambda run, _: run.cell.seed),
    ResultColumn("config_hash", "identity of the run's numbers", lambda run, _: run.cell.key),
    ResultColumn("status", "finished, or why not", lambda run, _: run.status),
    ResultColumn("run_id", "run of the store", lambda run, _: run.run_id or ""),
    ResultColumn("reason", "why there is no result", lambda run, _: run.reason),
)
"""Beside one column for each of the experiment's measures."""


def cell_rows(runs: Sequence[CellRun], measures: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each cell and column of the table: ``CELL_COLUMNS``, then the measures."""
    return [
        {about.name: about.of(run, column) for about in CELL_COLUMNS}
        | {name: run.value(MEASURES[name], column) for name in measures}
        for run in runs
        for column in run.cell.dataset.all_columns
    ]


@dataclass(frozen=True)
class Entry:
    """One figure of the table: a system, a column, a measure; fields are the columns of its CSV file."""

    system: str
    title: str
    column: str
    measure: str
    status: str
    num_seeds: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    worst_site: str
    worst: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    num_groups: int | None
    """Patients (images without one) of the test."""
    published: float | None
    published_column: str
    source: str


def make_entries(
    experiment: ExperimentSpec,
    scale: Scale,
    runs: Sequence[CellRun],
    published: Mapping[tuple[str, str, str], tuple[float, str]],
) -> list[Entry]:
    """Return every figure of the table: by measure, system and column, in the experiment's order."""
    return [
        _entry(experiment, dataset, column, system.name, MEASURES[name], runs, published)
        for name in experiment.measures
        for system in experiment.systems
        for dataset in experiment.at(scale).datasets
        for column in dataset.all_columns
    ]


def _entry(
    experiment: ExperimentSpec,
    dataset: DatasetSpec,
    column: ColumnSpec,
    system: str,
    measure: Measure,
    runs: Sequence[CellRun],
    published: Mapping[tuple[str, str, str], tuple[float, str]],
) -> Entry:
    of_dataset = [run for run in runs if run.cell.dataset == dataset]
    mine = [run for run in of_dataset if run.cell.system.name == system]
    difference: Paired | None = None
    if measure.image_key is not None:
        images, places = _images(mine, measure, column), _places(of_dataset, dataset, measure)
        spread = spread_of_images(images, held_out=places)
        if experiment.reference not in (None, system):
            theirs = [run for run in of_dataset if run.cell.system.name == experiment.reference]
            difference = paired(images, _images(theirs, measure, column), held_out=places)
    else:
        values = {(run.cell.held_out, run.cell.seed): run.value(measure, column) for run in mine}
        spread = spread_of_runs({key: v for key, v in values.items() if v is not None}, held_out=dataset.sites)
    beside = column.published or column.title
    value, source = published.get((system, beside, measure.name), (None, ""))
    found = spread or Spread(0, 0.0, None)
    return Entry(
        system=system,
        title=next(s.title for s in experiment.systems if s.name == system),
        column=column.title,
        measure=measure.name,
        status=_status(mine),
        num_seeds=found.num_seeds,
        mean=found.mean if spread else None,
        sd=found.sd,
        low=found.low,
        high=found.high,
        worst_site=found.worst_site,
        worst=found.worst,
        difference=difference.mean if difference else None,
        difference_low=difference.low if difference else None,
        difference_high=difference.high if difference else None,
        p_value=difference.p_value if difference else None,
        num_groups=difference.num_groups if difference else None,
        published=value,
        published_column=beside,
        source=source,
    )


def _images(runs: Sequence[CellRun], measure: Measure, column: ColumnSpec) -> Images:
    return {
        (place, run.cell.seed): images
        for run in runs
        if run.run_id is not None
        for place, images in run.figures(measure, column).items()
    }


def _places(runs: Sequence[CellRun], dataset: DatasetSpec, measure: Measure) -> tuple[str, ...]:
    """Return what a mean is over: the sites held out, or the sites that train beside each of them."""
    if measure.at == "held_out":
        return dataset.sites
    return tuple(sorted({run.place_of(site) for run in runs for site in run.training_sites}))


def _status(runs: Sequence[CellRun]) -> str:
    """Return ``finished``, or how many of the cells are and what the first other is."""
    others = [run.status for run in runs if run.status != "finished"]
    if not others:
        return "finished"
    return others[0] if len(others) == len(runs) else f"{len(runs) - len(others)} of {len(runs)}, else {others[0]}"


def traffic_rows(runs: Sequence[CellRun]) -> list[dict[str, Any]]:
    """Return the bytes of every finished run by stage, site, direction and kind, and of all sites together."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        if run.run_id is None:
            continue
        about = {"system": run.cell.system.name, "dataset": run.cell.dataset.name, "held_out": run.cell.held_out}
        about |= {"seed": str(run.cell.seed), "run_id": run.run_id}
        totals = run.totals
        for t in totals:
            what = {"stage": t.stage, "site": t.site, "direction": t.direction, "kind": t.kind}
            rows.append({**about, **what, "bytes": t.payload_bytes, "messages": t.num_messages})
        whole = {"stage": "all", "site": "all", "direction": "both", "kind": "all"}
        whole_bytes = sum(t.payload_bytes for t in totals)
        rows.append({**about, **whole, "bytes": whole_bytes, "messages": sum(t.num_messages for t in totals)})
    return rows

"""Two to six runs side by side: their final models at each site, paired differences, minutes, bytes.

Dice and its interval are those that the run has stored; differences between two runs are worked out from the figures
of their images, as those of tables are. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from engine.config import RunConfig
from engine.errors import UserError
from engine.evaluation.spread import site_spread
from engine.experiments.compared_measures import COMPARED, DICE, ComparedMeasure, SiteFigure, figures_of, site_figure
from engine.experiments.statistics import IMAGES_FILE, ImageFigure, Paired, paired
from engine.federation.descriptions import IDENTITY_FILE
from engine.methods import catalogue
from engine.runs.records import MetricSeries, RunRecord
from engine.runs.report import traffic_table
from engine.runs.store import RunStore
from engine.types import MEAN_CLASS, EvaluationRow, SiteSpread

FEWEST, MOST = 2, 6
CURVE = "val_dice"
Place = tuple[str, str]
"""Split (``test`` or ``validation``) and site."""


@dataclass(frozen=True)
class ComparedRun:
    """One run as a comparison shows it. Dice in [0, 1], bytes of payloads."""

    record: RunRecord
    config: RunConfig | None
    """None where this version cannot read what is stored."""
    model: str | None
    """Catalogue's name of its last model for all sites: the student where it makes one; None before it is measured."""
    rows: Mapping[Place, EvaluationRow]
    """That model at every site: of the mean over classes, or of the one class."""
    classes: tuple[str, ...]
    spread: tuple[SiteSpread, ...]
    """The worst site of each split with two or more of them."""
    minutes: float
    """Of work, summed over stages and workers."""
    traffic: Mapping[str, Mapping[str, int]]
    """Bytes ``up`` and ``down`` of every site, those of measuring included."""
    curves: tuple[MetricSeries, ...]
    """Mean validation Dice of the sites over rounds, one of each stage that records it."""
    figures: Mapping[str, Mapping[Place, tuple[ImageFigure, ...]]] = field(repr=False)
    """By key of ``COMPARED``: every image that has the measure; no place without figures of images."""
    identity: Mapping[str, str] = field(repr=False)
    """Digests of the images that it began with; empty where the run has noted none."""

    @property
    def images(self) -> Mapping[Place, tuple[ImageFigure, ...]]:
        """Dice of every image."""
        return self.figures[DICE]

    def at(self, place: Place, measure: ComparedMeasure = COMPARED[DICE]) -> SiteFigure | None:
        """Return a measure of the final model at a place; None where it was not measured."""
        row, images = self.rows.get(place), self.figures[measure.key].get(place)
        return None if row is None else site_figure(row, measure, images, self.config)


@dataclass(frozen=True)
class SiteDifference:
    """A measure of one run minus another's on the same images of a site; ``why`` says why there is none."""

    place: Place
    paired: Paired | None
    why: str = ""
    num_images: int = 0
    """Images that both have the measure of."""


@dataclass(frozen=True)
class Comparison:
    """Runs in the order they were named; the first is what the others are compared with."""

    runs: tuple[ComparedRun, ...]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every site that some run was measured at: unseen images first."""
        found = {place for run in self.runs for place in run.rows}
        return tuple(sorted(found, key=lambda place: (place[0] != "test", place[1])))

    def differences(self, measure: ComparedMeasure = COMPARED[DICE]) -> tuple[tuple[SiteDifference, ...], ...]:
        """Return, for every run but the first, its difference to the first at each of ``places``."""
        first, *others = self.runs
        return tuple(tuple(difference(run, first, place, measure) for place in self.places) for run in others)


def compare(store: RunStore, run_ids: Sequence[str]) -> Comparison:
    """Return two to six runs of the store side by side.

    Raises ``UserError`` ``compare.count`` for fewer, more, or one that is named twice, and ``run.unknown``.
    """
    if not FEWEST <= len(run_ids) <= MOST or len(set(run_ids)) < len(run_ids):
        raise UserError(
            "compare.count",
            what=f"{len(run_ids)} runs are named, {len(set(run_ids))} of them different.",
            why=f"A comparison shows {FEWEST} to {MOST} different runs side by side.",
            fix=f"Choose {FEWEST} to {MOST} runs, each once.",
        )
    return Comparison(tuple(read_run(store, run_id) for run_id in run_ids))


def read_run(store: RunStore, run_id: str) -> ComparedRun:
    """Return what a comparison shows of one run, as far as it has come."""
    record, rows = store.get(run_id), store.evaluation(run_id)
    try:
        config = record.config
    except UserError:  # of a later version, or damaged: its results are there all the same
        config = None
    model = final_model(record, rows)
    mine = [row for row in rows if row.model == model]
    shown = _shown(mine)
    return ComparedRun(
        record=record,
        config=config,
        model=model,
        rows=shown,
        classes=tuple(dict.fromkeys(row.class_name for row in mine if row.class_name != MEAN_CLASS)),
        spread=tuple(site_spread(mine)),
        minutes=sum(stage.wall_s for stage in store.stages(run_id)) / 60,
        traffic=traffic_table(store.traffic(run_id))["by_site"],
        curves=_curves(store.metrics(run_id, name=CURVE)),
        figures=_figures(_read(store, run_id, IMAGES_FILE, list), model, shown),
        identity={str(key): str(value) for key, value in _read(store, run_id, IDENTITY_FILE, dict).items()},
    )


def final_model(record: RunRecord, rows: Sequence[EvaluationRow]) -> str | None:
    """Return the last model for all sites that was measured: the method's student, else its teacher, else the last."""
    method, measured = catalogue.methods().get(record.method), [row.model for row in rows]
    named = [] if method is None else [method.last_model("student"), method.last_model("teacher")]
    return next((name for name in named if name in measured), measured[-1] if measured else None)


def difference(
    run: ComparedRun, baseline: ComparedRun, place: Place, measure: ComparedMeasure = COMPARED[DICE]
) -> SiteDifference:
    """Return a measure of ``run`` minus that of ``baseline`` at ``place``, image by image, or why that cannot be said.

    HD95 is compared on the images that both have one of.
    """
    why = _why_not(run, baseline, place, measure)
    if why:
        return SiteDifference(place, None, why)
    site = place[1]
    ours, theirs = run.figures[measure.key][place], baseline.figures[measure.key][place]
    both = {image.name for image in ours} & {image.name for image in theirs}
    found = paired({(site, 0): ours}, {(site, 0): theirs}, held_out=(site,)) if both else None
    if found is None:
        return SiteDifference(place, None, f"No image of {site} has {measure.title} of both.")
    return SiteDifference(place, found, num_images=len(both))


def _why_not(run: ComparedRun, baseline: ComparedRun, place: Place, measure: ComparedMeasure) -> str:
    split, site = place
    for one in (run, baseline):
        if place not in one.rows:
            return f"{one.record.name} was not measured on {split} images of {site}."
    if run.classes != baseline.classes:
        return f"They segment different classes: {', '.join(run.classes)} against {', '.join(baseline.classes)}."
    for one in (run, baseline):
        if place not in one.images or place not in one.figures[measure.key]:
            kept = "figures" if place not in one.images else measure.title
            return f"{one.record.name} keeps no {kept} of single images of {site}."
        if not one.identity:
            return f"{one.record.name} has not noted which images it was measured on."
    if _digests(run, place) != _digests(baseline, place):
        return f"They were measured on different {split} images of {site}."
    if run.config is None or baseline.config is None:
        return "The settings of one of them cannot be read."
    if _phantoms(run.config) != _phantoms(baseline.config):
        return f"Phantoms of {site} are drawn anew for another seed, task or image side."
    if [image.name for image in run.images[place]] != [image.name for image in baseline.images[place]]:
        return f"They keep figures of different {split} images of {site}."
    return ""


def _digests(run: ComparedRun, place: Place) -> dict[str, str]:
    """Return what the run has noted of the images of a place: a test set of several sites has one digest."""
    split, site = place
    return {
        key: value
        for key, value in run.identity.items()
        if (key.startswith("test ") if split == "test" else key == f"{split} {site}")
    }


def _phantoms(config: RunConfig) -> tuple[Any, ...] | None:
    """Return what phantoms are drawn from, which their digests do not say; None of real images."""
    return (config.data.task, config.seed, config.data.image_px) if config.data.source == "phantom" else None


def _shown(rows: Sequence[EvaluationRow]) -> dict[Place, EvaluationRow]:
    """Return the row of the mean over classes of each place, of one class the row itself."""
    found: dict[Place, EvaluationRow] = {}
    for row in rows:
        if row.class_name == MEAN_CLASS or (row.split, row.site) not in found:
            found[row.split, row.site] = row
    return found


def _figures(
    records: Sequence[Any], model: str | None, rows: Mapping[Place, EvaluationRow]
) -> dict[str, dict[Place, tuple[ImageFigure, ...]]]:
    """Return the model's figures of every image; a place without records of its own is a test set of several sites."""
    tests = {site for split, site in rows if split == "test"}
    found: dict[str, dict[Place, tuple[ImageFigure, ...]]] = {key: {} for key in COMPARED}
    for place, row in rows.items():
        mine = [record for record in records if _is_of(record, model, row.class_name)]
        own = [record for record in mine if record["site"] == place[1]]
        if not own and place[0] == "test":
            own = [record for record in mine if record["site"] in tests]
        for key, measure in COMPARED.items():
            figures = figures_of(own, measure, num_images=row.num_images)
            if figures is not None:
                found[key][place] = figures
    return found


def _is_of(record: Any, model: str | None, class_name: str) -> bool:
    known = isinstance(record, dict) and {"model", "class_name", "site", "name", "group", "dice"} <= record.keys()
    is_figure = known and isinstance(record["dice"], int | float) and isinstance(record["site"], str)
    return is_figure and (record["model"], record["class_name"]) == (model, class_name)


def _curves(series: Sequence[MetricSeries]) -> tuple[MetricSeries, ...]:
    """Return the sites' mean of each stage: as it was recorded, else the mean of the sites that have a value."""
    found = []
    for stage in dict.fromkeys(curve.stage for curve in series):
        of_stage = [curve for curve in series if curve.stage == stage]
        whole = next((curve for curve in of_stage if curve.site is None), None)
        if whole is None:
            values: dict[int, list[float]] = {}
            for curve in of_stage:
                for step, value in zip(curve.steps, curve.values, strict=True):
                    values.setdefault(step, []).append(value)
            steps = tuple(sorted(values))
            whole = MetricSeries(stage, CURVE, None, steps, tuple(fmean(values[step]) for step in steps))
        found.append(whole)
    return tuple(found)


def _read(store: RunStore, run_id: str, name: Any, kind: type) -> Any:
    """Return what a file of the run holds; an empty ``kind`` where there is none that can be read."""
    try:
        found = json.loads((store.run_dir(run_id) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an older run, or one that is not so far; what needs it says that it is missing
        return kind()
    return found if isinstance(found, kind) else kind()

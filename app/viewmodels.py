"""Engine records in, values of components out. Pure: nothing here reads a file, the store or the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from app import text
from engine.accounting import epsilon_words
from engine.config_generators import GENERATORS
from engine.config_keys import unread_sections
from engine.evaluation.spread import site_spread
from engine.evaluation.tables import images_cell
from engine.methods import catalogue
from engine.runs.records import MetricSeries, RunRecord, RunView, StageRecord, TrafficTotal
from engine.types import EvaluationRow, ModelDifference

if TYPE_CHECKING:
    from engine.planning import Plan

Choices = list[tuple[str, str]]
FOLLOW = "follow"
MEASURING = ("evaluated", "figures")
"""Kinds of traffic that fill the results table: no method needs them."""
NO_RUN = ""
"""Value of the run picker where the store holds no run; None is a picker that has not been filled yet."""


@dataclass(frozen=True)
class Actions:
    """Which of the run's buttons may be pressed."""

    cancel: bool
    resume: bool
    go_on: bool
    drop: bool


def run_choices(runs: Sequence[RunRecord]) -> Choices:
    """Return (label, run id) of every run, in the given order; one entry without an id where there is none.

    A run's tags are a part of its label: what is typed into a list is looked for there.
    """
    if not runs:
        return [(text.NO_RUN_TITLE, NO_RUN)]
    return [(_run_label(run), run.run_id) for run in runs]


def _run_label(run: RunRecord) -> str:
    tags = "".join(f" #{tag}" for tag in run.labels.tags)
    return f"{run.shown_name} · {text.STATUS[run.status]} · {moment(run.created_at)}{tags}"


def first_run(runs: Sequence[RunRecord]) -> str:
    """Return the run that a page without an address shows: the newest active one, else the newest, else NO_RUN."""
    active = [run for run in runs if run.status == "running"] or [run for run in runs if run.active]
    return (active or list(runs))[0].run_id if runs else NO_RUN


def held_out_choices(sites: Sequence[str]) -> Choices:
    """Return (label, site) of what may be held out; the first is the empty value, which takes the last site."""
    return [(text.HELD_OUT_LAST, ""), *((site, site) for site in sites)]


def kept_site(chosen: str | None, sites: Sequence[str]) -> str:
    """Return the held-out site that stays chosen when the sites become these; empty for one of another data set."""
    return chosen or "" if not sites or chosen in sites else ""


def actions(run: RunRecord, *, allowed: bool, extended: bool = False) -> Actions:
    """Return what a person, who is or is not allowed to change the run, may do to it now.

    ``extended`` says whether the run has an extension that is not finished.
    """
    return Actions(
        cancel=allowed and run.active and not run.cancel_requested,
        resume=allowed and run.resumable,
        go_on=allowed and not run.active,
        drop=allowed and extended and not run.active,
    )


def selected_index(index: object) -> int:
    """Return which picture of a gallery was chosen; the first for what is no index."""
    return index if isinstance(index, int) and index >= 0 else 0


def fork_choices(stages: Sequence[StageRecord]) -> Choices:
    """Return (label, stage) of every stage that a fork may begin at: all before it are finished."""
    unfinished = next((at for at, stage in enumerate(stages) if stage.status != "finished"), len(stages))
    given = {spec.name for spec in catalogue.stages(stage.name for stage in stages) if spec.takes_over}
    return [
        (catalogue.stage_title(stage.name), stage.name) for stage in stages[: unfinished + 1] if stage.name not in given
    ]


def fork_default(choices: Choices) -> str | None:
    """Return the last stage of ``choices`` that trains or generates: settings of evaluation are seldom tried."""
    stages = catalogue.stages(name for _, name in choices)
    return next((stage.name for stage in reversed(stages) if stage.trains), None)


def stages_before(stage: str, stages: Sequence[StageRecord]) -> tuple[str, ...]:
    """Return the names of the stages that a fork at ``stage`` takes over."""
    names = [record.name for record in stages]
    return tuple(names[: names.index(stage)])


def fixed_sections(taken_over: Sequence[str]) -> frozenset[str]:
    """Return the sections of the configuration that a fork cannot change: those that ``taken_over`` stages read."""
    return frozenset(catalogue.sections_of(taken_over))


def hidden_sections(method: str, generator: str, taken_over: Sequence[str]) -> frozenset[str]:
    """Return the sections that the form does not show.

    ``method`` or its kind of ``generator`` does not read them, or a fork cannot change them.
    """
    return unread_sections(method, generator) | fixed_sections(taken_over)


def fixed_keys(method: str) -> frozenset[str]:
    """Return the dotted keys that ``method`` fixes, whatever the form says."""
    known = catalogue.methods().get(method)
    return frozenset() if known is None else frozenset(known.fixed)


def unread_keys(generator: str) -> frozenset[str]:
    """Return the dotted keys of the section ``generator`` that this kind of generator does not read."""
    known = GENERATORS.get(generator)
    return frozenset() if known is None else frozenset(f"generator.{key}" for key in known.unread)


def method_choices(names: Sequence[str]) -> Choices:
    """Return (label, method) of the methods to choose from."""
    return [(f"{catalogue.method_title(name)} ({name})", name) for name in names]


def overall_fraction(stages: Sequence[StageRecord]) -> float:
    """Return the share of the run that is done, in [0, 1]: of expected time where known, else of stages."""
    if not stages:
        return 0.0
    known = [stage.eta_s for stage in stages]
    if all(eta is not None for eta in known):
        spent, left = sum(stage.wall_s for stage in stages), sum(eta for eta in known if eta is not None)
        if spent + left > 0:
            return spent / (spent + left)
    return sum(stage.fraction for stage in stages) / len(stages)


def curve_choices(series: Sequence[MetricSeries], stages: Sequence[StageRecord]) -> Choices:
    """Return (label, stage) of every stage with a curve; the first choice follows the run."""
    present = {curve.stage for curve in series}
    named = [(catalogue.stage_title(s.name), s.name) for s in stages if s.name in present]
    return [(text.CURVES_FOLLOW, FOLLOW), *named]


def curve_stage(chosen: str, series: Sequence[MetricSeries], view: RunView) -> str | None:
    """Return the stage whose curves are shown: the chosen one, else the running one, else the last with curves."""
    if chosen != FOLLOW:
        return chosen
    present = {curve.stage for curve in series}
    ordered = [stage.name for stage in view.stages if stage.name in present]
    if view.run.stage in present:
        return view.run.stage
    return ordered[-1] if ordered else None


def loss_curves(series: Sequence[MetricSeries], chosen: str, view: RunView) -> list[MetricSeries]:
    """Return the shown stage's curves of what training lowers: all but its Dice, times and shares."""
    losses = [curve for curve in series if not curve.name.endswith(("dice", "_s", "share", "fraction"))]
    stage = curve_stage(chosen, losses, view)
    return [curve for curve in losses if curve.stage == stage]


def dice_curves(series: Sequence[MetricSeries], chosen: str, view: RunView) -> list[MetricSeries]:
    """Return the shown stage's Dice curves; the latest stage with any stands in for one without."""
    dice = [curve for curve in series if "dice" in curve.name]
    stage = curve_stage(chosen, dice, view)
    return [curve for curve in dice if curve.stage == stage]


def curves_title(title: str, curves: Sequence[MetricSeries]) -> str:
    """Return the title of a plot with the stage that its curves come from."""
    if not curves:
        return title
    return f"{title} · {catalogue.stage_title(curves[0].stage)}"


def traffic_summary(totals: Sequence[TrafficTotal]) -> str:
    """Return a sentence with the bytes of the whole run in each direction; empty where nothing has crossed."""
    parts = []
    for direction, words in text.DIRECTION.items():
        payload_bytes = sum(total.payload_bytes for total in totals if total.direction == direction)
        if payload_bytes:
            parts.append(f"{megabytes(payload_bytes)} {words}")
    measuring = sum(total.payload_bytes for total in totals if total.kind in MEASURING)
    if measuring:
        parts.append(text.TO_MEASURE.format(size=megabytes(measuring)))
    return " · ".join(parts)


def result_rows(rows: Sequence[EvaluationRow], split: str) -> list[list[str]]:
    """Return the lines of the results table of one split, in the order of ``text.RESULT_COLUMNS``."""
    return [
        [
            catalogue.model_title(row.model),
            row.class_name,
            f"{number(row.dice)} ({_interval(row.dice_low, row.dice_high)})",
            number(row.iou),
            number(row.hd95_px, digits=1) + ("" if row.num_hd95 is None else f" ({row.num_hd95})"),
            text.NOT_MEASURED if row.num_missed is None else f"{row.num_missed} / {row.num_spurious}",
            number(row.hd95_penalised_px, digits=1),
            number(row.dice_five_thresholds),
            row.site,
            images_cell(row.num_images, row.num_groups),
        ]
        for row in rows
        if row.split == split
    ]


def difference_rows(rows: Sequence[ModelDifference]) -> list[list[str]]:
    """Return the lines of the table of differences on the test images, in the order of ``text.DIFFERENCE_COLUMNS``."""
    return [
        [
            catalogue.model_title(row.model),
            catalogue.model_title(row.baseline),
            row.class_name,
            f"{row.dice:+.3f} ({_interval(row.dice_low, row.dice_high, sign='+')})",
            row.site,
            images_cell(row.num_images, row.num_groups),
        ]
        for row in rows
        if row.split == "test"
    ]


def spread_rows(rows: Sequence[EvaluationRow]) -> list[list[str]]:
    """Return the lines of the table of the worst site and the spread, in the order of ``text.SPREAD_COLUMNS``."""
    return [
        [
            catalogue.model_title(spread.model),
            spread.worst_site,
            *(number(value) for value in (spread.worst_dice, spread.dice, spread.dice_sd)),
            text.SPREAD_SPLITS[spread.split],
            str(spread.num_sites),
        ]
        for spread in site_spread(rows)
    ]


def said_once(
    columns: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[list[str], list[list[str]], str]:
    """Return the table without those columns of ``names`` that say the same in every line, and what they say."""
    same = [at for at, name in enumerate(columns) if name in names and len({row[at] for row in rows}) == 1]
    left = [at for at in range(len(columns)) if at not in same]
    words = " · ".join(f"{columns[at]}: {rows[0][at]}" for at in same)
    return [columns[at] for at in left], [[row[at] for at in left] for row in rows], words


def _interval(low: float | None, high: float | None, *, sign: Literal["", "+"] = "") -> str:
    """Return an interval as text; all images of one patient have none."""
    return text.ONE_PATIENT if low is None or high is None else f"{low:{sign}.3f} to {high:{sign}.3f}"


def plan_sites(planned: Plan) -> list[list[str]]:
    """Return the lines of the plan's table of sites, in the order of ``text.PLAN_SITE_COLUMNS``."""
    sums = planned.bytes_per_site
    rows = []
    for site in planned.sites:
        sent = sums.get(site.site, {"up": 0, "down": 0})
        counts = [str(count) for count in (site.num_train, site.num_validation, site.num_test)]
        traffic = [megabytes(sent[direction]) for direction in ("up", "down")]
        rows.append([site.site, *traffic, text.PLAN_ROLES[site.role], *counts])
    return rows


def plan_privacy(planned: Plan) -> list[list[str]]:
    """Return the lines of the plan's table of privacy, in the order of ``text.PLAN_PRIVACY_COLUMNS``."""
    rows = []
    for one in planned.privacy:
        other = "–" if one.epsilon_replaced is None else epsilon_words(one.epsilon_replaced)
        whose, epsilon = text.PLAN_UNITS[one.unit], epsilon_words(one.epsilon)
        rows.append([one.site, whose, str(one.releases), f"{one.delta:g}", epsilon, other])
    return rows


def plan_stages(planned: Plan) -> list[list[str]]:
    """Return the lines of the plan's table of stages, in the order of ``text.PLAN_STAGE_COLUMNS``."""
    return [
        [
            catalogue.stage_title(stage.name),
            duration(60 * stage.minutes),
            f"{stage.peak_memory_gib:.1f}",
            str(stage.steps),
            stage.detail,
        ]
        for stage in planned.stages
    ]


def samples_step(stages: Sequence[str]) -> str:
    """Return, as HTML, what to do where a run of these stages has no synthetic images (yet)."""
    drawing = next((stage.title for stage in catalogue.stages(stages) if "samples" in stage.records), None)
    if drawing is not None:
        return text.SAMPLES_EMPTY_STEP.format(stage=escape(drawing))
    able = [name for name, known in catalogue.methods().items() if catalogue.records_of(known.stage_names, "samples")]
    return text.SAMPLES_NO_GENERATION.format(methods=", ".join(able))


def num_pages(total: int, page_size: int) -> int:
    """Return the number of gallery pages, at least 1."""
    return max(1, math.ceil(total / page_size))


def signature(value: Any) -> int:
    """Return a number that changes when what a part of the page shows changes (within this process)."""
    return hash(repr(value))


def number(value: float | None, *, digits: int = 3) -> str:
    """Return a measure as text; a dash where it was not measured."""
    return text.NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def megabytes(payload_bytes: float) -> str:
    """Return bytes in the unit that reads best (decimal, as networks count)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if payload_bytes >= size:
            return f"{payload_bytes / size:.1f} {unit}"
    return f"{payload_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return a time span for people: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(at: float) -> str:
    """Return a time as the server's clock shows it."""
    return time.strftime("%d %b %H:%M", time.localtime(at))

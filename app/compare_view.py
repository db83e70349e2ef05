"""Runs side by side as tables, HTML and CSV. Pure; what comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath
from typing import Any

from app import compare_text, forms, markup, server_paths, text, viewmodels
from app.csv_cells import plain
from engine.config_keys import unread_sections
from engine.evaluation.tables import images_cell
from engine.experiments.comparison import ComparedRun, Comparison, SiteDifference
from engine.experiments.statistics import Paired
from engine.methods import catalogue

PATHS = (*server_paths.DATA_KEYS, *server_paths.WEIGHT_KEYS, "data.public_root")
"""Settings that say where something lies on the server."""
CSV_COLUMNS = ("what", "name", "split", "run_id", "run", "value", "low", "high", "p_value", "images", "patients",
               "against", "note")  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One setting that differs, as the form calls it; a value for each run, None where the run does not read it."""

    key: str
    label: str
    section: str
    values: tuple[str | None, ...]


def settings(runs: Sequence[ComparedRun], *, paths: bool) -> list[Setting]:
    """Return the settings in which two runs differ that both read, in the order of the form.

    Without ``paths`` files and folders of the server are named by their last part alone.
    """
    configs = [None if run.config is None else run.config.model_dump(mode="json") for run in runs]
    unread = [
        frozenset() if run.config is None else unread_sections(run.config.method, run.config.generator.kind)
        for run in runs
    ]
    keys = [frozenset() if run.config is None else viewmodels.unread_keys(run.config.generator.kind) for run in runs]
    found = []
    for field in forms.form_fields():
        if field.key == "name":  # it heads the column
            continue
        values = tuple(
            None
            if config is None or field.section in unread[at] or field.key in keys[at]
            else _setting_words(_value(config, field.key), is_path=field.key in PATHS and not paths)
            for at, config in enumerate(configs)
        )
        raw = {
            repr(_value(config, field.key))
            for config, value in zip(configs, values, strict=True)
            if config is not None and value is not None
        }
        if len(raw) > 1:
            section = text.SECTION_LABELS.get(field.section, field.section)
            found.append(Setting(field.key, field.label, section, values))
    return found


def run_rows(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return a line for each run, in the order of ``compare_text.RUN_COLUMNS``."""
    return [
        [
            compare_text.LETTERS[at],
            run.record.name,
            run.record.run_id,
            text.STATUS[run.record.status],
            catalogue.method_title(run.record.method),
            text.NOT_MEASURED if run.model is None else catalogue.model_title(run.model, run.config),
            viewmodels.duration(60 * run.minutes),
            _worst(run),
        ]
        for at, run in enumerate(runs)
    ]


def dice_rows(found: Comparison) -> list[list[str]]:
    """Return a line for each site: site, split, images, and each run's Dice with its interval."""
    rows = []
    for split, site in found.places:
        measured = [run.rows.get((split, site)) for run in found.runs]
        counts = dict.fromkeys(images_cell(row.num_images, row.num_groups) for row in measured if row is not None)
        cells = [
            text.NOT_MEASURED
            if row is None
            else f"{viewmodels.number(row.dice)} ({_interval(row.dice_low, row.dice_high)})"
            for row in measured
        ]
        rows.append([site, compare_text.SPLITS[split], " / ".join(counts), *cells])
    return rows


def difference_rows(found: Comparison) -> list[list[str]]:
    """Return a line for each site: site, split, images, and each further run's Dice minus the first one's."""
    return [
        [*shown[:3], *(difference_cell(of_run[at].paired) for of_run in found.differences)]
        for at, shown in enumerate(dice_rows(found))
    ]


def difference_cell(paired: Paired | None) -> str:
    """Return a difference with its interval, its p value and what they say in a word."""
    if paired is None:
        return text.NOT_MEASURED
    interval = _interval(paired.low, paired.high, sign="+")
    return f"{paired.mean:+.3f} ({interval}), p {paired.p_value:.2g}: {verdict(paired)}"


def verdict(paired: Paired) -> str:
    """Return whether the interval lies above 0, below it, or neither."""
    if paired.low is None or paired.high is None or paired.low <= 0 <= paired.high:
        return compare_text.UNDECIDED
    return compare_text.BETTER if paired.low > 0 else compare_text.WORSE


def reasons(differences: Sequence[Sequence[SiteDifference]]) -> list[str]:
    """Return, each once, why there is no difference; the run's letter first."""
    return list(
        dict.fromkeys(
            f"{compare_text.LETTERS[at]}: {one.why}"
            for at, of_run in enumerate(differences, start=1)
            for one in of_run
            if one.why
        )
    )


def traffic_rows(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return a line for each site and one for all: each run's bytes up and down."""
    sites = sorted({site for run in runs for site in run.traffic})
    rows = [[site, *(_both_ways([run.traffic[site]] if site in run.traffic else []) for run in runs)] for site in sites]
    return [*rows, [compare_text.ALL_SITES, *(_both_ways(list(run.traffic.values())) for run in runs)]]


def html(found: Comparison, *, paths: bool) -> str:
    """Return everything but the curves."""
    letters = compare_text.LETTERS[: len(found.runs)]
    parts = [_section(compare_text.RUNS_HEADING, "", compare_text.RUN_COLUMNS, run_rows(found.runs))]
    parts.append(_settings_html(found.runs, paths=paths, letters=letters))
    if not found.places:
        parts.append(f"<h3>{compare_text.DICE_HEADING}</h3>{markup.quiet(compare_text.NOT_MEASURED_YET)}")
    else:
        columns = (*compare_text.DICE_COLUMNS, *letters)
        parts.append(_section(compare_text.DICE_HEADING, compare_text.DICE_NOTE, columns, dice_rows(found)))
        parts.append(_differences_html(found, letters))
    columns = (compare_text.TRAFFIC_COLUMN, *letters)
    parts.append(_section(compare_text.TRAFFIC_HEADING, compare_text.TRAFFIC_NOTE, columns, traffic_rows(found.runs)))
    return "".join(parts)


def csv(found: Comparison, *, paths: bool) -> str:
    """Return the comparison as one long table: a line for each figure of each run."""
    rows: list[dict[str, Any]] = []
    for setting in settings(found.runs, paths=paths):
        for run, value in zip(found.runs, setting.values, strict=True):
            rows.append(_line(run, "setting", setting.key, value))
    for run in found.runs:
        for (split, site), row in run.rows.items():
            counts = {"images": row.num_images, "patients": row.num_groups}
            ends = {"low": row.dice_low, "high": row.dice_high, "split": split, "note": run.model}
            rows.append(_line(run, "dice", site, row.dice) | counts | ends)
        for spread in run.spread:
            rows.append(_line(run, "worst site", spread.worst_site, spread.worst_dice) | {"split": spread.split})
        rows.append(_line(run, "minutes", "", run.minutes))
        for site, ways in run.traffic.items():
            rows += [_line(run, f"bytes {way}", site, ways.get(way, 0)) for way in ("up", "down")]
    for run, of_run in zip(found.runs[1:], found.differences, strict=True):
        rows += [_difference_line(run, found.runs[0], one) for one in of_run]
    from engine.experiments.formats import rows_csv  # it brings in the planning, which the first paint needs not

    blank = dict.fromkeys(CSV_COLUMNS)
    return rows_csv([{**blank, **{k: plain(v) for k, v in row.items()}} for row in rows], columns=CSV_COLUMNS)


def _line(run: ComparedRun, what: str, name: str, value: Any) -> dict[str, Any]:
    return {"what": what, "name": name, "run_id": run.record.run_id, "run": run.record.name, "value": value}


def _difference_line(run: ComparedRun, first: ComparedRun, one: SiteDifference) -> dict[str, Any]:
    split, site = one.place
    line = _line(run, "dice difference", site, None) | {"split": split, "against": first.record.run_id, "note": one.why}
    if one.paired is None:
        return line
    found = one.paired
    ends = {"value": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}
    return line | ends | {"patients": found.num_groups, "images": len(run.images[one.place]), "note": verdict(found)}


def _settings_html(runs: Sequence[ComparedRun], *, paths: bool, letters: str) -> str:
    lost = [run.record.name for run in runs if run.config is None]
    note = compare_text.SETTINGS_UNREADABLE.format(names=", ".join(lost)) if lost else ""
    rows = [
        [one.label, one.section, *(text.NOT_MEASURED if value is None else value for value in one.values)]
        for one in settings(runs, paths=paths)
    ]
    heading = compare_text.SETTINGS_HEADING
    if not rows:
        return f"<h3>{heading}</h3>{markup.quiet(compare_text.SETTINGS_SAME)}{markup.quiet(note)}"
    columns = (*compare_text.SETTING_COLUMNS, *letters)
    return _section(heading, f"{compare_text.SETTINGS_NOTE} {note}".strip(), columns, rows)


def _differences_html(found: Comparison, letters: str) -> str:
    note = compare_text.DIFFERENCES_NOTE.format(name=found.runs[0].record.name)
    further = [compare_text.DIFFERENCE_COLUMN.format(letter=letter) for letter in letters[1:]]
    columns, why = (*compare_text.DICE_COLUMNS, *further), reasons(found.differences)
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in why)
    listed = f"<h4>{compare_text.WHY_NOT_HEADING}</h4><ul>{said}</ul>" if why else ""
    return _section(compare_text.DIFFERENCES_HEADING, note, columns, difference_rows(found)) + listed


def _section(heading: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<h3>{heading}</h3>{markup.quiet(note)}{markup.table(columns, rows, label=heading)}"


def _worst(run: ComparedRun) -> str:
    words = [
        compare_text.WORST.format(
            site=one.worst_site, dice=viewmodels.number(one.worst_dice), split=compare_text.SPLITS[one.split]
        )
        for one in run.spread
    ]
    return "; ".join(words) or (compare_text.ONE_SITE if run.rows else text.NOT_MEASURED)


def _both_ways(sites: Sequence[Mapping[str, int]]) -> str:
    if not sites:
        return text.NOT_MEASURED
    return " / ".join(viewmodels.megabytes(sum(site.get(way, 0) for site in sites)) for way in ("up", "down"))


def _interval(low: float | None, high: float | None, *, sign: str = "") -> str:
    return text.ONE_PATIENT if low is None or high is None else f"{low:{sign}.3f} to {high:{sign}.3f}"


def _value(config: Mapping[str, Any], key: str) -> Any:
    section, _, leaf = key.rpartition(".")
    return (config.get(section) or {}).get(leaf) if section else config.get(leaf)


def _setting_words(value: Any, *, is_path: bool) -> str:
    if value is None or value in ("", [], {}):
        return compare_text.EMPTY_VALUE
    if isinstance(value, bool):
        return compare_text.YES if value else compare_text.NO
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return PurePath(str(value)).name if is_path else str(value)

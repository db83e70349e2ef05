"""Runs side by side as tables, HTML and CSV. Pure; what comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath
from typing import Any

from app import compare_text, forms, markup, text, viewmodels
from engine.config_keys import place_keys, unread_sections
from engine.evaluation.tables import images_cell
from engine.experiments.compared_measures import COMPARED, DICE, HD95, ComparedMeasure, SiteFigure
from engine.experiments.comparison import ComparedRun, Comparison, SiteDifference
from engine.experiments.extremes import ImageLine, extremes, shown_places
from engine.experiments.spreadsheet import rows_csv
from engine.experiments.statistics import verdict
from engine.methods import catalogue

PATHS = tuple(place_keys())
"""Settings that say where something lies on the server."""
CSV_COLUMNS = ("what", "name", "split", "run_id", "run", "value", "low", "high", "p_value", "images", "patients",
               "missed", "false", "against", "note")  # fmt: skip


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


def measure_rows(found: Comparison, measure: ComparedMeasure = COMPARED[DICE]) -> list[list[str]]:
    """Return a line for each site: site, split, images, and each run's measure with its interval."""
    rows = []
    for place in found.places:
        measured = [run.rows[place] for run in found.runs if place in run.rows]
        counts = dict.fromkeys(images_cell(row.num_images, row.num_groups) for row in measured)
        cells = [figure_cell(run.at(place, measure), measure) for run in found.runs]
        rows.append([place[1], compare_text.SPLITS[place[0]], " / ".join(counts), *cells])
    return rows


def figure_cell(figure: SiteFigure | None, measure: ComparedMeasure) -> str:
    """Return a measure with its interval; HD95 with the images that have one, and the misses of all images."""
    if figure is None:
        return text.NOT_MEASURED
    told = text.NOT_MEASURED
    if figure.value is not None:
        if figure.low is None and figure.num_groups != 1:
            interval = compare_text.NO_INTERVAL
        else:
            interval = _interval(figure.low, figure.high, decimals=measure.decimals)
        told = f"{figure.value:.{measure.decimals}f} ({interval})"
    if measure.key != HD95:
        return told
    counts = compare_text.NOT_COUNTED
    if figure.num_images is not None:
        counts = compare_text.COUNTS.format(
            images=figure.num_images, missed=figure.num_missed, spurious=figure.num_spurious
        )
    return f"{told}; {counts}"


def difference_rows(found: Comparison, measure: ComparedMeasure = COMPARED[DICE]) -> list[list[str]]:
    """Return a line for each site: site, split, images, and each further run's measure minus the first one's."""
    differences = found.differences(measure)
    return [
        [*shown[:3], *(difference_cell(of_run[at], measure) for of_run in differences)]
        for at, shown in enumerate(measure_rows(found, measure))
    ]


def difference_cell(one: SiteDifference, measure: ComparedMeasure = COMPARED[DICE]) -> str:
    """Return a difference with its interval, its p value and what they say in a word; of HD95 with its images."""
    if one.paired is None:
        return text.NOT_MEASURED
    paired, decimals = one.paired, measure.decimals
    interval = _interval(paired.low, paired.high, sign="+", decimals=decimals)
    said = verdict(paired.low, paired.high, higher_is_better=measure.higher_is_better)
    counts = f"; {compare_text.BOTH.format(images=one.num_images)}" if measure.key == HD95 else ""
    return f"{paired.mean:+.{decimals}f} ({interval}), p {paired.p_value:.2g}: {said}{counts}"


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


def html(found: Comparison, *, paths: bool, measure: ComparedMeasure = COMPARED[DICE]) -> str:
    """Return everything but the curves; ``measure`` is what the sites' tables show."""
    letters = compare_text.LETTERS[: len(found.runs)]
    parts = [_section(compare_text.RUNS_HEADING, "", compare_text.RUN_COLUMNS, run_rows(found.runs))]
    parts.append(_settings_html(found.runs, paths=paths, letters=letters))
    heading = compare_text.MEASURE_HEADING.format(measure=measure.title)
    if not found.places:
        parts.append(f"<h3>{heading}</h3>{markup.quiet(compare_text.NOT_MEASURED_YET)}")
    else:
        columns = (*compare_text.MEASURE_COLUMNS, *letters)
        note = compare_text.MEASURE_NOTES[measure.key]
        parts.append(_section(heading, note, columns, measure_rows(found, measure)))
        parts.append(_differences_html(found, letters, measure))
    parts += [_extremes_html(letter, run) for letter, run in zip(letters, found.runs, strict=True)]
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
        rows += [_figure_line(run, place, measure) for measure in COMPARED.values() for place in run.rows]
        for spread in run.spread:
            rows.append(_line(run, "worst site", spread.worst_site, spread.worst_dice) | {"split": spread.split})
        rows.append(_line(run, "minutes", "", run.minutes))
        for site, ways in run.traffic.items():
            rows += [_line(run, f"bytes {way}", site, ways.get(way, 0)) for way in ("up", "down")]
    for measure in COMPARED.values():
        for run, of_run in zip(found.runs[1:], found.differences(measure), strict=True):
            rows += [_difference_line(run, found.runs[0], one, measure) for one in of_run]
    blank = dict.fromkeys(CSV_COLUMNS)
    return rows_csv([{**blank, **row} for row in rows], columns=CSV_COLUMNS)


def _line(run: ComparedRun, what: str, name: str, value: Any) -> dict[str, Any]:
    return {"what": what, "name": name, "run_id": run.record.run_id, "run": run.record.name, "value": value}


def _figure_line(run: ComparedRun, place: tuple[str, str], measure: ComparedMeasure) -> dict[str, Any]:
    found = run.at(place, measure)
    assert found is not None, "it was measured there"
    counts = {"images": found.num_images, "patients": found.num_groups, "missed": found.num_missed}
    ends = {"low": found.low, "high": found.high, "split": place[0], "false": found.num_spurious, "note": run.model}
    return _line(run, measure.key, place[1], found.value) | counts | ends


def _difference_line(
    run: ComparedRun, first: ComparedRun, one: SiteDifference, measure: ComparedMeasure
) -> dict[str, Any]:
    split, site = one.place
    line = _line(run, f"{measure.key} difference", site, None)
    line |= {"split": split, "against": first.record.run_id, "note": one.why}
    if one.paired is None:
        return line
    found = one.paired
    said = verdict(found.low, found.high, higher_is_better=measure.higher_is_better)
    ends = {"value": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}
    return line | ends | {"patients": found.num_groups, "images": one.num_images, "note": said}


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


def _differences_html(found: Comparison, letters: str, measure: ComparedMeasure) -> str:
    note = compare_text.DIFFERENCES_NOTE.format(measure=measure.title, name=found.runs[0].record.name)
    further = [compare_text.DIFFERENCE_COLUMN.format(letter=letter) for letter in letters[1:]]
    columns, why = (*compare_text.MEASURE_COLUMNS, *further), reasons(found.differences(measure))
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in why)
    listed = f"<h4>{compare_text.WHY_NOT_HEADING}</h4><ul>{said}</ul>" if why else ""
    return _section(compare_text.DIFFERENCES_HEADING, note, columns, difference_rows(found, measure)) + listed


def _extremes_html(letter: str, run: ComparedRun) -> str:
    """Return the best and worst images of a run, folded; nothing of a run without figures of images."""
    told = ""
    for place in shown_places(run):
        found = extremes(run, place)
        if found is None or not found.best:
            continue
        for words, lines in ((compare_text.BEST, found.best), (compare_text.WORST_IMAGES, found.worst)):
            heading = words.format(count=len(lines), images=found.num_images, site=place[1])
            told += f"<h4>{escape(heading)}</h4>"
            told += markup.table(compare_text.IMAGE_COLUMNS, [image_cells(line) for line in lines], label=heading)
    if not told:
        return ""
    heading = escape(compare_text.EXTREMES_HEADING.format(letter=letter, name=run.record.name))
    return f"<details><summary>{heading}</summary>{markup.quiet(compare_text.EXTREMES_NOTE)}{told}</details>"


def image_cells(line: ImageLine) -> list[str]:
    """Return the line of one image, in the order of ``compare_text.IMAGE_COLUMNS``."""
    patient = text.NOT_MEASURED if line.patient is None else str(line.patient)
    figures = [viewmodels.number(line.dice), viewmodels.number(line.iou), viewmodels.number(line.hd95_px, digits=1)]
    return [str(line.number), line.site, patient, *figures]


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


def _interval(low: float | None, high: float | None, *, sign: str = "", decimals: int = 3) -> str:
    if low is None or high is None:
        return text.ONE_PATIENT
    return f"{low:{sign}.{decimals}f} to {high:{sign}.{decimals}f}"


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

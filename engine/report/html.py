"""A run's report as one HTML file that needs nothing else: no script, no network, to read and to print. Torch-free.

Names, settings and messages are other people's words: the template escapes every one of them (Jinja's autoescape), and
the file's own Content-Security-Policy lets neither scripts nor other addresses in, whatever it says.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.config_text import to_toml
from engine.evaluation import tables
from engine.experiments.comparison import Place
from engine.experiments.extremes import Extremes, ImageLine, extremes, shown_places
from engine.experiments.statistics import verdict
from engine.methods import catalogue
from engine.report import charts
from engine.report.badges import LEGEND
from engine.report.document import RunDocument, read_document, series_of
from engine.report.ledger import Message, contents, sums
from engine.report.privacy import HEADER as PRIVACY_HEADER
from engine.report.privacy import privacy_rows, privacy_words
from engine.report.site_records import NO_PROOFS, Proofs
from engine.runs.store import RunStore
from engine.types import MEAN_CLASS, EvaluationRow, ModelDifference

TEMPLATES = Path(__file__).parent / "templates"
MOST_LINES = 9
"""Curves in one chart: the mean and eight sites (ours)."""
MOST_CHARTS = 24
MOST_MESSAGES = 400
"""Messages of which the ledger says each one; of more it gives the sums, and the CSV has them all (ours)."""
MOST_WARNINGS = 100
NOT_CURVES = ("_s", "share", "fraction")
NOTHING = "–"
SPLITS = {"test": "unseen", "validation": "validation"}
BACKENDS = {"local": "in one process", "ray": "in processes side by side", "superlink": "at hospitals"}
WAYS = {"up": "to the server", "down": "from the server"}


def html_report(store: RunStore, run_id: str, proofs: Proofs = NO_PROOFS) -> str:
    """Return the report of a run as one HTML page; the same run gives the same text.

    ``proofs`` are what sites have handed over of their own records. Raises ``UserError`` ``run.unknown``.
    """
    return to_html(read_document(store, run_id), proofs)


def page(template: str, **values: Any) -> str:
    """Return one of our templates as a page in our style; what it shows is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": size, "moment": moment, "span": span, "cells": image_cells, "unbroken": unbroken}
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))  # our own file, nobody else's words
    return environment.get_template(template).render(style=style, **values)


def to_html(document: RunDocument, proofs: Proofs = NO_PROOFS) -> str:
    """Return a document as one HTML page."""
    record, config = document.record, document.config
    return page(
        "report.html",
        run=record,
        method=catalogue.methods().get(record.method),
        method_title=catalogue.method_title(record.method),
        said=in_short(document),
        facts=facts(document),
        sites=site_rows(document),
        digests=sorted(document.compared.identity.items())[:200],
        results=result_tables(document),
        legend=tables.LEGEND,
        badges=document.badges,
        badge_legend={word: LEGEND[word] for word in LEGEND if any(word in own for own in document.badges.values())},
        intervals=_interval_chart(document),
        extremes=extreme_images(document),
        curves=curve_charts(document),
        kinds=kind_rows(document),
        sums=sums(document.ledger),
        privacy_header=PRIVACY_HEADER,
        privacy=privacy_rows(document.ledger),
        privacy_words=privacy_words(config),
        messages=document.ledger if len(document.ledger) <= MOST_MESSAGES else (),
        num_messages=len(document.ledger),
        proofs=proofs,
        stages=[(catalogue.stage_title(stage.name), stage) for stage in document.stages],
        minutes=sum(stage.wall_s for stage in document.stages) / 60,
        versions=document.versions,
        machine=document.machine,
        settings=None if config is None else to_toml(config),
        warnings=document.warnings[-MOST_WARNINGS:],
        num_warnings=len(document.warnings),
        failures=[(view.now.site, failure) for view in document.sites for failure in view.failures],
        ways=WAYS,
        stage_title=catalogue.stage_title,
        kind_title=_kind_title,
        round_of=round_of,
    )


def in_short(document: RunDocument) -> list[str]:
    """Return what came of the run in sentences; what speaks against it is said like what speaks for it."""
    run, said = document.compared, []
    if document.record.status != "finished":
        said.append(f"The run is {document.record.status}: what follows is what it had recorded so far.")
    if run.model is None:
        return [*said, "None of its models has been measured."]
    title = catalogue.model_title(run.model, document.config)
    for place in (place for place in run.rows if place[0] == "test"):
        row = run.rows[place]
        images = f"{tables.images_cell(row.num_images, row.num_groups)} unseen images of {row.site}"
        what = "mean over classes" if row.class_name == MEAN_CLASS else row.class_name
        said.append(
            f"{title}, the run's final model, has Dice {number(row.dice)} {interval(row)} on {images} ({what})."
        )
        best = _best(document, place)
        if best is not None and best.model != title and best.dice > row.dice:
            said.append(f"It is not the best there: {best.model} has {number(best.dice)} {interval(best)}.")
    for one in document.differences:
        if one.split == "test" and one.model == title and one.class_name == run.rows[one.split, one.site].class_name:
            said.append(f"On the same images its Dice minus that of {one.baseline} is {difference(one)}.")
    if document.exported is not None:
        said.append(f"The model that was exported is {catalogue.model_title(document.exported, document.config)}.")
    return [*said, *document.gate]


def facts(document: RunDocument) -> list[tuple[str, str]]:
    """Return labels and values of what the run was."""
    record, config = document.record, document.config
    pairs = [("Run", record.run_id), ("Method", catalogue.method_title(record.method))]
    if config is not None:
        data = config.data
        held = "the folders of the sites" if data.root is None else f"folder {data.root}"
        images = f"drawn phantoms, {data.task}" if data.source == "phantom" else held
        tested = (
            "a fixed set of the server's" if data.protocol == "fixed-test" else data.held_out or "the last site by name"
        )
        shares = f"{data.validation_fraction:g} of a site's patients are kept for validation"
        pairs += [
            ("Images", f"{images}, {data.image_px} px"),
            ("Tested on", tested),
            ("Split", shares),
            ("Seed", str(config.seed)),
            ("Rounds", str(config.federation.rounds)),
            ("Where the sites were", BACKENDS[config.backend]),
        ]
    pairs += [
        ("Configuration", record.config_hash),
        ("Began", moment(record.started_at)),
        ("Ended", moment(record.finished_at)),
    ]
    if record.parent:
        stage = "" if record.fork_stage is None else f", from {catalogue.stage_title(record.fork_stage)}"
        pairs.append(("Made of", f"{record.parent}{stage}"))
    return pairs


def site_rows(document: RunDocument) -> list[tuple[str, ...]]:
    """Return a line for each site: its images, its validation Dice, its bytes and how often it failed."""
    views = {view.now.site: view for view in document.sites}
    sent = document.compared.traffic
    measured = {(row.split, row.site) for row in document.rows}
    rows = []
    for name in sorted({*views, *sent, *(site for _, site in measured)}):
        view = views.get(name)
        counts = ("not on record",) * 3
        if view is not None:
            counts = tuple(str(n) for n in (view.now.num_train, view.now.num_validation, view.now.num_test))  # type: ignore[assignment]
        score = NOTHING if view is None or view.score is None else number(view.score)
        ways = [size(sent[name].get(way, 0)) if name in sent else NOTHING for way in WAYS]
        held_out = view is not None and view.now.num_test and not view.now.num_train  # of a run that measured nothing
        role = "unseen" if held_out or ("test", name) in measured else "trains"
        failed = NOTHING if view is None else str(len(view.failures))
        rows.append((name, role, *counts, score, *ways, failed))
    return rows


def result_tables(document: RunDocument) -> dict[str, Any]:
    """Return the cells of the tables of results: by split the rows, then differences, then the worst sites."""
    by_split = {split: [row for row in document.rows if row.split == split] for split in SPLITS}
    return {
        "header": tables.HEADER,
        "rows": {
            words: [tables.table_cells(row) for row in by_split[split]]
            for split, words in SPLITS.items()
            if by_split[split]
        },
        "difference_header": (*tables.DIFFERENCE_HEADER, "Says"),
        "differences": [
            (*tables.difference_cells(one), verdict(one.dice_low, one.dice_high))
            for one in document.differences
            if one.split == "test"
        ],
        "spread_header": ("Images", *tables.SPREAD_HEADER),
        "spread": [(SPLITS[one.split], *tables.spread_cells(one)) for one in document.spread],
    }


def extreme_images(document: RunDocument) -> list[Extremes]:
    """Return the best and worst images of the final model, of the unseen sites where there are any."""
    found = (extremes(document.compared, place) for place in shown_places(document.compared))
    return [one for one in found if one is not None and one.best]


def image_cells(line: ImageLine) -> tuple[str, ...]:
    """Return the cells of one image: number, site, patient, Dice, IoU and HD95."""
    patient = NOTHING if line.patient is None else str(line.patient)
    iou = NOTHING if line.iou is None else number(line.iou)
    hd95 = NOTHING if line.hd95_px is None else f"{line.hd95_px:.1f}"
    return (str(line.number), line.site, patient, number(line.dice), iou, hd95)


def curve_charts(document: RunDocument) -> list[tuple[str, Markup, str]]:
    """Return (heading, SVG, what is left out) of each measure of each stage, Dice first; at most ``MOST_CHARTS``."""
    named = {(curve.stage, curve.name) for curve in document.curves if not curve.name.endswith(NOT_CURVES)}
    order = {stage.name: stage.position for stage in document.stages}
    found = []
    for stage, name in sorted(named, key=lambda key: (order.get(key[0], 99), "dice" not in key[1], key[1])):
        series = series_of(document.curves, stage=stage, name=name)
        known, words = catalogue.stage(stage), name.replace("_", " ")
        whole = "mean of the sites" if any(one.site for one in series) else words
        lines = [charts.Line(one.site or whole, one.steps, one.values) for one in series[:MOST_LINES]]
        heading = f"{catalogue.stage_title(stage)}: {words}"
        unit = (0.0, 1.0) if "dice" in name else None
        svg = charts.line_chart(lines, title=heading, x_title="" if known is None else known.step, y_range=unit)
        left = len(series) - len(lines)
        if svg:
            found.append((heading, Markup(svg), f"{left} more sites are not drawn." if left else ""))
    return found[:MOST_CHARTS]


def kind_rows(document: RunDocument) -> list[tuple[str, str, str, str]]:
    """Return a line for each kind of message: its title, what it holds, and bytes up and down of all sites."""
    sums_of: Counter[tuple[str, str]] = Counter()
    for message in document.ledger:
        sums_of[message.kind, message.direction] += message.payload_bytes
    kinds = dict.fromkeys(kind for kind, _ in sums_of)
    return [(_kind_title(kind), contents(kind), *(size(sums_of[kind, way]) for way in WAYS)) for kind in kinds]


def unbroken(cell: str) -> str:
    """Return a cell whose spaces do not break a line where it is a figure: a value stays beside its interval."""
    return cell.replace(" ", "\u00a0") if cell[:1].isdigit() or cell[:1] in ("+", "-") else cell


def round_of(message: Message) -> str:
    """Return the round of a message; nothing where it was sent in none."""
    return str(message.number) if message.is_round else NOTHING


def interval(row: EvaluationRow | ModelDifference, *, sign: str = "") -> str:
    """Return the ends of a 95 % interval in brackets, or why there is none."""
    if row.dice_low is None or row.dice_high is None:
        return "(one patient: no interval)"
    return f"[{row.dice_low:{sign}.3f}, {row.dice_high:{sign}.3f}]"


def difference(one: ModelDifference) -> str:
    """Return a difference of Dice with its interval and what it says."""
    return f"{one.dice:+.3f} {interval(one, sign='+')}: {verdict(one.dice_low, one.dice_high)}"


def number(value: float) -> str:
    """Return a measure with three decimals; a dash where it was not measured."""
    return f"{value:.3f}" if math.isfinite(value) else NOTHING


def size(num_bytes: float) -> str:
    """Return bytes in the unit that reads best, powers of 1000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def moment(at: float | None) -> str:
    """Return a time in UTC."""
    try:
        return NOTHING if at is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    except (OverflowError, ValueError, OSError):  # of a record that was taken in, and is no time
        return NOTHING


def span(seconds: float | None) -> str:
    """Return a time span as minutes and seconds."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    minutes, left = divmod(round(seconds), 60)  # rounded before it is divided: no minute has 60 s
    return f"{minutes} min {left:02d} s"


def _kind_title(kind: str) -> str:
    known = catalogue.kinds().get(kind)
    return kind if known is None else known.title


def _best(document: RunDocument, place: Place) -> EvaluationRow | None:
    """Return the row of the highest Dice at a place, of the class (or mean) that the final model's row is of."""
    class_name = document.compared.rows[place].class_name
    at = [row for row in document.rows if (row.split, row.site, row.class_name) == (*place, class_name)]
    return max(at, key=lambda row: row.dice if math.isfinite(row.dice) else -1.0, default=None)


def _interval_chart(document: RunDocument) -> Markup:
    """Return the models on the unseen images, Dice of the mean over classes or of the one class."""
    tested = [row for row in document.rows if row.split == "test"]
    several = {(row.model, row.site) for row in tested if row.class_name == MEAN_CLASS}
    shown = [row for row in tested if (row.class_name == MEAN_CLASS) == ((row.model, row.site) in several)]
    telling = [
        read
        for read in (lambda row: row.model, lambda row: row.site, lambda row: row.class_name)
        if len({read(row) for row in shown}) > 1
    ]
    estimates = [
        charts.Estimate(", ".join(read(row) for read in telling) or row.model, row.dice, row.dice_low, row.dice_high)
        for row in shown
    ]
    title = "Dice on the unseen images, with 95 % intervals"
    return Markup(charts.interval_chart(estimates, title=title, x_title="Dice", x_range=(0.0, 1.0)))

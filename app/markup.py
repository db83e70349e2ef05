"""The page's own pieces of HTML: stepper, status, tables, boxes. Pure; what comes from outside is escaped."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from app import join_text, model_text, run_text, text, viewmodels
from engine.errors import UserError
from engine.methods import catalogue
from engine.report.badges import LEGEND
from engine.runs.alerts import Alert
from engine.runs.records import LogLine, RunRecord, RunView, StageRecord
from engine.runs.waiting import Waiting
from engine.types import EvaluationRow, ModelDifference

if TYPE_CHECKING:
    from engine.planning import Plan

Figure = tuple[str, np.ndarray, str]
"""Caption, picture (H, W, 3) uint8 and the words that a screen reader says."""


def script(name: str) -> str:
    """Return what the browser does for a component, from the file of that name beside the page's own."""
    return (Path(__file__).resolve().parent / name).read_text(encoding="utf-8")


def header() -> str:
    """Return the page's heading."""
    return f"<h1>{text.TITLE}</h1><p class='lead'>{text.LEAD}</p>"


def spoken(name: str) -> str:
    """Return a tab's heading, which screen readers list and nobody sees: the tab's own name stands above it."""
    return f"<h2 class='spoken'>{escape(name)}</h2>"


def notice(sentence: str) -> str:
    """Return a quiet strip with one sentence."""
    return f"<p class='notice' role='note'>{escape(sentence)}</p>"


def warning(sentence: str) -> str:
    """Return a strip with one sentence that a screen reader says as soon as it is shown."""
    return f"<p class='notice' role='alert'>{escape(sentence)}</p>"


def notices(sentences: Sequence[str]) -> str:
    """Return a strip for each sentence."""
    return "".join(notice(sentence) for sentence in sentences)


def question(sentence: str) -> str:
    """Return a question that a screen reader says as soon as it is shown."""
    return f"<p class='question' role='alert'>{escape(sentence)}</p>"


def signed_in(name: str, role: str) -> str:
    """Return who is signed in, and the button that ends it: a form of its own, for it works without the page."""
    words = escape(text.SIGNED_IN.format(name=name, role=role))
    return (
        f"<form class='signed-in' method='post' action='/sign-out'><span>{words}</span>"
        f"<button>{text.SIGN_OUT}</button></form>"
    )


def quiet(sentence: str) -> str:
    """Return a sentence in small grey print; nothing for none."""
    return f"<p class='quiet'>{escape(sentence)}</p>" if sentence else ""


def error_box(what: str, why: str, fix: str) -> str:
    """Return a visible box that says what is wrong, why it matters and what to do."""
    return (
        f"<div class='error-box' role='alert'><p class='what'>{escape(what)}</p>"
        f"<p><b>{text.ERROR_WHY}:</b> {escape(why)}</p><p><b>{text.ERROR_FIX}:</b> {escape(fix)}</p></div>"
    )


def user_error(error: UserError) -> str:
    """Return the box of a ``UserError``; a run that is gone is told in the page's words, not in a terminal's."""
    if error.code == "run.unknown":
        return error_box(f"{error.what.partition(' in ')[0]}.", run_text.GONE_WHY, run_text.GONE_FIX)
    return error_box(error.what, error.why, error.fix)


def foreign(error: UserError) -> str:
    """Return the notice that a model was not made for an image."""
    return (
        f"<div class='error-box' role='alert'><p class='what'>{model_text.FOREIGN_TITLE}</p>"
        f"<p>{escape(error.what)}</p><p>{escape(error.why)}</p><p>{escape(error.fix)}</p></div>"
    )


def busy(sentence: str) -> str:
    """Return a sign that something is being worked out."""
    return f"<p class='notice busy' role='status' aria-busy='true'>{escape(sentence)}</p>"


def unexpected(error: Exception) -> str:
    """Return the box of an exception that nobody foresaw; the trace goes to the server's log, not to the page."""
    return error_box(text.UNEXPECTED_WHAT.format(kind=type(error).__name__), text.UNEXPECTED_WHY, text.UNEXPECTED_FIX)


def empty(title: str, step: str) -> str:
    """Return an empty state: what is missing and the next step (``step`` is our own HTML)."""
    return f"<div class='empty'><p class='title'>{escape(title)}</p><p>{step}</p></div>"


def status(view: RunView, watched: Sequence[Alert] = (), *, place: Waiting | None = None) -> str:
    """Return the run's status, overall progress, place in the queue, what comes next, and what is to be looked into."""
    run, fraction = view.run, viewmodels.overall_fraction(view.stages)
    percent = 100 if run.status == "finished" else min(99, int(100 * fraction))
    facts = [f"<span class='badge {run.status}'>{text.STATUS[run.status]}</span>", f"<span>{percent} %</span>"]
    if run.status == "running" and view.eta_s is not None:
        facts.append(f"<span>{text.ETA_LEFT.format(time=viewmodels.duration(view.eta_s))}</span>")
    if place is not None:
        facts.append(f"<span>{run_text.PLACE.format(position=place.position, count=place.count)}</span>")
        start = place.starts_in_s
        told = run_text.START_UNKNOWN if start is None else run_text.START.format(time=viewmodels.duration(start))
        facts.append(f"<span>{told}</span>")
    if run.status == "finished":
        facts.append(f"<span>{text.TOOK.format(time=viewmodels.duration(sum(s.wall_s for s in view.stages)))}</span>")
    if run.parent and run.fork_stage:
        joins = any(stage.takes_over for stage in catalogue.stages([run.fork_stage]))
        said = join_text.JOINED if joins else text.FORKED
        said = said.format(run_id=run.parent, stage=catalogue.stage_title(run.fork_stage))
        facts.append(f"<span>{escape(said)}</span>")
    cancelling = run.active and run.cancel_requested
    # A note says what comes next better than the status does; only a fault to be mended is said beside it.
    coming = text.CANCELLING if cancelling else text.STATUS_NEXT[run.status]
    following = f"<p class='next'>{coming}</p>" if view.note is None or cancelling or run.error else ""
    note = notice(view.note) if view.note else ""
    about = f"data-run='{escape(run.run_id)}' data-name='{escape(run.shown_name)}' data-state='{run.status}'"
    about += f" data-said='{escape(text.STATUS[run.status])}' data-percent='{percent}'"
    return (
        f"<section class='status' {about} aria-label='{escape(run.shown_name)}'><h2>{escape(run.shown_name)}"
        f" <code>{escape(run.run_id)}</code></h2><p class='facts'>{''.join(facts)}</p>"
        f"<div class='bar' role='progressbar' aria-label='{text.RUN_LABEL}' aria-valuemin='0' aria-valuemax='100'"
        f" aria-valuenow='{percent}'><span style='width:{percent}%'></span></div>"
        f"<button type='button' class='tell-end' hidden>{run_text.TELL_END}</button>"
        f"{following}{note}{_alerts(watched)}{_run_error(run)}</section>"
    )


def _alerts(watched: Sequence[Alert]) -> str:
    """Return what is to be looked into, the first few; a screen reader says it when it comes."""
    if not watched:
        return ""
    items = "".join(
        f"<li><strong>{escape(one.what)}</strong> {escape(one.fix)}</li>" for one in watched[: run_text.ALERTS_SHOWN]
    )
    more = len(watched) - run_text.ALERTS_SHOWN
    cut = f"<li>{run_text.ALERTS_CUT.format(count=more)}</li>" if more > 0 else ""
    return f"<div class='notice alerts' role='status'><p>{run_text.ALERTS}</p><ul>{items}{cut}</ul></div>"


def command(line: str) -> str:
    """Return the command that starts the same run; a click chooses all of it."""
    heading = f"<h3>{run_text.COMMAND}</h3><p class='quiet'>{run_text.COMMAND_NOTE}</p>"
    return f"{heading}<code class='command'>{escape(line)}</code>"


def stepper(stages: Sequence[StageRecord]) -> str:
    """Return the stages as an ordered list with their state, progress and expected time."""
    items = "".join(_step(stage) for stage in stages)
    return f"<ol class='stepper' aria-label='{text.STAGES_HEADING}'>{items}</ol>"


def results_table(
    rows: Sequence[EvaluationRow],
    differences: Sequence[ModelDifference] = (),
    badges: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Return the results table: test images first, differences between models and validation images folded.

    ``badges`` are words beside a model on the test images, by the title that the rows call it.
    """
    tested = viewmodels.result_rows(rows, "test")
    validated = viewmodels.result_rows(rows, "validation")
    if not tested and not validated:
        return f"<h3>{text.RESULTS_HEADING}</h3><p class='quiet'>{text.RESULTS_EMPTY}</p>"
    parts = [f"<h3>{text.RESULTS_HEADING}</h3><p class='quiet'>{text.RESULTS_NOTE}</p>"]
    if tested:
        parts.append(_results(text.RESULT_COLUMNS, tested, label=text.RESULTS_HEADING, badges=badges))
        parts.append(_badges_legend(badges))
    compared = viewmodels.difference_rows(differences)
    if compared:
        inner = _results(text.DIFFERENCE_COLUMNS, compared, label=text.DIFFERENCES_HEADING)
        parts.append(f"<details><summary>{text.DIFFERENCES_HEADING}</summary>{inner}</details>")
    between = viewmodels.spread_rows(rows)
    if between:
        inner = table(text.SPREAD_COLUMNS, between, label=text.SPREAD_HEADING)
        parts.append(f"<details><summary>{text.SPREAD_HEADING}</summary>{inner}</details>")
    if validated:
        inner = _results(text.RESULT_COLUMNS, validated, label=text.RESULTS_VALIDATION)
        parts.append(f"<details><summary>{text.RESULTS_VALIDATION}</summary>{inner}</details>")
    return "".join(parts)


def _results(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    label: str,
    badges: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Return a table of results below a line with what is the same for all of them."""
    shown, lines, words = viewmodels.said_once(columns, rows, text.SAID_ONCE)
    return quiet(words) + table(shown, lines, label=label, badges=badges)


def _badges_legend(badges: Mapping[str, Sequence[str]]) -> str:
    """Return what those badges mean that are there."""
    used = {word for words in badges.values() for word in words}
    return quiet(" · ".join(f"{word}: {meaning}" for word, meaning in LEGEND.items() if word in used))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    label: str,
    badges: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Return a table that scrolls on its own where the screen is narrow; the first column heads its line.

    ``badges`` are words that stand beside the first cell of a line, by what the cell says.
    """
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th scope='row'>{escape(row[0])}{_badges(badges.get(row[0], ()))}</th>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return (
        f"<div class='table-scroll' tabindex='0' role='region' aria-label='{escape(label)}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _badges(words: Sequence[str]) -> str:
    return "".join(f" <span class='badge model'>{escape(word)}</span>" for word in words)


def plan(planned: Plan) -> str:
    """Return what a run will take and send, as :func:`engine.planning.plan` says it."""
    of = text.PLAN_OF.format
    pairs = [
        (text.PLAN_TIME, viewmodels.duration(60 * planned.minutes)),
        (text.PLAN_MEMORY, of(needed=planned.peak_memory_gib, there=planned.memory_gib)),
        (text.PLAN_DISK, of(needed=planned.disk_gib, there=planned.disk_free_gib)),
        (text.PLAN_DEVICE, planned.machine),
        (text.PLAN_WHERE, planned.sites_work),
        (text.PLAN_IMAGES, f"{planned.dataset} ({planned.modality})"),
        (text.PLAN_CLASSES, ", ".join(planned.classes)),
        (text.PLAN_SYNTHETIC, str(planned.num_synthetic)),
    ]
    leaves = "".join(f"<li>{escape(sentence)}</li>" for sentence in planned.leaves_site)
    warnings = "".join(f"<p>{escape(warning)}</p>" for warning in planned.warnings)
    note = f"<div class='notice' role='note'><b>{text.PLAN_WARNINGS}</b>{warnings}</div>" if warnings else ""
    sites = table(text.PLAN_SITE_COLUMNS, viewmodels.plan_sites(planned), label=text.PLAN_SITES)
    spent = table(text.PLAN_PRIVACY_COLUMNS, viewmodels.plan_privacy(planned), label=text.PLAN_PRIVACY)
    private = f"<h4>{text.PLAN_PRIVACY}</h4>{spent}" if planned.privacy else ""
    stages = table(text.PLAN_STAGE_COLUMNS, viewmodels.plan_stages(planned), label=text.PLAN_STAGES)
    return (
        f"<section class='plan'><h4>{text.PLAN_READY}</h4>{facts(pairs)}{note}"
        f"<h4>{text.PLAN_LEAVES}</h4><ul>{leaves}</ul>{private}<h4>{text.PLAN_SITES}</h4>{sites}"
        f"<details><summary>{text.PLAN_STAGES}</summary>{stages}</details>{quiet(planned.estimate)}</section>"
    )


def log(lines: Sequence[LogLine], *, cut: bool = False) -> str:
    """Return the tail of the log, newest last; ``cut`` says that there may be more before it."""
    if not lines:
        return f"<p class='quiet'>{text.LOG_EMPTY}</p>"
    rows = "".join(
        f"<div class='{line.level}'><time>{time.strftime('%H:%M:%S', time.localtime(line.at))}</time> "
        f"{escape(line.text)}</div>"
        for line in lines
    )
    said = quiet(run_text.LOG_CUT.format(shown=len(lines))) if cut else ""
    return f"{said}<div class='log' role='log' tabindex='0' aria-label='{text.LOG_HEADING}'>{rows}</div>"


def log_search() -> str:
    """Return the controls that choose among the lines of the log that are shown."""
    return (
        f"<label>{run_text.LOG_SEARCH} <input type='search' maxlength='100'></label>"
        f"<label><input type='checkbox'> {run_text.LOG_ONLY}</label>"
        f"<output aria-live='polite' data-found='{run_text.LOG_FOUND}'></output>"
    )


def figures(pictures: Sequence[Figure], *, columns: int | None = None) -> str:
    """Return pictures with captions side by side, wrapped on narrow screens; in ``columns`` equal columns if given."""
    items = "".join(
        f"<figure><img src='{data_uri(picture)}' alt='{escape(alt, quote=True)}'>"
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, picture, alt in pictures
    )
    style = "" if columns is None else f" style='--columns: {columns}'"
    return f"<div class='figures{' even' if columns else ''}'{style}>{items}</div>"


def fork_note(name: str, run_id: str, stage: str, taken_over: Sequence[str]) -> str:
    """Return what the form is about while it makes a fork, and what the fork does not do again."""
    titles = [catalogue.stage_title(key) for key in (stage, *taken_over)]
    title = text.FORK_OF.format(name=name, run_id=run_id, stage=titles[0])
    taken = text.FORK_TAKES.format(stages=", ".join(titles[1:])) if taken_over else text.FORK_TAKES_NOTHING
    return f"<div class='notice' role='note'><b>{escape(title)}</b><p>{escape(taken)}</p></div>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return labels and values as a description list."""
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in pairs)
    return f"<dl class='facts'>{items}</dl>"


def swatch(colour: str, label: str) -> str:
    """Return one entry of a legend."""
    return f"<span class='swatch'><i style='background:{colour}'></i>{escape(label)}</span>"


def data_uri(picture: np.ndarray) -> str:
    """Return an (H, W, 3) uint8 picture as a PNG data address."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _run_error(run: RunRecord) -> str:
    if not run.error or run.active:
        return ""
    error = {"what": "", "why": "", "fix": ""} | run.error
    return error_box(error["what"], error["why"], error["fix"])


def _step(stage: StageRecord) -> str:
    known = catalogue.stage(stage.name)
    label, meaning = (stage.name, "") if known is None else (known.title, known.sentence)
    state = text.STAGE_STATE[stage.status]
    percent = int(100 * stage.fraction)
    notes = [state]
    if stage.status == "running":
        notes.append(f"{percent} %")
        if percent and stage.eta_s is not None:  # before, nothing of it has been timed
            notes.append(text.ETA_STAGE.format(time=viewmodels.duration(stage.eta_s)))
    elif stage.status != "pending":
        notes.append(viewmodels.duration(stage.wall_s))
    current = " aria-current='step'" if stage.status == "running" else ""
    message = f"<small>{escape(stage.message)}</small>" if stage.message and stage.status == "running" else ""
    return (
        f"<li class='{stage.status}'{current}><b>{escape(label)}</b><small>{escape(meaning)}</small>"
        f"<div class='bar' aria-hidden='true'><span style='width:{percent}%'></span></div>"
        f"<span class='note'>{escape(' · '.join(notes))}</span>{message}</li>"
    )


def unknown_run(run_id: str) -> str:
    """Return the box for an address that names a run of another store."""
    return error_box(text.RUN_UNKNOWN_WHAT.format(run_id=run_id), text.RUN_UNKNOWN_WHY, text.RUN_UNKNOWN_FIX)

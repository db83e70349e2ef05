"""The sites of a run as HTML: what each does, its images, score, bytes and failures. Pure; words are escaped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from app import markup, site_text, text, viewmodels
from engine.federation.task_titles import round_told, task_title
from engine.runs.records import RunStatus
from engine.runs.sites import SiteView
from engine.types import SiteActivity

MOST_SITES, MOST_FAILURES = 50, 10
"""Shown at once: the worst sites, and the latest failures of each."""


def table(views: Sequence[SiteView], *, of: RunStatus = "running") -> str:
    """Return a line for each site, the worst first: what it does, its images, score, bytes and failures.

    ``of`` is the state of their run: of a finished one nobody does anything any more.
    """
    if not views:
        return ""
    rows = "".join(_site(view, is_over=of == "finished") for view in views[:MOST_SITES])
    columns = "".join(f"<th scope='col'>{escape(column)}</th>" for column in site_text.SITE_COLUMNS)
    title = site_text.SITES_HEADING
    cut = len(views) > MOST_SITES
    said = site_text.SITES_SHOWN.format(shown=MOST_SITES, total=len(views)) if cut else site_text.SITES_ALL
    return (
        f"<h3>{title}</h3>{markup.quiet(said)}"
        f"<div class='table-scroll sites' tabindex='0' role='region' aria-label='{title}'>"
        f"<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _site(view: SiteView, *, is_over: bool) -> str:
    now, beside = view.now, view.beside
    at = max((one.seen_at for one in (now, beside) if one is not None and one.seen_at is not None), default=None)
    seen = "" if at is None else time.strftime("%H:%M:%S", time.localtime(at))
    ended = is_over and now.state in ("idle", "asked", "working", "answered")
    doing = f"<span class='state answered'>{site_text.SITE_DONE}</span>" if ended else _at_work(now)
    if beside is not None and not ended and beside.state in ("asked", "working"):
        doing += f"<div class='beside'>{site_text.SITE_BESIDE} {_at_work(beside)}</div>"
    sizes = [viewmodels.megabytes(count) for count in (view.bytes_up, view.bytes_down)]
    cells = [viewmodels.number(view.score), _images(view), *sizes, seen or text.NOT_MEASURED]
    failed = f"<td class='failures'>{_site_failures(view)}</td>"
    others = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr><th scope='row'>{escape(now.site)}</th><td class='doing'>{doing}</td>{failed}{others}</tr>"


def _at_work(now: SiteActivity) -> str:
    """Return what a site does for one stage as HTML, with a bar where it has said how far it is."""
    percent = 100 * now.step // max(1, now.total)
    share = f"<div class='bar' aria-hidden='true'><span style='width:{percent}%'></span></div>"
    bar = share if now.state == "working" and now.total else ""
    return f"<span class='state {now.state}'>{site_text.SITE_STATE[now.state]}</span> {escape(_doing(now))}{bar}"


def _site_failures(view: SiteView) -> str:
    if not view.failures:
        return text.NOT_MEASURED
    lines = [
        (site_text.SITE_FAILURE_IN_ROUND if one.round else site_text.SITE_FAILURE).format(
            round=one.round, what=one.what, outcome=site_text.SITE_OUTCOME[one.outcome]
        )
        for one in reversed(view.failures[-MOST_FAILURES:])
    ]
    older = [site_text.SITE_FAILURES_OLDER.format(count=len(lines), total=len(view.failures))]
    told = "".join(f"<p>{escape(line)}</p>" for line in lines + (older if len(view.failures) > len(lines) else []))
    summary = site_text.SITE_FAILURES.format(
        count=len(view.failures), last=site_text.SITE_OUTCOME[view.failures[-1].outcome]
    )
    return f"<details><summary>{escape(summary)}</summary>{told}</details>"


def _doing(now: SiteActivity) -> str:
    """Return what a site does, in which round, and how far it is."""
    parts = [task_title(now.task)] if now.task else []
    if round_told(now.task, now.round):
        parts.append(site_text.SITE_ROUND.format(round=now.round))
    if now.state == "working" and now.total:
        parts.append(site_text.SITE_STEP.format(step=now.step, total=now.total))
    return ", ".join(parts)


def _images(view: SiteView) -> str:
    """Return how many images a site has to train, to validate and to test on."""
    counts = (view.now.num_train, view.now.num_validation, view.now.num_test)
    named = zip(counts, site_text.SITE_IMAGES, strict=True)
    return " · ".join(words.format(count=count) for count, words in named if count) or "0"

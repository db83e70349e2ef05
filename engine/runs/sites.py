"""Each site of a run at a glance: what it does, its images, score, bytes and failures, from the store. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import sqlalchemy as sa

from engine.runs import schema
from engine.runs.results import ResultStore
from engine.types import SiteActivity, SiteFailure

SCORE = "val_dice"
"""Curve whose last point is a site's score: its validation Dice of what it was sent."""


@dataclass(frozen=True)
class SiteView:
    """One site of a run."""

    stage: str
    """In which it was asked last."""
    now: SiteActivity
    score: float | None
    bytes_up: int
    bytes_down: int
    failures: tuple[SiteFailure, ...] = field(default=())
    """Oldest first."""
    beside: SiteActivity | None = None
    """Its work for a stage that goes on beside the one that the run waits for."""


def site_views(store: ResultStore, run_id: str, *, active: bool) -> tuple[SiteView, ...]:
    """Return every site that the run has asked, the worst first.

    That is: who does not answer now, then who has failed at all, then by score. Runs of before this was recorded
    have none. Where the run is not ``active``, nobody works any more: what was asked is ``stopped``.
    """
    latest, beside = _latest(store, run_id)
    if not active:
        beside = {}
        latest = {site: (stage, _ended(now)) for site, (stage, now) in latest.items()}
    sent, scores, failures = _bytes(store, run_id), _scores(store, run_id), _failures(store, run_id)
    views = [
        SiteView(stage, now, scores.get(site), *sent.get(site, (0, 0)), tuple(failures.get(site, ())), beside.get(site))
        for site, (stage, now) in latest.items()
    ]
    return tuple(sorted(views, key=_worst_first))


def _worst_first(view: SiteView) -> tuple[bool, bool, float, str]:
    unwell = view.now.state in ("failed", "refused", "undecided")
    return (not unwell, not view.failures, 2.0 if view.score is None else view.score, view.now.site)


def _ended(now: SiteActivity) -> SiteActivity:
    return replace(now, state="stopped") if now.state in ("asked", "working", "undecided") else now


def _latest(store: ResultStore, run_id: str) -> tuple[dict[str, tuple[str, SiteActivity]], dict[str, SiteActivity]]:
    """Return what each site does for the last stage that has asked it, and what it does beside, by site.

    Of several stages that run, all but the first go on beside it.
    """
    table, stages = schema.site_activity, schema.stages
    joined = table.join(stages, sa.and_(stages.c.run_id == table.c.run_id, stages.c.name == table.c.stage))
    columns = [table.c[name.name] for name in fields(SiteActivity)]
    query = sa.select(table.c.stage, *columns).select_from(joined).where(table.c.run_id == run_id)
    rows = store.rows(query.order_by(stages.c.position))
    running = sa.select(stages.c.name).where(stages.c.run_id == run_id, stages.c.status == "running")
    apart = {row.name for row in store.rows(running.order_by(stages.c.position))[1:]}
    latest: dict[str, tuple[str, SiteActivity]] = {}
    beside: dict[str, SiteActivity] = {}
    for row in rows:
        activity = SiteActivity(*tuple(row)[1:])
        if row.stage in apart:
            beside[row.site] = activity
        if row.stage not in apart or row.site not in latest:
            latest[row.site] = (row.stage, activity)
    return latest, beside


def _bytes(store: ResultStore, run_id: str) -> dict[str, tuple[int, int]]:
    table = schema.traffic
    ways = (sa.func.sum(sa.case((table.c.direction == way, table.c.payload_bytes), else_=0)) for way in ("up", "down"))
    query = sa.select(table.c.site, *ways).where(table.c.run_id == run_id).group_by(table.c.site)
    rows: Sequence[Any] = store.rows(query)
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}


def _scores(store: ResultStore, run_id: str) -> dict[str, float]:
    table, stages = schema.metrics, schema.stages
    joined = table.join(stages, sa.and_(stages.c.run_id == table.c.run_id, stages.c.name == table.c.stage))
    mine = (table.c.run_id == run_id, table.c.name == SCORE, table.c.site != "", table.c.value.is_not(None))
    query = sa.select(table.c.site, table.c.value).select_from(joined).where(*mine)
    query = query.order_by(stages.c.position, table.c.step)
    rows: Sequence[Any] = store.rows(query)
    return {row[0]: row[1] for row in rows}


def _failures(store: ResultStore, run_id: str) -> dict[str, list[SiteFailure]]:
    table = schema.site_failures
    columns: Sequence[sa.Column] = [table.c[name.name] for name in fields(SiteFailure)]
    found: dict[str, list[SiteFailure]] = {}
    for row in store.rows(sa.select(*columns).where(table.c.run_id == run_id).order_by(table.c.at)):
        found.setdefault(row.site, []).append(SiteFailure(*tuple(row)))
    return found

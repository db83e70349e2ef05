"""What somebody who watches a run should look into, from its curves, sites and disk. Torch-free."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from engine.runs.records import MetricSeries, RunView, StageRecord
from engine.runs.sites import SCORE, SiteView, site_views
from engine.runs.store import RunStore

Kind = Literal["not_finite", "loss_rises", "dice_falls", "site_silent", "disk_low"]

POINTS = 3
"""So many last points of a curve have to agree (ours)."""
MANY_POINTS = 2 * POINTS
"""Points from which a curve is looked at: the first ones jump (ours)."""
RISE = 1.5
"""A loss that stands at so many times its lowest mean of ``POINTS`` points diverges (ours)."""
FALL = 0.10
"""Dice below the best by which a model has lost what it had learnt (ours)."""
SILENT_ROUNDS, SILENT_S = 3.0, 120.0
"""Silence in rounds of the slowest site, and in seconds at least (ours)."""
LOW_BYTES = 2 * 1024**3
"""Free space under which the next checkpoints and images may not fit (ours)."""
_ROUND_S = "wall_s"
"""Curve of how long a site was at work in each round."""
_LOSSES = ("loss", "teacher_loss", "student_loss")
_WAITED_FOR = ("asked", "working")


@dataclass(frozen=True)
class Alert:
    """One thing to look into: what was seen, and what to do about it."""

    kind: Kind
    what: str
    fix: str
    stage: str | None = None
    site: str | None = None


def alerts(
    view: RunView, series: Sequence[MetricSeries], sites: Sequence[SiteView], *, free_bytes: int, now: float
) -> tuple[Alert, ...]:
    """Return what is to be looked into in a run that is at work; nothing for one that is not.

    Parameters
    ----------
    view : RunView
        The run with its stages; only curves of those that run are judged.
    series, sites : sequence
        The run's curves and sites, as the store gives them out.
    free_bytes : int
        Of the disk that holds the runs.
    now : float
        Seconds since 1970 UTC.
    """
    if view.run.status != "running":
        return ()
    running = {stage.name: stage for stage in view.stages if stage.status == "running"}
    curves = [curve for curve in series if curve.stage in running and curve.values]
    found = [alert for curve in curves for alert in _of_curve(curve)]
    for name, stage in running.items():
        there = [site for site in sites if site.stage == name]
        longest_s = _usual_silence_s(stage, curves)
        found += _silent(there, stage, since=view.run.pid_started or 0.0, longest_s=longest_s, now=now)
    if free_bytes < LOW_BYTES:
        found.append(
            Alert(
                "disk_low",
                f"The disk that holds the runs has {free_bytes / 1024**3:.1f} GiB left.",
                "Free some space, or delete runs that nobody needs; a full disk stops the run where its last "
                "checkpoint is.",
            )
        )
    return tuple(found)


def alerts_of(store: RunStore, run_id: str) -> tuple[Alert, ...]:
    """Return what is to be looked into in a run of ``store`` now."""
    view = store.view(run_id)
    if view.run.status != "running":
        return ()
    sites = site_views(store, store.work_id(run_id), active=True)
    free_bytes = shutil.disk_usage(store.home).free
    return alerts(view, store.metrics(run_id), sites, free_bytes=free_bytes, now=time.time())


def _of_curve(curve: MetricSeries) -> Iterator[Alert]:
    where = f" of {curve.site}" if curve.site else ""
    named = f"The {curve.name.replace('_', ' ')}{where}"
    if not math.isfinite(curve.values[-1]):
        yield Alert(
            "not_finite",
            f"{named} is not a number at step {curve.steps[-1]}.",
            "Stop the run; begin it again with a smaller learning rate, or with precision fp32.",
            curve.stage,
            curve.site,
        )
        return
    values = [value for value in curve.values if math.isfinite(value)]
    if len(values) < MANY_POINTS:
        return
    last, means = values[-POINTS:], [fmean(values[at : at + POINTS]) for at in range(len(values) - POINTS + 1)]
    if curve.name in _LOSSES and min(means) > 0 and min(last) > RISE * min(means):
        yield Alert(
            "loss_rises",
            f"{named} stands at {means[-1]:.3g} and was {min(means):.3g} before: training may diverge.",
            "If it goes on, stop the run and begin it again with a smaller learning rate.",
            curve.stage,
            curve.site,
        )
    if curve.name == SCORE and max(last) < max(values) - FALL:
        yield Alert(
            "dice_falls",
            f"The validation Dice{where} stands at {last[-1]:.3f} and was {max(values):.3f} before.",
            "federation.patience stops at the best round, distillation.gate keeps the best epoch; a smaller learning "
            "rate falls less.",
            curve.stage,
            curve.site,
        )


def _usual_silence_s(stage: StageRecord, curves: Sequence[MetricSeries]) -> float:
    """Return how long nothing need be heard of sites at work, some of which tell nothing before their reply.

    Until a site has told how long its rounds take, that is as long as the plan gives the whole stage.
    """
    took_s = [
        max(curve.values) for curve in curves if (curve.stage, curve.name) == (stage.name, _ROUND_S) and curve.site
    ]
    return max(SILENT_S, SILENT_ROUNDS * max(took_s) if took_s else stage.planned_s or 0.0)


def _silent(
    sites: Sequence[SiteView], stage: StageRecord, *, since: float, longest_s: float, now: float
) -> Iterator[Alert]:
    """Yield the sites that are waited for when none was heard of for long; one that is slow tells its steps.

    ``since`` is when the run's worker began: what an earlier one had heard of is no silence of this one's.
    """
    heard = [site.now.seen_at for site in sites if site.now.seen_at is not None]
    if not heard or stage.step == 0:
        return
    silence_s = now - max(*heard, since)
    if silence_s < longest_s:
        return
    for site in sites:
        if site.now.state in _WAITED_FOR:
            yield Alert(
                "site_silent",
                f"{site.now.site} is waited for, and nothing was heard of any site for {silence_s / 60:.0f} min.",
                "Ask whoever runs it whether its program is at work. federation.deadline_s and on_failure say how long "
                "a round waits, and what happens then.",
                stage.name,
                site.now.site,
            )

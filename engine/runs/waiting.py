"""Where a run stands in the queue, and when it is expected to start. Torch-free."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from engine.runs.processes import most_running
from engine.runs.store import RunStore

MOST_LOOKED_AT = 50
"""Runs whose remaining time is asked for; behind more of them no time is said (ours)."""


@dataclass(frozen=True)
class Waiting:
    """A run's place: 1 is the next of ``count`` that wait. ``starts_in_s`` is None where nobody can know."""

    position: int
    count: int
    starts_in_s: float | None


def waiting(store: RunStore, run_id: str) -> Waiting | None:
    """Return where ``run_id`` stands in the queue of ``store``; None for a run that does not wait there."""
    queue = [run for run in store.list(status=("queued",)) if run.queued_at is not None]
    ids = [run.run_id for run in sorted(queue, key=lambda run: (run.queued_at or 0.0, run.run_id))]
    if run_id not in ids:
        return None
    before = ids[: ids.index(run_id)]
    running = [run.run_id for run in store.list(status=("running",))]
    starts_in_s = None
    if len(before) + len(running) <= MOST_LOOKED_AT:
        left = [[store.view(run).eta_s for run in some] for some in (running, before)]
        starts_in_s = expected_start_s(*left, slots=most_running())
    return Waiting(len(before) + 1, len(ids), starts_in_s)


def expected_start_s(running: Sequence[float | None], before: Sequence[float | None], *, slots: int) -> float | None:
    """Return in how many seconds the next of ``slots`` is free, after those ``before`` have had their turns.

    Parameters
    ----------
    running, before : sequence of float or None
        Seconds that each run still needs; those before in the order of the queue. None where nothing is known.
    slots : int
        Runs that may be at work at a time; with 0 all wait, nobody knows for how long.
    """
    known = [seconds for seconds in running if seconds is not None]
    if slots < 1 or len(known) < len(running) or None in before:
        return None
    free = sorted(known)[max(0, len(known) - slots) :]
    free += [0.0] * (slots - len(free))
    heapq.heapify(free)
    for seconds in before:
        heapq.heapreplace(free, free[0] + (seconds or 0.0))
    return free[0]

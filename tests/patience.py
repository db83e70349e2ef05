"""How long tests wait for other processes: as long as a busy machine needs, and no longer than the condition takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import psutil

WAIT_S = 300.0
"""Longest wait for a condition. Only a test that fails waits so long."""
RUN_S = 900.0
"""Longest wait for a real run, which takes a minute where nothing else computes."""


def wait(condition: Callable[[], object], *, timeout_s: float = WAIT_S, every_s: float = 0.02) -> None:
    """Return once ``condition`` is true; AssertionError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(every_s)


def is_over(pid: int) -> bool:
    """Return whether a process has ended; it may do so between two looks."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


WORK_S = 0.02
"""What :func:`_work` takes on two idle cores of the kind that this project is built on."""


def slowness(*, times: int = 10) -> float:
    """Return how many times longer work takes now than on an idle machine, at least 1: a piece of work, measured.

    Other processes take both time on a core and, on the core's other thread, half of its speed.
    """
    began = time.monotonic()
    for _ in range(times):
        _work()
    return max(1.0, (time.monotonic() - began) / (times * WORK_S))


def _work() -> str:
    return json.dumps(np.sort(np.random.default_rng(0).random(20_000)).tolist())

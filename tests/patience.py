"""How long tests wait for other processes: as long as a busy machine needs, and no longer than the condition takes."""

from __future__ import annotations

import time
from collections.abc import Callable

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


def slowness(*, cpu_s: float = 0.2) -> float:
    """Return how many times longer work takes now than on an idle machine, at least 1: wall over CPU time of a spin."""
    wall, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < cpu_s:
        pass
    return max(1.0, (time.monotonic() - wall) / cpu_s)

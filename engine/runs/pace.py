"""Telling progress and saving state at a steady pace inside a training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from engine.types import RunCancelled

if TYPE_CHECKING:
    from engine.runs.checkpoint import CheckpointStore

SAVE_EVERY_S = 20.0
"""Work that a SIGKILL may cost at most, as long as saving is quick: a mini checkpoint takes about 0.05 s (ours)."""
SAVING_SHARE = 0.05
"""Share of the time that saving may take; a Stable Diffusion ControlNet's 4 GB are then saved less often (ours)."""


class Told(Protocol):
    """Whoever is told: a run's reporter, or a site's listener."""

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Hear how far the work is; raises RunCancelled when a stop was asked for."""


class Pace:
    """Tells each step and saves its state every ``SAVE_EVERY_S`` seconds or more, and on cancellation."""

    def __init__(
        self, reporter: Told, *, checkpoints: CheckpointStore, name: str, total: int, state: Callable[[], dict]
    ) -> None:
        self._reporter, self._checkpoints, self._name = reporter, checkpoints, name
        self._total, self._state = total, state
        self._saved_at = time.monotonic()
        self._interval_s = SAVE_EVERY_S

    def step(self, done: int, *, message: str = "") -> None:
        """Tell that ``done`` of the steps are finished; a stop saves before it passes on."""
        if time.monotonic() - self._saved_at >= self._interval_s:
            self.save()
        try:
            self._reporter.progress(done, self._total, message=message)
        except RunCancelled:
            self.save()
            raise

    def save(self) -> None:
        """Save the state now."""
        started = time.monotonic()
        self._checkpoints.save(self._name, self._state())
        self._saved_at = time.monotonic()
        self._interval_s = max(SAVE_EVERY_S, (self._saved_at - started) / SAVING_SHARE)

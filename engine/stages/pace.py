"""Telling progress and saving state at a steady pace inside a training loop."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.runs.checkpoint import CheckpointStore
from engine.types import Reporter, RunCancelled

SAVE_EVERY_S = 20.0
"""Work that a SIGKILL may cost at most, as long as saving is quick: a mini checkpoint takes about 0.05 s (ours)."""
SAVING_SHARE = 0.05
"""Share of the time that saving may take; a Stable Diffusion ControlNet's 4 GB are then saved less often (ours)."""


class Pace:
    """Reports each step of a stage and saves its state every ``SAVE_EVERY_S`` seconds or more, and on cancellation."""

    def __init__(
        self, reporter: Reporter, *, checkpoints: CheckpointStore, name: str, total: int, state: Callable[[], dict]
    ) -> None:
        self._reporter, self._checkpoints, self._name = reporter, checkpoints, name
        self._total, self._state = total, state
        self._saved_at = time.monotonic()
        self._interval_s = SAVE_EVERY_S

    def step(self, done: int, *, message: str = "") -> None:
        """Tell that ``done`` of the stage's steps are finished; a stop saves before it passes on."""
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

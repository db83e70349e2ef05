"""A reporter for benchmarks: one line a stage's message, nothing stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from engine.types import (
    EvaluationRow,
    ModelDifference,
    SampleScore,
    SiteActivity,
    SiteFailure,
    SyntheticSample,
    Traffic,
)

SAY_EVERY_S = 20.0


class ConsoleReporter:
    """Prints where a stage stands every ``SAY_EVERY_S`` seconds, and its warnings; keeps the bytes that travelled."""

    def __init__(self, label: str) -> None:
        self._label, self._said_at = label, time.monotonic()
        self.payload_bytes = 0

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Print now and then."""
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            print(f"  {self._label}: {100 * step // max(total, 1)} % {message}", flush=True)

    def check_cancelled(self) -> None:
        """Do nothing: Ctrl-C ends a benchmark, and its checkpoints let it go on."""

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Print the federation's validation Dice."""
        if name == "val_dice" and site is None:
            print(f"  {self._label}: round {step} validation Dice {value:.3f}", flush=True)

    def traffic(self, record: Traffic) -> None:
        """Add up the bytes."""
        self.payload_bytes += record.payload_bytes

    def site(self, record: SiteActivity) -> None:
        """Ignore what a site does."""

    def site_failure(self, record: SiteFailure) -> None:
        """Print it."""
        print(f"  {self._label}: {record.site} failed in round {record.round}: {record.what}", flush=True)

    def samples(self, records: Sequence[SyntheticSample]) -> None:
        """Ignore the samples: they are in the folder."""

    def scores(self, records: Sequence[SampleScore]) -> None:
        """Ignore the scores: they are in the checkpoint."""

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        """Ignore the rows: they are in the folder."""

    def differences(self, rows: Sequence[ModelDifference]) -> None:
        """Ignore the differences: they are in the folder."""

    def artefact(self, kind: str, path: Path) -> None:
        """Ignore the artefacts: they are in the folder."""

    def log(self, level: str, text: str) -> None:
        """Print everything for people."""
        print(f"  {self._label}: {text}", flush=True)

    def flush(self) -> None:
        """Do nothing: everything is written at once."""

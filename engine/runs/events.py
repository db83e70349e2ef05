"""The reporter that a worker gives its stages: cheap calls, written to the store in batches. Torch-free."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from engine.runs import results
from engine.runs.store import RunStore
from engine.types import (
    EvaluationRow,
    ModelDifference,
    RunCancelled,
    SampleScore,
    SiteActivity,
    SiteFailure,
    SyntheticSample,
    Traffic,
)

WRITE_EVERY_S = 0.3
POLL_EVERY_S = 0.5
FULL_BUFFER = 2000


class WorkerSuperseded(RunCancelled):
    """Another worker has taken the run over; this one must stop and leave the run's records alone."""


class StoreReporter:
    """Implements :class:`engine.types.Reporter` for one stage of one run.

    Records are buffered and written at most every 0.3 s, and always before a checkpoint, the end of the stage and a
    stop; the worker calls :meth:`flush` there. Calls may come from several threads.

    Parameters
    ----------
    store, run_id, stage :
        Where records go.
    attempt : int
        Number of the worker that runs this stage; records stop when another worker has taken the run.
    stop : threading.Event, optional
        Set by the worker's signal handler: a stop without the store having been asked.
    work_id : str, optional
        Id under which results are recorded where it is not the run's: its extension's.
    beside : bool
        Whether this stage works beside another one, until :meth:`take_over`.
    """

    def __init__(
        self,
        store: RunStore,
        run_id: str,
        stage: str,
        *,
        attempt: int,
        stop: threading.Event | None = None,
        work_id: str | None = None,
        beside: bool = False,
    ) -> None:
        self._store, self._run_id, self._stage, self._attempt = store, run_id, stage, attempt
        self._work_id = work_id or run_id
        self._stop = stop or threading.Event()
        self._lock = threading.RLock()
        self._buffers: dict[str, list[dict[str, Any]]] = {}
        self._sites: dict[str, dict[str, Any]] = {}
        self._pending_progress: dict[str, Any] = {}
        self._began = self._heard_at = time.monotonic()
        self._cpu_began = time.process_time()
        before = [(s.wall_s, s.beside_s, s.cpu_s) for s in store.stages(self._work_id) if s.name == stage]
        self._wall_before, self._beside_before, self._cpu_before = before[0] if before else (0.0, 0.0, 0.0)
        self._is_beside = beside
        self._first_step: tuple[int, float] | None = None
        self._last_write = self._last_poll = float("-inf")

    @property
    def wall_s(self) -> float:
        """Seconds of work on this stage, those of earlier workers included."""
        return self._wall_before + (0.0 if self._is_beside else time.monotonic() - self._began)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this worker on this stage, those of earlier workers included."""
        return self._cpu_before + (0.0 if self._is_beside else time.process_time() - self._cpu_began)

    @property
    def beside_s(self) -> float:
        """Seconds until this stage was heard last beside another one, those of earlier workers included."""
        return self._beside_before + (self._heard_at - self._began if self._is_beside else 0.0)

    def take_over(self) -> None:
        """Let the run wait for this stage from now on."""
        with self._lock:
            self._beside_before, self._is_beside, self._began = self.beside_s, False, time.monotonic()
            self._cpu_began = time.process_time()

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Tell how far the stage is (``step`` of ``total``). Raises ``RunCancelled`` when a stop was asked for."""
        with self._lock:
            now = time.monotonic()
            if self._first_step is None or step < self._first_step[0]:
                self._first_step = (step, now)
            self._pending_progress = {"step": step, "total": total, "message": message}
            self._pending_progress["eta_s"] = self._estimate(step, total, now)
            self._write_when_due(now, last_step=step >= total)
        self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise ``RunCancelled`` when a stop was asked for; reads the store at most every 0.5 s."""
        if not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                if now - self._last_poll < POLL_EVERY_S:
                    return
                self._last_poll = now
                asked = self._store.beat(self._run_id, attempt=self._attempt)
            if asked is None:
                raise WorkerSuperseded(f"run {self._run_id} has another worker")
            if not asked:
                return
        self.flush()
        raise RunCancelled(f"run {self._run_id} was asked to stop")

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Record one point of a curve of this stage."""
        self._add("metrics", [results.metric_row(self._stage, name, value, step=step, site=site)])

    def traffic(self, record: Traffic) -> None:
        """Record bytes that crossed a site's border."""
        self._add("traffic", [results.traffic_row(self._stage, record)])

    def site(self, record: SiteActivity) -> None:
        """Record what a site does now; of each site only the latest is kept."""
        with self._lock:
            self._sites[record.site] = {"stage": self._stage, **asdict(record)}
            self._write_when_due(time.monotonic(), last_step=False)

    def site_failure(self, record: SiteFailure) -> None:
        """Record that a site had no usable reply."""
        self._add("site_failures", [{"stage": self._stage, **asdict(record)}])

    def samples(self, records: Sequence[SyntheticSample]) -> None:
        """Record (or replace, by sample_id) generated pairs."""
        self._add("samples", [results.sample_row(record) for record in records])

    def scores(self, records: Sequence[SampleScore]) -> None:
        """Record one epoch's learnability scores."""
        self._add("scores", [results.score_row(record) for record in records])

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        """Record lines of the results table."""
        self._store.write_evaluation(self._work_id, rows)

    def differences(self, rows: Sequence[ModelDifference]) -> None:
        """Record the differences between models."""
        self._store.write_differences(self._work_id, rows)

    def artefact(self, kind: str, path: Path) -> None:
        """Record a file or folder below the run's folder, given as an absolute path or relative to that folder."""
        folder = self._store.run_dir(self._work_id)
        absolute = (folder / path).resolve()
        if not absolute.is_relative_to(folder.resolve()):
            raise ValueError(f"an artefact must lie below the run's folder: {path}")
        self._store.write_artefact(self._work_id, self._stage, kind, absolute.relative_to(folder.resolve()).as_posix())

    def log(self, level: Literal["info", "warning", "error"], text: str) -> None:
        """Record one line for people."""
        self._store.write_log(self._run_id, level, text, stage=self._stage)

    def flush(self) -> None:
        """Write everything that is still buffered."""
        with self._lock:
            rows, self._buffers = self._buffers, {}
            rows["site_activity"], self._sites = list(self._sites.values()), {}
            if any(rows.values()):
                self._store.write(self._work_id, **rows)
            progress, self._pending_progress = self._pending_progress, {}
            times = {"wall_s": self.wall_s, "beside_s": self.beside_s, "cpu_s": self.cpu_s}
            self._store.update_stage(self._work_id, self._stage, **times, **progress)
            self._last_write = time.monotonic()

    def _add(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._lock:
            self._buffers.setdefault(table, []).extend(dict(row) for row in rows)
            full = sum(map(len, self._buffers.values())) >= FULL_BUFFER
            self._write_when_due(time.monotonic(), last_step=full)

    def _write_when_due(self, now: float, *, last_step: bool) -> None:
        self._heard_at = now
        if last_step or now - self._last_write >= WRITE_EVERY_S:
            self.flush()

    def _estimate(self, step: int, total: int, now: float) -> float | None:
        """Return the seconds left at this worker's own rate: steps done before a resume say nothing about it."""
        assert self._first_step is not None
        first, since = self._first_step
        return None if step <= first else (now - since) / (step - first) * max(0, total - step)

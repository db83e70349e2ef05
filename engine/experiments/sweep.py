"""The sweep: every configuration of an experiment becomes a finished run of the store, each once. Torch-free.

The store is the only memory. What is finished is skipped, what was stopped goes on from its checkpoint, and a run that
shares its first stages with another (equal hashes of stages) is forked from it, so that they are computed once. A
killed sweep is called again; workers are processes of their own and go on meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from engine.config import RunConfig
from engine.errors import UserError
from engine.experiments.record import RecordedRun
from engine.methods import catalogue
from engine.planning import plan
from engine.runs import lifecycle
from engine.runs.identity import stage_hash
from engine.runs.records import RunRecord
from engine.runs.store import RunStore

PAUSE_S = 0.5
MAX_RESUMED = 3
"""Times that a run whose worker was killed is resumed in one call; a run that failed waits for the next call."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a configuration's run ended."""

    status: str
    """``finished``, or a run's other end: ``failed``, ``cancelled``, ``interrupted``."""
    run_id: str | None
    reason: str = ""
    """Why it is not finished, and the mend."""
    recorded: RecordedRun | None = None
    """Its figures, where they were recorded before and no run of this store has them."""


def finished_runs(store: RunStore) -> dict[str, str]:
    """Return the ids of runs whose every stage has its results, the newest of each configuration by its hash."""
    found: dict[str, str] = {}
    for record in store.list(complete=True):
        if store.run_dir(record.run_id).is_dir():
            found.setdefault(record.config_hash, record.run_id)
    return found


def sweep(store: RunStore, wanted: Mapping[str, RunConfig], *, at_once: int, tell: Tell) -> dict[str, Outcome]:
    """Bring the run of each of ``wanted`` (by hash) to its end, ``at_once`` at a time, and return how each ended.

    A run that fails is told of and the others go on. Interrupting it (Ctrl-C) stops the runs under way, which the next
    call goes on with.
    """
    return Sweep(store, wanted, at_once=at_once, tell=tell).run()


class Sweep:
    """One call of :func:`sweep`."""

    def __init__(self, store: RunStore, wanted: Mapping[str, RunConfig], *, at_once: int, tell: Tell) -> None:
        self._store, self._wanted, self._at_once, self._tell = store, wanted, at_once, tell
        self._outcomes: dict[str, Outcome] = {}
        self._active: dict[str, str] = {}
        self._resumed: dict[str, int] = {}
        self._hashes: dict[str, tuple[str, ...]] = {}

    def run(self) -> dict[str, Outcome]:
        """Work until every configuration has an outcome."""
        done = finished_runs(self._store)
        self._outcomes = {key: Outcome("finished", done[key]) for key in self._wanted if key in done}
        self._tell(f"{len(self._outcomes)} of {len(self._wanted)} runs were there already.")
        under_way = {record.config_hash: record.run_id for record in self._store.list() if record.active}
        self._active = {k: under_way[k] for k in self._wanted if k in under_way and k not in self._outcomes}
        try:
            while len(self._outcomes) < len(self._wanted):
                lifecycle.advance_queue(self._store, max_running=self._at_once)
                self._collect()
                self._begin_some()
                if self._active:
                    time.sleep(PAUSE_S)
        except KeyboardInterrupt:
            for run_id in self._active.values():
                if self._store.get(run_id).active:
                    lifecycle.cancel(self._store, run_id)
            raise
        return {key: self._outcomes[key] for key in self._wanted}

    def _collect(self) -> None:
        """Note which runs have ended; resume those whose worker was killed."""
        for key, run_id in list(self._active.items()):
            try:
                record = self._store.get(run_id)
                if record.active:
                    continue
                if record.status == "interrupted" and self._resumed.get(key, 0) < MAX_RESUMED:
                    self._resumed[key] = self._resumed.get(key, 0) + 1
                    lifecycle.resume(self._store, run_id)
                    continue
            except UserError as error:  # deleted meanwhile, or it cannot go on
                self._end(key, Outcome("failed", run_id, str(error)))
                continue
            reason = "" if record.error is None else f"{record.error['what']} {record.error['fix']}"
            self._end(key, Outcome(record.status, run_id, reason))

    def _begin_some(self) -> None:
        for key, config in self._wanted.items():
            if len(self._active) >= self._at_once:
                return
            if key in self._outcomes or key in self._active:
                continue
            parent, num_shared = self._parent(config)
            if any(self._shared(config, self._wanted[other]) > num_shared for other in self._active):
                continue  # what both begin with is being computed
            try:
                self._active[key] = self._begin(key, config, parent, num_shared)
            except UserError as error:
                self._end(key, Outcome("failed", None, str(error)))

    def _begin(self, key: str, config: RunConfig, parent: str | None, num_shared: int) -> str:
        """Go on with the configuration's own run, fork it from another, or submit it; return its id."""
        stopped = [r for r in self._store.list() if r.config_hash == key and r.resumable and self._has_folder(r)]
        if stopped:
            self._tell(f"{config.name}: goes on ({stopped[0].run_id}).")
            lifecycle.resume(self._store, stopped[0].run_id)
            return stopped[0].run_id
        names = catalogue.method(config.method).stage_names
        if parent is not None:
            stage = names[num_shared]
            planned = plan(config, home=self._store.home, first_stage=stage).stage_seconds
            run_id = lifecycle.fork(self._store, parent, stage=stage, config=config, planned_s=planned)
            self._tell(f"{config.name}: {run_id}, from {stage} on; what is before is that of {parent}.")
            return run_id
        planned = plan(config, home=self._store.home).stage_seconds
        run_id = lifecycle.submit(self._store, config, planned_s=planned)
        self._tell(f"{config.name}: {run_id}.")
        return run_id

    def _parent(self, config: RunConfig) -> tuple[str | None, int]:
        """Return the run from which most can be taken over, and how many stages; ``None`` and 0 where there is none.

        The last stage always runs: a run in which nothing differs would not be one of its own.
        """
        names = catalogue.method(config.method).stage_names
        best: tuple[str | None, int] = (None, 0)
        for record in self._store.list():
            if record.active or record.method != config.method or not self._has_folder(record):
                continue
            finished = [stage.name for stage in self._store.stages(record.run_id) if stage.status == "finished"]
            shared = min(self._shared_with(config, record), len(names) - 1)
            while shared and any(name not in finished for name in names[:shared]):
                shared -= 1
            if shared > best[1]:
                best = (record.run_id, shared)
        return best

    def _shared_with(self, config: RunConfig, record: RunRecord) -> int:
        try:
            return self._shared(config, record.config)
        except UserError:  # a stored configuration that this version cannot read
            return 0

    def _shared(self, config: RunConfig, other: RunConfig) -> int:
        """Return how many first stages two configurations have in common, by the hashes of these stages."""
        pairs = zip(self._stage_hashes(config), self._stage_hashes(other), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _stage_hashes(self, config: RunConfig) -> tuple[str, ...]:
        key = config.content_hash()
        if key not in self._hashes:
            names = catalogue.method(config.method).stage_names
            self._hashes[key] = tuple(f"{name} {stage_hash(config, names, name)}" for name in names)
        return self._hashes[key]

    def _has_folder(self, record: RunRecord) -> bool:
        return self._store.run_dir(record.run_id).is_dir()

    def _end(self, key: str, outcome: Outcome) -> None:
        self._active.pop(key, None)
        self._outcomes[key] = outcome
        name = self._wanted[key].name
        said = f"{name}: {outcome.status}. {outcome.reason}".rstrip()
        self._tell(f"{len(self._outcomes)} of {len(self._wanted)}: {said}")

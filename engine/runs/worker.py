"""The process that works on one run: ``python -m engine.runs.worker RUN_ID --home PATH``.

It runs the stages of the run's method in order, skips finished ones, and leaves the store and the run's folder such
that a SIGKILL at any moment costs at most the work since the last checkpoint. SIGTERM means cancel.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs import lifecycle, outputs
from engine.runs.events import StoreReporter, WorkerSuperseded
from engine.runs.identity import checkpoint_hash
from engine.runs.outputs import CHECKPOINTS
from engine.runs.records import RunStatus
from engine.runs.report import write_report
from engine.runs.store import RunStore
from engine.types import RunCancelled

if TYPE_CHECKING:
    from engine.runs.checkpoint import CheckpointStore
    from engine.stages.context import RunContext, Stage

BEAT_EVERY_S = 1.0
STOP_GRACE_S = 3.0
"""A stage that has not come to a step boundary so long after a stop was asked for is ended where it stands: whatever it
saved is whole, as after a SIGKILL. Cancelling thus takes at most 5 s, or as long as a checkpoint that is being
written just then, up to SAVING_GRACE_S."""
SAVING_GRACE_S = 120.0
RESERVE, RESERVE_BYTES = "reserve.tmp", 1_000_000
"""Space that a worker holds, so that it can say that the disk is full when it is."""
END_RETRY_S, END_PAUSE_S = 60.0, 2.0
"""How long, and how often, a worker tries to record its end where even that is taken: somebody may free some space."""
_DAMAGED = ("UnidentifiedImageError", "SafetensorError")
CONTEXT_ENTRY = "engine.stages.context:RunContext"


class Worker:
    """One attempt at one run."""

    def __init__(self, store: RunStore, run_id: str, *, attempt: int, stand_ins: str | None = None) -> None:
        self.store, self.run_id, self.attempt, self._stand_ins = store, run_id, attempt, stand_ins
        self._ending = threading.Lock()
        self.stop = threading.Event()
        self.over = threading.Event()
        self.checkpoints: CheckpointStore | None = None
        self._superseded = False
        self.work_id = store.work_id(run_id)
        """Under which this worker records: the extension's id where the run is being extended."""
        self.folder = store.run_dir(self.work_id)

    def run(self) -> int:
        """Do what is left of the run; return the process's exit status (0 unless the run failed)."""
        threading.Thread(target=self._watch, daemon=True).start()
        outputs.clear_leftovers(self.folder)
        self.hold_space()
        try:
            self._run_stages()
        except WorkerSuperseded:
            return 0
        except RunCancelled:
            self._end("cancelled")
            return 0
        except UserError as error:
            self._fail(error)
            return 1
        except Exception as error:
            traceback.print_exc()
            self._fail(_crash(error, self.run_id))
            return 1
        self._end("finished")
        return 0

    def hold_space(self) -> None:
        """Take the space that recording this worker's end needs; nothing happens where the disk is full already."""
        with suppress(OSError):
            (self.folder / RESERVE).write_bytes(b"\0" * RESERVE_BYTES)

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Treat SIGTERM and SIGINT as a request to stop."""
        self.stop.set()

    def _run_stages(self) -> None:
        config = self._config()
        _set_threads(config.threads)
        method = catalogue.method(config.method)
        stages, make_context = self._work_of(method)
        finished = {stage.name for stage in self.store.stages(self.work_id) if stage.status == "finished"}
        with ExitStack() as opened:
            self._run_each(config, method, stages, make_context, finished, opened)

    def _run_each(
        self,
        config: RunConfig,
        method: catalogue.MethodSpec,
        stages: tuple[Stage, ...],
        make_context: type[RunContext],
        finished: set[str],
        opened: ExitStack,
    ) -> None:
        names = list(method.stage_names)
        context: RunContext | None = None
        beside: dict[str, StoreReporter] = {}
        for stage, spec in zip(stages, method.stages, strict=True):
            if stage.name in finished:
                continue
            reporter = beside.pop(stage.name, None) or self._reporter(stage.name)
            reporter.take_over()
            reporter.check_cancelled()
            self.checkpoints = self._checkpoint_store(config, names, stage.name, reporter)
            early: list[Any] = []
            if context is None:
                values, done = config.model_dump(), {*finished, stage.name}
                pairs = zip(stages, method.stages, strict=True)
                early = [later for later, about in pairs if later.name not in done and about.begins_early(values)]
                context = make_context(
                    config=config, run_dir=self.folder, reporter=reporter, checkpoints=self.checkpoints
                )
                opened.callback(context.close)
            context.reporter, context.checkpoints = reporter, self.checkpoints
            self.store.update_run(self.run_id, owner=self.attempt, stage=stage.name)
            self.store.set_stage_status(self.work_id, stage.name, "running")
            reporter.log("info", f"{stage.name}: {spec.sentence}")
            try:
                self._begin_early(context, early, beside, names)
                stage.run(context)
            finally:
                for told in (reporter, *beside.values()):
                    told.flush()
            self.store.set_stage_status(
                self.work_id, stage.name, "finished", wall_s=reporter.wall_s, cpu_s=reporter.cpu_s
            )
            reporter.log("info", f"{stage.name}: finished after {reporter.wall_s:.1f} s.")

    def _reporter(self, stage: str, *, beside: bool = False) -> StoreReporter:
        return StoreReporter(
            self.store,
            self.run_id,
            stage,
            attempt=self.attempt,
            stop=self.stop,
            work_id=self.work_id,
            beside=beside,
        )

    def _begin_early(
        self, context: RunContext, stages: list[Any], reporters: dict[str, StoreReporter], names: list[str]
    ) -> None:
        """Let stages begin whose work goes on beside those before them; ``reporters`` gets theirs by name."""
        for stage in stages:
            reporter = reporters[stage.name] = self._reporter(stage.name, beside=True)
            checkpoints = self._checkpoint_store(context.config, names, stage.name, reporter)
            self.store.set_stage_status(self.work_id, stage.name, "running")
            reporter.log("info", f"{stage.name} begins beside the stages before it.")
            stage.begin(context.beside(reporter=reporter, checkpoints=checkpoints))

    def _work_of(self, method: catalogue.MethodSpec) -> tuple[tuple[Stage, ...], type[RunContext]]:
        """Return the method's stages, ready to run, and the class of what they are given; or what stands in for them.

        All are imported before the first one runs: a fault in the last costs nothing then.
        """
        if self._stand_ins is not None:
            stages = catalogue.load_entry(self._stand_ins)
            context = catalogue.load_entry(f"{self._stand_ins.partition(':')[0]}:RunContext")
            return tuple(stages[name] for name in method.stage_names), context
        return catalogue.make_stages(method), catalogue.load_entry(CONTEXT_ENTRY)

    def _config(self) -> RunConfig:
        extension = self.store.extension(self.run_id)
        return self.store.get(self.run_id).config if extension is None else extension.config

    def _checkpoint_store(
        self, config: RunConfig, names: list[str], stage: str, reporter: StoreReporter
    ) -> CheckpointStore:
        from engine.runs.checkpoint import CheckpointStore

        return CheckpointStore(
            self.folder / CHECKPOINTS,
            lambda scope: checkpoint_hash(config, names, scope),
            warn=lambda text: reporter.log("warning", text),
            scope=stage,
            before_save=reporter.flush,
        )

    def _watch(self) -> None:
        """Beat every second; pass a stop on to the stage, and end the process where it does not listen."""
        asked_at: float | None = None
        while not self.over.wait(BEAT_EVERY_S if asked_at is None else 0.2):
            try:
                asked = self.store.beat(self.run_id, attempt=self.attempt)
            except UserError as error:  # a full disk: the stage meets it too and says so; the beat must not die of it
                _say(error)
                continue
            self._superseded = asked is None
            if asked or asked is None:
                self.stop.set()
            if self.stop.is_set() and asked_at is None:
                asked_at = time.monotonic()
            if asked_at is not None and time.monotonic() - asked_at > STOP_GRACE_S:
                self._end_here()

    def _end_here(self) -> None:
        """Cancel without the stage, but not in the middle of a checkpoint that it is just writing."""
        quiet = nullcontext() if self.checkpoints is None else self.checkpoints.quiet(timeout_s=SAVING_GRACE_S)
        with quiet:
            if not self._ending.acquire(blocking=False):
                return  # the stage came to its step boundary in the meantime
            try:
                if not self._superseded:
                    self._record_end("cancelled")
                sys.stdout.flush()
            finally:  # even where it could not be recorded: whoever looks next finds the worker gone
                os._exit(0)

    def _fail(self, error: UserError) -> None:
        (self.folder / RESERVE).unlink(missing_ok=True)
        try:
            self.store.write_log(self.run_id, "error", str(error), stage=self.store.get(self.run_id).stage)
        except UserError as fault:  # a full disk: the reason is recorded with the end of the run
            _say(f"{error}\n{fault}")
        self._end("failed", error=error)

    def _end(self, status: RunStatus, *, error: UserError | None = None) -> None:
        with self._ending:  # whoever ends the run first is the only one: the watcher never gives the lock back
            self.over.set()
            self._record_end(status, error=error)

    def _record_end(self, status: RunStatus, *, error: UserError | None = None) -> None:
        """Write the report, then record how the run ended, and let the next run in the queue begin."""
        deadline = time.monotonic() + END_RETRY_S
        (self.folder / RESERVE).unlink(missing_ok=True)
        while True:
            try:
                self._write_end(status, error=error)
                break
            except UserError as fault:
                _say(fault)
                if fault.code != "run.disk_full" or time.monotonic() > deadline:
                    raise
                time.sleep(END_PAUSE_S)
        lifecycle.advance_queue(self.store)

    def _write_end(self, status: RunStatus, *, error: UserError | None) -> None:
        torch = sys.modules.get("torch")
        device = None if torch is None else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            path = write_report(
                self.store, self.run_id, status=status, device=device, error=error, work_id=self.work_id
            )
            self.store.write_artefact(self.work_id, "", "report", path.name)
        except (OSError, UserError) as fault:  # the end of the run must be recorded even where the report cannot be
            _say(f"no report: {fault}")
        if self.work_id == self.run_id:
            self.store.end_run(self.run_id, status, owner=self.attempt, error=error)
        elif status == "finished":
            self.store.adopt_extension(self.run_id, self.work_id, owner=self.attempt)
            self.store.settle()
        else:
            rounds = self.store.get(self.run_id).config.federation.rounds
            reason = f"{error.what} " if error else ""
            kept = f"The extension has stopped; the results of {rounds} rounds are as they were."
            self.store.end_run(self.run_id, status, owner=self.attempt, error=error, said=reason + kept)


def _say(words: object) -> None:
    """Tell the worker's own log; its file may lie on the disk that is full, and then says nothing."""
    with suppress(OSError):
        print(words, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, take the run, work on it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.runs.worker", description="Work on one run.")
    parser.add_argument("run_id")
    parser.add_argument("--home", type=Path, default=None, help="home folder (else DSFEDMED_HOME, else ./studio_home)")
    parser.add_argument("--attempt", type=int, default=None, help="given by whoever took the run out of the queue")
    stand_ins = os.environ.get("DSFEDMED_STAND_INS")
    parser.add_argument("--stand-ins", default=stand_ins, help="for tests: module:NAME of other stages, by name")
    chosen = parser.parse_args(arguments)
    os.umask(0o077)  # everything that a stage writes is for the person who runs it alone
    store = RunStore(chosen.home)
    attempt = chosen.attempt
    if attempt is None:
        store.get(chosen.run_id)
        record = store.claim(max_running=sys.maxsize, run_id=chosen.run_id)
        if record is None:
            print(f"run {chosen.run_id} does not wait in the queue", file=sys.stderr)
            return 1
        attempt = record.attempt
    if not lifecycle.register_worker(store, chosen.run_id, attempt=attempt, pid=os.getpid()):
        return 0
    worker = Worker(store, chosen.run_id, attempt=attempt, stand_ins=chosen.stand_ins)
    signal.signal(signal.SIGTERM, worker.on_signal)
    signal.signal(signal.SIGINT, worker.on_signal)
    return worker.run()


def _set_threads(threads: int | None) -> None:
    """Fix the number of CPU threads of torch and its libraries (all cores when left out)."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _crash(error: Exception, run_id: str) -> UserError:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return UserError(
            "run.out_of_memory",
            what=f"The memory was not enough: {error}.",
            why="The stage stopped; everything up to its last checkpoint is kept.",
            fix="Lower the stage's batch size, turn on generator.gradient_checkpointing, or use a machine with more.",
        )
    if _is_full_disk(error):
        return UserError(
            "run.disk_full",
            what=f"The disk is full: {error}.",
            why="The stage stopped; everything up to its last checkpoint is kept.",
            fix="Free some space and resume the run.",
        )
    if isinstance(error, json.JSONDecodeError) or type(error).__name__ in _DAMAGED or "truncated" in str(error):
        return UserError(
            "run.output_damaged",
            what=f"A file that an earlier stage wrote, or that the run reads, is damaged: {error}.",
            why="The stage stopped; everything up to its last checkpoint is kept.",
            fix=f"{lifecycle.WORKER_LOG} in the folder of the run {run_id} names the place: restore the file from a "
            "backup, or fork the run from the stage that wrote it.",
        )
    return UserError(
        "run.crashed",
        what=f"{type(error).__name__}: {error}",
        why="This is a fault of the program; the stage stopped, everything up to its last checkpoint is kept.",
        fix=f"See {lifecycle.WORKER_LOG} in the folder of the run {run_id} for the place; resume after mending it.",
    )


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC})" in str(error)  # safetensors


if __name__ == "__main__":
    sys.exit(main())

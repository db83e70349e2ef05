"""The side of :mod:`side_worker` that asks: questions wait in a row, replies lie on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from engine.errors import UserError
from engine.federation.client_app import SiteError
from engine.federation.tasks import SiteReply, SiteRequest
from engine.types import RunCancelled

STOP_S = 10.0
"""A process that has not ended so long after SIGTERM is killed (ours)."""
REPLIES = "beside_replies"


@dataclass(frozen=True)
class Told:
    """What a site tells while it works: how far it is, or (with a name) one point of a curve."""

    site: str
    step: int
    total: int = 0
    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of a question: the file of a reply, or why there is none (the text of a ``SiteError``)."""

    key: str
    file: Path | None
    failure: str = ""

    def reply(self) -> SiteReply:
        """Return the reply, and remove its file."""
        assert self.file is not None
        with safe_open(self.file, framework="np") as file:
            about = json.loads(file.metadata()["about"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        self.file.unlink()
        return SiteReply(arrays, about["metrics"], about["num_examples"], about["texts"])


class SideProcess:
    """A process of this machine that answers one question after the other, and ends with this one.

    A process of its own, and no thread: models draw from torch's global generators, and two trainings in one process
    would take each other's numbers.

    Parameters
    ----------
    entry, arguments, threads
        What answers there: ``module:function``, what it is given by name (as JSON can write it), CPU threads.
    folder : Path
        For what crosses between the processes, and for locks: of one site, no two do the work at a time.
    hear, flush : callable
        Given what is told, and told to write it down; called by a thread of this object.
    """

    def __init__(
        self,
        *,
        entry: str,
        arguments: Mapping[str, Any],
        threads: int | None,
        folder: Path,
        hear: Callable[[Told], None],
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._opening = {"entry": entry, "arguments": dict(arguments), "threads": threads}
        self._folder, self._hear, self._flush = folder.resolve(), hear, flush
        self._replies = self._folder / REPLIES
        self._waiting: deque[tuple[str, SiteRequest, str]] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._changed, self._over = threading.Condition(), False
        self._process: subprocess.Popen[str] | None = None
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    def ask(self, key: str, request: SiteRequest, *, stage: str) -> None:
        """Let a question wait its turn; its outcome comes under ``key``. It may bring no arrays."""
        assert not request.arrays
        with self._changed:
            self._waiting.append((key, request, stage))
            self._changed.notify_all()
        if self._thread is None:
            self._replies.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._thread = threading.Thread(target=self._work, name="beside", daemon=True)
            self._thread.start()

    def outcome(self) -> Outcome | None:
        """Return what came first of those that nobody has been given; None where there is none.

        Raises what ``hear`` or ``flush`` raised, RunCancelled apart.
        """
        if self._fault is not None:
            raise self._fault
        with self._changed:
            return self._outcomes.popleft() if self._outcomes else None

    def ask_to_stop(self) -> None:
        """Give everything up, and wait for nothing."""
        with self._changed:
            self._over = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Give everything up; what the site has begun is kept on its disk first."""
        self.ask_to_stop()
        if self._process is not None:
            try:
                self._process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self._thread is not None:
            self._thread.join(timeout=STOP_S)

    def _work(self) -> None:
        """Keep a process as long as there are questions; this thread starts it, for it ends with whoever did."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if self._over:
                    return
            try:
                self._process = self._started()
                with suppress(BrokenPipeError), self._process:  # of one that has ended, when its input is closed
                    self._converse(self._process)
            except Exception as error:  # of whoever hears, or of the system; raised where the outcome is asked for
                self._fault = error
                if self._process is not None:
                    self._process.kill()
                return

    def _converse(self, process: subprocess.Popen[str]) -> None:
        """Ask what waits, one after the other, until the process ends."""
        is_open = False
        while (question := self._next()) is not None:
            key, request, stage = question
            path = self._replies / f"{key}.safetensors"
            about: dict[str, Any] = {"site": request.site, "task": request.task, "round": request.round, "stage": stage}
            about |= {"settings": dict(request.settings), "lock": str(self._folder / lock_of(request.site))}
            outcome = None
            with suppress(BrokenPipeError):  # it has ended, and that is the answer
                if not is_open:
                    self._write(self._opening)
                    is_open = True
                self._write({**about, "reply": str(path)})
                outcome = self._listen(process, key, request.site)
            if outcome is None and self._over:
                return
            with self._changed:
                self._outcomes.append(outcome or Outcome(key, None, _died(request.site, process.wait())))
            if outcome is None:
                return

    def _next(self) -> tuple[str, SiteRequest, str] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            return None if self._over else self._waiting.popleft()

    def _listen(self, process: subprocess.Popen[str], key: str, site: str) -> Outcome | None:
        """Return what came of the question; None where the process ended before."""
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "replied" in said:
                return Outcome(key, Path(said["replied"]))
            if "failure" in said:
                return Outcome(key, None, said["failure"])
            with suppress(RunCancelled):  # whoever waits for the run hears of a stop by itself
                if "saving" in said:
                    self._flush()
                else:
                    self._hear(Told(site, **said))
            if "saving" in said:
                self._write({"kept": True})
        return None

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def _started(self) -> subprocess.Popen[str]:
        places = os.pathsep.join(str(Path(place).resolve()) for place in sys.path)
        tied = [sys.executable, "-m", "engine.deployment.tied", str(os.getpid())]
        return subprocess.Popen(
            [*tied, sys.executable, "-m", "engine.federation.backends.side_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": places},
            cwd=Path(__file__).parents[3],
            start_new_session=True,
        )


def clear_replies(folder: Path) -> None:
    """Remove replies that nobody has fetched before this program was ended; they are asked for again."""
    for path in (folder / REPLIES).glob("*.safetensors"):
        path.unlink(missing_ok=True)


def lock_of(site: str) -> str:
    """Return the name of the file that is locked while a process works for ``site``, whose name may have any sign."""
    return f"beside_{hashlib.sha256(site.encode()).hexdigest()[:16]}.lock"


def _died(site: str, status: int) -> str:
    error = UserError(
        "federation.worker_died",
        what=f"The process that worked for site {site} ended with status {status}.",
        why="Its part is missing; what the site had kept is on its disk.",
        fix="Look whether memory is short and resume the run; it is asked again.",
    )
    return str(SiteError(site=site, error=error))

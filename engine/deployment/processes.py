"""Keeping one program running: its log, its restarts, its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from engine.errors import UserError

LOG_BYTES, LOG_FILES = 10_000_000, 5
"""A log is begun anew at this size; so many older ones are kept (ours)."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 1.0, 60.0, 120.0
"""Between restarts: doubled each time, and short again after so long without one (ours)."""
END_S, HURRY_S = 10.0, 2.0
"""A program that has not ended so long after SIGTERM is killed; before that it is asked once more, by SIGINT: uvicorn
then waits no longer for connections that clients keep open."""
MENDED_BY_A_PERSON = 2
"""Exit status of a program that cannot go on until somebody has done something: it is not started again."""

Say = Callable[[str], None]


class Supervised:
    """One program with its log, started again where it ends by itself.

    Parameters
    ----------
    command : sequence of str
        Program (an absolute path) and arguments.
    log : Path
        File that gets all that it writes, each line with the time.
    show : callable, optional
        Gets these lines too, as they come.
    """

    def __init__(
        self, command: Sequence[str], *, name: str, log: Path, env: Mapping[str, str], say: Say, show: Say | None = None
    ) -> None:
        self._command, self.name, self.log, self._env = list(command), name, log, dict(env)
        self._say, self._show = say, show
        self._process: subprocess.Popen[str] | None = None
        self._pause_s, self._began = FIRST_PAUSE_S, 0.0
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._logger = logging.Logger(str(log))
        self._logger.addHandler(handler)
        log.chmod(0o600)

    @property
    def pid(self) -> int | None:
        """Process number while it runs."""
        return self._process.pid if self.exit_status() is None and self._process is not None else None

    def start(self) -> None:
        """Start the program."""
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.deployment.tied", str(os.getpid()), *self._command],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
        )
        self._pump = threading.Thread(target=self._keep_log, args=(self._process,), daemon=True)
        self._pump.start()

    def exit_status(self) -> int | None:
        """Return the exit status (negative: the signal), or None while the program runs."""
        return None if self._process is None else self._process.poll()

    def supervise(self, stop: threading.Event, *, every_s: float = 1.0, look: Callable[[], None] = lambda: None) -> int:
        """Keep the program running until ``stop`` is set or it ends with status 2; return its last exit status.

        ``look`` is called every ``every_s`` seconds.
        """
        while not stop.wait(every_s):
            status = self.exit_status()
            if status is None:
                look()
                if time.monotonic() - self._began > STEADY_S:
                    self._pause_s = FIRST_PAUSE_S
                continue
            self._pump.join(timeout=5.0)
            if status == MENDED_BY_A_PERSON:
                return status
            self.note(f"{self.name} {ending(status)}.")
            self._say(
                f"{self.name} {ending(status)}; its log is {self.log}. Starting it again in {self._pause_s:.0f} s."
            )
            stop.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            if not stop.is_set():
                self.start()
        return self.end()

    def end(self) -> int:
        """Stop the program: SIGTERM, then SIGINT, then SIGKILL after 10 s; return its exit status."""
        if self._process is None:
            return 0
        for number, patience_s in ((signal.SIGTERM, HURRY_S), (signal.SIGINT, END_S - HURRY_S), (signal.SIGKILL, None)):
            if self._process.poll() is None:
                self._process.send_signal(number)
            try:
                status = self._process.wait(timeout=patience_s)
                break
            except subprocess.TimeoutExpired:
                continue
        self._pump.join(timeout=5.0)
        return status

    def last_lines(self, count: int = 5) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

    def note(self, text: str) -> None:
        """Write a line of our own into the log."""
        self._logger.info(text)

    def _keep_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._logger.info(line.rstrip("\n"))
            if self._show is not None:
                self._show(line.rstrip("\n"))


def ending(status: int) -> str:
    """Return how a program ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"was killed by {name}" + (" (out of memory, perhaps)" if name == "SIGKILL" else "")


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def only_one(lock: Path, *, what: str) -> object:
    """Hold a lock while the returned object lives; ``UserError`` ``deployment.running`` where another has it."""
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(
            "deployment.running",
            what=f"{what} runs already.",
            why="Two of them would take each other's messages.",
            fix="Stop the other one first, or leave it as it is.",
        ) from None
    return held

"""A process that answers questions to sites beside another one: ``python -m engine.federation.backends.side_worker``.

Lines of JSON come on standard input and go to standard output, one a line; what anything prints goes to standard error.
First comes what answers (``entry``, ``arguments``, ``threads``), then one question after the other, each with the file
that keeps two of these processes from one site (``lock``). Told are steps, points of curves, and that a state is about
to be kept: that waits until whoever started this has written what it has heard. Arrays of a reply lie in a file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from filelock import FileLock

from engine.federation.client_app import SiteError
from engine.federation.tasks import SiteReply, SiteRequest
from engine.types import RunCancelled

Line = Mapping[str, Any]


def main() -> int:
    """Answer until standard input ends or a stop is asked for; return the exit status."""
    os.umask(0o077)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    stop, at_work = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set() if at_work.is_set() else os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    opening = json.loads(sys.stdin.readline())
    answering, telling = _open(opening), _Telling(sys.stdin, told, stop)
    while line := sys.stdin.readline():
        question = json.loads(line)
        with FileLock(question["lock"]):
            at_work.set()
            try:
                telling.say(_answer(answering, question, telling))
            except RunCancelled:
                break
            at_work.clear()
        if stop.is_set():
            break
    return 0


def _open(opening: Line) -> Any:
    from engine.methods import catalogue

    if opening["threads"] is not None:
        import torch

        torch.set_num_threads(opening["threads"])
    return catalogue.load_entry(opening["entry"])(**opening["arguments"])


def _answer(answering: Any, question: Line, telling: _Telling) -> Line:
    request = SiteRequest(question["site"], question["task"], question["round"], question["settings"])
    try:
        reply: SiteReply = answering.answer(request, stage=question["stage"], listener=telling)
        _write(reply, question["reply"])
    except RunCancelled:
        raise
    except Exception as error:  # told to the server by site and reason, as every back end does
        return {"failure": str(SiteError(site=request.site, error=error))}
    return {"replied": question["reply"]}


def _write(reply: SiteReply, path: str) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    about = {"metrics": dict(reply.metrics), "num_examples": reply.num_examples, "texts": dict(reply.texts)}
    arrays = {name: np.asarray(array, order="C") for name, array in reply.arrays.items()}
    save_file(arrays, path, metadata={"about": json.dumps(about)})


class _Telling:
    """What a task tells goes to whoever started this process; nobody hears any more once that has ended."""

    def __init__(self, heard: IO[str], told: IO[str], stop: threading.Event) -> None:
        self._heard, self._told, self._stop = heard, told, stop

    def say(self, line: Line) -> None:
        try:
            self._told.write(json.dumps(line) + "\n")
            self._told.flush()
        except BrokenPipeError as error:
            raise RunCancelled("nobody listens any more") from error

    def check_cancelled(self) -> None:
        if self._stop.is_set():
            raise RunCancelled("this process is being stopped")

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        self.check_cancelled()
        self.say({"step": step, "total": total})

    def metric(self, name: str, value: float, *, step: int) -> None:
        self.say({"name": name, "value": float(value), "step": step})

    def before_save(self) -> None:
        """Wait until all that was told is written down: a state must not be further than the curves that led to it."""
        self.say({"saving": True})
        if not self._heard.readline():
            raise RunCancelled("nobody listens any more")


if __name__ == "__main__":
    sys.exit(main())

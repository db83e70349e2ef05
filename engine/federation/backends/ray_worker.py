"""A process of the Ray back end: whatever answers for its sites, and a way to hear and to stop it.

Ray sends calls and answers between processes of this program that it has started itself, as one user; nothing of
another site's making is ever unpickled. A site's files lie where they lie in-process.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from flwr.app import RecordDict

from engine.federation.client_app import SiteError
from engine.federation.payload import read_content, reply_content
from engine.federation.tasks import Listener, SiteReply, SiteRequest
from engine.methods import catalogue
from engine.types import RunCancelled


class Answering(Protocol):
    """Whatever answers for the sites of a process."""

    def answer(self, request: SiteRequest, *, stage: str, listener: Listener) -> SiteReply:
        """Answer a request of the run's ``stage``."""


@dataclass(frozen=True)
class Told:
    """What a site tells while it works: how far it is, or (with a name) one point of a curve."""

    step: int
    total: int = 0
    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What comes back for a question: its content, or words in its place; neither where it was stopped."""

    content: RecordDict | None
    failure: str
    told: tuple[Told, ...]


class SiteWorker:
    """One process that answers for one site at a time.

    Parameters
    ----------
    entry : str
        ``module:function`` that gives what answers, in this process.
    arguments : dict
        What the function is given, by name.
    threads : int
        CPU threads that this process computes with.
    environment : dict
        Variables that the program reads, as they are at the server; machines of a cluster have their own.
    """

    def __init__(self, entry: str, arguments: dict[str, Any], *, threads: int, environment: dict[str, str]) -> None:
        os.umask(0o077)
        os.environ.update(environment)
        self._threads = threads
        self._entry, self._arguments = entry, arguments
        self._told: list[Told] = []
        self._lock = threading.Lock()
        self._stopped: set[int] = set()

    @cached_property
    def _answering(self) -> Answering:
        torch.set_num_threads(self._threads)
        answering: Answering = catalogue.load_entry(self._entry)(**self._arguments)
        return answering

    def ready(self) -> str:
        """Open what answers; return why that cannot be, in words, or nothing."""
        try:
            return "" if self._answering else "nothing answers"
        except Exception as error:  # Ray itself has no words for what fails while a process begins
            return f"{type(error).__name__}: {error}"

    def answer(self, ticket: int, site: str, task: str, stage: str, content: RecordDict) -> Answer:
        """Answer a question under the number by which it can be stopped; what a task raises comes back as words."""
        torch.set_num_threads(self._threads)  # OpenMP keeps the number by thread, and this is not the one above
        try:
            request = read_content(content, task=task, site=site)
            reply = self._answering.answer(request, stage=stage, listener=_Telling(self, ticket))
            return Answer(reply_content(reply), "", self.heard())
        except RunCancelled:
            return Answer(None, "", ())
        except Exception as error:  # told to the server by site and reason, as every other back end does
            return Answer(None, str(SiteError(site=site, error=error)), self.heard())

    def heard(self) -> tuple[Told, ...]:
        """Return what was told since the last time."""
        with self._lock:
            told, self._told = self._told, []
        return tuple(told)

    def stop(self, ticket: int) -> None:
        """Let the question end at its next step; what the site has begun is kept on its disk."""
        self._stopped.add(ticket)

    def note(self, told: Told) -> None:
        """Keep what the server fetches next; of how far the work is, the newest alone."""
        with self._lock:
            if not told.name:
                self._told = [earlier for earlier in self._told if earlier.name]
            self._told.append(told)

    def check(self, ticket: int) -> None:
        """Raise RunCancelled where the question was stopped."""
        if ticket in self._stopped:
            raise RunCancelled("nobody waits for this any more")


@dataclass(frozen=True)
class _Telling:
    worker: SiteWorker
    ticket: int

    def check_cancelled(self) -> None:
        self.worker.check(self.ticket)

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        self.worker.check(self.ticket)
        self.worker.note(Told(step, total))

    def metric(self, name: str, value: float, *, step: int) -> None:
        self.worker.note(Told(step, name=name, value=value))

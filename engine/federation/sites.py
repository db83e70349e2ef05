"""The sites as the server knows them: their names, what they have told of their data, and asking them.

A stage asks here for whatever it needs of a site; it sees arrays, figures and n_k, and no image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from flwr.serverapp import Grid

from engine.errors import UserError
from engine.federation.beside import Beside, Work
from engine.federation.checks import NO_MORE_CHECKS, RoundChecks
from engine.federation.descriptions import FederationDescription
from engine.federation.exchange import MAX_REPLY_BYTES, Questions, find_sites
from engine.federation.rounds import Failure, OnFailure, OnReply, call_once, run_rounds
from engine.federation.tasks import BESIDE, Arrays, Scalar, SiteReply, SiteRequest
from engine.federation.watch import SiteWatch, Told
from engine.types import SiteFailure, Traffic

QUERIES_FROM = 1_000_000
"""Traffic is keyed by round: a query about the model of round r is kept apart from the round's own messages."""
SEEN_EVERY_S = 15.0
"""How often the server is asked which sites are connected, while some are waited for (ours)."""


class SiteListener(Protocol):
    """Where the server hears what a site tells while it works."""

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Hear how far a site's task is."""

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Hear one point of a curve."""


class Quiet:
    """Hears nothing."""

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Pass over it."""

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Pass over it."""


@dataclass(frozen=True)
class Server:
    """What the server does with what it hears: it stops, counts bytes, and tells what it waits for."""

    check_cancelled: Callable[[], None]
    traffic: Callable[[Traffic], None]
    tell: Callable[[str], None] = lambda _text: None
    watched: Told = field(default_factory=Told)


@dataclass(frozen=True)
class _Watched:
    """A listener through which the watch hears, too."""

    watch: SiteWatch
    listener: SiteListener

    def progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Hear how far a site's task is."""
        self.watch.progress(site, round_number, step, total)
        self.listener.progress(site, round_number, step, total)

    def metric(self, site: str, name: str, value: float, step: int) -> None:
        """Hear one point of a curve."""
        self.listener.metric(site, name, value, step)


@dataclass(frozen=True)
class Desk:
    """What a stage has whose sites work beside another stage's; other threads call ``listener`` and ``flush``."""

    stage: str
    """Its name: whose checkpoints the sites' are."""
    server: Server
    listener: SiteListener
    flush: Callable[[], None]
    """Makes durable what was heard: before a site keeps a state that is further."""


class BackEnd(Protocol):
    """Where the sites are: in this process, in a simulation, at other machines."""

    grid: Grid
    description: FederationDescription

    def listen(self, listener: SiteListener) -> None:
        """Hand on what sites tell to ``listener`` from now on."""

    def beside(self, desk: Desk) -> Grid | None:
        """Return where sites can be asked for work that they do beside the rest; None where they cannot."""

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Let every site read all its images once; return warnings, raise ``UserError`` for what cannot be used."""

    def last_seen(self) -> Mapping[str, float]:
        """Return when sites elsewhere were last connected, seconds since 1970; none where all are in this process."""

    def close(self) -> None:
        """Let go of what was opened to reach the sites."""


class Sites:
    """See the module docstring.

    ``server`` is asked anew for each message: each stage has its own. A site that fails in what :meth:`ask` asks is
    asked ``retries`` times more; how often one is in a round is the round's to say. With ``skips`` a run goes on
    without what a failing site does not answer, where the question says that it may be missing.
    """

    def __init__(
        self, back_end: BackEnd, *, server: Callable[[], Server], retries: int = 0, skips: bool = False
    ) -> None:
        self._back_end, self._server, self._retries, self._skips = back_end, server, retries, skips
        self._watch = SiteWatch(back_end.description, told=lambda: server().watched)
        self._beside = Beside()
        self._look_at = 0.0
        self._asked: list[tuple[str, _Watched]] = []
        """What is being asked, and who hears of it: rounds, and a question between two of them."""

    @property
    def description(self) -> FederationDescription:
        """What the sites have told of their data."""
        return self._back_end.description

    def close(self) -> None:
        """Let go of what was opened to reach the sites."""
        self._back_end.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The sites that train, sorted."""
        return self.description.source_names

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Let every site read all its images once, so that a fault in the last one is not found hours later."""
        return self._back_end.read_everything(on_image=on_image)

    def train_rounds(
        self, task: str, *, kind: str, arrays: Arrays, listener: SiteListener | None = None, **how: Any
    ) -> dict[str, np.ndarray]:
        """Run federated rounds at all sources; ``how`` as in :func:`engine.federation.rounds.run_rounds`."""
        server, on_failure = self._server(), how.pop("on_failure", None)
        with self._asking(task, listener):
            return run_rounds(
                self._back_end.grid,
                arrays=arrays,
                sites=self.names,
                task=task,
                kind=kind,
                on_traffic=partial(_heard, self._watch, server.traffic),
                on_failure=partial(self._failed, on_failure=on_failure),
                check_cancelled=self._meanwhile(server),
                **how,
            )

    def ask(
        self,
        task: str,
        *,
        kind: str,
        reply_kind: str | None = None,
        to: Sequence[str] | None = None,
        arrays: Arrays | None = None,
        settings: Mapping[str, Scalar] | None = None,
        round_number: int = 0,
        apart: bool = False,
        on_lack: Callable[[str, UserError], None] | None = None,
        max_bytes: int | None = None,
        on_reply: OnReply | None = None,
        completed: Mapping[str, SiteReply] | None = None,
        checks: RoundChecks = NO_MORE_CHECKS,
        listener: SiteListener | None = None,
    ) -> dict[str, SiteReply]:
        """Ask the sites ``to`` (all sources when left out) once; return their replies by site, sorted by name.

        ``kind`` and ``reply_kind`` name what is sent and what comes back (kinds of the catalogue). With ``apart``
        the bytes are counted apart from those of the round that has the same number. A reply whose arrays have more
        than ``max_bytes`` is refused before it is decoded. ``on_lack`` says that a site's reply may be missing, where
        the run goes on without sites that fail (``federation.on_failure``), and is told of each.
        """
        server = self._server()
        with self._asking(task, listener):
            return call_once(
                self._back_end.grid,
                task=task,
                kind=kind,
                reply_kind=reply_kind,
                sites=self.names if to is None else tuple(to),
                arrays=arrays,
                settings=settings,
                round_number=round_number,
                max_bytes=max_bytes,
                on_reply=on_reply,
                completed=completed,
                checks=checks,
                retries=self._retries,
                may_lack=on_lack is not None and self._skips,
                on_traffic=partial(self._count, server.traffic, apart=apart),
                on_failure=partial(self._failed, on_failure=_lacking(on_lack)),
                check_cancelled=self._meanwhile(server),
            )

    @contextmanager
    def _asking(self, task: str, listener: SiteListener | None) -> Iterator[None]:
        """Hear what sites tell of ``task``; a question between two rounds gives the ear back to the rounds."""
        self._asked.append((task, _Watched(self._watch, listener or Quiet())))
        self._hear()
        try:
            yield
        finally:
            self._asked.pop()
            if self._asked:
                self._hear()

    def _hear(self) -> None:
        task, listener = self._asked[-1]
        self._watch.asks(task)
        self._back_end.listen(listener)

    def begin(
        self,
        task: str,
        *,
        kind: str,
        reply_kind: str,
        to: Sequence[str],
        max_bytes: int | None = None,
        on_reply: Callable[[str, SiteReply], None],
        on_failure: Callable[[str, UserError], None],
        desk: Desk,
    ) -> bool:
        """Ask the sites ``to`` for work that goes on beside all that they are asked from now on; waits for nothing.

        ``on_reply`` is given each reply while something else is waited for, or in :meth:`finish`; ``on_failure`` what a
        site has in its place, and nobody asks it again. Return False where the back end has no place for such work.
        """
        watch = SiteWatch(self.description, told=lambda: desk.server.watched)
        watch.asks(task)
        grid = self._back_end.beside(replace(desk, listener=_Watched(watch, desk.listener)))
        if grid is None:
            return False

        def failed(site: str, error: UserError) -> None:
            watch.failed(SiteFailure(site, 0, 1, time.time(), error.code, error.what, "asked_again"))
            on_failure(site, error)

        questions = Questions(
            grid,
            [SiteRequest(site, task, settings={BESIDE: True}) for site in to],
            nodes=find_sites(grid, sites=to),
            kind=kind,
            reply_kind=reply_kind,
            max_bytes=MAX_REPLY_BYTES if max_bytes is None else max_bytes,
            on_traffic=partial(_heard, watch, desk.server.traffic),
        )
        self._beside.add(Work(questions, on_reply, failed))
        return True

    def finish(self) -> None:
        """Wait for everything that sites have begun by :meth:`begin`."""
        self._beside.finish(check_cancelled=self._server().check_cancelled)

    def _meanwhile(self, server: Server) -> Callable[[], None]:
        """Return what looks for a stop, and for what sites have finished beside."""

        def look() -> None:
            server.check_cancelled()
            self._beside.look()
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + SEEN_EVERY_S
                for site, at in self._back_end.last_seen().items():
                    self._watch.seen(site, at)

        return look

    def _failed(self, failure: Failure, *, on_failure: OnFailure | None = None) -> None:
        outcome: Literal["asked_again", "left_out", "stopped"] = "asked_again" if failure.attempt else "left_out"
        self._watch.failed(
            SiteFailure(
                failure.site,
                failure.round,
                failure.attempt or 0,
                time.time(),
                failure.error.code,
                failure.error.what,
                "stopped" if failure.stops else outcome,
            )
        )
        if on_failure is not None and not failure.stops:
            on_failure(failure)

    def _count(self, on_traffic: Callable[[Traffic], None], record: Traffic, *, apart: bool) -> None:
        self._watch.traffic(record)
        if self.description.test_at_server and record.site not in self.names:
            return
        on_traffic(replace(record, round=QUERIES_FROM + record.round) if apart else record)


def _lacking(on_lack: Callable[[str, UserError], None] | None) -> OnFailure:
    def told(failure: Failure) -> None:
        if on_lack is not None and failure.attempt is None:
            on_lack(failure.site, failure.error)

    return told


def _heard(watch: SiteWatch, on_traffic: Callable[[Traffic], None], record: Traffic) -> None:
    watch.traffic(record)
    on_traffic(record)

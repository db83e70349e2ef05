"""The server's round loop, on any Flower Grid.

Flower's ``Strategy.start`` always begins at round 1 and cannot save, cancel or resume; this loop can. Replies are
handed over one by one, so that a caller who saves each loses at most one site's round, and needs to hold none: what
waits for the others waits on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Protocol

import numpy as np
from flwr.serverapp import Grid

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.aggregation.fedavg import FedAvg
from engine.federation.checks import BAD_REPLY, NO_MORE_CHECKS, OFFENCES, RoundChecks
from engine.federation.coded_rounds import CodedRound, CodedRounds
from engine.federation.exchange import MAX_REPLY_BYTES, KnowsSites, OnTraffic, ask, find_sites, no_check
from engine.federation.payload import payload_bytes
from engine.federation.tasks import DECISIONS, Arrays, Scalar, SiteReply, SiteRequest, message_type
from engine.federation.update_norms import UpdateNorms

QUORUM = "federation.quorum"
"""Code of a round's end that has too few replies."""
FOREIGN_HEADER_BYTES = 10_000
"""How much longer than ours a header of an array may be that another program wrote (numpy's own limit)."""

OnReply = Callable[[int, str, SiteReply], SiteReply | None]
"""Told each reply when it has come and been checked; may give back what stands for it from then on, such as one whose
arrays lie in a file. It may refuse one as well (``bad_reply``): a failure of the site, like any other."""


class Aggregate(Protocol):
    """What makes one model of a round's replies; see ``aggregation.Aggregator.aggregate``."""

    def __call__(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int
    ) -> dict[str, np.ndarray]:
        """Return the model after the round."""


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What one round gave: the averaged arrays, and each site's figures by site, sorted by name."""

    round: int
    arrays: Arrays
    metrics: dict[str, dict[str, float]]
    num_examples: dict[str, int]
    failures: dict[str, UserError]
    """Sites that the round went on without; always empty unless a quorum was given."""
    wall_s: float
    large: Mapping[str, float] = field(default_factory=dict)
    """Norm over the median of the others' of each update that counts although it is above ``checks.update_limit``."""

    def mean(self, name: str) -> float | None:
        """Return a metric's mean over sites weighted by n_k, or None where a site does not report it."""
        if not all(name in metrics for metrics in self.metrics.values()):
            return None
        total = sum(self.num_examples.values())
        return sum(self.metrics[site][name] * count for site, count in self.num_examples.items()) / total


OnRound = Callable[[RoundResult], bool | None]
Choose = Callable[[int, Callable[[], list[str]]], Sequence[str]]
"""Which sites a round asks, given its number and what tells who is there just now."""
FEDAVG = FedAvg().aggregate


@dataclass(frozen=True)
class Failure:
    """A site without a usable reply in a round: it is asked again for the ``attempt``-th time, or left out (None)."""

    round: int
    site: str
    error: UserError
    attempt: int | None
    stops: bool = False
    """Whether it ends the run."""


OnFailure = Callable[[Failure], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Round:
    """One round's questions: to whom, what, and how long to wait."""

    grid: Grid
    nodes: Mapping[str, int]
    task: str
    kind: str
    number: int
    settings: Mapping[str, Scalar]
    arrays: Arrays
    on_reply: OnReply | None
    on_traffic: OnTraffic | None
    quorum: int | None
    deadline_s: float | None
    check_cancelled: Callable[[], None]
    reply_kind: str | None = None
    same_arrays: bool = True
    """Whether a reply has to carry the names, shapes and dtypes that were sent."""
    max_bytes: int | None = None
    """Of a reply's arrays, where they are others than those that were sent."""
    checks: RoundChecks = NO_MORE_CHECKS
    coded: CodedRound | None = None
    """How the arrays are written on their way; ``arrays`` are then what the sites receive."""
    retries: int = 0
    on_failure: OnFailure = lambda _failure: None
    norms: dict[str, UpdateNorms] = field(default_factory=dict)
    """Of the replies that have come; all that is kept of them for being compared."""

    def collect(
        self, sites: Sequence[str], *, completed: Mapping[str, SiteReply]
    ) -> tuple[dict[str, SiteReply], dict[str, UserError]]:
        """Return (replies sorted by site, failures); raise when they do not suffice."""
        replies = {site: completed[site] for site in sites if site in completed}
        for site, reply in replies.items():
            self._check(reply, site=site)
        for site in self._outsized():
            self._drop(site, replies)  # the run was stopped by it; the site has been mended, or is refused again
        failures = self._ask(sites, replies)
        for attempt in range(1, self.retries + 1):
            decided = {site: error for site, error in failures.items() if error.code in DECISIONS}
            for site in (site for site in failures if site not in decided):
                self.on_failure(Failure(self.number, site, failures[site], attempt))
            if len(decided) == len(failures):
                break
            failures = decided | self._ask([site for site in sites if site not in decided], replies)
        if failures and self.quorum is None:
            for site, error in failures.items():
                self.on_failure(Failure(self.number, site, error, None, stops=True))
            raise next(iter(failures.values()))
        for site, error in failures.items():
            self.on_failure(Failure(self.number, site, error, None))
        _check_enough(replies, sites=sites, failures=failures, quorum=self.quorum, round_number=self.number)
        return {site: replies[site] for site in sorted(replies)}, failures

    def result(
        self, arrays: Arrays, replies: Mapping[str, SiteReply], *, failures: dict[str, UserError], wall_s: float
    ) -> RoundResult:
        """Return what the round gave: ``arrays`` after it, and of its ``replies`` all but their arrays."""
        metrics = {site: dict(reply.metrics) for site, reply in replies.items()}
        counts = {site: reply.num_examples for site, reply in replies.items()}
        return RoundResult(self.number, arrays, metrics, counts, failures, wall_s, self.checks.large(self.norms))

    def _ask(self, sites: Sequence[str], replies: dict[str, SiteReply]) -> dict[str, UserError]:
        """Ask the sites without a reply, add what can be used to ``replies``, and return the failures by site.

        Where nobody asks again and every reply is needed, the first failure ends the round: no other site works for
        nothing.
        """
        failures: dict[str, UserError] = {}
        stops = self.quorum is None and not self.retries
        task = message_type(self.task)
        asked = [site for site in sites if site not in replies]
        requests = [self._request(site, task) for site in asked]
        again = []
        answers = ask(
            self.grid,
            requests,
            nodes=self.nodes,
            kind=self.kind,
            reply_kind=self.reply_kind,
            deadline_s=self.deadline_s,
            max_bytes=self._max_bytes(),
            on_traffic=self.on_traffic,
            check_cancelled=self.check_cancelled,
        )
        for site, answer in answers:
            if isinstance(answer, UserError) and self.coded is not None and self.coded.lacks_base(site, answer):
                again.append(site)
                continue
            taken = answer if isinstance(answer, UserError) else self._take(answer, site=site)
            del answer  # the next site's comes before this name is given away
            if isinstance(taken, SiteReply):
                replies[site] = taken
                continue
            if stops:
                self.on_failure(Failure(self.number, site, taken, None, stops=True))
                raise taken
            failures[site] = taken
        if again:
            failures |= self._ask(again, replies)
        for site, error in self._outsized().items():
            if stops:
                self.on_failure(Failure(self.number, site, error, None, stops=True))
                raise error
            self._drop(site, replies)
            failures[site] = error
        late = [site for site in asked if site not in replies and site not in failures]
        if late and stops:
            error = _late(late, round_number=self.number)
            for site in late:
                self.on_failure(Failure(self.number, site, error, None, stops=True))
            raise error
        return failures | {site: _late([site], round_number=self.number) for site in late}

    def _request(self, site: str, task: str) -> SiteRequest:
        arrays, more = (self.arrays, {}) if self.coded is None else self.coded.message(site)
        return SiteRequest(site, task, self.number, {**self.settings, **more}, arrays)

    def _take(self, answer: SiteReply, *, site: str) -> SiteReply | UserError:
        """Return what stands for a reply from now on, or why it does not count."""
        try:
            reply = answer if self.coded is None else self.coded.read(answer, site=site)
            self._check(reply, site=site)
        except UserError as error:
            return error
        try:
            kept = self.on_reply(self.number, site, reply) if self.on_reply is not None else None
        except UserError as error:
            if error.code not in OFFENCES:
                raise  # the server's own word ends the run
            self.norms.pop(site, None)
            return error
        return kept or reply

    def _check(self, reply: SiteReply, *, site: str) -> None:
        """Check a reply by itself, and note its norms for :meth:`_outsized`."""
        sent = self.arrays if self.same_arrays else None
        self.checks.check(reply, site=site, round_number=self.number, sent=sent)
        norms = self.checks.norms(reply, sent=sent) if sent is not None else None
        if norms is not None:
            self.norms[site] = norms

    def _outsized(self) -> dict[str, UserError]:
        return self.checks.outsized(self.norms, round_number=self.number) if self.norms else {}

    def _drop(self, site: str, replies: dict[str, SiteReply]) -> None:
        del replies[site], self.norms[site]

    def _max_bytes(self) -> int:
        if not self.same_arrays:
            return MAX_REPLY_BYTES if self.max_bytes is None else self.max_bytes
        expected = payload_bytes(self.arrays) if self.coded is None else self.coded.max_bytes
        return expected + FOREIGN_HEADER_BYTES * len(self.arrays)


def run_rounds(
    grid: Grid,
    *,
    arrays: Arrays,
    sites: Sequence[str],
    rounds: int,
    start_round: int = 1,
    task: str = "student",
    kind: str = "student",
    settings: Mapping[str, Scalar] | None = None,
    aggregate: Aggregate = FEDAVG,
    on_reply: OnReply | None = None,
    on_round: OnRound | None = None,
    on_traffic: OnTraffic | None = None,
    quorum: int | None = None,
    retries: int = 0,
    deadline_s: float | None = None,
    on_failure: OnFailure = lambda _failure: None,
    choose: Choose | None = None,
    completed: Mapping[str, SiteReply] | None = None,
    checks: RoundChecks = NO_MORE_CHECKS,
    coding: CodedRounds | None = None,
    check_cancelled: Callable[[], None] = no_check,
    wait_s: float = 0.0,
) -> dict[str, np.ndarray]:
    """Run rounds ``start_round`` to ``rounds`` from ``arrays``, the model before them; return the last average.

    ``on_reply(round, site, reply)`` and ``on_round(RoundResult)`` are where to save: what ``on_reply`` gives back, if
    anything, is held in place of the reply, so that no more than one model lies in memory. True from ``on_round`` ends
    the loop. ``completed`` holds the replies of ``start_round`` that an interrupted run had: these sites are not asked
    again. ``on_traffic`` gets the bytes of every message, both ways, of ``kind`` and of the metrics beside it.
    ``quorum`` is how many replies suffice after ``deadline_s`` seconds or when the others have failed; without one
    every site is needed. A site that fails or is late is asked up to ``retries`` times more; ``on_failure`` is told
    each time, when the round goes on without it, and when that ends the run. ``choose`` says which sites a round asks
    (all without it); the average is over these, by n_k. ``checks`` is what a reply is held to beyond its own sense;
    what it refuses is a failure like any other; a site whose update alone was refused is asked again when the run
    goes on. ``coding`` is how models are written. Nodes may take ``wait_s`` seconds to appear.

    Raises RunCancelled as a site or ``check_cancelled`` raised it, and UserError as raised at the site, or
    ``federation.{bad_reply,site_failed,deadline,quorum,site_absent}``.
    """
    nodes = find_sites(grid, sites=sites, wait_s=wait_s)
    questions = partial(
        _Round, grid=grid, nodes=nodes, task=task, kind=kind, settings=settings or {}, on_reply=on_reply,
        on_traffic=on_traffic, on_failure=on_failure, quorum=quorum, retries=retries, deadline_s=deadline_s,
        checks=checks, check_cancelled=check_cancelled,
    )  # fmt: skip
    for number in range(start_round, rounds + 1):
        started = monotonic()
        known = (completed or {}) if number == start_round else {}
        asked = sites if choose is None else choose(number, lambda: _present(grid, nodes))
        coded = None if coding is None else coding.begin(number, arrays)
        question = questions(number=number, arrays=arrays if coded is None else coded.received, coded=coded)
        replies, failures = question.collect(asked, completed=known)
        averaged = aggregate(replies, question.arrays, num_refused=_num_refused(failures))
        arrays = averaged if coding is None or coded is None else coding.end(coded, averaged, sites=replies)
        result = question.result(arrays, replies, failures=failures, wall_s=monotonic() - started)
        if on_round is not None and on_round(result):
            break
    return dict(arrays)


def call_once(
    grid: Grid,
    *,
    task: str,
    kind: str,
    reply_kind: str | None = None,
    sites: Sequence[str],
    arrays: Arrays | None = None,
    settings: Mapping[str, Scalar] | None = None,
    round_number: int = 0,
    max_bytes: int | None = None,
    on_reply: OnReply | None = None,
    on_traffic: OnTraffic | None = None,
    retries: int = 0,
    may_lack: bool = False,
    deadline_s: float | None = None,
    on_failure: OnFailure = lambda _failure: None,
    completed: Mapping[str, SiteReply] | None = None,
    checks: RoundChecks = NO_MORE_CHECKS,
    check_cancelled: Callable[[], None] = no_check,
    wait_s: float = 0.0,
) -> dict[str, SiteReply]:
    """Ask the sites once (generator upload, mask sharing, evaluation); return replies by site.

    Sites at other machines are asked side by side, those of this process one after the other.
    The sites' arrays are theirs to choose, so they are checked for what no reply may have, not against what was sent.
    A reply of more than ``max_bytes`` is refused. Sites in ``completed`` are not asked again. With ``may_lack`` a site
    that fails is missing from what is returned; without it, its failure is raised. Other arguments and errors as in
    :func:`run_rounds`, without a quorum.
    """
    nodes = find_sites(grid, sites=sites, wait_s=wait_s)
    questions = _Round(
        grid=grid, nodes=nodes, task=task, kind=kind, reply_kind=reply_kind, number=round_number,
        settings=settings or {}, arrays=arrays or {}, on_reply=on_reply, on_traffic=on_traffic, on_failure=on_failure,
        quorum=0 if may_lack else None, retries=retries, deadline_s=deadline_s, checks=checks,
        check_cancelled=check_cancelled, same_arrays=False, max_bytes=max_bytes,
    )  # fmt: skip
    replies = {site: reply for site, reply in (completed or {}).items() if site in sites}
    for asked in [sites] if isinstance(grid, KnowsSites) else [[site] for site in sites]:
        replies |= questions.collect(asked, completed=replies)[0]
    return {site: replies[site] for site in sorted(replies)}


def quorum_of(config: FederationConfig, *, num_sites: int) -> int | None:
    """Return how many replies a round needs that asks ``num_sites``, None for all: half where nothing else is set."""
    if config.on_failure != "skip":
        return None
    return min(num_sites, config.quorum or math.ceil(num_sites / 2))


def _num_refused(failures: Mapping[str, UserError]) -> int:
    return sum(error.code == BAD_REPLY for error in failures.values())


def _present(grid: Grid, nodes: Mapping[str, int]) -> list[str]:
    """Return the sites that are there just now."""
    there = set(grid.get_node_ids())
    return [site for site, node_id in nodes.items() if node_id in there]


def _late(sites: Sequence[str], *, round_number: int) -> UserError:
    return UserError(
        "federation.deadline",
        what=f"Round {round_number} is over its deadline without {', '.join(sites)}.",
        why="Its reply had not come when the time was over.",
        fix="Give the sites more time (federation.deadline_s), go on without the slow ones (federation.on_failure = "
        "'skip'), or mend the slow site; then resume the run.",
    )


def _check_enough(
    replies: Mapping[str, SiteReply],
    *,
    sites: Sequence[str],
    failures: Mapping[str, UserError],
    quorum: int | None,
    round_number: int,
) -> None:
    if quorum is not None and len(replies) < quorum:
        reasons = "; ".join(f"{site}: {error.what}" for site, error in failures.items())
        raise UserError(
            QUORUM,
            what=f"Round {round_number} has {len(replies)} of the {quorum} replies that it needs ({reasons}).",
            why="An average over fewer sites than agreed is not made.",
            fix="Mend the named sites, then resume the run. A round that asks some of the sites is drawn anew then.",
        )

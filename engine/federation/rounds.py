"""The server's round loop, on any Flower Grid.

Flower's ``Strategy.start`` always begins at round 1 and cannot save, cancel or resume; this loop can. Replies are
handed over one by one, so that a caller who saves each loses at most one site's round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic

import numpy as np
from flwr.serverapp import Grid

from engine.errors import UserError
from engine.federation.aggregation import federated_average
from engine.federation.checks import NO_MORE_CHECKS, RoundChecks
from engine.federation.exchange import MAX_REPLY_BYTES, KnowsSites, OnTraffic, ask, find_sites, no_check
from engine.federation.payload import payload_bytes
from engine.federation.tasks import Arrays, Scalar, SiteReply, SiteRequest, message_type

FOREIGN_HEADER_BYTES = 10_000
"""How much longer than ours a header of an array may be that another program wrote (numpy's own limit)."""

OnReply = Callable[[int, str, SiteReply], None]
Aggregate = Callable[[Mapping[str, SiteReply], Arrays], dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What one round gave: the averaged arrays, and each site's figures by site, sorted by name."""

    round: int
    arrays: Arrays
    metrics: dict[str, dict[str, float]]
    num_examples: dict[str, int]
    failures: dict[str, UserError]
    """Sites without a usable reply; always empty unless a quorum was given."""
    wall_s: float

    def mean(self, name: str) -> float | None:
        """Return a metric's mean over sites weighted by n_k, or None where a site does not report it."""
        if not all(name in metrics for metrics in self.metrics.values()):
            return None
        total = sum(self.num_examples.values())
        return sum(self.metrics[site][name] * count for site, count in self.num_examples.items()) / total


OnRound = Callable[[RoundResult], bool | None]


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
    checks: RoundChecks = NO_MORE_CHECKS

    def collect(
        self, sites: Sequence[str], *, completed: Mapping[str, SiteReply]
    ) -> tuple[dict[str, SiteReply], dict[str, UserError]]:
        """Return (replies sorted by site, failures); raise when they do not suffice."""
        replies = {site: completed[site] for site in sites if site in completed}
        failures: dict[str, UserError] = {}
        for site, reply in replies.items():
            self._check(reply, site=site)
        for site in self._outsized(replies):
            del replies[site]  # the run was stopped by it; the site has been mended, or is refused again
        task = message_type(self.task)
        requests = [
            SiteRequest(site, task, self.number, self.settings, self.arrays) for site in sites if site not in replies
        ]
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
            try:
                if isinstance(answer, UserError):
                    raise answer
                self._check(answer, site=site)
            except UserError as error:
                if self.quorum is None:
                    raise
                failures[site] = error
                continue
            replies[site] = answer
            if self.on_reply is not None:
                self.on_reply(self.number, site, answer)
        for site, error in self._outsized(replies).items():
            if self.quorum is None:
                raise error
            del replies[site]
            failures[site] = error
        _check_enough(replies, sites=sites, failures=failures, quorum=self.quorum, round_number=self.number)
        return {site: replies[site] for site in sorted(replies)}, failures

    def _check(self, reply: SiteReply, *, site: str) -> None:
        sent = self.arrays if self.same_arrays else None
        self.checks.check(reply, site=site, round_number=self.number, sent=sent)

    def _outsized(self, replies: Mapping[str, SiteReply]) -> dict[str, UserError]:
        if not self.same_arrays:
            return {}
        return self.checks.outsized(replies, sent=self.arrays, round_number=self.number)

    def _max_bytes(self) -> int:
        if not self.same_arrays:
            return MAX_REPLY_BYTES
        return payload_bytes(self.arrays) + FOREIGN_HEADER_BYTES * len(self.arrays)


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
    aggregate: Aggregate = federated_average,
    on_reply: OnReply | None = None,
    on_round: OnRound | None = None,
    on_traffic: OnTraffic | None = None,
    quorum: int | None = None,
    deadline_s: float | None = None,
    completed: Mapping[str, SiteReply] | None = None,
    checks: RoundChecks = NO_MORE_CHECKS,
    check_cancelled: Callable[[], None] = no_check,
    wait_s: float = 0.0,
) -> dict[str, np.ndarray]:
    """Run rounds ``start_round`` to ``rounds`` from ``arrays``, the model before them; return the last average.

    ``on_reply(round, site, reply)`` and ``on_round(RoundResult)`` are where to save; True from ``on_round`` ends the
    loop. ``completed`` holds the replies of ``start_round`` that an interrupted run had: these sites are not asked
    again. ``on_traffic`` gets the bytes of every message, both ways, of ``kind`` and of the metrics beside it.
    ``quorum`` is how many replies suffice after ``deadline_s`` seconds or when the others have failed; without one
    every site is needed. ``checks`` is what a reply is held to beyond its own sense; what it refuses is a failure like
    any other, and a site whose update alone was refused is asked again when the run goes on. Nodes may take ``wait_s``
    seconds to appear.

    Raises RunCancelled as a site or ``check_cancelled`` raised it, and UserError as raised at the site, or
    ``federation.{bad_reply,site_failed,deadline,quorum,site_absent}``.
    """
    nodes = find_sites(grid, sites=sites, wait_s=wait_s)
    questions = partial(
        _Round,
        grid=grid,
        nodes=nodes,
        task=task,
        kind=kind,
        settings=settings or {},
        on_reply=on_reply,
        on_traffic=on_traffic,
        quorum=quorum,
        deadline_s=deadline_s,
        checks=checks,
        check_cancelled=check_cancelled,
    )
    for number in range(start_round, rounds + 1):
        started = monotonic()
        known = completed if completed is not None and number == start_round else {}
        replies, failures = questions(number=number, arrays=arrays).collect(sites, completed=known)
        arrays = aggregate(replies, arrays)
        metrics = {site: dict(reply.metrics) for site, reply in replies.items()}
        counts = {site: reply.num_examples for site, reply in replies.items()}
        result = RoundResult(number, arrays, metrics, counts, failures, monotonic() - started)
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
    on_reply: OnReply | None = None,
    on_traffic: OnTraffic | None = None,
    deadline_s: float | None = None,
    completed: Mapping[str, SiteReply] | None = None,
    checks: RoundChecks = NO_MORE_CHECKS,
    check_cancelled: Callable[[], None] = no_check,
    wait_s: float = 0.0,
) -> dict[str, SiteReply]:
    """Ask the sites once (generator upload, mask sharing, evaluation); return replies by site.

    Sites at other machines are asked side by side, those of this process one after the other.
    The sites' arrays are theirs to choose, so they are checked for what no reply may have, not against what was sent.
    Sites in ``completed`` are not asked again. Other arguments and errors as in :func:`run_rounds`, without a quorum.
    """
    nodes = find_sites(grid, sites=sites, wait_s=wait_s)
    questions = _Round(
        grid=grid,
        nodes=nodes,
        task=task,
        kind=kind,
        reply_kind=reply_kind,
        number=round_number,
        settings=settings or {},
        arrays=arrays or {},
        on_reply=on_reply,
        on_traffic=on_traffic,
        quorum=None,
        deadline_s=deadline_s,
        checks=checks,
        check_cancelled=check_cancelled,
        same_arrays=False,
    )
    replies = {site: reply for site, reply in (completed or {}).items() if site in sites}
    for asked in [sites] if isinstance(grid, KnowsSites) else [[site] for site in sites]:
        replies |= questions.collect(asked, completed=replies)[0]
    return {site: replies[site] for site in sorted(replies)}


def _check_enough(
    replies: Mapping[str, SiteReply],
    *,
    sites: Sequence[str],
    failures: Mapping[str, UserError],
    quorum: int | None,
    round_number: int,
) -> None:
    late = [site for site in sites if site not in replies and site not in failures]
    if quorum is None and late:
        raise UserError(
            "federation.deadline",
            what=f"Round {round_number} is over its deadline without {', '.join(late)}.",
            why="Without a quorum every site's reply is needed.",
            fix="Give the sites more time, set a quorum, or mend the slow site; then resume the run.",
        )
    if quorum is not None and len(replies) < quorum:
        reasons = "; ".join([*(f"{site}: {error}" for site, error in failures.items()), *(f"{s}: late" for s in late)])
        raise UserError(
            "federation.quorum",
            what=f"Round {round_number} has {len(replies)} of the {quorum} replies that it needs ({reasons}).",
            why="An average over fewer sites than agreed is not made.",
            fix="Mend the named sites, then resume the run.",
        )

"""Asking sites over any Flower Grid: who they are, one message each, replies as they come, failures by name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, sleep
from typing import Protocol, runtime_checkable

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from engine.errors import UserError, one_line
from engine.federation.backends.inprocess import InProcessGrid, LocalError
from engine.federation.checks import bad_reply
from engine.federation.client_app import WHO_ACTION, WHO_TASK, SiteError
from engine.federation.payload import Malformed, content_bytes, read_reply, request_content, to_payload
from engine.federation.tasks import SiteReply, SiteRequest
from engine.types import Direction, RunCancelled, Traffic

POLL_S = 0.5
AT_ONCE = 4
"""Replies from other machines that are in memory together: more wait at the SuperLink (ours)."""
MAX_REASON_LETTERS, MAX_RECORD_LETTERS = 600, 10_000
"""Of what a site says of its failure: of an exception's text, and of each text of a list of findings (ours)."""
MAX_REPLY_BYTES = 8 * 1024**3
"""Of a reply whose size follows from nothing else; the paper's ControlNet has 1.5 GB (ours)."""
OnTraffic = Callable[[Traffic], None]


@runtime_checkable
class KnowsSites(Protocol):
    """A Grid that knows by itself which node is which site, and waits for those that are not connected."""

    def site_nodes(self, sites: Sequence[str], *, wait_s: float) -> dict[str, int]:
        """Return the node id of each of ``sites``; ``UserError`` ``federation.site_absent`` names the others."""


def no_check() -> None:
    """Stand in for ``check_cancelled`` where nobody can ask for a stop."""


def find_sites(grid: Grid, *, sites: Sequence[str], wait_s: float = 0.0) -> dict[str, int]:
    """Return the node id of each of ``sites``, asking every node for its name; nodes may appear for ``wait_s``.

    Raises ``UserError`` ``federation.site_absent`` when a site has no node by then, ``federation.site_twice`` when
    two nodes give one name.
    """
    if isinstance(grid, KnowsSites):
        return grid.site_nodes(sites, wait_s=wait_s)
    started = monotonic()
    names: dict[int, str] = {}
    while True:
        new = [node_id for node_id in grid.get_node_ids() if node_id not in names]
        messages = [Message(RecordDict(), dst_node_id=node_id, message_type=WHO_TASK) for node_id in new]
        for reply in grid.send_and_receive(messages, timeout=wait_s or None) if messages else ():
            if reply.has_error():
                raise failure_of(reply.error, site=f"node {reply.metadata.src_node_id}")
            names[reply.metadata.src_node_id] = str(reply.content[WHO_ACTION]["name"])
        nodes = {name: node_id for node_id, name in names.items()}
        _refuse_twins(names)
        absent = [site for site in sites if site not in nodes]
        if not absent:
            return {site: nodes[site] for site in sites}
        if monotonic() - started >= wait_s:
            raise UserError(
                "federation.site_absent",
                what=f"No node answers for {', '.join(absent)}; nodes: {', '.join(sorted(nodes)) or 'none'}.",
                why="Every site of the run has to be there before the first round.",
                fix="Start the missing nodes, or leave these sites out of data.sites.",
            )
        sleep(POLL_S)


def ask(
    grid: Grid,
    requests: Sequence[SiteRequest],
    *,
    nodes: Mapping[str, int],
    kind: str,
    reply_kind: str | None = None,
    deadline_s: float | None = None,
    max_bytes: int = MAX_REPLY_BYTES,
    on_traffic: OnTraffic | None = None,
    check_cancelled: Callable[[], None] = no_check,
) -> Iterator[tuple[str, SiteReply | UserError]]:
    """Send the requests and yield (site, reply or failure) as each arrives; stop after ``deadline_s`` seconds.

    Arguments as of :class:`Questions`. RunCancelled is raised, never yielded.
    """
    asked = Questions(
        grid, requests, nodes=nodes, kind=kind, reply_kind=reply_kind, max_bytes=max_bytes, on_traffic=on_traffic
    )
    started = monotonic()
    while asked.waiting and (deadline_s is None or monotonic() - started < deadline_s):
        any_came = False
        for site, answer in asked.answers(check_cancelled=check_cancelled):
            any_came = True
            yield site, answer
            del answer  # it is the reader's alone: the next one comes before this name is given away
        if not any_came and not isinstance(grid, InProcessGrid):
            sleep(POLL_S)


class Questions:
    """Requests that have been sent, and whose replies are fetched as they come.

    ``kind`` names what the arrays are (a kind of the catalogue) in the traffic records, which are made for what
    is sent and for what comes back (of ``reply_kind`` where that is another). A reply whose arrays have more than
    ``max_bytes``, or that is not what a site writes, is the failure ``federation.bad_reply``.
    """

    def __init__(
        self,
        grid: Grid,
        requests: Sequence[SiteRequest],
        *,
        nodes: Mapping[str, int],
        kind: str,
        reply_kind: str | None = None,
        max_bytes: int = MAX_REPLY_BYTES,
        on_traffic: OnTraffic | None = None,
    ) -> None:
        self._grid, self._came, self._max_bytes, self._on_traffic = grid, reply_kind or kind, max_bytes, on_traffic
        encoded: dict[int, ArrayRecord] = {}
        messages = []
        for request in requests:
            if id(request.arrays) not in encoded:
                encoded[id(request.arrays)] = to_payload(request.arrays)
            content = request_content(request, arrays=encoded[id(request.arrays)])
            group_id = str(request.round)
            messages.append(Message(content, nodes[request.site], request.task, group_id=group_id))
            _count(on_traffic, content, site=request.site, direction="down", kind=kind, round_number=request.round)
        self._waiting = dict(zip(grid.push_messages(messages), requests, strict=True))

    @property
    def waiting(self) -> tuple[str, ...]:
        """The sites that have not answered."""
        return tuple(request.site for request in self._waiting.values())

    def answers(self, *, check_cancelled: Callable[[], None]) -> Iterator[tuple[str, SiteReply | UserError]]:
        """Yield (site, reply or failure) of those that are there by now; in one process the next site's."""
        for reply in _pulled(self._grid, list(self._waiting), check_cancelled=check_cancelled):
            # An error for a lost node comes from the SuperLink, so the source does not tell the site.
            request = self._waiting.pop(reply.metadata.reply_to_message_id, None)
            if request is None:  # it has been answered before, or asks for nothing of ours
                continue
            if reply.has_error():
                yield request.site, failure_of(reply.error, site=request.site)
                continue
            about = {"site": request.site, "kind": self._came, "round_number": request.round}
            _count(self._on_traffic, reply.content, direction="up", **about)
            yield request.site, _read(reply, request=request, max_bytes=self._max_bytes)


def _pulled(grid: Grid, message_ids: Sequence[str], *, check_cancelled: Callable[[], None]) -> Iterator[Message]:
    """Give the replies that are there, at most ``AT_ONCE`` in memory; in one process the next site's."""
    step = len(message_ids) if isinstance(grid, InProcessGrid) else AT_ONCE
    for start in range(0, len(message_ids), step):
        check_cancelled()
        yield from grid.pull_messages(message_ids[start : start + step])


def _read(message: Message, *, request: SiteRequest, max_bytes: int) -> SiteReply | UserError:
    try:
        return read_reply(message, max_bytes=max_bytes)
    except Malformed as fault:
        return bad_reply(request.site, round_number=request.round, problem=str(fault))


def failure_of(error: Error, *, site: str) -> UserError:
    """Return the exception for an error reply: a UserError as it was raised at the site, else one that names it.

    Raises RunCancelled when that is what the error reports.
    """
    if isinstance(error, LocalError):
        cause: BaseException = error.cause
        if isinstance(cause, SiteError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            return cause
        failure = _site_failed(site, reason=f"{type(cause).__name__}: {cause}")
        failure.__cause__ = cause
        return failure
    return failure_told(error.reason or f"error code {error.code}", site=site)


def failure_told(reason: str, *, site: str) -> UserError:
    """Return the exception for the text of a ``SiteError``, or of another that Flower has written down.

    Raises RunCancelled when that is what it reports.
    """
    if RunCancelled.__name__ in reason.split(":<")[0]:
        raise RunCancelled(f"cancelled at site {site}")
    record = _record_in(reason)
    if record.keys() >= {"code", "what", "why", "fix"}:
        code, what, why, fix = (
            _cut(record[key], site=site, most=MAX_RECORD_LETTERS) for key in ("code", "what", "why", "fix")
        )
        return UserError(code, what=what if site in what else f"Site {site}: {what}", why=why, fix=fix)
    return _site_failed(site, reason=record.get("what", reason))


def _site_failed(site: str, *, reason: str) -> UserError:
    return UserError(
        "federation.site_failed",
        what=f"Site {site} failed: {_cut(reason, site=site)}.",
        why="Its part of the round is missing.",
        fix=f"Mend the cause at {site}, then resume the run.",
    )


def _cut(words: str, *, site: str, most: int = MAX_REASON_LETTERS) -> str:
    """Return ``words`` of a site in a line that people read: a state dict that does not fit names each of its keys."""
    words = one_line(words)
    if len(words) <= most:
        return words
    return f"{words[:most]} ... (the whole text is in the log of {site})"


def _record_in(reason: str) -> dict[str, str]:
    # Flower wraps an exception's text as "<class '...'>:<'TEXT'>"; SiteError's text is one JSON object.
    start, end = reason.find("{"), reason.rfind("}")
    try:
        record = json.loads(reason[start : end + 1])
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or brackets in brackets
        return {}
    if not isinstance(record, dict):
        return {}
    # What is no text is not taken for one; half of a letter, which JSON can hold, could be written down nowhere.
    texts = {key: value for key, value in record.items() if isinstance(value, str)}
    return {key: value.encode("utf-8", "replace").decode("utf-8") for key, value in texts.items()}


def _count(
    on_traffic: OnTraffic | None, content: RecordDict, *, site: str, direction: Direction, kind: str, round_number: int
) -> None:
    if on_traffic is None:
        return
    arrays, scalars = content_bytes(content)
    if arrays:
        on_traffic(Traffic(site, direction, kind, arrays, round_number))
    on_traffic(Traffic(site, direction, "metrics", scalars, round_number))


def _refuse_twins(names: Mapping[int, str]) -> None:
    twins = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twins:
        raise UserError(
            "federation.site_twice",
            what=f"Two nodes both say that they are {', '.join(twins)}.",
            why="A site's images must count once.",
            fix="Give every node a site name of its own.",
        )

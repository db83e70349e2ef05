"""How far sites elsewhere are: a small question beside each longer one, which they answer while they work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic

from flwr.app import ConfigRecord, Message, RecordDict

from engine.federation.backends.progress import BytesSoFar, progress_of
from engine.federation.payload import RUN_RECORD, Malformed, read_reply
from engine.federation.task_titles import HOW_FAR_FROM
from engine.federation.tasks import APPROVAL, AT_WORK, DESCRIBE, HOW_FAR, ROUND
from engine.types import Traffic

QUICK = (APPROVAL, DESCRIBE)
"""Questions that are answered at once."""
EVERY_S = 2.0
"""A site is asked no more often, whatever comes back at once: of one that is away the SuperLink says so (ours)."""
FORGOTTEN_S = 60.0
"""A site that has not said how far it is for so long is asked anew: its program may have been killed (ours)."""

Tell = Callable[[str, int, int, int], None]


@dataclass(frozen=True)
class _Site:
    """A site, and the question that it works on."""

    name: str
    node_id: int
    task: str
    round: int
    key: str


class HowFar:
    """Keeps for each site the question that it works on, and the small one beside it.

    ``tell(site, round, step, total)`` hears what sites say, ``count`` the bytes of it. Nothing waits for such an
    answer, and nothing fails without one.
    """

    def __init__(self, run_id: str, *, tell: Tell, count: Callable[[Traffic], None]) -> None:
        self._run_id, self._tell = run_id, tell
        self._at_work: dict[str, _Site] = {}
        self._open: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}
        self._bytes = BytesSoFar(count, number=HOW_FAR_FROM)

    def begun(self, messages: Sequence[Message], keys: Iterable[str], *, sites: Mapping[int, str]) -> None:
        """Note the questions that were sent as ``keys``; a site's earlier one is no longer waited for."""
        for message, key in zip(messages, keys, strict=True):
            about = message.metadata
            if about.message_type not in QUICK:
                name, number = sites[about.dst_node_id], int(about.group_id or 0)
                self._at_work[name] = _Site(name, about.dst_node_id, about.message_type, number, key)

    def ended(self, key: str) -> None:
        """Note that the question ``key`` has been answered, in whatever way."""
        self._at_work = {name: site for name, site in self._at_work.items() if site.key != key}

    @property
    def keys(self) -> tuple[str, ...]:
        """The small questions that have no answer yet."""
        return tuple(self._open)

    def ask(self, push: Callable[[Iterable[Message]], Iterable[str]]) -> None:
        """Ask those who work, and are not asked just now."""
        waits, now = set(self._open.values()), monotonic()
        due = [
            site
            for site in self._at_work.values()
            if now - self._asked_at.get(site.name, -inf) > (FORGOTTEN_S if site.name in waits else EVERY_S)
        ]
        if not due:
            return
        messages = [_message(site, self._run_id) for site in due]
        for site, message in zip(due, messages, strict=True):
            self._asked_at[site.name] = now
            self._bytes.add(site.name, "down", message.content)
        names = {site.name for site in due}
        self._open = {key: name for key, name in self._open.items() if name not in names}
        # One that the SuperLink does not take, as for a site that was revoked meanwhile, has no id.
        self._open |= {key: site.name for key, site in zip(push(messages), due, strict=True) if key}

    def heard(self, reply: Message) -> bool:
        """Return whether it is an answer to a small question; then what it says is told, where it can be."""
        name = self._open.pop(reply.metadata.reply_to_message_id, None)
        if name is None:
            return reply.metadata.message_type == HOW_FAR  # to one that was forgotten
        site = self._at_work.get(name)
        if reply.has_content():
            self._bytes.add(name, "up", reply.content)
            at = _progress(reply, site)
            if site is not None and at is not None:
                self._tell(name, site.round, *at)
        return True


def _message(site: _Site, run_id: str) -> Message:
    return Message(RecordDict({RUN_RECORD: ConfigRecord({"id": run_id})}), site.node_id, HOW_FAR, group_id="0")


def _progress(reply: Message, site: _Site | None) -> tuple[int, int] | None:
    """Return (step, total) of a site that works on the question that it is waited for; None for everything else."""
    try:
        said = read_reply(reply, max_bytes=0)
    except Malformed:
        return None
    if site is None or said.texts.get(AT_WORK) != site.task or said.metrics.get(ROUND) != site.round:
        return None
    return progress_of(said)

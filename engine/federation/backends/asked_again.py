"""Questions about long work at sites of their own: a site says how far it is, and is asked again until it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from flwr.app import ConfigRecord, Message, RecordDict

from engine.federation.backends.progress import BytesSoFar, progress_of
from engine.federation.payload import SETTINGS, Malformed, read_reply, records
from engine.federation.sites import QUERIES_FROM, Desk
from engine.federation.tasks import AT_WORK, BESIDE

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
"""Before a site is asked again: doubled each time (ours)."""

Push = Callable[[Iterable[Message]], Iterable[str]]


@dataclass
class _Question:
    """One that a site has not answered in full: ``sent_as`` is its latest message, "" while nobody is asked."""

    site: str
    message: Message
    sent_as: str
    pause_s: float = FIRST_PAUSE_S
    due: float = 0.0


class AskedAgain:
    """The questions of one desk, by the message that was sent first: whoever asked knows no other."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._open: dict[str, _Question] = {}
        self._bytes = BytesSoFar(desk.server.traffic, number=QUERIES_FROM)

    def asks(self, messages: Sequence[Message]) -> bool:
        """Return whether these are such questions; they bring no arrays."""
        return all(records(message.content, ConfigRecord)[SETTINGS].get(BESIDE) for message in messages)

    def push(self, messages: Sequence[Message], push: Push, *, sites: Mapping[int, str]) -> list[str]:
        """Send questions; return the ids by which whoever asked knows them. ``sites`` has the name of each node."""
        kept = [_again(message) for message in messages]  # as they are before they are packed
        keys = list(push(messages))
        for key, message in zip(keys, kept, strict=True):
            self._open[key] = _Question(sites[message.metadata.dst_node_id], message, key)
        return keys

    def knows(self, keys: Iterable[str]) -> bool:
        """Return whether any of the messages is such a question."""
        return not self._open.keys().isdisjoint(keys)

    def push_due(self, push: Push) -> None:
        """Ask those again whose pause is over."""
        for question in self._open.values():
            if not question.sent_as and monotonic() >= question.due:
                self._bytes.add(question.site, "down", question.message.content)
                (question.sent_as,) = push([_again(question.message)])

    def sent(self, keys: Iterable[str]) -> list[str]:
        """Return the messages that wait for an answer, of the questions ``keys``."""
        return [self._open[key].sent_as for key in keys if key in self._open and self._open[key].sent_as]

    def answered(self, reply: Message) -> Message | None:
        """Return the reply as one to the question; None where the site is still at work on it."""
        asked = reply.metadata.reply_to_message_id
        key = next((key for key, question in self._open.items() if question.sent_as == asked), None)
        if key is None:
            return reply
        question, at = self._open[key], _progress(reply)
        if at is None:
            del self._open[key]
            reply.metadata.__dict__["_reply_to_message_id"] = key
            return reply
        question.sent_as, question.due = "", monotonic() + question.pause_s
        question.pause_s = min(2 * question.pause_s, LONGEST_PAUSE_S)
        self._bytes.add(question.site, "up", reply.content)
        self.desk.listener.progress(question.site, 0, *at)
        return None


def _again(message: Message) -> Message:
    """Return the same message, not sent yet."""
    about = message.metadata
    content = RecordDict(dict(message.content))
    return Message(content, about.dst_node_id, about.message_type, group_id=about.group_id)


def _progress(reply: Message) -> tuple[int, int] | None:
    """Return (step, total) of a site that says that it is at work; None for every other reply."""
    if not reply.has_content() or not any(AT_WORK in texts for texts in records(reply.content, ConfigRecord).values()):
        return None
    try:
        return progress_of(read_reply(reply, max_bytes=0))
    except Malformed:
        return None

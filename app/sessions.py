"""Whose browser tab a session is, how many of them and of their connections a visitor may have, and unread answers.

Gradio keeps the state of so many sessions, and drops the one that was used longest ago; it keeps answers that nobody
reads for ever. Whoever sends events under ever new names would so end the sessions of others and fill the memory.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.server_messages import ProcessCompletedMessage, ProcessGeneratingMessage

from app import text
from app.access import LOCAL, Visitor
from app.event_checks import Refusal
from app.sign_in import SESSION_HOURS

MAX_SESSIONS = 4000
MAX_EACH = 40
"""Tabs of one visitor: a tenth of those whose state is kept (ours)."""
MAX_STREAMS = 320
"""Of all visitors: a page keeps two, one for answers and one that says that it is there. Less than the connections of
the server, so that pages can still be asked for."""
FREE_TO_OWN = 4
"""A visitor may have a fourth of what is free (ours), 64 of an idle page, as with events."""
UNREAD_S = 60.0
"""How long an answer waits for a reader: a page reads its answers while they are made, and comes back at once."""


@dataclass
class Tab:
    """One session: whose it is, how many streams read its answers, and since when none does."""

    owner: str
    used_at: float
    quiet_since: float
    readers: int = 0


class Sessions:
    """The sessions of ``page``. For one event loop."""

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page
        self._tabs: OrderedDict[str, Tab] = OrderedDict()
        """The one that was used longest ago comes first."""
        self._streams: Counter[str] = Counter()

    def bind(self, session: str, by: Visitor) -> str:
        """Note whose session it is, and refuse it to others; a visitor's oldest gives way to one tab too many."""
        now = time.monotonic()
        while self._tabs and (first := next(iter(self._tabs.items())))[1].used_at < now - 3600 * SESSION_HOURS:
            del self._tabs[first[0]]
        tab = self._tabs.get(session)
        if tab is None:
            self._make_room(by)
            tab = self._tabs[session] = Tab(by.key, used_at=now, quiet_since=now)
        if tab.owner != by.key:
            raise Refusal(403, "This session is somebody else's.")
        tab.used_at = now
        self._tabs.move_to_end(session)
        return session

    def is_known(self, session: str) -> bool:
        """Return whether an event of the session was taken, so that there may be something to read."""
        return session in self._queue.pending_messages_per_session

    def may_end(self, event: str, session: str) -> bool:
        """Return whether an event is the session's own, or over."""
        found = self._queue.event_ids_to_events.get(event)
        return found is None or found.session_hash == session

    @contextmanager
    def streaming(self, session: str, by: Visitor, *, reads: bool) -> Iterator[None]:
        """Count a connection that stays open while the body lasts, or raise :class:`Refusal`; ``reads``: answers."""
        free, owner = MAX_STREAMS - self._streams.total(), by.key
        if free <= 0 or (by != LOCAL and self._streams[owner] * FREE_TO_OWN >= free):
            raise Refusal(429, text.TABS_OPEN, retry_s=60)
        tab = self._tabs[session]
        self._streams[owner] += 1
        tab.readers += reads
        try:
            yield
        finally:
            tab.readers -= reads
            tab.quiet_since = time.monotonic()
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]

    def unread(self) -> Counter[str]:
        """Return how many answers of each visitor wait for a reader; those that nobody has come for are gone then."""
        found: Counter[str] = Counter()
        for session, messages in list(self._queue.pending_messages_per_session.items()):
            count = sum(isinstance(one, ProcessCompletedMessage | ProcessGeneratingMessage) for one in messages._queue)
            tab = self._tabs.get(session)
            if not count:
                continue
            late = tab is None or (not tab.readers and time.monotonic() - tab.quiet_since > UNREAD_S)
            if late and not self._is_busy(session):
                self._forget_answers(session)
            elif tab is not None:
                found[tab.owner] += count
        return found

    @property
    def _queue(self) -> Any:
        return self._page._queue

    def _is_busy(self, session: str) -> bool:
        """Return whether an event of the session waits or is at work: Gradio then needs a place for its answer."""
        events = self._queue.pending_event_ids_session.get(session, ())
        return any(event in self._queue.event_ids_to_events for event in events)

    def _make_room(self, by: Visitor) -> None:
        if len(self._tabs) >= MAX_SESSIONS:
            self._tabs.popitem(last=False)
        if by == LOCAL:
            return
        own = [session for session, tab in self._tabs.items() if tab.owner == by.key]
        idle = (session for session in own if not self._tabs[session].readers and not self._is_busy(session))
        for _ in range(len(own) - MAX_EACH + 1):
            oldest = next(idle, None)
            if oldest is None:
                raise Refusal(429, text.TABS_OPEN, retry_s=60)
            self._forget(oldest)

    def _forget(self, session: str) -> None:
        del self._tabs[session]
        self._forget_answers(session)
        states = self._page.state_holder
        states.session_data.pop(session, None)
        states.time_last_used.pop(session, None)

    def _forget_answers(self, session: str) -> None:
        self._queue.pending_messages_per_session.pop(session, None)
        self._queue.pending_event_ids_session.pop(session, None)

"""How many events may wait for their answer, or answers for their reader: so many of one visitor, so many of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from app import text
from app.access import LOCAL, NOBODY, SCOPE_KEY, Visitor
from app.event_checks import Refusal
from app.sessions import Sessions

MAX_EACH = 40
"""Of one visitor: a browser tab that is opened sends fifteen, and a busy machine answers them one by one (ours)."""
MAX_ALL = 400
"""Of all visitors (ours)."""
FREE_TO_OWN = 9
"""A visitor may have a ninth of what is free (ours): forty of an idle page, and fewer the more others have. Whoever
sends events under ten names, a cookie each, so leaves places for the eleventh."""


class Pending:
    """Counts the events in the queue of ``page``, at work, on their way there, and those whose answer nobody has read:
    it is kept until then. For one event loop."""

    def __init__(self, page: gr.Blocks, sessions: Sessions) -> None:
        self._page, self._sessions = page, sessions
        self._arriving: Counter[str] = Counter()

    @contextmanager
    def taking(self, by: Visitor) -> Iterator[None]:
        """Let one more event of a visitor arrive while the body lasts, or raise :class:`Refusal`.

        On a page that only this machine can reach, all tabs are one visitor's: only the common bound holds there.
        """
        waiting, owner = self._counted() + self._sessions.unread() + self._arriving, by.key
        if by != LOCAL and waiting[owner] >= MAX_EACH:
            raise Refusal(429, text.QUEUE_EACH.format(most=MAX_EACH), retry_s=5)
        free = MAX_ALL - waiting.total()
        if free <= 0 or (by != LOCAL and waiting[owner] * FREE_TO_OWN >= free):
            raise Refusal(429, text.QUEUE_ALL.format(waiting=waiting.total()), retry_s=60)
        self._arriving[owner] += 1
        try:
            yield
        finally:
            self._arriving[owner] -= 1
            if not self._arriving[owner]:
                del self._arriving[owner]

    def _counted(self) -> Counter[str]:
        """Return how many events of each visitor wait or are at work."""
        queue = self._page._queue
        events = [event for waiting in queue.event_queue_per_concurrency_id.values() for event in waiting.queue]
        events += [event for job in queue.active_jobs if job for event in job]
        # Gradio keeps the request, and with it whose it is.
        return Counter(event.request.scope.get(SCOPE_KEY, NOBODY).key for event in events)

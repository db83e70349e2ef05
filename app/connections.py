"""What one connection may take before the gate sees a request: so long a head, so much time for it, so slow a reader.

Uvicorn waits for ever for the end of a request's head and keeps all that comes, and waits as long for a reader; four
hundred connections that say nothing, or one that never ends its first header, would be the end of the page.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import access
from app.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers (ours; browsers send 2 kB)."""
HEAD_S = 20.0
"""From the first byte of a request, or the connection, to the end of its headers, and of what comes after an answer to
the end of the next request's (ours)."""
STALLED_S = 60.0
"""How long an answer waits for a reader to take the next 48 kB of it (ours)."""
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Bounded(HttpToolsProtocol):
    """One connection of the page's server."""

    most_of_address: int | None = None
    """Connections that one address may have; None where one address may be everybody's."""
    proxies: tuple[str, ...] = ()
    _limit: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_head = True
    """Whether what comes next is of a head: so it is before the first request, and after the end of each."""
    _has_ended = False
    """Whether what came last was not of that head alone, but had the end of another, or of a body."""
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._begin_head()
        if self._is_one_too_many():
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._limit, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._has_ended = False
        super().data_received(data)
        if self._is_idle():  # what comes may be of a body that nobody reads any more
            self._begin_head()
        if not self._in_head or self._has_ended or self.transport.is_closing():
            return
        self._begin_head()
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._end_with(LONG)

    def on_message_begin(self) -> None:
        self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._has_ended = False, True
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._has_ended, self._head_bytes = True, True, 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def _begin_head(self) -> None:
        if self._limit is None:
            self._limit = self.loop.call_later(HEAD_S, self._end_with, LATE)

    def _end_with(self, answer: bytes) -> None:
        """End the connection, with ``answer`` where none is on its way."""
        if self._is_idle():
            self.transport.write(answer)
        self.transport.close()

    def _is_idle(self) -> bool:
        """Return whether no request waits for its answer, whatever may still come of one that has it."""
        return self.cycle is None or self.cycle.response_complete

    def _is_one_too_many(self) -> bool:
        address = self.client[0] if self.client else ""
        if self.most_of_address is None or access.is_loopback(address):
            return False
        if access.is_trusted_proxy(address, self.proxies):
            return False
        addresses = [other.client[0] for other in self.connections if other.client is not None]
        return sum(access.household(one) == access.household(address) for one in addresses) > self.most_of_address


def protocol(settings: Settings, *, most: int) -> type[Bounded]:
    """Return what serves a connection; of ``most`` in all one address may have half, unless it is a proxy's.

    On loopback, and in a Space, what asks is a proxy that nobody has named.
    """
    limits: dict[str, Any] = {"proxies": settings.proxy_addresses}
    return type("Bounded", (Bounded,), limits | {"most_of_address": None if settings.space else most // 2})

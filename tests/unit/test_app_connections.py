"""What one connection may take of the page's server: a head's bytes and time, a reader's time, an address's share."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from app import connections
from app.settings import Settings
from tests.patience import WAIT_S, wait

LARGE = 64 * 2**20
"""More than the buffers of a connection."""


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer a body with its length, and a wish for much with much."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    told = bytes(LARGE) if scope["path"] == "/large" else str(len(body)).encode()
    size = [(b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": size})
    await send({"type": "http.response.body", "body": told})


@contextmanager
def served(**settings: Any) -> Iterator[tuple[tuple[str, int], uvicorn.Server]]:
    """Serve ``answering`` by the page's protocol; yield the address, and the server."""
    listening = socket.create_server(("127.0.0.1", 0))
    http = connections.protocol(Settings.model_validate(settings), most=4)
    server = uvicorn.Server(uvicorn.Config(answering, http=http, ws="none", lifespan="off", log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        wait(lambda: server.started)
        yield listening.getsockname(), server
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


def calling(address: tuple[str, int], *, takes_bytes: int | None = None) -> socket.socket:
    called = socket.socket()
    if takes_bytes:
        called.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes_bytes)
    called.settimeout(WAIT_S)
    called.connect(address)
    return called


def rest(called: socket.socket) -> bytes:
    """Return all that comes until the other side ends."""
    found = b""
    try:
        while part := called.recv(2**16):
            found += part
    except ConnectionResetError:
        pass
    return found


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


def test_an_honest_request_is_answered_also_the_second_of_a_connection() -> None:
    with served() as (address, _), calling(address) as called:
        for body in (b"x" * 200_000, b"y"):
            called.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            told = b""
            while b"\r\n\r\n%d" % len(body) not in told:
                part = called.recv(2**16)
                assert part, told
                told += part
            assert told.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begin", [HEAD + b"X: ", b"GET /", HEAD, b"\r\n"], ids=["value", "line", "many", "empty"])
def test_a_head_that_never_ends_is_cut_off(begin: bytes) -> None:
    part = {HEAD: b"X: y\r\n", b"\r\n": b"\r\n"}.get(begin, b"a") * 4096
    with served() as (address, _), calling(address) as called:
        called.sendall(begin)
        sent = len(begin)
        try:
            while sent < 32 * 2**20:
                called.sendall(part)
                sent += len(part)
        except OSError:
            return
        pytest.fail("all of it was taken")


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET / HT", HEAD, HEAD + b"\r\nGET / HT"])
def test_who_says_nothing_loses_the_place(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with served() as (address, _), calling(address) as called:
        called.sendall(said)
        assert rest(called).endswith(connections.LATE)


@pytest.mark.parametrize("size", [1, 1000])
def test_what_comes_after_an_answer_keeps_no_place(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that was not waited for: a page answers before it where it refuses a request, or needs none of it."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(f"{__name__}.answering", refusing)
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with served() as (address, _), calling(address) as called:
        called.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        assert called.recv(12) == b"HTTP/1.1 401"
        called.sendall(b"x")  # ends the wait of a connection that is kept for the next request
        assert rest(called).endswith(connections.LATE)


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.2)
    with served() as (address, server), calling(address, takes_bytes=4096) as called:
        called.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert called.recv(12) == b"HTTP/1.1 200"
        wait(lambda: not server.server_state.connections)
        assert len(rest(called)) < LARGE


def test_one_address_has_half_of_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as (address, _):
        held = [calling(address) for _ in range(3)]
        assert _answered(held[-1]), "on loopback a proxy may stand for everybody"
        for one in held:
            one.close()
    monkeypatch.setattr("app.access.is_loopback", lambda host: False)
    for settings, whether in (({}, False), ({"proxy_addresses": "127.0.0.1"}, True), ({"space": "me/it"}, True)):
        with served(**settings) as (address, _):
            held = [calling(address) for _ in range(3)]
            assert [_answered(one) for one in held] == [True, True, whether], settings
            held[0].close()
            wait(lambda address=address: _answered(calling(address)))
            for one in held:
                one.close()


def _answered(called: socket.socket) -> bool:
    try:
        called.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        return b" 200 " in called.recv(2**16)
    except OSError:
        return False

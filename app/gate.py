"""The gate before the page: every request passes here, and what is not named here is not answered.

Gradio offers some sixty routes to whoever can reach it; this page needs the few in ``READ`` and ``SENT``. See the
security rules in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from gradio.server_messages import UnexpectedErrorMessage
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import access, sign_in
from app.access import LOCAL, SCOPE_KEY, Hosts, Visitor
from app.event_checks import SESSION, Refusal, checked_event, parsed, session_of
from app.pending import Pending
from app.sessions import Sessions
from app.settings import Access, Settings
from app.sign_in import SignIn
from app.uploads import FRAME_BYTES, MIB, Uploads
from engine.errors import UserError

LOG = logging.getLogger(__name__)
API = "/gradio_api"
HEALTH = "/health"
JOIN, UPLOAD, CANCEL, HEARTBEAT = f"{API}/queue/join", f"{API}/upload", f"{API}/cancel", f"{API}/heartbeat/"
DATA, FILE, PROGRESS = f"{API}/queue/data", f"{API}/file=", f"{API}/upload_progress"
READ = {
    "/", "/config", "/theme.css", f"{API}/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/pwa_icon",
    f"{API}/startup-events", f"{API}/app_id", f"{API}/info", DATA, PROGRESS,
}  # fmt: skip
READ_BELOW = ("/assets/", "/static/", HEARTBEAT, FILE)
FIXED = ("/assets/", "/static/", "/theme.css", f"{API}/theme.css", "/favicon.ico")
"""What is the same for everybody and may be kept."""
SENT = {JOIN, CANCEL, UPLOAD}
BEGINNINGS = ("/", "/config")
"""What a browser, and a program, asks for first: here a visitor of a demonstration gets a cookie."""
PACKED = {*BEGINNINGS, f"{API}/info"}
"""What goes packed where the browser takes it: the page is 700 kB of its components' settings, 60 packed. What lies in
files is packed already, and an event must not wait in a packer."""
HEARD = {b"host", b"x-forwarded-host", b"x-forwarded-proto", b"accept-encoding", b"content-type", b"content-length"}
"""The headers that Gradio gets to see. It believes others, too (``x-gradio-server`` is the address that it gives the
page), sends all of them back with a part of a file (``range``), and fails at some that are none."""
OWN = (
    "frame-ancestors 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-src 'self' blob:; "
    "font-src 'self' data:; img-src 'self' data: blob:; media-src 'self' data: blob:; connect-src 'self' data: blob:"
)
"""What a page may ask for, whatever words stand in it: nothing of another machine, which would learn who looks."""
OWN_OF_A_SPACE = OWN.replace("'self'", "'self' https://huggingface.co https://*.hf.space")
MAX_PATH, MAX_NAME = 1024, 255
"""Bytes of a path, and of each name in it; of longer ones the system would say so by a fault."""
NOTHING_TO_READ = (
    f"data: {UnexpectedErrorMessage(message='404: Not Found', session_not_found=True).model_dump_json()}\n\n"
)
"""What Gradio says of a session that it does not know, and then breaks off with a fault that fills the log."""
MAX_BODY_BYTES = 64 * 1024
"""Of everything but an upload: the form of a run takes a tenth of it."""
PATIENCE_S, LEAST_BYTES_S = 30.0, 16 * 1024
"""A body has so long, and longer the more of it has come: 68 minutes for an upload of 64 MB (ours). A connection that
sends a byte a minute keeps its place from others."""


class Gate:
    """An ASGI application in front of the page: hosts, origins, visitors, routes, bodies, and headers of answers."""

    def __init__(
        self,
        served: ASGIApp,
        *,
        page: gr.Blocks,
        settings: Settings,
        mode: Access,
        uploads: Uploads,
        signing: SignIn | None = None,
    ) -> None:
        self._served, self._page, self._settings, self._mode = served, page, settings, mode
        self._packing = GZipMiddleware(served, compresslevel=6)
        self._uploads, self._signing = uploads, signing
        self._hosts, self._sessions = Hosts.of(settings), Sessions(page)
        self._pending = Pending(page, self._sessions)
        self._scratch = uploads.folder.parent.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._served(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        send = self._guarded(send, scope["path"])
        with ExitStack() as meanwhile:
            try:
                answer: Response | Receive = await self._answer(request, meanwhile)
            except Refusal as refusal:
                answer = self._refused(request, refusal)
            except ClientDisconnect:
                return
            if isinstance(answer, Response):
                await answer(scope, receive, send)
            else:
                await self._serve(scope, answer, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the page answer. A fault of it ends here: with its own words, it would quote a visitor's in the log."""
        scope["headers"] = [(key, value) for key, value in scope["headers"] if key in HEARD]
        served = self._packing if scope["path"] in PACKED else self._served
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await served(scope, receive, noted)
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("unforeseen %s in an answer\n%s", type(error).__name__, where)
            if not begun:
                await PlainTextResponse("The page has failed at this.", 500)(scope, receive, send)

    async def _answer(self, request: Request, meanwhile: ExitStack) -> Response | Receive:
        """Return an answer of the gate's own, or what the page is to read where it is to answer.

        ``meanwhile`` takes what holds until the page has answered.
        """
        path, method, headers = request.scope["path"], request.method, request.headers
        self._check_host(request)
        if path == HEALTH and method in ("GET", "HEAD"):
            return PlainTextResponse("ok")
        self._check_origin(headers)
        if self._signing is not None and path in (sign_in.PATH, sign_in.PATH_OUT):
            return await self._sign(request, self._signing)
        visitor = self._visitor(request)
        if visitor is None:
            if self._mode == "sign-in" and method == "GET" and path == "/":
                return RedirectResponse(sign_in.PATH, 303)
            raise Refusal(401, "You are not signed in.")
        request.scope[SCOPE_KEY] = visitor
        if method in ("GET", "HEAD"):
            return self._check_read(request, path, visitor, meanwhile)
        if method == "POST" and path.rstrip("/") in SENT:
            return await self._take(request, path.rstrip("/"), visitor, meanwhile)
        raise Refusal(404, "This page has nothing there.")

    def _check_host(self, request: Request) -> None:
        given = [value for key, value in request.headers.items() if key == "host"]
        forwarded = request.headers.get("x-forwarded-host")
        if len(given) != 1 or not self._hosts.know(given[0]) or (forwarded and not self._hosts.know(forwarded)):
            raise Refusal(421, "This page does not go by that name. Its operator can add the name to --allowed-host.")

    def _check_origin(self, headers: Headers) -> None:
        """Refuse what the page of somebody else makes a browser send or read."""
        origin = headers.get("origin")
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise Refusal(403, "Another page may not act on this one.")
        if origin is None:
            return
        _, _, place = origin.partition("://")
        named = access.host_name(place) in [name.lower() for name in self._settings.allowed_hosts]
        hosts = (headers.get("host", "").lower(), headers.get("x-forwarded-host", "").lower())
        if not (place and (place.lower() in hosts or named)):
            raise Refusal(403, "Another page may not act on this one.")

    def _visitor(self, request: Request) -> Visitor | None:
        session: dict[str, Any] = request.scope["session"]
        if self._mode == "local":
            return LOCAL
        if self._signing is not None:
            return self._signing.visitor(session)
        if self._mode == "proxy":
            return self._named_by_proxy(request)
        arriving = request.scope["path"] in BEGINNINGS
        if arriving and "visitor" not in session:
            session["visitor"] = secrets.token_urlsafe(12)
        known = not arriving and session.get("visitor")
        key = f"visitor:{session['visitor']}" if known else f"address:{self._address(request)}"
        return Visitor(key, "a visitor", "demo" if self._mode == "demo" else "viewer")

    def _named_by_proxy(self, request: Request) -> Visitor | None:
        header = self._settings.proxy_user_header or ""
        peer = request.client.host if request.client else ""
        if not access.is_trusted_proxy(peer, self._settings.proxy_addresses):
            raise Refusal(403, "This page is reached through its proxy only.")
        names = [value.strip() for key, value in request.headers.items() if key == header.lower()]
        if len(names) != 1 or not names[0]:
            return None
        role: access.Role = "operator" if names[0] in self._settings.proxy_operators else "viewer"
        return Visitor(f"user:{names[0]}", names[0], role)

    def _address(self, request: Request) -> str:
        peer = request.client.host if request.client else "unknown"
        # The last one is the proxy's own, also where it adds a header of that name to those that were sent.
        forwarded = [value for key, value in request.headers.items() if key == "x-forwarded-for"]
        if forwarded and access.is_trusted_proxy(peer, self._settings.proxy_addresses):
            return access.household(forwarded[-1].rpartition(",")[2])
        return access.household(peer)

    def _check_read(self, request: Request, path: str, visitor: Visitor, meanwhile: ExitStack) -> Response | Receive:
        there = (path in READ or path.startswith(READ_BELOW)) and _can_be(path)
        if "deep_link" in request.query_params or not there:
            raise Refusal(404, "This page has nothing there.")
        if path in BEGINNINGS:  # what an address says is read in the browser and by events; Gradio fails at ?page=x
            request.scope["query_string"] = b""
        if path == PROGRESS:  # the whole file is here when its path is told
            return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        if path == DATA:
            session = self._sessions.bind(session_of(dict(request.query_params)), visitor)
            if not self._sessions.is_known(session):
                return PlainTextResponse(NOTHING_TO_READ, media_type="text/event-stream")
            meanwhile.enter_context(self._sessions.streaming(session, visitor, reads=True))
        elif path.startswith(HEARTBEAT):
            session = self._sessions.bind(session_of({"session_hash": path.removeprefix(HEARTBEAT)}), visitor)
            meanwhile.enter_context(self._sessions.streaming(session, visitor, reads=False))
        elif path.startswith(FILE):
            self._check_file(path.removeprefix(FILE), visitor)
        return request.receive

    def _check_file(self, name: str, visitor: Visitor) -> None:
        """Refuse all but what the page has made, and what this visitor has uploaded; the answer is always the same."""
        try:
            path = Path(name)
            inside = path.is_absolute() and path.resolve().is_relative_to(self._scratch) and path.resolve() == path
            if (
                inside
                and path.is_file()
                and path.parent != self._scratch
                and not self._uploads.foreign(path, visitor.key)
            ):
                return
        except (OSError, ValueError, RuntimeError):
            pass
        raise Refusal(403, "This page has no such file for you.")

    async def _take(self, request: Request, path: str, visitor: Visitor, meanwhile: ExitStack) -> Response | Receive:
        if path == UPLOAD:
            return await self._upload(request, visitor)
        body = parsed(await _body(request, MAX_BODY_BYTES))
        self._sessions.bind(session_of(body), visitor)
        if path == CANCEL:
            event, number = body.get("event_id"), body.get("fn_index")
            if not (isinstance(event, str) and SESSION.fullmatch(event) and type(number) is int):
                raise Refusal(400, "The request names no event.")
            if not self._sessions.may_end(event, body["session_hash"]):
                raise Refusal(403, "This event is of another tab.")
            checked = {"session_hash": body["session_hash"], "event_id": event, "fn_index": number}
        else:
            checked = checked_event(body, self._page, owned=lambda file: self._uploads.owned(file, visitor.key))
            meanwhile.enter_context(self._pending.taking(visitor))
        return _replaced_body(request, json.dumps(checked).encode())

    async def _upload(self, request: Request, visitor: Visitor) -> Response:
        most = min(self._settings.max_upload_mb, self._settings.visitor_mb) * MIB + FRAME_BYTES
        try:
            declared = int(request.headers.get("content-length", "0"))
        except ValueError:
            raise Refusal(400, "The length of the request is no number.") from None
        if declared > most:
            raise Refusal(413, f"The file is larger than {most // MIB} MB.")
        try:
            kind = request.headers.get("content-type", "")
            path = await self._uploads.receive(_paced(request), content_type=kind, owner=visitor.key)
        except UserError as error:
            status = {"app.upload_too_large": 413, "app.upload_quota": 429}.get(error.code, 400)
            raise Refusal(status, f"{error.what} {error.why} {error.fix}") from error
        return JSONResponse([str(path)])

    async def _sign(self, request: Request, signing: SignIn) -> Response:
        session: dict[str, Any] = request.scope["session"]
        if request.scope["path"] == sign_in.PATH_OUT and request.method == "POST":
            signing.end(session)
            return RedirectResponse(sign_in.PATH, 303)
        if request.method in ("GET", "HEAD"):
            return RedirectResponse("/", 303) if signing.visitor(session) else HTMLResponse(sign_in.page())
        form = await _body(request, sign_in.MAX_FORM_BYTES)
        try:
            kept, _ = await anyio.to_thread.run_sync(lambda: signing.check(form, address=self._address(request)))
        except Refusal as refusal:
            given = sign_in.fields_of(form).get("name", "")
            waiting = {"retry-after": str(refusal.retry_s)} if refusal.retry_s else None
            return HTMLResponse(sign_in.page(wrong=refusal.sentence, name=given), refusal.status, waiting)
        session.clear()
        session.update(kept)
        return RedirectResponse("/", 303)

    def _refused(self, request: Request, refusal: Refusal) -> Response:
        headers = {"connection": "close"} if refusal.status in (408, 413) else {}
        if refusal.retry_s:
            headers["retry-after"] = str(refusal.retry_s)
        if request.scope["path"].rstrip("/") == UPLOAD:  # shown to people as it is
            return PlainTextResponse(refusal.sentence, refusal.status, headers)
        return JSONResponse({"detail": refusal.sentence}, refusal.status, headers)

    def _guarded(self, send: Send, path: str) -> Send:
        """Return ``send`` with headers that keep a browser, and who stands between, from doing more with an answer than
        it is for."""
        is_file = path.startswith(FILE)
        own = OWN_OF_A_SPACE if self._settings.space else OWN
        policy = "sandbox; default-src 'none'" if is_file else own

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = policy
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
                if not path.startswith(FIXED):  # of one visitor, and behind a sign-in
                    headers["cache-control"] = "private, no-store"
            await send(message)

        return guarded


def _can_be(path: str) -> bool:
    """Return whether a disk could hold something under such a path."""
    return len(path.encode()) <= MAX_PATH and all(len(name.encode()) <= MAX_NAME for name in path.split("/"))


async def _paced(request: Request) -> AsyncIterator[bytes]:
    """Yield a request's body as it arrives, or refuse it as soon as it comes too slowly."""
    began, received, stream = time.monotonic(), 0, request.stream()
    while True:
        left = PATIENCE_S + received / LEAST_BYTES_S - (time.monotonic() - began)
        try:
            if left <= 0:  # also where the next part is there
                raise TimeoutError
            with anyio.fail_after(left):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refusal(408, "The request came too slowly.") from None
        received += len(chunk)
        yield chunk


async def _body(request: Request, most_bytes: int) -> bytes:
    """Return a request's whole body, or refuse it as soon as it is too long."""
    body = bytearray()
    async for chunk in _paced(request):
        body += chunk
        if len(body) > most_bytes:
            raise Refusal(413, f"The request is larger than {most_bytes} bytes.")
    return bytes(body)


def _replaced_body(request: Request, body: bytes) -> Receive:
    """Return a ``receive`` that gives ``body`` in place of what was sent, with the headers that belong to it."""
    kept = [(key, value) for key, value in request.scope["headers"] if key not in (b"content-length", b"content-type")]
    kept += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    request.scope["headers"] = kept
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return receive

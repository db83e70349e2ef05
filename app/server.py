"""The page's web server: one socket, one uvicorn, and a thread that keeps the queue of runs moving."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp

from app import late, text, theme
from app.connections import protocol
from app.gate import Gate
from app.settings import Settings
from app.sign_in import SESSION_HOURS, SignIn
from app.studio import Studio
from app.users import Users
from engine.errors import UserError

MAX_SESSIONS = 400
"""Browser tabs whose state is kept; each takes a third of a megabyte (measured)."""
MAX_CONNECTIONS = 400
"""An open tab holds two."""


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket, or raise ``UserError`` ``app.port_in_use``: taken before anything slow is done."""
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        what = text.PORT_WHAT.format(port=settings.port, host=settings.host, reason=error.strerror)
        raise UserError("app.port_in_use", what=what, why=text.PORT_WHY, fix=text.PORT_FIX) from error


def web_app(page: gr.Blocks, studio: Studio) -> ASGIApp:
    """Return the page behind its gate: without footer, telemetry, server-side rendering or run history."""
    settings = studio.settings
    page.state_session_capacity = MAX_SESSIONS
    mounted = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        theme=theme.studio_theme(),
        css_paths=theme.STYLE_FILE,
        max_file_size=f"{settings.max_upload_mb}mb",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=False,
    )
    # As after launch(): only then does Gradio ask whether a file that a browser names was uploaded, and only then are
    # uploaded drawings not taken for its own.
    page.has_launched = page.is_running = True
    signing = SignIn(Users(settings.users_file)) if studio.mode == "sign-in" and settings.users_file else None
    gate = Gate(mounted, page=page, settings=settings, mode=studio.mode, uploads=studio.uploads, signing=signing)
    framed = bool(settings.space)  # by huggingface.co, which makes our cookie one of a third party
    return SessionMiddleware(
        gate,
        secret_key=session_secret(studio.scratch.path.parent),
        session_cookie=f"dsfedmed_{settings.port}",
        max_age=3600 * SESSION_HOURS,
        same_site="none" if framed else "lax",
        https_only=framed or settings.https_only,
    )


def session_secret(folder: Path) -> str:
    """Return what signs the cookies of this home's page; made once, readable by its owner alone."""
    path = folder / "session_secret"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return path.read_text()


def tells_of_a_fault(record: logging.LogRecord) -> bool:
    """Return whether a server's log record is one: closing the connections of open pages at the end is none."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not str(record.msg).startswith("Cancel %s running task")


def run(page: gr.Blocks, studio: Studio, listening: socket.socket, *, demo: bool) -> None:
    """Serve the page until the process is told to stop; with ``demo`` start the demo run once the page is up."""
    # Our own server, not Blocks.launch: that one gives up where a busy machine takes more than 5 s to start a thread.
    config = uvicorn.Config(
        web_app(page, studio),
        log_level="warning",
        timeout_graceful_shutdown=2,
        proxy_headers=False,  # the gate believes the proxies of the settings, and nobody else
        server_header=False,
        http=protocol(studio.settings, most=MAX_CONNECTIONS),
        ws="none",  # the page has no such connections, and what would speak them has limits of its own
        limit_concurrency=MAX_CONNECTIONS,
    )
    server = uvicorn.Server(config)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it tells of every form that is none
    logging.getLogger("uvicorn.error").addFilter(tells_of_a_fault)
    stop = threading.Event()

    def background() -> None:
        studio.load_readers()
        studio.attempt(late.load)
        if demo and studio.mode != "read-only":
            print(studio.start_demo(), flush=True)
        studio.keep_queue_moving(stop)

    threading.Thread(target=background, daemon=True).start()
    host, port = studio.settings.host, studio.settings.port
    print(text.SERVING.format(host=host, port=port, home=studio.store.home), flush=True)
    server.run(sockets=[listening])
    stop.set()

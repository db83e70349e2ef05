"""The page's web server: one socket, one uvicorn, and a thread that keeps the queue of runs moving."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import gradio as gr
import uvicorn
from fastapi import FastAPI

from app import text, theme
from app.settings import Settings
from app.studio import Studio
from engine.errors import UserError


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket, or raise ``UserError`` ``app.port_in_use``: taken before anything slow is done."""
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        what = text.PORT_WHAT.format(port=settings.port, host=settings.host, reason=error.strerror)
        raise UserError("app.port_in_use", what=what, why=text.PORT_WHY, fix=text.PORT_FIX) from error


def web_app(page: gr.Blocks, settings: Settings) -> FastAPI:
    """Return the page as a web application without footer, telemetry, server-side rendering or run history."""
    return gr.mount_gradio_app(
        FastAPI(),
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


def tells_of_a_fault(record: logging.LogRecord) -> bool:
    """Return whether a server's log record is one: closing the connections of open pages at the end is none."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not str(record.msg).startswith("Cancel %s running task")


def run(page: gr.Blocks, studio: Studio, listening: socket.socket, *, demo: bool) -> None:
    """Serve the page until the process is told to stop; with ``demo`` start the demo run once the page is up."""
    # Our own server, not Blocks.launch: that one gives up where a busy machine takes more than 5 s to start a thread.
    application = web_app(page, studio.settings)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2))
    logging.getLogger("uvicorn.error").addFilter(tells_of_a_fault)
    stop = threading.Event()

    def background() -> None:
        if demo and not studio.settings.read_only:
            print(studio.start_demo(), flush=True)
        studio.keep_queue_moving(stop)

    threading.Thread(target=background, daemon=True).start()
    host, port = studio.settings.host, studio.settings.port
    print(text.SERVING.format(host=host, port=port, home=studio.store.home), flush=True)
    server.run(sockets=[listening])
    stop.set()

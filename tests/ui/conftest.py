"""A real server process on a free port with a home of its own, and the system's Chromium in front of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import seed_store
from playwright.sync_api import Browser, Page, expect

from tests.browsers import WAIT_MS, chromium
from tests.patience import WAIT_S

ROOT = Path(__file__).resolve().parents[2]
expect.set_options(timeout=WAIT_MS)
SLOW_FRAMES = "window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), {frame_ms})"
"""Draws as seldom as a busy machine without a graphics card does."""


@dataclass(frozen=True)
class Server:
    """A page that is being served, the home folder behind it, and its process."""

    address: str
    home: Path
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """End the process as a machine that runs out of memory would."""
        self.process.kill()
        self.process.wait(timeout=WAIT_S)


@dataclass
class Watched:
    """A browser page, with what it asked of other machines and what went wrong in it."""

    page: Page
    foreign: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(home: Path, *options: str, port: int | None = None, stand_ins: str | None = None) -> Iterator[Server]:
    """Start the page on a free port, wait until it says that it serves, and stop it at the end.

    A page that was killed meanwhile has left its files, which the next one on its home removes. ``stand_ins`` are
    stages that runs have in place of their own (``module:NAME``).
    """
    port = port or free_port()
    others = set((home / "page").glob("served-*"))
    command = [sys.executable, "-m", "app.main", "--port", str(port), "--home", str(home), *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "DSFEDMED_MODELS_DIR": str(home / "shipped")}
    environment = {"DSFEDMED_RUNS_DIR": str(home / "shipped_runs"), **environment}
    if stand_ins:
        environment["DSFEDMED_STAND_INS"] = stand_ins
    log = (home / "page.log").open("w")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("DSFedMed Studio: http"), (home / "page.log").read_text()
        yield Server(f"http://127.0.0.1:{port}", home, process)
    finally:
        is_killed = process.poll() is not None
        process.terminate()
        process.wait(timeout=WAIT_S)
        log.close()
        told = (home / "page.log").read_text()
        assert "Traceback" not in told, told
        assert is_killed or set((home / "page").glob("served-*")) <= others, "uploaded files outlive the page"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Give one browser for all tests of a process; each has a profile of its own."""
    with chromium() as shared:
        yield shared


@pytest.fixture(scope="session")
def layout_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a home with a failed, an unfinished and a finished run."""
    home = tmp_path_factory.mktemp("layout")
    seed_store.fill(home, status="failed", until="generator_training")
    seed_store.fill(home)
    with serving(home) as server:
        yield server


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Give a function that opens an address in a fresh browser profile and watches it; all are closed at the end.

    With ``frame_ms`` the page is drawn so slowly; with ``latency_ms`` every answer takes so long to come.
    """
    contexts = []

    def opened(
        address: str,
        *,
        width: int = 1280,
        height: int = 900,
        frame_ms: int = 0,
        latency_ms: int = 0,
        dark: bool = False,
    ) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        context.set_default_timeout(WAIT_MS)
        if frame_ms:
            context.add_init_script(SLOW_FRAMES.format(frame_ms=frame_ms))
        contexts.append(context)
        watched = Watched(context.new_page())
        if latency_ms:
            far = {"offline": False, "latency": latency_ms, "downloadThroughput": -1, "uploadThroughput": -1}
            context.new_cdp_session(watched.page).send("Network.emulateNetworkConditions", far)

        def asked(url: str) -> None:
            if not url.startswith(("http://127.0.0.1", "data:", "blob:")):
                watched.foreign.append(url)

        watched.page.on("request", lambda request: asked(request.url))
        watched.page.on("pageerror", lambda error: watched.faults.append(str(error)))
        watched.page.goto(address)
        watched.page.wait_for_selector("#tabs [role=tab]")
        return watched

    yield opened
    for context in contexts:
        context.close()

"""A visitor of the page over plain HTTP, for ``bench.attack``: it starts the server and knows Gradio's protocol."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
START_S = 240
API = "/gradio_api"


@dataclass
class Server:
    """A page that is being served, and its process."""

    address: str
    home: Path
    process: subprocess.Popen[str]

    def peak_bytes(self) -> int:
        """Return the most memory that the server's process has held, by the kernel's own account."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        raise RuntimeError("this system does not tell a process's peak memory")

    def made(self) -> Iterator[Path]:
        """Yield every file that the page has made for browsers."""
        yield from (path for path in (self.home / "page").rglob("*") if path.is_file())


@contextmanager
def serving(home: Path, *options: str, **environment: str) -> Iterator[Server]:
    """Start the page on a free port and stop it at the end."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.main", "--port", str(port), "--home", str(home), *options]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "DSFEDMED_MAX_RUNNING": "0", **environment}
    variables.setdefault("DSFEDMED_RUNS_DIR", str(home / "shipped_runs"))
    home.mkdir(parents=True, exist_ok=True)
    with (home / "page.log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("DSFedMed Studio: http"):
                raise RuntimeError(f"the page has not started: {(home / 'page.log').read_text()[-2000:]}")
            yield Server(f"http://127.0.0.1:{port}", home, process)
        finally:
            process.terminate()
            process.wait(timeout=START_S)


@dataclass
class Visitor:
    """One browser: its cookies, its tab's session, and the page's events as its configuration tells them."""

    server: Server
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.server.address, headers=self.headers, timeout=START_S)
        self.session = secrets.token_hex(6)
        self.http.get("/")

    def read_config(self) -> None:
        """Read the page's configuration, which lists its events."""
        self.config: dict[str, Any] = self.http.get("/config").json()
        self.components = {block["id"]: block for block in self.config["components"]}
        self.events: list[dict[str, Any]] = [one for one in self.config["dependencies"] if one["backend_fn"]]

    def open(self) -> None:
        """Do what a browser does first: read the configuration and let the page fill its choices in."""
        self.read_config()
        for event in self.events:
            if any(kind == "load" for _, kind in event["targets"]):
                self.call(event["id"], self.values(event))

    def sign_in(self, name: str, password: str) -> int:
        """Sign in and return the answer's status."""
        return self.http.post("/sign-in", data={"name": name, "password": password}).status_code

    def component(self, elem_id: str) -> int:
        """Return the number of the component with this id in the page."""
        return next(key for key, block in self.components.items() if block["props"].get("elem_id") == elem_id)

    def event(self, elem_id: str, kind: str) -> dict[str, Any]:
        """Return the event of a component that takes most: others only fold something up."""
        target = [self.component(elem_id), kind]
        return max((event for event in self.events if target in event["targets"]), key=lambda one: len(one["inputs"]))

    def follower(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the event that the page runs after another one."""
        return next(one for one in self.events if one.get("trigger_after") == event["id"])

    def values(self, event: dict[str, Any], **given: Any) -> list[Any]:
        """Return what an untouched page would send to an event, with ``given`` by id in the page."""
        blocks = [self.components[key] for key in event["inputs"]]
        return [given.get(block["props"].get("elem_id"), block["props"].get("value")) for block in blocks]

    def join(self, event: int, data: Any, **more: Any) -> httpx.Response:
        """Send one event; 200 means that it will be handled."""
        body = {"data": data, "fn_index": event, "session_hash": self.session, "event_data": None, **more}
        return self.http.post(f"{API}/queue/join", json=body)

    def call(self, event: int, data: Any, **more: Any) -> Any:
        """Send an event, wait until it is handled, and return its output; the refusal's text where it was refused."""
        joined = self.join(event, data, **more)
        return joined.text if joined.status_code != 200 else self.wait()

    def wait(self) -> Any:
        """Return the output of the event that was joined last."""
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        return message["output"]
        return None

    def upload(self, name: str, content: bytes) -> httpx.Response:
        """Upload one file as the page's form does."""
        return self.http.post(f"{API}/upload", files={"files": (name, content)})

    def segment(self, model: str, path: str) -> tuple[str, float]:
        """Segment an uploaded file; return all that the page says, and the seconds that it took."""
        look, file = self.looking(), {"path": path, "meta": {"_type": "gradio.FileData"}}
        event, data = self.segmenting(model, path)
        began = time.perf_counter()
        self.call(look["id"], self.values(look, upload=file, model=model))
        return json.dumps(self.call(event, data)), time.perf_counter() - began

    def looking(self) -> dict[str, Any]:
        """Return the event that looks at an uploaded file: the browser has handed a zip on to another field before."""
        target = [self.component("upload"), "upload"]
        handed = [one["id"] for one in self.config["dependencies"] if target in one["targets"]]
        return next(one for one in self.events if one.get("trigger_after") in handed)

    def segmenting(self, model: str, path: str) -> tuple[int, list[Any]]:
        """Return the event that segments an uploaded file, and what is sent to it."""
        event = self.follower(self.looking())
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return event["id"], self.values(event, upload=file, model=model)

"""Fetching over HTTP from a server on this machine: whole, interrupted, resumed, damaged, refused."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from engine.errors import UserError
from engine.models.downloads import fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class FlakyServer(ThreadingHTTPServer):
    """Serves CONTENT with Range; hangs up after ``cut_after`` bytes as often as ``cuts`` says."""

    cuts = 0
    cut_after = 1_200_000
    ranges = True
    status: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.starts: list[int] = []


class _Handler(BaseHTTPRequestHandler):
    server: FlakyServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range") if self.server.ranges else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.server.starts.append(start)
        if self.server.status is not None:
            self.send_error(self.server.status)
            return
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts > 0:
            self.server.cuts -= 1
            self.wfile.write(body[: self.server.cut_after])
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    with FlakyServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def write_registry(folder: Path, server: FlakyServer, **fields: object) -> Path:
    row = {
        "file": "model.pth",
        "licence": "Apache-2.0",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "bytes": len(CONTENT),
        "url": f"http://127.0.0.1:{server.server_port}/model.pth",
    }
    path = folder / "registry.json"
    path.write_text(json.dumps({"format": 1, "assets": {"model": row | fields}}))
    return path


def test_whole_transfer_reports_progress_and_is_not_repeated(server: FlakyServer, tmp_path: Path) -> None:
    registry = write_registry(tmp_path, server)
    seen: list[tuple[int, int | None]] = []
    path = fetch("model", dest=tmp_path / "to", progress=lambda *row: seen.append(row), registry=registry)
    assert path.read_bytes() == CONTENT
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch("model", dest=tmp_path / "to", registry=registry) == path
    assert server.starts == [0]
    assert [entry.name for entry in (tmp_path / "to").iterdir()] == ["model.pth"]


def test_a_cut_connection_is_taken_up_where_it_ended(server: FlakyServer, tmp_path: Path) -> None:
    server.cuts = 2
    path = fetch("model", dest=tmp_path, retry_wait_s=0.0, registry=write_registry(tmp_path, server))
    assert path.read_bytes() == CONTENT
    assert server.starts == [0, 1_200_000, 2_400_000]


def test_the_next_call_resumes_too(server: FlakyServer, tmp_path: Path) -> None:
    registry = write_registry(tmp_path, server)
    server.cuts = 1
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path, attempts=1, registry=registry)
    assert caught.value.code == "weights.transfer" and "1200000 bytes" in caught.value.why
    assert not (tmp_path / "model.pth").exists()
    assert fetch("model", dest=tmp_path, registry=registry).read_bytes() == CONTENT
    assert server.starts == [0, 1_200_000]


def test_a_server_without_ranges_starts_over(server: FlakyServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = 1
    path = fetch("model", dest=tmp_path, retry_wait_s=0.0, registry=write_registry(tmp_path, server))
    assert path.read_bytes() == CONTENT
    assert server.starts == [0, 0]


@pytest.mark.parametrize("extra", [0, 10])
def test_a_part_that_is_already_whole_or_too_long(extra: int, server: FlakyServer, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(CONTENT + b"x" * extra)
    path = fetch("model", dest=tmp_path, retry_wait_s=0.0, registry=write_registry(tmp_path, server))
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(server: FlakyServer, tmp_path: Path) -> None:
    registry = write_registry(tmp_path, server, sha256="0" * 64)
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path / "to", registry=registry)
    assert caught.value.code == "weights.checksum"
    assert list((tmp_path / "to").iterdir()) == []


def test_an_existing_damaged_file_is_not_passed_off_as_fetched(server: FlakyServer, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path, registry=write_registry(tmp_path, server))
    assert caught.value.code == "weights.checksum"


def test_an_unknown_checksum_can_be_given(server: FlakyServer, tmp_path: Path) -> None:
    registry = write_registry(tmp_path, server, sha256=None)
    good = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(f"model@sha256:{good}", dest=tmp_path / "a", registry=registry).is_file()
    assert fetch("model", dest=tmp_path / "b", registry=registry).is_file()
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path / "c", sha256="1" * 64, registry=registry)
    assert caught.value.code == "weights.checksum"


@pytest.mark.parametrize("status, requests", [(404, 1), (503, 3)])
def test_only_passing_troubles_are_tried_again(status: int, requests: int, server: FlakyServer, tmp_path: Path) -> None:
    server.status = status
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path, attempts=3, retry_wait_s=0.0, registry=write_registry(tmp_path, server))
    assert caught.value.code == "weights.transfer"
    assert len(server.starts) == requests


def test_impossible_fetches_are_refused(server: FlakyServer, tmp_path: Path) -> None:
    made_here = write_registry(tmp_path, server, url=None, made_by="python -m engine pretrain sam")
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path, registry=made_here)
    assert caught.value.code == "weights.no_url"
    too_big = write_registry(tmp_path, server, bytes=1 << 60)
    with pytest.raises(UserError) as caught:
        fetch("model", dest=tmp_path, registry=too_big)
    assert caught.value.code == "weights.disk_full"
    assert server.starts == []

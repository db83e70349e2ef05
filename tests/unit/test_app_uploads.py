"""Uploads are bounded while they arrive, have names that say nothing, and go."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.uploads import MIB, Uploads
from engine.errors import UserError

BOUNDARY = "b"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine gives, in a thread of its own: browser tests leave a loop running in this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, coroutine).result()


def form(content: bytes, *, name: str = "Jane Doe.nii.gz", count: int = 1) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return (head + content + b"\r\n") * count + f"--{BOUNDARY}--\r\n".encode()


def send(uploads: Uploads, body: bytes, *, owner: str = "a", kind: str = KIND, chunk: int = 64 * 1024) -> Path:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]

    return run(uploads.receive(stream(), content_type=kind, owner=owner))


def make(folder: Path, **limits: float) -> Uploads:
    return Uploads(folder, Settings.model_validate({"home": folder, **limits}))


def held(uploads: Uploads) -> list[Path]:
    return [path for path in uploads.folder.rglob("*") if path.is_file()]


def test_an_upload_lies_under_a_name_that_says_nothing(tmp_path: Path) -> None:
    uploads = make(tmp_path)
    path = send(uploads, form(b"pixels"))
    assert path.read_bytes() == b"pixels" and path.name == "image.nii.gz" and "Jane" not in str(path)
    assert uploads.name_of(path) == "Jane Doe.nii.gz"
    assert uploads.owned(str(path), "a") and not uploads.owned(str(path), "b") and uploads.foreign(path, "b")
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(("name", "shown", "stored"), [
    ("../../etc/passwd", "passwd", "image"), (r"C:\a\b.PNG", "b.png", "image.png"), (".png", ".png", "image"),
    ("a.svg", "a.svg", "image.svg"), ("x.b<c>", "x.b<c>", "image"),
    ("é" * 300 + ".tif", "é" * 60 + ".tif", "image.tif"),
])  # fmt: skip
def test_names_are_made_harmless(tmp_path: Path, name: str, shown: str, stored: str) -> None:
    uploads = make(tmp_path)
    path = send(uploads, form(b"x", name=name.replace("\\", "\\\\")))
    assert (uploads.name_of(path), path.name) == (shown, stored)


def test_what_is_too_large_is_refused_while_it_arrives(tmp_path: Path) -> None:
    uploads, arrived = make(tmp_path, max_upload_mb=1), []

    async def stream() -> AsyncIterator[bytes]:
        yield form(b"")[: -len("\r\n--b--\r\n")]
        for _ in range(100):
            arrived.append(MIB // 4)
            yield bytes(MIB // 4)

    with pytest.raises(UserError) as caught:
        run(uploads.receive(stream(), content_type=KIND, owner="a"))
    assert caught.value.code == "app.upload_too_large"
    assert sum(arrived) <= 1.5 * MIB and held(uploads) == []


def test_a_visitors_oldest_uploads_make_room_and_others_are_left(tmp_path: Path) -> None:
    uploads = make(tmp_path, visitor_files=2, visitor_mb=1)
    others = send(uploads, form(b"x"), owner="b")
    first, second, third = (send(uploads, form(bytes(300_000))) for _ in range(3))
    assert not first.exists() and second.exists() and third.exists() and others.exists()
    last = send(uploads, form(bytes(600_000)))
    assert not second.exists() and others.exists() and last.exists()
    assert not uploads.owned(str(first), "a")


def test_all_visitors_together_have_a_limit(tmp_path: Path) -> None:
    uploads = make(tmp_path, all_files=3)
    for owner in "abc":
        send(uploads, form(b"x"), owner=owner)
    with pytest.raises(UserError) as caught:
        send(uploads, form(b"x"), owner="d")
    assert caught.value.code == "app.upload_quota" and len(held(uploads)) == 3
    (tmp_path / "small").mkdir()
    small = make(tmp_path / "small", all_mb=1)
    send(small, form(bytes(700_000)), owner="a")
    with pytest.raises(UserError):
        send(small, form(bytes(700_000)), owner="b")
    assert len(held(small)) == 1


def test_what_is_on_its_way_counts_as_what_a_visitor_has(tmp_path: Path) -> None:
    """Files that never end would otherwise take all places, and all bytes, under one name."""
    uploads = make(tmp_path, visitor_files=2, visitor_mb=1)

    async def sending(*sizes: int) -> list[str]:
        go_on, told = asyncio.Event(), []

        async def stream(size: int) -> AsyncIterator[bytes]:
            body = form(bytes(size))
            yield body[:-5]
            await go_on.wait()
            yield body[-5:]

        async def one(size: int) -> None:
            try:
                told.append(str(await uploads.receive(stream(size), content_type=KIND, owner="a")))
            except UserError as error:
                told.append(error.code)

        waiting = [asyncio.create_task(one(size)) for size in sizes]
        await asyncio.sleep(0)
        while len(told) + sum(one.num_bytes > 0 for one in uploads._arriving.values()) < len(sizes):
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*waiting)
        return told

    assert run(sending(9, 9, 9)).count("app.upload_quota") == 1
    assert run(sending(600_000, 600_000)).count("app.upload_quota") == 1
    assert uploads._arriving == {}


def test_a_full_page_takes_from_whoever_has_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour later anybody may come: until then two names would have kept all others out."""
    uploads = make(tmp_path, all_files=4, visitor_files=3)
    first, second = (send(uploads, form(b"x"), owner="a") for _ in range(2))
    others = [send(uploads, form(b"x"), owner="b") for _ in range(2)]
    with pytest.raises(UserError):
        send(uploads, form(b"x"), owner="c")
    monkeypatch.setattr("app.uploads.PEACE_S", -1.0)
    mine = send(uploads, form(b"x"), owner="c")
    assert not first.exists() and second.exists() and all(path.exists() for path in others) and mine.exists()
    send(uploads, form(b"x"), owner="d")
    with pytest.raises(UserError):  # each has one: nobody has more than the one who comes
        send(uploads, form(b"x"), owner="a")
    assert len(held(uploads)) == 4
    (tmp_path / "small").mkdir()
    small = make(tmp_path / "small", all_mb=1)
    large = send(small, form(bytes(700_000)), owner="a")
    assert send(small, form(bytes(400_000)), owner="b").exists() and not large.exists()


@pytest.mark.parametrize(("body", "kind"), [
    (form(b"x", count=2), KIND), (b"--b--\r\n", KIND), (b"nothing", KIND), (form(b"x"), "application/json"),
    (form(b"x"), "multipart/form-data"), (form(b"x")[:40], KIND),
])  # fmt: skip
def test_a_form_without_exactly_one_file_is_refused(tmp_path: Path, body: bytes, kind: str) -> None:
    uploads = make(tmp_path)
    with pytest.raises(UserError) as caught:
        send(uploads, body, kind=kind)
    assert caught.value.code == "app.upload_form" and held(uploads) == []


def test_a_browser_that_goes_leaves_nothing(tmp_path: Path) -> None:
    uploads = make(tmp_path)

    async def stream() -> AsyncIterator[bytes]:
        yield form(bytes(100_000))[:50_000]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        run(uploads.receive(stream(), content_type=KIND, owner="a"))
    assert list(uploads.folder.iterdir()) == []


def test_uploads_and_pictures_go_when_they_are_old_or_too_many(tmp_path: Path) -> None:
    uploads = make(tmp_path, keep_minutes=10, all_mb=1)
    lock = tmp_path / "in_use.lock"
    lock.touch()
    path = send(uploads, form(b"x"))
    made = [tmp_path / f"made{number}" / "mask.png" for number in range(3)]
    for number, file in enumerate(made):
        file.parent.mkdir()
        file.write_bytes(bytes(450_000))
        os.utime(file, (time.time() - 100 + number,) * 2)
    uploads.sweep()
    assert path.exists() and not made[0].parent.exists() and made[1].exists() and made[2].exists()
    other = send(uploads, form(bytes(1_000_000)), owner="b")
    uploads.sweep()
    assert other.exists() and not made[1].exists() and made[2].exists(), "full uploads leave pictures half of the bytes"
    uploads.sweep(now=time.time() + 11 * 60)
    assert not path.parent.exists() and not made[2].exists() and lock.exists()
    assert not uploads.owned(str(path), "a")

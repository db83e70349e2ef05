"""Fetching weights over HTTP: resumed where it broke off, verified, and put in place only when whole."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

from engine.errors import UserError
from engine.models.assets import REGISTRY_PATH, Asset, check_file, fetched_folder, find_asset, pinned_checksum

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
Progress = Callable[[int, int | None], None]


def fetch(
    name: str,
    *,
    dest: Path | None = None,
    progress: Progress | None = None,
    sha256: str | None = None,
    attempts: int = 5,
    retry_wait_s: float = 1.0,
    registry: Path = REGISTRY_PATH,
) -> Path:
    """Fetch the weights called ``name`` and return their path; a file that is there and whole is not fetched again.

    The transfer goes to ``FILE.part``; a broken one is taken up again where it ended (HTTP Range), within this call
    up to ``attempts`` times and in the next call too. The file gets its name only after its checksum is right. Where
    the registry knows no checksum and none is given, the file is kept but cannot be loaded by name alone.

    Parameters
    ----------
    name : str
        Registry name; ``NAME@sha256:HEX`` gives a checksum.
    dest : Path or None
        Folder to put the file in; the studio's own by default, where loading by name looks.
    progress : callable or None
        Called with the bytes present and the total (None while unknown).

    Raises
    ------
    UserError
        ``weights.unknown``, ``weights.no_url``, ``weights.disk_full``, ``weights.transfer``, ``weights.checksum``.
    """
    asset = find_asset(name, registry=registry)
    if asset.url is None:
        raise UserError(
            "weights.no_url",
            what=f"The weights {asset.name!r} cannot be fetched.",
            why="They are made here and have no address.",
            fix=f"Run: {asset.made_by}",
        )
    checksum = sha256 or pinned_checksum(name) or asset.sha256
    folder = fetched_folder() if dest is None else dest
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(asset.file).name
    if target.is_file():
        if checksum is not None:
            check_file(target, asset=asset, sha256=checksum)
        return target
    part = target.with_name(f"{target.name}.part")
    _require_space(folder, asset=asset, present=_size(part))
    _transfer_with_retries(asset, part=part, progress=progress, attempts=attempts, retry_wait_s=retry_wait_s)
    if checksum is not None:
        try:
            check_file(part, asset=asset, sha256=checksum)
        except UserError:
            # A part that does not add up would poison every later attempt.
            part.unlink()
            raise
    part.replace(target)
    return target


def _transfer_with_retries(
    asset: Asset, *, part: Path, progress: Progress | None, attempts: int, retry_wait_s: float
) -> None:
    problem: Exception | None = None
    for attempt in range(attempts):
        if attempt:
            time.sleep(retry_wait_s * 2 ** (attempt - 1))
        try:
            _transfer(asset, part=part, progress=progress)
            return
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = error
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                break
    raise UserError(
        "weights.transfer",
        what=f"Fetching {asset.url} ended early: {problem}.",
        why=f"{_size(part)} bytes are there; the rest is needed before the file can be checked.",
        fix="See that this machine reaches the address and run the same command again: it goes on where it stopped.",
    ) from problem


def _transfer(asset: Asset, *, part: Path, progress: Progress | None) -> None:
    """Append what is missing to ``part``; raises when the connection ends before the announced length."""
    present = _size(part)
    assert asset.url is not None
    request = urllib.request.Request(asset.url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if present == _total_of_range(error.headers):
            return
        # The part is longer than the file: it belongs to something else.
        part.unlink()
        raise ConnectionError("the part on disk was longer than the file") from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if not resumed:
            present = 0
        length = response.headers.get("Content-Length")
        total = present + int(length) if length is not None else asset.bytes
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                present += len(chunk)
                if progress is not None:
                    progress(present, total)
    if total is not None and present < total:
        raise http.client.IncompleteRead(b"", total - present)


def _total_of_range(headers: Message) -> int | None:
    """Return N of ``Content-Range: bytes */N``."""
    total = (headers.get("Content-Range") or "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_space(folder: Path, *, asset: Asset, present: int) -> None:
    free = shutil.disk_usage(folder).free
    needed = (asset.bytes or 0) - present
    if free < needed:
        raise UserError(
            "weights.disk_full",
            what=f"{folder} has {free} bytes left, and {asset.name!r} needs {needed} more.",
            why="The file would not fit.",
            fix="Free some space, or choose another folder.",
        )

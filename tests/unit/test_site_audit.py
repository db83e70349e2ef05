"""A site's record is a chain: what was changed in it is found, and a line is there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.site.audit import FIRST, AuditLog
from tests.patience import WAIT_S


def test_the_record_is_a_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(3):
        log.append("left", run="a", bytes=number)
    lines = log._path.read_bytes().splitlines(keepends=True)
    assert [entry["bytes"] for entry in log.entries()] == [0, 1, 2]
    assert json.loads(lines[0])["chain"] == FIRST
    assert json.loads(lines[2])["chain"] == hashlib.sha256(lines[1]).hexdigest()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0].replace(b'"bytes": 0', b'"bytes": 9'), *lines[1:]], 2),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: [*lines[:2], lines[2][:-5]], 3),
        (lambda lines: [*lines, b"[]\n"], 4),
        (lambda lines: lines[:2], 2),
        (lambda lines: lines[:1], 1),
        (lambda lines: [*lines[:2], lines[2].replace(b'"bytes": 2', b'"bytes": 9')], 3),
    ],
)
def test_a_changed_record_is_found(tmp_path: Path, change: Any, line: int) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(3):
        log.append("left", run="a", bytes=number)
    lines = log._path.read_bytes().splitlines(keepends=True)
    log._path.write_bytes(b"".join(change(lines)))
    with pytest.raises(UserError, match=f"from line {line} on") as caught:
        log.entries()
    assert caught.value.code == "site.audit_broken"


def test_a_line_for_which_there_is_no_place_leaves_nothing_of_itself(tmp_path: Path) -> None:
    """The limit of a file's size ends a write in the middle, as a full disk does."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("asked", run="a")
    whole = log._path.read_bytes()
    program = (
        "import resource, sys; from pathlib import Path; from engine.site.audit import AuditLog\n"
        "path = Path(sys.argv[1]); most = path.stat().st_size + 40\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "try: AuditLog(path).append('left', run='b', kind='student')\n"
        "except OSError as error: print(error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", program, log._path], capture_output=True, text=True, timeout=WAIT_S)
    assert done.stdout.strip() == str(errno.ENOSPC), done.stderr
    assert log._path.read_bytes() == whole
    log.append("asked", run="c")
    assert [entry["run"] for entry in log.entries()] == ["a", "c"]


def test_nothing_is_added_behind_a_line_that_was_cut_off(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("asked", run="a")
    log._path.write_bytes(log._path.read_bytes()[:-3])
    with pytest.raises(UserError, match="from line 1 on"):
        log.append("asked", run="b")


def test_nothing_is_added_to_a_record_whose_end_is_gone(tmp_path: Path) -> None:
    """It would hide that lines are missing."""
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(3):
        log.append("left", run="a", bytes=number)
    log._path.write_bytes(log._path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="others behind it are missing") as caught:
        log.append("asked", run="b")
    assert caught.value.code == "site.audit_broken"


@pytest.mark.parametrize("killed", [False, True])
def test_the_end_is_noted_beside_and_a_kill_before_that_is_no_fault(killed: bool, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("asked", run="a")
    noted = (tmp_path / "audit.begun").read_text()
    assert noted == hashlib.sha256(log._path.read_bytes()).hexdigest()
    log.append("left", run="a")
    if killed:
        (tmp_path / "audit.begun").write_text(noted)
    assert len(log.entries()) == 2
    log.append("asked", run="b")
    assert [entry["event"] for entry in log.entries()] == ["asked", "left", "asked"]


def test_a_record_of_a_version_that_noted_no_end_goes_on(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("asked", run="a")
    (tmp_path / "audit.begun").write_text("")
    assert len(log.entries()) == 1
    log.append("asked", run="b")
    log._path.write_bytes(log._path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="from line 1 on"):
        log.entries()

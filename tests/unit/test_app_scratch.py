"""Passing files of the page go with it, also after a SIGKILL; those of another page on the same home stay."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.scratch import Scratch
from engine.errors import UserError

SERVE = """
import sys, time
from pathlib import Path
from app.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "upload.png").write_bytes(b"a patient's image")
print(scratch.path, flush=True)
time.sleep(600)
"""


def test_the_folder_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    path = scratch.path
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    del scratch
    assert not path.exists()


def test_what_a_killed_page_left_goes_at_the_next_start(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        left = Path(page.stdout.readline().strip())
        beside = Scratch(tmp_path)
        assert (left / "upload.png").is_file(), "a page that still serves has lost its files"
        page.kill()
    assert left.is_dir()
    later = Scratch(tmp_path)
    assert not left.exists()
    assert beside.path.is_dir() and later.path.is_dir()


def test_a_home_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written") as caught:
        Scratch(tmp_path)
    assert caught.value.code == "app.home_not_writable"

"""A site's rules: what cannot be read or understood is never taken for no rules, and is told in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.errors import UserError
from engine.federation.tasks import APPROVAL, DESCRIBE, TRAIN_STUDENT
from engine.site.consent import Consent
from engine.site.policy import FILE, Policy, read_policy
from tests.unit.test_site_consent import Answers, ask


def problem_of(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_policy(folder)
    assert caught.value.code == "site.policy_invalid" and caught.value.what.startswith(
        f"{folder / FILE} cannot be used"
    )
    return caught.value.what


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to(path.with_name("gone.toml")), "a link to something that is not there"),
        (lambda path: path.symlink_to(path), ""),
        (lambda path: path.mkdir(), "it is no file"),
        (lambda path: os.mkfifo(path), "it is no file"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "codec"),
    ],
    ids=["link to nothing", "link to itself", "folder", "pipe", "no text"],
)
def test_what_is_no_readable_file_is_not_no_rules(make: Any, words: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "site.toml").write_text('site = "north"\nserver = "localhost:1"\n')
    make(tmp_path / FILE)
    program = Answers()
    consent = Consent(program, "north", tmp_path)
    assert words in problem_of(tmp_path)
    for task in (DESCRIBE, APPROVAL, TRAIN_STUDENT):
        with pytest.raises(UserError, match="cannot be used"):
            ask(consent, task)
    assert program.asked == []
    assert main(["site", "runs", str(tmp_path)]) == 2 and "may leave" not in capsys.readouterr().out


def test_a_link_to_rules_is_as_good_as_rules(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.toml").write_text("smallest_images = 9\n")
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere.toml")
    assert read_policy(tmp_path) == Policy(smallest_images=9)

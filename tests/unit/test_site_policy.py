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
from engine.site.policy import EXPECTED, FILE, Policy, read_policy
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
        (lambda path: path.write_bytes(b"\xff\xfe"), "it is no text in UTF-8"),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aproval = 'automatic'", "there is no key 'aproval'; the nearest is 'approval'."),
        ("xyz = 1", "there is no key 'xyz'."),
        ('kinds = "student"', "kinds has 'student' where a list of names such as ['student', 'figures'] is expected."),
        ("kinds = [1]", "kinds has 1 where a list of names"),
        ("[kinds]\nstudent = true", "kinds has {'student': True} where a list of names"),
        ('kinds = ["students"]', "there is no kind 'students'; the nearest is 'student'."),
        ("smallest_images = true", "smallest_images has true where a whole number of 1 or more is expected."),
        ("smallest_images = 3.0", "smallest_images has 3.0 where"),
        ("smallest_images = '3'", "smallest_images has '3' where"),
        ("most_copies = false", "most_copies has false where a whole number of 0 or more"),
        ("most_membership_auc = true", "most_membership_auc has true where a number from 0.5 to 1"),
        ("most_membership_auc = nan", "most_membership_auc has nan where"),
        ("most_megabytes = inf", "most_megabytes has inf where a number above 0, and not inf, is expected."),
        ("most_megabytes = nan", "most_megabytes has nan where"),
        ("most_megabytes = '5'", "most_megabytes has '5' where"),
        ("approval = automatic", "it is no TOML: "),
    ],
)
def test_rules_that_are_unclear_are_told_in_words(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    problem = problem_of(tmp_path)
    assert words in problem and "Input" not in problem and "inputs" not in problem


def test_every_key_says_what_it_can_be() -> None:
    assert EXPECTED.keys() == Policy.model_fields.keys()


def test_rules_may_be_saved_with_a_mark_in_front_and_numbers_without_a_point(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("smallest_images = 9\nmost_megabytes = 20\n", encoding="utf-8-sig")
    assert read_policy(tmp_path) == Policy(smallest_images=9, most_megabytes=20.0)

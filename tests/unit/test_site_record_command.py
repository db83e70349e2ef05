"""`site log` and `site checks` vouch for no record that is not there, and say all that has left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.cli.output import size
from engine.errors import UserError
from engine.federation.payload import payload_bytes
from engine.federation.tasks import APPROVAL, EVALUATE, TRAIN_STUDENT
from engine.site.audit import NEW_RECORD, AuditLog
from engine.site.consent import AUDIT_FILE, Consent
from tests.unit.test_site_consent import WEIGHTS, Answers, ask, write_rules

COMMANDS = ("log", "checks")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "north"
    folder.mkdir()
    (folder / "site.toml").write_text('site = "north"\nserver = "localhost:1"\n')
    write_rules(folder, 'approval = "automatic"\n')
    return folder


def consent_at(folder: Path) -> tuple[Consent, Answers]:
    program = Answers()
    return Consent(program, "north", folder, say=lambda _: None), program


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["site", *words]) == status
    found = capsys.readouterr()
    return found.err if status and "--json" not in words else found.out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_no_site_s_has_no_record(command: str, tmp_path: Path, capsys: Any) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert "is no site's folder" in said(capsys, command, str(folder), status=2)
    assert list(tmp_path.iterdir()) == []


def test_a_new_site_was_asked_nothing(site: Path, capsys: Any) -> None:
    assert said(capsys, "log", str(site)) == "Nothing was asked of north yet: there is no record.\n"
    assert json.loads(said(capsys, "log", str(site), "--json")) == {"entries": [], "whole": None}
    assert said(capsys, "checks", str(site)) == "Nothing was asked of north yet.\n"
    AuditLog(site / AUDIT_FILE).append("asked", run="a")
    assert said(capsys, "checks", str(site)) == "No generator of north was measured.\n"
    assert json.loads(said(capsys, "log", str(site), "--json"))["whole"] is True


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("loses", [Path.unlink, emptied, linked_to_nothing, a_folder])
def test_a_record_that_is_gone_is_told(command: str, loses: Any, site: Path, capsys: Any) -> None:
    AuditLog(site / AUDIT_FILE).append("asked", run="a")
    loses(site / AUDIT_FILE)
    assert f"The record {site / AUDIT_FILE} is " in said(capsys, command, str(site), status=2)
    told = json.loads(said(capsys, command, str(site), "--json", status=2))
    assert told["error"]["code"] == "site.audit_gone"


@pytest.mark.parametrize("sign", ["decisions", "runs", AUDIT_FILE.replace("jsonl", "begun")])
def test_whatever_shows_that_a_site_has_answered_is_a_sign(sign: str, site: Path) -> None:
    """A site of before has nothing beside its record, but decisions and its state of runs."""
    consent, _ = consent_at(site)
    ask(consent, APPROVAL)
    (site / "runs" / "261126-a").mkdir(parents=True)
    (site / AUDIT_FILE).unlink()
    for other in {"decisions", "runs", "audit.begun"} - {sign}:
        shutil.rmtree(site / other) if (site / other).is_dir() else (site / other).unlink()
    with pytest.raises(UserError, match=sign) as caught:
        AuditLog(site / AUDIT_FILE).entries()
    assert caught.value.code == "site.audit_gone"


def test_a_record_after_one_that_is_gone_says_so(site: Path, tmp_path: Path, capsys: Any) -> None:
    consent, _ = consent_at(site)
    ask(consent, APPROVAL)
    assert NEW_RECORD not in said(capsys, "log", str(site))
    (site / AUDIT_FILE).rename(tmp_path / "kept.jsonl")
    ask(consent, TRAIN_STUDENT)
    entries = AuditLog(site / AUDIT_FILE).entries()
    assert [entry["event"] for entry in entries] == [NEW_RECORD, "asked", "left"]
    assert "The record is whole since the one before it was gone: 3 lines" in said(capsys, "log", str(site))
    assert json.loads(said(capsys, "log", str(site), "--json"))["whole"] is False


def test_figures_and_words_that_left_are_said(site: Path, capsys: Any) -> None:
    consent, program = consent_at(site)
    program.arrays = {}
    for _ in range(3):
        ask(consent, EVALUATE)
    words = sum(line.get("words_bytes", 0) for line in AuditLog(site / AUDIT_FILE).entries())
    assert words > 0
    assert f"0 B of arrays and {size(words)} of figures and words have left" in said(capsys, "log", str(site))
    program.arrays = WEIGHTS
    ask(consent, TRAIN_STUDENT)
    last = AuditLog(site / AUDIT_FILE).entries()[-1]
    arrays, words = payload_bytes(WEIGHTS), words + last["words_bytes"]
    text = said(capsys, "log", str(site))
    assert f"{size(arrays)} of arrays and {size(words)} of figures and words have left" in text
    assert (
        f"student, {size(arrays)}, sha256 {last['digest'][:12]}; figures and words, {size(last['words_bytes'])}" in text
    )

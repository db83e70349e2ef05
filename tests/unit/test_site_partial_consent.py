"""A run that a site allows in part: what stays is told where the run goes on without it, and refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.config import load_config
from engine.errors import UserError
from engine.federation.payload import payload_bytes
from engine.federation.release import WITHHELD
from engine.federation.tasks import APPROVAL, EVALUATE, SHARE_MASKS, TRAIN_GENERATOR, TRAIN_STUDENT, SiteReply
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE, Consent, indispensable
from engine.site.policy import Decisions
from tests.unit.test_site_consent import WEIGHTS, Answers, ask, write_rules

RUN_ID = "261127-b"
STOPS = ("stop", "stop")


def settings(on_withheld: str, on_failure: str) -> str:
    keys = {"release.on_withheld": on_withheld, "federation.on_failure": on_failure}
    return load_config("phantom_cpu_smoke", overrides=keys).model_dump_json()


@pytest.mark.parametrize(
    ("on_withheld", "on_failure", "without", "missing"),
    [
        (*STOPS, ("generator",), ["generator"]),
        ("skip", "stop", ("generator",), []),
        ("skip", "stop", ("masks",), ["masks"]),
        ("skip", "stop", ("generator", "masks"), []),
        ("stop", "skip", ("generator", "masks", "figures"), ["generator"]),
        ("stop", "skip", ("masks", "figures"), []),
        ("skip", "skip", ("generator", "masks", "figures", "student"), ["student"]),
        (*STOPS, ("appearance",), []),
        (*STOPS, ("own",), []),
    ],
)
def test_what_a_run_cannot_do_without(on_withheld: str, on_failure: str, without: Any, missing: list[str]) -> None:
    """``appearance`` is optional in every run, and this one has no ``own`` part of a model."""
    assert indispensable(settings(on_withheld, on_failure), without=without) == missing


@pytest.mark.parametrize("text", ["", "[]", "{", '{"method": "dsfedmed", "release": 3}', '{"method": "dsfedmed"}'])
def test_a_run_whose_settings_are_none_of_ours_needs_everything(text: str) -> None:
    assert indispensable(text, without=("generator", "student")) == ["generator", "student"]


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Consent, Answers, dict[str, str]]:
    """A run that has asked, and goes on without withheld generators."""
    program = Answers()
    consent = Consent(program, "north", tmp_path, say=lambda _: None)
    run = {"id": RUN_ID, "config": settings("skip", "stop")}
    ask(consent, APPROVAL, run)
    return consent, program, run


def test_a_generator_that_is_kept_back_is_told_and_not_trained(asked: Any, tmp_path: Path) -> None:
    consent, program, run = asked
    Decisions(tmp_path).decide(RUN_ID, "approved", by="dr who", without=["generator", "masks"])
    assert ask(consent, APPROVAL, run).texts["state"] == "approved"
    reply = ask(consent, TRAIN_GENERATOR, run)
    assert (reply.arrays, dict(reply.metrics)) == ({}, {WITHHELD: 1.0}) and program.asked == []
    with pytest.raises(UserError, match="dr who there does not let 'masks' leave in this run") as caught:
        ask(consent, SHARE_MASKS, run)
    assert caught.value.code == "federation.refused"
    ask(consent, TRAIN_STUDENT, run)
    assert program.asked == [TRAIN_STUDENT]
    lines = AuditLog(tmp_path / AUDIT_FILE).entries()
    assert [(line["task"], line["bytes"]) for line in lines if line["event"] == "left"] == [
        (TRAIN_GENERATOR, 0), (TRAIN_STUDENT, payload_bytes(WEIGHTS))
    ]  # fmt: skip

    Decisions(tmp_path).decide(RUN_ID, "approved", by="dr. who")
    assert ask(consent, TRAIN_GENERATOR, run).arrays and program.asked[-1] == TRAIN_GENERATOR


def test_it_holds_for_the_settings_that_were_approved(asked: Any, tmp_path: Path) -> None:
    consent, _, run = asked
    Decisions(tmp_path).decide(RUN_ID, "approved", by="x", without=["generator"])
    stops = run | {"config": settings(*STOPS)}
    assert ask(consent, APPROVAL, stops).texts["state"] == "waiting"
    assert Decisions(tmp_path).without(RUN_ID, run["config"]) == ()


def test_rules_that_keep_generators_let_a_run_go_on_that_can(asked: Any, tmp_path: Path) -> None:
    consent, program, run = asked
    write_rules(tmp_path, 'approval = "automatic"\nkinds = ["student", "masks", "figures"]\n')
    assert ask(consent, APPROVAL, run).texts["state"] == "approved"
    assert ask(consent, TRAIN_GENERATOR, run).metrics == {WITHHELD: 1.0} and program.asked == []
    needs_it = run | {"config": settings(*STOPS)}
    reply = ask(consent, APPROVAL, needs_it)
    assert reply.texts == {"state": "refused", "reason": "its rules do not let 'generator' leave"}
    with pytest.raises(UserError, match="its rules do not let 'generator' leave"):
        ask(consent, TRAIN_GENERATOR, needs_it)


def test_what_somebody_keeps_and_the_run_needs_is_a_refusal(asked: Any, tmp_path: Path) -> None:
    consent, program, run = asked
    Decisions(tmp_path).decide(RUN_ID, "approved", by="x", without=["figures"])
    reply = ask(consent, APPROVAL, run)
    assert reply.texts == {"state": "refused", "reason": "somebody there does not let 'figures' leave"}
    with pytest.raises(UserError, match="x there does not let 'figures' leave"):
        ask(consent, EVALUATE, run)
    assert isinstance(reply, SiteReply) and program.asked == []


def test_the_command_says_what_stays_and_what_cannot(
    asked: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.deployment import site as sites

    monkeypatch.setattr(sites, "load", lambda _folder: type("Site", (), {"name": "north"}))
    words = ["site", "approve", str(tmp_path), RUN_ID]
    assert main([*words, "--without", "own"]) == 2
    assert "would send no 'own' from here; it asks for appearance, figures, generator" in capsys.readouterr().err
    assert main([*words, "--without", "student"]) == 2
    assert "cannot do without the 'student' of a site" in capsys.readouterr().err
    assert main([*words, "--without", "generator", "--without", "masks"]) == 0
    assert f"north: the run {RUN_ID} is approved without generator, masks." in capsys.readouterr().out
    assert main(["site", "runs", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "approved without generator, masks" in table and "appearance, figures, student" in table
    assert main(["site", "runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["without"] == ["generator", "masks"]
    line = AuditLog(tmp_path / AUDIT_FILE).entries()[-1]
    assert (line["event"], line["without"]) == ("approved", ["generator", "masks"])

"""What a person at a site refuses or keeps back comes before its rules from the next request on; runs are listed."""

from __future__ import annotations

import getpass
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from engine.cli import main
from engine.errors import UserError
from engine.federation.release import WITHHELD
from engine.federation.tasks import (
    APPROVAL,
    DESCRIBE,
    EVALUATE,
    SHARE_MASKS,
    TRAIN_GENERATOR,
    TRAIN_STUDENT,
    VALIDATE_STUDENT,
    Listener,
    SiteReply,
    SiteRequest,
)
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE, RULES, Consent
from engine.site.policy import Decisions
from tests.unit.test_site_consent import CONFIG, RUN, WEIGHTS, Answers, ask, write_rules
from tests.unit.test_site_partial_consent import settings

AUTOMATIC = 'approval = "automatic"\n'
LONGER = json.dumps({"method": "dsfedmed", "federation": {"rounds": 9}})
RUN_ID = RUN["id"]


@pytest.fixture
def site(tmp_path: Path) -> tuple[Consent, Answers, Path]:
    """A site whose rules approve every run."""
    (tmp_path / "site.toml").write_text('site = "north"\nserver = "localhost:1"\n')
    write_rules(tmp_path, AUTOMATIC)
    program = Answers()
    return Consent(program, "north", tmp_path, say=lambda _: None), program, tmp_path


def command(folder: Path, *words: str) -> int:
    return main(["site", words[0], str(folder), *words[1:]])


def refused(consent: Consent, task: str, run: Mapping[str, str] = RUN) -> str:
    with pytest.raises(UserError) as caught:
        ask(consent, task, run)
    assert caught.value.code in ("federation.refused", "federation.not_approved")
    return caught.value.code


def test_a_refusal_holds_where_rules_approve_every_run(site: Any) -> None:
    consent, program, folder = site
    assert ask(consent, APPROVAL).texts["state"] == "approved"
    ask(consent, TRAIN_STUDENT)
    assert command(folder, "refuse", RUN_ID, "--reason", "the board says no") == 0
    done = list(program.asked)
    assert ask(consent, APPROVAL).texts == {"state": "refused", "reason": "the board says no"}
    for task in (TRAIN_STUDENT, TRAIN_GENERATOR, SHARE_MASKS, EVALUATE, VALIDATE_STUDENT):
        assert refused(consent, task) == "federation.refused"
    assert program.asked == done
    ask(consent, TRAIN_STUDENT, {**RUN, "id": "another", "config": LONGER})
    assert command(folder, "approve", RUN_ID) == 0
    ask(consent, TRAIN_GENERATOR)
    line = AuditLog(folder / AUDIT_FILE).entries()[-1]
    assert (line["event"], line["approved_by"]) == ("left", getpass.getuser())


def test_a_run_that_was_approved_is_refused_after_the_rules_have_changed(site: Any) -> None:
    consent, _, folder = site
    write_rules(folder, "")
    ask(consent, APPROVAL)
    assert command(folder, "approve", RUN_ID) == 0
    write_rules(folder, AUTOMATIC)
    assert command(folder, "refuse", RUN_ID) == 0
    for task in (TRAIN_GENERATOR, SHARE_MASKS):
        assert refused(consent, task) == "federation.refused"


def test_a_refused_run_does_not_come_back_with_other_settings(site: Any) -> None:
    """It waits for a person, however often its settings change; without a refusal the rules decide about them."""
    consent, _, folder = site
    longer, longest = RUN | {"config": LONGER}, RUN | {"config": LONGER.replace("9", "10")}
    ask(consent, APPROVAL)
    assert ask(consent, APPROVAL, longer).texts["state"] == "approved"
    assert command(folder, "refuse", RUN_ID) == 0
    assert refused(consent, TRAIN_STUDENT, longest) == "federation.not_approved"
    for run in (RUN, longest, longer):
        assert ask(consent, APPROVAL, run).texts["state"] == "waiting"
        assert refused(consent, TRAIN_STUDENT, run) == "federation.not_approved"
    assert command(folder, "approve", RUN_ID) == 0
    for run in (longer, RUN):
        assert ask(consent, APPROVAL, run).texts["state"] == "approved"


def test_what_somebody_keeps_back_stays_where_rules_approve(site: Any) -> None:
    consent, program, folder = site
    run = {"id": RUN_ID, "config": settings("skip", "skip")}
    ask(consent, APPROVAL, run)
    assert command(folder, "approve", RUN_ID, "--without", "generator", "--without", "masks") == 0
    assert ask(consent, TRAIN_GENERATOR, run).metrics == {WITHHELD: 1.0}
    assert refused(consent, SHARE_MASKS, run) == "federation.refused" and program.asked == []
    ask(consent, TRAIN_STUDENT, run)
    stops = run | {"config": settings("skip", "stop")}
    assert refused(consent, TRAIN_GENERATOR, stops) == "federation.not_approved", "nobody has approved that as a whole"


@pytest.mark.parametrize(("keeps", "left"), [([], None), (["--without", "generator"], {})])
def test_what_is_decided_while_a_site_is_at_work_holds_for_what_it_has_made(site: Any, keeps: Any, left: Any) -> None:
    consent, program, folder = site
    run = {"id": RUN_ID, "config": settings("skip", "skip")}
    ask(consent, APPROVAL, run)

    def answer(request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        assert command(folder, "approve" if keeps else "refuse", RUN_ID, *keeps) == 0
        return SiteReply(WEIGHTS, {"loss": 0.5}, 5)

    program.answer = answer
    if left is None:
        assert refused(consent, TRAIN_GENERATOR, run) == "federation.refused"
    else:
        assert ask(consent, TRAIN_GENERATOR, run).arrays == left
    assert not [line for line in AuditLog(folder / AUDIT_FILE).entries() if line["event"] == "left" and line["bytes"]]


def test_every_run_that_asks_is_listed_with_who_approved_it(site: Any, capsys: pytest.CaptureFixture[str]) -> None:
    consent, _, folder = site
    ask(consent, DESCRIBE, {"id": "description", "config": CONFIG})
    ask(consent, APPROVAL)
    ask(consent, TRAIN_STUDENT, {**RUN, "id": "asks-at-once"})
    ask(consent, APPROVAL, {**RUN, "id": "refused-here"})
    assert command(folder, "refuse", "refused-here", "--reason", "no") == 0
    capsys.readouterr()

    def listed() -> dict[str, tuple[str, str]]:
        assert command(folder, "runs", "--json") == 0
        return {run["run"]: (run["state"], run["by"]) for run in json.loads(capsys.readouterr().out)["runs"]}

    person = ("refused", getpass.getuser())
    assert listed() == {RUN_ID: ("approved", RULES), "asks-at-once": ("approved", RULES), "refused-here": person}
    assert command(folder, "runs") == 0
    assert RULES in capsys.readouterr().out
    write_rules(folder, 'approval = "automatic"\nkinds = ["student"]\n')
    assert listed()[RUN_ID] == ("refused", RULES)
    assert ask(consent, APPROVAL, {**RUN, "id": "of-no-use"}).texts["state"] == "refused"
    assert listed()["of-no-use"] == ("refused", RULES)
    write_rules(folder, "")
    assert listed()[RUN_ID] == ("waiting", "") and listed()["refused-here"] == person


def test_who_approves_what_the_rules_do_not_let_leave_is_told(site: Any, capsys: pytest.CaptureFixture[str]) -> None:
    consent, _, folder = site
    write_rules(folder, 'kinds = ["student", "figures"]\n')
    ask(consent, APPROVAL)
    assert command(folder, "approve", RUN_ID) == 0
    said = capsys.readouterr().out
    assert "is approved, and takes no part all the same: its rules do not let 'generator' leave." in said


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "approved"}', None])
def test_a_decision_that_cannot_be_read_is_none(site: Any, content: str | None) -> None:
    """It may have been a refusal; a folder or a link to nothing in its place is no leave either."""
    consent, program, folder = site
    path = folder / "decisions" / f"{RUN_ID}.json"
    path.parent.mkdir()
    if content is None:
        path.symlink_to(folder / "gone.json")
    else:
        path.write_text(content)
    for task in (APPROVAL, TRAIN_STUDENT):
        with pytest.raises(UserError) as caught:
            ask(consent, task)
        assert caught.value.code == "site.decision_damaged"
    assert program.asked == [] and command(folder, "runs") == 2


def test_a_run_that_asks_anew_meanwhile_undoes_no_decision(tmp_path: Path) -> None:
    decisions = Decisions(tmp_path)
    decisions.ask(RUN_ID, "", kinds=())
    asking = threading.Thread(target=decisions.ask, args=(RUN_ID, "more"), kwargs={"kinds": ()})
    with decisions._locked():  # as who decides has it
        asking.start()
        asking.join(timeout=0.3)
        assert asking.is_alive(), "it waits"
    asking.join()
    assert decisions.state(RUN_ID, "more")[0] == "waiting" and decisions.rules_decide(RUN_ID, "more")
    Decisions(tmp_path).decide(RUN_ID, "refused", by="x")
    decisions.ask(RUN_ID, "yet more", kinds=())
    assert not any(decisions.rules_decide(RUN_ID, config) for config in ("", "more", "yet more"))


def test_last_is_the_newest_run_that_asked(site: Any, capsys: pytest.CaptureFixture[str]) -> None:
    consent, _, folder = site
    write_rules(folder, "")
    for name in ("approve", "refuse", "begin-anew"):
        assert command(folder / "wrong", name, "last") == 2 and "no site's folder" in capsys.readouterr().err
    assert command(folder, "approve", "last") == 2 and "asked have: none" in capsys.readouterr().err
    names = ("run-b", "run-a", "run-c")
    for name in names:
        ask(consent, APPROVAL, {**RUN, "id": name})
        sleep(0.002)  # their times have milliseconds
    assert command(folder, "approve", "run-b") == 0, "deciding is no asking"
    assert command(folder, "refuse", "last", "--reason", "no") == 0
    assert "the run run-c is refused" in capsys.readouterr().out
    assert [AuditLog(folder / AUDIT_FILE).entries()[-1][key] for key in ("event", "run")] == ["refused", "run-c"]
    ask(consent, APPROVAL, {"id": "run-a", "config": LONGER})
    assert command(folder, "approve", "last", "--without", "appearance") == 0
    assert "the run run-a is approved without appearance" in capsys.readouterr().out
    assert {run["run"]: run["state"] for run in Decisions(folder).all()} == {
        "run-a": "approved", "run-b": "approved", "run-c": "refused"
    }  # fmt: skip
    assert command(folder, "begin-anew", "last") == 2 and "no state of the run run-a" in capsys.readouterr().err


def test_what_was_refused_does_not_come_back_under_another_name(site: Any) -> None:
    """A run that is launched again, or forked, has another id; one whose note is damaged stands in nobody's way."""
    consent, _, folder = site
    again = {**RUN, "id": "again"}
    ask(consent, APPROVAL)
    assert ask(consent, APPROVAL, again).texts["state"] == "approved"
    assert command(folder, "refuse", RUN_ID) == 0
    assert refused(consent, TRAIN_STUDENT, {**RUN, "id": "third"}) == "federation.not_approved"
    assert ask(consent, APPROVAL, {**RUN, "id": "third"}).texts["state"] == "waiting"
    assert ask(consent, APPROVAL, again).texts["state"] == "approved", "it had asked, and nobody refused it"
    (folder / "decisions" / "again.json").write_text("{")
    assert ask(consent, APPROVAL, {**RUN, "id": "fourth"}).texts["state"] == "waiting"
    assert command(folder, "approve", "third") == 0
    assert ask(consent, TRAIN_STUDENT, {**RUN, "id": "third"}).num_examples == 5

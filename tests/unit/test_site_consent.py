"""What a site allows, and its record of what it was asked and what left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config_generators import ReleaseConfig
from engine.errors import UserError
from engine.federation import release
from engine.federation.payload import payload_bytes
from engine.federation.tasks import (
    APPROVAL,
    AT_WORK,
    DESCRIBE,
    EVALUATE,
    LABEL_BY_TEACHER,
    SHARE_MASKS,
    TAKE_PUBLIC,
    TRAIN_GENERATOR,
    TRAIN_STUDENT,
    VALIDATE_STUDENT,
    Listener,
    SiteReply,
    SiteRequest,
)
from engine.methods import catalogue
from engine.site.audit import AuditLog, digest
from engine.site.consent import AUDIT_FILE, LEAVING, MAX_CONFIG_LETTERS, Consent, kinds_of, rules
from engine.site.policy import Decisions, Policy, read_policy
from tests.unit.federation_world import Listening

WEIGHTS = {"w": np.arange(6, dtype=np.float32)}
CONFIG = json.dumps({"method": "dsfedmed"})
RUN = {"id": "261126-a", "config": CONFIG}


class Answers:
    """A site's program of five images."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.settings: Mapping[str, Any] = {}
        self.arrays, self.figures = WEIGHTS, {"loss": 0.5}

    def answer(self, request: SiteRequest, *, run: Mapping[str, str], listener: Listener) -> SiteReply:
        self.asked.append(request.task)
        self.settings = request.settings
        return SiteReply(self.arrays, self.figures, 5)


@pytest.fixture
def site(tmp_path: Path) -> tuple[Consent, Answers, Path]:
    program = Answers()
    return Consent(program, "north", tmp_path), program, tmp_path


def ask(consent: Consent, task: str, run: Mapping[str, str] = RUN) -> SiteReply:
    listener = Listening("north", 1, None, lambda: None)
    return consent.answer(SiteRequest("north", task, 1, {}, WEIGHTS), run=run, listener=listener)


def write_rules(folder: Path, text: str) -> None:
    (folder / "policy.toml").write_text(text, encoding="utf-8")


def test_polls_are_recorded_and_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    consent = Consent(Answers(), "north", tmp_path, said.append)
    for _ in range(3):
        assert ask(consent, APPROVAL).texts["state"] == "waiting"
    assert len(said) == 1 and f"site approve {tmp_path} 261126-a" in said[0]
    Decisions(tmp_path).decide("261126-a", "approved", by="x")
    for _ in range(3):
        assert ask(consent, APPROVAL).texts["state"] == "approved"
    lines = AuditLog(tmp_path / AUDIT_FILE).entries()
    assert [(line["event"], line["decision"]) for line in lines] == [("asked", "waiting"), ("asked", "approved")]


def test_work_that_goes_on_is_recorded_at_its_beginning_and_its_end(site: Any) -> None:
    consent, program, folder = site
    write_rules(folder, 'approval = "automatic"\n')
    done, at_work = program.answer, SiteReply({}, {"step": 1, "total": 9}, 5, {AT_WORK: TRAIN_GENERATOR})
    for _ in range(2):
        program.answer = lambda *_, **__: at_work
        for _ in range(3):
            assert ask(consent, TRAIN_GENERATOR) is at_work
        program.answer = done
        ask(consent, TRAIN_GENERATOR)
    ask(consent, TRAIN_GENERATOR)
    lines = AuditLog(folder / AUDIT_FILE).entries()
    assert [(line["event"], line.get("progress_told")) for line in lines] == [
        ("asked", None), ("left", 3), ("asked", None), ("left", 3), ("asked", None), ("left", None)
    ]  # fmt: skip

    program.answer = lambda *_, **__: SiteReply(WEIGHTS, {}, 5, {AT_WORK: TRAIN_GENERATOR})
    ask(consent, TRAIN_GENERATOR)
    assert AuditLog(folder / AUDIT_FILE).entries()[-1]["bytes"] == payload_bytes(WEIGHTS), "whatever it says it is"


def test_all_that_was_told_of_how_far_a_request_was_is_one_line(site: Any) -> None:
    consent, _, folder = site
    consent.told_progress(TRAIN_STUDENT, 3, [(1, 9), (4, 9)], run_id=RUN["id"])
    consent.told_progress(TRAIN_STUDENT, 3, [(1, 9)], run_id="../x")
    first, second = AuditLog(folder / AUDIT_FILE).entries()
    words = b"[[1, 9], [4, 9]]"
    about = {"event": "left", "run": RUN["id"], "task": TRAIN_STUDENT, "round": 3, "kind": "metrics", "bytes": 0}
    assert first.items() >= about.items() and second["run"] == "", "what a server sends is no name of ours"
    assert (first["words_bytes"], first["progress_told"]) == (len(words), 2)
    assert first["words_digest"] == hashlib.sha256(words).hexdigest()


def test_figures_and_words_that_leave_are_in_the_record(site: Any) -> None:
    consent, program, folder = site
    write_rules(folder, 'approval = "automatic"\n')
    program.arrays = {}
    digests = []
    for loss in (0.5, 0.25):
        program.figures = {"loss": loss}
        ask(consent, EVALUATE)
        left = AuditLog(folder / AUDIT_FILE).entries()[-1]
        words = json.dumps([{"loss": loss}, {}, 5], sort_keys=True).encode()
        assert (left["bytes"], left["words_bytes"]) == (0, len(words))
        digests.append(left["words_digest"])
        assert left["words_digest"] == hashlib.sha256(words).hexdigest()
    assert digests[0] != digests[1]


def test_whatever_keeps_a_site_from_answering_is_in_the_record(site: Any) -> None:
    consent, program, folder = site
    write_rules(folder, 'approval = "automatic"\n')

    def fails(*_: object, **__: object) -> SiteReply:
        raise OSError("no such file: anna_doe.png")

    program.answer = fails
    with pytest.raises(OSError, match="anna_doe"):
        ask(consent, TRAIN_STUDENT)
    line = AuditLog(folder / AUDIT_FILE).entries()[-1]
    assert (line["event"], line["code"], line["why"]) == ("not answered", "OSError", "no such file: anna_doe.png")


def test_nothing_learnt_leaves_before_somebody_approves(site: Any) -> None:
    consent, program, folder = site
    with pytest.raises(UserError, match="Nobody at north has approved the run 261126-a yet") as caught:
        ask(consent, TRAIN_STUDENT)
    assert caught.value.code == "federation.not_approved" and program.asked == []
    assert ask(consent, APPROVAL).texts["state"] == "waiting"
    (run,) = Decisions(folder).all()
    assert run["kinds"] == ["appearance", "figures", "generator", "masks", "student"]
    Decisions(folder).decide("261126-a", "approved", by="dr. who")
    assert ask(consent, APPROVAL).texts["state"] == "approved"
    assert ask(consent, TRAIN_STUDENT).num_examples == 5
    left = [entry for entry in AuditLog(folder / AUDIT_FILE).entries() if entry["event"] == "left"]
    assert [(e["kind"], e["bytes"], e["approved_by"]) for e in left] == [("student", payload_bytes(WEIGHTS), "dr. who")]
    assert left[0]["digest"] == digest(WEIGHTS)


def test_what_a_site_has_is_told_without_approval(site: Any) -> None:
    consent, program, _ = site
    ask(consent, DESCRIBE)
    assert program.asked == [DESCRIBE]


def test_an_approval_holds_for_one_configuration(site: Any) -> None:
    consent, _, folder = site
    ask(consent, APPROVAL)
    Decisions(folder).decide("261126-a", "approved", by="x")
    longer = {"id": "261126-a", "config": json.dumps({"method": "dsfedmed", "federation": {"rounds": 9}})}
    with pytest.raises(UserError, match="has approved"):
        ask(consent, TRAIN_STUDENT, longer)
    assert ask(consent, APPROVAL, longer).texts["state"] == "waiting"


def test_a_refusal_has_its_reason(site: Any) -> None:
    consent, _, folder = site
    ask(consent, APPROVAL)
    Decisions(folder).decide("261126-a", "refused", reason="our ethics board meets in May", by="x")
    reply = ask(consent, APPROVAL)
    assert reply.texts == {"state": "refused", "reason": "our ethics board meets in May"}
    with pytest.raises(UserError, match="does not take part in this: our ethics board meets in May") as caught:
        ask(consent, TRAIN_STUDENT)
    assert caught.value.code == "federation.refused"


@pytest.mark.parametrize(
    ("text", "task", "words"),
    [
        ('kinds = ["student", "figures"]', TRAIN_GENERATOR, "its rules do not let 'generator' leave"),
        ("smallest_images = 6", TRAIN_STUDENT, "it has 5 images, and its rules ask for 6"),
        ("smallest_images = 6", SHARE_MASKS, "it has 5 images"),
        ("most_megabytes = 0.0001", TRAIN_STUDENT, "0.0 MB would leave, and its rules allow 0.0001 MB"),
    ],
)
def test_rules_hold_for_runs_that_need_no_approval(site: Any, text: str, task: str, words: str) -> None:
    consent, _, folder = site
    write_rules(folder, f'approval = "automatic"\n{text}\n')
    with pytest.raises(UserError, match=f"Site north does not take part in this: {words}"):
        ask(consent, task)
    events = [entry["event"] for entry in AuditLog(folder / AUDIT_FILE).entries()]
    assert events == ["asked", "not answered"]


def test_a_site_can_demand_a_check_of_its_generator(site: Any) -> None:
    """The rules' limits reach the program whatever the server has set; a program that ignored them is not believed."""
    consent, program, folder = site
    write_rules(folder, 'approval = "automatic"\ngenerators = "checked"\nmost_membership_auc = 0.7\nmost_copies = 0\n')
    listener = Listening("north", 1, None, lambda: None)
    request = SiteRequest("north", TRAIN_GENERATOR, 0, {release.CHECK: False, release.MOST_AUC: 1.0, "a": 1}, {})
    program.figures = {release.AUC: 0.6, release.COPIES: 0.0}
    assert consent.answer(request, run=RUN, listener=listener).arrays == WEIGHTS
    assert program.settings == {release.CHECK: True, release.MOST_AUC: 0.7, release.MOST_COPIES: 0, "a": 1}
    for figures, words in (
        ({}, "too few held-out images to tell"),
        ({release.AUC: 0.71}, r"an AUC of 0\.71 .* and the limit is 0\.7"),
        ({release.AUC: 0.6, release.COPIES: 1.0}, "1 of its images are copies of training images, and the limit is 0"),
    ):
        program.figures = figures
        with pytest.raises(UserError, match=f"its generator stays, for .*{words}"):
            consent.answer(request, run=RUN, listener=listener)
    program.arrays = {}
    assert consent.answer(request, run=RUN, listener=listener).arrays == {}, "figures of one that is withheld may leave"
    left = [entry for entry in AuditLog(folder / AUDIT_FILE).entries() if entry["event"] == "left"]
    assert [(entry["kind"], entry["bytes"] > 0) for entry in left] == [("generator", True), ("metrics", False)]
    ask(consent, TRAIN_STUDENT)
    assert release.CHECK not in program.settings


def test_the_stricter_of_run_and_site_holds() -> None:
    run = ReleaseConfig(check=True, most_membership_auc=0.8)
    site = release.Limits(0.9, 2).settings()
    assert release.limits_of(ReleaseConfig(), {}) is None
    assert release.limits_of(run, {}) == release.Limits(0.8, None)
    assert release.limits_of(run, site) == release.Limits(0.8, 2)
    assert release.limits_of(ReleaseConfig(most_copies=1), site) == release.Limits(0.9, 2), "a run that asks for none"
    assert release.limits_of(run.model_copy(update={"most_copies": 1}), site) == release.Limits(0.8, 1)
    assert release.limits_in(release.Limits(0.8, 2).figures()) == release.Limits(0.8, 2)


def test_what_is_measured_needs_no_number_of_training_images(site: Any) -> None:
    consent, _, folder = site
    write_rules(folder, 'approval = "automatic"\nsmallest_images = 6\n')
    assert ask(consent, EVALUATE).num_examples == 5


def test_the_most_that_may_leave_counts_over_a_run(site: Any) -> None:
    consent, _, folder = site
    once = payload_bytes(WEIGHTS) / 1e6
    write_rules(folder, f'approval = "automatic"\nmost_megabytes = {2.5 * once}\n')
    for _ in range(2):
        ask(consent, TRAIN_STUDENT)
    with pytest.raises(UserError, match="would leave"):
        ask(consent, TRAIN_STUDENT)
    assert ask(consent, TRAIN_STUDENT, {**RUN, "id": "another"}).num_examples == 5


def test_words_count_towards_the_most_that_may_leave(site: Any) -> None:
    """Or a program could send by letters what it may not send by arrays."""
    consent, program, folder = site
    write_rules(folder, 'approval = "automatic"\nmost_megabytes = 0.01\n')
    program.arrays, program.figures = {}, {"x" * 6000: 0.5}
    ask(consent, EVALUATE)
    with pytest.raises(UserError, match="MB would leave"):
        ask(consent, EVALUATE)


def test_a_run_that_would_send_what_may_not_leave_is_refused_at_once(site: Any) -> None:
    consent, _, folder = site
    write_rules(folder, 'kinds = ["student", "figures", "statistics"]')
    assert ask(consent, APPROVAL).texts == {"state": "refused", "reason": "its rules do not let 'generator' leave"}
    assert ask(consent, APPROVAL, {"id": "b", "config": '{"method": "fedtinysam"}'}).texts["state"] == "waiting"


def test_only_what_a_run_cannot_do_without_makes_a_site_refuse_it(site: Any) -> None:
    """The appearance of images is optional: a run goes on without it."""
    consent, _, folder = site
    assert catalogue.kinds()["appearance"].is_optional and not catalogue.kinds()["student"].is_optional
    plain = {"id": "b", "config": '{"method": "fedtinysam"}'}
    write_rules(folder, 'kinds = ["student", "figures"]')
    assert ask(consent, APPROVAL, plain).texts["state"] == "waiting"
    write_rules(folder, 'kinds = ["appearance", "figures"]')
    assert ask(consent, APPROVAL, plain).texts == {
        "state": "refused",
        "reason": "its rules do not let 'student' leave",
    }


def test_settings_of_any_length_are_not_kept(site: Any) -> None:
    consent, _, _ = site
    longest = "x" * MAX_CONFIG_LETTERS
    assert ask(consent, APPROVAL, {"id": "a", "config": longest}).texts["state"] == "waiting"
    assert ask(consent, APPROVAL, {"id": "x" * 80, "config": ""}).texts["state"] == "waiting"
    assert ask(consent, APPROVAL, {"id": "no-settings"}).texts["state"] == "waiting"
    for run in ({"id": "b", "config": longest + "x"}, {"config": "{}"}):
        with pytest.raises(UserError, match="a run that cannot be") as caught:
            ask(consent, APPROVAL, run)
        assert caught.value.code == "federation.bad_request"


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "", "a/b", "x" * 81, "-"])
def test_a_servers_run_id_is_no_path(site: Any, run_id: str) -> None:
    consent, _, folder = site
    with pytest.raises(UserError, match="a run that cannot be"):
        ask(consent, APPROVAL, {**RUN, "id": run_id})
    assert list(folder.rglob("*.json")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("approval = 'sometimes'", "approval has 'sometimes' where 'each_run' or 'automatic' is expected"),
        ('kinds = ["weights"]', "there is no kind 'weights'"),
        ("smallest_images = 0", "smallest_images has 0 where a whole number of 1 or more"),
        ("most_megabytes = -1", "most_megabytes has -1 where"),
        ("generators = true", "generators has true where 'as_asked' or 'checked'"),
        ("most_membership_auc = 0.3", "most_membership_auc has 0.3 where"),
        ("most_images = 1", "there is no key 'most_images'"),
        ("approval = ", "policy.toml cannot be used"),
    ],
)
def test_rules_that_are_unclear_stop_everything(site: Any, text: str, words: str) -> None:
    consent, program, folder = site
    write_rules(folder, text)
    with pytest.raises(UserError, match=words) as caught:
        ask(consent, DESCRIBE)
    assert caught.value.code == "site.policy_invalid" and program.asked == []


def test_every_task_that_sends_more_than_numbers_has_a_kind() -> None:
    """Another task's reply would leave as numbers, past the rules for kinds."""
    from engine.site.tasks import TASKS

    assert set(TASKS) - set(LEAVING) == {DESCRIBE, VALIDATE_STUDENT, TAKE_PUBLIC, LABEL_BY_TEACHER}
    assert set(LEAVING.values()) <= set(catalogue.kinds())


def test_rules_are_said_in_words() -> None:
    plain = "each run waits for approval; may leave: everything that a run asks for; nothing learnt from fewer than 1"
    assert rules(Policy()) == f"{plain} images."
    checked = rules(Policy(generators="checked", most_copies=0))
    assert ", generators with a membership AUC of at most 0.9 and at most 0 copies; nothing" in checked
    assert "; may leave: nothing; " in rules(Policy(kinds=()))
    strict = Policy(approval="automatic", kinds=("student",), most_megabytes=20, smallest_images=30)
    assert rules(strict) == (
        "runs need no approval; may leave: student, at most 20 MB in a run; nothing learnt from fewer than 30 images."
    )


def test_a_method_says_what_it_sends() -> None:
    assert kinds_of('{"method": "fedtinysam"}') == ("appearance", "figures", "student")
    everything = (
        "appearance", "figures", "generator", "masks", "normalisation", "own", "public_predictions", "statistics",
        "student",
    )  # fmt: skip
    for how, kinds in (("local", ("figures", "normalisation", "student")), ("average", ("figures", "student"))):
        sent = kinds_of(json.dumps({"method": "fedtinysam", "federation": {"normalisation": how}}))
        assert sent == ("appearance", *kinds)
    assert kinds_of('{"method": "nobody knows"}') == kinds_of("no JSON") == everything


def test_rules_are_the_defaults_without_a_file(tmp_path: Path) -> None:
    assert read_policy(tmp_path) == Policy(approval="each_run", kinds=None, smallest_images=1, most_megabytes=None)

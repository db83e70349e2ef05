"""The egress report: each question's answer from what is on record, and only from that."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from compared_world import compared, write

from engine.cli import main
from engine.report.document import RunDocument, read_document
from engine.report.egress import SiteEgress, egress
from engine.report.egress_html import egress_html
from engine.report.ledger import Message
from engine.report.site_records import NO_PROOFS, Proof, Proofs
from engine.runs.events import StoreReporter
from engine.runs.generator_checks import CHECKS_FILE
from engine.runs.store import RunStore
from engine.types import Traffic

IMAGES, MASKS, GENERATOR, LIMIT = (
    "Do images of patients leave?",
    "Do outlines of patients' anatomy leave?",
    "Could the site's image generator give its training images away?",
    "Is there a formal limit to what can be learnt of a patient or of the site?",
)
APPROVED, AGREE = "Has somebody at the site approved what left?", "Do the server's and the site's records agree?"
STUDENT = [
    Message("federated_training", "north", "up", "student", number, num_bytes)
    for number, num_bytes in ((1, 500), (2, 700))
]
NUMBERS = Message("federated_training", "north", "up", "metrics", 1, 30)
SENT_GENERATOR = Message("generator_training", "north", "up", "generator", 0, 9_000)
SENT_MASKS = Message("generation", "north", "up", "masks", 0, 40)
FIGURES = {
    "membership_auc": 0.55, "membership_auc_low": 0.41, "membership_auc_high": 0.68, "limit_membership_auc": 0.9,
    "copies": 0.0, "limit_copies": 0.0, "distance_ratio": 0.97, "check_members": 32.0, "check_held_out": 10.0,
    "withheld": 0.0,
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


@pytest.fixture
def document(store: RunStore) -> RunDocument:
    return read_document(store, compared(store, "r", {("test", "z"): [0.5, 0.7]}))


def of(
    document: RunDocument, *messages: Message, checks: dict[str, object] | None = None, proofs: Proofs = NO_PROOFS
) -> tuple[SiteEgress, dict[str, tuple[str, str]]]:
    (one,) = egress(replace(document, ledger=messages), checks or {}, proofs)
    return one, {answer.question: (answer.state, answer.said) for answer in one.answers}


def test_what_left_is_summed_by_kind_and_what_came_down_is_not_in_it(document: RunDocument) -> None:
    down = replace(STUDENT[0], direction="down", payload_bytes=10**6)
    one, answers = of(document, down, *STUDENT, NUMBERS)
    assert (one.site, one.num_bytes) == ("north", 1_230)
    assert [(left.kind, left.num_messages, left.num_bytes) for left in one.left] == [
        ("student", 2, 1_200),
        ("metrics", 1, 30),
    ]
    assert answers[IMAGES][0] == "good"
    assert answers[LIMIT][0] == "open" and answers[LIMIT][1].startswith("No:")
    assert MASKS not in answers and GENERATOR not in answers, "nothing is asked about what did not leave"


def test_a_kind_that_nobody_knows_is_not_called_free_of_images(document: RunDocument) -> None:
    _, answers = of(document, replace(STUDENT[0], kind="thumbnails"))
    assert answers[IMAGES][0] == "open" and "thumbnails" in answers[IMAGES][1]


@pytest.mark.parametrize(("sharing", "state"), [("real", "bad"), ("deformed", "open")])
def test_masks_that_leave_are_told_by_how_they_were_shared(document: RunDocument, sharing: str, state: str) -> None:
    assert document.config is not None
    part = document.config.generation.model_copy(update={"mask_sharing": sharing})
    shared = replace(document, config=document.config.model_copy(update={"generation": part}))
    _, answers = of(shared, SENT_MASKS)
    assert answers[MASKS][0] == state
    assert of(replace(document, config=None), SENT_MASKS)[1][MASKS][0] == "open"


def test_a_generator_is_judged_by_its_own_figures_and_limits(document: RunDocument) -> None:
    def told(state: str = "sent", reason: str = "", **changed: float) -> tuple[str, str]:
        check = {"state": state, "reason": reason, "figures": FIGURES | changed}
        return of(document, SENT_GENERATOR, checks={"north": check})[1][GENERATOR]

    state, said = told()
    assert state == "good"
    assert "AUC of 0.55 [0.41, 0.68]" in said and "limit is 0.9" in said and "32 and 10 images" in said
    assert told(membership_auc=0.93)[0] == "bad"
    assert told(copies=1.0)[0] == "bad"
    assert told(membership_auc=0.9)[0] == "good", "at the limit is within it"
    assert of(document, SENT_GENERATOR)[1][GENERATOR][0] == "open", "nothing was measured"
    withheld = {"north": {"state": "withheld", "reason": "it is a copy", "figures": FIGURES}}
    state, said = of(document, *STUDENT, checks=withheld)[1][GENERATOR]
    assert state == "good" and "it is a copy" in said


def test_the_largest_epsilon_of_each_unit_is_said(document: RunDocument) -> None:
    noised = [replace(one, epsilon=value, epsilon_of="site") for one, value in zip(STUDENT, (3.5, 7.25), strict=True)]
    own = replace(SENT_GENERATOR, epsilon=2.5, epsilon_of="patient")
    state, said = of(document, *noised, own)[1][LIMIT]
    assert state == "open", "no limit is set to hold it to"
    assert "the site's privacy epsilon = 7.2" in said and "each patient's privacy epsilon = 2.5" in said
    assert "3.5" not in said


def test_approvals_and_agreement_come_from_the_sites_own_record(document: RunDocument) -> None:
    proof = {one: Proof(f"{number}" * 64, "Dr Nord", "2026-01-01") for number, one in enumerate(STUDENT)}
    whole = Proofs(("north",), proof, ("north: 2 of 2 messages to the server are in its record with their bytes.",))
    one, answers = of(document, *STUDENT, NUMBERS, proofs=whole)
    assert one.left[0].digests == ("0" * 64, "1" * 64) and one.left[0].approved_by == ("Dr Nord",)
    assert answers[APPROVED] == ("good", "2 of 2 messages with content, by Dr Nord.")
    assert answers[AGREE][0] == "good"
    fault = "north: 'student', number 2, of 700 bytes is not in its record."
    partly = Proofs(("north",), dict(list(proof.items())[:1]), (*whole.said, fault))
    _, answers = of(document, *STUDENT, proofs=partly)
    assert answers[APPROVED][0] == "bad" and "1 of 2" in answers[APPROVED][1]
    assert answers[AGREE] == ("bad", fault)
    _, answers = of(document, *STUDENT)
    assert answers[APPROVED][0] == answers[AGREE][0] == "open"


def test_the_command_writes_a_page_and_data_with_other_peoples_words_escaped(store: RunStore, tmp_path: Path) -> None:
    run_id = compared(store, "r", {("test", "z"): [0.5, 0.7]})
    reporter = StoreReporter(store, run_id, "generator_training", attempt=1)
    for site in ("<b>north</b>", "south"):
        reporter.traffic(Traffic(site, "up", "generator", 1_000, 0))
    reporter.flush()
    write(store, run_id, str(CHECKS_FILE), {"south": {"state": "sent", "reason": "", "figures": FIGURES}})
    page, data = tmp_path / "egress.html", tmp_path / "egress.json"
    for path in (page, data):
        assert main(["report", run_id, "--egress", str(path), "--home", str(store.home)]) == 0
        assert main(["report", run_id, "--egress", str(path), "--home", str(store.home)]) == 2, "never overwritten"
    html = page.read_text(encoding="utf-8")
    assert html == egress_html(store, run_id)
    assert "<b>north</b>" not in html and "<b>north</b>" in unescape(html)
    sites = {site["site"]: site for site in json.loads(data.read_text(encoding="utf-8"))["sites"]}
    assert sites["south"]["generator"] == FIGURES and sites["<b>north</b>"]["generator"] == {}
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")

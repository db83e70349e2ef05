"""The privacy ledger: every message of the store once, in order, and nothing that is not on record."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from compared_world import compared

from engine.cli import main
from engine.report.html import html_report
from engine.report.ledger import LedgerSum, Message, read_ledger, sums
from engine.report.ledger_csv import FROM_SERVER, NOT_HERE, NOT_MATCHED, NUMBERS, ledger_csv
from engine.report.privacy import privacy_rows
from engine.report.site_records import Proof, join_records
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.site.audit import AuditLog
from engine.types import Traffic


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def measured(store: RunStore) -> str:
    """Rounds 1 and 2 of site a (1.0 MB up, 1.5 MB down each), and figures of =b, asked as question 1."""
    run_id = compared(store, "run", {("test", "z"): [0.5]})
    reporter = StoreReporter(store, run_id, "evaluation", attempt=1)
    reporter.traffic(Traffic("=b", "up", "figures", 70, round=1))
    reporter.traffic(Traffic("=b", "up", "figures", 90, round=1))  # sent again: it replaces the first
    reporter.traffic(Traffic("=b", "down", "evaluated", 5, round=1_000_003))
    reporter.flush()
    return run_id


def test_every_message_is_there_once_in_order(store: RunStore) -> None:
    found = read_ledger(store, measured(store))
    assert [(m.stage, m.number, m.site, m.direction, m.kind, m.payload_bytes) for m in found] == [
        ("federated_training", 1, "a", "down", "student", 1_500_000),
        ("federated_training", 1, "a", "up", "student", 1_000_000),
        ("federated_training", 2, "a", "down", "student", 1_500_000),
        ("federated_training", 2, "a", "up", "student", 1_000_000),
        ("evaluation", 1, "=b", "up", "figures", 90),
        ("evaluation", 1_000_003, "=b", "down", "evaluated", 5),
    ]
    assert [m.is_round for m in found] == [True] * 4 + [False] * 2, "a number of a question is no round"


def test_sums_are_of_one_site_way_kind_and_stage(store: RunStore) -> None:
    assert sums(read_ledger(store, measured(store))) == (
        LedgerSum("=b", "up", "figures", "evaluation", 1, 90, 90, 90),
        LedgerSum("=b", "down", "evaluated", "evaluation", 1, 5, 5, 5),
        LedgerSum("a", "up", "student", "federated_training", 2, 2_000_000, 1_000_000, 1_000_000),
        LedgerSum("a", "down", "student", "federated_training", 2, 3_000_000, 1_500_000, 1_500_000),
    )


def test_the_file_says_what_is_not_on_record_and_has_no_formula(store: RunStore) -> None:
    run_id = measured(store)
    lines = list(csv.DictReader(io.StringIO(ledger_csv(run_id, read_ledger(store, run_id)))))
    assert len(lines) == 6 and sum(int(line["bytes"]) for line in lines) == 5_000_095
    assert {line["sha256"] + line["approved_by"] for line in lines} == {""}
    assert {line["note"] for line in lines if line["direction"] == "up"} == {NOT_HERE}
    assert {line["site"] for line in lines} == {"a", "'=b"} and lines[0]["contents"].endswith(".")


def test_an_update_of_private_rounds_has_its_epsilon(store: RunStore) -> None:
    """The curve's value of the round; the second is the larger, and what the report says."""
    run_id = measured(store)
    reporter = StoreReporter(store, run_id, "federated_training", attempt=1)
    for number, value in ((1, 2.5), (2, 4.001)):
        reporter.metric("epsilon", value, step=number, site="a")
    reporter.flush()
    found = read_ledger(store, run_id)
    assert [(m.number, m.epsilon) for m in found if m.epsilon is not None] == [(1, 2.5), (2, 4.001)]
    assert {m.epsilon_of for m in found} == {"site", None}
    lines = list(csv.DictReader(io.StringIO(ledger_csv(run_id, found))))
    assert [line["epsilon"] for line in lines] == ["", "2.5", "", "4.001", "", ""]
    assert privacy_rows(found) == [("a", "the site's", "Federated training", "2", "4.01")]
    page = html_report(store, run_id)
    assert "Privacy that was spent" in page and "<td>4.01</td>" in page
    assert "Privacy that was" not in html_report(store, measured(store))


def test_a_private_generator_has_its_patients_epsilon(store: RunStore) -> None:
    run_id = measured(store)
    reporter = StoreReporter(store, run_id, "generator_training", attempt=1)
    reporter.traffic(Traffic("a", "up", "generator", 900, round=1_000_001))
    reporter.traffic(Traffic("b", "up", "generator", 900, round=1_000_001))
    reporter.metric("patient_epsilon", 6.0, step=150, site="a")
    reporter.flush()
    found = read_ledger(store, run_id)
    assert [(m.site, m.kind, m.epsilon, m.epsilon_of) for m in found if m.epsilon is not None] == [
        ("a", "generator", 6.0, "patient")
    ]
    assert privacy_rows(found) == [("a", "each patient's", "Generator training", "1", "6")]


DIGEST = "ab" * 32


def left(
    kind: str, number: int, num_bytes: int, *, run: str = "r", digest: str = DIGEST, by: str = "ann"
) -> dict[str, Any]:
    about = {"event": "left", "run": run, "kind": kind, "round": number, "bytes": num_bytes}
    return about | {
        "digest": digest,
        "approved_by": by,
        "at": "2026-11-26T10:00:00.000+00:00",
        "task": "t",
        "chain": "0",
    }


def up(kind: str, number: int, num_bytes: int, *, site: str = "a", stage: str = "s") -> Message:
    return Message(stage, site, "up", kind, number, num_bytes)


def test_a_sites_record_gives_digest_and_approval_and_the_last_answer_counts() -> None:
    sent = [up("student", 1, 10), up("student", 2, 10), up("metrics", 1, 3), up("masks", 0, 5, site="b"),
            Message("s", "a", "down", "student", 1, 10)]  # fmt: skip
    entries = [left("student", 1, 10, digest="11" * 32), left("student", 1, 10, digest="22" * 32),
               left("student", 2, 10), left("student", 1, 10, run="another"), left("metrics", 1, 0),
               {"event": "asked", "run": "r"}]  # fmt: skip
    found = join_records(sent, {"a": entries}, run_id="r")
    assert {message.number: proof.sha256[:2] for message, proof in found.of.items()} == {1: "22", 2: "ab"}
    assert found.of[sent[1]] == Proof(DIGEST, "ann", "2026-11-26T10:00:00.000+00:00")
    assert found.said == (
        "a: 2 of 2 messages to the server are in its record with their bytes.",
        "a: 'student', number 1, has left 1 more time(s), before its last answer.",
    )
    lines = list(csv.DictReader(io.StringIO(ledger_csv("r", sent, found))))
    assert [(line["sha256"][:2], line["approved_by"], line["note"]) for line in lines] == [
        ("22", "ann", ""), ("ab", "ann", ""), ("", "", NUMBERS), ("", "", NOT_HERE), ("", "", FROM_SERVER),
    ]  # fmt: skip


def test_what_the_two_records_do_not_agree_on_is_said() -> None:
    sent = [up("student", 1, 10), up("student", 2, 10), up("masks", 0, 5)]
    entries = [left("student", 1, 11), left("generator", 0, 7), left("masks", 0, 5)]
    found = join_records(sent, {"a": entries}, run_id="r")
    assert list(found.of) == [sent[2]]
    assert found.said[1:] == (
        "a: 'student', number 1, of 10 bytes is not in its record.",
        "a: 'student', number 2, of 10 bytes is not in its record.",
        "a: 'student', number 1, has 11 bytes in its record, other than the server counted.",
        "a: 'generator', number 0, of 7 bytes is in its record, and the server has none.",
    )
    lines = list(csv.DictReader(io.StringIO(ledger_csv("r", sent, found))))
    assert [line["note"] for line in lines] == [NOT_MATCHED, NOT_MATCHED, ""]


def test_stages_that_number_alike_have_a_line_each() -> None:
    sent = [up("masks", 0, 5, stage="one"), up("masks", 0, 5, stage="two")]
    entries = [left("masks", 0, 5, digest=two * 32) for two in ("11", "22", "33")]
    found = join_records(sent, {"a": entries}, run_id="r")
    assert [found.of[message].sha256[:2] for message in sent] == ["22", "33"]


@pytest.mark.parametrize("wrong", [
    {"digest": "x"}, {"digest": None}, {"bytes": True}, {"bytes": "9"}, {"round": 1.5}, {"kind": ["a"]}, {"at": 3},
    {"approved_by": None},
])  # fmt: skip
def test_a_line_that_is_none_is_counted_and_proves_nothing(wrong: dict[str, Any]) -> None:
    found = join_records([up("student", 1, 10)], {"a": [left("student", 1, 10) | wrong]}, run_id="r")
    assert found.of == {} and found.said[-1] == "a: 1 lines of its record on this run are none that the program writes."


def test_many_faults_are_not_said_one_by_one() -> None:
    found = join_records([up("student", n, 10) for n in range(50)], {"a": []}, run_id="r")
    assert len(found.said) == 22 and found.said[-1] == "a: 30 more such faults."


def test_the_command_takes_a_sites_record_whose_chain_is_whole(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, path = measured(store), tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in (1, 2):
        entry = left("student", number, 1_000_000, run=run_id, by="<b>ann</b>")
        log.append("left", **{key: entry[key] for key in ("run", "kind", "round", "bytes", "digest", "approved_by")})
    page, table = tmp_path / "r.html", tmp_path / "l.csv"
    given = ["report", run_id, "--home", str(store.home), "--html", str(page), "--ledger", str(table), "--site-record"]
    assert main([*given, f"a={path}"]) == 0
    assert "a: 2 of 2 messages" in capsys.readouterr().out
    shown = page.read_text(encoding="utf-8")
    assert shown.count(f"<code>{DIGEST[:16]}</code>") == 2 and "&lt;b&gt;ann" in shown and "<b>ann" not in shown
    assert sum(DIGEST in line for line in table.read_text(encoding="utf-8").splitlines()) == 2
    page.unlink(), table.unlink()
    for wrong in ("nobody=x", "a", f"a={path}.none"):
        assert main([*given, wrong]) == 2
    path.write_bytes(path.read_bytes().replace(b"1000000", b"1000001", 1))
    assert main([*given, f"a={path}"]) == 2 and "not as it was written" in capsys.readouterr().err
    assert not page.exists() and not table.exists()

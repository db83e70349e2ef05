"""The privacy ledger: every message of the store once, in order, and nothing that is not on record."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from compared_world import compared

from engine.report.ledger import NOT_HERE, LedgerSum, ledger_csv, read_ledger, sums
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
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

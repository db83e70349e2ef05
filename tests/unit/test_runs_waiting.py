"""A waiting run's place in the queue, and when it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from app import markup
from engine.config import load_config
from engine.runs.store import RunStore
from engine.runs.waiting import Waiting, expected_start_s, waiting


@pytest.mark.parametrize(("running", "before", "slots", "expected"), [
    ([], [], 1, 0.0),
    ([60.0], [], 1, 60.0),
    ([60.0], [30.0, 10.0], 1, 100.0),
    # Two slots: one is free at 60 and takes 30, the other is free at 50 and takes 100: 60 + 30 = 90 comes first.
    ([60.0, 50.0], [100.0, 30.0], 2, 90.0),
    ([60.0], [], 2, 0.0),
    # Three at work where one may: two have to end before the third does.
    ([10.0, 20.0, 30.0], [], 1, 30.0),
    ([], [], 0, None),
    ([None], [], 1, None),
    ([60.0], [None], 1, None),
])  # fmt: skip
def test_when_it_starts(
    running: Sequence[float | None], before: Sequence[float | None], slots: int, expected: float | None
) -> None:
    assert expected_start_s(running, before, slots=slots) == expected


def test_the_place_is_that_in_which_runs_are_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "1")
    store = RunStore(tmp_path)
    config = load_config("phantom_cpu_smoke")
    planned = dict.fromkeys(("federated_training", "generator_training", "generation", "foundation_finetuning",
                             "mutual_distillation", "evaluation", "export"), 10.0)  # fmt: skip
    ids = [store.create_run(config, planned_s=planned).run_id for _ in range(3)]
    for run_id in reversed(ids):
        store.update_run(run_id, queued_at=1000.0 - ids.index(run_id), status="queued")
    assert waiting(store, ids[2]) == Waiting(1, 3, 0.0)
    assert waiting(store, ids[0]) == Waiting(3, 3, 140.0)
    claimed = store.claim(max_running=1)
    assert claimed is not None and claimed.run_id == ids[2]
    assert waiting(store, ids[2]) is None, "it runs"
    found = waiting(store, ids[0])
    assert found == Waiting(2, 2, 140.0)
    html = markup.status(store.view(ids[0]), place=found)
    assert "Place 2 of 2 in the queue" in html and "starts in about 2 min" in html
    assert "queue" not in markup.status(store.view(ids[2]))

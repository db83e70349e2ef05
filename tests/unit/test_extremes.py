"""The best and the worst images of a run: which, in what order, and under no name of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compared_world import compared

from app import compare_view
from engine.experiments.comparison import compare, read_run
from engine.experiments.extremes import ImageLine, extremes, shown_places
from engine.report.html import html_report
from engine.runs.store import RunStore

UNSEEN, KEPT = ("test", "z"), ("validation", "a")
DICE = [0.5, 0.9, 0.5, 0.1, 0.75]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def test_half_of_the_images_at_most_are_best_and_equal_ones_go_by_number(store: RunStore) -> None:
    distances = {UNSEEN: [4.0, None, 2.0, 9.0, 1.5]}
    found = extremes(read_run(store, compared(store, "run", {UNSEEN: DICE}, hd95=distances)), UNSEEN)
    assert found is not None and found.num_images == 5
    assert found.best == (ImageLine("z", 1, 1, 0.9, 0.45, None), ImageLine("z", 4, 3, 0.75, 0.375, 1.5))
    assert found.worst == (ImageLine("z", 3, 2, 0.1, 0.05, 9.0), ImageLine("z", 0, 1, 0.5, 0.25, 4.0))


def test_ten_at_most_and_none_of_one_image(store: RunStore) -> None:
    run = read_run(store, compared(store, "run", {UNSEEN: [n / 100 for n in range(40)], KEPT: [0.5]}))
    many, one = extremes(run, UNSEEN), extremes(run, KEPT)
    assert many is not None and [line.number for line in many.best] == list(range(39, 29, -1))
    assert [line.number for line in many.worst] == list(range(10))
    assert one is not None and one.best == one.worst == ()
    assert shown_places(run) == [UNSEEN] and extremes(run, ("test", "nowhere")) is None


def test_a_name_of_a_file_is_not_shown(store: RunStore) -> None:
    run_id = compared(store, "run", {KEPT: [0.25, 0.5, 0.75, 1.0]})
    path = store.run_dir(run_id) / "evaluation/images.json"
    records = json.loads(path.read_text())
    for record, name in zip(records, ("MILLER/1", "²", "9" * 5000, "00007"), strict=True):
        record |= {"name": name, "group": "MILLER"}
    path.write_text(json.dumps(records))
    found = extremes(read_run(store, run_id), KEPT)
    assert found is not None and [line.number for line in (*found.worst, *found.best)] == [0, 1, 7, 2]
    assert {line.patient for line in found.best} == {None}
    assert "MILLER" not in html_report(store, run_id)


def test_page_and_report_show_them_where_they_are(store: RunStore) -> None:
    first, second = compared(store, "a", {UNSEEN: DICE}), compared(store, "b <i>", {UNSEEN: DICE})
    (store.run_dir(first) / "evaluation/images.json").unlink()
    shown = compare_view.html(compare(store, [first, second]), paths=True)
    assert shown.count("<details>") == 1 and "B: best and worst images of b &lt;i&gt;" in shown
    assert "The 2 worst of 5 images of z" in shown
    assert "Best and worst images" not in html_report(store, first)
    assert "The 2 best of 5 images of z" in html_report(store, second)

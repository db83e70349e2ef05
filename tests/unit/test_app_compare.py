"""The Compare tab without a browser: what is shown side by side, and what goes into the file."""

from __future__ import annotations

import csv
import io
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from compared_world import compared

from app import compare_latex, compare_text, compare_view, plots
from app.address import SET_RUNS, Wanted
from app.picker import SeveralPicker
from app.settings import Settings
from app.studio import Studio
from app.tabs import compare as tab
from engine.experiments import comparison
from engine.experiments.compared_measures import COMPARED, HD95, IOU
from engine.experiments.comparison import Comparison
from engine.runs.store import RunStore

LOW = {("test", "z"): [0.5, 0.7, 0.6, 0.6], ("validation", "a"): [0.8, 0.6], ("validation", "b"): [0.5]}
HIGH = {("test", "z"): [0.6, 0.8, 0.9, 0.7], ("validation", "a"): [0.4, 0.2]}
SETTINGS = {"federation": {"rounds": 7}, "distillation": {"epochs": 3}, "device": "cpu", "data": {"held_out": "x"}}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


@pytest.fixture
def found(store: RunStore) -> Comparison:
    names = compared(store, "low <b>", LOW), compared(store, "=high", HIGH, settings=SETTINGS)
    return comparison.compare(store, names)


def test_only_settings_that_both_read_and_that_differ_are_shown_as_the_form_calls_them(found: Comparison) -> None:
    shown = {one.key: one for one in compare_view.settings(found.runs, paths=True)}
    assert shown.keys() == {"device", "data.held_out", "federation.rounds"}, "nobody distils here"
    rounds = shown["federation.rounds"]
    assert (rounds.label, rounds.section) == ("Rounds", "Federated training") and rounds.values[1] == "7"
    assert shown["data.held_out"].label == "Held-out site"
    assert shown["data.held_out"].values == (compare_text.EMPTY_VALUE, "x")


def test_a_setting_that_one_run_does_not_read_has_a_dash(store: RunStore) -> None:
    ways: list[dict[str, Any]] = [
        {"method": "dsfedmed", "distillation": {"epochs": 3}}, {"method": "dsfedmed", "distillation": {"epochs": 4}},
        {"method": "fedtinysam", "distillation": {"epochs": 5}},
    ]  # fmt: skip
    names = [compared(store, f"run {at}", LOW, settings=way) for at, way in enumerate(ways)]
    shown = {one.key: one.values for one in compare_view.settings(comparison.compare(store, names).runs, paths=True)}
    assert shown["distillation.epochs"] == ("3", "4", None) and "method" in shown


def test_where_others_can_look_a_folder_is_named_by_its_last_part(store: RunStore) -> None:
    roots = [{"data": {"source": "folder", "root": f"/srv/{name}/polyps"}} for name in ("a", "b")]
    names = [compared(store, f"run {at}", LOW, settings=way) for at, way in enumerate(roots)]
    runs = comparison.compare(store, names).runs
    (here,), (there,) = (compare_view.settings(runs, paths=paths) for paths in (True, False))
    assert here.values == ("/srv/a/polyps", "/srv/b/polyps") and there.values == ("polyps", "polyps")
    assert "/srv" not in compare_view.csv(comparison.Comparison(runs), paths=False)


def test_lines_of_the_tables(found: Comparison) -> None:
    assert compare_view.measure_rows(found) == [
        ["z", "unseen", "4 (2)", "0.600 (0.500 to 0.700)", "0.750 (0.650 to 0.850)"],
        ["a", "validation", "2 (1)", "0.700 (0.600 to 0.800)", "0.300 (0.200 to 0.400)"],
        ["b", "validation", "1", "0.500 (0.400 to 0.600)", "–"],
    ]
    unseen, lost, missing = compare_view.difference_rows(found)
    assert unseen == ["z", "unseen", "4 (2)", "+0.150 (+0.100 to +0.200), p 0.5: better"]
    assert lost[3] == "-0.400 (one patient: no interval), p 1: undecided" and missing[3] == "–"
    assert compare_view.reasons(found.differences()) == ["B: =high was not measured on validation images of b."]
    assert compare_view.traffic_rows(found.runs) == [
        ["a", "2.0 MB / 3.0 MB", "2.0 MB / 3.0 MB"], ["all sites", "2.0 MB / 3.0 MB", "2.0 MB / 3.0 MB"],
    ]  # fmt: skip
    first, second = compare_view.run_rows(found.runs)
    assert first[0] == "A" and first[6:] == ["2 min", "b (0.500, validation)"] and second[7] == "one site"


def test_the_page_says_everything_and_takes_no_name_for_html(found: Comparison) -> None:
    shown = compare_view.html(found, paths=True)
    assert "<b>" not in shown and "low <b>" in unescape(shown)
    assert f"<h3>{compare_text.MEASURE_HEADING.format(measure='Dice')}</h3>" in shown
    for heading in ("RUNS_HEADING", "SETTINGS_HEADING", "DIFFERENCES_HEADING", "TRAFFIC_HEADING"):
        assert f"<h3>{getattr(compare_text, heading)}</h3>" in shown


def test_the_file_has_every_figure_and_no_formula(found: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(compare_view.csv(found, paths=True))))
    (gain,) = (one for one in lines if one["what"] == "dice difference" and one["name"] == "z")
    assert float(gain["value"]) == pytest.approx(0.15) and gain["against"] == found.runs[0].record.run_id
    assert (gain["note"], gain["images"], gain["patients"], gain["run"]) == ("better", "4", "2", "'=high")
    (lost,) = (one for one in lines if one["what"] == "dice difference" and one["name"] == "b")
    assert lost["value"] == "" and "was not measured" in lost["note"]
    sent = [(one["what"], one["name"], one["value"]) for one in lines if one["what"].startswith("bytes")]
    assert sent == [("bytes up", "a", "2000000"), ("bytes down", "a", "3000000")] * 2
    assert [one["value"] for one in lines if one["name"] == "federation.rounds"][1] == "7"
    iou = [(one["name"], one["value"], one["images"]) for one in lines if one["what"] == "iou"]
    assert iou[0] == ("z", "0.3", "4") and len(iou) == 5
    assert [one["what"] for one in lines if one["what"].startswith("hd95_px")].count("hd95_px difference") == 3


DISTANCES = {("test", "z"): [4.0, 6.0, None, 9.0], ("validation", "a"): [1.0, 1.0], ("validation", "b"): [None]}
NEARER = {("test", "z"): [3.0, 4.0, 2.0, 8.0], ("validation", "a"): [2.0, 2.0]}


def test_other_measures_have_their_own_intervals_images_and_misses(store: RunStore) -> None:
    names = compared(store, "a", LOW, hd95=DISTANCES), compared(store, "b", HIGH, hd95=NEARER)
    found = comparison.compare(store, names)
    assert compare_view.measure_rows(found, COMPARED[IOU])[1][3:] == [
        "0.350 (one patient: no interval)", "0.150 (one patient: no interval)",
    ]  # fmt: skip
    unseen, kept, lost = compare_view.measure_rows(found, COMPARED[HD95])
    assert unseen[3] == "6.3 (5.0 to 9.0); of 3 images; 1 missed, 0 false"
    assert kept[4] == "2.0 (one patient: no interval); of 2 images; 0 missed, 0 false"
    assert lost[3:] == ["–; of 0 images; 1 missed, 0 false", "–"]
    nearer, further, _ = compare_view.difference_rows(found, COMPARED[HD95])
    assert nearer[3] == "-1.3 (-1.5 to -1.0), p 0.5: better; 3 images of both"
    assert further[3].endswith("undecided; 2 images of both")
    shown = compare_view.html(found, paths=True, measure=COMPARED[HD95])
    assert "HD95 (px) of the final models" in shown and "lower is better" in shown and "0.600 (" not in shown
    old = comparison.compare(store, [names[0], compared(store, "old", LOW)])
    assert compare_view.measure_rows(old, COMPARED[HD95])[0][4] == "–; images and misses not on record"


def test_latex_has_the_pages_own_cells_and_no_command_of_others(store: RunStore) -> None:
    names = compared(store, "a", LOW, hd95=DISTANCES), compared(store, "b", HIGH, hd95=NEARER)
    store.update_run(names[0], name="a & b_\\input{x}\n%")  # as an archive may bring it
    found = comparison.compare(store, names)
    told = compare_latex.latex(found, paths=True)
    assert told.count(r"\begin{table}") == told.count(r"\end{table}") == 8
    for cell in ("0.600 (0.500 to 0.700)", "-1.3 (-1.5 to -1.0), p 0.5: better; 3 images of both", "2.0 MB / 3.0 MB"):
        assert cell in told
    assert r"a \& b\_\textbackslash{}input\{x\} \%" in told and r"\input" not in told
    lines = told.splitlines()
    assert all(line.startswith(("%", "\\")) or line.endswith(r"\\") for line in lines if line)


def test_curves_lie_over_each_other(found: Comparison) -> None:
    figure = plots.overlaid([("A", found.runs[0].curves), ("B", found.runs[1].curves)], title="t", empty="none")
    assert [(line.name, list(line.y)) for line in figure.data] == [("A", [0.2, 0.5]), ("B", [0.2, 0.5])]
    assert figure.data[0].line.color != figure.data[1].line.color
    assert plots.overlaid([("A", ())], title="t", empty="none").layout.annotations[0].text == "none"


def test_an_address_names_runs() -> None:
    assert Wanted.of({"runs": "a,b,,a"}).runs == ("a", "b") and Wanted.of({"runs": "," * 9}).runs == ()
    assert len(Wanted.of({"runs": ",".join("abcdefgh")}).runs) == 6 and Wanted.of({"runs": "x" * 201}).runs == ()
    assert "set('runs', runs.join(','))" in SET_RUNS


def test_a_browser_chooses_among_the_runs_that_are_offered() -> None:
    picker = SeveralPicker([("A", "a"), ("B", "b")], multiselect=True, max_choices=6)
    assert picker.preprocess(["b", "x", "a"]) == ["b", "a"] and picker.preprocess(None) == []


def test_an_older_run_of_the_address_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    names = [compared(studio.store, f"run {at}", LOW) for at in range(3)]
    monkeypatch.setattr("app.studio.NEWEST_RUNS", 1)
    oldest = next(name for name in names if name not in {run.run_id for run in studio.runs()})
    assert oldest in {run.run_id for run in tab._offered(studio, [oldest, "nothing"])}

"""Samples that are chosen in the plot: what a browser may send, and which samples that comes to."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from app import event_checks, forms, region_view, regions, scatter
from app.access import LOCAL
from app.asked_samples import Asked, chosen, listed, read
from app.regions import MAX_CORNERS, MAX_SHAPES, Region
from app.settings import Settings
from app.studio import Studio
from app.tabs import run_form, sample_export, sample_fork
from engine.config import parse_config
from engine.config_distillation import MAX_EXCLUDED
from engine.config_faults import InvalidConfig
from engine.errors import UserError
from tests.patience import slowness
from tests.unit.samples_world import FOUR, LATER, a_run

SQUARE = [0, 0, 2, 0, 2, 2, 0, 2]
HOLE = [0.5, 0.5, 1.5, 0.5, 1.5, 1.5, 0.5, 1.5]
TRIANGLE = [0, 0, 4, 0, 0, 4]
ARROW = [0, 0, 4, 2, 0, 4, 2, 2]
"""Concave: (1, 2) lies in its notch."""


def region_of(*shapes: list[list[float]]) -> Region:
    found = regions.parse(json.dumps({"shapes": list(shapes)}))
    assert found is not None
    return found


@pytest.mark.parametrize(("region", "kind", "inside", "outside"), [
    (region_of([SQUARE]), "box", [(1, 1), (0, 0), (2, 1)], [(2.01, 1), (1, -0.01), (math.nan, 1), (1, math.nan)]),
    (region_of([SQUARE, HOLE]), "lasso", [(0.25, 1), (1.75, 1)], [(1, 1), (3, 1)]),
    (region_of([TRIANGLE]), "lasso", [(1, 1), (0.5, 3)], [(3, 3), (-1, 1), (math.nan, 1), (1, math.nan)]),
    (region_of([ARROW]), "lasso", [(3, 2), (0.5, 0.4)], [(1, 2), (0.5, 2)]),
    (region_of([SQUARE], [[5, 5, 6, 5, 6, 6, 5, 6]]), "areas", [(1, 1), (5.5, 5.5)], [(3, 3)]),
    (regions.of_ranges(0, None, None, 2), "ranges", [(0, 2), (9e9, -9e9)], [(-0.1, 0), (1, 2.1), (math.nan, 0)]),
    (regions.of_ranges(1, 1, None, None), "ranges", [(1, 5)], [(1.0001, 5)]),
])  # fmt: skip
def test_a_point_lies_within_or_without(region: Region, kind: str, inside: list, outside: list) -> None:
    assert region.kind == kind
    for points, expected in ((inside, True), (outside, False)):
        x, y = np.array(points, dtype=np.float64).T
        assert region.holds(x, y).tolist() == [expected] * len(points)


@pytest.mark.parametrize("text", [None, "", "  "])
def test_nothing_is_chosen_by_no_words(text: str | None) -> None:
    assert regions.parse(text) is None


@pytest.mark.parametrize("sent", [
    "x", "[]", "{}", '{"shapes": []}', '{"shapes": [[]]}', '{"shapes": [[[0, 0, 1, 1]]]}', '{"shapes": 3}',
    '{"shapes": [[[0, 0, 1, 1, 2]]]}', '{"shapes": [[[0, 0, 1, 1, 2, "2"]]]}', '{"shapes": [[[0, 0, 1, 1, 2, true]]]}',
    '{"shapes": [[[0, 0, 1, 1, 2, NaN]]]}', '{"shapes": [[[0, 0, 1, 1, 2, Infinity]]]}', '{"shapes": [[0, 0, 1, 1]]}',
    '{"shapes": [[[0, 0, 1, 1, 2, 1e999]]]}', '{"shapes": [[[0, 0, 1, 1, 2, 1' + "0" * 400 + "]]]}",
    '{"shapes": [[[0, 0, 1, 1, 2, null]]]}', '{"shapes": [{"a": 1}]}', '{"shapes": [[["a"]]]}', "[" * 5000,
    '{"shapes": [[[0, 0, 1, 0, 1, 1]]], "ranges": [0, 1, 0, 1]}', '{"ranges": [0, 1, 0]}', '{"ranges": "abcd"}',
    '{"ranges": [null, null, null, null]}', '{"ranges": [2, 1, null, null]}', '{"ranges": [null, null, 2, 1]}',
    '{"ranges": [true, 1, 0, 1]}', '{"ranges": [NaN, 1, 0, 1]}', '{"other": [0, 1, 0, 1]}',
    json.dumps({"shapes": [[SQUARE]] * (MAX_SHAPES + 1)}), json.dumps({"shapes": [[[0, 0] * (MAX_CORNERS + 1)]]}),
])  # fmt: skip
def test_what_is_no_region_is_refused_in_words(sent: str) -> None:
    with pytest.raises(UserError) as caught:
        regions.parse(sent)
    assert caught.value.code == "app.region" and caught.value.what and caught.value.why and caught.value.fix


def test_ranges_are_written_as_they_are_read() -> None:
    text = regions.text_of(regions.of_ranges(None, 0.25, -1, None))
    assert json.loads(text) == {"ranges": [None, 0.25, -1.0, None]}
    assert regions.parse(text) is not None and regions.text_of(regions.parse(text)) == text


def test_the_plot_draws_what_is_chosen() -> None:
    drawn = regions.outlines(region_of([TRIANGLE], [SQUARE]), x=(-9, 9), y=(-9, 9))
    assert drawn[0] == {"type": "path", "path": "M0,0L4,0L0,4Z", "xref": "x", "yref": "y"}
    assert drawn[1] == {"type": "rect", "x0": 0.0, "x1": 2.0, "y0": 0.0, "y1": 2.0, "xref": "x", "yref": "y"}
    (opened,) = regions.outlines(regions.of_ranges(1, None, None, 2), x=(0, 10), y=(0, 5))
    assert (opened["x0"], opened["x1"], opened["y0"], opened["y1"]) == pytest.approx((1, 10.2, -0.1, 2))


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(Settings(home=tmp_path / "home"))


def asked_of(run_id: str, *ends: float | None, site: str = "", shown: float = 1) -> Asked:
    region = regions.text_of(regions.of_ranges(*ends))
    return Asked(run_id, shown, site, "all", "score", "", None, None, region)


def test_the_list_has_what_lies_within_at_its_epoch_and_site(studio: Studio) -> None:
    """Of FOUR, a/0, a/1 and b/0 have an L_GT of at most 0.5; of LATER a/0 alone has an L_KL above 0.5."""
    run_id = a_run(studio.store, terms=(FOUR, LATER))

    def ids(asked: Asked) -> list[str]:
        ranked = read(studio, asked)
        return ranked.pool.sample_ids[listed(ranked, asked)].tolist()

    within = asked_of(run_id, None, 0.5, None, None)
    assert ids(within) == ["a/1", "a/0", "b/0"] and ids(replace(within, show="selected")) == ["a/1", "a/0"]
    assert ids(replace(within, site="b")) == ["b/0"] and ids(replace(within, search="a/")) == ["a/1", "a/0"]
    assert ids(asked_of(run_id, None, None, 0.6, None)) == ["a/1"]
    assert ids(asked_of(run_id, None, None, 0.6, None, shown=2)) == ["a/0"]
    found = chosen(read(studio, within), replace(within, site="a"))
    assert found is not None and (found.count, found.total) == (2, 2)
    assert "2 of 2 samples are within the ranges." in region_view.said(found, site="<a>")
    assert "&lt;a&gt;" in region_view.said(found, site="<a>") and region_view.said(None) == ""


def test_the_exported_list_has_what_lies_within_alone(studio: Studio) -> None:
    run_id = a_run(studio.store)
    path, said = sample_export.written(
        studio, sample_export.Lists(studio.scratch.path), asked_of(run_id, 0.2, 0.6, None, None)
    )
    rows = list(csv.DictReader(path.open()))
    assert [row["sample_id"] for row in rows] == ["a/1", "b/0"] and [row["run_rank"] for row in rows] == ["1", "3"]
    assert path.name.endswith("_ranges.csv") and said == f"{path.name}, 2 of 4 samples: those within the ranges."
    with pytest.raises(UserError):
        sample_export.written(studio, sample_export.Lists(studio.scratch.path), Asked(*[run_id, 1, *[None] * 6, "x"]))


@pytest.mark.parametrize(("how", "after"), [
    ("leave", ("a/0", "a/1", "b/1")), ("keep", ("a/0", "b/0")), ("back", ("a/0",)),
])  # fmt: skip
def test_the_chosen_ones_are_left_out_kept_or_taken_back_together(how: region_view.How, after: tuple[str, ...]) -> None:
    everything = ("a/0", "a/1", "b/0", "b/1")
    assert region_view.left_out(("b/1", "a/0"), ["b/1", "a/1"], everything, how=how) == after
    with pytest.raises(UserError) as caught:
        region_view.left_out((), [], everything, how=how)
    assert caught.value.code == "app.region"


def test_no_more_are_left_out_than_a_configuration_names() -> None:
    everything = [f"a/{number:05d}" for number in range(MAX_EXCLUDED + 2)]
    assert len(region_view.left_out((), everything[:2], everything, how="keep")) == MAX_EXCLUDED
    with pytest.raises(UserError) as caught:
        region_view.left_out((), everything[:1], everything, how="keep")
    assert caught.value.code == "app.left_out" and "10,001" in caught.value.what


def test_a_fork_leaves_out_more_than_a_browser_may_send_back(studio: Studio) -> None:
    """The form shows the first of them; the server has kept all, and a form that is left alone means these."""
    key = "distillation.excluded_samples"
    run_id = a_run(studio.store)
    many = tuple(f"a/{number:05d}" for number in range(5000))
    with gr.Blocks():
        form = run_form.build(studio, gr.Accordion())
    filled = sample_fork.filled(studio, form, run_id, 0.9, None, without=many, by=LOCAL)
    shown = filled[form.control(key)]
    assert len(shown) < event_checks.MAX_TEXT and shown.endswith("a/00019, … and 4,980 more")
    origin, config = filled[form.origin], studio.store.get(run_id).config

    def written(words: str) -> tuple[str, ...]:
        values = {**filled, form.control(key): words}
        listed = [values[form.control(field.key)] for field in form.fields]
        made = parse_config(forms.edited(origin.changed(config), listed, form.fields))
        assert made.distillation.learnability_lambda == 0.9
        return made.distillation.excluded_samples

    assert written(shown) == many and written("") == () and written("a/1, b/0") == ("a/1", "b/0")
    with pytest.raises(InvalidConfig) as caught:
        written(f"{shown}, b/0")
    assert [(one.key, one.kind) for one in caught.value.faults] == [(key, forms.CUT)]


def test_ten_thousand_samples_are_chosen_at_once() -> None:
    """A lasso of the most corners takes 0.1 s, of which the page has 2."""
    import time

    rng = np.random.default_rng(1)
    angle = np.linspace(0, 2 * math.pi, MAX_CORNERS, endpoint=False)
    ring = np.stack([2 * np.cos(angle), 2 * np.sin(angle)], axis=1).ravel().tolist()
    region, (x, y) = region_of([ring]), rng.normal(size=(2, 10_000))
    began = time.perf_counter()
    inside = region.holds(x, y)
    assert time.perf_counter() - began < 0.5 * slowness()
    assert (inside == (np.hypot(x, y) < 2))[np.abs(np.hypot(x, y) - 2) > 0.001].all()
    assert scatter.num_drawn(10_000) == 3334 and scatter.num_drawn(4000) == 4000 and scatter.num_drawn(0) == 0

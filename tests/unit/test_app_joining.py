"""A site is added to a finished run on the page: who may, what is asked of the engine, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app import join_table, markup, viewmodels
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from app.tabs import go_on, run_form
from engine.errors import UserError
from engine.planning.dataset import site_names
from engine.runs.join_results import JoinResults, Retraining, SiteDice
from tests.unit import joins_world as runs


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    return Studio(Settings(home=tmp_path / "home"))


NEW, *OLD, UNSEEN = site_names(source="phantom", task="polyp", root=None)


@pytest.fixture
def parent(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> str:
    """A finished run of two phantom sites."""
    monkeypatch.setattr(runs, "SITES", tuple(OLD))
    digests = {f"{part} {site}": "0" for site in OLD for part in ("train", "validation")} | {f"test {UNSEEN}": "0"}
    monkeypatch.setattr(runs, "IDENTITY", digests)
    monkeypatch.setattr(runs, "DATA", {"classes": ("polyp",), "modality": "colonoscopy video frame"})
    config = runs.config(held_out=UNSEEN, sites=OLD, task="polyp", images_per_site=8)
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "9")
    run_id = runs.finish(studio.store, studio.store.create_run(config, queued=True).run_id)
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    return run_id


def test_it_is_planned_and_begun_as_a_run_of_its_own(studio: Studio, parent: str) -> None:
    planned, retraining = studio.plan_join(parent, f" {NEW} ", by=LOCAL)
    assert [one.method for one in retraining] == ["dsfedmed", "fedsam"]
    shown = join_table.plan(planned, retraining)
    assert NEW in shown and "FedSAM" in shown and "planned" in shown
    child = studio.join(parent, NEW, by=LOCAL)
    run = studio.store.get(child)
    assert run.parent == parent and run.config.join.sites == (NEW,) and run.status == "queued"
    assert studio.store.stages(child)[1].planned_s is not None
    assert f"a site joins {parent}" in markup.status(studio.store.view(child))


@pytest.mark.parametrize(
    ("sites", "code"), [("", "join.member"), (OLD[0], "join.member"), ("nowhere", "data.site_unknown")]
)
def test_what_cannot_be_is_said(studio: Studio, parent: str, sites: str, code: str) -> None:
    for ask in (studio.plan_join, studio.join):
        with pytest.raises(UserError) as caught:
            ask(parent, sites, by=LOCAL)
        assert caught.value.code == code


def test_only_finished_runs_with_generators_and_only_operators(studio: Studio, parent: str) -> None:
    may = studio.permissions.may_join
    run = studio.store.get(parent)
    assert may(LOCAL, run)
    assert not may(Visitor("someone", "", "demo"), run) and not may(Visitor("someone", "", "viewer"), run)
    waiting = studio.store.create_run(runs.config())
    without = runs.finish(studio.store, studio.store.create_run(runs.config("fedtinysam"), queued=True).run_id)
    assert not may(LOCAL, waiting) and not may(LOCAL, studio.store.get(without))


def test_a_fork_of_a_join_begins_after_what_was_taken_over_and_keeps_its_method(studio: Studio, parent: str) -> None:
    child = studio.join(parent, NEW, by=LOCAL)
    stages = studio.store.stages(child)
    assert [stage for _, stage in viewmodels.fork_choices(stages)] == []
    runs.finish(studio.store, child)
    chosen = [stage for _, stage in viewmodels.fork_choices(studio.store.stages(child))]
    assert chosen == [stage.name for stage in stages[1:]]
    with gr.Blocks():
        form = run_form.build(studio, gr.Accordion())
    filled = go_on.fork_form(studio, form, child, "continued_distillation")
    (method,) = (value for value in filled if isinstance(value, gr.Dropdown) and value.value == "dsfedmed_joined")
    assert "dsfedmed_joined" in {name for _, name in method.choices}
    assert "dsfedmed_joined" not in {name for _, name in form.control("method").choices}


def test_results_say_before_and_after_and_what_is_measured(studio: Studio) -> None:
    found: Any = JoinResults(
        "r<1>",
        ("east",),
        (SiteDice("east", "validation", True, 5, 0.2, 0.61), SiteDice("west", "test", False, 9, 0.5, 0.45)),
        6.0,
        2_500_000,
        (Retraining("dsfedmed", 120.0, 9_000_000, "r2"), Retraining("fedsam", None, None, why="Too <large>.")),
    )
    shown = join_table.results(found)
    for words in ("east (joined)", "0.200", "0.610", "+0.410", "-0.050", "6 min", "2.5 MB", "2 h 00 min",
                  "measured in r2", "not known: Too &lt;large&gt;.", "r&lt;1&gt;"):  # fmt: skip
        assert words in shown
    assert join_table.results(None) == ""

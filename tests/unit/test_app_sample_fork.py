"""From the sliders to the form of a fork: whoever may fork gets it filled, and nothing is started."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from app import main
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from app.tabs import run_form, sample_fork
from engine.errors import UserError
from tests.unit.samples_world import a_run

VIEWER, STRANGER = Visitor("user:eve", "eve", "viewer"), Visitor("visitor:1", "a visitor", "demo")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(Settings(home=tmp_path / "home"))


@pytest.fixture
def form(studio: Studio) -> run_form.RunForm:
    with gr.Blocks():
        return run_form.build(studio, gr.Accordion())


def test_the_form_has_the_sliders_values_and_the_runs_other_settings(studio: Studio, form: run_form.RunForm) -> None:
    settings = {"distillation.learnability_lambda": 0.333, "distillation.epochs": 3, "name": "one"}
    run_id = a_run(studio.store, settings=settings)
    filled = sample_fork.filled(studio, form, run_id, 0.33, 0.25, by=LOCAL)
    assert filled[form.control("distillation.learnability_lambda")] == 0.333, "beside the run's own value"
    assert filled[form.control("distillation.selection_rate")] == 0.25
    assert filled[form.control("distillation.epochs")] == 3 and filled[form.control("name")] == "one (fork)"
    origin = filled[form.origin]
    assert (origin.run_id, origin.stage) == (run_id, "mutual_distillation") and "generation" in origin.taken_over
    assert len(studio.store.list()) == 1, "nothing was started"


@pytest.mark.parametrize("by", [VIEWER, STRANGER])
def test_whoever_may_not_change_the_run_gets_no_form(studio: Studio, form: run_form.RunForm, by: Visitor) -> None:
    run_id = a_run(studio.store)
    assert sample_fork.stage_of(studio, run_id, by=by) is None
    with pytest.raises(UserError) as caught:
        sample_fork.filled(studio, form, run_id, 0.5, 0.5, by=by)
    assert caught.value.code in ("app.viewer", "app.not_yours")


def test_a_run_at_work_and_one_whose_earlier_stages_are_not_done_are_not_forked_so(studio, form) -> None:
    at_work = a_run(studio.store, status="running")
    unfinished = a_run(studio.store, status="cancelled")
    studio.store.set_stage_status(unfinished, "generation", "cancelled")
    for run_id in (at_work, unfinished):
        assert sample_fork.stage_of(studio, run_id, by=LOCAL) is None
        with pytest.raises(UserError) as caught:
            sample_fork.filled(studio, form, run_id, 0.5, 0.5, by=LOCAL)
        assert caught.value.code == "app.no_fork"
    assert sample_fork.stage_of(studio, a_run(studio.store), by=LOCAL) == "mutual_distillation"


def test_the_page_is_built_with_the_samples_tab_before_its_form_is_used(studio: Studio) -> None:
    page = main.build_app(studio)
    placed = {block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)}
    assert {"what-if-weight", "what-if-rate", "what-if-reset", "samples-fork", "samples-list", "page-number"} <= placed

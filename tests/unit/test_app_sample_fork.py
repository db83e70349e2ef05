"""From the sliders to the form of a fork: whoever may fork gets it filled, and nothing is started."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from app import forms, left_out, main
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from app.tabs import run_form, sample_fork
from engine.config import parse_config
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


def test_a_fork_leaves_out_what_was_chosen_or_else_what_its_run_left_out(
    studio: Studio, form: run_form.RunForm
) -> None:
    key = "distillation.excluded_samples"
    run_id = a_run(studio.store, settings={key: ["a/1"]})
    assert left_out.kept(studio, run_id, None) == ("a/1",) == left_out.kept(studio, run_id, ("another", ("b/0",)))
    assert left_out.kept(studio, run_id, (run_id, ())) == ()
    for ids in (("a/1", "b/0"), ()):
        filled = sample_fork.filled(studio, form, run_id, None, None, without=ids, by=LOCAL)
        values = [filled[form.control(field.key)] for field in form.fields]
        changed = parse_config(forms.edited(studio.store.get(run_id).config, values, form.fields))
        assert changed.distillation.excluded_samples == ids, "a list that is emptied is empty"


def test_what_is_left_out_is_said_in_few_words() -> None:
    assert left_out.sentence((), total=9) == ""
    said = left_out.sentence(tuple(f"<a>/{n}" for n in range(8)), total=9)
    assert "8 of 9 images" in said and "&lt;a&gt;/5 and 2 more." in said and "<a>" not in said
    assert "All images" in left_out.sentence(("a/0",), total=1) and "All images" not in said


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

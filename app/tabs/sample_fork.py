"""From the sliders of the Samples tab to the form of a fork: it is filled after a question, and Launch starts it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app import forms, sample_text, viewmodels
from app.access import Visitor, visitor_of
from app.left_out import LeftOut, kept
from app.reranking import Values, asked_values, own_values
from app.studio import Studio
from app.tabs import asking, go_on, run_form
from engine.errors import UserError
from engine.methods import catalogue

WEIGHT_KEY, RATE_KEY = "distillation.learnability_lambda", "distillation.selection_rate"
EXCLUDED_KEY = "distillation.excluded_samples"


@dataclass(frozen=True)
class Parts:
    """The button, which is shown to whoever may fork the run, and its question."""

    button: gr.Button
    asked: asking.Question

    def wire(
        self,
        studio: Studio,
        run: gr.Dropdown,
        sliders: tuple[gr.Slider, gr.Slider],
        left_out: gr.State,
        *,
        form: run_form.RunForm,
        tabs: gr.Tabs,
        message: gr.HTML,
    ) -> None:
        """Let the answer yes fill and show ``form``; ``message`` takes what stands in the way.

        ``left_out`` has the ids that the fork leaves out.
        """

        def fill(
            request: gr.Request, run_id: str | None, weight: float | None, rate: float | None, ids: LeftOut
        ) -> dict[Any, Any]:
            without = kept(studio, run_id or "", ids)
            found, box = studio.attempt(
                lambda: filled(studio, form, run_id or "", weight, rate, without=without, by=visitor_of(request))
            )
            if found is None:
                return {message: box}
            return {message: "", tabs: gr.Tabs(selected="train"), **found}

        self.asked.wire(self.button, run)
        self.asked.yes.click(js=run_form.HOLD).then(
            fill, [run, *sliders, left_out], [message, tabs, *form.purpose, *form.controls],
            api_visibility="private", show_progress="hidden",
        ).then(js=run_form.FREE).then(js=go_on.SCROLL_TO_FORM)  # fmt: skip


def place(actions: gr.Row) -> Parts:
    """Place the button among ``actions``, hidden until somebody is there who may fork the run, and its question."""
    with actions:
        button = gr.Button(sample_text.FORK_BUTTON, size="sm", visible=False, elem_id="samples-fork")
    asked = asking.place(
        "samples-fork", question=sample_text.FORK_ASK, yes=sample_text.FORK_YES, no=sample_text.FORK_NO
    )
    return Parts(button, asked)


def stage_of(studio: Studio, run_id: str, *, by: Visitor) -> str | None:
    """Return the stage at which a fork can have other values, or ``None`` where this visitor cannot fork the run so."""
    view = studio.store.view(run_id)
    if view.run.active or not studio.permissions.may_change(by, run_id):
        return None
    offered = [name for _, name in viewmodels.fork_choices(view.kept or view.stages)]
    return next((spec.name for spec in catalogue.stages(offered) if "distillation" in spec.reads), None)


def filled(
    studio: Studio,
    form: run_form.RunForm,
    run_id: str,
    weight: float | None,
    rate: float | None,
    *,
    without: tuple[str, ...] = (),
    by: Visitor,
) -> dict[Any, Any]:
    """Return the form's values for a fork of the run with the sliders' values, ``without`` these samples.

    ``UserError`` where it cannot be.
    """
    studio.permissions.check_run(by, run_id)
    stage = stage_of(studio, run_id, by=by)
    if stage is None:
        raise UserError(
            "app.no_fork",
            what=f"The run {run_id} cannot be forked at its distillation now.",
            why="A fork takes over what comes before, and that is there when the run has ended.",
            fix="Wait for the run to end, or resume it, and press the button again.",
        )
    values: Values = asked_values(weight, rate, own=own_values(studio.store.get(run_id).config))
    components = [*form.purpose, *form.controls]
    shown = dict(zip(components, go_on.fork_form(studio, form, run_id, stage), strict=True))
    chosen = {WEIGHT_KEY: values.weight, RATE_KEY: values.rate, EXCLUDED_KEY: forms.names_shown(without)}
    shown[form.origin] = replace(shown[form.origin], excluded=without)
    return shown | {form.control(key): value for key, value in chosen.items()}

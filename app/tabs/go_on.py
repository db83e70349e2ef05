"""Going on from a run that has ended: more federated rounds in it, or a new run that forks from one of its stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import forms, markup, text, viewmodels
from app.access import Visitor, visitor_of
from app.permissions import Permissions
from app.picker import Picker
from app.studio import Studio
from app.tabs import asking, delete_run, joining, run_form
from engine.config_fields import MAX_NAME_LETTERS
from engine.runs.identity import growing_stage
from engine.runs.records import RunView

SCROLL_TO_FORM = "() => document.getElementById('new-run')?.scrollIntoView({behavior: 'smooth'})"

NUM_LIVE = 5
"""How many components :meth:`Parts.listed` names."""


@dataclass(frozen=True)
class Parts:
    """The panel's components; its live ones are those of :meth:`listed`."""

    panel: gr.Accordion
    extend_part: gr.Column
    rounds: gr.Number
    stage: gr.Dropdown
    extend: gr.Button
    extend_asked: asking.Question
    fork: gr.Button
    joining: joining.Parts
    deleting: delete_run.Parts

    def listed(self) -> list[Any]:
        """Return the components that follow the run, in the order of :func:`live_values`."""
        return [self.panel, self.extend_part, self.rounds, self.stage, self.joining.part]

    def wire_fork(self, studio: Studio, run: gr.Dropdown, form: run_form.RunForm, message: gr.HTML) -> None:
        """Let the fork's button fill and open ``form``; ``message`` takes what stands in the way."""

        def fill(run_id: str | None, stage: str | None, request: gr.Request) -> list[Any]:
            def values() -> list[Any]:
                studio.permissions.check_run(visitor_of(request), run_id or "")
                return fork_form(studio, form, run_id or "", stage or "")

            found, box = studio.attempt(values)
            return [box, *(found or [gr.skip()] * (len(form.purpose) + len(form.controls)))]

        self.fork.click(js=run_form.HOLD).then(
            fill, [run, self.stage], [message, *form.purpose, *form.controls],
            api_visibility="private", show_progress="hidden",
        ).then(js=run_form.FREE).then(js=SCROLL_TO_FORM)  # fmt: skip


def place() -> Parts:
    """Place the folded panel; it is shown where a run has ended and may be changed."""
    with (
        gr.Accordion(text.GO_ON, open=False, visible=False, elem_id="go-on") as panel,
        gr.Row(elem_classes="columns"),
    ):
        with gr.Column(min_width=280) as extend_part:
            gr.HTML(f"<h3>{text.EXTEND_HEADING}</h3>{markup.quiet(text.EXTEND_NOTE)}")
            rounds = gr.Number(1, label=text.EXTEND_LABEL, elem_id="extend-rounds")
            with gr.Row(elem_classes="actions"):
                extend = gr.Button(text.EXTEND_BUTTON, elem_id="extend")
            asked = asking.place("extend", question=text.ASK_EXTEND, yes=text.ASK_EXTEND_YES, no=text.ASK_EXTEND_NO)
        with gr.Column(min_width=280):
            gr.HTML(f"<h3>{text.FORK_HEADING}</h3>{markup.quiet(text.FORK_NOTE)}")
            stage = Picker([], label=text.FORK_LABEL, info=text.FORK_INFO, elem_id="fork-stage")
            with gr.Row(elem_classes="actions"):
                fork = gr.Button(text.FORK_BUTTON, elem_id="fork")
        join = joining.place()
        with gr.Column(min_width=280):
            deleting = delete_run.place()
    return Parts(panel, extend_part, rounds, stage, extend, asked, fork, join, deleting)


def live_values(
    view: RunView,
    part: Callable[[str, Any, Callable[[], Any]], Any],
    *,
    is_shown: bool,
    by: Visitor,
    permissions: Permissions,
) -> list[Any]:
    """Return the values of :meth:`Parts.listed` for a run; ``part`` leaves out what a browser shows already."""
    rounds = view.run.config.federation.rounds
    grows = growing_stage([stage.name for stage in view.stages]) is not None
    may_extend, may_join = grows and permissions.may_extend(by, view.run), permissions.may_join(by, view.run)
    choices = viewmodels.fork_choices(view.kept or view.stages)
    stage = viewmodels.fork_default(choices)
    return [
        part("go_on", is_shown, lambda: gr.Accordion(visible=is_shown, open=False)),
        part("go_on_extend", may_extend, lambda: gr.Column(visible=may_extend)),
        part("go_on_rounds", rounds, lambda: gr.Number(info=text.EXTEND_INFO.format(rounds=rounds))),
        part("go_on_stage", choices, lambda: gr.Dropdown(choices=choices, value=stage)),
        part("go_on_join", may_join, lambda: gr.Column(visible=may_join)),
    ]


def fork_form(studio: Studio, form: run_form.RunForm, run_id: str, stage: str) -> list[Any]:
    """Return the values of ``form.purpose`` and ``form.controls`` for a fork of the run from ``stage``."""
    view = studio.store.view(run_id)
    taken_over = viewmodels.stages_before(stage, view.kept or view.stages)
    origin = run_form.Origin(run_id, view.run.name, stage, taken_over)
    config = view.run.config
    longest = MAX_NAME_LETTERS - len(text.FORK_NAME.format(name=""))
    renamed = config.model_copy(update={"name": text.FORK_NAME.format(name=config.name[:longest])})
    of_config = {"method": config.method, "generator": config.generator.kind}
    values = dict(zip((field.key for field in form.fields), forms.to_values(renamed, form.fields), strict=True))
    offered = next(field.choices for field in form.fields if field.key == "method")
    if config.method not in offered:  # a run of it cannot be begun anew, but forked after what it has taken over
        choices = viewmodels.method_choices([*offered, config.method])
        values["method"] = gr.Dropdown(choices=choices, value=config.method)
    return [*run_form.purpose_values(form, origin, **of_config), *values.values()]

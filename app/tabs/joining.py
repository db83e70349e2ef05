"""Adding a site to a finished run, beside what else goes on from it: planned first where one likes, then a new run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import join_table, join_text, markup, viewmodels
from app.access import visitor_of
from app.studio import Studio


@dataclass(frozen=True)
class Parts:
    """The components; ``part`` follows the run."""

    part: gr.Column
    sites: gr.Textbox
    plan: gr.Button
    join: gr.Button
    answer: gr.HTML

    def wire(self, studio: Studio, run: gr.Dropdown) -> None:
        """Let the buttons answer below themselves; a run that was begun becomes the page's run."""

        def plan(request: gr.Request, run_id: str | None, sites: str | None) -> str:
            found, box = studio.attempt(lambda: studio.plan_join(run_id or "", sites or "", by=visitor_of(request)))
            return box or studio.told(join_table.plan(*found))

        def join(request: gr.Request, run_id: str | None, sites: str | None) -> list[Any]:
            child, box = studio.attempt(lambda: studio.join(run_id or "", sites or "", by=visitor_of(request)))
            if child is None:
                return [gr.skip(), box]
            choices = viewmodels.run_choices(studio.runs())
            said = markup.notice(join_text.LAUNCHED.format(sites=sites))
            return [gr.Dropdown(choices=choices, value=child), said]

        given = [run, self.sites]
        self.plan.click(plan, given, self.answer, api_visibility="private", show_progress_on=self.answer)
        self.join.click(
            join, given, [run, self.answer], api_visibility="private", show_progress_on=self.answer, trigger_mode="once"
        )


def place() -> Parts:
    """Place the column; it is shown for finished runs that a site can join."""
    with gr.Column(min_width=280, visible=False) as part:
        gr.HTML(f"<h3>{join_text.HEADING}</h3>{markup.quiet(join_text.NOTE)}")
        sites = gr.Textbox(label=join_text.LABEL, info=join_text.INFO, elem_id="join-sites")
        with gr.Row(elem_classes="actions"):
            plan = gr.Button(join_text.PLAN_BUTTON, elem_id="join-plan")
            join = gr.Button(join_text.BUTTON, elem_id="join")
        answer = gr.HTML(elem_id="join-answer")
    return Parts(part, sites, plan, join, answer)

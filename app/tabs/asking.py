"""A question before something that cannot be taken back: it stands in the page, and the keyboard goes to it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app import markup

SHOW = """(run) => {{
  (window.dsfedmedAsked ||= {{}})['{id}'] = run;
  return {{__type__: 'update', visible: true}};
}}"""
HIDE_OF_ANOTHER = """(run) => window.dsfedmedAsked?.['{id}'] === run
  ? {{__type__: 'update'}} : {{__type__: 'update', visible: false}}"""
"""A list of runs that is drawn anew says that it has changed, also where the same run is chosen."""
HIDE = "() => ({__type__: 'update', visible: false})"
FOCUS = "() => setTimeout(() => document.querySelector('#{id}-no')?.focus(), 60)"
FOCUS_BACK = "() => setTimeout(() => document.querySelector('#{id}')?.focus(), 60)"


@dataclass(frozen=True)
class Question:
    """The question, folded away until the button ``asked_by`` is pressed."""

    box: gr.Column
    yes: gr.Button
    no: gr.Button
    elem_id: str

    def wire(self, asked_by: gr.Button, run: gr.Dropdown) -> None:
        """Show the question for ``asked_by``; hide it after either answer, and where another run is chosen.

        All in the browser, at once: a server's answer to the run's choice could come after the click, and hide what the
        click had shown.
        """
        quiet = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        focus = FOCUS.format(id=self.elem_id)
        asked_by.click(None, run, self.box, js=SHOW.format(id=self.elem_id), **quiet).then(js=focus)
        for event in (self.yes.click, self.no.click):
            event(None, None, self.box, js=HIDE, **quiet)
        run.change(None, run, self.box, js=HIDE_OF_ANOTHER.format(id=self.elem_id), **quiet)
        self.no.click(js=FOCUS_BACK.format(id=self.elem_id))


def place(elem_id: str, *, question: str, yes: str, no: str) -> Question:
    """Place the question that the button ``elem_id`` asks; its safe answer comes first and is the one in focus."""
    with gr.Column(visible=False, elem_id=f"{elem_id}-ask", elem_classes="asking") as box:
        gr.HTML(markup.question(question))
        with gr.Row(elem_classes="actions"):
            keep = gr.Button(no, elem_id=f"{elem_id}-no")
            act = gr.Button(yes, variant="stop", elem_id=f"{elem_id}-yes")
    return Question(box, act, keep, elem_id)

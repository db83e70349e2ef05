"""Deleting a run that has ended: asked first, and kept on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import markup, run_text, viewmodels
from app.access import visitor_of
from app.studio import Studio
from app.tabs import asking


@dataclass(frozen=True)
class Parts:
    """The button and its question."""

    button: gr.Button
    asked: asking.Question

    def wire(self, studio: Studio, run: gr.Dropdown, message: gr.HTML) -> None:
        """Delete the chosen run once that is confirmed, and show another one; ``message`` says what became of it."""
        self.asked.wire(self.button, run)

        def delete(run_id: str | None, request: gr.Request) -> tuple[Any, Any]:
            _, box = studio.attempt(lambda: studio.delete(run_id or "", by=visitor_of(request)))
            if box:
                return box, gr.skip()
            runs = studio.runs()
            gr.Info(run_text.DELETED.format(run_id=run_id))  # the message is the next run's a moment later
            return "", gr.Dropdown(choices=viewmodels.run_choices(runs), value=viewmodels.first_run(runs))

        self.asked.yes.click(delete, run, [message, run], api_visibility="private", show_progress="hidden")


def place() -> Parts:
    """Place the button; call it where only what may be changed is shown."""
    gr.HTML(f"<h3>{run_text.DELETE_HEADING}</h3>{markup.quiet(run_text.DELETE_NOTE)}")
    with gr.Row(elem_classes="actions"):
        button = gr.Button(run_text.DELETE_BUTTON, elem_id="delete")
    asked = asking.place("delete", question=run_text.ASK_DELETE, yes=run_text.ASK_DELETE_YES, no=run_text.ASK_DELETE_NO)
    return Parts(button, asked)

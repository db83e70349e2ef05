"""Images that a person leaves out of a fork: a button at the image that is shown, and the list of those left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import sample_text
from app.access import visitor_of
from app.left_out import LeftOut, kept, sentence
from app.studio import Studio
from app.tabs import sample_fork

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Parts:
    """The button at the image, what is left out in words, the button that takes all back in, and the ids."""

    button: gr.Button
    said: gr.HTML
    clear: gr.Button
    ids: gr.State
    """The run and what its fork leaves out, or ``None`` before anybody has chosen."""

    def wire(self, studio: Studio, run: gr.Dropdown, picked: gr.Textbox) -> None:
        """Follow the run and the image that is chosen; ``picked`` has its id."""
        outputs = [self.button, self.said, self.clear, self.ids]

        def shown(request: gr.Request, run_id: str | None, sample_id: str, state: LeftOut) -> dict[Any, Any]:
            return self._shown(studio, request, run_id or "", sample_id, kept(studio, run_id or "", state))

        def toggled(request: gr.Request, run_id: str | None, sample_id: str, state: LeftOut) -> dict[Any, Any]:
            ids = kept(studio, run_id or "", state)
            if studio.sample(run_id or "", sample_id, None) is None:
                return self._shown(studio, request, run_id or "", "", ids)
            ids = tuple(one for one in ids if one != sample_id) if sample_id in ids else (*ids, sample_id)
            return self._shown(studio, request, run_id or "", sample_id, ids)

        def cleared(request: gr.Request, run_id: str | None, sample_id: str) -> dict[Any, Any]:
            return self._shown(studio, request, run_id or "", sample_id, ())

        inputs = [run, picked, self.ids]
        gr.on([run.change, picked.change], shown, inputs, outputs, trigger_mode="always_last", **QUIET)
        self.button.click(toggled, inputs, outputs, **QUIET)
        self.clear.click(cleared, [run, picked], outputs, **QUIET)

    def _shown(
        self, studio: Studio, request: gr.Request, run_id: str, sample_id: str, ids: tuple[str, ...]
    ) -> dict[Any, Any]:
        may, _ = studio.attempt(lambda: sample_fork.stage_of(studio, run_id, by=visitor_of(request)))
        words = sample_text.TAKE_BACK if sample_id in ids else sample_text.LEAVE_OUT
        total = studio.store.samples(run_id, limit=1).total if ids else 0
        return {
            self.button: gr.Button(words, visible=bool(may and sample_id)),
            self.said: sentence(ids, total=total) if may else "",
            self.clear: gr.Button(visible=bool(may and ids)),
            self.ids: (run_id, ids),
        }


def place() -> Parts:
    """Place the button and the list; both are hidden until somebody is there who may fork the run."""
    with gr.Row(elem_classes="actions"):
        button = gr.Button(sample_text.LEAVE_OUT, size="sm", visible=False, elem_id="leave-out")
        clear = gr.Button(sample_text.LEFT_OUT_CLEAR, size="sm", visible=False, elem_id="left-out-clear")
    return Parts(button, gr.HTML(elem_id="left-out"), clear, gr.State(None))

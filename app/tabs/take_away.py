"""What a person takes away from a run, made when it is asked for: all of it, or what everybody may read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import markup, viewmodels
from app import run_files as files
from app import take_away_text as words
from app.access import visitor_of
from app.picker import Picker
from app.studio import Studio


@dataclass(frozen=True)
class Parts:
    """What is wanted, the button, what is offered, and what stands in the way."""

    kind: gr.Dropdown
    button: gr.Button
    download: gr.DownloadButton
    message: gr.HTML

    def wire(self, studio: Studio, run: gr.Dropdown) -> None:
        """Make the chosen file of the chosen run when the button is pressed; another one's is offered no more."""

        def make(run_id: str | None, kind: str | None, request: gr.Request) -> tuple[Any, str]:
            path, box = studio.attempt(lambda: files.make(studio, run_id or "", kind or "", by=visitor_of(request)))
            if path is None:
                return gr.DownloadButton(visible=False), box
            size = viewmodels.megabytes(path.stat().st_size)
            said = words.READY.format(name=path.name, size=size, how=words.HOW.get(kind or "", ""))
            return gr.DownloadButton(value=str(path), visible=True), markup.quiet(said.strip())

        def offer(run_id: str | None, kind: str | None, request: gr.Request) -> Any:
            there = studio.attempt(lambda: files.offered(studio, run_id, by=visitor_of(request)))[0] or []
            kept = kind if kind in {known for _, known in there} else next((known for _, known in there), None)
            return gr.Dropdown(choices=there, value=kept)

        outputs: list[Any] = [self.download, self.message]
        run.change(offer, [run, self.kind], self.kind, api_visibility="private", show_progress="hidden")
        self.button.click(
            make, [run, self.kind], outputs, api_visibility="private", show_progress_on=self.message,
            concurrency_limit=1,
        )  # fmt: skip
        for event in (run.change, self.kind.input):
            event(
                lambda: (gr.DownloadButton(visible=False), ""), None, outputs,
                api_visibility="private", show_progress="hidden",
            )  # fmt: skip


def place() -> Parts:
    """Place the folded list and the button."""
    with gr.Accordion(words.HEADING, open=False, elem_id="taking-away"):
        gr.HTML(markup.quiet(words.NOTE))
        kind = Picker(
            [(words.KINDS[kind], kind) for kind in words.READ],
            value=words.READ[0],
            label=words.WHAT_LABEL,
            info=words.WHAT_INFO,
            filterable=False,
            elem_id="take-away-kind",
        )
        with gr.Row(elem_classes="actions"):
            button = gr.Button(words.BUTTON, elem_id="take-away")
            download = gr.DownloadButton(words.DOWNLOAD, visible=False, elem_id="take-away-file")
        message = gr.HTML(elem_id="take-away-message")
    return Parts(kind, button, download, message)

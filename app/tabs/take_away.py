"""What a person takes away from a run, for whoever may change it: made when it is asked for, then offered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import markup, viewmodels
from app import run_files as files
from app import take_away_text as words
from app.access import visitor_of
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

        outputs: list[Any] = [self.download, self.message]
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
    """Place the list and the button; call it where only what may be changed is shown."""
    gr.HTML(f"<h3>{words.HEADING}</h3>{markup.quiet(words.NOTE)}")
    kind = gr.Dropdown(
        [(label, kind) for kind, label in words.KINDS.items()],
        value=next(iter(words.KINDS)),
        label=words.WHAT_LABEL,
        info=words.WHAT_INFO,
        filterable=False,
        elem_id="take-away-kind",
    )
    with gr.Row(elem_classes="actions"):
        button = gr.Button(words.BUTTON, elem_id="take-away")
        download = gr.DownloadButton(words.DOWNLOAD, visible=False, elem_id="take-away-file")
    return Parts(kind, button, download, gr.HTML(elem_id="take-away-message"))

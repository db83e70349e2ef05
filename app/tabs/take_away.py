"""A finished run as one zip, for whoever may change it: made when it is asked for, then offered for download."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import archive_text, markup, viewmodels
from app.access import Visitor, visitor_of
from app.studio import Studio
from app.uploads import MIB
from engine.runs.archive_export import export_run

SHARE = 0.5
"""Of all that the page keeps for download, at most so much for one run (ours): a larger one is taken in a terminal."""


@dataclass(frozen=True)
class Parts:
    """The button, what is offered, and what stands in the way."""

    button: gr.Button
    download: gr.DownloadButton
    message: gr.HTML

    def wire(self, studio: Studio, run: gr.Dropdown) -> None:
        """Make the zip of the chosen run when the button is pressed; another run's is offered no more."""

        def make(run_id: str | None, request: gr.Request) -> tuple[Any, str]:
            path, box = studio.attempt(lambda: zipped(studio, run_id or "", by=visitor_of(request)))
            if path is None:
                return gr.DownloadButton(visible=False), box
            said = archive_text.READY.format(name=path.name, size=viewmodels.megabytes(path.stat().st_size))
            return gr.DownloadButton(value=str(path), visible=True), markup.quiet(said)

        outputs: list[Any] = [self.download, self.message]
        self.button.click(
            make, run, outputs, api_visibility="private", show_progress_on=self.message, concurrency_limit=1
        )
        run.change(
            lambda: (gr.DownloadButton(visible=False), ""), None, outputs,
            api_visibility="private", show_progress="hidden",
        )  # fmt: skip


def place() -> Parts:
    """Place the button; call it where only what may be changed is shown."""
    gr.HTML(f"<h3>{archive_text.HEADING}</h3>{markup.quiet(archive_text.NOTE)}")
    with gr.Row(elem_classes="actions"):
        button = gr.Button(archive_text.BUTTON, elem_id="take-away")
        download = gr.DownloadButton(archive_text.DOWNLOAD, visible=False, elem_id="take-away-zip")
    return Parts(button, download, gr.HTML(elem_id="take-away-message"))


def zipped(studio: Studio, run_id: str, *, by: Visitor) -> Path:
    """Write the run's zip where nobody can guess it, and return its path; ``UserError`` for whoever may not have it.

    It goes when uploads do.
    """
    studio.permissions.check_run(by, run_id)
    folder = studio.scratch.path / secrets.token_urlsafe(16)
    folder.mkdir(mode=0o700)
    path = folder / f"{run_id}.zip"
    export_run(studio.store, run_id, path, most_bytes=int(SHARE * studio.settings.all_mb * MIB))
    return path

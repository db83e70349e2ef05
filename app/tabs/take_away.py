"""What a person takes away from a run: made when it is asked for, then offered; what is shown, for all who may look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """The folded panel, what is wanted, the button, what is offered, and what stands in the way."""

    panel: gr.Accordion
    note: gr.HTML
    kind: gr.Dropdown
    button: gr.Button
    download: gr.DownloadButton
    message: gr.HTML

    def listed(self) -> list[Any]:
        """Return the components that follow the run, in the order of :func:`live_values`."""
        return [self.panel, self.note, self.kind]

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
        # In the browser: an answer of the server could come after that of a press, and take back what it has offered.
        hide = "() => [{__type__: 'update', visible: false}, '']"
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gr.on([run.change, self.kind.input], None, None, outputs, js=hide, queue=False, **quiet)


def place() -> Parts:
    """Place the folded panel; it is shown where a run has ended."""
    with gr.Accordion(words.HEADING, open=False, visible=False, elem_id="take-away-panel") as panel:
        note = gr.HTML(markup.quiet(words.OPEN_NOTE))
        kind = gr.Dropdown(
            _choices(words.OPEN_KINDS),
            value=words.OPEN_KINDS[0],
            label=words.WHAT_LABEL,
            info=words.WHAT_INFO,
            filterable=False,
            elem_id="take-away-kind",
        )
        with gr.Row(elem_classes="actions"):
            button = gr.Button(words.BUTTON, elem_id="take-away")
            download = gr.DownloadButton(words.DOWNLOAD, visible=False, elem_id="take-away-file")
        message = gr.HTML(elem_id="take-away-message")
    return Parts(panel, note, kind, button, download, message)


def live_values(part: Callable[[str, Any, Callable[[], Any]], Any], *, is_shown: bool, may_change: bool) -> list[Any]:
    """Return the values of :meth:`Parts.listed` for a run; ``part`` leaves out what a browser shows already."""
    kinds, note = (tuple(words.KINDS), words.NOTE) if may_change else (words.OPEN_KINDS, words.OPEN_NOTE)
    return [
        part("take_away", is_shown, lambda: gr.Accordion(visible=is_shown, open=False)),
        part("take_away_note", note, lambda: markup.quiet(note)),
        part("take_away_kinds", kinds, lambda: gr.Dropdown(choices=_choices(kinds), value=kinds[0])),
    ]


def _choices(kinds: Iterable[str]) -> list[tuple[str, str]]:
    return [(words.KINDS[kind], kind) for kind in kinds]

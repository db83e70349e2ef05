"""The field for a mask that a visitor has of the answered picture: its figures join the answer's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import answers, markup, references, text
from app import reference_text as words
from app.studio import Studio
from app.tabs import segment_answers
from export.levels import percent_of

Values = tuple[Any, ...]
"""Of legend, download, csv, changes and note, in this order."""


@dataclass(frozen=True)
class Parts:
    """The components."""

    file: gr.File
    note: gr.HTML


def place(studio: Studio) -> Parts:
    """Place the field and what is said of it."""
    with gr.Accordion(words.HEADING, open=False, elem_id="compare-with"):
        label = words.LABEL.format(megabytes=studio.settings.max_upload_mb)
        file = gr.File(label=label, type="filepath", height=110, elem_id="reference")
    return Parts(file, gr.HTML(elem_id="reference-note"))


def wire(
    studio: Studio, parts: Parts, *, threshold: gr.Slider, result: gr.State, takes: list[Any], others: tuple[Any, ...]
) -> None:
    """Compare whatever is shown with the mask in the field; ``takes`` are legend, download, csv and changes.

    ``others`` are events after which another image is shown: the mask is not of that one.
    """
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    given, outputs = [result, threshold, parts.file], [*takes, parts.note]
    handlers = Comparing(studio)
    for event in (parts.file.upload, parts.file.clear, result.change):
        # With the corrections, one at a time: each settles what is shown anew.
        event(handlers.compare, given, outputs, concurrency_limit=1, concurrency_id="correct", **quiet)
    for other in others:
        other(None, None, [parts.file, parts.note], js="() => [null, '']", **quiet)


@dataclass(frozen=True)
class Comparing:
    """The field's events. ``shown`` is what the browser's session remembers of the answer."""

    studio: Studio

    def compare(self, shown: answers.Shown | None, threshold: float, path: str | None) -> Values:
        """Return figures and files with those of the mask in the field, or without where it is empty."""
        kept = self.studio.answers
        answer = kept.get(shown.key) if shown and shown.key else None
        if shown is None or answer is None:
            return _only(markup.notice(text.SEGMENT_EXPIRED) if path and shown and shown.key else "")
        if path == (answer.reference.path if answer.reference else None):
            return (gr.skip(),) * 5
        found, note = None, ""
        if path:
            found, note = self.studio.attempt(lambda: answers.compared(self.studio, answer, Path(path)))
            note = note or markup.notice(words.COMPARED.format(name=found.name))  # type: ignore[union-attr]
        anew = kept.compare(shown.key, found or (references.refused(path) if path else None))
        if anew is None:
            return _only(markup.notice(text.SEGMENT_EXPIRED))

        def work() -> Values:
            done = answers.settled(anew, percent=percent_of(threshold), corrections=shown.corrections)
            return segment_answers.taken_away(self.studio, shown.key, anew, done)

        values, box = self.studio.attempt(work)
        return _only(box) if values is None else (*values, note)


def _only(note: str) -> Values:
    """Return values that change nothing but the note."""
    return *(gr.skip(),) * 4, note

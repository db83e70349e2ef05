"""The name, tags and notes of a run, below its status, for whoever may change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import labels_text as words
from app import labels_view, markup
from app.access import visitor_of
from app.studio import Studio
from engine.runs.labels import MAX_NOTES_LETTERS, MAX_TAG_LETTERS, MAX_TAGS, MAX_TITLE_LETTERS, Labels

HIDE_OF_ANOTHER = """(run) => {
  const same = window.dsfedmedLabelled === run;
  window.dsfedmedLabelled = run;
  return same ? {__type__: 'update'} : {__type__: 'update', visible: false};
}"""
"""At once, in the browser: what is typed into another run's fields would be lost when these are filled."""


@dataclass(frozen=True)
class Parts:
    """The folded panel, its fields, its button, and what became of it."""

    panel: gr.Accordion
    title: gr.Textbox
    tags: gr.Textbox
    notes: gr.Textbox
    save: gr.Button
    said: gr.HTML
    filled: gr.State
    """The run that the fields are of: a list of runs that is drawn anew undoes no typing."""

    def wire(self, studio: Studio, run: gr.Dropdown) -> None:
        """Fill the fields from the chosen run, and keep what is typed there when the button is pressed."""
        fields = [self.title, self.tags, self.notes]

        def fill(run_id: str | None, filled: str | None, request: gr.Request) -> list[Any]:
            by = visitor_of(request)
            record = studio.attempt(lambda: studio.store.get(run_id))[0] if run_id else None
            is_shown = record is not None and studio.permissions.may_change(by, record.run_id)
            if run_id == filled:
                return [gr.Accordion(visible=is_shown), *[gr.skip()] * 5]
            if record is None or not is_shown:
                return [gr.Accordion(visible=False), "", "", "", "", run_id]
            info = words.NAME_INFO.format(name=record.name)
            title, *others = _values(record.labels)
            return [gr.Accordion(visible=True), gr.Textbox(value=title, info=info), *others, "", run_id]

        def save(run_id: str | None, title: str, tags: str, notes: str, request: gr.Request) -> list[Any]:
            by = visitor_of(request)
            kept, box = studio.attempt(
                lambda: labels_view.change(studio, run_id or "", title=title, tags=tags, notes=notes, by=by)
            )
            if kept is None:
                return [gr.skip()] * 3 + [box]
            return [*_values(kept), markup.quiet(words.SAVED)]

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        run.change(None, run, self.panel, js=HIDE_OF_ANOTHER, queue=False, **quiet)
        run.change(fill, [run, self.filled], [self.panel, *fields, self.said, self.filled], **quiet)
        self.save.click(save, [run, *fields], [*fields, self.said], concurrency_limit=1, **quiet)
        for field in fields:
            field.input(None, None, self.said, js="() => ''", **quiet)


def place() -> Parts:
    """Place the panel; it is shown where the chosen run may be changed."""
    with gr.Accordion(words.HEADING, open=False, visible=False, elem_id="labels") as panel:
        with gr.Row(elem_classes="columns"):
            title = gr.Textbox(
                label=words.NAME_LABEL, info=words.NAME_INFO.format(name=""), max_length=MAX_TITLE_LETTERS,
                min_width=240, elem_id="labels-title",
            )  # fmt: skip
            tags = gr.Textbox(
                label=words.TAGS_LABEL, info=words.TAGS_INFO.format(most=MAX_TAGS), min_width=240,
                max_length=MAX_TAGS * (MAX_TAG_LETTERS + 2), elem_id="labels-tags",
            )  # fmt: skip
        notes = gr.Textbox(
            label=words.NOTES_LABEL, info=words.NOTES_INFO, lines=3, max_lines=12, max_length=MAX_NOTES_LETTERS,
            elem_id="labels-notes",
        )  # fmt: skip
        with gr.Row(elem_classes="actions"):
            button = gr.Button(words.SAVE, elem_id="labels-save")
        said = gr.HTML(elem_id="labels-said")
    return Parts(panel, title, tags, notes, button, said, gr.State(None))


def _values(labels: Labels) -> list[str]:
    return [labels.title, ", ".join(labels.tags), labels.notes]

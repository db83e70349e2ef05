"""Choosing samples in the plot of the Samples tab: by a lasso or a box that is drawn there, or by numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import markup, region_text, region_view, regions
from app.asked_samples import Asked, Chosen
from app.studio import Studio

SCRIPT = (Path(__file__).resolve().parents[1] / "scatter.js").read_text(encoding="utf-8")
"""Listens to the plot, for as long as the page is open."""
SET_MODE = """(mode) => {
  document.querySelector(`#scatter [data-attr=dragmode][data-val=${mode}]:not(.active)`)?.click();
}"""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
CLEARED = "() => ['', null, null, null, null]"


@dataclass(frozen=True)
class Parts:
    """What is drawn as text (hidden), the four ends of the ranges, what is said, and what can be done with it."""

    text: gr.Textbox
    mode: gr.Radio
    ends: list[gr.Number]
    choose: gr.Button
    refused: gr.HTML
    said: gr.HTML
    clear: gr.Button
    forkable: gr.Column
    leave: gr.Button
    keep: gr.Button
    back: gr.Button
    done: gr.HTML

    def answers(self) -> list[Any]:
        """Return the components that :func:`answered` fills."""
        return [self.said, self.clear, self.leave, self.keep, self.back]

    def emptied(self) -> dict[Any, Any]:
        """Return the values of a run that is shown anew: nothing is chosen."""
        return {self.text: "", self.refused: "", self.done: "", **dict.fromkeys(self.ends)}

    def wire(self, studio: Studio) -> None:
        """Write ranges and their end into ``text``, whose change lists and draws anew."""

        def ranged(*ends: float | None) -> dict[Any, Any]:
            found, box = studio.attempt(lambda: regions.text_of(regions.of_ranges(*ends)))
            return {self.refused: box} | ({} if found is None else {self.text: found})

        gr.on(
            [self.choose.click, *(end.submit for end in self.ends)],
            ranged, self.ends, [self.text, self.refused], **QUIET,
        )  # fmt: skip
        self.mode.change(None, self.mode, None, js=SET_MODE, queue=False, **QUIET)
        self.clear.click(None, None, [self.text, *self.ends], js=CLEARED, queue=False, **QUIET)
        self.text.change(None, None, [self.refused, self.done], js="() => ['', '']", queue=False, **QUIET)


def place() -> Parts:
    """Place the choices below the plot."""
    text = gr.Textbox(label=region_text.HEADING, visible="hidden", elem_id="region")
    gr.HTML(f"<h3>{region_text.HEADING}</h3>")
    mode = gr.Radio(list(region_text.MODES), value="zoom", label=region_text.MODE_LABEL, elem_id="region-mode")
    gr.HTML(markup.quiet(region_text.NOTE))
    said = gr.HTML(elem_id="region-said")
    with gr.Row(elem_classes="actions"):
        clear = gr.Button(region_text.CLEAR, size="sm", visible=False, elem_id="region-clear")
    with gr.Column(visible=False, elem_id="region-fork") as forkable:
        with gr.Row(elem_classes="actions"):
            buttons = [
                gr.Button(size="sm", visible=False, elem_id=f"region-{how}") for how in ("leave", "keep", "back")
            ]
        done = gr.HTML(elem_id="region-done")
    with gr.Accordion(region_text.RANGES, open=False, elem_id="region-ranges"):
        gr.HTML(markup.quiet(region_text.RANGES_NOTE))
        with gr.Row(elem_classes="ranges"):
            ends = [
                gr.Number(None, label=words.format(name=name), min_width=110, elem_id=f"region-{axis}-{side}")
                for axis, name in (("x", region_text.X_NAME), ("y", region_text.Y_NAME))
                for side, words in (("from", region_text.FROM), ("to", region_text.TO))
            ]
        with gr.Row(elem_classes="actions"):
            choose = gr.Button(region_text.RANGES_BUTTON, size="sm", elem_id="region-choose")
        refused = gr.HTML(elem_id="region-refused")
    return Parts(text, mode, ends, choose, refused, said, clear, forkable, *buttons, done)


def answered(parts: Parts, asked: Asked, found: Chosen | None, *, box: str) -> dict[Any, Any]:
    """Return the values of :meth:`Parts.answers`: how many are ``found``, and what can be done with them.

    ``box`` says what is wrong with the region that is asked for; empty where nothing is.
    """
    count = 0 if found is None else found.count
    labels = {parts.leave: region_text.LEAVE, parts.keep: region_text.KEEP, parts.back: region_text.BACK}
    return {
        parts.said: box or region_view.said(found, site=asked.site or ""),
        parts.clear: gr.Button(visible=bool(asked.region)),
        **{button: gr.Button(words.format(count=count), visible=count > 0) for button, words in labels.items()},
    }

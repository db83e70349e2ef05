"""What a page without runs begins with: what the program does, what its shipped model can do, and two ways on."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app import markup, model_offers, model_text
from app.studio import Studio

SCROLL_TO_FORM = "() => setTimeout(() => document.getElementById('new-run')?.scrollIntoView({behavior: 'smooth'}), 60)"


@dataclass(frozen=True)
class Parts:
    """The block and its two ways on."""

    block: gr.Column
    segment: gr.Button
    train: gr.Button

    def wire(self, form: gr.Accordion) -> None:
        """Lead to the Segment tab, and to the form of a new run.

        Tabs change in the browser, at once: two answers of the server could come in another order than was pressed.
        """
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.segment.click(js=_tab("segment"))
        self.train.click(js=_tab("train"))
        self.train.click(lambda: gr.Accordion(open=True), None, form, **quiet).then(js=SCROLL_TO_FORM)


def _tab(name: str) -> str:
    return f"() => document.querySelector('#tabs [role=tab][data-tab-id={name}]')?.click()"


def place(studio: Studio) -> Parts:
    """Place the block, hidden until the page knows that there are no runs."""
    with gr.Column(visible=False, elem_id="welcome") as block:
        gr.HTML(html(studio.shipped_models()))
        with gr.Row(elem_classes="actions"):
            segment = gr.Button(model_text.WAY_SEGMENT, variant="primary", elem_id="way-segment")
            train = gr.Button(model_text.WAY_TRAIN, elem_id="way-train", visible=studio.mode != "read-only")
    return Parts(block, segment, train)


def html(offers: list[model_offers.Offer]) -> str:
    """Return what the shipped models can do, in figures of the runs that made them."""
    cards = "".join(
        f"<section class='shipped'><h3>{escape(found.name)}</h3>{model_offers.facts(found)}</section>"
        for found in offers
        if not found.is_broken
    )
    heading = f"<h2>{model_text.WELCOME}</h2>" + markup.quiet(model_text.WELCOME_NOTE)
    return heading + (f"<p>{model_text.WELCOME_MODELS}</p>{cards}" if cards else "")

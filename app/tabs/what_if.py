"""Lambda and the selection rate as sliders on the Samples tab: what other values would have chosen, at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import markup, sample_text, what_if_view
from app.reranking import STEP, Reranked, can_rerank, own_values
from engine.config import RunConfig

OWN_VALUES = """() => {
  const own = document.querySelector('#what-if-count [data-own]')?.dataset.own.split(',').map(Number);
  return own ?? [{__type__: 'update'}, {__type__: 'update'}];
}"""
"""In the browser, at once: the way back waits for no answer of the server."""


@dataclass(frozen=True)
class Parts:
    """The sliders and what is said beside them."""

    sliders: gr.Column
    weight: gr.Slider
    rate: gr.Slider
    actions: gr.Row
    """Where further buttons find their place."""
    reset: gr.Button
    count: gr.HTML
    refused: gr.HTML
    by_site: gr.HTML

    def set_up(self) -> list[Any]:
        """Return the components that :func:`values_for` fills."""
        return [self.sliders, self.weight, self.rate, self.refused]

    def answers(self) -> list[Any]:
        """Return the components that :func:`answered` fills."""
        return [self.count, self.by_site]


def place() -> Parts:
    """Place the sliders; what they change stands below them, the table of the sites where ``by_site`` is rendered."""
    gr.HTML(f"<h3>{sample_text.WHAT_IF}</h3>")
    refused = gr.HTML(elem_id="what-if-refused")
    with gr.Column(visible=False, elem_id="what-if") as sliders:
        gr.HTML(markup.quiet(sample_text.WHAT_IF_NOTE))
        weight = gr.Slider(0.0, 1.0, 0.5, step=STEP, label=sample_text.WEIGHT_LABEL, elem_id="what-if-weight")
        rate = gr.Slider(STEP, 1.0, 0.5, step=STEP, label=sample_text.RATE_LABEL, elem_id="what-if-rate")
        count = gr.HTML(elem_id="what-if-count")
        with gr.Row(elem_classes="actions") as actions:
            reset = gr.Button(sample_text.RESET, size="sm", elem_id="what-if-reset")
    by_site = gr.HTML(elem_id="what-if-sites", render=False)
    return Parts(sliders, weight, rate, actions, reset, count, refused, by_site)


def values_for(parts: Parts, config: RunConfig | None, *, is_scored: bool) -> dict[Any, Any]:
    """Return the values of :meth:`Parts.set_up` for a run that is shown anew: its own, where others can be tried."""
    if config is None or not is_scored:
        return {parts.sliders: gr.Column(visible=False), parts.refused: ""}
    if not can_rerank(config):
        return {parts.sliders: gr.Column(visible=False), parts.refused: markup.quiet(sample_text.IN_BATCH)}
    own = own_values(config)
    return {
        parts.sliders: gr.Column(visible=True),
        parts.refused: "",
        parts.weight: gr.Slider(value=own.weight, info=sample_text.WEIGHT_INFO.format(own=own.weight)),
        parts.rate: gr.Slider(value=own.rate, info=sample_text.RATE_INFO.format(own=own.rate)),
    }


def answered(parts: Parts, ranked: Reranked, *, config: RunConfig | None) -> dict[Any, Any]:
    """Return the values of :meth:`Parts.answers`: what would change, in all and at each site."""
    by_chance = config is not None and config.distillation.selector == "sample"
    return {
        parts.count: what_if_view.count(ranked, by_chance=by_chance),
        parts.by_site: what_if_view.by_site(ranked),
    }

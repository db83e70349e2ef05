"""Two distillation epochs side by side on the Samples tab: what came into the selection and what went out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from app import epoch_pair, markup, sample_text
from app.asked_samples import config_of
from app.epoch_pair import EpochPair
from app.studio import THUMBNAIL_PX, Studio

NUM_PICTURES = 5
"""Of what came, and of what went (ours)."""


@dataclass(frozen=True)
class Parts:
    """The folded part, the other epoch, and what is told of both."""

    panel: gr.Accordion
    other: gr.Slider
    button: gr.Button
    told: gr.HTML
    plot: gr.Plot

    def set_up(self) -> list[Any]:
        """Return the components that :func:`values_for` fills."""
        return [self.panel, self.other]

    def wire(self, studio: Studio, run: gr.Dropdown, epoch: gr.Slider) -> None:
        """Compare when asked; what was told of other epochs, or of another run, goes at once, in the browser."""

        def compare(run_id: str | None, shown: float | None, other: float | None) -> dict[Any, Any]:
            found, box = studio.attempt(
                lambda: compared(studio, run_id or "", int(other or 0) - 1, int(shown or 0) - 1)
            )
            if found is None:
                return {self.told: box, self.plot: gr.Plot(visible=False)}
            html, figure = found
            return {self.told: html, self.plot: gr.Plot(value=figure, visible=True)}

        outputs: list[Any] = [self.told, self.plot]
        gr.on(
            [self.button.click, self.other.input], compare, [run, epoch, self.other], outputs,
            trigger_mode="always_last", api_visibility="private", show_progress_on=self.told,
        )  # fmt: skip
        gone = "() => ['', {__type__: 'update', visible: false}]"
        gr.on(
            [run.change, epoch.input], None, None, outputs, js=gone, queue=False,
            api_visibility="private", show_progress="hidden",
        )  # fmt: skip


def place() -> Parts:
    """Place the folded part; it is shown where a run has scored more than one epoch."""
    with gr.Accordion(sample_text.EPOCHS_HEADING, open=False, visible=False, elem_id="samples-epochs") as panel:
        with gr.Row(elem_classes="filters"):
            other = gr.Slider(
                1, 2, 1, step=1, label=sample_text.EPOCHS_LABEL, info=sample_text.EPOCHS_INFO, elem_id="other-epoch"
            )
            button = gr.Button(sample_text.EPOCHS_BUTTON, size="sm", elem_id="compare-epochs", scale=0, min_width=140)
        told = gr.HTML(elem_id="epochs-told")
        plot = gr.Plot(label=sample_text.EPOCHS_PLOT, show_label=False, visible=False, elem_id="epochs-plot")
    return Parts(panel, other, button, told, plot)


def values_for(parts: Parts, epochs: tuple[int, ...]) -> dict[Any, Any]:
    """Return the values of :meth:`Parts.set_up` for a run with these epochs; the first of them is offered."""
    if len(epochs) < 2:
        return {parts.panel: gr.Accordion(visible=False)}
    return {
        parts.panel: gr.Accordion(visible=True),
        parts.other: gr.Slider(epochs[0] + 1, epochs[-1] + 1, epochs[0] + 1),
    }


def compared(studio: Studio, run_id: str, first: int, second: int) -> tuple[str, Any]:
    """Return what two epochs (from 0) say of the run's samples, as HTML and as a figure of their ranks."""
    config = config_of(studio, run_id)
    joined = () if config is None else config.join.sites
    pools = (studio.pools.at(run_id, epoch, joined=joined) for epoch in (first, second))
    pair = epoch_pair.pair_of(*pools, epochs=(first, second))
    pictures = "".join(
        _pictures(studio, run_id, pair, mask, heading=heading)
        for heading, mask in (
            (sample_text.EPOCHS_PICTURES_CAME, pair.came),
            (sample_text.EPOCHS_PICTURES_WENT, pair.went),
        )
    )
    return epoch_pair.said(pair) + pictures, epoch_pair.figure(pair)


def _pictures(studio: Studio, run_id: str, pair: EpochPair, mask: np.ndarray, *, heading: str) -> str:
    at = pair.strongest(mask, count=NUM_PICTURES)
    if not len(at):
        return ""
    captions = dict(zip(pair.sample_ids[at].tolist(), epoch_pair.captions(pair, at.tolist()), strict=True))
    shown: list[markup.Figure] = []
    for sample in studio.store.samples_named(run_id, list(captions)):
        found, _ = studio.attempt(lambda sample=sample: studio.thumbnail(run_id, sample))
        picture = np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 128, np.uint8) if found is None else found
        shown.append((captions[sample.sample_id], picture, f"{sample.sample_id}, {captions[sample.sample_id]}"))
    return f"<h4>{heading}</h4>{markup.figures(shown, columns=NUM_PICTURES)}"

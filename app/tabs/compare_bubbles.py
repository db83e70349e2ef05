"""The figure of traffic, Dice and inference time below a comparison; drawn, and its models timed, when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import bubble_text, markup
from app.access import Visitor, visitor_of
from app.studio import Studio
from engine.experiments import comparison


@dataclass(frozen=True)
class Parts:
    """The panel, shown where runs are compared, and what is in it."""

    panel: gr.Column
    button: gr.Button
    plot: gr.Plot
    table: gr.HTML

    @property
    def listed(self) -> list[Any]:
        """The components that follow the comparison, in the order of :func:`anew`."""
        return [self.panel, self.plot, self.table]

    def wire(self, studio: Studio, runs: gr.Dropdown) -> None:
        """Draw the runs that are chosen when the button is pressed."""

        def draw(chosen: list[str], request: gr.Request) -> list[Any]:
            found, box = studio.attempt(lambda: drawn(studio, chosen, by=visitor_of(request)))
            return [gr.Plot(visible=False), box] if found is None else found

        self.button.click(
            draw, runs, [self.plot, self.table], api_visibility="private", show_progress_on=self.table,
            concurrency_limit=1, trigger_mode="once",
        )  # fmt: skip


def place() -> Parts:
    """Place the panel, hidden until runs are compared."""
    with gr.Column(visible=False, elem_id="compare-bubbles") as panel:
        gr.HTML(f"<h3>{bubble_text.HEADING}</h3>{markup.quiet(bubble_text.NOTE)}")
        with gr.Row(elem_classes="actions"):
            button = gr.Button(bubble_text.BUTTON, size="sm", elem_id="compare-bubbles-draw")
        plot = gr.Plot(label=bubble_text.PLOT, show_label=False, visible=False, elem_id="compare-bubbles-plot")
        table = gr.HTML(elem_id="compare-bubbles-table")
    return Parts(panel, button, plot, table)


def anew(*, is_shown: bool) -> list[Any]:
    """Return the values of :attr:`Parts.listed` for another comparison, of which nothing is drawn yet."""
    return [gr.Column(visible=is_shown), gr.Plot(visible=False), ""]


def drawn(studio: Studio, chosen: list[str], *, by: Visitor) -> list[Any]:
    """Return the figure and the table of two to six runs; who may only look has them without times of runs."""
    from app import bubble_view  # late, with plotly
    from engine.experiments.bubbles import Bubble, published_bubbles, run_bubble

    is_timed = by.role != "viewer"
    compared = comparison.compare(studio.store, chosen)
    found = [run_bubble(studio.store, run, is_timed=is_timed) for run in compared.runs]
    runs = [(place, point) for place, point in enumerate(found) if isinstance(point, Bubble)]
    left_out = [sentence for sentence in found if isinstance(sentence, str)]
    published = published_bubbles()
    table = bubble_view.html(published, runs, left_out, is_timed=is_timed)
    return [gr.Plot(value=bubble_view.figure(published, runs), visible=True), studio.told(table)]

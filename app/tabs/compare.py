"""The Compare tab: two to six runs side by side; which, is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import compare_text, compare_view, markup, plots, viewmodels
from app.address import SET_RUNS, Wanted
from app.picker import SeveralPicker
from app.studio import Studio
from engine.experiments import comparison
from engine.experiments.comparison import Comparison
from engine.runs.records import RunRecord


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    runs: SeveralPicker
    again: gr.Button
    message: gr.HTML
    tables: gr.HTML
    curves: gr.Plot
    download: gr.DownloadButton
    opened: gr.State
    """Whether the runs of the address were taken."""


def build(studio: Studio, tab: gr.Tab) -> Parts:
    """Place the tab's components and wire them; call it inside ``tab``, which is read when it is opened."""
    gr.HTML(f"<p class='lead'>{compare_text.COMPARE_LEAD}</p>")
    with gr.Row(elem_classes="filters"):
        runs = SeveralPicker(
            [],
            multiselect=True,
            max_choices=comparison.MOST,
            label=compare_text.RUNS_LABEL,
            info=compare_text.RUNS_INFO,
            elem_id="compare-runs",
        )
        again = gr.Button(compare_text.READ_AGAIN, size="sm", elem_id="compare-again", scale=0, min_width=180)
    message = gr.HTML(elem_id="compare-message")
    curves = gr.Plot(label=compare_text.CURVES_PLOT, show_label=False, visible=False, elem_id="compare-curves")
    tables = gr.HTML(elem_id="compare-tables")
    download = gr.DownloadButton(compare_text.DOWNLOAD, size="sm", visible=False, elem_id="compare-csv")
    parts = Parts(runs, again, message, tables, curves, download, gr.State(False))
    _wire(studio, tab, parts)
    return parts


def _wire(studio: Studio, tab: gr.Tab, parts: Parts) -> None:
    shown = [parts.message, parts.tables, parts.curves, parts.download]

    def show(chosen: list[str]) -> list[Any]:
        if len(chosen) < comparison.FEWEST:
            return [markup.empty(compare_text.EMPTY_TITLE, _step(studio)), *_nothing()]
        found, box = studio.attempt(lambda: comparison.compare(studio.store, chosen))
        if found is None:
            return [box, *_nothing()]
        return ["", *_filled(studio, found)]

    def opened(chosen: list[str], was_opened: bool, request: gr.Request) -> list[Any]:
        """Offer the runs of this home, and show those of the address when the tab is opened first."""
        wanted = chosen if was_opened else list(Wanted.of(dict(request.query_params)).runs) or chosen
        offered = _offered(studio, wanted)
        known = {run.run_id for run in offered}
        there, lost = [name for name in wanted if name in known], [name for name in wanted if name not in known]
        told = show(there)
        if lost:
            what = compare_text.UNKNOWN_WHAT.format(names=", ".join(lost))
            told[0] = markup.error_box(what, compare_text.UNKNOWN_WHY, compare_text.UNKNOWN_FIX) + told[0]
        choices = viewmodels.run_choices(offered) if offered else []
        return [gr.Dropdown(choices=choices, value=there, multiselect=True), True, *told]

    how: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.message}
    for event in (tab.select, parts.again.click):
        event(opened, [parts.runs, parts.opened], [parts.runs, parts.opened, *shown], trigger_mode="always_last", **how)
    parts.runs.input(show, parts.runs, shown, trigger_mode="always_last", **how)
    parts.runs.input(None, parts.runs, None, js=SET_RUNS, api_visibility="private", show_progress="hidden")


def _offered(studio: Studio, wanted: Sequence[str]) -> list[RunRecord]:
    """Return the newest runs, and those of the address that are older."""
    found = {run.run_id: run for run in studio.runs()}
    for name in wanted:
        found |= {run.run_id: run for run in studio.runs(name) if run.run_id == name}
    return list(found.values())


def _step(studio: Studio) -> str:
    few = len(studio.store.list(limit=comparison.FEWEST)) < comparison.FEWEST
    return compare_text.NO_RUNS_STEP if few else compare_text.EMPTY_STEP


def _nothing() -> list[Any]:
    return ["", gr.Plot(visible=False), gr.DownloadButton(visible=False)]


def _filled(studio: Studio, found: Comparison) -> list[Any]:
    paths = studio.mode == "local"  # elsewhere nobody is told where files of the server lie
    tables, csv = (studio.told(make(found, paths=paths)) for make in (compare_view.html, compare_view.csv))
    series = [
        (f"{letter}: {run.record.name}", run.curves)
        for letter, run in zip(compare_text.LETTERS, found.runs, strict=False)
    ]
    figure = plots.overlaid(series, title=compare_text.CURVES_PLOT, empty=compare_text.CURVES_EMPTY)
    name = f"comparison_{'_'.join(run.record.run_id for run in found.runs)}.csv"
    return [
        tables,
        gr.Plot(value=figure, visible=True),
        gr.DownloadButton(value=studio.save(name, csv.encode()), visible=True),
    ]

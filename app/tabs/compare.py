"""The Compare tab: two to six runs side by side; which, is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import compare_latex, compare_text, compare_view, markup, plots, viewmodels
from app.address import SET_RUNS, Wanted
from app.picker import SeveralPicker
from app.studio import Studio
from app.tabs import compare_bubbles
from engine.experiments import comparison
from engine.experiments.compared_measures import COMPARED, DICE
from engine.experiments.comparison import Comparison
from engine.runs.records import RunRecord


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    runs: SeveralPicker
    measure: gr.Radio
    again: gr.Button
    message: gr.HTML
    tables: gr.HTML
    curves: gr.Plot
    downloads: dict[str, gr.DownloadButton]
    """By the end of the file's name."""
    bubbles: compare_bubbles.Parts
    opened: gr.State
    """Whether the runs of the address were taken."""


def build(studio: Studio, tab: gr.Tab) -> Parts:
    """Place the tab's components and wire them; call it inside ``tab``, which is read when it is opened."""
    gr.HTML(f"{markup.spoken(compare_text.TAB_COMPARE)}<p class='lead'>{compare_text.COMPARE_LEAD}</p>")
    with gr.Row(elem_classes="filters"):
        runs = SeveralPicker(
            [],
            multiselect=True,
            max_choices=comparison.MOST,
            label=compare_text.RUNS_LABEL,
            info=compare_text.RUNS_INFO,
            elem_id="compare-runs",
        )
        measure = gr.Radio(
            [(one.title, key) for key, one in COMPARED.items()],
            value=DICE,
            label=compare_text.MEASURE_LABEL,
            info=compare_text.MEASURE_INFO,
            elem_id="compare-measure",
        )
        again = gr.Button(compare_text.READ_AGAIN, size="sm", elem_id="compare-again", scale=0, min_width=180)
    message = gr.HTML(elem_id="compare-message")
    curves = gr.Plot(label=compare_text.CURVES_PLOT, show_label=False, visible=False, elem_id="compare-curves")
    tables = gr.HTML(elem_id="compare-tables")
    with gr.Row(elem_classes="actions"):
        downloads = {
            suffix: gr.DownloadButton(label, size="sm", visible=False, elem_id=f"compare-{suffix}")
            for suffix, label in compare_text.DOWNLOADS.items()
        }
    bubbles = compare_bubbles.place()
    parts = Parts(runs, measure, again, message, tables, curves, downloads, bubbles, gr.State(False))
    _wire(studio, tab, parts)
    bubbles.wire(studio, runs)
    return parts


def _wire(studio: Studio, tab: gr.Tab, parts: Parts) -> None:
    shown = [parts.message, parts.tables, parts.curves, *parts.downloads.values(), *parts.bubbles.listed]

    def show(chosen: list[str], measure: str | None) -> list[Any]:
        if len(chosen) < comparison.FEWEST:
            return [markup.empty(compare_text.EMPTY_TITLE, _step(studio)), *_nothing()]
        found, box = studio.attempt(lambda: comparison.compare(studio.store, chosen))
        if found is None:
            return [box, *_nothing()]
        return ["", *_filled(studio, found, measure or DICE)]

    def measured(chosen: list[str], measure: str | None) -> list[Any]:
        """Return the tables of another measure; files, curves and what was drawn of the runs stay."""
        if len(chosen) < comparison.FEWEST:
            return [gr.skip(), gr.skip()]
        found, box = studio.attempt(lambda: comparison.compare(studio.store, chosen))
        return [box, "" if found is None else _tables(studio, found, measure or DICE)]

    def opened(chosen: list[str], measure: str | None, was_opened: bool, request: gr.Request) -> list[Any]:
        """Offer the runs of this home, and show those of the address when the tab is opened first."""
        wanted = chosen if was_opened else list(Wanted.of(dict(request.query_params)).runs) or chosen
        offered = _offered(studio, wanted)
        known = {run.run_id for run in offered}
        there, lost = [name for name in wanted if name in known], [name for name in wanted if name not in known]
        told = show(there, measure)
        if lost:
            what = compare_text.UNKNOWN_WHAT.format(names=", ".join(lost))
            told[0] = markup.error_box(what, compare_text.UNKNOWN_WHY, compare_text.UNKNOWN_FIX) + told[0]
        choices = viewmodels.run_choices(offered) if offered else []
        return [gr.Dropdown(choices=choices, value=there, multiselect=True), True, *told]

    how: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.message}
    how |= {"concurrency_limit": 1, "concurrency_id": "compare"}  # they write the same places: the last asked stands
    for event in (tab.select, parts.again.click):
        asked = [parts.runs, parts.measure, parts.opened]
        event(opened, asked, [parts.runs, parts.opened, *shown], trigger_mode="always_last", **how)
    chosen = [parts.runs, parts.measure]
    parts.runs.input(show, chosen, shown, trigger_mode="always_last", **how)
    parts.measure.input(measured, chosen, [parts.message, parts.tables], trigger_mode="always_last", **how)
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
    downloads = [gr.DownloadButton(visible=False)] * len(compare_text.DOWNLOADS)
    return ["", gr.Plot(visible=False), *downloads, *compare_bubbles.anew(is_shown=False)]


def _filled(studio: Studio, found: Comparison, measure: str) -> list[Any]:
    paths = _paths(studio)
    texts = {"csv": compare_view.csv(found, paths=paths), "tex": compare_latex.latex(found, paths=paths)}
    series = [
        (f"{letter}: {run.record.name}", run.curves)
        for letter, run in zip(compare_text.LETTERS, found.runs, strict=False)
    ]
    figure = plots.overlaid(series, title=compare_text.CURVES_PLOT, empty=compare_text.CURVES_EMPTY)
    stem = f"comparison_{'_'.join(run.record.run_id for run in found.runs)}"
    files = [studio.save(f"{stem}.{suffix}", studio.told(texts[suffix]).encode()) for suffix in compare_text.DOWNLOADS]
    return [
        _tables(studio, found, measure),
        gr.Plot(value=figure, visible=True),
        *(gr.DownloadButton(value=path, visible=True) for path in files),
        *compare_bubbles.anew(is_shown=True),
    ]


def _tables(studio: Studio, found: Comparison, measure: str) -> str:
    shown = COMPARED.get(measure, COMPARED[DICE])
    return studio.told(compare_view.html(found, paths=_paths(studio), measure=shown))


def _paths(studio: Studio) -> bool:
    return studio.mode == "local"  # elsewhere nobody is told where files of the server lie

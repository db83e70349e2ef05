"""Whole volumes, series and zips on the Segment tab: choose a file, press the button, see planes and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import markup, model_text
from app import volume_text as words
from app.figure_cells import MORE, axes, figure, more_columns
from app.studio import Studio
from engine.data.readers import file_suffix
from engine.data.tiling import Looks
from engine.errors import UserError
from export.foreign import CODE as FOREIGN
from export.levels import MODEL_PERCENT, STEPS, percent_of

if TYPE_CHECKING:  # they bring in what reads, segments and writes volumes, which no first paint needs
    from app import volume_jobs
    from export.outputs.measurements import Measurement

VIEWER_SCRIPT = Path(__file__).resolve().parents[1] / "viewer.js"
ROWS_SHOWN = 50
"""Rows of figures that the page shows (ours)."""
FILE_ROUTE = "/gradio_api/file="


@dataclass(frozen=True)
class Parts:
    """The section's components that its handlers read or write."""

    upload: gr.File
    threshold: gr.Slider
    start: gr.Button
    stop: gr.Button
    anyway: gr.Button
    message: gr.HTML
    viewer: gr.HTML
    figures: gr.HTML
    masks: gr.DownloadButton
    nifti: gr.DownloadButton
    csv: gr.DownloadButton


def build(studio: Studio, model: gr.Dropdown, looks: gr.Radio) -> Parts:
    """Place the section below the Segment tab's columns and wire it.

    ``model`` and ``looks`` are what the tab has chosen: a model, and how it looks at a slice.
    """
    parts = _place(studio)
    outputs = [parts.message, parts.viewer, parts.figures, parts.masks, parts.nifti, parts.csv, parts.start, parts.stop]
    outputs.append(parts.anyway)

    def segment(
        chosen: str | None, how: Looks, path: str | None, threshold: float, *, anyway: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        from app import volume_jobs, volume_view

        yield _busy(volume_view.progress_bar(words.READING, 0, 1))
        steps = _steps(studio, chosen, how, path, anyway=anyway, percent=percent_of(threshold))
        while True:
            done, box = studio.attempt(lambda: _next(steps))
            if done is None:
                yield _nothing(box)
                return
            if isinstance(done, UserError):
                yield _nothing(studio.told(markup.foreign(done)), offer=True)
                return
            if isinstance(done, tuple):
                yield done
                return
            yield _busy(volume_view.progress_bar(volume_jobs.progress_words(done), done.slice, done.num_slices))

    def segment_anyway(chosen: str | None, how: Looks, path: str | None, threshold: float) -> Iterator[tuple[Any, ...]]:
        yield from segment(chosen, how, path, threshold, anyway=True)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    given = [model, looks, parts.upload, parts.threshold]
    job = [
        button.click(work, given, outputs, concurrency_limit=1, concurrency_id="volume", **quiet)
        for button, work in ((parts.start, segment), (parts.anyway, segment_anyway))
    ]
    empty = markup.empty(words.EMPTY_TITLE, words.EMPTY)
    for ended, message in (
        (parts.stop.click, markup.notice(words.STOPPED)),
        (parts.upload.change, empty),
        (model.change, empty),
        (looks.change, empty),
    ):
        # Both in the browser and in this order: a cancellation waits for the answer of what is registered before it,
        # and would end the job of who has pressed the button in the meantime.
        ended(None, cancels=job)
        ended(None, None, outputs, js=f"() => {json.dumps(_nothing(message))}", **quiet)
    return parts


def _place(studio: Studio) -> Parts:
    gr.HTML(f"<h2>{words.HEADING}</h2><p class='quiet'>{escape(words.LEAD)}</p>")
    label = words.UPLOAD_LABEL.format(megabytes=studio.settings.max_upload_mb)
    upload = gr.File(label=label, type="filepath", height=120, elem_id="volume-upload")
    own, least = MODEL_PERCENT / STEPS, 1 / STEPS
    threshold = gr.Slider(
        least, 1 - least, own, step=least, label=words.THRESHOLD, info=words.THRESHOLD_INFO, elem_id="volume-threshold"
    )
    with gr.Row(elem_classes="actions"):
        start = gr.Button(words.START, variant="primary", elem_id="volume-start")
        stop = gr.Button(words.STOP, visible=False, elem_id="volume-stop")
    message = gr.HTML(markup.empty(words.EMPTY_TITLE, words.EMPTY), elem_id="volume-message")
    anyway = gr.Button(model_text.ANYWAY_BUTTON, visible=False, elem_id="volume-anyway")
    viewer = gr.HTML("", elem_id="volume-viewer", js_on_load=VIEWER_SCRIPT.read_text(encoding="utf-8"))
    figures = gr.HTML("", elem_id="volume-figures")
    with gr.Row(elem_classes="actions"):
        masks = gr.DownloadButton(words.DOWNLOAD[".zip"], variant="primary", visible=False, elem_id="volume-masks")
        nifti = gr.DownloadButton(words.DOWNLOAD_NIFTI, visible=False, elem_id="volume-nifti")
        csv = gr.DownloadButton(words.DOWNLOAD_CSV, visible=False, elem_id="volume-csv")
    return Parts(upload, threshold, start, stop, anyway, message, viewer, figures, masks, nifti, csv)


def _steps(
    studio: Studio, chosen: str | None, how: Looks, path: str | None, *, anyway: bool, percent: int
) -> Iterator[volume_jobs.Step | tuple[Any, ...]]:
    """Yield every step of the job, then the values of all outputs."""
    if not chosen or not path:
        raise UserError("app.no_volume", what=words.NO_FILE_WHAT, why=words.NO_FILE_WHY, fix=words.NO_FILE_FIX)
    from app import volume_jobs

    session = studio.session(chosen, looks=how)
    result = yield from volume_jobs.run(studio, session, Path(path), anyway=anyway, percent=percent)
    yield _shown(studio, result, session.manifest.classes)


def _next(steps: Iterator[volume_jobs.Step | tuple[Any, ...]]) -> volume_jobs.Step | tuple[Any, ...] | UserError:
    """Return the next step, or the refusal of what is unlike the images of training: an answer can be asked for."""
    try:
        return next(steps)
    except UserError as error:
        if error.code != FOREIGN:
            raise
        return error


def _busy(bar: str) -> tuple[Any, ...]:
    hidden = gr.update(visible=False)
    return bar, "", "", hidden, hidden, hidden, gr.Button(interactive=False), gr.Button(visible=True), hidden


def _nothing(message: str, *, offer: bool = False) -> tuple[Any, ...]:
    """Return the values of all outputs without an answer; ``offer`` is for an answer on request."""
    hidden = gr.update(visible=False)
    return message, "", "", hidden, hidden, hidden, gr.update(interactive=True), hidden, gr.update(visible=offer)


def _shown(studio: Studio, result: volume_jobs.Result, classes: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the values of all outputs for a finished job."""
    from app import volume_view

    slices, width, height = result.size
    told = words.DONE.format(slices=slices, width=width, height=height, seconds=result.wall_s)
    if result.num_cases > 1:
        count = result.num_cases - len(result.faults)
        told = words.DONE_MANY.format(count=count, of=result.num_cases, seconds=result.wall_s)
    message = markup.quiet(told)
    if result.percent != MODEL_PERCENT:
        message += markup.notice(words.SAVED_AT.format(threshold=result.percent / STEPS, own=MODEL_PERCENT / STEPS))
    if result.identifiers:
        message += markup.notice(words.IDENTIFIERS.format(tags=", ".join(result.identifiers)))
    if result.unlike:
        message += markup.notice(model_text.FOREIGN_MARK.format(why=" ".join(result.unlike)))
    if result.faults:
        message += markup.quiet(words.FAULTS.format(count=len(result.faults)))
        message += "".join(studio.told(markup.user_error(fault)) for fault in result.faults[:ROWS_SHOWN])
    viewer = ""
    if result.view is not None:
        viewer = volume_view.html(result.view, address=FILE_ROUTE + result.view_path, classes=classes)
    suffix = file_suffix(Path(result.masks)) if result.masks else ".zip"
    return (
        message,
        viewer,
        figures_table(result.measurements),
        gr.DownloadButton(words.DOWNLOAD[suffix], value=result.masks or None, visible=bool(result.masks)),
        gr.DownloadButton(value=result.nifti or None, visible=bool(result.nifti)),
        gr.DownloadButton(value=result.csv or None, visible=bool(result.csv)),
        gr.Button(interactive=True),
        gr.Button(visible=False),
        gr.Button(visible=any(fault.code == FOREIGN for fault in result.faults)),
    )  # fmt: skip


def figures_table(measurements: list[Measurement]) -> str:
    """Return the figures as a table, with units where there are any and a dash where a figure does not exist."""
    if not measurements:
        return ""
    more = more_columns(measurements)
    rows = "".join(f"<tr>{_cells(one, more)}</tr>" for one in measurements[:ROWS_SHOWN])
    head = "".join(f"<th scope='col'>{name}</th>" for name in (*words.COLUMNS, *more))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    table = f"<div class='table-scroll' tabindex='0'>{table}</div>"
    if len(measurements) > ROWS_SHOWN:
        table += markup.quiet(words.ROWS_SHOWN.format(shown=ROWS_SHOWN, total=len(measurements)))
    return table


def _cells(one: Measurement, more: Iterable[str]) -> str:
    cells = (
        f"{one.foreground_px:,} ({100 * one.share:.1f} %)",
        figure(one.area_mm2, "mm²"),
        figure(one.volume_ml, "mL"),
        f"{one.components:,}",
        *axes(one),
        figure(one.mean_intensity, one.intensity_unit),
        *(MORE[name](one) for name in more),
    )
    return f"<th scope='row'>{escape(one.image)}</th><td>{escape(one.class_name)}</td>" + "".join(
        f"<td>{escape(cell)}</td>" for cell in cells
    )

"""Whole volumes, series and zips on the Segment tab: choose a file, press the button, see planes and figures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import markup, model_offers, model_text, reference_text, variant_choice, volume_figures
from app import volume_text as words
from app.picker import Picker
from app.studio import Studio
from app.tabs import volume_tools
from engine.data.readers import file_suffix
from engine.data.tiling import Looks
from engine.errors import UserError
from export.foreign import CODE as FOREIGN
from export.levels import MODEL_PERCENT, STEPS, percent_of

if TYPE_CHECKING:  # they bring in what reads, segments and writes volumes, which no first paint needs
    from app import volume_jobs

VIEWER_SCRIPTS = tuple(
    Path(__file__).resolve().parents[1] / name for name in ("brush.js", "volume_brush.js", "viewer.js")
)
FAULTS_SHOWN = 50
"""Files that could not be segmented, of which the page says why (ours)."""
PROGRESS_S = 0.2
"""How often the page is told how far a job is (ours): telling costs as much as a small slice."""
FILE_ROUTE = "/gradio_api/file="
STATE_S = 3600
"""How long a browser tab's state is kept."""


@dataclass(frozen=True)
class Parts:
    """The section's components that its handlers read or write."""

    upload: gr.File
    second: gr.Dropdown
    threshold: gr.Slider
    reference: gr.File
    start: gr.Button
    stop: gr.Button
    anyway: gr.Button
    message: gr.HTML
    viewer: gr.HTML
    figures: gr.HTML
    masks: gr.DownloadButton
    nifti: gr.DownloadButton
    second_masks: gr.DownloadButton
    second_nifti: gr.DownloadButton
    instances: gr.DownloadButton
    csv: gr.DownloadButton
    corrections: gr.HTML
    settle: gr.Button
    kept: gr.State
    """What is remembered of a volume whose mask can be corrected (``app.volume_corrections.Kept``)."""

    @property
    def outputs(self) -> list[Any]:
        """Return what a job's answer fills, in the order of :func:`_shown`."""
        shown = [self.message, self.viewer, self.figures, self.corrections, self.settle]
        return [*shown, *self.files, self.start, self.stop, self.anyway]

    @property
    def files(self) -> list[Any]:
        """Return the files to save, in the order of :func:`_files`."""
        return [self.masks, self.nifti, self.second_masks, self.second_nifti, self.instances, self.csv]


def build(studio: Studio, model: gr.Dropdown, looks: gr.Radio, offers: gr.State) -> Parts:
    """Place the section below the Segment tab's columns and wire it.

    ``model`` and ``looks`` are what the tab has chosen: a model, and how it looks at a slice. ``offers`` changes when
    other models are offered.
    """
    parts = _place(studio)
    outputs = parts.outputs

    def segment(
        chosen: str | None,
        second: str | None,
        how: Looks,
        path: str | None,
        threshold: float,
        mask: str | None,
        *,
        anyway: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        from app import volume_jobs, volume_view

        yield *_busy(volume_view.progress_bar(words.READING, 0, 1)), None
        settings: dict[str, Any] = {"anyway": anyway, "percent": percent_of(threshold)}
        settings["reference"] = Path(mask) if mask else None
        steps = _steps(studio, (chosen, second), how, path, **settings)
        told = 0.0
        while True:
            done, box = studio.attempt(lambda: _next(steps))
            if done is None:
                yield *_nothing(box), None
                return
            if isinstance(done, UserError):
                yield *_nothing(studio.told(markup.foreign(done)), offer=True), None
                return
            if isinstance(done, tuple):
                yield done
                return
            if time.monotonic() - told < PROGRESS_S:
                continue
            told, of_all = time.monotonic(), done.num_slices * done.num_models
            yield *_busy(volume_view.progress_bar(volume_jobs.progress_words(done), done.done, of_all)), gr.skip()

    def segment_anyway(*given: Any) -> Iterator[tuple[Any, ...]]:
        yield from segment(*given, anyway=True)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    given = [model, parts.second, looks, parts.upload, parts.threshold, parts.reference]
    job = [
        button.click(work, given, [*outputs, parts.kept], concurrency_limit=1, concurrency_id="volume", **quiet)
        for button, work in ((parts.start, segment), (parts.anyway, segment_anyway))
    ]
    _end(parts, job, others=(model.change, looks.change))
    volume_tools.wire(studio, parts)
    for changed in (model.change, offers.change):
        changed(lambda *chosen: _second(studio, *chosen), [model, parts.second], parts.second, **quiet)
    return parts


def _end(parts: Parts, job: list[Any], *, others: tuple[Any, ...]) -> None:
    """Let the button, another file and what ``others`` say end a job and take its answer away."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    empty = markup.empty(words.EMPTY_TITLE, words.EMPTY)
    for ended, message in (
        (parts.stop.click, markup.notice(words.STOPPED)),
        (parts.upload.change, empty),
        (parts.reference.change, empty),
        (parts.second.change, empty),
        *((other, empty) for other in others),
    ):
        # Both in the browser and in this order: a cancellation waits for the answer of what is registered before it,
        # and would end the job of who has pressed the button in the meantime.
        ended(None, cancels=job)
        ended(None, None, parts.outputs, js=f"() => {json.dumps(_nothing(message))}", **quiet)


def _second(studio: Studio, chosen: str | None, second: str | None) -> gr.Dropdown:
    """Offer what the chosen model can be compared with; what was chosen stays where it still can be."""
    found = model_offers.comparable(studio.offers(), chosen)
    choices = [(words.SECOND_NONE, ""), *((model_offers.label(one), one.key) for one in found)]
    kept = second if second in {key for _, key in choices} else ""
    info = words.SECOND_INFO if found else words.SECOND_MISSING
    return gr.Dropdown(choices=choices, value=kept, info=info, interactive=bool(found))


def _place(studio: Studio) -> Parts:
    gr.HTML(f"<h2>{words.HEADING}</h2><p class='quiet'>{escape(words.LEAD)}</p>")
    label = words.UPLOAD_LABEL.format(megabytes=studio.settings.max_upload_mb)
    upload = gr.File(label=label, type="filepath", height=170, elem_id="volume-upload")
    second = Picker(
        [(words.SECOND_NONE, "")],
        value="",
        label=words.SECOND,
        info=words.SECOND_MISSING,
        interactive=False,
        elem_id="volume-second",
    )
    own, least = MODEL_PERCENT / STEPS, 1 / STEPS
    threshold = gr.Slider(
        least, 1 - least, own, step=least, label=words.THRESHOLD, info=words.THRESHOLD_INFO, elem_id="volume-threshold"
    )
    with gr.Accordion(reference_text.HEADING, open=False, elem_id="volume-compare-with"):
        mask_label = reference_text.LABEL.format(megabytes=studio.settings.max_upload_mb)
        reference = gr.File(label=mask_label, type="filepath", height=170, elem_id="volume-reference")
    with gr.Row(elem_classes="actions"):
        start = gr.Button(words.START, variant="primary", elem_id="volume-start")
        stop = gr.Button(words.STOP, visible=False, elem_id="volume-stop")
    message = gr.HTML(markup.empty(words.EMPTY_TITLE, words.EMPTY), elem_id="volume-message")
    anyway = gr.Button(model_text.ANYWAY_BUTTON, visible=False, elem_id="volume-anyway")
    viewer = gr.HTML(
        "", elem_id="volume-viewer", js_on_load="".join(path.read_text(encoding="utf-8") for path in VIEWER_SCRIPTS)
    )
    corrections, settle = volume_tools.place()
    figures = gr.HTML("", elem_id="volume-figures")
    with gr.Row(elem_classes="actions"):
        masks = gr.DownloadButton(words.DOWNLOAD[".zip"], variant="primary", visible=False, elem_id="volume-masks")
        nifti = gr.DownloadButton(words.DOWNLOAD_NIFTI, visible=False, elem_id="volume-nifti")
        second_masks = gr.DownloadButton("", variant="primary", visible=False, elem_id="volume-second-masks")
        second_nifti = gr.DownloadButton("", visible=False, elem_id="volume-second-nifti")
        instances = gr.DownloadButton(words.DOWNLOAD_INSTANCES, visible=False, elem_id="volume-instances")
        csv = gr.DownloadButton(words.DOWNLOAD_CSV, visible=False, elem_id="volume-csv")
    files = (masks, nifti, second_masks, second_nifti, instances, csv)
    kept = gr.State(None, time_to_live=STATE_S)
    shown = (message, viewer, figures, *files, corrections, settle, kept)
    return Parts(upload, second, threshold, reference, start, stop, anyway, *shown)


def _steps(
    studio: Studio,
    keys: tuple[str | None, str | None],
    how: Looks,
    path: str | None,
    *,
    anyway: bool,
    percent: int,
    reference: Path | None,
) -> Iterator[volume_jobs.Step | tuple[Any, ...]]:
    """Yield every step of the job, then the values of all outputs."""
    chosen, second = keys
    if not chosen or not path:
        raise UserError("app.no_volume", what=words.NO_FILE_WHAT, why=words.NO_FILE_WHY, fix=words.NO_FILE_FIX)
    if second == chosen:
        raise UserError("app.same_model", what=words.SAME_WHAT, why=words.SAME_WHY, fix=words.SAME_FIX)
    from app import volume_jobs
    from app.volume_corrections import Kept
    from export.pairs import Models

    # Of a second model, which may lack the variant that is chosen, its own rule's.
    asked = [(key, *variant_choice.read(studio.manifest(key), how)) for key in keys if key]
    models = Models.of(*(studio.session(key, looks=way, variant=variant) for key, way, variant in asked))
    settings: dict[str, Any] = {"anyway": anyway, "percent": percent, "reference": reference}
    result = yield from volume_jobs.run(studio, models, Path(path), **settings)
    kept = None
    if result.kept is not None:
        masks_file, shape, grid, unlike = result.kept
        kept = Kept(Path(path), reference, asked[0], percent, masks_file, shape, grid, unlike)
    yield *_shown(studio, result, models.classes), kept


def _next(steps: Iterator[volume_jobs.Step | tuple[Any, ...]]) -> volume_jobs.Step | tuple[Any, ...] | UserError:
    """Return the next step, or the refusal of what is unlike the images of training: an answer can be asked for."""
    try:
        return next(steps)
    except UserError as error:
        if error.code != FOREIGN:
            raise
        return error


def _busy(bar: str) -> tuple[Any, ...]:
    return (
        bar,
        "",
        "",
        "",
        gr.update(visible=False),
        *_no_files(),
        gr.Button(interactive=False),
        gr.Button(visible=True),
        gr.update(visible=False),
    )


def _nothing(message: str, *, offer: bool = False) -> tuple[Any, ...]:
    """Return the values of all outputs without an answer; ``offer`` is for an answer on request."""
    stop, start = gr.update(visible=False), gr.update(interactive=True)
    return message, "", "", "", gr.update(visible=False), *_no_files(), start, stop, gr.update(visible=offer)


def _no_files() -> list[Any]:
    return [gr.update(visible=False)] * 6


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
    if result.reference:
        message += markup.notice(reference_text.COMPARED_VOLUME.format(name=result.reference))
    if result.identifiers:
        message += markup.notice(words.IDENTIFIERS.format(tags=", ".join(result.identifiers)))
    if result.unlike:
        message += markup.notice(model_text.FOREIGN_MARK.format(why=" ".join(result.unlike)))
    if result.faults:
        message += markup.quiet(words.FAULTS.format(count=len(result.faults)))
        message += "".join(studio.told(markup.user_error(fault)) for fault in result.faults[:FAULTS_SHOWN])
    viewer = ""
    if result.view is not None:
        viewer = volume_view.html(result.view, address=FILE_ROUTE + result.view_path, classes=classes)
    return (
        message,
        viewer,
        volume_figures.figures(result.measurements, result.compared),
        "",
        gr.update(visible=False),
        *files_of(result),
        gr.Button(interactive=True),
        gr.Button(visible=False),
        gr.Button(visible=any(fault.code == FOREIGN for fault in result.faults)),
    )  # fmt: skip


def files_of(result: volume_jobs.Result) -> list[gr.DownloadButton]:
    """Return the buttons of a job's files, in the order of :attr:`Parts.files`."""
    by = result.models[0] if result.second_masks else ""
    return [
        _masks(result.masks, by=by),
        _file(words.DOWNLOAD_NIFTI, result.nifti, by=by),
        _masks(result.second_masks, by=result.models[-1]),
        _file(words.DOWNLOAD_NIFTI, result.second_nifti, by=result.models[-1]),
        _file(words.DOWNLOAD_INSTANCES, result.instances, by=by),
        gr.DownloadButton(value=result.csv or None, visible=bool(result.csv)),
    ]


def _masks(path: str, *, by: str) -> gr.DownloadButton:
    return _file(words.DOWNLOAD[file_suffix(Path(path)) if path else ".zip"], path, by=by)


def _file(label: str, path: str, *, by: str) -> gr.DownloadButton:
    """Return the button of a file, hidden where there is none; of two models it says by which, ``by``."""
    told = words.DOWNLOAD_BY.format(label=label, name=by) if by else label
    return gr.DownloadButton(told, value=path or None, visible=bool(path))

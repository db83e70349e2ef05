"""The Segment tab: choose a model, give an image, see and save its mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app import answers, markup, overlays, text, viewmodels
from app.picker import Picker
from app.studio import Studio
from engine.errors import UserError

SCROLL_TO_RESULT = "() => document.getElementById('overlay')?.scrollIntoView({behavior: 'smooth', block: 'nearest'})"
STATE_S = 3600
"""How long a browser tab's state is kept."""


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    model: gr.Dropdown
    upload: gr.File
    slice_index: gr.Slider
    examples_heading: gr.HTML
    examples: gr.Gallery
    overlay: gr.Image
    opacity: gr.Slider
    legend: gr.HTML
    download: gr.DownloadButton
    message: gr.HTML
    result: gr.State
    seen: gr.State


def build(studio: Studio, page: gr.Blocks) -> Parts:
    """Place the tab's components and wire them; call it inside the tab of ``page``."""
    gr.HTML(f"<p class='lead'>{text.SEGMENT_LEAD}</p>{markup.notice(text.RESEARCH_USE)}")
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=2, min_width=300):
            inputs = _place_inputs(studio)
        with gr.Column(scale=3, min_width=300):
            outputs = _place_result()
    parts = Parts(**inputs, **outputs, result=gr.State(None, time_to_live=STATE_S), seen=gr.State(0))
    _wire_models(studio, parts, page)
    _wire_images(studio, parts)
    _wire_opacity(studio, parts)
    return parts


def _place_inputs(studio: Studio) -> dict[str, Any]:
    gr.HTML(f"<h2>{text.STEP_MODEL}</h2>")
    model = Picker(label=text.MODEL_LABEL, info=text.MODEL_INFO, choices=[], elem_id="model")
    gr.HTML(f"<h2>{text.STEP_IMAGE}</h2>")
    label = text.UPLOAD_LABEL.format(megabytes=studio.settings.max_upload_mb)
    upload = gr.File(label=label, type="filepath", height=170, elem_id="upload")
    slice_index = gr.Slider(
        1, 2, 1, step=1, label=text.SLICE_LABEL, info=text.SLICE_INFO, visible=False, elem_id="slice"
    )
    heading = gr.HTML(visible=False)
    examples = gr.Gallery(
        label=text.SAMPLE_IMAGES,
        show_label=False,
        columns=answers.NUM_EXAMPLES,
        height="auto",
        allow_preview=False,
        interactive=False,
        format="png",
        buttons=[],
        visible=False,
        elem_id="examples",
    )
    return {
        "model": model,
        "upload": upload,
        "slice_index": slice_index,
        "examples_heading": heading,
        "examples": examples,
    }


def _place_result() -> dict[str, Any]:
    gr.HTML(f"<h2>{text.STEP_RESULT}</h2>")
    message = gr.HTML(markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY), elem_id="segment-message")
    overlay = gr.Image(
        label=text.OVERLAY_LABEL,
        interactive=False,
        format="png",
        buttons=["fullscreen"],
        visible=False,
        elem_id="overlay",
    )
    opacity = gr.Slider(
        0, 1, 0.35, step=0.05, label=text.OPACITY_LABEL, info=text.OPACITY_INFO, visible=False, elem_id="opacity"
    )
    legend_html = gr.HTML(elem_id="legend")
    download = gr.DownloadButton(text.DOWNLOAD_LABEL, variant="primary", visible=False, elem_id="download")
    return {"message": message, "overlay": overlay, "opacity": opacity, "legend": legend_html, "download": download}


def _wire_models(studio: Studio, parts: Parts, page: gr.Blocks) -> None:
    """Offer the models that there are, and the chosen one's examples."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def refresh(chosen: str | None, seen: int) -> tuple[Any, ...]:
        choices = [(choice.label, choice.key) for choice in studio.models()]
        now = viewmodels.signature(choices)
        if now == seen:
            return gr.skip(), gr.skip(), seen
        if not choices:
            return gr.Dropdown(choices=[], value=None), markup.empty(text.NO_MODEL_TITLE, text.NO_MODEL_STEP), now
        kept = chosen if chosen in {key for _, key in choices} else choices[0][1]
        note = gr.skip() if seen else markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY)
        return gr.Dropdown(choices=choices, value=kept), note, now

    def examples(chosen: str | None) -> Any:
        pictures = studio.attempt(lambda: answers.example_images(studio, chosen))[0] if chosen else None
        heading = gr.HTML(markup.quiet(text.SAMPLE_IMAGES), visible=bool(pictures))
        return heading, gr.Gallery(value=pictures or [], visible=bool(pictures))

    parts.model.change(examples, parts.model, [parts.examples_heading, parts.examples], **quiet)
    for event in (page.load, gr.Timer(5.0).tick):
        event(refresh, [parts.model, parts.seen], [parts.model, parts.message, parts.seen], **quiet)


def _wire_images(studio: Studio, parts: Parts) -> None:
    """Answer files and examples."""
    shown = [parts.overlay, parts.opacity, parts.legend, parts.download, parts.message, parts.result]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def look(chosen: str | None, path: str | None) -> Any:
        """Offer the slices of a volume; a picture has none."""
        count = studio.attempt(lambda: answers.num_slices(studio, chosen, Path(path)))[0] if path else None
        many = bool(count and count > 1)
        return gr.Slider(maximum=max(2, count or 1), value=(count or 1) // 2 + 1 if many else 1, visible=many)

    def segment_file(chosen: str | None, path: str | None, number: float, opacity: float) -> tuple[Any, ...]:
        if not path:
            return tuple(gr.skip() for _ in shown)
        file = Path(path)
        count, box = studio.attempt(lambda: answers.num_slices(studio, chosen, file))
        if count is None:
            return _nothing(box)
        number = min(max(1, int(number)), count)
        named = _named(Path(studio.uploads.name_of(file)), number, count)
        return _answer(studio, chosen, opacity, lambda: answers.read_upload(studio, chosen, file, number - 1), named)

    def answer_example(chosen: str | None, number: int, opacity: float) -> tuple[Any, ...]:
        named = text.SAMPLE_BUTTON.format(number=number + 1), f"example_{number + 1}"

        def draw() -> np.ndarray:
            return answers.example_image(studio, chosen or "", number)

        return _answer(studio, chosen, opacity, draw, named, example=number)

    def segment_example(chosen: str | None, opacity: float, event: gr.SelectData) -> tuple[Any, ...]:
        """Answer an example; a file that was uploaded before is put away, for the result is no longer its own."""
        number = min(viewmodels.selected_index(event.index), answers.NUM_EXAMPLES - 1)
        return *answer_example(chosen, number, opacity), None, gr.Slider(visible=False)

    def segment_again(
        chosen: str | None, path: str | None, number: float, opacity: float, result: answers.Shown | None
    ) -> tuple[Any, ...]:
        if path:  # another model may read the file's values otherwise
            return segment_file(chosen, path, number, opacity)
        if result is None or result.example is None:
            return tuple(gr.skip() for _ in shown)
        return answer_example(chosen, result.example, opacity)

    def put_away() -> tuple[Any, ...]:
        return *_nothing(markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY)), gr.Slider(visible=False)

    file_inputs = [parts.model, parts.upload, parts.slice_index, parts.opacity]
    one_file: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "image"}  # they wait for each other anyhow
    visible: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.message, **one_file}
    parts.upload.change(look, [parts.model, parts.upload], parts.slice_index, **quiet, **one_file).then(
        segment_file, file_inputs, shown, **visible
    ).then(js=SCROLL_TO_RESULT)
    parts.model.select(segment_again, [*file_inputs, parts.result], shown, **visible)
    parts.slice_index.input(segment_file, file_inputs, shown, trigger_mode="always_last", **visible)
    parts.upload.clear(put_away, None, [*shown, parts.slice_index], **quiet)
    parts.examples.select(
        segment_example, [parts.model, parts.opacity], [*shown, parts.upload, parts.slice_index], **visible
    ).then(js=SCROLL_TO_RESULT)


def _wire_opacity(studio: Studio, parts: Parts) -> None:
    """Draw the last answer anew: no inference, and no picture in a browser's session."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def reblend(result: answers.Shown | None, opacity: float) -> Any:
        if result is None:
            return gr.skip(), gr.skip()
        answer = studio.answers.get(result.key)
        if answer is None:
            return gr.skip(), markup.notice(text.SEGMENT_EXPIRED)
        return answers.picture(answer, opacity), gr.skip()

    parts.opacity.input(
        reblend, [parts.result, parts.opacity], [parts.overlay, parts.message], trigger_mode="always_last", **quiet
    )


def _named(path: Path, number: int, count: int) -> tuple[str, str]:
    """Return the title of a file's picture and the stem of its masks' names; a volume's tell the slice, from 1."""
    from engine.data.readers import file_stem, is_supported

    stem = file_stem(path) if is_supported(path) else path.name
    if count == 1:
        return path.name, stem
    return text.SLICE_OF.format(name=path.name, number=number, count=count), f"{stem}_slice{number:03d}"


def _nothing(message: str) -> tuple[Any, ...]:
    """Return the values of overlay, opacity, legend, download, message and result without an answered image."""
    hidden = gr.update(visible=False)
    return hidden, hidden, "", hidden, message, None


def _answer(
    studio: Studio,
    chosen: str | None,
    opacity: float,
    read: Callable[[], np.ndarray],
    named: tuple[str, str],
    *,
    example: int | None = None,
) -> tuple[Any, ...]:
    """Return the values of overlay, opacity, legend, download, message and result for one image.

    ``named`` is its title and the stem of the files to save; ``example`` the number of an example.
    """
    title, stem = named

    def work() -> tuple[answers.Segmented, str, str]:
        if not chosen:
            raise UserError(
                "app.no_model",
                what="No model is chosen.",
                why="An image is segmented by a trained model.",
                fix="Choose one under step 1, or launch a run on the Train tab first.",
            )
        session = studio.session(chosen)
        found = answers.segment(session, read, stem=stem)
        provider = text.PROVIDERS.get(found.provider, found.provider)
        time = f"{escape(title)} · {text.RESULT_TIME.format(wall_ms=found.wall_ms, provider=provider)}"
        return found, legend(session.manifest.classes, found.area_shares, time=time), studio.save(*found.file)

    done, box = studio.attempt(work)
    if done is None:
        return _nothing(box)
    found, words, path = done
    label = text.DOWNLOAD_SEVERAL if path.endswith(".zip") else text.DOWNLOAD_LABEL
    return (
        gr.Image(value=answers.picture(found.answer, opacity), visible=True),
        gr.Slider(visible=True),
        words,
        gr.DownloadButton(label, value=path, visible=True),
        "" if any(found.area_shares) else markup.notice(text.RESULT_NOTHING),
        answers.Shown(studio.answers.put(found.answer), example),
    )  # fmt: skip


def legend(classes: tuple[str, ...], area_shares: Sequence[float], *, time: str) -> str:
    """Return each class with its colour and its share of the image, and the time taken."""
    from export.results import class_colour

    rows = "".join(
        f"<tr><th scope='row'>{markup.swatch(overlays.hex_colour(class_colour(index)), name)}</th>"
        f"<td>{100 * share:.1f} %</td></tr>"
        for index, (name, share) in enumerate(zip(classes, area_shares, strict=True))
    )
    head = f"<tr><th scope='col'>{text.RESULT_CLASS}</th><th scope='col'>{text.RESULT_AREA}</th></tr>"
    return f"<table class='legend'><thead>{head}</thead><tbody>{rows}</tbody></table><p class='quiet'>{time}</p>"

"""The Segment tab: choose a model, give an image, see and save its mask."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from app import markup, overlays, text, viewmodels
from app.picker import Picker
from app.studio import Studio, attempt
from engine.errors import UserError

SHOWN_PX = (768, 1400)
"""Least and greatest longest side of the picture that is shown: small images are enlarged, large ones reduced."""
SCROLL_TO_RESULT = "() => document.getElementById('overlay')?.scrollIntoView({behavior: 'smooth', block: 'nearest'})"
NUM_EXAMPLES = 4
EXAMPLE_PX = 256
FIRST_EXAMPLE = 9000
"""Index of the first example phantom: far beyond the indices that runs train and test on."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """One answered image, kept for a browser: a new opacity needs no inference, a new model no upload."""

    title: str
    """The file, and which slice of it."""
    stem: str
    """Of the files to save."""
    source_HW3: np.ndarray
    """The image as it was read: uint8, uint16 or float."""
    image_HW3: np.ndarray
    """The image as it is shown, uint8."""
    mask_KHW: np.ndarray


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
    parts = Parts(**inputs, **outputs, result=gr.State(None), seen=gr.State(0))
    _wire_models(studio, parts, page)
    _wire_images(studio, parts)
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
        columns=NUM_EXAMPLES,
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
        pictures = attempt(lambda: example_images(studio, chosen))[0] if chosen else None
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
        count = attempt(lambda: num_slices(studio, chosen, Path(path)))[0] if path else None
        many = bool(count and count > 1)
        return gr.Slider(maximum=max(2, count or 1), value=(count or 1) // 2 + 1 if many else 1, visible=many)

    def segment_file(chosen: str | None, path: str | None, number: float, opacity: float) -> tuple[Any, ...]:
        if not path:
            return tuple(gr.skip() for _ in shown)
        file = Path(path)
        count = attempt(lambda: num_slices(studio, chosen, file))[0] or 1
        number = min(max(1, int(number)), count)
        title, stem = _named(file, number, count)
        return _answer(studio, chosen, opacity, lambda: read_upload(studio, chosen, file, number - 1), title, stem)

    def segment_example(chosen: str | None, opacity: float, event: gr.SelectData) -> tuple[Any, ...]:
        """Answer an example; a file that was uploaded before is put away, for the result is no longer its own."""
        number = int(event.index)
        title, stem = text.SAMPLE_BUTTON.format(number=number + 1), f"example_{number + 1}"
        found = _answer(studio, chosen, opacity, lambda: example_image(studio, chosen or "", number), title, stem)
        return *found, None, gr.Slider(visible=False)

    def segment_again(
        chosen: str | None, path: str | None, number: float, opacity: float, result: Segmented | None
    ) -> tuple[Any, ...]:
        if path:  # another model may read the file's values otherwise
            return segment_file(chosen, path, number, opacity)
        if result is None:
            return tuple(gr.skip() for _ in shown)
        return _answer(studio, chosen, opacity, lambda: result.source_HW3, result.title, result.stem)

    def put_away() -> tuple[Any, ...]:
        return *_nothing(markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY)), gr.Slider(visible=False)

    def reblend(result: Segmented | None, opacity: float) -> Any:
        return gr.skip() if result is None else picture(result, opacity)

    file_inputs = [parts.model, parts.upload, parts.slice_index, parts.opacity]
    visible: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.message}
    parts.upload.change(look, [parts.model, parts.upload], parts.slice_index, **quiet).then(
        segment_file, file_inputs, shown, **visible
    ).then(js=SCROLL_TO_RESULT)
    parts.model.select(segment_again, [*file_inputs, parts.result], shown, **visible)
    parts.slice_index.input(segment_file, file_inputs, shown, trigger_mode="always_last", **visible)
    parts.upload.clear(put_away, None, [*shown, parts.slice_index], **quiet)
    parts.examples.select(
        segment_example, [parts.model, parts.opacity], [*shown, parts.upload, parts.slice_index], **visible
    ).then(js=SCROLL_TO_RESULT)
    parts.opacity.input(reblend, [parts.result, parts.opacity], parts.overlay, trigger_mode="always_last", **quiet)


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


def _answer(studio: Studio, chosen: str | None, opacity: float, read: Any, title: str, stem: str) -> tuple[Any, ...]:
    """Return the values of overlay, opacity, legend, download, message and result for one image."""

    def work() -> tuple[Segmented, str, str]:
        if not chosen:
            raise UserError(
                "app.no_model",
                what="No model is chosen.",
                why="An image is segmented by a trained model.",
                fix="Choose one under step 1, or launch a run on the Train tab first.",
            )
        from export.results import displayable, mask_file

        session = studio.session(chosen)
        image = read()
        answer = session.predict(image)
        classes = session.manifest.classes
        path = studio.save(*mask_file(answer.mask_KHW, classes=classes, stem=stem))
        provider = text.PROVIDERS.get(answer.provider, answer.provider)
        time = f"{escape(title)} · {text.RESULT_TIME.format(wall_ms=answer.wall_ms, provider=provider)}"
        segmented = Segmented(title, stem, image, displayable(image), answer.mask_KHW)
        return segmented, legend(classes, answer.mask_KHW, time=time), path

    found, box = attempt(work)
    if found is None:
        return _nothing(box)
    segmented, words, path = found
    return (
        gr.Image(value=picture(segmented, opacity), visible=True),
        gr.Slider(visible=True),
        words,
        gr.DownloadButton(
            text.DOWNLOAD_SEVERAL if path.endswith(".zip") else text.DOWNLOAD_LABEL, value=path, visible=True
        ),
        "" if segmented.mask_KHW.any() else markup.notice(text.RESULT_NOTHING),
        segmented,
    )


def picture(result: Segmented, opacity: float) -> np.ndarray:
    """Return the image with its outlined mask at a size for screens, (H, W, 3) uint8."""
    from export.results import overlay

    longest_px = int(np.clip(max(result.image_HW3.shape[:2]), *SHOWN_PX))
    height, width = overlays.fit(*result.image_HW3.shape[:2], longest_px=longest_px)
    image = np.asarray(Image.fromarray(result.image_HW3).resize((width, height), Image.Resampling.BICUBIC))
    masks = np.stack([overlays.resize_nearest(plane, height, width) for plane in result.mask_KHW])
    return overlay(image, masks, opacity=opacity, outline_px=max(1, round(max(height, width) / 300)))


def legend(classes: tuple[str, ...], mask_KHW: np.ndarray, *, time: str) -> str:
    """Return each class with its colour and its share of the image, and the time taken."""
    from export.results import class_colour

    rows = "".join(
        f"<tr><th scope='row'>{markup.swatch(overlays.hex_colour(class_colour(index)), name)}</th>"
        f"<td>{100 * share:.1f} %</td></tr>"
        for index, (name, share) in enumerate(zip(classes, overlays.area_shares(mask_KHW), strict=True))
    )
    head = f"<tr><th scope='col'>{text.RESULT_CLASS}</th><th scope='col'>{text.RESULT_AREA}</th></tr>"
    return f"<table class='legend'><thead>{head}</thead><tbody>{rows}</tbody></table><p class='quiet'>{time}</p>"


def num_slices(studio: Studio, key: str | None, path: Path) -> int:
    """Return how many slices the file holds as the model ``key`` cuts it; 1 for a picture."""
    from engine.data.readers import image_info

    return image_info(path, slice_axis=studio.manifest(key).slice_axis if key else 2).num_slices


def read_upload(studio: Studio, key: str | None, path: Path, slice_index: int) -> np.ndarray:
    """Return one picture of an uploaded file as the model ``key`` was trained on such, (H, W, 3).

    Raises ``UserError`` that names the file, not its folder.
    """
    from engine.data.readers import image_info, read_image

    limit = studio.settings.max_image_px
    reading = studio.manifest(key).reading if key else {}
    try:
        geometry = image_info(path, slice_axis=reading.get("slice_axis", 2))
        if max(geometry.height_px, geometry.width_px) > limit:
            raise UserError(
                "app.image_too_large",
                what=f"The image has {geometry.width_px} x {geometry.height_px} pixels.",
                why=f"This page takes images of up to {limit} pixels a side.",
                fix=text.TOO_LARGE_FIX,
            )
        return read_image(path, slice_index=min(slice_index, geometry.num_slices - 1), **reading)[0]
    except UserError as error:
        what = error.what.replace(str(path), path.name)
        raise UserError(error.code, what=what, why=error.why, fix=error.fix) from error


def example_images(studio: Studio, key: str) -> list[tuple[np.ndarray, str]]:
    """Return (picture, caption) of the model's example images; none where its images are not built-in phantoms."""
    from engine.data.phantoms import TASKS

    if studio.manifest(key).task not in TASKS:
        return []
    return [
        (example_image(studio, key, number), text.SAMPLE_BUTTON.format(number=number + 1))
        for number in range(NUM_EXAMPLES)
    ]


def example_image(studio: Studio, key: str, number: int) -> np.ndarray:
    """Return a phantom of a site that the model's training did not see, (H, W, 3) uint8, drawn now.

    A model of real images has seen no phantom site: the task's first one stands in.
    """
    from engine.data.phantoms import TASKS, render

    manifest = studio.manifest(key)
    sites = TASKS[manifest.task].sites
    held_out = manifest.config.get("data", {}).get("held_out")
    site = held_out if held_out in sites else (sites[0] if held_out else sites[-1])
    drawn = render(manifest.task, site=site, index=FIRST_EXAMPLE + number, image_px=EXAMPLE_PX)
    return drawn.image

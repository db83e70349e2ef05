"""The Segment tab: choose a model, give an image, see and save its mask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import (
    examples,
    looks_text,
    markup,
    model_offers,
    model_text,
    overlay_text,
    text,
    variant_choice,
    viewmodels,
    volume_text,
)
from app.address import Wanted, setter
from app.picker import Picker
from app.studio import Studio
from app.tabs import picture_tools, reference, teach, volumes
from app.tabs.picture_tools import Tools
from app.tabs.segment_answers import SHOWN, Handlers

SCROLL_TO_RESULT = """() => {
  const handed = window.dsfedmedHandedOver;
  window.dsfedmedHandedOver = false;
  document.getElementById(handed ? 'volume-upload' : 'overlay')?.scrollIntoView({behavior: 'smooth', block: 'nearest'});
}"""
SCRIPTS = tuple(Path(__file__).resolve().parents[1] / name for name in ("brush.js", "box.js", "overlay.js"))
TELL_CHANGES = """
watch('value', () => {
  const told = element.querySelector('[data-key]');
  if (told) window.dsfedmedOverlay?.changed?.(told);
});
"""
NO_MODELS = viewmodels.signature([])
HAND_OVER = f"""(file, other) => {{
  const same = {{__type__: 'update'}};
  window.dsfedmedHandedOver = Boolean(file && /\\.zip$/i.test(file.orig_name ?? file.path ?? ''));
  if (!window.dsfedmedHandedOver) return [file, same, same, {{__type__: 'update', selected_index: null}}];
  return [null, file, {json.dumps(markup.notice(volume_text.HANDED_OVER))}, same];
}}"""
"""A zip is segmented as a whole: it goes on to the field below, in the browser, whose file it is. An example that was
framed is no longer what is shown."""
STATE_S = 3600
"""How long a browser tab's state is kept."""


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    model: gr.Dropdown
    gone: gr.HTML
    """Says that the model which was shown, or which the address names, is not there."""
    model_facts: gr.HTML
    card: gr.Markdown
    looks: gr.Radio
    upload: gr.File
    slice_index: gr.Slider
    examples_heading: gr.HTML
    examples: gr.Gallery
    overlay: gr.HTML
    tools: Tools
    legend: gr.HTML
    download: gr.DownloadButton
    csv: gr.DownloadButton
    changes: gr.HTML
    message: gr.HTML
    anyway: gr.Button
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
            with outputs["tools"].box:  # there is something to compare with where there is an answer
                compared = reference.place(studio)
                taught = teach.place()
    parts = Parts(**inputs, **outputs, result=gr.State(None, time_to_live=STATE_S), seen=gr.State(0))
    # First: what another model ends must not wait for the answers below.
    below = volumes.build(studio, parts.model, parts.looks, parts.seen)
    _wire_models(studio, parts, page)
    _wire_images(studio, parts, whole=below.upload)
    takes = [parts.legend, parts.download, parts.csv, parts.changes]
    picture_tools.wire(studio, parts.tools, parts.overlay, result=parts.result, takes=takes)
    others = (parts.upload.upload, parts.upload.clear, parts.examples.select)
    threshold = parts.tools.threshold
    reference.wire(studio, compared, threshold=threshold, result=parts.result, takes=takes, others=others)
    teach.wire(studio, taught, threshold=threshold, result=parts.result)
    return parts


def _place_inputs(studio: Studio) -> dict[str, Any]:
    gr.HTML(f"<h2>{text.STEP_MODEL}</h2>")
    model = Picker(label=text.MODEL_LABEL, info=text.MODEL_INFO, choices=[], elem_id="model")
    gone = gr.HTML(elem_id="model-gone")
    model_facts = gr.HTML(elem_id="model-facts")
    with gr.Accordion(model_text.CARD, open=False, elem_id="model-card"):
        card = gr.Markdown(elem_id="card")
    looks = gr.Radio(
        list(looks_text.CHOICES), value="whole", label=looks_text.LABEL, info=looks_text.INFO, elem_id="looks"
    )
    gr.HTML(f"<h2>{text.STEP_IMAGE}</h2>")
    label = text.UPLOAD_LABEL.format(megabytes=studio.settings.max_upload_mb)
    upload = gr.File(label=label, type="filepath", height=170, elem_id="upload")
    slice_index = gr.Slider(
        1, 2, 1, step=1, label=text.SLICE_LABEL, info=text.SLICE_INFO, visible=False, elem_id="slice"
    )
    heading = gr.HTML(visible=False)
    gallery = gr.Gallery(
        label=text.SAMPLE_IMAGES,
        show_label=False,
        columns=examples.MOST,
        height="auto",
        allow_preview=False,
        interactive=False,
        format="jpeg",
        buttons=[],
        visible=False,
        elem_id="examples",
    )
    return {
        "model": model,
        "gone": gone,
        "model_facts": model_facts,
        "card": card,
        "looks": looks,
        "upload": upload,
        "slice_index": slice_index,
        "examples_heading": heading,
        "examples": gallery,
    }


def _place_result() -> dict[str, Any]:
    gr.HTML(f"<h2>{text.STEP_RESULT}</h2>")
    message = gr.HTML(markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY), elem_id="segment-message")
    anyway = gr.Button(model_text.ANYWAY_BUTTON, visible=False, elem_id="anyway")
    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    overlay = gr.HTML(visible=False, elem_id="overlay", js_on_load=script)
    tools = picture_tools.place()
    legend_html = gr.HTML(elem_id="legend")
    with gr.Row(elem_classes="actions"):
        download = gr.DownloadButton(text.DOWNLOAD_LABEL, variant="primary", visible=False, elem_id="download")
        csv = gr.DownloadButton(overlay_text.CSV, visible=False, elem_id="picture-csv")
    changes = gr.HTML(elem_id="changes", js_on_load=TELL_CHANGES)
    return {
        "message": message,
        "anyway": anyway,
        "overlay": overlay,
        "tools": tools,
        "legend": legend_html,
        "download": download,
        "csv": csv,
        "changes": changes,
    }


def _wire_models(studio: Studio, parts: Parts, page: gr.Blocks) -> None:
    """Offer the models that there are, and the chosen one's examples."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def refresh(chosen: str | None, seen: int, request: gr.Request) -> tuple[Any, ...]:
        choices = [(choice.label, choice.key) for choice in studio.models()]
        now = viewmodels.signature(choices)
        if now == seen:
            return gr.skip(), gr.skip(), seen, gr.skip()
        wanted = None if seen else Wanted.of(request.query_params).model
        kept, gone = model_offers.kept(
            [key for _, key in choices], chosen=chosen, wanted=wanted, is_first=seen in (0, NO_MODELS)
        )
        told = gr.skip() if gone is None else markup.warning(model_offers.gone(gone, is_address=gone == wanted))
        picker = gr.Dropdown(choices=choices, value=kept)
        if not choices:
            return picker, markup.empty(text.NO_MODEL_TITLE, text.NO_MODEL_STEP), now, told
        note = gr.skip() if seen else markup.empty(text.SEGMENT_EMPTY_TITLE, text.SEGMENT_EMPTY)
        return picker, note, now, told

    def offered(chosen: str | None) -> Any:
        pictures = studio.attempt(lambda: examples.captioned(studio, chosen))[0] if chosen else None
        said = text.REAL_SAMPLES if chosen and pictures and examples.are_real(studio, chosen) else text.SAMPLE_IMAGES
        heading = gr.HTML(markup.quiet(said), visible=bool(pictures))
        return heading, gr.Gallery(value=pictures or [], visible=bool(pictures))

    def about(chosen: str | None) -> tuple[Any, ...]:
        if not chosen:
            return "", model_text.NO_CARD, gr.skip()  # how it looks belongs to the answer that is still shown
        found, box = studio.attempt(lambda: (*studio.model_facts(chosen), studio.manifest(chosen)))
        if not found:
            return box, model_text.NO_CARD, "whole"
        told, card, manifest = found
        ways = variant_choice.choices(manifest)
        return told, card, gr.Radio(choices=ways, value=variant_choice.by_itself(manifest))

    parts.model.input(None, parts.model, None, js=setter("model"), **quiet)
    parts.model.select(None, None, parts.gone, js="() => ''", **quiet)
    parts.model.change(about, parts.model, [parts.model_facts, parts.card, parts.looks], **quiet)
    parts.model.change(offered, parts.model, [parts.examples_heading, parts.examples], **quiet)
    for event in (page.load, gr.Timer(5.0).tick):
        event(refresh, [parts.model, parts.seen], [parts.model, parts.message, parts.seen, parts.gone], **quiet)


def _wire_images(studio: Studio, parts: Parts, *, whole: gr.File) -> None:
    """Answer files and examples; a zip goes on to the field of what is segmented as a ``whole``."""
    tools = parts.tools
    shown = [
        parts.overlay, tools.box, tools.threshold, tools.shown_class, tools.tool, tools.size, parts.legend,
        parts.download, parts.csv, parts.changes, parts.message, parts.result,
    ]  # fmt: skip
    assert len(shown) == len(SHOWN)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    handlers = Handlers(studio)
    how = [parts.model, parts.looks]
    file_inputs = [*how, parts.upload, parts.slice_index]
    again = [*file_inputs, parts.result]
    one_file: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "image"}  # they wait for each other anyhow
    visible: dict[str, Any] = {"api_visibility": "private", "show_progress_on": parts.message, **one_file}
    given = [parts.upload, whole, parts.message, parts.examples]
    parts.upload.upload(None, given[:2], given, js=HAND_OVER, **quiet).then(
        handlers.look, [parts.model, parts.upload], parts.slice_index, **quiet, **one_file
    ).then(handlers.segment_file, file_inputs, shown, **visible).then(js=SCROLL_TO_RESULT)
    for chosen in (parts.model.select, parts.looks.change):
        # The last choice counts, also while the one before it is being answered.
        chosen(
            handlers.clear_stale, [*how, parts.upload, parts.result], shown, trigger_mode="always_last", **quiet
        ).then(handlers.segment_again, again, shown, **visible)
    parts.slice_index.input(handlers.segment_file, file_inputs, shown, trigger_mode="always_last", **visible)
    parts.upload.clear(handlers.put_away, None, [*shown, parts.slice_index], **quiet)
    parts.examples.select(handlers.segment_example, how, [*shown, parts.upload, parts.slice_index], **visible).then(
        js=SCROLL_TO_RESULT
    )
    parts.anyway.click(handlers.segment_anyway, again, shown, **visible).then(js=SCROLL_TO_RESULT)
    parts.result.change(handlers.settle, [*again], [parts.anyway, *shown], **quiet)

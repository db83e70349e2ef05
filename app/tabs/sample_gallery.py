"""The gallery of the Samples tab: one page of what the controls list, the pager, and the way to any page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from app import markup, region_text, regions, sample_text, sample_view, text, viewmodels
from app.asked_samples import Asked, listed, read
from app.reranking import Reranked
from app.studio import THUMBNAIL_PX, Studio
from engine.types import SyntheticSample


@dataclass(frozen=True)
class Parts:
    """The gallery's components; ``page`` (from 0) and ``shown_ids`` are a visitor's own."""

    gallery: gr.Gallery
    previous: gr.Button
    position: gr.HTML
    number: gr.Number
    following: gr.Button
    page: gr.State
    shown_ids: gr.State

    def listed(self) -> list[Any]:
        """Return the components that :func:`page_of` fills."""
        return [
            self.gallery, self.previous, self.position, self.number, self.following, self.page, self.shown_ids,
        ]  # fmt: skip


def place() -> Parts:
    """Place the pictures and the pager below them."""
    gr.HTML(f"{markup.spoken(text.TAB_SAMPLES)}<h3>{text.GALLERY_LABEL}</h3>")
    gallery = gr.Gallery(
        label=text.GALLERY_LABEL,
        show_label=False,
        columns=5,
        height="auto",
        allow_preview=False,
        interactive=False,
        format="jpeg",
        buttons=[],
        object_fit="cover",
        elem_id="gallery",
    )
    with gr.Row(elem_classes="pager"):
        previous = gr.Button(text.PREVIOUS, size="sm", elem_id="previous")
        position = gr.HTML(elem_id="position")
        following = gr.Button(text.NEXT, size="sm", elem_id="next")
    with gr.Row(elem_classes="pager"):
        number = gr.Number(
            1, label=sample_text.PAGE_LABEL, info=sample_text.PAGE_INFO, precision=0, minimum=1, elem_id="page-number"
        )
    return Parts(gallery, previous, position, number, following, gr.State(0), gr.State(()))


def page_of(studio: Studio, parts: Parts, asked: Asked, page: int) -> dict[Any, Any]:
    """Return the values of :meth:`Parts.listed` for the page (from 0) that is nearest to the asked one."""
    found, box = studio.attempt(lambda: _filled(studio, parts, asked, page))
    return found or {parts.position: box, parts.shown_ids: ()}


def _filled(studio: Studio, parts: Parts, asked: Asked, page: int) -> dict[Any, Any]:
    ranked, size = read(studio, asked), studio.settings.page_size
    indices = listed(ranked, asked)
    pages = viewmodels.num_pages(len(indices), size)
    at = min(max(0, page), pages - 1)
    on_page = indices[at * size : (at + 1) * size]
    ids = ranked.pool.sample_ids[on_page].tolist()
    place = dict(zip(ids, on_page.tolist(), strict=True))
    samples = studio.store.samples_named(asked.run_id or "", ids)  # one may have been deleted meanwhile
    images = text.ONE_IMAGE if len(indices) == 1 else text.IMAGES.format(count=len(indices))
    words = text.PAGE_OF.format(page=at + 1, pages=pages, images=images)
    region = regions.parse(asked.region)
    words += "" if region is None else f", {region_text.PLACES[region.kind]}"
    none = markup.empty(text.SAMPLES_NONE_TITLE, text.SAMPLES_NONE_STEP)
    shown = [_tile(studio, asked.run_id or "", one, ranked, place[one.sample_id]) for one in samples]
    return {
        parts.gallery: gr.Gallery(value=shown, selected_index=None),
        parts.position: f"<p class='quiet'>{words}</p>" if len(indices) else none,
        parts.previous: gr.Button(interactive=at > 0),
        parts.following: gr.Button(interactive=at < pages - 1),
        parts.number: gr.Number(value=at + 1, visible=pages > 1),
        parts.page: at,
        parts.shown_ids: tuple(one.sample_id for one in samples),
    }


def _tile(studio: Studio, run_id: str, sample: SyntheticSample, ranked: Reranked, at: int) -> tuple[np.ndarray, str]:
    """Return a picture of the gallery with its caption; a missing one does not take the others with it."""
    picture, _ = studio.attempt(lambda: studio.thumbnail(run_id, sample))
    if picture is None:
        return np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 128, np.uint8), text.PICTURE_MISSING
    return sample_view.framed(picture, ranked, at), sample_view.caption(sample, ranked, at)

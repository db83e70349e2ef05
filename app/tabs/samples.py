"""The Samples tab: the run's synthetic images by learnability, and one of them in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from app import markup, plots, text, viewmodels
from app.address import Wanted, setter
from app.studio import THUMBNAIL_PX, Studio
from app.tabs import sample_detail
from engine.runs.records import Page, ScoredSample

MAX_POINTS = 4000
SCROLL_TO_DETAIL = "() => document.getElementById('detail')?.scrollIntoView({behavior: 'smooth', block: 'nearest'})"
LISTEN_TO_POINTS = """() => {
  // A plot has no click event of its own: pass the clicked point's sample on through the hidden text box.
  const listen = () => {
    const plot = document.querySelector('#scatter .js-plotly-plot');
    if (!plot || !plot.on || plot.dataset.listening) return;
    plot.dataset.listening = 'yes';
    plot.on('plotly_click', (event) => {
      const box = document.querySelector('#picked textarea, #picked input');
      box.value = event.points[0].customdata;
      box.dispatchEvent(new Event('input', {bubbles: true}));
    });
  };
  new MutationObserver(listen).observe(document.body, {childList: true, subtree: true});
}"""


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    epoch: gr.Slider
    site: gr.Dropdown
    show: gr.Radio
    order: gr.Dropdown
    gallery: gr.Gallery
    previous: gr.Button
    position: gr.HTML
    following: gr.Button
    scatter: gr.Plot
    picked: gr.Textbox
    message: gr.HTML
    detail: gr.HTML
    body: gr.Column
    page: gr.State
    shown_ids: gr.State
    seen: gr.State


def build(studio: Studio, run: gr.Dropdown, page: gr.Blocks) -> Parts:
    """Place the tab's components and wire them to the run picker; call it inside the tab of ``page``."""
    gr.HTML(f"<p class='lead'>{text.SAMPLES_LEAD}</p>")
    message = gr.HTML(elem_id="samples-message")
    with gr.Column(visible=False, elem_id="samples-body") as body:
        with gr.Row(elem_classes="filters"):
            epoch = gr.Slider(1, 2, 1, step=1, label=text.EPOCH_LABEL, info=text.EPOCH_INFO, elem_id="epoch")
            site = gr.Dropdown([(text.SITE_ALL, "")], value="", label=text.SITE_LABEL, elem_id="site")
            show = gr.Radio(_pairs(text.SHOW_CHOICES), value="all", label=text.SHOW_LABEL, elem_id="show")
            order = gr.Dropdown(_pairs(text.ORDER_CHOICES), value="score", label=text.ORDER_LABEL, elem_id="order")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=3, min_width=300):
                gr.HTML(f"<h3>{text.GALLERY_LABEL}</h3>")
                gallery = gr.Gallery(
                    label=text.GALLERY_LABEL,
                    show_label=False,
                    columns=5,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    format="png",
                    buttons=[],
                    object_fit="cover",
                    elem_id="gallery",
                )
                with gr.Row(elem_classes="pager"):
                    previous = gr.Button(text.PREVIOUS, size="sm", elem_id="previous")
                    position = gr.HTML(elem_id="position")
                    following = gr.Button(text.NEXT, size="sm", elem_id="next")
            with gr.Column(scale=2, min_width=300):
                scatter = gr.Plot(label=text.SCATTER_PLOT, show_label=False, elem_id="scatter")
        picked = gr.Textbox(label=text.GALLERY_LABEL, visible="hidden", elem_id="picked")
        detail = gr.HTML(f"<p class='quiet'>{text.DETAIL_EMPTY}</p>", elem_id="detail")
    parts = Parts(
        epoch, site, show, order, gallery, previous, position, following, scatter, picked, message, detail, body,
        gr.State(0), gr.State(()), gr.State({}),
    )  # fmt: skip
    _wire(studio, run, parts, page)
    return parts


def _pairs(choices: dict[str, str]) -> list[tuple[str, str]]:
    return [(label, value) for value, label in choices.items()]


def _wire(studio: Studio, run: gr.Dropdown, parts: Parts, page: gr.Blocks) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    controls = [run, parts.epoch, parts.site, parts.show, parts.order]
    listing = [parts.gallery, parts.position, parts.previous, parts.following, parts.page, parts.shown_ids]
    whole = [
        parts.message, parts.body, parts.epoch, parts.site, *listing, parts.scatter, parts.detail, parts.picked,
        parts.seen,
    ]  # fmt: skip

    def refresh(
        run_id: str | None, shown: float, site: str, show: str, order: str, page: int, picked: str, seen: dict,
        request: gr.Request,
    ) -> Any:  # fmt: skip
        """Show what the run has now; nothing is sent while nothing has changed."""
        if run_id is None:
            return [gr.skip()] * len(whole)
        now, box = studio.attempt(lambda: _signature(studio, run_id))
        if not box and seen.get("summary") == now:
            return [gr.skip()] * len(whole)
        summary, box = (None, box) if box else studio.attempt(lambda: _summary(studio, run_id))
        if summary is None:
            return box, *[gr.skip()] * (len(whole) - 2), {}
        fresh, epoch = seen.get("run") != run_id, _epoch(shown)
        wanted = _wanted(request, run_id) if fresh and "run" not in seen else Wanted()
        picked = (wanted.sample or "") if fresh else picked
        state = {"summary": now, "run": run_id, "last": summary.epochs[-1] if summary.epochs else None}
        if not summary.total:
            return summary.note, gr.Column(visible=False), *[gr.skip()] * (len(whole) - 4), "", state
        follows = fresh or seen.get("last") in (None, epoch) or epoch not in summary.epochs
        at = state["last"] if follows else epoch
        at = wanted.epoch - 1 if wanted.epoch and wanted.epoch - 1 in summary.epochs else at
        kept_site = site if site in summary.sites else ""
        listed = _listing(studio, run_id, at, kept_site, show, order, 0 if fresh else page)
        return (
            "",
            gr.Column(visible=True),
            _epoch_slider(summary.epochs, at),
            gr.Dropdown([(text.SITE_ALL, ""), *((name, name) for name in summary.sites)], value=kept_site),
            *listed,
            _scatter(studio, run_id, at, kept_site, chosen=picked),
            _detail(studio, run_id, picked, at) if picked else gr.skip(),
            picked if fresh else gr.skip(),
            state,
        )

    for event in (gr.Timer(2.0).tick, run.change):
        event(refresh, [*controls, parts.page, parts.picked, parts.seen], whole, **quiet)
    page.load(js=LISTEN_TO_POINTS, **quiet)
    _wire_listing(studio, parts, controls, listing)
    _wire_detail(studio, run, parts)


def _wire_listing(studio: Studio, parts: Parts, controls: list[Any], listing: list[Any]) -> None:
    """Turn pages, and list anew what filters and order ask for."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def turn(step: int) -> Any:
        def handler(run_id: str, shown: float, site: str, show: str, order: str, page: int) -> Any:
            return _listing(studio, run_id, _epoch(shown), site, show, order, page + step)

        return handler

    def filtered(run_id: str, shown: float, site: str, show: str, order: str, picked: str) -> Any:
        epoch = _epoch(shown)
        return *_listing(studio, run_id, epoch, site, show, order, 0), _scatter(
            studio, run_id, epoch, site, chosen=picked
        )

    gr.on(
        [parts.epoch.input, parts.site.input, parts.show.input, parts.order.input],
        filtered, [*controls, parts.picked], [*listing, parts.scatter], trigger_mode="always_last", **quiet,
    )  # fmt: skip
    parts.previous.click(turn(-1), [*controls, parts.page], listing, **quiet)
    parts.following.click(turn(+1), [*controls, parts.page], listing, **quiet)


def _wire_detail(studio: Studio, run: gr.Dropdown, parts: Parts) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def choose(shown_ids: tuple[str, ...], event: gr.SelectData) -> str:
        index = viewmodels.selected_index(event.index)
        return shown_ids[index] if index < len(shown_ids) else ""

    def detail(run_id: str | None, sample_id: str, shown: float, site: str) -> Any:
        if not run_id or not sample_id:
            return f"<p class='quiet'>{text.DETAIL_EMPTY}</p>", gr.skip()
        epoch = _epoch(shown)
        return _detail(studio, run_id, sample_id, epoch), _scatter(studio, run_id, epoch, site, chosen=sample_id)

    parts.gallery.select(choose, parts.shown_ids, parts.picked, **quiet)
    parts.picked.change(None, parts.picked, None, js=setter("sample"), **quiet)
    parts.epoch.input(None, parts.epoch, None, js=setter("epoch"), **quiet)
    chosen = [run, parts.picked, parts.epoch, parts.site]
    parts.picked.change(detail, chosen, [parts.detail, parts.scatter], **quiet).then(js=SCROLL_TO_DETAIL)
    parts.epoch.input(detail, chosen, [parts.detail, parts.scatter], trigger_mode="always_last", **quiet)


def _wanted(request: gr.Request, run_id: str) -> Wanted:
    """Return what the page's address asks for where that is of this run."""
    wanted = Wanted.of(request.query_params)
    return wanted if wanted.run in (None, run_id) else Wanted()


def _detail(studio: Studio, run_id: str, sample_id: str, epoch: int | None) -> str:
    found, box = studio.attempt(lambda: sample_detail.html(studio, run_id, sample_id, epoch))
    return box or found or ""


@dataclass(frozen=True)
class Summary:
    """What a run has to show."""

    total: int
    sites: tuple[str, ...]
    epochs: tuple[int, ...]
    note: str


def _signature(studio: Studio, run_id: str) -> int:
    """Return a number that changes with the run's samples and scores: cheap, for it is asked every two seconds."""
    if not run_id:
        return viewmodels.signature(run_id)
    total = studio.store.samples(run_id, epoch=0, limit=1).total
    stages = tuple(stage.status for stage in studio.store.stages(run_id))
    return viewmodels.signature((run_id, total, studio.store.epochs(run_id), stages))


def _summary(studio: Studio, run_id: str) -> Summary:
    if not run_id:
        return Summary(0, (), (), markup.empty(text.SAMPLES_EMPTY_TITLE, text.SAMPLES_NO_RUN))
    everything = studio.store.samples(run_id, limit=1)
    step = viewmodels.samples_step([stage.name for stage in studio.store.stages(run_id)])
    return Summary(
        total=everything.total,
        sites=studio.store.sample_sites(run_id),
        epochs=studio.store.epochs(run_id),
        note=markup.empty(text.SAMPLES_EMPTY_TITLE, step),
    )


def _epoch_slider(epochs: tuple[int, ...], at: int | None) -> gr.Slider:
    if not epochs or at is None:
        return gr.Slider(visible=False)
    return gr.Slider(epochs[0] + 1, max(epochs[-1], epochs[0] + 1) + 1, at + 1, visible=len(epochs) > 1)


def _epoch(shown: float) -> int:
    """Return the epoch as it is stored, from 0; people count from 1, as the curves and the log do."""
    return int(shown) - 1


def _listing(
    studio: Studio, run_id: str | None, epoch: int | None, site: str, show: str, order: str, page: int
) -> tuple[Any, ...]:
    """Return the values of the gallery, the pager and its states."""
    size = studio.settings.page_size
    wanted = viewmodels.sample_filter(site, show, order)

    def read(offset: int) -> Page[ScoredSample]:
        return studio.store.samples(
            run_id or "", epoch=epoch, site=wanted.site, selected=wanted.selected, order=wanted.order,
            descending=wanted.descending, offset=offset, limit=size,
        )  # fmt: skip

    def pictures() -> tuple[Any, ...]:
        total = read(0).total
        pages = viewmodels.num_pages(total, size)
        at = min(max(0, page), pages - 1)
        found = read(at * size)
        shown = [_tile(studio, run_id or "", item) for item in found.items]
        words = text.PAGE_OF.format(page=at + 1, pages=pages, total=total)
        note = (
            f"<p class='quiet'>{words}</p>" if total else markup.empty(text.SAMPLES_NONE_TITLE, text.SAMPLES_NONE_STEP)
        )
        ids = tuple(item.sample.sample_id for item in found.items)
        gallery = gr.Gallery(value=shown, selected_index=None)
        return gallery, note, gr.Button(interactive=at > 0), gr.Button(interactive=at < pages - 1), at, ids

    values, box = studio.attempt(pictures)
    return values or (gr.skip(), box, gr.skip(), gr.skip(), page, ())


def _tile(studio: Studio, run_id: str, item: ScoredSample) -> tuple[np.ndarray, str]:
    """Return a picture of the gallery with its caption; a missing one does not take the others with it."""
    picture, _ = studio.attempt(lambda: studio.thumbnail(run_id, item.sample))
    if picture is None:
        return np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 128, np.uint8), text.PICTURE_MISSING
    return picture, viewmodels.sample_caption(item)


def _scatter(studio: Studio, run_id: str | None, epoch: int | None, site: str, *, chosen: str | None = None) -> Any:
    found = studio.store.samples(
        run_id or "", epoch=epoch, site=site or None, order="score", descending=True, limit=MAX_POINTS
    )
    return plots.learnability(found.items, chosen=chosen, total=found.total, models=studio.model_names(run_id or ""))

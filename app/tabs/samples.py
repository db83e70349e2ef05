"""The Samples tab: the run's synthetic images by learnability, what other values would choose, one image in full."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app import asked_samples, markup, regions, sample_text, scatter, text, viewmodels
from app.access import visitor_of
from app.address import Wanted, setter
from app.asked_samples import Asked, config_of, read
from app.studio import Studio
from app.tabs import (
    run_form,
    sample_detail,
    sample_epochs,
    sample_exclusion,
    sample_export,
    sample_fork,
    sample_gallery,
    sample_region,
    what_if,
)

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
IN_ORDER: dict[str, Any] = {**QUIET, "concurrency_limit": 1, "concurrency_id": "samples"}
"""For answers that write the same places: one after the other, as they were asked for. Two at a time would both take a
run for new to this page, and an earlier question's answer could stand over a later one's. Most take no time."""
SCROLL_TO_DETAIL = "() => document.getElementById('detail')?.scrollIntoView({behavior: 'smooth', block: 'nearest'})"
REFRESH_S = 2.0
"""Between two looks at a run that is at work (ours)."""


@dataclass(frozen=True)
class Parts:
    """The tab's components that its handlers read or write."""

    run: gr.Dropdown
    epoch: gr.Slider
    site: gr.Dropdown
    show: gr.Radio
    order: gr.Dropdown
    search: gr.Textbox
    gallery: sample_gallery.Parts
    what_if: what_if.Parts
    fork: sample_fork.Parts
    export: sample_export.Parts
    exclusion: sample_exclusion.Parts
    epochs: sample_epochs.Parts
    region: sample_region.Parts
    scatter: gr.Plot
    picked: gr.Textbox
    message: gr.HTML
    detail: gr.HTML
    body: gr.Column
    seen: gr.State

    @property
    def asked(self) -> list[Any]:
        """The controls, in the order of the fields of :class:`Asked`."""
        return [
            self.run, self.epoch, self.site, self.show, self.order, self.search, self.what_if.weight, self.what_if.rate,
            self.region.text,
        ]  # fmt: skip


def build(studio: Studio, run: gr.Dropdown, page: gr.Blocks, *, tabs: gr.Tabs, form: run_form.RunForm) -> Parts:
    """Place the tab's components and wire them to the run picker; call it inside the tab of ``page``.

    ``form`` is that of a new run, which a fork fills, on another of the ``tabs``.
    """
    gr.HTML(f"<p class='lead'>{text.SAMPLES_LEAD}</p>")
    message = gr.HTML(elem_id="samples-message")
    with gr.Column(visible=False, elem_id="samples-body") as body:
        with gr.Row(elem_classes="filters"):
            epoch = gr.Slider(1, 2, 1, step=1, label=text.EPOCH_LABEL, info=text.EPOCH_INFO, elem_id="epoch")
            site = gr.Dropdown([(text.SITE_ALL, "")], value="", label=text.SITE_LABEL, elem_id="site")
            order = gr.Dropdown(_pairs(text.ORDER_CHOICES), value="score", label=text.ORDER_LABEL, elem_id="order")
            search = gr.Textbox(label=sample_text.SEARCH_LABEL, info=sample_text.SEARCH_INFO, elem_id="sample-search")
        show = gr.Radio(_pairs(text.SHOW_CHOICES), value="all", label=text.SHOW_LABEL, elem_id="show")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=3, min_width=300):
                gallery = sample_gallery.place()
            with gr.Column(scale=2, min_width=300):
                values = what_if.place()
                with values.sliders:
                    fork = sample_fork.place(values.actions)
                plot = gr.Plot(label=text.SCATTER_PLOT, show_label=False, elem_id="scatter")
                region = sample_region.place()
        with gr.Accordion(sample_text.BY_SITE, open=False, elem_id="samples-by-site"):
            values.by_site.render()
        epochs = sample_epochs.place()
        export = sample_export.place()
        exclusion = sample_exclusion.place()
        picked = gr.Textbox(label=text.GALLERY_LABEL, visible="hidden", elem_id="picked")
        detail = gr.HTML(f"<p class='quiet'>{text.DETAIL_EMPTY}</p>", elem_id="detail")
    parts = Parts(
        run, epoch, site, show, order, search, gallery, values, fork, export, exclusion, epochs, region, plot, picked,
        message, detail, body, gr.State({}),
    )  # fmt: skip
    # First what they clear in the browser: handlers of one event wait for the answers of those before them.
    export.wire(studio, parts.asked)
    epochs.wire(studio, run, epoch)
    fork.wire(studio, run, (values.weight, values.rate), exclusion.ids, form=form, tabs=tabs, message=message)
    _wire_refresh(studio, parts)
    page.load(js=sample_region.SCRIPT, **QUIET)
    _wire_listing(studio, parts)
    _wire_values(studio, parts)
    _wire_region(studio, parts)
    _wire_detail(studio, parts)
    region.wire(studio)
    exclusion.wire(studio, run, picked, region, parts.asked)
    return parts


def _pairs(choices: dict[str, str]) -> list[tuple[str, str]]:
    return [(label, value) for value, label in choices.items()]


def _wire_refresh(studio: Studio, parts: Parts) -> None:
    """Show what the run has now; nothing is sent while nothing has changed."""
    values, timer = parts.what_if, gr.Timer(REFRESH_S)
    whole = [
        timer, parts.message, parts.body, parts.epoch, parts.site, parts.scatter, parts.detail, parts.picked,
        parts.seen, *parts.gallery.listed(), *values.set_up(), *values.answers(), parts.fork.button,
        *parts.epochs.set_up(), parts.region.forkable, *parts.region.answers(), *parts.region.emptied(),
    ]  # fmt: skip

    def refresh(request: gr.Request, page: int, picked: str, seen: dict, *controls: Any) -> dict[Any, Any]:
        asked = Asked(*controls)
        if asked.run_id is None:
            return {parts.seen: gr.skip()}
        count, box = studio.attempt(studio.store.changes)
        if not box and (seen.get("run"), seen.get("count")) == (asked.run_id, count):
            return {parts.seen: gr.skip()}
        now, box = studio.attempt(lambda: _signature(studio, asked.run_id or ""))
        if not box and seen.get("summary") == now:
            return {parts.seen: seen | {"count": count}}
        summary, box = (None, box) if box else studio.attempt(lambda: _summary(studio, asked.run_id or ""))
        if summary is None:
            return {parts.message: box, parts.seen: {}}
        last = summary.epochs[-1] if summary.epochs else None
        state = {"summary": now, "run": asked.run_id, "last": last, "count": count}
        pace = {timer: gr.Timer(REFRESH_S if _is_active(studio, asked.run_id) else studio.settings.idle_refresh_s)}
        fresh = seen.get("run") != asked.run_id
        if not summary.total:
            return pace | {
                parts.message: summary.note, parts.body: gr.Column(visible=False), parts.picked: "", parts.seen: state,
            }  # fmt: skip
        may = _may_fork(studio, asked.run_id, request)
        wanted = _wanted(request, asked.run_id) if fresh and "run" not in seen else Wanted()
        return (
            pace
            | _shown(studio, parts, asked, summary, wanted=wanted, before=seen, page=page, picked=picked)
            | {
                parts.message: "",
                parts.body: gr.Column(visible=True),
                parts.fork.button: gr.Button(visible=may),
                parts.region.forkable: gr.Column(visible=may),
                parts.seen: state,
            }
        )

    for event in (timer.tick, parts.run.change):
        event(refresh, [parts.gallery.page, parts.picked, parts.seen, *parts.asked], whole, **IN_ORDER)


def _shown(
    studio: Studio,
    parts: Parts,
    asked: Asked,
    summary: Summary,
    *,
    wanted: Wanted,
    before: dict,
    page: int,
    picked: str,
) -> dict[Any, Any]:
    """Return what a run with samples shows; one that was chosen just now begins with its own values and first page."""
    fresh, last = before.get("run") != asked.run_id, summary.epochs[-1] if summary.epochs else None
    follows = fresh or before.get("last") in (None, asked.epoch) or asked.epoch not in summary.epochs
    at = last if follows else asked.epoch
    at = wanted.epoch - 1 if wanted.epoch and wanted.epoch - 1 in summary.epochs else at
    site = asked.site if asked.site in summary.sites else ""
    own: dict[str, Any] = {"weight": None, "rate": None, "region": None} if fresh else {}
    asked = replace(asked, shown=0 if at is None else at + 1, site=site, **own)
    picked = (wanted.sample or "") if fresh else picked
    config = config_of(studio, asked.run_id or "")
    shown: dict[Any, Any] = {
        parts.epoch: _epoch_slider(summary.epochs, at),
        parts.site: gr.Dropdown([(text.SITE_ALL, ""), *((name, name) for name in summary.sites)], value=site),
        **sample_gallery.page_of(studio, parts.gallery, asked, 0 if fresh else page),
        **_answered(studio, parts, asked, picked),
    }
    if fresh or before.get("last") != last:
        shown |= sample_epochs.values_for(parts.epochs, summary.epochs)
    if fresh or before.get("last") is None:
        shown |= what_if.values_for(parts.what_if, config, is_scored=at is not None)
    if picked:
        shown[parts.detail] = _detail(studio, asked.run_id or "", picked, at)
    return shown | ({parts.picked: picked, **parts.region.emptied()} if fresh else {})


def _wire_listing(studio: Studio, parts: Parts) -> None:
    """Turn pages, and list anew what filters, search and order ask for."""
    outputs, inputs = parts.gallery.listed(), [parts.gallery.page, *parts.asked]

    def turn(step: int) -> Any:
        def handler(page: int, *controls: Any) -> dict[Any, Any]:
            return sample_gallery.page_of(studio, parts.gallery, Asked(*controls), page + step)

        return handler

    def jump(number: float | None, page: int, *controls: Any) -> dict[Any, Any]:
        wanted = page if number is None else int(number) - 1
        return sample_gallery.page_of(studio, parts.gallery, Asked(*controls), wanted)

    def filtered(*controls: Any) -> dict[Any, Any]:
        return sample_gallery.page_of(studio, parts.gallery, Asked(*controls), 0)

    gr.on(  # of the search the change: a text that is put in as a whole is no input to Gradio, the first time
        [parts.show.input, parts.order.input, parts.search.change, parts.site.input, parts.epoch.input],
        filtered, parts.asked, outputs, trigger_mode="always_last", **IN_ORDER,
    )  # fmt: skip
    parts.gallery.previous.click(turn(-1), inputs, outputs, **IN_ORDER)
    parts.gallery.following.click(turn(+1), inputs, outputs, **IN_ORDER)
    parts.gallery.number.submit(jump, [parts.gallery.number, *inputs], outputs, **IN_ORDER)


def _wire_values(studio: Studio, parts: Parts) -> None:
    """Rank anew for the sliders: first what would change, and the plot, then the pictures."""
    values, inputs = parts.what_if, [parts.picked, *parts.asked]
    answers = [*values.answers(), parts.scatter, *parts.region.answers()]

    def moved(picked: str, *controls: Any) -> dict[Any, Any]:
        return _answered(studio, parts, Asked(*controls), picked)

    def relisted(page: int, *controls: Any) -> dict[Any, Any]:
        return sample_gallery.page_of(studio, parts.gallery, Asked(*controls), page)

    listing = ([parts.gallery.page, *parts.asked], parts.gallery.listed())
    sliders = [values.weight.input, values.rate.input]
    gr.on(sliders, moved, inputs, answers, trigger_mode="always_last", **IN_ORDER)
    gr.on(sliders, relisted, *listing, trigger_mode="always_last", **IN_ORDER)
    back = values.reset.click(None, None, [values.weight, values.rate], js=what_if.OWN_VALUES, queue=False, **QUIET)
    back.then(moved, inputs, answers, **IN_ORDER).then(relisted, *listing, **IN_ORDER)
    gr.on([parts.epoch.input, parts.site.input], moved, inputs, answers, trigger_mode="always_last", **IN_ORDER)


def _wire_region(studio: Studio, parts: Parts) -> None:
    """Count and list what is chosen in the plot, and draw ranges there, or nothing.

    A lasso is on the screen already: drawn again, it could come while the next one is being drawn, and add to that.
    """

    def chosen(*controls: Any) -> dict[Any, Any]:
        asked = Asked(*controls)
        page = sample_gallery.page_of(studio, parts.gallery, asked, 0)
        found, box = studio.attempt(lambda: asked_samples.chosen(read(studio, asked), asked))
        return sample_region.answered(parts.region, asked, found, box=box) | page

    def drawn(picked: str, *controls: Any) -> Any:
        region, box = studio.attempt(lambda: regions.parse(Asked(*controls).region))
        if box or (region is not None and region.shapes):
            return gr.skip()
        figure = _answered(studio, parts, Asked(*controls), picked)[parts.scatter]
        if not isinstance(figure, dict):
            # Gradio draws no figure that is equal to the one that it was sent last, whatever was drawn over that.
            figure.update_layout(selectionrevision=secrets.token_hex(8))
        return figure

    changed, last = parts.region.text.change, {**IN_ORDER, "trigger_mode": "always_last"}
    changed(chosen, parts.asked, [*parts.region.answers(), *parts.gallery.listed()], **last)
    changed(drawn, [parts.picked, *parts.asked], parts.scatter, **last)


def _wire_detail(studio: Studio, parts: Parts) -> None:
    def choose(shown_ids: tuple[str, ...], event: gr.SelectData) -> str:
        index = viewmodels.selected_index(event.index)
        return shown_ids[index] if index < len(shown_ids) else ""

    def detail(sample_id: str, *controls: Any) -> str:
        asked = Asked(*controls)
        if not asked.run_id or not sample_id:
            return f"<p class='quiet'>{text.DETAIL_EMPTY}</p>"
        return _detail(studio, asked.run_id, sample_id, asked.epoch)

    def ringed(sample_id: str, *controls: Any) -> Any:
        return _answered(studio, parts, Asked(*controls), sample_id)[parts.scatter]

    parts.gallery.gallery.select(choose, parts.gallery.shown_ids, parts.picked, **QUIET)
    parts.picked.change(None, parts.picked, None, js=setter("sample"), **QUIET)
    parts.epoch.input(None, parts.epoch, None, js=setter("epoch"), **QUIET)
    chosen = [parts.picked, *parts.asked]
    shown = parts.picked.change(detail, chosen, parts.detail, **QUIET)
    shown.then(js=SCROLL_TO_DETAIL).then(ringed, chosen, parts.scatter, **IN_ORDER)
    parts.epoch.input(detail, chosen, parts.detail, trigger_mode="always_last", **QUIET)


def _answered(studio: Studio, parts: Parts, asked: Asked, picked: str) -> dict[Any, Any]:
    """Return what the sliders' values come to, in words and in the plot."""

    def worked_out() -> dict[Any, Any]:
        ranked, run_id = read(studio, asked), asked.run_id or ""
        within, box = studio.attempt(lambda: asked_samples.chosen(ranked, asked))
        figure = scatter.learnability(
            ranked,
            site=asked.site or "",
            chosen=picked or None,
            region=None if within is None else within.region,
            models=studio.model_names(run_id),
        )
        said = what_if.answered(parts.what_if, ranked, config=config_of(studio, run_id) if run_id else None)
        return said | {parts.scatter: figure} | sample_region.answered(parts.region, asked, within, box=box)

    found, box = studio.attempt(worked_out)
    return found or {parts.what_if.count: box, parts.what_if.by_site: "", parts.scatter: gr.skip()}


def _may_fork(studio: Studio, run_id: str, request: gr.Request) -> bool:
    stage, _ = studio.attempt(lambda: sample_fork.stage_of(studio, run_id, by=visitor_of(request)))
    return stage is not None


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


def _is_active(studio: Studio, run_id: str) -> bool:
    return bool(run_id) and studio.store.get(run_id).active


def _signature(studio: Studio, run_id: str) -> int:
    """Return a number that changes with the run's samples and scores: cheap, for it is asked every two seconds."""
    if not run_id:
        return viewmodels.signature(run_id)
    total = studio.store.samples(run_id, epoch=0, limit=1).total
    stages = tuple(stage.status for stage in studio.store.stages(run_id))
    status = studio.store.get(run_id).status
    return viewmodels.signature((run_id, total, studio.store.epochs(run_id), stages, status))


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

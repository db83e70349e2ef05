"""The step of the form in which the images are chosen: they are looked at before a run begins with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import data_text as words
from app import dataset_folders, forms, markup, refusals, viewmodels
from app.access import Visitor, visitor_of
from app.picker import Picker
from app.studio import Studio

PLACES = ("seed", "method", "backend", "server")
"""Fields outside the data section that say which images a run begins with, and how it cuts them."""
LOOK_ID = "data-look"
LOOKED_AT = f"() => document.querySelector('#data-found [role=alert]') || document.getElementById('{LOOK_ID}').click()"
"""Presses the button as a person would, in the browser, where the path stands in the form by then."""
CHOSEN = ("data.source", "data.task", "data.root")
"""A change of these makes what was found another dataset's."""


@dataclass(frozen=True)
class Parts:
    """The components: ``found`` stands below the columns of the form, the others below the folder.

    ``convert`` is there where a look has found a folder in another program's layout.
    """

    look: gr.Button
    convert: gr.Button
    stop: gr.Button
    found: gr.HTML
    converted: gr.HTML

    def listed(self) -> list[Any]:
        """Return the components that every answer sets, in order."""
        return [self.look, self.convert, self.stop, self.found]


@dataclass(frozen=True)
class Folders:
    """The components that name a folder; hidden until images of a folder are chosen."""

    listed: gr.Dropdown
    upload: gr.File
    note: gr.HTML


def place_folders(studio: Studio) -> Folders:
    """Place the list of datasets and the upload of one; call it above the field of its path."""
    settings = studio.settings
    listed = Picker([], label=words.FOLDERS_LABEL, info=words.FOLDERS_INFO, visible=False, elem_id="data-folders")
    label = words.UPLOAD_LABEL.format(megabytes=min(settings.max_upload_mb, settings.visitor_mb))
    upload = gr.File(label=label, file_types=[".zip"], height=140, visible=False, elem_id="data-upload")
    note = markup.quiet(words.UPLOAD_NOTE.format(days=f"{settings.dataset_days:g}"))
    return Folders(listed, upload, gr.HTML(note, visible=False))


def place_buttons() -> tuple[gr.Button, gr.Button, gr.Button]:
    """Place what starts and stops a look, or makes a dataset; call it where the images are chosen."""
    with gr.Row(elem_classes="actions"):
        look = gr.Button(words.LOOK, elem_id=LOOK_ID)
        convert = gr.Button(words.CONVERT, visible=False, variant="primary", elem_id="data-convert")
        stop = gr.Button(words.STOP, visible=False, elem_id="data-stop")
    gr.HTML(markup.quiet(words.NOTE))
    return look, convert, stop


def place_answer(buttons: tuple[gr.Button, gr.Button, gr.Button]) -> Parts:
    """Place where the answer is shown."""
    converted = gr.HTML("", elem_id="data-converted")
    return Parts(*buttons, gr.HTML("", elem_id="data-found"), converted)


def wire(studio: Studio, parts: Parts, fields: Sequence[forms.FieldSpec], controls: Sequence[Any]) -> tuple[Any, Any]:
    """Let the buttons answer from the form's values; a change of the images puts the answer away.

    Returns the events of a look and of a conversion, which what follows them is hung on.
    """
    read = [(f, c) for f, c in zip(fields, controls, strict=True) if f.section == "data" or f.key in PLACES]
    asked = tuple(field for field, _ in read)

    def look(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        steps = _steps(studio, values, asked, by=visitor_of(request))
        try:
            while True:
                shown, box = studio.attempt(lambda: next(steps, None), box=refusals.box)
                if shown is not None or box:
                    yield shown or _ended(box)
                if shown is None:
                    return
        finally:
            steps.close()  # a browser that has gone ends the look, too

    def convert(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from _conversion(studio, values, asked, by=visitor_of(request))

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # First, for what is registered later waits for the answer of what is before it; that may wait for others' looks.
    parts.look.click(None, None, parts.listed(), js=_in_browser(_busy(markup.quiet(words.WAITING))), **quiet)
    job = parts.look.click(
        look, [control for _, control in read], parts.listed(), concurrency_limit=2, concurrency_id="data-look", **quiet
    )
    root = next(control for field, control in read if field.key == "data.root")
    parts.convert.click(
        None, None, parts.listed(), js=_in_browser(_busy(markup.busy(words.CONVERTING), converts=True)), **quiet
    )
    conversion = parts.convert.click(
        convert, [control for _, control in read], [*parts.listed(), root, parts.converted], concurrency_limit=1,
        concurrency_id="data-conversion", **quiet,
    )  # fmt: skip
    changed = [control.change if field.key in CHOSEN else control.input for field, control in read]
    # What a conversion puts into the form is a change, too, but no person's.
    gr.on([control.input for field, control in read if field.key in CHOSEN], None, cancels=[conversion])
    ends = (([parts.stop.click], [job, conversion], markup.quiet(words.STOPPED)), (changed, [job], ""))
    for events, cancelled, said in ends:
        # Both in the browser and in this order, as for volumes: a cancellation waits for what is registered before it.
        gr.on(events, None, cancels=cancelled)
        gr.on(events, None, None, parts.listed(), js=_in_browser(_ended(said)), **quiet)
    return job, conversion


def wire_folders(
    studio: Studio, folders: Folders, parts: Parts, conversion: Any, *, source: Any, root: Any, held_out: Any
) -> None:
    """Offer datasets when images of a folder are chosen; who chooses, uploads or makes one has its path in the form."""

    def offer(request: gr.Request, chosen: str) -> list[Any]:
        by = visitor_of(request)
        if chosen != "folder":
            return [gr.update(visible=False)] * 3
        found, box = studio.attempt(lambda: dataset_folders.offered(studio, by=by))
        choices, said = found or ([], "")
        shown = gr.update(visible=by.role == "operator")
        return [gr.Dropdown(choices=choices, value=None, info=said, visible=not box), shown, shown]

    def take(request: gr.Request, path: str | None) -> list[Any]:
        taken, box = studio.attempt(lambda: dataset_folders.take(studio, path, by=visitor_of(request)))
        return [gr.skip() if taken is None else str(taken), box or markup.quiet(words.UNPACKED)]

    def keep(request: gr.Request, folder: str | None, site: str | None) -> gr.Dropdown:
        sites = studio.sites("folder", None, folder, by=visitor_of(request))
        return gr.Dropdown(value=viewmodels.kept_site(site, sites))

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    source.change(offer, source, [folders.listed, folders.upload, folders.note], trigger_mode="always_last", **quiet)
    chosen = folders.listed.input(None, folders.listed, root, js="(path) => path ?? ''", **quiet)
    chosen.then(keep, [root, held_out], held_out, **quiet)
    folders.upload.upload(None, None, parts.found, js=_in_browser(markup.busy(words.UNPACKING)), **quiet)
    taken = folders.upload.upload(take, folders.upload, [root, parts.found], concurrency_limit=1, **quiet)
    for made in (taken, conversion):
        made.then(keep, [root, held_out], held_out, **quiet).then(js=LOOKED_AT)
    gr.on(
        [root.input, folders.listed.input, folders.upload.upload], None, None, parts.converted, js="() => ''", **quiet
    )


def _steps(
    studio: Studio, values: tuple[Any, ...], fields: tuple[forms.FieldSpec, ...], *, by: Visitor
) -> Iterator[list[Any]]:
    """Yield the values of the parts while images are looked at, and at the end."""
    from app import data_conversion, data_look, data_view

    config = data_look.allowed(studio, forms.from_values(list(values), fields), by=by)
    for found in data_look.steps(config):
        if isinstance(found, data_look.Step):
            yield _busy(data_view.progress(found, asks_sites=config.backend == "superlink"))
        else:
            found, offers = data_conversion.offered(found)
            yield _ended(studio.told(data_view.shown(found), of=config), offers=offers)


def _conversion(
    studio: Studio, values: tuple[Any, ...], fields: tuple[forms.FieldSpec, ...], *, by: Visitor
) -> Iterator[list[Any]]:
    """Yield the values of the parts, the folder and what is said of it, while a dataset is made and at the end."""
    from app import data_conversion  # late, as above: the first paint needs no reader

    steps = data_conversion.steps(studio, forms.from_values(list(values), fields), by=by)
    try:
        while True:
            step, box = studio.attempt(lambda: next(steps, None), box=refusals.box)
            if box:
                yield [*_ended(box, offers=True), gr.skip(), gr.skip()]
            elif isinstance(step, data_conversion.Converted):
                yield [*_ended(""), str(step.folder), studio.told(step.said)]
            elif step is not None:
                yield [*_busy(markup.busy(step), converts=True), gr.skip(), ""]
            if step is None:
                return
    finally:
        steps.close()


def _busy(said: str, *, converts: bool = False) -> list[Any]:
    return [gr.update(interactive=False), gr.update(visible=converts, interactive=False), gr.update(visible=True), said]


def _ended(said: str, *, offers: bool = False) -> list[Any]:
    """Return the values of the parts at the end; ``offers`` where the folder can be made a dataset."""
    return [gr.update(interactive=True), gr.update(visible=offers, interactive=True), gr.update(visible=False), said]


def _in_browser(values: Any) -> str:
    return f"() => {json.dumps(values)}"

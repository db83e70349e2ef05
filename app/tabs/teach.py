"""The fields that keep an answered image and its mask for training: asked first, then written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import answers, markup, teaching
from app import teach_text as words
from app.access import visitor_of
from app.picker import Picker
from app.studio import Studio
from export.levels import percent_of

ELEM_ID = "teach"
FOCUS = f"() => setTimeout(() => document.querySelector('#{ELEM_ID}-no')?.focus(), 60)"
FOCUS_BACK = f"() => setTimeout(() => document.querySelector('#{ELEM_ID}-ask')?.focus(), 60)"
HIDE = "() => [{__type__: 'update', visible: false}, '']"


@dataclass(frozen=True)
class Parts:
    """The components; ``question`` holds ``told`` and its two answers."""

    box: gr.Accordion
    dataset: gr.Dropdown
    name: gr.Textbox
    site: gr.Textbox
    patient: gr.Textbox
    ask: gr.Button
    question: gr.Column
    told: gr.HTML
    yes: gr.Button
    no: gr.Button
    note: gr.HTML


def place() -> Parts:
    """Place the fields, folded away."""
    with gr.Accordion(words.HEADING, open=False, elem_id=ELEM_ID) as box:
        gr.HTML(markup.quiet(words.LEAD))
        with gr.Row():
            dataset = Picker(
                [(words.NEW, "")], value="", label=words.DATASET, info=words.DATASET_INFO, elem_id=f"{ELEM_ID}-dataset"
            )
            name = gr.Textbox(
                label=words.NAME, info=words.NAME_INFO, max_length=teaching.MAX_NAME, elem_id=f"{ELEM_ID}-name"
            )
        with gr.Row():
            site = gr.Textbox(label=words.SITE, info=words.SITE_INFO, max_length=64, elem_id=f"{ELEM_ID}-site")
            patient = gr.Textbox(
                label=words.PATIENT, info=words.PATIENT_INFO, max_length=64, elem_id=f"{ELEM_ID}-patient"
            )
        with gr.Row(elem_classes="actions"):
            ask = gr.Button(words.ASK, elem_id=f"{ELEM_ID}-ask")
        with gr.Column(visible=False, elem_id=f"{ELEM_ID}-question", elem_classes="asking") as question:
            told = gr.HTML()
            with gr.Row(elem_classes="actions"):
                no = gr.Button(words.NO, elem_id=f"{ELEM_ID}-no")
                yes = gr.Button(words.YES, variant="primary", elem_id=f"{ELEM_ID}-yes")
        note = gr.HTML(elem_id=f"{ELEM_ID}-note")
    return Parts(box, dataset, name, site, patient, ask, question, told, yes, no, note)


def wire(studio: Studio, parts: Parts, *, threshold: gr.Slider, result: gr.State) -> None:
    """Ask for what is shown now and write it; a change of it, or of a field, takes the question away."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    fields = [parts.dataset, parts.name, parts.site, parts.patient]
    given, outputs = [result, threshold, *fields], [parts.question, parts.told, parts.note]
    handlers = Teaching(studio)
    # With the corrections, one at a time: what is asked and written is what those before it have left.
    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "correct", **quiet}
    parts.box.expand(handlers.offer, parts.dataset, parts.dataset, **quiet)
    parts.ask.click(handlers.ask, given, outputs, **one).then(js=FOCUS)
    parts.yes.click(handlers.keep, given, [*outputs, parts.dataset], **one)
    parts.no.click(None, None, [parts.question, parts.note], js=HIDE, **quiet).then(js=FOCUS_BACK)
    for changed in (*(field.input for field in fields), threshold.input, result.change):
        changed(None, None, [parts.question, parts.note], js=HIDE, **quiet)
    is_new = "(path) => ({__type__: 'update', visible: !path})"
    parts.dataset.change(None, parts.dataset, parts.name, js=is_new, **quiet)


@dataclass(frozen=True)
class Teaching:
    """The fields' events. ``shown`` is what the browser's session remembers of the answer."""

    studio: Studio

    def offer(self, chosen: str | None, request: gr.Request) -> gr.Dropdown:
        """Offer the datasets that are there now."""
        found, _ = self.studio.attempt(lambda: teaching.choices(self.studio, by=visitor_of(request)))
        offered = found or [(words.NEW, "")]
        return gr.Dropdown(choices=offered, value=chosen if chosen in {path for _, path in offered} else "")

    def ask(
        self,
        shown: answers.Shown | None,
        threshold: float,
        dataset: str | None,
        name: str,
        site: str,
        patient: str,
        request: gr.Request,
    ) -> tuple[Any, Any, Any]:
        """Say what would be written where."""
        wish, by = teaching.Wish.of(dataset, name, site, patient), visitor_of(request)
        told, box = self.studio.attempt(
            lambda: teaching.ask(self.studio, shown, wish, percent=percent_of(threshold), by=by)
        )
        return gr.update(visible=not box), self.studio.told(told or ""), box

    def keep(
        self,
        shown: answers.Shown | None,
        threshold: float,
        dataset: str | None,
        name: str,
        site: str,
        patient: str,
        request: gr.Request,
    ) -> tuple[Any, Any, Any, Any]:
        """Write it, and offer the dataset that it is in."""
        wish, by = teaching.Wish.of(dataset, name, site, patient), visitor_of(request)
        done, box = self.studio.attempt(
            lambda: teaching.keep(self.studio, shown, wish, percent=percent_of(threshold), by=by)
        )
        hidden = gr.update(visible=False)
        if done is None:
            return hidden, "", box, gr.skip()
        return hidden, "", markup.notice(done.said), self.offer(str(done.root), request)

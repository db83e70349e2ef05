"""The form of a new run on the Train tab: one control for every field of RunConfig, placed from its schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import forms, markup, text
from app.studio import Studio
from engine.config import preset_names
from engine.data.phantoms import TASKS

FRONT_KEYS = ("data.source", "data.task", "data.root", "data.held_out")
"""Fields that stand in the open, above the folded sections."""


@dataclass(frozen=True)
class RunForm:
    """The form's components; ``controls`` are in the order of ``fields``."""

    fields: tuple[forms.FieldSpec, ...]
    controls: list[Any]
    preset: gr.Dropdown
    preset_note: gr.HTML
    plan: gr.Button
    launch: gr.Button
    message: gr.HTML

    def control(self, key: str) -> Any:
        """Return the control of the field ``key``."""
        return self.controls[[field.key for field in self.fields].index(key)]


def build(studio: Studio) -> RunForm:
    """Place the form; call it inside its accordion."""
    fields = forms.form_fields()
    start = text.DEMO_NAME if text.DEMO_NAME in preset_names() else (preset_names() or [""])[0]
    values = dict(zip((f.key for f in fields), forms.preset_values(start, fields), strict=True)) if start else {}
    placed: dict[str, Any] = {}

    def place(field: forms.FieldSpec) -> None:
        placed[field.key] = control_of(field, values.get(field.key, field.default))

    with gr.Row(elem_classes="columns"):
        with gr.Column(min_width=300):
            gr.HTML(f"<h3>{text.STEP_PRESET}</h3>")
            preset = gr.Dropdown(
                preset_names(), value=start, label=text.PRESET_LABEL, info=text.PRESET_INFO, elem_id="preset"
            )
            note = gr.HTML(markup.quiet(forms.preset_note(start)) if start else "", elem_id="preset-note")
        with gr.Column(min_width=300):
            gr.HTML(f"<h3>{text.STEP_DATA}</h3>")
            for key in FRONT_KEYS:
                place(next(field for field in fields if field.key == key))
    gr.HTML(f"<h3>{text.STEP_SETTINGS}</h3>")
    for name, group in forms.sections(fields).items():
        with (
            gr.Accordion(text.SECTION_LABELS.get(name, name), open=False, elem_id=f"section-{name}"),
            gr.Row(elem_classes="fields"),
        ):
            for field in group:
                if field.key not in FRONT_KEYS:
                    place(field)
    gr.HTML(f"<h3>{text.STEP_START}</h3>")
    with gr.Row(elem_classes="actions"):
        plan = gr.Button(text.PLAN_BUTTON, elem_id="plan")
        launch = gr.Button(
            text.LAUNCH_BUTTON, variant="primary", visible=not studio.settings.read_only, elem_id="launch"
        )
    message = gr.HTML(markup.quiet(text.PLAN_EMPTY), elem_id="plan-result")
    form = RunForm(fields, [placed[field.key] for field in fields], preset, note, plan, launch, message)
    _wire(form)
    return form


def control_of(field: forms.FieldSpec, value: Any) -> Any:
    """Return the control of one field, labelled and explained from the schema."""
    common: dict[str, Any] = {
        "label": field.label,
        "info": f"{field.info} {text.OPTIONAL}." if field.optional else field.info or text.CHOICE_INFO.get(field.key),
        "elem_id": "field-" + field.key.replace(".", "-"),
        "interactive": True,
        "min_width": 240,
    }
    if field.key == "data.source":
        choices = [(text.SOURCE_CHOICES.get(choice, choice), choice) for choice in field.choices]
        return gr.Radio(choices, value=value, **common)
    if field.key == "data.task":
        tasks = [(f"{name} ({task.modality})", name) for name, task in TASKS.items()]
        return gr.Dropdown(tasks, value=value, **common)
    if field.key == "data.root":
        return gr.Textbox(value=value, visible=False, **common)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=value, **common)
    if field.kind == "switch":
        return gr.Checkbox(value=bool(value), **common)
    if field.kind in ("integer", "number") and not field.written:
        return gr.Number(value=value, precision=0 if field.kind == "integer" else None, step=_step(field), **common)
    return gr.Textbox(value="" if value is None else str(value), **common)


def _step(field: forms.FieldSpec) -> float:
    """Return what one press of an arrow adds: a tenth of the default's magnitude for fractions, else 1."""
    if field.kind == "integer":
        return 1
    if field.default and abs(field.default) < 0.01:
        return float(f"{field.default:.0e}")
    return 0.05 if field.maximum == 1 else 0.1


def _wire(form: RunForm) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def fill(name: str) -> tuple[Any, ...]:
        return (
            markup.quiet(forms.preset_note(name)),
            markup.quiet(text.PLAN_EMPTY),
            *forms.preset_values(name, form.fields),
        )

    def of_source(source: str) -> tuple[Any, Any]:
        return gr.update(visible=source == "phantom"), gr.update(visible=source == "folder")

    form.preset.input(fill, form.preset, [form.preset_note, form.message, *form.controls], **quiet)
    source = form.control("data.source")
    source.change(of_source, source, [form.control("data.task"), form.control("data.root")], **quiet)

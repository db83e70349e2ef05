"""The form of a new run on the Train tab: one control for every field of RunConfig, placed from its schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app import demo, forms, markup, text, viewmodels
from app.access import PROGRAM, visitor_of
from app.refusals import FRONT_KEYS
from app.studio import Studio
from app.tabs import data_step, fit_step
from engine.config import DEFAULT_METHOD, RunConfig, preset_names
from engine.config_generators import GENERATORS
from engine.config_keys import unread_sections
from engine.data.phantoms import TASKS
from engine.methods import catalogue

FILLED = "filled"
"""CSS class of the parts that a preset or a fork fills in."""
_SET_INERT = f"document.querySelectorAll('.{FILLED}').forEach((part) => {{{{ part.inert = {{}}; }}}})"
HOLD = f"() => {_SET_INERT.format('true')}"
FREE = f"() => requestAnimationFrame(() => requestAnimationFrame(() => {_SET_INERT.format('false')}))"
"""Between the two nobody can type: what they wrote would be overwritten when the values arrive. These are drawn within
two frames."""


@dataclass(frozen=True)
class RunForm:
    """The form's components; ``controls`` are in the order of ``fields``."""

    fields: tuple[forms.FieldSpec, ...]
    controls: list[Any]
    accordion: gr.Accordion
    preset: gr.Dropdown
    preset_note: gr.HTML
    plan: gr.Button
    launch: gr.Button
    message: gr.HTML
    origin: gr.State
    """The :class:`Origin` of a fork; None for a new run."""
    fork_note: gr.HTML
    new_instead: gr.Button
    preset_part: gr.Column
    data_part: gr.Column
    data_found: gr.HTML
    settings_heading: gr.HTML
    start_heading: gr.HTML
    sections: dict[str, gr.Accordion]
    hidden: frozenset[str]
    """The sections in which this page's visitors can change nothing."""

    def control(self, key: str) -> Any:
        """Return the control of the field ``key``."""
        return self.controls[[field.key for field in self.fields].index(key)]

    @property
    def purpose(self) -> list[Any]:
        """Return the components that tell a fork from a new run, in the order of :func:`purpose_values`."""
        return [
            self.accordion, self.origin, self.fork_note, self.new_instead, self.preset_part, self.data_part,
            self.settings_heading, self.start_heading, *self.sections.values(), self.data_found, self.message,
        ]  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """The run that a fork starts from, its first own stage, and the stages that it takes over."""

    run_id: str
    name: str
    stage: str
    taken_over: tuple[str, ...]
    excluded: tuple[str, ...] | None = None
    """The samples that the fork leaves out where they were chosen anew: of many, the form shows some."""

    def changed(self, config: RunConfig) -> RunConfig:
        """Return the configuration that the form was filled with: the run's, with what the fork leaves out."""
        if self.excluded is None:
            return config
        part = config.distillation.model_copy(update={"excluded_samples": self.excluded})
        return config.model_copy(update={"distillation": part})


def build(studio: Studio, accordion: gr.Accordion) -> RunForm:
    """Place the form; call it inside ``accordion``."""
    fields = forms.form_fields()
    offered = list(demo.PRESETS) if studio.mode == "demo" else preset_names()
    start = text.DEMO_NAME if text.DEMO_NAME in offered else (offered or [""])[0]
    values = dict(zip((f.key for f in fields), forms.preset_values(start, fields), strict=True)) if start else {}
    placed: dict[str, Any] = {}
    sites = studio.sites(*(values.get(f"data.{key}") for key in ("source", "task", "root")), by=PROGRAM)

    demonstrates = studio.mode == "demo"

    def place(field: forms.FieldSpec) -> None:
        if demonstrates and field.key in demo.LOWERED:
            field = replace(field, info=forms.rebounded(field, text.DEMO_LOWERED))
        placed[field.key] = control_of(field, values.get(field.key, field.default), sites=sites)
        if demonstrates and field.key not in demo.OFFERED:
            placed[field.key].visible = False

    fork_note = gr.HTML(visible=False, elem_id="fork-note")
    with gr.Row(elem_classes="actions"):
        new_instead = gr.Button(text.NEW_RUN_INSTEAD, size="sm", visible=False, elem_id="new-instead")
    with gr.Row(elem_classes="columns"):
        with gr.Column(min_width=300) as preset_part:
            gr.HTML(f"{markup.spoken(text.NEW_RUN)}<h3>{text.STEP_PRESET}</h3>")
            info = text.DEMO_PRESET_INFO if demonstrates else text.PRESET_INFO
            choices = forms.preset_choices(offered)
            preset = gr.Dropdown(choices, value=start, label=text.PRESET_LABEL, info=info, elem_id="preset")
            note = gr.HTML(_preset_note(start) if start else "", elem_id="preset-note")
        with gr.Column(min_width=300, elem_classes=FILLED) as data_part:
            gr.HTML(f"<h3>{text.STEP_DATA}</h3>")
            folders = _front(studio, fields, place)
            buttons = data_step.place_buttons()
            fitting = None if demonstrates else fit_step.place()
    looking, settings_heading = data_step.place_answer(buttons), gr.HTML(_heading(text.STEP_SETTINGS))
    if demonstrates:
        gr.HTML(markup.quiet(text.DEMO_SETTINGS))
    hidden = _without_choice(fields) if demonstrates else frozenset()
    unread = unread_sections(
        values.get("method", DEFAULT_METHOD), values.get("generator.kind", forms.DEFAULT_GENERATOR)
    )
    accordions = _sections(fields, place, hidden=hidden | unread)
    start_heading = gr.HTML(_heading(text.STEP_START))
    with gr.Row(elem_classes=["actions", FILLED]):
        plan = gr.Button(text.PLAN_BUTTON, elem_id="plan")
        launch = gr.Button(text.LAUNCH_BUTTON, variant="primary", visible=studio.mode != "read-only", elem_id="launch")
    message = gr.HTML(markup.quiet(text.PLAN_EMPTY), elem_id="plan-result", js_on_load=markup.script("refusals.js"))
    form = RunForm(
        fields, [placed[field.key] for field in fields], accordion, preset, note, plan, launch, message, gr.State(None),
        fork_note, new_instead, preset_part, data_part, looking.found, settings_heading, start_heading, accordions,
        hidden,
    )  # fmt: skip
    # First: what it cancels waits for what is before it.
    look, conversion = data_step.wire(studio, looking, fields, form.controls)
    _wire(studio, form)
    if fitting is not None:
        fit_step.wire(studio, fitting, fields, form.controls, preset=preset, look=look)
    if not demonstrates:
        named = {key: placed[f"data.{key}"] for key in ("source", "root", "held_out")}
        data_step.wire_folders(studio, folders, looking, conversion, **named)
    return form


def _front(
    studio: Studio, fields: tuple[forms.FieldSpec, ...], place: Callable[[forms.FieldSpec], None]
) -> data_step.Folders:
    """Place the fields that stand in the open; return what names a folder, which stands above the field of its path."""
    by_key = {field.key: field for field in fields}
    for key in FRONT_KEYS:
        if key == "data.root":
            folders = data_step.place_folders(studio)
        place(by_key[key])
    return folders


def _sections(
    fields: tuple[forms.FieldSpec, ...], place: Callable[[forms.FieldSpec], None], *, hidden: frozenset[str]
) -> dict[str, gr.Accordion]:
    """Place the folded sections with their fields; those that are ``hidden`` are there all the same."""
    found = {}
    for name, group in forms.sections(fields).items():
        label, shown = text.SECTION_LABELS.get(name, name), name not in hidden
        found[name] = gr.Accordion(label, open=False, visible=shown, elem_id=f"section-{name}", elem_classes=FILLED)
        with found[name], gr.Row(elem_classes="fields"):
            for field in group:
                if field.key not in FRONT_KEYS:
                    place(field)
    return found


def purpose_values(
    form: RunForm, origin: Origin | None, *, method: str, generator: str, is_open: bool = True
) -> list[Any]:
    """Return the values of ``form.purpose``.

    Sections that ``method`` and its kind of ``generator`` do not read, and those whose stages a fork takes over, are
    not shown.
    """
    taken_over = () if origin is None else origin.taken_over
    hidden = form.hidden | viewmodels.hidden_sections(method, generator, taken_over)
    return [
        gr.Accordion(label=text.NEW_RUN if origin is None else text.FORK_RUN, open=is_open),
        origin,
        gr.HTML("" if origin is None else markup.fork_note(origin.name, origin.run_id, origin.stage, taken_over),
                visible=origin is not None),
        gr.Button(visible=origin is not None),
        gr.Column(visible=origin is None),
        gr.Column(visible="data" not in hidden),
        _heading(text.STEP_SETTINGS if origin is None else text.FORK_SETTINGS),
        _heading(text.STEP_START if origin is None else text.FORK_START),
        *(gr.Accordion(visible=name not in hidden) for name in form.sections),
        "",
        markup.quiet(text.PLAN_EMPTY),
    ]  # fmt: skip


def _without_choice(fields: tuple[forms.FieldSpec, ...]) -> frozenset[str]:
    """Return the sections in which a demonstration offers nothing."""
    folded = [field for field in fields if field.key not in FRONT_KEYS]
    return frozenset(f.section for f in fields) - {f.section for f in folded if f.key in demo.OFFERED}


def _hideable_keys() -> list[str]:
    """Return the keys that some method fixes or some kind of generator does not read."""
    fixed = {key for name in catalogue.methods() for key in viewmodels.fixed_keys(name)}
    return sorted(fixed | {key for kind in GENERATORS for key in viewmodels.unread_keys(kind)})


def _heading(words: str) -> str:
    return f"<h3>{words}</h3>"


def control_of(field: forms.FieldSpec, value: Any, *, sites: tuple[str, ...] = ()) -> Any:
    """Return the control of one field, labelled and explained from the schema; ``sites`` can be held out."""
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
    if field.key == "data.held_out":
        common["info"] = text.HELD_OUT_INFO
        return gr.Dropdown(viewmodels.held_out_choices(sites), value=value or "", allow_custom_value=True, **common)
    if field.key == "method":
        return gr.Dropdown(viewmodels.method_choices(field.choices), value=value, **common)
    if field.key == "generator.kind":
        kinds = [(f"{GENERATORS[kind].title} ({kind})", kind) for kind in field.choices]
        return gr.Dropdown(kinds, value=value, **common)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=value, **common)
    if field.kind == "switch":
        return gr.Checkbox(value=bool(value), **common)
    if field.kind in ("integer", "number") and not field.written:
        return gr.Number(value=value, step=_step(field), **common)  # unrounded: the schema refuses 2.5 rounds
    return gr.Textbox(value="" if value is None else str(value), **common)


def _step(field: forms.FieldSpec) -> float:
    """Return what one press of an arrow adds: a tenth of the default's magnitude for fractions, else 1."""
    if field.kind == "integer":
        return 1
    if field.default and abs(field.default) < 0.01:
        return float(f"{field.default:.0e}")
    return 0.05 if field.maximum == 1 else 0.1


def _preset_note(name: str) -> str:
    """Return what a preset is for, and what it needs that is not here."""
    from engine.planning.readiness import preset_lacks

    lacks = preset_lacks(name)
    told = markup.quiet(forms.preset_note(name))
    return told + (markup.notice(text.PRESET_LACKS.format(lacks=" ".join(lacks))) if lacks else "")


def _wire(studio: Studio, form: RunForm) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def fill(name: str | None) -> tuple[Any, ...]:
        if not name:  # a program can choose none
            return (gr.skip(),) * (2 + len(form.controls))
        return _preset_note(name), markup.quiet(text.PLAN_EMPTY), *forms.preset_values(name, form.fields)

    def anew() -> tuple[Any, ...]:
        start = text.DEMO_NAME
        filled = forms.preset_values(start, form.fields)
        of_start = {
            "method": forms.method_of(filled, form.fields),
            "generator": forms.generator_of(filled, form.fields),
        }
        return *purpose_values(form, None, **of_start), start, _preset_note(start), *filled

    def sites(request: gr.Request, *where: str | None) -> tuple[str, ...]:
        return studio.sites(*where, by=visitor_of(request))

    def offer(request: gr.Request, source: str, task: str | None, root: str | None) -> gr.Dropdown:
        return gr.Dropdown(choices=viewmodels.held_out_choices(sites(request, source, task, root)))

    def keep(request: gr.Request, source: str, task: str | None, root: str | None, held_out: str | None) -> gr.Dropdown:
        return gr.Dropdown(value=viewmodels.kept_site(held_out, sites(request, source, task, root)))

    # A demonstration offers one method, and hides fields by rules of its own.
    hideable = [] if studio.mode == "demo" else _hideable_keys()

    def of_method(method: str, generator: str, origin: Origin | None) -> list[Any]:
        taken_over = () if origin is None else origin.taken_over
        hidden = form.hidden | viewmodels.hidden_sections(method, generator, taken_over)
        parts = [gr.Accordion(visible=name not in hidden) for name in form.sections]
        without = viewmodels.fixed_keys(method) | viewmodels.unread_keys(generator)
        return [*parts, *(gr.update(visible=key not in without) for key in hideable)]

    def of_source(source: str) -> tuple[Any, Any]:
        return gr.update(visible=source == "phantom"), gr.update(visible=source == "folder")

    whole = [*form.purpose, form.preset, form.preset_note, *form.controls]
    form.new_instead.click(js=HOLD).then(anew, None, whole, **quiet).then(js=FREE)
    whole = [form.preset_note, form.message, *form.controls]
    # Not ``input``, which a dropdown sends twice for a choice.
    form.preset.select(js=HOLD).then(fill, form.preset, whole, **quiet).then(js=FREE)
    chosen = [form.control("method"), form.control("generator.kind"), form.origin]
    follow = [*form.sections.values(), *(form.control(key) for key in hideable)]
    for control in chosen[:2]:
        control.change(of_method, chosen, follow, trigger_mode="always_last", **quiet)
    source = form.control("data.source")
    place = [form.control(f"data.{key}") for key in ("source", "task", "root", "held_out")]
    for control in place[:3]:
        control.change(offer, place[:3], place[3], trigger_mode="always_last", **quiet)
        # Only where a person has changed it: while a preset or a fork fills the form, the site that comes here may
        # still be that of the data set before.
        control.input(keep, place, place[3], trigger_mode="always_last", **quiet)
    if studio.mode != "demo":
        source.change(of_source, source, [form.control("data.task"), form.control("data.root")], **quiet)

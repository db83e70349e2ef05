"""The Train tab: start a run, watch it live, stop it, go on with it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import gradio as gr

from app import (
    federation_sites,
    forms,
    generator_checks,
    join_table,
    kept_epoch,
    labels_view,
    learnability_text,
    learnability_view,
    markup,
    plots,
    refusals,
    site_table,
    text,
    viewmodels,
)
from app.access import Visitor, visitor_of
from app.picker import Picker
from app.studio import Studio
from app.tabs import asking, go_on, run_form, run_labels, take_away, take_in
from engine.evaluation.tables import named
from engine.report.badges import Badges, badges, exported_model
from engine.runs.alerts import alerts
from engine.runs.command import run_command
from engine.runs.gates import GateRecord, read_gate
from engine.runs.generator_checks import read_checks
from engine.runs.join_results import join_results
from engine.runs.records import MetricSeries, RunRecord, RunView, TrafficTotal
from engine.runs.score_spread import read_spread, stamp
from engine.runs.sites import site_views
from engine.runs.waiting import waiting
from engine.types import EvaluationRow, ModelDifference

LOG_LINES = 200
SCROLL_TO_ANSWER = """() => {
  const refusal = document.querySelector('#plan-result [role=alert]');
  if (refusal?.querySelector('[data-field]')) return;  // its field is scrolled to
  const shown = refusal ?? document.getElementById('live');
  shown?.scrollIntoView({behavior: 'smooth', block: refusal ? 'center' : 'start'});
}"""


@dataclass(frozen=True)
class Parts:
    """The components of the live view, in the order in which :func:`live_values` fills them."""

    message: gr.HTML
    warnings: gr.HTML
    status: gr.HTML
    cancel: gr.Button
    resume: gr.Button
    drop: gr.Button
    go_on: go_on.Parts
    stepper: gr.HTML
    curves: gr.Dropdown
    loss: gr.Plot
    dice: gr.Plot
    learnability: gr.Plot
    traffic_note: gr.HTML
    traffic: gr.Plot
    sites: gr.HTML
    results: gr.HTML
    results_plot: gr.Plot
    log: gr.HTML
    command: gr.HTML
    live: gr.Column
    cancel_asked: asking.Question
    drop_asked: asking.Question
    labels: run_labels.Parts
    taking: take_away.Parts

    def listed(self) -> list[Any]:
        """Return the components in order; the questions and what follows by itself left out."""
        own = list(self.__dict__.values())[:-4]
        at = own.index(self.go_on)
        return [*own[:at], *self.go_on.listed(), *own[at + 1 :]]


AT_REST, ACTIVE = "at rest", "active"
"""Of what a browser has seen: what was shown of a run that is not at work, which only a write changes; and whether the
run is at work."""
NUM_LIVE = len(fields(Parts)) - 4 + go_on.NUM_LIVE - 1
"""How many components :meth:`Parts.listed` names."""


def build(studio: Studio, run: gr.Dropdown) -> run_form.RunForm:
    """Place the tab's components and wire them to the run picker; return the form of a new run."""
    accordion = gr.Accordion(text.NEW_RUN, open=False, elem_id="new-run", visible=studio.mode != "read-only")
    with accordion:
        form = run_form.build(studio, accordion)
        federation_sites.add(studio, backend=form.control("backend"), server=form.control("server"))
    take_in.build(studio, run)
    parts = _place_live()
    _wire_form(studio, form, run)
    _wire_live(studio, run, parts, gr.State({}))
    parts.go_on.wire_fork(studio, run, form, parts.message)
    parts.go_on.joining.wire(studio, run)
    parts.taking.wire(studio, run)
    parts.labels.wire(studio, run)
    return form


def asked_anew(box: str) -> str:
    """Return a refusal that differs from the same one of before: a browser draws only what has changed."""
    return f"{box}<!-- {time.time_ns()} -->"


def _place_live() -> Parts:
    message = gr.HTML(elem_id="train-message")
    warnings = gr.HTML(elem_id="store-warnings")
    with gr.Column(visible=False, elem_id="live") as live:
        status = gr.HTML(elem_id="status", js_on_load=markup.script("ending.js"))
        with gr.Row(elem_classes="actions"):
            cancel = gr.Button(text.CANCEL_BUTTON, variant="stop", visible=False, elem_id="cancel")
            resume = gr.Button(text.RESUME_BUTTON, variant="primary", visible=False, elem_id="resume")
            drop = gr.Button(text.DROP_BUTTON, visible=False, elem_id="drop")
        cancel_asked = asking.place("cancel", question=text.ASK_CANCEL, yes=text.ASK_CANCEL_YES, no=text.ASK_CANCEL_NO)
        labels = run_labels.place()
        drop_asked = asking.place("drop", question=text.ASK_DROP, yes=text.ASK_DROP_YES, no=text.ASK_DROP_NO)
        further = go_on.place()
        taking = take_away.place()
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=2, min_width=280):
                stepper = gr.HTML(elem_id="stepper")
            with gr.Column(scale=5, min_width=300):
                curves = Picker(
                    [(text.CURVES_FOLLOW, viewmodels.FOLLOW)], value=viewmodels.FOLLOW, label=text.CURVES_LABEL,
                    info=text.CURVES_INFO, elem_id="curves",
                )  # fmt: skip
                with gr.Row(elem_classes="columns"):
                    loss = gr.Plot(label=text.LOSS_PLOT, show_label=False, min_width=280, elem_id="loss")
                    dice = gr.Plot(label=text.DICE_PLOT, show_label=False, min_width=280, elem_id="dice")
                learnability = gr.Plot(
                    label=learnability_text.PLOT, show_label=False, visible=False, elem_id="learnability"
                )
                traffic = gr.Plot(label=text.TRAFFIC_PLOT, show_label=False, elem_id="traffic")
                traffic_note = gr.HTML(elem_id="traffic-note")
        sites = gr.HTML(elem_id="sites")
        results = gr.HTML(elem_id="results")
        results_plot = gr.Plot(label=text.RESULTS_PLOT, show_label=False, visible=False, elem_id="results-plot")
        gr.HTML(f"<h3>{text.LOG_HEADING}</h3>")
        gr.HTML(markup.log_search(), elem_id="log-search")
        log = gr.HTML(elem_id="log", max_height=280, js_on_load=markup.script("log_search.js"))
        command = gr.HTML(elem_id="command")
    return Parts(
        message, warnings, status, cancel, resume, drop, further, stepper, curves, loss, dice, learnability,
        traffic_note, traffic, sites, results, results_plot, log, command, live, cancel_asked, drop_asked, labels,
        taking,
    )  # fmt: skip


def _wire_form(studio: Studio, form: run_form.RunForm, run: gr.Dropdown) -> None:
    def written(origin: run_form.Origin | None, values: tuple[Any, ...]) -> dict[str, Any]:
        if origin is None:
            return forms.from_values(list(values), form.fields)
        filled = origin.changed(studio.store.get(origin.run_id).config)
        return forms.edited(filled, list(values), form.fields)

    def plan(request: gr.Request, origin: run_form.Origin | None, *values: Any) -> str:
        fork = None if origin is None else (origin.run_id, origin.stage)
        found, box = studio.attempt(
            lambda: studio.plan(written(origin, values), by=visitor_of(request), fork=fork), box=refusals.box
        )
        return asked_anew(box) if found is None else markup.plan(refusals.planned(found))

    def start(by: Visitor, origin: run_form.Origin | None, values: tuple[Any, ...]) -> str:
        if origin is None:
            return studio.launch(written(origin, values), by=by)
        return studio.fork(origin.run_id, stage=origin.stage, values=written(origin, values), by=by)

    def launch(request: gr.Request, origin: run_form.Origin | None, *values: Any) -> list[Any]:
        run_id, box = studio.attempt(lambda: start(visitor_of(request), origin, values), box=refusals.box)
        if run_id is None:
            return [gr.skip(), *[gr.skip()] * (len(form.purpose) - 1), asked_anew(box)]
        choices = viewmodels.run_choices(studio.runs())
        method, generator = (of(list(values), form.fields) for of in (forms.method_of, forms.generator_of))
        new_run = run_form.purpose_values(form, None, method=method, generator=generator, is_open=False)[:-1]
        return [gr.Dropdown(choices=choices, value=run_id), *new_run, markup.notice(text.LAUNCHED)]

    written_in = [form.origin, *form.controls]
    form.plan.click(plan, written_in, form.message, api_visibility="private", show_progress_on=form.message)
    form.launch.click(launch, written_in, [run, *form.purpose], api_visibility="private", trigger_mode="once").then(
        js=SCROLL_TO_ANSWER
    )


def _wire_live(studio: Studio, run: gr.Dropdown, parts: Parts, seen: gr.State) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    timer = gr.Timer(studio.settings.refresh_s)
    outputs = [*parts.listed(), timer, run, seen]

    def refresh(request: gr.Request, run_id: str | None, chosen: str | None, before: dict[str, int]) -> list[Any]:
        by = visitor_of(request)
        count, _ = studio.attempt(studio.store.changes)
        shown = viewmodels.signature((run_id, chosen, by, count))
        if run_id is None or (count is not None and before.get(AT_REST) == shown):
            return [gr.skip()] * len(outputs)
        after = dict(before)
        values, box = studio.attempt(lambda: live_values(studio, run_id, chosen, after, by=by))
        if values is None:
            is_there = studio.attempt(lambda: studio.store.get(run_id))[0] is not None
            live = gr.skip() if is_there else gr.Column(visible=False)
            picker = gr.skip() if is_there else without_it(studio, run_id)
            return [box, *[gr.skip()] * (NUM_LIVE - 2), live, gr.skip(), picker, {}]
        active = after.pop(ACTIVE, False)
        after[AT_REST] = 0 if active else shown
        pace = studio.settings.refresh_s if active else studio.settings.idle_refresh_s
        values.append(gr.Timer(pace) if changed(after, "pace", pace) else gr.skip())
        runs = studio.runs(run_id)
        choices = viewmodels.run_choices(runs)
        picker = gr.skip()
        if changed(after, "runs", choices):
            # A page that showed an empty store goes to the first run, wherever it was launched.
            first = {"value": viewmodels.first_run(runs)} if run_id == viewmodels.NO_RUN else {}
            picker = gr.Dropdown(choices=choices, **first)
        return [*values, picker, after]

    def act(action: Callable[..., None]) -> Any:
        def handler(
            request: gr.Request, run_id: str | None, chosen: str | None, before: dict[str, int], *values: Any
        ) -> list[Any]:
            _, box = studio.attempt(lambda: action(run_id or "", *values, by=visitor_of(request)))
            return [box, *refresh(request, run_id, chosen, before)[1:]]

        return handler

    inputs = [run, parts.curves, seen]
    for event in (timer.tick, run.change, parts.curves.input):
        event(refresh, inputs, outputs, **quiet)
    parts.cancel_asked.wire(parts.cancel, run)
    parts.drop_asked.wire(parts.drop, run)
    parts.go_on.deleting.wire(studio, run, parts.message)
    parts.go_on.extend_asked.wire(parts.go_on.extend, run)
    parts.cancel_asked.yes.click(act(studio.cancel), inputs, outputs, **quiet)
    parts.drop_asked.yes.click(act(studio.drop_extension), inputs, outputs, **quiet)
    parts.resume.click(act(studio.resume), inputs, outputs, **quiet)
    parts.go_on.extend_asked.yes.click(act(studio.extend), [*inputs, parts.go_on.rounds], outputs, **quiet)


def without_it(studio: Studio, run_id: str) -> Any:
    """Return the list of runs with none chosen where ``run_id`` has been deleted, by whomever; else no change."""
    runs, _ = studio.attempt(studio.runs)
    if runs is None or run_id in {run.run_id for run in runs}:
        return gr.skip()
    return gr.Dropdown(choices=viewmodels.run_choices(runs), value=None if runs else viewmodels.NO_RUN)


def changed(seen: dict[str, int], part: str, value: Any) -> bool:
    """Return whether ``part`` shows something else than ``value``, and note that it is going to show it."""
    now = viewmodels.signature(value)
    if seen.get(part) == now:
        return False
    seen[part] = now
    return True


def live_values(
    studio: Studio, run_id: str | None, chosen: str | None, seen: dict[str, int], *, by: Visitor
) -> list[Any]:
    """Return a value for every component of :class:`Parts`; ``gr.skip()`` for what a browser shows already."""

    def part(name: str, value: Any, show: Callable[[], Any]) -> Any:
        return show() if changed(seen, name, (run_id, value)) else gr.skip()

    # Of the server's disk: whoever runs the page can mend it.
    warnings = studio.told(markup.notices(studio.store.warnings)) if by.role == "operator" else ""
    warned = part("warnings", warnings, lambda: warnings)
    if not run_id:
        step = text.NO_RUN_READ_ONLY if by.role == "viewer" else text.NO_RUN_STEP
        nothing = part("message", "none", lambda: markup.empty(text.NO_RUN_TITLE, step))
        return [nothing, warned, *[gr.skip()] * (NUM_LIVE - 3), part("live", False, lambda: gr.Column(visible=False))]
    store = studio.store
    view = store.view(run_id)
    told = partial(studio.told, of=view.run.config)
    seen[ACTIVE] = view.run.active
    series, traffic, lines = store.metrics(run_id), store.traffic(run_id), store.events(run_id, limit=LOG_LINES)
    rows, differences, beside = results(studio, view)
    checks, gate = read_checks(store.run_dir(run_id)), read_gate(store.run_dir(run_id))
    sites = site_views(store, store.work_id(run_id), active=view.run.active)
    allowed = studio.permissions.may_change(by, run_id)
    may = viewmodels.actions(view.run, allowed=allowed, extended=view.extension is not None)
    watched = alerts(view, series, sites, free_bytes=shutil.disk_usage(store.home).free, now=time.time())
    status = told(markup.status(view, watched, place=waiting(store, run_id)) + labels_view.shown(view.run.labels))
    stepper = told(markup.stepper(view.stages))
    choices = viewmodels.curve_choices(series, view.stages)
    # A stage that was chosen for the run before may have no curve here.
    followed = {} if chosen in {stage for _, stage in choices} else {"value": viewmodels.FOLLOW}
    chosen = followed.get("value", chosen)
    loss, dice = (pick(series, chosen, view) for pick in (viewmodels.loss_curves, viewmodels.dice_curves))
    return [
        part("message", "", lambda: ""),
        warned,
        part("status", status, lambda: status),
        part("cancel", may.cancel, lambda: gr.Button(visible=may.cancel)),
        part("resume", may.resume, lambda: gr.Button(visible=may.resume)),
        part("drop", may.drop, lambda: gr.Button(visible=may.drop)),
        *go_on.live_values(view, part, is_shown=may.go_on, by=by, permissions=studio.permissions),
        part("stepper", stepper, lambda: stepper),
        part("curves", choices, lambda: gr.Dropdown(choices=choices, **followed)),
        part("loss", loss, lambda: loss_plot(loss)),
        part("dice", (dice, gate), lambda: dice_plot(dice, gate=gate, of=view.run)),
        part("learnability", stamp(store, run_id), lambda: learnability_plot(studio, run_id)),
        part("traffic_note", (traffic, checks), lambda: crossed(traffic, checks)),
        part("traffic", traffic, lambda: plots.traffic(traffic)),
        part("sites", (sites, view.run.status), lambda: told(site_table.table(sites, of=view.run.status))),
        part(
            "results",
            (rows, differences, beside, gate, view.run.status),
            lambda: kept_epoch.said(gate) + brought(studio, run_id, rows, differences, beside),
        ),
        part("results_plot", rows, lambda: gr.Plot(value=plots.results(rows), visible=bool(rows))),
        part("log", lines, lambda: told(markup.log(lines, cut=len(lines) == LOG_LINES))),
        part("command", view.run.config_json, lambda: told(markup.command(run_command(view.run.config)))),
        part("live", True, lambda: gr.Column(visible=True)),
    ]


def loss_plot(loss: Sequence[MetricSeries]) -> Any:
    """Return the curves of what training lowers."""
    title = viewmodels.curves_title(text.LOSS_PLOT, loss)
    return plots.curves(loss, title=title, empty=text.CURVES_EMPTY)


def dice_plot(dice: Sequence[MetricSeries], *, gate: GateRecord | None, of: RunRecord) -> Any:
    """Return the Dice curves; of a judged distillation with the line of before and the best epoch."""
    title = viewmodels.curves_title(text.DICE_PLOT, dice)
    figure = plots.curves(dice, title=title, empty=text.DICE_EMPTY, unit_range=True)
    is_watched = of.config.distillation.gate == "watch"
    return kept_epoch.marked(figure, dice, is_over=gate is not None, is_watched=is_watched)


def learnability_plot(studio: Studio, run_id: str) -> Any:
    """Return how the samples' scores lie in each epoch; hidden where none is scored."""
    spread = read_spread(studio.store, run_id)
    return gr.Plot(value=learnability_view.figure(spread), visible=spread is not None)


def results(studio: Studio, view: RunView) -> tuple[list[EvaluationRow], list[ModelDifference], Badges]:
    """Return what the run has measured, under its own names of models, and the badges of these."""
    run, store = view.run, studio.store
    rows, differences = store.evaluation(run.run_id), store.differences(run.run_id)
    stages = [stage.name for stage in view.stages]
    beside = badges(rows, differences, config=run.config, stages=stages, exported=exported_model(store, run.run_id))
    return named(rows, run.config), named(differences, run.config), beside


def brought(
    studio: Studio,
    run_id: str,
    rows: Sequence[EvaluationRow],
    differences: Sequence[ModelDifference],
    beside: Badges,
) -> str:
    """Return the results table, and what a join has brought and taken where the run is one."""
    found, box = studio.attempt(lambda: join_results(studio.store, run_id))
    return markup.results_table(rows, differences, beside) + (box or studio.told(join_table.results(found)))


def crossed(traffic: Sequence[TrafficTotal], checks: generator_checks.Checks) -> str:
    """Return what has crossed the sites' borders, in bytes, and what sites have measured before."""
    return markup.quiet(viewmodels.traffic_summary(traffic)) + generator_checks.table(checks)

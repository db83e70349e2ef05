"""The page: ``python -m app.main`` or ``python app/main.py``. It shows and starts runs, and never imports torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, get_args

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before gradio is imported: nothing on this page asks another machine for anything.
os.environ.update({"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"})

from app import stubs

with stubs.unwritten():
    import gradio as gr

from app import address, api, compare_text, markup, run_text, server, shipped_runs, table_text, text, viewmodels
from app.access import decide, visitor_of
from app.ending import ends_on_sigterm
from app.page import Page
from app.pending import MAX_ALL
from app.picker import Picker
from app.settings import Access, load_settings
from app.studio import NEWEST_RUNS, Studio
from app.tabs import compare, samples, segment, tables, train, welcome
from engine.errors import UserError

KEEP = "(value) => value"
TYPED = (gr.Textbox, gr.Number, gr.Radio, gr.Checkbox, gr.Slider)
"""Not dropdowns: while they tell of a choice, their value may still be that of before."""


def keep_what_is_typed(page: gr.Blocks) -> None:
    """Let every control hand its new value on to the page's own record of it, in the browser; call it inside ``page``.

    A section or a tab that is opened for the first time gets the recorded values of its controls once more, a frame
    after it is drawn: what somebody had typed by then was shown, but the value of before was sent.
    """
    for block in list(page.blocks.values()):
        if isinstance(block, TYPED):
            block.input(None, block, block, js=KEEP, queue=False, api_visibility="private", show_progress="hidden")


def say_quiet_answers_once(page: gr.Blocks, place: gr.HTML) -> None:
    """Let answers that show no progress tell theirs to ``place`` alone; call it when all events are there.

    Gradio tells each message about an answer to every component that any answer so far has had, and copies these
    components' values meanwhile: a third of a second in the browser for each event, also of those that only look
    whether something is new.
    """
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [place]


def build_app(studio: Studio) -> gr.Blocks:
    """Return the page over ``studio``; a run's id in the address (``/?run=ID``) decides which run it shows first."""
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    with Page(title=text.TITLE, analytics_enabled=False, delete_cache=(600, 7200)) as page:
        api.build(studio, page)  # first: Gradio gives a name that is taken already a number
        with gr.Row(elem_id="top"):
            header = gr.HTML(markup.header(), js_on_load=markup.script("keyboard.js"))
            who = gr.HTML(visible=studio.mode == "sign-in", elem_id="who")
            run = Picker([], label=text.RUN_LABEL, info=text.RUN_INFO, elem_id="run")
        standing_note = _standing_note(studio)
        note = gr.HTML(standing_note, elem_id="page-note")
        begin = welcome.place(studio)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab(text.TAB_TRAIN, id="train") as train_tab:
                form = train.build(studio, run)
            with gr.Tab(text.TAB_SAMPLES, id="samples") as samples_tab:
                samples.build(studio, run, page, tabs=tabs, form=form)
            with gr.Tab(text.TAB_SEGMENT, id="segment") as segment_tab:
                segment.build(studio, page)
            with gr.Tab(table_text.TAB_TABLES, id="tables") as tables_tab:
                tables.build(studio, tables_tab)
            with gr.Tab(compare_text.TAB_COMPARE, id="compare") as compare_tab:
                compare.build(studio, compare_tab)

        def has_none_of_its_own() -> bool:
            return {record.run_id for record in studio.store.list()} <= shipped_runs.ids(studio.store.home)

        def arrive(request: gr.Request) -> tuple:
            """Choose the run of the address, else the newest; open the form where there is none."""
            wanted = dict(request.query_params).get("run")
            runs = studio.runs(wanted)
            known = {record.run_id for record in runs}
            chosen = wanted if wanted in known else viewmodels.first_run(runs)
            cut = run_text.RUNS_CUT.format(shown=NEWEST_RUNS) if len(runs) >= NEWEST_RUNS else text.RUN_INFO
            picker = gr.Dropdown(choices=viewmodels.run_choices(runs), value=chosen, info=cut)
            box = gr.skip() if wanted in {None, *known} else markup.unknown_run(wanted)
            # Nothing where there are runs: somebody quick may have opened the form already.
            by = visitor_of(request)
            opened = gr.skip() if runs and by.role != "viewer" else gr.Accordion(open=True, visible=by.role != "viewer")
            signed = markup.signed_in(by.name, by.role) if studio.mode == "sign-in" else gr.skip()
            return picker, opened, box, signed, gr.Column(visible=has_none_of_its_own())

        keep_what_is_typed(page)
        page.load(None, None, tabs, js=address.CHOOSE_TAB, **quiet)
        page.load(arrive, None, [run, form.accordion, note, who, begin.block], **quiet)
        run.change(None, run, None, js=address.SET_RUN, **quiet)
        begin.wire(form.accordion)
        run.change(lambda: gr.Column(visible=has_none_of_its_own()), None, begin.block, **quiet)
        placed = (train_tab, samples_tab, segment_tab, tables_tab, compare_tab)
        for name, tab in zip(address.TABS, placed, strict=True):
            tab.select(js=address.set_tab(name), **quiet)
        run.select(lambda: standing_note, None, note, **quiet)
        say_quiet_answers_once(page, header)
    return page.queue(default_concurrency_limit=4, max_size=MAX_ALL)


def _standing_note(studio: Studio) -> str:
    """Return what a visitor of a page for everybody should know first."""
    if studio.mode == "read-only":
        return markup.notice(text.READ_ONLY_NOTE)
    if studio.mode == "demo":
        return markup.notice(text.DEMO_NOTE.format(hours=f"{studio.settings.demo_hours:g}"))
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve; return 2 with a plain sentence where the page cannot start."""
    parser = argparse.ArgumentParser(prog="python -m app.main", description=text.LEAD, epilog=text.ACCESS_HELP)
    parser.add_argument("--port", type=int, help="port to listen on (default 7860)")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--home", type=Path, help="folder of the runs (default DSFEDMED_HOME or ./studio_home)")
    parser.add_argument("--read-only", action="store_true", default=None, help="nobody can start or stop runs")
    parser.add_argument("--access", choices=get_args(Access), help="who may do what (default: see below)")
    parser.add_argument(
        "--users", type=Path, dest="users_file", help="users file: people sign in (python -m app.users)"
    )
    parser.add_argument(
        "--allowed-host", action="append", dest="allowed_hosts", help="a name that the page goes by (repeatable)"
    )
    parser.add_argument(
        "--allow-root", action="append", type=Path, dest="allowed_roots",
        help="a folder below which runs may name files on a page that others can reach (repeatable)",
    )  # fmt: skip
    parser.add_argument("--demo", action="store_true", help="start the demo run if the home has none yet")
    options = vars(parser.parse_args(arguments))
    demo = options.pop("demo")
    if options["users_file"] and not options["access"]:
        options["access"] = "sign-in"  # whatever the environment says
    os.umask(0o077)  # whatever is written from here on is for the one who serves the page
    try:
        with ends_on_sigterm():
            serve(options, demo=demo)
    except UserError as error:
        print(f"{error.what} {error.why} {error.fix}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def serve(options: dict[str, Any], *, demo: bool) -> None:
    """Serve the page with these settings until it is stopped."""
    settings = load_settings(**options)
    decide(settings)  # before anything is opened
    listening = server.listen(settings)
    studio = Studio(settings)
    for warning in studio.store.warnings:
        print(warning, file=sys.stderr)
    os.environ["DSFEDMED_HOME"] = str(studio.store.home)  # where fetched weights are looked for
    os.environ["GRADIO_TEMP_DIR"] = str(studio.scratch.path)
    _, box = studio.attempt(lambda: shipped_runs.take_in(studio.store, settings.runs_dir))
    if box:
        print(text.SHIPPED_NOT_TAKEN.format(folder=settings.runs_dir), file=sys.stderr)
    server.run(build_app(studio), studio, listening, demo=demo)


if __name__ == "__main__":
    sys.exit(main())

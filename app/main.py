"""The page: ``python -m app.main`` or ``python app/main.py``. It shows and starts runs, and never imports torch."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before gradio is imported: nothing on this page asks another machine for anything.
os.environ.update({"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"})

import gradio as gr

from app import markup, text, theme, viewmodels
from app.settings import Settings, load_settings
from app.studio import Studio
from app.tabs import samples, segment, train
from engine.errors import UserError

SET_ADDRESS = """(run) => {
  const address = new URL(window.location);
  if (run) address.searchParams.set('run', run); else address.searchParams.delete('run');
  window.history.replaceState(null, '', address);
}"""


def build_app(studio: Studio) -> gr.Blocks:
    """Return the page over ``studio``; a run's id in the address (``/?run=ID``) decides which run it shows first."""
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title=text.TITLE, analytics_enabled=False, delete_cache=(3600, 7200)) as page:
        with gr.Row(elem_id="top"):
            gr.HTML(markup.header())
            run = gr.Dropdown([], label=text.RUN_LABEL, info=text.RUN_INFO, filterable=False, elem_id="run")
        note = gr.HTML(markup.notice(text.READ_ONLY_NOTE) if studio.settings.read_only else "", elem_id="page-note")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(text.TAB_TRAIN, id="train"):
                new_run = train.build(studio, run)
            with gr.Tab(text.TAB_SAMPLES, id="samples"):
                samples.build(studio, run, page)
            with gr.Tab(text.TAB_SEGMENT, id="segment"):
                segment.build(studio, page)

        def arrive(request: gr.Request) -> tuple:
            """Choose the run of the address, else the newest; open the form where there is none."""
            runs = studio.runs()
            wanted = dict(request.query_params).get("run")
            known = {record.run_id for record in runs}
            chosen = wanted if wanted in known else viewmodels.first_run(runs)
            picker = gr.Dropdown(choices=viewmodels.run_choices(runs), value=chosen)
            box = gr.skip() if wanted in {None, *known} else markup.unknown_run(wanted)
            return picker, gr.Accordion(open=not runs), box

        page.load(arrive, None, [run, new_run, note], **quiet)
        run.change(None, run, None, js=SET_ADDRESS, **quiet)
    return page.queue(default_concurrency_limit=4)


def refuse_busy_port(settings: Settings) -> None:
    """Raise ``UserError`` ``app.port_in_use`` where another program listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            what = text.PORT_WHAT.format(port=settings.port, host=settings.host)
            raise UserError("app.port_in_use", what=what, why=text.PORT_WHY, fix=text.PORT_FIX) from error


def serve(settings: Settings, *, demo: bool) -> None:
    """Serve the page until the process is told to stop; with ``demo`` start the demo run once the page is up."""
    refuse_busy_port(settings)
    studio = Studio(settings)
    build_app(studio).launch(
        server_name=settings.host,
        server_port=settings.port,
        theme=theme.studio_theme(),
        css_paths=theme.STYLE_FILE,
        max_file_size=f"{settings.max_upload_mb}mb",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(text.SERVING.format(host=settings.host, port=settings.port, home=studio.store.home), flush=True)
    if demo and not settings.read_only:
        print(studio.start_demo(), flush=True)
    studio.keep_queue_moving(threading.Event())


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve; return 2 with a plain sentence where the page cannot start."""
    parser = argparse.ArgumentParser(prog="python -m app.main", description=text.LEAD)
    parser.add_argument("--port", type=int, help="port to listen on (default 7860)")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--home", type=Path, help="folder of the runs (default DSFEDMED_HOME or ./studio_home)")
    parser.add_argument("--read-only", action="store_true", default=None, help="nobody can start or stop runs")
    parser.add_argument("--demo", action="store_true", help="start the demo run if the home has none yet")
    options = vars(parser.parse_args(arguments))
    demo = options.pop("demo")
    try:
        serve(load_settings(**options), demo=demo)
    except UserError as error:
        print(f"{error.what} {error.why} {error.fix}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

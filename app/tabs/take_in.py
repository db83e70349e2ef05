"""A run taken in from a zip, on the page: an upload, how far it is, and the run shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app import markup, run_imports, viewmodels
from app import take_in_text as words
from app.access import visitor_of
from app.studio import Studio


def build(studio: Studio, run: gr.Dropdown) -> None:
    """Place the folded panel and wire it to the picker of runs."""
    settings = studio.settings
    with gr.Accordion(words.HEADING, open=False, elem_id="take-in"):
        gr.HTML(markup.quiet(words.NOTE))
        label = words.UPLOAD_LABEL.format(megabytes=min(settings.max_upload_mb, settings.visitor_mb))
        upload = gr.File(label=label, file_types=[".zip"], height=140, elem_id="take-in-upload")
        said = gr.HTML(markup.quiet(words.LARGER), elem_id="take-in-said")

    def take(path: str | None, request: gr.Request) -> Iterator[list[Any]]:
        if not path:
            return
        steps = run_imports.steps(studio, path, by=visitor_of(request))
        try:
            while True:
                found, box = studio.attempt(lambda: next(steps, None))
                if box:
                    yield [gr.skip(), box, None]
                if found is None:
                    return
                (done, total), run_id = found
                if run_id is None:
                    sizes = {"done": viewmodels.megabytes(done), "all": viewmodels.megabytes(total)}
                    yield [gr.skip(), markup.busy(words.STEP.format(**sizes) if total else words.WAITING), gr.skip()]
                    continue
                choices = viewmodels.run_choices(studio.runs(run_id))
                shown = gr.Dropdown(choices=choices, value=run_id)
                yield [shown, markup.quiet(words.DONE.format(run_id=run_id)), None]
        finally:
            steps.close()  # a browser that has gone ends it

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    upload.upload(take, upload, [run, said, upload], concurrency_limit=1, **quiet)

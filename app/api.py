"""Endpoints for programs, by name: the page's own questions and actions, in plain JSON.

They pass the gate, the queue and the permissions as the page's events do. Names, parameters and what they give are
frozen by ``tests/contract/test_page_api.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import gradio as gr

from app import answers, api_config, api_records, text
from app import api_text as words
from app.access import visitor_of
from app.studio import NEWEST_RUNS, Studio
from engine.errors import UserError
from export.foreign import CODE as FOREIGN

OF_IMAGES: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "image"}
"""Shared with the Segment tab."""


def build(studio: Studio, page: gr.Blocks) -> None:
    """Place the endpoints; call it inside ``page``."""

    def models() -> dict:
        return _answered(studio, lambda: {"models": [api_records.model(found) for found in studio.offers()]})

    def segment(
        image: gr.FileData, model: str, slice: int = 1, anyway: bool = False, looks: str = "", variant: str = ""
    ) -> tuple[gr.FileData, dict]:
        path = Path(image["path"])  # type: ignore[index]  # a mapping: nothing is made of what comes
        how = {"number": slice, "anyway": anyway, "looks": looks, "variant": variant or "auto"}
        found = _answered(studio, lambda: _segmented(studio, path, model, **how))  # type: ignore[arg-type]
        return found.pop("file"), found

    def plan(request: gr.Request, configuration: str, preset: str = "") -> dict:
        by = visitor_of(request)
        return _answered(
            studio, lambda: {"plan": studio.plan(api_config.nested(configuration, preset), by=by).as_dict()}
        )

    def submit(request: gr.Request, configuration: str, preset: str = "") -> dict:
        by = visitor_of(request)
        return _answered(studio, lambda: {"run_id": studio.launch(api_config.nested(configuration, preset), by=by)})

    def status(run_id: str) -> dict:
        return _answered(studio, lambda: api_records.status(studio.store, run_id), run_id=run_id)

    def runs(limit: int = 20) -> dict:
        return _answered(studio, lambda: {"runs": _newest(studio, limit)})

    def report(run_id: str) -> dict:
        return _answered(studio, lambda: api_records.report(studio.store, run_id), run_id=run_id)

    placed = (
        (models, "models", words.MODELS, {}),
        (segment, "segment", words.SEGMENT, OF_IMAGES),
        (plan, "plan", words.PLAN, {}),
        (submit, "submit", words.SUBMIT, {}),
        (status, "status", words.STATUS, {}),
        (runs, "list", words.LIST, {}),
        (report, "report", words.REPORT, {}),
    )
    for function, name, description, limits in placed:
        function.__annotations__ = get_type_hints(function)  # Gradio does not look up what an annotation names
        event = gr.api(function, api_name=name, api_description=description, **limits)
        parameters = [key for key in inspect.signature(function).parameters if key != "request"]
        for number, parameter in zip(event["inputs"], parameters, strict=True):
            page.blocks[number].label = parameter  # type: ignore[attr-defined]  # refusals name it


def _answered(studio: Studio, action: Callable[[], dict[str, Any]], *, run_id: str | None = None) -> dict[str, Any]:
    """Return what ``action`` gives as plain JSON, or raise the sentence that a program is told, its code as title.

    ``run_id`` is the run that it is about.
    """

    def held() -> dict[str, Any] | UserError:
        try:
            return action()
        except UserError as error:
            return error

    config = studio.attempt(lambda: studio.store.get(run_id).config)[0] if run_id else None
    found, box = studio.attempt(held)
    if isinstance(found, UserError):
        told = studio.told(f"{found.what} {found.why} {found.fix}", of=config)
        raise gr.Error(told, title=found.code, print_exception=False)
    if found is None or box:
        sentence = f"{text.UNEXPECTED_WHAT.format(kind='error')} {text.UNEXPECTED_WHY} {text.UNEXPECTED_FIX}"
        raise gr.Error(sentence, title="app.unforeseen", print_exception=False)
    file = found.pop("file", None)
    plain = api_records.plain(found, partial(studio.told, of=config))
    return plain | ({"file": file} if file else {})


def _segmented(
    studio: Studio, path: Path, model: str, *, number: int, anyway: bool, looks: str, variant: str
) -> dict[str, Any]:
    """Return the figures of one answer, and under ``file`` where its mask lies."""
    from engine.data.readers import file_stem
    from export.looks import looks_of

    count, name = answers.num_slices(studio, model, path), studio.uploads.name_of(path)
    if not 1 <= number <= count:
        what = words.SLICE_WHAT.format(count=count, number=number)
        raise UserError("api.slice", what=what, why=words.SLICE_WHY, fix=words.SLICE_FIX)
    stem = file_stem(Path(name)) + (f"_slice{number:03d}" if count > 1 else "")
    session = studio.session(model, looks=looks_of(looks) if looks else None, variant=variant)
    try:
        done = answers.segment(
            session,
            lambda: answers.read_upload(studio, model, path, number - 1),
            title=name,
            stem=stem,
            origin=lambda: answers.origin(studio, model, path),
            anyway=anyway,
        )
    except UserError as error:
        if error.code != FOREIGN:
            raise
        raise UserError(error.code, what=error.what, why=error.why, fix=words.FOREIGN_FIX) from error
    result = done.result
    return {
        "file": {"path": studio.save(*result.file), "orig_name": result.file[0], "meta": {"_type": "gradio.FileData"}},
        "image": name,
        "model": model,
        "slice": number,
        "num_slices": count,
        "num_parts": done.num_looks,
        "variant": session.variant.name,
        "area_share": {found.class_name: found.share for found in result.figures},
        "wall_ms": done.wall_ms,
        "provider": text.PROVIDERS.get(session.provider, session.provider),
        "unlike_training": list(done.unlike),
    }


def _newest(studio: Studio, limit: int) -> list[dict[str, Any]]:
    if not 1 <= limit <= NEWEST_RUNS:
        what = words.LIMIT_WHAT.format(most=NEWEST_RUNS, limit=limit)
        raise UserError("api.limit", what=what, why=words.LIMIT_WHY, fix=words.LIMIT_FIX)
    return [api_records.run(record) for record in studio.store.list(limit=limit)]

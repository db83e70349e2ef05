"""The button that fits a new run's sizes to its images, and what it answers; real_cpu is fitted after a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import forms, markup, refusals
from app import sizes_text as words
from app.access import Visitor, visitor_of
from app.studio import Studio

FITTED_KEYS = (
    "data.image_px", "generator.image_px", "generator.prompt", "federation.patience", "federation.rounds",
    "generation.max_masks_per_site",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """The components; ``fitted`` keeps what was put into the form, by key, so that a second fit may change it."""

    fit: gr.Button
    said: gr.HTML
    fitted: gr.State


def place() -> Parts:
    """Place the button; call it below that of the look."""
    with gr.Row(elem_classes="actions"):
        fit = gr.Button(words.FIT, elem_id="data-fit")
    return Parts(fit, gr.HTML(markup.quiet(words.NOTE), elem_id="data-fitted"), gr.State({}))


def wire(
    studio: Studio, parts: Parts, fields: Sequence[forms.FieldSpec], controls: Sequence[Any], *, preset: Any, look: Any
) -> None:
    """Let the button answer from the form's values; after ``look`` a preset that follows its images does so, too."""
    chosen = [control for field, control in zip(fields, controls, strict=True) if field.key in FITTED_KEYS]
    keys = [field.key for field in fields if field.key in FITTED_KEYS]
    unchanged = [gr.skip()] * (2 + len(keys))

    def answer(values: Sequence[Any], given: frozenset[str], before: dict[str, Any], by: Visitor) -> list[Any]:
        from app import data_sizes  # late: the first paint needs no reader

        nested = forms.from_values(list(values), tuple(fields))
        sizes, shown = data_sizes.fit(studio, nested, by=by, given=given)
        name = str(nested.get("data", {}).get("root") or nested.get("data", {}).get("task", ""))
        said = data_sizes.shown(sizes, name=name.rstrip("/").rpartition("/")[2])
        return [
            studio.told(said),
            before | shown,
            *(gr.update(value=shown[k]) if k in shown else gr.skip() for k in keys),
        ]

    def fit(request: gr.Request, before: dict[str, Any], *values: Any) -> list[Any]:
        by = visitor_of(request)
        found, box = studio.attempt(lambda: answer(values, frozenset(), before, by), box=refusals.box)
        return found or [box, *unchanged[1:]]

    def follow(request: gr.Request, preset: str | None, before: dict[str, Any], *values: Any) -> list[Any]:
        from app import data_sizes

        if not data_sizes.follows(preset):
            return unchanged
        in_form = dict(zip((field.key for field in fields), values, strict=True))
        given = data_sizes.by_hand(in_form, preset=preset, fitted=before)
        found, _ = studio.attempt(lambda: answer(values, given, before, visitor_of(request)))
        return found or unchanged  # what is wrong with the images the look has said

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    told = [parts.said, parts.fitted, *chosen]
    once: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "data-fit", **quiet}
    parts.fit.click(None, None, parts.said, js=f"() => {markup.busy(words.FITTING)!r}", **quiet)
    parts.fit.click(fit, [parts.fitted, *controls], told, **once)
    look.success(follow, [preset, parts.fitted, *controls], told, **once)

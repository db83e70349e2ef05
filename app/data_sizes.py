"""Sizes of a new run that follow from its images, as values of its form. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from app import data_look, forms, markup, refusals
from app import sizes_text as words
from app.access import Visitor
from engine.data.budget import at_most
from engine.planning.sizes import FITTED_PRESETS, Size, fit_to_data

if TYPE_CHECKING:
    from app.studio import Studio


def by_hand(values: Mapping[str, Any], *, preset: str, fitted: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of the form that hold neither what ``preset`` gives nor what was ``fitted`` before."""
    fields = forms.form_fields()
    given = dict(zip((field.key for field in fields), forms.preset_values(preset, fields), strict=True))
    return frozenset(
        key for key, value in values.items() if value not in (given.get(key), fitted.get(key, given.get(key)))
    )


def follows(preset: str | None) -> bool:
    """Return whether the sizes of ``preset`` follow the images by themselves."""
    return preset in FITTED_PRESETS


def fit(
    studio: Studio, values: dict[str, Any], *, by: Visitor, given: Collection[str]
) -> tuple[tuple[Size, ...], dict[str, Any]]:
    """Return the sizes that follow from the images of these nested form values, and each one's value in the form.

    The keys ``given`` are left out. Raises ``UserError`` as a look at the images does.
    """
    config = data_look.allowed(studio, values, by=by)
    with at_most(data_look.FILE_BYTES):
        fitted, sizes = fit_to_data(config, given=given)
    fields = forms.form_fields()
    everything = dict(zip((field.key for field in fields), forms.to_values(fitted, fields), strict=True))
    return sizes, {size.key: everything[size.key] for size in sizes}


def shown(sizes: Collection[Size], *, name: str) -> str:
    """Return what was fitted, and why, as HTML."""
    if not sizes:
        return markup.quiet(words.NONE)
    fields = {field.key: field for field in forms.form_fields()}
    items = "".join(
        f"<li><b>{escape(refusals.place(fields[size.key]))}: {escape(str(size.value))}</b> "
        f"<span class='quiet'>{escape(size.because)}</span></li>"
        for size in sizes
    )
    title = escape(words.HEADING.format(name=name))
    return f"<section class='survey' aria-label='{title}'><h4>{title}</h4><ul class='findings'>{items}</ul></section>"

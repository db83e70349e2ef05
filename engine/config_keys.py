"""Which keys a configuration has, and which of its sections a method reads. Torch-free."""

from __future__ import annotations

from functools import cache
from typing import get_args

from pydantic.fields import FieldInfo

from engine.config import RunConfig
from engine.config_fields import Place, Section
from engine.config_generators import unread_of_kind
from engine.methods import catalogue


def section_keys() -> dict[str, tuple[str, ...]]:
    """Return the keys of every section by its name, those outside of the sections under the empty name."""
    found: dict[str, tuple[str, ...]] = {"": ()}
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = tuple(field.annotation.model_fields)
        else:
            found[""] += (name,)
    return found


@cache
def place_keys() -> dict[str, Place]:
    """Return the dotted keys whose values say where something lies on a machine, with what kind of place that is."""
    found: dict[str, Place] = {}
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            inner = {f"{name}.{leaf}": one for leaf, one in field.annotation.model_fields.items()}
        else:
            inner = {name: field}
        found |= {key: place for key, one in inner.items() if (place := _place(one)) is not None}
    return found


def _place(field: FieldInfo) -> Place | None:
    """Return the mark of a field's type, whether it may be left out or not."""
    marks = [*field.metadata, *(mark for part in get_args(field.annotation) for mark in get_args(part)[1:])]
    return next((mark for mark in marks if isinstance(mark, Place)), None)


def unread_sections(method: str, generator: str) -> frozenset[str]:
    """Return the sections that no stage of ``method`` reads, or that other kinds than ``generator`` read.

    None of the method's where it is not registered here.
    """
    found = catalogue.methods().get(method)
    of_others = unread_of_kind(generator)
    return of_others if found is None else frozenset(section_keys()) - {"", *found.sections} | of_others

"""Which keys a configuration has, and which of its sections a method reads. Torch-free."""

from __future__ import annotations

from engine.config import RunConfig
from engine.config_fields import Section
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


def unread_sections(method: str, generator: str) -> frozenset[str]:
    """Return the sections that no stage of ``method`` reads, or that other kinds than ``generator`` read.

    None of the method's where it is not registered here.
    """
    found = catalogue.methods().get(method)
    of_others = unread_of_kind(generator)
    return of_others if found is None else frozenset(section_keys()) - {"", *found.sections} | of_others

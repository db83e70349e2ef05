"""A configuration as complete, commented TOML: each key that its method reads, its value and its description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from engine.config import RunConfig
from engine.config_fields import Section
from engine.config_keys import unread_sections


def to_toml(config: RunConfig, *, header: str = "") -> str:
    """Return ``config`` as TOML that :func:`engine.config.load_config` reads back, equal in all that has an effect.

    Keys that are left out (None) are written as comments, since TOML has no null; sections that the method does not
    read are left out. ``header`` is put on top, one comment line a line.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    sections: list[str] = []
    unread = unread_sections(config.method, config.generator.kind)
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name in unread:
            continue
        if isinstance(value, Section):
            sections += ["", f"[{name}]", *_section_lines(value)]
        else:
            lines += _key_lines(name, value, field)
    return "\n".join([*lines, *sections]) + "\n"


def _section_lines(section: Section) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        lines += _key_lines(name, getattr(section, name), field)
    return lines


def _key_lines(name: str, value: Any, field: FieldInfo) -> list[str]:
    comment = " ".join(part for part in (field.description, _choices(field)) if part)
    text = f"# {name} = (left out)" if value is None else f"{name} = {_literal(value)}"
    return [f"{text}  # {comment}" if comment else text]


def _choices(field: FieldInfo) -> str:
    offered = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if callable(field.json_schema_extra):  # the methods, which are known only when asked for
        schema: dict[str, Any] = {}
        field.json_schema_extra(schema)
        offered = schema["enum"]
    return f"({' | '.join(map(str, offered))})" if offered else ""


def _literal(value: Any) -> str:
    if isinstance(value, Path):
        value = value.as_posix()
    return json.dumps(value, ensure_ascii=False)

"""The run form, generated from the RunConfig schema: field descriptions out, nested configuration values back. Pure.

Nothing here is written by hand for one field: a setting that is added to ``engine/config.py`` appears in the form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app import text
from app.field_labels import FIELD_LABELS
from engine.config import DEFAULT_METHOD, PRESETS_DIR, RunConfig, load_config, parse_config
from engine.config_faults import ConfigFault, InvalidConfig
from engine.config_keys import unread_sections
from engine.errors import UserError

Kind = Literal["integer", "number", "choice", "switch", "text", "names"]
DEFAULT_GENERATOR = RunConfig().generator.kind
SOURCE_TAGS = {"P": text.SOURCE_PAPER, "C": text.SOURCE_CODE, "D": text.SOURCE_DIFFUSERS}
MAIN_SECTION = "run"
GUARD = 1e6
"""A maximum from here on keeps mistakes out and bounds no choice: hints do not name it (ours)."""
EMPTY, CUT = "empty", "cut"
"""Kinds of faults that the form finds itself: a number that is not there, a list that came back in part."""
MAX_LETTERS, NUM_FIRST = 3_000, 20
"""Of a list that is shown whole, and names of one that is not (ours); a browser may send 4,000 letters of a text."""


@dataclass(frozen=True)
class FieldSpec:
    """One control of the form. ``key`` is the dotted path in RunConfig, ``info`` the sentence below the label."""

    key: str
    section: str
    label: str
    info: str
    kind: Kind
    default: Any
    optional: bool
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    is_above: bool = False
    """Whether ``minimum`` itself is not possible."""

    @property
    def written(self) -> bool:
        """Whether a number is typed as text: only a text control can be left empty."""
        return self.optional and self.kind in ("integer", "number")


def form_fields() -> tuple[FieldSpec, ...]:
    """Return every field of RunConfig in the order of the schema; top-level fields have the section ``run``."""
    schema = RunConfig.model_json_schema()
    defaults = RunConfig().model_dump(mode="json")
    fields: list[FieldSpec] = []
    for name, property_schema in schema["properties"].items():
        reference = property_schema.get("$ref")
        if reference is None:
            fields.append(_field(name, MAIN_SECTION, property_schema, default=defaults[name]))
            continue
        section = schema["$defs"][reference.rsplit("/", 1)[1]]
        for key, value in section["properties"].items():
            fields.append(_field(f"{name}.{key}", name, value, default=defaults[name][key]))
    return tuple(fields)


def sections(fields: tuple[FieldSpec, ...]) -> dict[str, tuple[FieldSpec, ...]]:
    """Return the fields grouped by section, in order."""
    names = dict.fromkeys(field.section for field in fields)
    return {name: tuple(field for field in fields if field.section == name) for name in names}


def to_values(config: RunConfig, fields: tuple[FieldSpec, ...]) -> list[Any]:
    """Return the form's values of ``config`` in the order of ``fields``."""
    nested = config.model_dump(mode="json")
    return [_shown(_lookup(nested, field.key), field) for field in fields]


def from_values(values: list[Any], fields: tuple[FieldSpec, ...]) -> dict[str, Any]:
    """Return nested values for ``parse_config``; an empty optional control is None, an empty required text left out.

    Sections that the chosen method does not read are left out: the form does not show them. Raises ``InvalidConfig``
    for each number that has to be there and each list that came back cut, with all else that is wrong.
    """
    nested: dict[str, Any] = {}
    refused: list[ConfigFault] = []
    unread = _unread(values, fields)
    for field, value in zip(fields, values, strict=True):
        if field.section not in unread:
            _take(value, field, into=nested, refused=refused)
    return _unless(refused, nested)


def edited(config: RunConfig, values: list[Any], fields: tuple[FieldSpec, ...]) -> dict[str, Any]:
    """Return the nested values of ``config`` with what somebody has changed in the form that it had filled.

    A control that shows what it was filled with (of a long list its beginning) leaves the configuration's own value, to
    the last digit; so does one that is not shown, since the chosen method does not read its section. Raises
    ``InvalidConfig`` as :func:`from_values` does.
    """
    nested = config.model_dump(mode="json")
    refused: list[ConfigFault] = []
    unread = _unread(values, fields)
    for field, value, before in zip(fields, values, to_values(config, fields), strict=True):
        if field.section in unread or value == before:
            continue
        is_cut = any(text.LIST_MARK in str(one) for one in (value, before))
        if is_cut or _parsed(value, field) != _parsed(before, field):
            _take(value, field, into=nested, refused=refused)
    return _unless(refused, nested)


def _take(value: Any, field: FieldSpec, *, into: dict[str, Any], refused: list[ConfigFault]) -> None:
    """Put what a control holds ``into`` nested values; note what the form itself refuses."""
    if field.kind == "names" and text.LIST_MARK in str(value):
        refused.append(_fault(field, CUT, text.LIST_CUT_WHAT))
        return
    parsed = _parsed(value, field)
    if parsed is None and not field.optional:
        if field.kind in ("integer", "number"):
            # A number that was cleared must not become the schema's own, which is not what the form had shown.
            refused.append(_fault(field, EMPTY, text.FIELD_EMPTY_WHAT))
        return
    *parents, leaf = field.key.split(".")
    section = into
    for parent in parents:
        section = section.setdefault(parent, {})
    section[leaf] = parsed


def _unless(refused: list[ConfigFault], nested: dict[str, Any]) -> dict[str, Any]:
    """Return the values; where the form refuses some, raise that and what the schema refuses of the others."""
    if not refused:
        return nested
    try:
        parse_config(nested)
    except InvalidConfig as error:
        refused += error.faults
    raise InvalidConfig(refused)


def _fault(field: FieldSpec, kind: str, sentence: str) -> ConfigFault:
    section = text.SECTION_LABELS.get(field.section, field.section)
    return ConfigFault(field.key, kind, sentence.format(label=field.label, section=section).removesuffix("."))


def preset_note(name: str) -> str:
    """Return the first comment paragraph of a shipped preset: what it is for, in its author's words."""
    lines = (PRESETS_DIR / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    words: list[str] = []
    for line in lines:
        stripped = line.strip()
        if not stripped.startswith("#") or stripped == "#":
            if words:
                break
            continue
        words.append(stripped.lstrip("# ").strip())
    return " ".join(words)


def preset_choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, name) of presets to choose from: each with the first sentence of what it is for."""
    return [(f"{name} · {preset_note(name).partition('. ')[0].removesuffix('.')}", name) for name in names]


def preset_values(name: str, fields: tuple[FieldSpec, ...]) -> list[Any]:
    """Return the form's values of a shipped preset. Keys that need the reader's own data (``root``) stay empty."""
    try:
        return to_values(load_config(name), fields)
    except UserError:
        # A preset for real data names no folder, so on its own it is not a valid configuration: show what it says.
        raw = tomllib.loads((PRESETS_DIR / f"{name}.toml").read_text(encoding="utf-8"))
        return [_shown(_lookup(raw, field.key, field.default), field) for field in fields]


def _field(key: str, section: str, schema: dict[str, Any], *, default: Any) -> FieldSpec:
    variants = schema.get("anyOf", [schema])
    typed = next(variant for variant in variants if variant.get("type") != "null")
    minimum = typed.get("minimum", typed.get("exclusiveMinimum"))
    return FieldSpec(
        key=key,
        section=section,
        label=FIELD_LABELS.get(key, _label(key)),
        info=_info(schema.get("description", ""), typed),
        kind=_kind(typed),
        default=default,
        optional=len(variants) > 1,
        minimum=minimum,
        maximum=typed.get("maximum"),
        choices=tuple(typed.get("enum", ())),
        is_above="exclusiveMinimum" in typed,
    )


def method_of(values: list[Any], fields: tuple[FieldSpec, ...]) -> str:
    """Return the method that the form's values name."""
    return _named("method", values, fields) or DEFAULT_METHOD


def generator_of(values: list[Any], fields: tuple[FieldSpec, ...]) -> str:
    """Return the kind of generator that the form's values name."""
    return _named("generator.kind", values, fields) or DEFAULT_GENERATOR


def _named(key: str, values: list[Any], fields: tuple[FieldSpec, ...]) -> str | None:
    named = [str(value) for field, value in zip(fields, values, strict=True) if field.key == key]
    return named[0] if named else None


def _unread(values: list[Any], fields: tuple[FieldSpec, ...]) -> frozenset[str]:
    return unread_sections(method_of(values, fields), generator_of(values, fields))


def _label(key: str) -> str:
    """Return a key's last part as words: ``mask_px`` is ``Mask (pixels)``."""
    return key.rsplit(".", 1)[-1].replace("_px", " (pixels)").replace("_", " ").capitalize()


def _kind(schema: dict[str, Any]) -> Kind:
    if "enum" in schema:
        return "choice"
    kinds: dict[str, Kind] = {"integer": "integer", "number": "number", "boolean": "switch", "array": "names"}
    return kinds.get(schema["type"], "text")


def _info(description: str, schema: dict[str, Any]) -> str:
    """Return the schema's description with its source tags spelt out and its bounds added."""
    description = re.sub(r"(?<=[\w)])\*(?=\w)", "·", description)  # Markdown would take it for emphasis
    description = description.replace("(ours)", f"({text.SOURCE_OURS})")
    for tag, words in SOURCE_TAGS.items():
        description = re.sub(rf"\[{tag}: ([^\]]*)\]", rf"({words}: \1)", description)
        description = description.replace(f"[{tag}]", f"({words})")
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    bounds = ""
    high = None if high is None or high >= GUARD else high
    if low is not None and high is not None:
        both = text.BOUNDS_ABOVE_BOTH if "exclusiveMinimum" in schema else text.BOUNDS_BOTH
        bounds = both.format(low=_plain(low), high=_plain(high))
    elif low is not None:
        bounds = (text.BOUNDS_ABOVE if "exclusiveMinimum" in schema else text.BOUNDS_LOW).format(low=_plain(low))
    return f"{description.rstrip('.')}. {bounds}".strip(". ").strip() + ("." if description or bounds else "")


def rebounded(field: FieldSpec, bounds: str) -> str:
    """Return the field's information with a sentence in place of the schema's "low to high"."""
    low, high = (0.0 if end is None else end for end in (field.minimum, field.maximum))
    schemas = text.BOUNDS_BOTH.format(low=_plain(low), high=_plain(high))
    return f"{field.info.removesuffix(f'{schemas}.')}{bounds}"


def _plain(value: float) -> str:
    return f"{value:g}"


def _lookup(nested: dict[str, Any], key: str, default: Any = None) -> Any:
    for part in key.split("."):
        if not isinstance(nested, dict) or part not in nested:
            return default
        nested = nested[part]
    return nested


def names_shown(names: Sequence[str]) -> str:
    """Return names as their control shows them: of a list that no browser may send back whole, the beginning."""
    whole = ", ".join(names)
    if len(whole) <= MAX_LETTERS:
        return whole
    return f"{', '.join(names[:NUM_FIRST])}, {text.LIST_CUT.format(count=len(names) - NUM_FIRST)}"


def _shown(value: Any, field: FieldSpec) -> Any:
    if field.kind == "names":
        return names_shown(value or ())
    if field.kind == "text" or field.written:
        return "" if value is None else str(value)
    return value


def _parsed(value: Any, field: FieldSpec) -> Any:
    if isinstance(value, str):
        value = value.strip()
    if value in ("", None):
        return [] if field.kind == "names" and not field.optional else None  # emptied, which a list may be
    if field.kind == "names":
        return [name.strip() for name in str(value).split(",") if name.strip()]
    if field.kind in ("integer", "number"):
        return _number(value)
    return value


def _number(value: Any) -> Any:
    """Return the number that was typed, whole where it is; what is no number stays, for the schema to refuse."""
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number

"""What a form refuses, in its own words: a setting is called by its label, and each message knows its field. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from app import forms, markup, refusal_text, text
from engine.config_faults import MAX_FAULTS_SAID, ConfigFault, InvalidConfig
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.planning import Plan

FRONT_KEYS = ("data.source", "data.task", "data.root", "data.held_out")
"""Fields that stand in the open, above the folded sections."""
_OF_FOLDER = "data."
_KEY_OF_CODE = {"data.too_many_classes": "data.classes", "plan.models_misfit": "teacher.name"}
"""The field that a refusal concerns whose sentence names none; other faults of a dataset are its folder's."""
_FIXES: Mapping[str, str] = {
    "weights.absent": refusal_text.OTHER_WEIGHTS,
    "weights.unverified": refusal_text.VOUCHED,
    "plan.disk": refusal_text.MORE_SPACE,
    "data.foreign_layout": refusal_text.CONVERT,
}
"""What to do about it on the page, where a terminal's way is told otherwise."""


@dataclass(frozen=True)
class FieldFault:
    """One refusal: ``place`` names the field as a reader finds it, ``said`` goes on from there.

    ``field`` is None where the form has none. ``is_whole``: ``said`` is a sentence of its own.
    """

    field: forms.FieldSpec | None
    place: str
    said: str
    is_whole: bool = False


def box(error: UserError) -> str:
    """Return the box of a refusal; one of settings lists them, and each one's field is marked in the browser."""
    found = faults(error)
    if isinstance(error, InvalidConfig):
        title = refusal_text.ONE if len(found) == 1 else refusal_text.SEVERAL.format(count=len(found))
        items = "".join(_item(fault) for fault in found[:MAX_FAULTS_SAID])
        more = len(found) - MAX_FAULTS_SAID
        cut = f"<li>{refusal_text.CUT.format(count=more)}</li>" if more > 0 else ""
        inner = f"<p class='what'>{title}</p><ul>{items}{cut}</ul><p>{refusal_text.FIX}</p>"
    else:
        what, why, fix = in_words(error.what), in_words(error.why), _fix(error, found)
        inner = markup.error_box(what, why, fix).removeprefix("<div class='error-box' role='alert'>")
        inner = inner.removesuffix("</div>")
    marked = [fault for fault in found if fault.field is not None]
    told = escape(json.dumps([_as_data(fault) for fault in marked]), quote=True)
    return (
        f"<div class='error-box refusal' role='alert' data-faults='{told}'><div>{inner}</div>"
        f"<p class='changed' hidden>{refusal_text.CHANGED}</p></div>"
    )


def faults(error: UserError) -> list[FieldFault]:
    """Return what is refused in the order of the form, what belongs to no field at the end."""
    if isinstance(error, InvalidConfig):
        found = [_of_fault(fault) for fault in error.faults]
    else:
        found = [FieldFault(field, place(field), in_words(error.what), True) for field in _concerned(error)]
    order = {field.key: number for number, field in enumerate(_fields().values())}
    return sorted(found, key=lambda fault: len(order) if fault.field is None else order[fault.field.key])


def place(field: forms.FieldSpec) -> str:
    """Return how a reader finds a field: its label, and the section where there are several of that label."""
    labels = [other.label for other in _fields().values()]
    if labels.count(field.label) == 1 and field.key in FRONT_KEYS:
        return f"'{field.label}'"
    section = refusal_text.FRONT if field.key in FRONT_KEYS else text.SECTION_LABELS.get(field.section, field.section)
    return refusal_text.PLACE.format(label=field.label, section=section)


def planned(plan: Plan) -> Plan:
    """Return a plan whose notes and sentences call settings by their labels."""
    warnings, leaves = (tuple(in_words(said) for said in each) for each in (plan.warnings, plan.leaves_site))
    return replace(plan, warnings=warnings, leaves_site=leaves)


def in_words(sentence: str, *, any_key: bool = False) -> str:
    """Return an engine's sentence with the form's labels in place of keys, and its words for values.

    ``any_key`` also takes keys outside of sections for one where nothing tells them from words of English.
    """

    def called(match: re.Match[str]) -> str:
        return place(_fields()[match["key"]])

    def is_value(match: re.Match[str]) -> str:
        field = _fields()[match["key"]]
        between = match["between"] if match["between"].strip() else refusal_text.SET_TO
        return f"{place(field)}{between}'{_value_in_words(field, match['value'])}'"

    def is_set(match: re.Match[str]) -> str:
        field = _fields()[match["key"]]
        given = match["value"].strip("'")
        return f"{match['set']} {place(field)} to {_value_in_words(field, given)}"

    def is_switched(match: re.Match[str]) -> str:
        return f"{place(_fields()[match['key']])}{match['between']}{refusal_text.SWITCHED[match['value']]}"

    keys = _key_pattern(any_key=any_key)
    sentence = re.sub(rf"\b(?P<set>[Ss]et) {keys} = (?P<value>'[^']*'|\w[\w.]*\w|\w)", is_set, sentence)
    sentence = re.sub(rf"{keys}(?P<between> is | )'(?P<value>[^']*)'", is_value, sentence)
    sentence = re.sub(rf"{keys}(?P<between> is )(?P<value>true|false)\b", is_switched, sentence)
    sentence = re.sub(rf"leave {keys} out\b", lambda match: f"leave {called(match)} empty", sentence)
    sentence = re.sub(keys, called, sentence)
    return re.sub(r"\[(\w+)\]", lambda match: f"'{text.SECTION_LABELS.get(match[1], match[1])}'", sentence)


@cache
def _fields() -> Mapping[str, forms.FieldSpec]:
    return {field.key: field for field in forms.form_fields()}


@cache
def _key_pattern(*, any_key: bool) -> str:
    """Return a pattern whose group ``key`` is a key of the form.

    A key outside of sections may be a word of English: it is one where the sentence says what it is, has or needs.
    """
    dotted = "|".join(re.escape(key) for key in sorted(_fields(), key=len, reverse=True) if "." in key or "_" in key)
    if any_key:
        bare = "|".join(key for key in _fields() if "." not in key and "_" not in key)
        return rf"(?<![\w.])(?P<key>(?:{dotted}|{bare})(?![\w]|\.\w))"
    bare = r"(?:threads|workers|backend|^server)(?= (?:is|has|needs|does)\b| ')"
    return rf"(?<![\w.'/=])(?P<key>(?:{dotted})(?![\w]|\.\w)|{bare})"


def _value_in_words(field: forms.FieldSpec, value: str) -> str:
    if field.key == "data.source":
        return text.SOURCE_CHOICES.get(value, value)
    return refusal_text.SWITCHED.get(value, value) if field.kind == "switch" else value


def _of_fault(fault: ConfigFault) -> FieldFault:
    said = fault.said.removeprefix("Value error, ")
    field = _field_of(fault.key) or _first_named(said)
    if field is not None and fault.kind in _SAID:
        return FieldFault(field, place(field), _SAID[fault.kind](fault, field))
    if field is not None and fault.kind == "value_error" and not _first_named(said):
        return FieldFault(field, place(field), in_words(said))
    if fault.kind == "extra_forbidden":
        return FieldFault(None, f"'{fault.key}'", refusal_text.UNKNOWN)
    return FieldFault(field, fault.key if field is None else place(field), in_words(said), True)


def _field_of(key: str) -> forms.FieldSpec | None:
    """Return the field of a key, or of the list that it is an entry of."""
    while key and key not in _fields():
        key = key.rpartition(".")[0]
    return _fields().get(key)


def _first_named(sentence: str) -> forms.FieldSpec | None:
    match = re.search(_key_pattern(any_key=False), sentence)
    return None if match is None else _fields()[match["key"]]


def _concerned(error: UserError) -> list[forms.FieldSpec]:
    """Return the fields that a refusal is about: those that its first sentence names."""
    if error.code in _KEY_OF_CODE:
        return [_fields()[_KEY_OF_CODE[error.code]]]
    if error.code == "app.demo_settings":
        matches = re.finditer(_key_pattern(any_key=True), error.what)
        return [_fields()[match["key"]] for match in matches]
    named = _first_named(error.what)
    if named is None and error.code.startswith(_OF_FOLDER):
        named = _fields()["data.root"]
    return [] if named is None else [named]


def _fix(error: UserError, found: Sequence[FieldFault]) -> str:
    fix = _FIXES.get(error.code)
    if fix is None:
        return in_words(error.fix)
    may_be_empty = any(fault.field is not None and fault.field.optional for fault in found)
    return fix.format(empty=refusal_text.OR_EMPTY if may_be_empty else "") if "{empty}" in fix else fix


def _item(fault: FieldFault) -> str:
    said = escape(fault.said)
    if fault.field is None:
        return f"<li>{escape(fault.place)} {said}.</li>"
    button = f"<button type='button' data-field='{_control_id(fault.field)}'>{escape(fault.place)}</button>"
    if not fault.is_whole:
        return f"<li>{button} {said}.</li>"
    rest = said.removeprefix(escape(fault.place)).strip()
    return f"<li>{button} {rest}.</li>" if rest != said else f"<li>{button}: {said}.</li>"


def _as_data(fault: FieldFault) -> dict[str, str]:
    assert fault.field is not None
    sentence = fault.said if fault.said.endswith(".") else f"{fault.said}."
    section = "" if fault.field.key in FRONT_KEYS else f"section-{fault.field.section}"
    return {
        "field": _control_id(fault.field),
        "section": section,
        "said": sentence[:1].upper() + sentence[1:],
    }


def _control_id(field: forms.FieldSpec) -> str:
    return "field-" + field.key.replace(".", "-")


def _bounds(fault: ConfigFault, field: forms.FieldSpec) -> str:
    """Return the bounds of a number, both of them where there are two."""
    at_least, above, at_most = (fault.limits.get(name) for name in ("ge", "gt", "le"))
    low, high = field.minimum, field.maximum
    if low is not None and high is not None and field.is_above:
        words = refusal_text.ABOVE_BOTH.format(f"{low:g}", f"{high:.15g}")
    elif low is not None and high is not None:
        words = refusal_text.BOTH.format(f"{low:g}", f"{high:.15g}")
    else:
        named = ((at_least, refusal_text.AT_LEAST), (above, refusal_text.ABOVE), (at_most, refusal_text.AT_MOST))
        known = [(bound, said) for bound, said in named if bound is not None]
        bound, said = known[0] if known else (fault.limits["lt"], refusal_text.BELOW)
        words = said.format(f"{bound:g}")
    return refusal_text.BOUNDS.format(bounds=words, value=_value(fault))


def _value(fault: ConfigFault) -> str:
    return fault.value or refusal_text.NOTHING


def _said(sentence: str) -> Callable[[ConfigFault, forms.FieldSpec], str]:
    def said(fault: ConfigFault, field: forms.FieldSpec) -> str:
        limits: dict[str, Any] = dict(fault.limits)
        most, least = limits.get("max_length"), limits.get("min_length")
        default = field.default
        return sentence.format(
            value=_value(fault), choices=limits.get("expected", ""), most=most, least=least, default=default
        )

    return said


_SAID: Mapping[str, Callable[[ConfigFault, forms.FieldSpec], str]] = {
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), _bounds),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), _said(refusal_text.WHOLE)),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), _said(refusal_text.NUMBER)),
    **dict.fromkeys(("bool_parsing", "bool_type"), _said(refusal_text.SWITCH)),
    "literal_error": _said(refusal_text.CHOICE),
    "string_too_long": _said(refusal_text.LETTERS),
    "too_long": _said(refusal_text.TOO_MANY),
    "too_short": _said(refusal_text.TOO_FEW),
    "string_too_short": _said(refusal_text.TOO_SHORT),
    forms.EMPTY: _said(refusal_text.EMPTY),
    forms.CUT: _said(refusal_text.LIST_CUT),
}

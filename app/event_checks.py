"""What a browser may send to an event of the page: values of each control's kind, and files of its own. Pure.

Gradio itself would turn a mapping in a text field into text, and read any file that a mapping names in any field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components.api_component import Api

from app import api_text
from app.api_config import MAX_LETTERS
from app.strokes import MAX_NUMBERS

MAX_TEXT = 4_000
MAX_NUMBER = 1e15
MAX_CHOICES = 100
"""Of a control that takes several and does not say how many."""
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refusal(Exception):
    """A request that is not answered: a status of HTTP and a sentence for people."""

    def __init__(self, status: int, sentence: str, *, retry_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_s = status, sentence, retry_s


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``; NaN, infinity and anything that is no object are refused."""

    def no_number(word: str) -> float:
        raise ValueError(word)

    try:
        value = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise Refusal(400, "The request is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Refusal(400, "The request is not a JSON object.")
    return value


def session_of(body: dict[str, Any]) -> str:
    """Return the browser tab's session, of letters that are harmless everywhere."""
    session = body.get("session_hash")
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        raise Refusal(400, "The request names no session.")
    return session


def checked_event(body: dict[str, Any], page: gr.Blocks, *, owned: Callable[[str], bool]) -> dict[str, Any]:
    """Return the body of ``/queue/join`` rebuilt from what was checked in it; everything else is left out.

    ``owned`` tells whether a path is a file that this visitor has uploaded.
    """
    event = body.get("fn_index")
    if type(event) is not int or event not in page.fns or page.fns[event].fn is None:
        raise Refusal(404, "The page has no such event.")
    known, data = page.fns[event], body.get("data")
    if not isinstance(data, list) or len(data) != len(known.inputs):
        raise Refusal(400, f"The event takes {len(known.inputs)} values.")
    trigger = body.get("trigger_id")
    told = event_data(body.get("event_data"))
    if told is None and any(name == "select" for _, name in known.targets):
        raise Refusal(400, "The request does not say what was selected.")
    return {
        "session_hash": session_of(body),
        "fn_index": event,
        "trigger_id": trigger if type(trigger) is int else None,
        "event_data": told,
        "data": [checked_value(block, value, owned=owned) for block, value in zip(known.inputs, data, strict=True)],
    }


def event_data(told: Any) -> dict[str, Any] | None:
    """Return what a selection says of itself, without pictures and files; None where it says no index."""
    if not isinstance(told, dict):
        return None
    index, value = told.get("index"), told.get("value")
    indices = index if isinstance(index, list) and len(index) == 2 else [index]
    if not all(_is_index(number) for number in indices):
        return None
    kept = {"index": index, "value": value if _is_text(value) else None, "selected": told.get("selected") is not False}
    stroke = told.get("stroke")
    if isinstance(stroke, list) and len(stroke) <= MAX_NUMBERS and all(_is_index(number) for number in stroke):
        kept["stroke"] = stroke
    return kept


def _is_index(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**31


def checked_value(block: Any, value: Any, *, owned: Callable[[str], bool]) -> Any:
    """Return ``value`` where the control ``block`` can have it, or raise :class:`Refusal` with a plain sentence."""
    if isinstance(block, Api):
        return _checked_parameter(block, value, owned=owned)
    if value is None or isinstance(
        block, gr.State
    ):  # a state is the server's own; what is sent for it is not looked at
        return None
    label = getattr(block, "label", None) or "This field"
    if isinstance(block, gr.File):
        return _own_file(value, label, owned=owned)
    if isinstance(block, gr.Textbox) and not _is_text(value):
        raise Refusal(422, f"'{label}' takes text of up to {MAX_TEXT} letters.")
    if isinstance(block, gr.Number | gr.Slider) and not _is_number(value):
        raise Refusal(422, f"'{label}' takes a number.")
    if isinstance(block, gr.Checkbox) and not isinstance(value, bool):
        raise Refusal(422, f"'{label}' is either on or off.")
    if isinstance(block, gr.Dropdown) and block.multiselect:
        return _choices(value, label, at_most=block.max_choices or MAX_CHOICES)
    if isinstance(block, gr.Dropdown | gr.Radio) and not (_is_text(value) or _is_number(value)):
        raise Refusal(422, f"'{label}' takes one of its choices.")
    if not isinstance(block, gr.Textbox | gr.Number | gr.Slider | gr.Checkbox | gr.Dropdown | gr.Radio):
        raise Refusal(422, f"'{label}' takes nothing from a browser.")
    return value


def _checked_parameter(block: Api, value: Any, *, owned: Callable[[str], bool]) -> Any:
    """Return what a program sends for a parameter, where it has the type of the endpoint's signature.

    The status is 400: Gradio's client takes the answers of 422 for lists of its own.
    """
    kind, label = block.api_info().get("type"), block.label or "This value"
    if kind == "object":
        try:
            return _own_file(value, label, owned=owned)
        except Refusal as refusal:
            raise Refusal(400, refusal.sentence) from None
    most = MAX_LETTERS if label == "configuration" else MAX_TEXT
    if kind == "string" and not _is_text(value, most=most):
        raise Refusal(400, api_text.TEXT.format(label=label, most=most))
    if kind == "integer" and not (type(value) is int and abs(value) <= MAX_NUMBER):
        raise Refusal(400, api_text.INTEGER.format(label=label))
    if kind == "boolean" and not isinstance(value, bool):
        raise Refusal(400, api_text.SWITCH.format(label=label))
    if kind not in ("string", "integer", "boolean"):
        raise Refusal(400, f"'{label}' takes nothing from a program.")
    return value


def _choices(value: Any, label: str, *, at_most: int) -> list[str]:
    if not isinstance(value, list) or len(value) > at_most or not all(_is_text(choice) for choice in value):
        raise Refusal(422, f"'{label}' takes up to {at_most} of its choices.")
    return value


def _own_file(value: Any, label: str, *, owned: Callable[[str], bool]) -> dict[str, Any]:
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not owned(path):
        raise Refusal(422, f"'{label}' takes a file that you have uploaded. It may have been deleted: choose it again.")
    name = value.get("orig_name")
    return {"path": path, "orig_name": name if _is_text(name) else None, "meta": {"_type": "gradio.FileData"}}


def _is_text(value: Any, *, most: int = MAX_TEXT) -> bool:
    """Return whether a value is text that can be written: JSON has half letters (surrogates), which nobody can store,
    and an answer that quotes one never arrives."""
    if not isinstance(value, str) or len(value) > most:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_NUMBER if isinstance(value, int) else math.isfinite(value) and abs(value) <= MAX_NUMBER

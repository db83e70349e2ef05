"""What a browser may send: each control's own kind of value, files of its own, and nothing else."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest
from gradio.components.api_component import Api

from app.event_checks import MAX_TEXT, Refusal, checked_event, checked_value, event_data, parsed, session_of
from app.strokes import MAX_NUMBERS

FILE = {"path": "/scratch/mine.png", "meta": {"_type": "gradio.FileData"}}
FOREIGN = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


def owned(path: str) -> bool:
    return path == "/scratch/mine.png"


@pytest.mark.parametrize(("block", "good", "bad"), [
    (gr.Textbox(label="Root"), ["", "words", None], [FILE, ["a"], 3, True, "x" * (MAX_TEXT + 1), "\ud800"]),
    (gr.Number(label="Rounds"), [3, 2.5, -1, None], ["3", True, [1], FILE, float("inf"), float("nan"), 1e300, 10**30]),
    (gr.Slider(label="Opacity"), [0.5], ["0.5", {}, float("nan")]),
    (gr.Checkbox(label="Mutual"), [True, False], [1, "true", FILE]),
    (gr.Dropdown(["a"], label="Task"), ["a", 3], [FILE, ["a"], True, "x" * (MAX_TEXT + 1), "a\udfff"]),
    (gr.Dropdown(["a"], label="Runs", multiselect=True, max_choices=2), [["a", "b"], [], None],
     ["a", FILE, [FILE], [3], ["a"] * 3, ["x" * (MAX_TEXT + 1)], ["\ud800"]]),
    (gr.Radio(["a"], label="Source"), ["a"], [FILE, ["a"]]),
    (gr.File(label="Image"), [None], [FOREIGN, [FILE], "/scratch/mine.png", {"path": 3}, {"url": "http://a"}, True]),
    (gr.HTML(), [None], ["<b>", FILE]),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_each_control_takes_its_own_kind(block: Any, good: list[Any], bad: list[Any]) -> None:
    assert [checked_value(block, value, owned=owned) for value in good] == good
    for value in bad:
        with pytest.raises(Refusal) as caught:
            checked_value(block, value, owned=owned)
        assert (caught.value.status == 422 and "takes" in caught.value.sentence) or "on or off" in caught.value.sentence


@pytest.mark.parametrize(("kind", "label", "good", "bad"), [
    ("string", "run_id", ["", "words"], [None, 3, True, ["a"], FILE, "x" * (MAX_TEXT + 1), "\ud83d"]),
    ("string", "configuration", ["x" * 32_000], [None, "x" * 32_001, {"seed": 1}, "\ud800"]),
    ("integer", "slice", [0, -1, 10**15], [None, True, 1.0, "1", 10**16, FILE]),
    ("boolean", "anyway", [True, False], [None, 1, "true"]),
    ("object", "image", [], [None, FOREIGN, [FILE], "/scratch/mine.png", {"url": "http://a"}]),
    ("array", "other", [], [None, [], "x", FILE]), (None, "other", [], [None, "x", FILE]),
])  # fmt: skip
def test_each_parameter_of_an_endpoint_takes_its_own_type(
    kind: str | None, label: str, good: list[Any], bad: list[Any]
) -> None:
    block = Api(None, {"type": kind} if kind else {}, label)
    assert [checked_value(block, value, owned=owned) for value in good] == good
    for value in bad:
        with pytest.raises(Refusal) as caught:
            checked_value(block, value, owned=owned)
        assert caught.value.status == 400 and f"'{label}'" in caught.value.sentence
    if kind == "object":
        assert checked_value(block, {**FILE, "url": "http://a"}, owned=owned) == {**FILE, "orig_name": None}


def test_a_file_of_ones_own_loses_what_was_said_of_it() -> None:
    sent = {**FILE, "url": "http://inside/", "is_stream": True, "orig_name": "eye.png", "size": 3}
    kept = checked_value(gr.File(), sent, owned=owned)
    assert kept == {**FILE, "orig_name": "eye.png"}


def test_a_state_is_the_servers_own() -> None:
    assert checked_value(gr.State({"a": 1}), FOREIGN, owned=owned) is None


@pytest.mark.parametrize(("told", "kept"), [
    (None, None), ("x", None), ({"index": "0"}, None), ({"index": -1}, None), ({"index": True}, None),
    ({"index": [0, 1, 2]}, None),
    ({"index": 2, "value": FOREIGN, "path": "/etc/passwd"}, {"index": 2, "value": None, "selected": True}),
    ({"index": [0, 1], "value": "a", "selected": False}, {"index": [0, 1], "value": "a", "selected": False}),
    ({"index": 1, "stroke": [3, 0, 2]}, {"index": 1, "value": None, "selected": True, "stroke": [3, 0, 2]}),
    *(({"index": 1, "stroke": wrong}, {"index": 1, "value": None, "selected": True})
      for wrong in (FILE, "3", [3, -1, 0], [3, 0.5, 0], [True], [[3]], [FILE], [0] * (MAX_NUMBERS + 1))),
])  # fmt: skip
def test_a_selection_keeps_its_index_and_a_stroke_alone(told: Any, kept: Any) -> None:
    assert event_data(told) == kept


@pytest.mark.parametrize("body", [b"", b"[]", b'{"a": NaN}', b'{"a": -Infinity}', b"[" * 50_000, b"\xff", b"1" * 9000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parsed(body)
    assert caught.value.status == 400


@pytest.mark.parametrize("session", [None, "", "a/b", "../x", "a" * 65, 3, "a\n"])
def test_a_session_has_harmless_letters(session: Any) -> None:
    with pytest.raises(Refusal):
        session_of({"session_hash": session})
    assert session_of({"session_hash": "aB3_-"}) == "aB3_-"


@pytest.fixture(scope="module")
def page() -> gr.Blocks:
    with gr.Blocks() as page:
        box, gallery = gr.Textbox(), gr.Gallery()
        box.input(lambda words: words, box, box)
        gallery.select(lambda words: words, box, box)
        box.change(None, box, box, js="(a) => a")
    return page


def event_of(page: gr.Blocks, kind: str) -> int:
    return next(key for key, event in page.fns.items() if any(name == kind for _, name in event.targets))


def test_an_event_is_rebuilt_from_what_was_checked(page: gr.Blocks) -> None:
    sent = {
        "session_hash": "abc", "fn_index": event_of(page, "input"), "trigger_id": "x", "data": ["words"],
        "event_data": FOREIGN, "batched": True, "event_id": "y", "oauth_token": "z", "simple_format": True,
    }  # fmt: skip
    kept = checked_event(sent, page, owned=owned)
    assert kept == {
        "session_hash": "abc", "fn_index": sent["fn_index"], "trigger_id": None, "event_data": None, "data": ["words"],
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "status"), [
    ("input", {"fn_index": 10_000}, 404), ("input", {"fn_index": True}, 404), ("input", {"fn_index": None}, 404),
    ("change", {}, 404), ("input", {"data": []}, 400), ("input", {"data": {"0": "a"}}, 400),
    ("input", {"data": ["a", "b"]}, 400), ("select", {}, 400), ("input", {"data": [FOREIGN]}, 422),
])  # fmt: skip
def test_no_event_of_the_page_is_refused(page: gr.Blocks, kind: str, change: dict[str, Any], status: int) -> None:
    sent = {"session_hash": "abc", "fn_index": event_of(page, kind), "data": ["words"], **change}
    with pytest.raises(Refusal) as caught:
        checked_event(sent, page, owned=owned)
    assert caught.value.status == status

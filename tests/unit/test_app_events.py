"""What asks for an answer, where answers are told, and in which order they come."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.main import build_app
from app.page import Page
from app.settings import Settings
from app.studio import Studio


def test_a_file_is_answered_where_somebody_gives_one_and_not_where_an_example_takes_its_place(tmp_path: Path) -> None:
    """An example puts the file away, which changes what holds it: that is no other question."""
    page = build_app(Studio(Settings(home=tmp_path / "home")))
    (upload,) = [block for block in page.blocks.values() if getattr(block, "elem_id", "") == "upload"]
    asked = [fn for fn in page.fns.values() if (upload._id, "upload") in fn.targets]
    changed = [fn for fn in page.fns.values() if (upload._id, "change") in fn.targets]
    names = [getattr(fn.fn, "__name__", "") for fn in changed]
    follows = {fn.trigger_after: fn for fn in page.fns.values() if fn.trigger_after is not None}
    (handed,) = [fn for fn in asked if fn._id in follows]  # a zip goes on to another field, in the browser; the rest
    after = follows[handed._id]  # is looked at
    assert all(fn.fn is None for fn in asked), "what puts a reference away asks nothing"
    assert handed.fn is None and handed.js and getattr(after.fn, "__name__", "") == "look" and "look" not in names, (
        names
    )


def test_answers_without_a_sign_of_progress_are_told_to_one_place(tmp_path: Path) -> None:
    """Gradio copies the values of every component that it has told of an answer, at each message of any answer."""
    page = build_app(Studio(Settings(home=tmp_path / "home")))
    told = [event.show_progress_on for event in page.fns.values() if event.show_progress == "hidden"]
    assert len(told) > 100 and all(places == told[0] and len(places or []) == 1 for places in told)
    shown = [event for event in page.fns.values() if event.fn is not None and event.show_progress != "hidden"]
    named = [event.name for event in shown if event.show_progress_on is None and event.api_visibility == "private"]
    assert set(named) <= {"launch"}, "what shows progress names where, too"


@pytest.mark.parametrize("place", ["position", "what-if-count", "compare-tables"])
def test_answers_that_write_the_same_places_come_as_they_were_asked_for(place: str, tmp_path: Path) -> None:
    """Filters chosen while the sliders' ranking was on its way were answered, and then the older list stood there."""
    page = build_app(Studio(Settings(home=tmp_path / "home")))
    (written,) = [block for block in page.blocks.values() if getattr(block, "elem_id", "") == place]
    events = [event for event in page.fns.values() if event.fn is not None and written in event.outputs]
    assert len(events) >= 3 and len({event.concurrency_id for event in events}) == 1
    assert {event.concurrency_limit for event in events} == {1}


def failing(value: str) -> str:
    raise KeyError(value)


def reporting(value: str) -> str:
    raise gr.Error("in words", title="a.code", print_exception=False)


@pytest.mark.parametrize(("answer", "sent", "title"), [
    (failing, "b\nERROR: forged", "app.not_offered"), (failing, "Jane Doe", "app.unforeseen"),
    (reporting, "Jane Doe", "a.code"),
])  # fmt: skip
def test_a_fault_of_an_event_quotes_nothing_that_was_sent(
    answer: Any, sent: str, title: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Page() as page:
        chosen = gr.Dropdown(["a", "Jane Doe"])
        gr.Button().click(answer, chosen, chosen)
    # In a thread of its own: browser tests leave a loop running in this one.
    with pytest.raises(gr.Error) as caught, ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, page.process_api(page.fns[0], [sent])).result()
    assert caught.value.title == title and not caught.value.print_exception, "Gradio writes it with a trace otherwise"
    told = [caplog.text, *capsys.readouterr(), str(caught.value)]
    assert not any(word in part for part in told for word in ("forged", "Jane"))
    assert ("KeyError" in caplog.text) == (title == "app.unforeseen") == ("in failing" in caplog.text)


def test_a_slider_that_is_sent_nothing_is_no_fault_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    with Page() as page:
        level = gr.Slider(0, 1, 0.5)
        gr.Button().click(float, level, level)
    with pytest.raises(gr.Error) as caught, ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, page.process_api(page.fns[0], [None])).result()
    assert caught.value.title == "app.not_offered" and caplog.text == ""

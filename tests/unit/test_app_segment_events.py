"""What asks for an answer on the Segment tab."""

from __future__ import annotations

from pathlib import Path

from app.main import build_app
from app.settings import Settings
from app.studio import Studio


def test_a_file_is_answered_where_somebody_gives_one_and_not_where_an_example_takes_its_place(tmp_path: Path) -> None:
    """An example puts the file away, which changes what holds it: that is no other question."""
    page = build_app(Studio(Settings(home=tmp_path / "home")))
    (upload,) = [block for block in page.blocks.values() if getattr(block, "elem_id", "") == "upload"]
    asked = [fn for fn in page.fns.values() if (upload._id, "upload") in fn.targets]
    changed = [fn for fn in page.fns.values() if (upload._id, "change") in fn.targets]
    names = [getattr(fn.fn, "__name__", "") for fn in changed]
    assert [getattr(fn.fn, "__name__", "") for fn in asked] == ["look"] and "look" not in names, names


def test_answers_without_a_sign_of_progress_are_told_to_one_place(tmp_path: Path) -> None:
    """Gradio copies the values of every component that it has told of an answer, at each message of any answer."""
    page = build_app(Studio(Settings(home=tmp_path / "home")))
    told = [event.show_progress_on for event in page.fns.values() if event.show_progress == "hidden"]
    assert len(told) > 100 and all(places == told[0] and len(places or []) == 1 for places in told)
    shown = [event for event in page.fns.values() if event.fn is not None and event.show_progress != "hidden"]
    named = [event.name for event in shown if event.show_progress_on is None and event.api_visibility == "private"]
    assert set(named) <= {"launch"}, "what shows progress names where, too"

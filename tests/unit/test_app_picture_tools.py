"""Events of the tools beside a picture, with the shipped model: what a hostile browser sends changes nothing."""

from __future__ import annotations

import shutil
from typing import Any

import gradio as gr
import pytest

from app import answers
from app.corrections import MAX_CLICKS, Click
from app.settings import REPOSITORY, Settings
from app.studio import Studio
from app.tabs.picture_tools import Correcting
from app.tabs.segment_answers import SHOWN, Handlers

MODEL = "shipped/nuclei_cpu"
LEGEND, DOWNLOAD, CSV, CHANGES, RESULT, NOTE, UNDO, RESET = range(8)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    models = tmp_path_factory.mktemp("models") / "models"
    shutil.copytree(REPOSITORY / "assets" / "models", models, ignore=shutil.ignore_patterns("examples"))
    return Studio(Settings(home=tmp_path_factory.mktemp("home"), models_dir=models))


@pytest.fixture(scope="module")
def shown(studio: Studio) -> answers.Shown:
    """An example that was answered: what the browser's session remembers of it."""
    values = dict(zip(SHOWN, Handlers(studio).answer_example(MODEL, "whole", 0), strict=True))
    assert "data-key" in values["overlay"].value and values["threshold"] == 0.5
    return values["result"]


def event(index: Any, value: Any) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": value, "selected": True})


def inside(studio: Studio, shown: answers.Shown) -> list[int]:
    """Return a place of the picture in its mask, of one that has the size of its image thrice."""
    answer = studio.answers.get(shown.key)
    assert answer is not None and answer.shown_hw == (768, 768) and answer.kept.size_hw == (256, 256)
    row, column = divmod(int(answer.kept.plane(0).argmax()), 256)
    return [3 * row + 1, 3 * column + 1]


@pytest.mark.parametrize(
    ("index", "value", "class_index"),
    [
        ([0, 768], "add", 0),
        (7, "remove", 0),
        ([1, 1], "erase", 0),
        ([1, 1], None, 0),
        ([1, 1], "add", 1),
        ([1, 1], "add", -1),
        ([1, 1], "add", "0"),
        ([1, 1], "add", None),
    ],
)
def test_a_click_that_names_no_place_tool_or_class_changes_nothing(
    studio: Studio, shown: answers.Shown, index: Any, value: Any, class_index: Any
) -> None:
    found = Correcting(studio).click(shown, 0.5, class_index, 15, event(index, value))
    assert found[NOTE] == "" and all(found[at] == gr.skip() for at in (LEGEND, DOWNLOAD, CHANGES, RESULT))


def test_a_click_corrects_and_undo_gives_the_models_own_files_back(studio: Studio, shown: answers.Shown) -> None:
    handlers, place = Correcting(studio), inside(studio, shown)
    own = handlers.anew(shown, 0.5)
    assert "by hand" not in own[LEGEND] and "data-changes=''" in own[CHANGES] and own[RESULT] is shown
    found = handlers.click(shown, 0.5, 0, 15, event(place, "remove"))
    assert found[RESULT].clicks == (Click("remove", 0, place[0] // 3, place[1] // 3, reach_px=38),)  # 15 % of 256
    assert "Corrected by hand: 1 click." in found[LEGEND] and "data-changes=''" not in found[CHANGES]
    assert found[DOWNLOAD].value["orig_name"] == "example_1_corrected_by_hand_mask.png"
    assert found[UNDO].interactive and found[RESET].interactive
    again = handlers.click(found[RESULT], 0.5, 0, 15, event(place, "remove"))
    assert "Nothing was removed" in again[NOTE] and again[RESULT] == gr.skip()
    back = handlers.undo(found[RESULT], 0.5)
    assert back[RESULT].clicks == () and back[LEGEND] == own[LEGEND] and not back[UNDO].interactive
    full = answers.Shown(shown.key, None, clicks=found[RESULT].clicks * MAX_CLICKS)
    assert str(MAX_CLICKS) in handlers.click(full, 0.5, 0, 15, event(place, "add"))[NOTE]


def test_an_answer_that_is_not_kept_any_more_is_told(studio: Studio, shown: answers.Shown) -> None:
    handlers, place = Correcting(studio), inside(studio, shown)
    gone = answers.Shown("gone", None)
    for found in (
        handlers.anew(gone, 0.3),
        handlers.click(None, 0.3, 0, 15, event(place, "add")),
        handlers.click(gone, 0.3, 0, 15, event(place, "add")),
    ):
        assert "not kept any more" in found[NOTE]

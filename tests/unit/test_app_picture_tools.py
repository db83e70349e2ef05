"""Events of the tools beside a picture, with the shipped model: what a hostile browser sends changes nothing."""

from __future__ import annotations

import base64
import gzip
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from app import answers
from app.corrections import MAX_CORRECTIONS, Click, work_px
from app.settings import REPOSITORY, Settings
from app.strokes import MAX_PLACES, MAX_SIZE_PX, Stroke, stroke_of
from app.studio import Studio
from app.tabs.picture_tools import Correcting
from app.tabs.segment_answers import SHOWN, Handlers

MODEL = "shipped/nuclei_cpu"
LEGEND, DOWNLOAD, CSV, CHANGES, RESULT, NOTE, UNDO, REDO, RESET = range(9)


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


def event(index: Any, value: Any, **more: Any) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": value, "selected": True, **more})


def drawn(kind: str, *numbers: int) -> gr.SelectData:
    """A stroke: its size, then row and column of each place."""
    return event(1, kind, stroke=list(numbers))


def inside(studio: Studio, shown: answers.Shown) -> list[int]:
    """Return a place of the picture in its mask, of one that has the size of its image thrice."""
    answer = studio.answers.get(shown.key)
    assert answer is not None and answer.shown_hw == (768, 768) and answer.kept.size_hw == (256, 256)
    row, column = divmod(int(answer.kept.plane(0).argmax()), 256)
    return [3 * row + 1, 3 * column + 1]


def corrected_px(values: tuple[Any, ...]) -> int:
    """Return how many pixels of the picture the browser is told to be corrected; where nuclei touch is told, too."""
    letters = values[CHANGES].split("data-changes='")[1].split("'")[0]
    told = np.frombuffer(gzip.decompress(base64.b64decode(letters)), np.uint8)
    assert (told & 4).any()
    return int(np.count_nonzero(told & 3))


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
    found = Correcting(studio).correct(shown, 0.5, class_index, 15, event(index, value))
    assert found[NOTE] == "" and all(found[at] == gr.skip() for at in (LEGEND, DOWNLOAD, CHANGES, RESULT))


def test_a_click_corrects_and_undo_gives_the_models_own_files_back(studio: Studio, shown: answers.Shown) -> None:
    handlers, place = Correcting(studio), inside(studio, shown)
    own = handlers.anew(shown, 0.5)
    assert "by hand" not in own[LEGEND] and not corrected_px(own) and own[RESULT] is shown
    found = handlers.correct(shown, 0.5, 0, 15, event(place, "remove"))
    assert found[RESULT].corrections == (Click("remove", 0, place[0] // 3, place[1] // 3, reach_px=38),)  # 15 % of 256
    assert "Corrected by hand: 1 click." in found[LEGEND] and corrected_px(found)
    assert found[DOWNLOAD].value["orig_name"] == "example_1_corrected_by_hand_mask.png"
    assert found[UNDO].interactive and found[RESET].interactive
    again = handlers.correct(found[RESULT], 0.5, 0, 15, event(place, "remove"))
    assert "Nothing was removed" in again[NOTE] and again[RESULT] == gr.skip()
    back = handlers.undo(found[RESULT], 0.5)
    assert back[RESULT].corrections == () and back[LEGEND] == own[LEGEND] and not back[UNDO].interactive
    full = answers.Shown(shown.key, None, corrections=found[RESULT].corrections * MAX_CORRECTIONS)
    assert str(MAX_CORRECTIONS) in handlers.correct(full, 0.5, 0, 15, event(place, "add"))[NOTE]


def test_what_was_taken_back_is_done_again_until_a_new_correction(studio: Studio, shown: answers.Shown) -> None:
    handlers, place = Correcting(studio), inside(studio, shown)
    row, column = place[0] // 3, place[1] // 3
    erased = handlers.correct(shown, 0.5, 0, 15, drawn("erase", 3, row, column))
    brushed = handlers.correct(erased[RESULT], 0.5, 0, 15, drawn("brush", 9, 0, 0, 255, 255))
    assert not brushed[REDO].interactive
    own = handlers.anew(shown, 0.5)
    back = handlers.undo(handlers.undo(brushed[RESULT], 0.5)[RESULT], 0.5)
    assert back[LEGEND] == own[LEGEND] and back[REDO].interactive and not back[UNDO].interactive
    again = handlers.redo(back[RESULT], 0.5)
    assert again[RESULT].corrections == erased[RESULT].corrections and again[CHANGES] == erased[CHANGES]
    both = handlers.redo(again[RESULT], 0.5)
    assert both[RESULT] == brushed[RESULT] and both[LEGEND] == brushed[LEGEND] and not both[REDO].interactive
    assert Path(both[DOWNLOAD].value["path"]).read_bytes() == Path(brushed[DOWNLOAD].value["path"]).read_bytes()
    assert handlers.redo(both[RESULT], 0.5)[LEGEND] == both[LEGEND]  # there is nothing more

    reset = handlers.reset(both[RESULT], 0.5)
    assert reset[LEGEND] == own[LEGEND] and handlers.redo(reset[RESULT], 0.5)[CHANGES] == erased[CHANGES]
    other = handlers.correct(reset[RESULT], 0.5, 0, 15, event(place, "remove"))
    assert other[RESULT].undone == () and not other[REDO].interactive
    assert [button.interactive for button in handlers.buttons(reset[RESULT])[1:]] == [False, True, False]


@pytest.mark.parametrize(
    ("told", "class_index"),
    [
        (event(1, "brush"), 0),
        (drawn("brush", 3, 256, 0), 0),
        (drawn("smear", 3, 0, 0), 0),
        (drawn("erase", 3, 0, 0), 1),
    ],
)
def test_a_stroke_that_names_no_place_tool_or_class_changes_nothing(
    studio: Studio, shown: answers.Shown, told: gr.SelectData, class_index: Any
) -> None:
    found = Correcting(studio).correct(shown, 0.5, class_index, 15, told)
    assert found[NOTE] == "" and all(found[at] == gr.skip() for at in (LEGEND, DOWNLOAD, CHANGES, RESULT))


def test_strokes_and_clicks_are_taken_back_in_order(studio: Studio, shown: answers.Shown) -> None:
    handlers, place = Correcting(studio), inside(studio, shown)
    row, column = place[0] // 3, place[1] // 3
    own = handlers.anew(shown, 0.5)
    erased = handlers.correct(shown, 0.5, 0, 15, drawn("erase", 3, row, column, row, column + 1))
    assert erased[RESULT].corrections == (
        Stroke("erase", 0, 3, np.array([row, column, row, column + 1], "<i4").tobytes()),
    )
    assert "Corrected by hand: 1 stroke." in erased[LEGEND] and erased[UNDO].interactive
    assert erased[DOWNLOAD].value["orig_name"] == "example_1_corrected_by_hand_mask.png"
    again = handlers.correct(erased[RESULT], 0.5, 0, 15, drawn("erase", 1, row, column))
    assert "Nothing was cleared" in again[NOTE] and again[RESULT] == gr.skip()
    clicked = handlers.correct(erased[RESULT], 0.5, 0, 15, event(place, "add"))
    assert "Corrected by hand: 1 click, 1 stroke." in clicked[LEGEND]
    brushed = handlers.correct(clicked[RESULT], 0.4, 0, 15, drawn("brush", 9, 0, 0, 255, 255))
    assert "Threshold 0.40" in brushed[LEGEND] and "Corrected by hand: 1 click, 2 strokes." in brushed[LEGEND]
    more = handlers.correct(brushed[RESULT], 0.4, 0, 15, drawn("brush", 9, 0, 0))
    assert "Nothing was painted" in more[NOTE]
    back = handlers.undo(brushed[RESULT], 0.5)
    assert back[LEGEND] == clicked[LEGEND] and back[CHANGES] == clicked[CHANGES]
    back = handlers.undo(back[RESULT], 0.5)
    assert back[LEGEND] == erased[LEGEND] and back[CHANGES] == erased[CHANGES]
    assert handlers.undo(back[RESULT], 0.5)[LEGEND] == handlers.reset(brushed[RESULT], 0.5)[LEGEND] == own[LEGEND]
    full = answers.Shown(shown.key, None, corrections=erased[RESULT].corrections * MAX_CORRECTIONS)
    assert str(MAX_CORRECTIONS) in handlers.correct(full, 0.5, 0, 15, drawn("brush", 9, 0, 0))[NOTE]


@pytest.mark.parametrize(
    ("one", "work"),
    [
        (stroke_of("brush", 0, [9, 10, 10], size_hw=(256, 256)), 9 * 9 + 100 * 9),
        (stroke_of("erase", 0, [3, 0, 0, 255, 255], size_hw=(256, 256)), 256 * 256 + 100 * (255 + 3)),
        (stroke_of("brush", 0, [5, 9, 3, 2, 3, 4, 3], size_hw=(256, 256)), 12 * 5 + 100 * (7 + 2 + 2 * 5)),
        (Click("add", 0, 10, 10, 5), 7 * 11 * 11),
        (Click("remove", 0, 10, 10, 4000), 7 * 256 * 256),
    ],
)
def test_the_work_of_a_correction_is_counted_before_it_is_done(one: Any, work: int) -> None:
    assert work_px(one, size_hw=(256, 256)) == work


def test_corrections_that_would_keep_the_page_busy_are_refused(studio: Studio, shown: answers.Shown) -> None:
    """Each takes 65,536 + 100 x 499 x (255 + 401) = 32.8 million of 1,000 million: the 31st is one too many."""
    zigzag = [number for at in range(MAX_PLACES) for number in ((at % 2) * 255, 0)]
    worst = stroke_of("brush", 0, [MAX_SIZE_PX, *zigzag], size_hw=(256, 256))
    assert worst is not None
    full = answers.Shown(shown.key, None, corrections=(worst,) * 30)
    refused = Correcting(studio).correct(full, 0.5, 0, 15, drawn("brush", MAX_SIZE_PX, *zigzag))
    assert "worked out anew each time" in refused[NOTE] and refused[RESULT] == gr.skip()


def test_an_answer_that_is_not_kept_any_more_is_told(studio: Studio, shown: answers.Shown) -> None:
    handlers, place = Correcting(studio), inside(studio, shown)
    gone = answers.Shown("gone", None)
    for found in (
        handlers.anew(gone, 0.3),
        handlers.correct(None, 0.3, 0, 15, event(place, "add")),
        handlers.correct(gone, 0.3, 0, 15, event(place, "add")),
        handlers.correct(gone, 0.3, 0, 15, drawn("brush", 9, 0, 0)),
    ):
        assert "not kept any more" in found[NOTE]

"""The step of the form that looks at the images: what it says of them, who may look, and when a look is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from app import data_look, data_text, data_view, demo, watched
from app.access import LOCAL, Visitor
from app.settings import Settings
from app.studio import Studio
from app.tabs import data_step
from engine.config import RunConfig, load_config, parse_config
from engine.data.apart import Apart
from engine.data.impressions import Thumbnail
from engine.data.phantoms import TASKS
from engine.data.problems import Problem
from engine.data.survey import SiteSurvey, Step, Survey
from engine.errors import UserError
from engine.federation.descriptions import FederationDescription, SiteDescription
from tests.patience import wait
from tests.unit.data_world import write_dataset

OPERATOR = Visitor("anna", "anna", "operator")
STRANGER = Visitor("visitor:1", "a visitor", "demo")
VIEWER = Visitor("v", "v", "viewer")


def a_site(name: str, role: str = "source", parts: tuple[int, int, int] | None = (6, 2, 0)) -> SiteSurvey:
    drawn = Thumbnail(np.full((8, 8, 3), 100, np.uint8), np.pad(np.ones((1, 4, 4), np.uint8), ((0, 0), (2, 2), (2, 2))))
    return SiteSurvey(name, role, 8, 3, parts, ((640, 480), (800, 600)), (0.5, 0.7), (drawn,))  # type: ignore[arg-type]


def found(*problems: Problem, **changes: Any) -> Survey:
    times = Apart({"<a>": {"b": 2.0}, "b": {"<a>": 3.0}})
    values = {
        "name": "toy", "classes": ("blob",), "problems": problems,
        "sites": (a_site("<a>"), a_site("b", "test", (0, 0, 8))), "apart": times,
        "num_decoded": 16, "num_images": 16, "kind": "folder",
    } | changes  # fmt: skip
    return Survey(**values)


def test_sites_findings_and_pictures_are_shown_and_escaped() -> None:
    fault = Problem("data.x", "The mask <m> is missing.", "Add it.", "<a>", "<a>/images/1.png")
    warning = Problem("data.y", "Two are alike.", "Keep one.", weight="warning")
    html = data_view.shown(found(warning, fault))
    assert "cannot begin" in html and html.index("1 fault keeps") < html.index("The mask &lt;m&gt;") < html.index(
        "1 thing"
    )
    assert "<code>&lt;a&gt;/images/1.png</code>" in html and "Mend it: Add it." in html and "<a>" not in html
    assert "16 images of 2 sites · class: blob" in html and data_text.CHECKED in html
    assert "640 × 480 to 800 × 600" in html and "0.5 to 0.7" in html and "b (2.0)" in html and ">held out<" in html
    assert "How far apart the sites look: 2.5" in html and "b, which no training sees, is 3.0 times" in html
    many = (a_site("<a>"), replace(a_site("b", "test"), num_images=30))
    assert "rough figure" in html and "rough" in data_view.shown(found(sites=many))
    assert "rough" not in data_view.shown(found(sites=tuple(replace(site, num_images=24) for site in many)))
    assert html.count("<img src='data:image/png") == 2 and "alt='An image of &lt;a&gt;, its mask outlined'" in html
    assert "width:75.00%" in html and "width:25.00%" in html, "of the largest site's eight images"


def test_of_many_findings_the_first_are_written_out() -> None:
    many = [Problem("data.x", f"Fault {number}.", "Mend.") for number in range(data_view.MOST_FINDINGS + 3)]
    html = data_view.findings(many)
    assert html.count("<li>") == data_view.MOST_FINDINGS and "And 3 more" in html and "23 faults keep" in html
    assert data_view.findings([]) == ""


@pytest.mark.parametrize(("changes", "words"), [
    ({"num_decoded": 4}, "4 of 16 images"), ({"kind": "phantom"}, "nothing to check"),
    ({"kind": "described", "apart": None}, "lie at the sites"), ({"apart": None}, "two sites or more"),
    ({"sites": (a_site("a", parts=None),)}, data_text.UNCUT_NOTE),
    ({"sites": (), "problems": (Problem("c", "No folder.", "Name one."),), "name": ""}, "No folder."),
])  # fmt: skip
def test_what_is_not_known_is_said(changes: dict[str, Any], words: str) -> None:
    assert words in data_view.shown(found(**changes))


def test_the_outline_is_drawn_in_the_class_s_colour() -> None:
    picture = data_view.outlined(a_site("a").thumbnails[0])
    assert picture[0, 0].tolist() == [100] * 3 and picture[2, 2].tolist() == [0, 158, 115]


def test_progress_has_a_bar_once_it_is_known_of_how_much() -> None:
    assert "<progress></progress>" in data_view.progress(Step(3, 0), asks_sites=False)
    assert "value='3' max='9'" in data_view.progress(Step(3, 9), asks_sites=False)
    assert "Asking the sites" in data_view.progress(Step(0, 0), asks_sites=True)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(Settings(home=tmp_path / "home"))
    yield made
    made.store.close()


def folder(root: Path, **settings: object) -> dict[str, Any]:
    return {"data": {"source": "folder", "root": str(root)} | settings}


def test_who_may_start_a_run_on_a_folder_may_look_at_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", allowed_roots=(tmp_path / "in",), access="demo")
    studio = Studio(settings)
    outside, inside = folder(tmp_path / "out"), folder(tmp_path / "in" / "set")
    assert data_look.allowed(studio, inside, by=OPERATOR).data.root == tmp_path / "in" / "set"
    fixed = folder(tmp_path / "in" / "set", protocol="fixed-test", test_root=str(tmp_path / "out"))
    drawn = {"data": load_config("phantom_cpu_smoke").model_dump(mode="json")["data"]}
    assert data_look.allowed(studio, drawn, by=STRANGER).data.task == "polyp"
    tested = {"data": {"task": "polyp", "protocol": "fixed-test", "test_root": str(tmp_path / "in")}}
    refused = [
        (outside, OPERATOR, "app.path_refused"), (fixed, OPERATOR, "app.path_refused"),
        (inside, STRANGER, "app.phantoms_only"), (tested, STRANGER, "app.phantoms_only"),
        (drawn, VIEWER, "app.viewer"), ({"data": {"source": "folder"}}, OPERATOR, "app.no_folder"),
    ]  # fmt: skip
    for values, by, code in refused:
        with pytest.raises(UserError) as caught:
            data_look.allowed(studio, values, by=by)
        assert caught.value.code == code, (values, by)


def test_a_visitor_of_a_demonstration_looks_at_no_more_than_a_run_may_have(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", access="demo"))
    for preset in demo.PRESETS:
        data = load_config(preset).model_dump(mode="json")["data"]
        sites = TASKS[data["task"]].sites
        for honest in ({}, {"images_per_site": 1}, {"held_out": sites[0]}):
            assert data_look.allowed(studio, {"data": data | honest}, by=STRANGER)
        for more in ({"images_per_site": 100_000}, {"image_px": 2048}, {"task": "nuclei"}):
            with pytest.raises(UserError) as caught:
                data_look.allowed(studio, {"data": data | more}, by=STRANGER)
            assert caught.value.code == "app.demo_settings" and "data." in caught.value.what
            assert data_look.allowed(studio, {"data": data | more}, by=OPERATOR)


def test_a_look_tells_how_far_it_is_and_then_what_it_found(tmp_path: Path) -> None:
    steps = list(data_look.steps(parse_config(folder(write_dataset(tmp_path / "set")))))
    assert isinstance(steps[-1], Survey) and steps[-1].is_usable and all(isinstance(one, Step) for one in steps[:-1])


def held_up(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Let a look wait after its first step; return what lets it go on, and what says that it was ended."""
    going_on, ended = threading.Event(), threading.Event()

    def survey(*_: object, on_step: Any, **__: object) -> None:
        try:
            on_step(Step(1, 2))
            going_on.wait()
            on_step(Step(2, 2))
        except BaseException:
            ended.set()
            raise

    monkeypatch.setattr(data_look, "survey", survey)
    monkeypatch.setattr(watched, "TOLD_EVERY_S", 0.01)
    return going_on, ended


def test_a_look_that_is_left_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, ended = held_up(monkeypatch)
    steps = data_look.steps(RunConfig())
    assert isinstance(next(steps), Step)
    steps.close()  # type: ignore[attr-defined]
    going_on.set()
    wait(ended.is_set)


def test_a_look_that_nobody_asks_after_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, ended = held_up(monkeypatch)
    monkeypatch.setattr(watched, "LEFT_S", -1.0)
    steps = data_look.steps(RunConfig())
    with pytest.raises(watched.LeftAlone):
        list(steps)
    assert ended.is_set() and not going_on.is_set()


def test_what_sites_elsewhere_have_told_is_shown_without_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    told = FederationDescription(
        "remote", "polyp", "endoscopy", ("polyp",), (SiteDescription("north", "source", 30, 6, 0),),
        (SiteDescription("south", "test", 0, 0, 12),), "south",
    )  # fmt: skip
    monkeypatch.setattr("engine.planning.dataset.told_by_sites", lambda _config: told)
    config = parse_config({"backend": "superlink", "server": "/somewhere", "data": {"source": "folder"}})
    *_, answer = data_look.steps(config)
    assert isinstance(answer, Survey)
    assert [(site.site, site.role, site.parts) for site in answer.sites] == [
        ("north", "source", (30, 6, 0)), ("south", "test", (0, 0, 12)),
    ]  # fmt: skip
    html = data_view.shown(answer)
    assert data_text.DESCRIBED in html.replace("&#x27;", "'") and "<img" not in html and "How far apart" not in html


def handler(studio: Studio) -> tuple[Any, list[str]]:
    """Return what answers the button, and the keys of the fields that it is given."""
    from app import forms

    fields = forms.form_fields()
    with gr.Blocks() as page:
        controls = [gr.Textbox() for _ in fields]
        parts = data_step.place_answer(data_step.place_buttons())
        data_step.wire(studio, parts, fields, controls)
    (look,) = [fn for fn in page.fns.values() if fn.fn is not None and (parts.look._id, "click") in fn.targets]
    assert look.api_visibility == "private"
    return look.fn, [field.key for field in fields if controls[fields.index(field)] in look.inputs]


def test_the_button_answers_with_what_was_found_or_why_not(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, keys = handler(studio)
    monkeypatch.setattr(data_step, "visitor_of", lambda _request: LOCAL)
    assert {"data.root", "data.held_out", "data.validation_fraction", "seed", "method", "backend"} <= set(keys)
    given: dict[str, Any] = RunConfig().model_dump(mode="json")
    flat = {key: given[key.split(".")[0]][key.split(".")[1]] if "." in key else given[key] for key in keys}
    flat |= {"data.source": "folder", "data.root": f" {write_dataset(tmp_path / 'set')} "}
    *_, last = look(None, *flat.values())
    assert "a run can begin" in last[3] and last[0]["interactive"] and not last[2]["visible"]
    *_, last = look(None, *(flat | {"data.root": " "}).values())
    assert data_text.ROOT_WHAT in last[3] and "alert" in last[3]
    *_, last = look(None, *(flat | {"data.image_px": None}).values())
    assert "alert" in last[3] and "Image side" in last[3]

"""What the tabs ask of the home folder and of data sets."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path

import gradio as gr
import pytest
import sqlalchemy as sa
from PIL import Image
from runs_world import ROUNDS, config, finished_run, work

from app import markup, text
from app.access import LOCAL
from app.asked_samples import Asked
from app.settings import Settings
from app.studio import Studio
from app.tabs import sample_gallery
from engine.config import parse_config
from engine.data.phantoms import TASKS, write_dataset
from engine.errors import UserError
from engine.runs import lifecycle
from engine.runs.results import sample_row
from tests.unit.samples_world import a_run, a_sample


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "0")
    return Studio(Settings(home=tmp_path / "home"))


def test_sites_of_a_task_and_of_a_folder(studio: Studio, tmp_path: Path) -> None:
    assert studio.sites("phantom", "fundus", None, by=LOCAL) == tuple(sorted(TASKS["fundus"].sites))
    sites = TASKS["polyp"].sites[:2]
    write_dataset("polyp", tmp_path / "data", images_per_site=2, image_px=64, sites=sites)
    assert studio.sites("folder", "fundus", f" {tmp_path / 'data'} ", by=LOCAL) == tuple(sorted(sites))


@pytest.mark.parametrize(("data", "names"), [
    ({"task": "fundus"}, ("disc", "cup")), ({"task": "fundus", "classes": ["cup"]}, ("cup",)),
    ({"source": "folder", "root": "/no/such/folder"}, ()),
])  # fmt: skip
def test_a_runs_classes_have_names(studio: Studio, data: dict[str, object], names: tuple[str, ...]) -> None:
    run_id = studio.store.create_run(parse_config({"data": data})).run_id
    assert studio.class_names(run_id) == names


@pytest.mark.parametrize(("source", "task", "root"), [
    ("phantom", "no such task", None), ("phantom", None, None), ("folder", "fundus", ""), ("folder", "fundus", None),
    ("folder", "fundus", "/no/such/folder"), ("folder", "fundus", "/"),
])  # fmt: skip
def test_no_sites_where_there_is_no_data_set(studio: Studio, source: str, task: str | None, root: str | None) -> None:
    assert studio.sites(source, task, root, by=LOCAL) == ()


def test_an_older_run_can_still_be_shown(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.studio.NEWEST_RUNS", 2)
    runs = [studio.store.create_run(parse_config({"name": f"run {number}"})).run_id for number in range(4)]
    assert {run.run_id for run in studio.runs()} < set(runs)
    oldest = min(set(runs) - {run.run_id for run in studio.runs()})
    assert oldest in {run.run_id for run in studio.runs(oldest)}
    assert studio.runs("none of them") == studio.runs()


@pytest.mark.parametrize("rounds", [None, 2.7, 0, float("inf"), float("nan")])
def test_rounds_to_add_must_be_whole(studio: Studio, rounds: float | None) -> None:
    run = studio.store.create_run(parse_config({}))
    with pytest.raises(UserError, match="ounds"):
        studio.extend(run.run_id, rounds, by=LOCAL)
    assert studio.store.get(run.run_id).config.federation.rounds == parse_config({}).federation.rounds


def test_the_plan_of_a_fork_refuses_what_its_launch_would(studio: Studio) -> None:
    run = studio.store.create_run(parse_config({}))
    for stage in ("federated_training", "generator_training"):
        studio.store.set_stage_status(run.run_id, stage, "finished")
    changed = parse_config({"seed": 7}).model_dump(mode="json")
    with pytest.raises(UserError, match="seed") as caught:
        studio.plan(changed, by=LOCAL, fork=(run.run_id, "generation"))
    assert caught.value.code == "run.fork_edit"


def test_a_missing_picture_leaves_the_others_in_the_gallery(studio: Studio) -> None:
    run_id = a_run(studio.store)
    folder = studio.store.run_dir(run_id) / "samples"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "one.png")
    there = {"image_path": "samples/one.png", "mask_path": "samples/one.png"}
    studio.store.write(run_id, samples=[sample_row(a_sample("a/1")) | there])
    with gr.Blocks():
        parts = sample_gallery.place()
    shown = sample_gallery.page_of(studio, parts, Asked(run_id, 1, "a", "all", "score", "", None, None), 0)
    captions = [item["caption"] for item in shown[parts.gallery].value]
    assert captions == ["rank 1, selected", text.PICTURE_MISSING] and shown[parts.shown_ids] == ("a/1", "a/0")


def test_pages_of_the_gallery_stay_within_what_is_listed(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", page_size=4))
    run_id = a_run(studio.store, terms=([(f"a/{number}", 0.1 * number, 0.5) for number in range(10)],))
    with gr.Blocks():
        parts = sample_gallery.place()
    for wanted, at, ids in ((0, 0, "0123"), (1, 1, "4567"), (99, 2, "89"), (-5, 0, "0123")):
        asked = Asked(run_id, 1, "", "all", "score", "", None, None)
        shown = sample_gallery.page_of(studio, parts, asked, wanted)
        assert shown[parts.page] == at and shown[parts.shown_ids] == tuple(f"a/{number}" for number in ids)
        assert f"Page {at + 1} of 3 · 10 images" in shown[parts.position] and shown[parts.number].value == at + 1
    none = sample_gallery.page_of(studio, parts, replace(asked, search="b"), 0)
    assert none[parts.shown_ids] == () and text.SAMPLES_NONE_TITLE in none[parts.position]


def test_folders_that_are_hidden_are_no_models(tmp_path: Path) -> None:
    for name in ("polyp", ".polyp.new", ".Trash"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "manifest.json").write_text("{}")
    studio = Studio(Settings(home=tmp_path / "home", models_dir=tmp_path / "models"))
    assert [choice.key for choice in studio.models()] == ["shipped/polyp"]


def test_an_extension_that_stopped_is_given_up(studio: Studio) -> None:
    store = studio.store
    run_id = store.create_run(config()).run_id
    work(store, run_id, rounds=ROUNDS)
    store.set_status(run_id, "finished")
    with pytest.raises(UserError) as caught:
        studio.drop_extension(run_id, by=LOCAL)
    assert caught.value.code == "run.not_extended"
    lifecycle.extend(store, run_id, rounds=ROUNDS + 2)
    lifecycle.cancel(store, run_id)
    view = store.view(run_id)
    assert view.note is not None and "give it up" in view.note
    assert view.note in unescape(markup.status(view))
    studio.drop_extension(run_id, by=LOCAL)
    assert (store.get(run_id).status, store.extension(run_id), store.view(run_id).note) == ("finished", None, None)


def test_the_models_of_many_runs_are_asked_for_at_once(studio: Studio) -> None:
    """An open page asks every few seconds, and a home may have hundreds of runs."""
    asked: list[str] = []
    sa.event.listen(studio.store._database, "before_cursor_execute", lambda *told: asked.append(told[2]))
    counts = []
    for _ in range(2):
        for _ in range(3):
            finished_run(studio.store)
        asked.clear()
        studio._bundles()
        counts.append(len([query for query in asked if query.startswith("SELECT")]))
    assert counts[0] == counts[1] <= 3
    assert len([key for key, *_ in studio._bundles() if key.startswith("run/")]) == 6

"""A site joins a finished run: which configuration that is, what is given to the new run, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import parse_config
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs import joins, lifecycle
from engine.runs.earlier import check_unchanged_since, put_in_place, read_earlier
from engine.runs.events import StoreReporter
from engine.runs.join_results import Retraining, SiteDice, join_results
from engine.runs.store import RunStore
from engine.types import EvaluationRow
from tests.unit.joins_world import DATA, IDENTITY, SITES, UNSEEN, config, finish, joined, write
from tests.unit.runs_world import results


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setattr(joins, "advance_queue", lambda _store: None)
    return RunStore(tmp_path / "home")


@pytest.fixture
def parent(store: RunStore) -> str:
    return finish(store, store.create_run(config(), queued=True).run_id, minutes=30, payload_bytes=900)


def test_the_configuration_names_everybody_and_leaves_the_rest_as_it_was(store: RunStore, parent: str) -> None:
    before, after = store.get(parent).config, joins.joined_config(store, parent, ["east"])
    assert after.method == "dsfedmed_joined" and after.join.sites == ("east",) and after.name == "both + east"
    assert after.data.sites == ("east", "north", "south") and after.data.held_out == UNSEEN
    assert (after.seed, after.federation, after.foundation) == (before.seed, before.federation, before.foundation)
    assert (
        before.content_hash() == parse_config(before.model_dump(mode="json") | {"join": {"sites": []}}).content_hash()
    )


def test_who_took_part_is_what_the_sites_have_told_where_the_configuration_names_nobody(store: RunStore) -> None:
    """A site called zurich would be the last one, and take the unseen site's place."""
    run_id = finish(store, store.create_run(config(sites=None, held_out=None), queued=True).run_id)
    after = joins.joined_config(store, run_id, ["zurich"])
    assert after.data.sites == ("north", "south", "zurich") and after.data.held_out == UNSEEN


def test_an_ablation_goes_on_as_what_it_is(store: RunStore) -> None:
    run_id = finish(store, store.create_run(config("dsfedmed_one_way"), queued=True).run_id)
    after = joins.joined_config(store, run_id, ["east"])
    assert after.method == "dsfedmed_joined" and not after.distillation.mutual
    assert joins.earlier_of(store, run_id).method == "dsfedmed_one_way"


def test_the_new_run_is_given_what_it_needs_and_the_old_one_stays(store: RunStore, parent: str) -> None:
    before = results(store, parent)
    child = joined(store, parent, "east", retraining={"fedsam": {"minutes": 50.0, "payload_bytes": 7}})
    record, folder = store.get(child), store.run_dir(child) / "earlier"
    assert (record.parent, record.fork_stage, record.status) == (parent, "joining", "queued")
    assert [stage.name for stage in store.stages(child)] == list(catalogue.method("dsfedmed_joined").stage_names)
    assert {stage.status for stage in store.stages(child)} == {"pending"}
    assert (folder / "models/earlier_student.safetensors").read_text() == f"distilled_student of {parent}"
    assert (folder / "models/earlier_teacher.safetensors").read_text() == f"distilled_teacher of {parent}"
    assert (folder / "models/fedavg_student.safetensors").read_text() == f"fedavg_student of {parent}"
    for name in ("generators/north/weights.safetensors", "samples/south/00000.png"):
        assert (folder / name).samefile(store.run_dir(parent) / name)
    facts = read_earlier(store.run_dir(child))
    assert (facts.run_id, facts.sources, facts.tests, facts.classes) == (parent, SITES, (UNSEEN,), ("polyp",))
    assert facts.retraining == {"fedsam": {"minutes": 50.0, "payload_bytes": 7}}
    assert not store.traffic(child) and results(store, parent) == before
    lifecycle.cancel(store, child)
    store.delete(parent)
    assert (folder / "samples/south/00000.png").read_text() == "south"


def test_a_second_site_joins_what_the_first_has_made(store: RunStore, parent: str) -> None:
    first = finish(store, joined(store, parent, "east"))
    facts = read_earlier(store.run_dir(joined(store, first, "far")))
    assert (facts.run_id, facts.method) == (first, "dsfedmed")
    second = store.list(limit=1)[0].run_id
    models = store.run_dir(second) / "earlier" / "models"
    assert (models / "earlier_student.safetensors").read_text() == f"joined_student of {first}"


def test_what_was_given_is_put_in_place_and_what_is_there_stays(store: RunStore, parent: str) -> None:
    folder = store.run_dir(joined(store, parent, "east"))
    write(folder / "samples/north/00000.png", "drawn again")
    put_in_place(folder, "samples")
    assert (folder / "samples/north/00000.png").read_text() == "drawn again"
    assert (folder / "samples/south/00000.png").read_text() == "south"


@pytest.mark.parametrize(
    ("sites", "spoil", "code", "words"),
    [
        (["north"], None, "join.member", "north is in the run"),
        ([], None, "join.member", "No site was named"),
        ([UNSEEN], None, "join.unseen", "no training of the run"),
        (["east"], lambda store, run_id: store.update_run(run_id, status="cancelled"), "join.unfinished", "cancelled"),
        (["east"], lambda store, run_id: store.update_run(run_id, status="running"), "run.active", "running"),
        (
            ["east"],
            lambda store, run_id: (store.run_dir(run_id) / "data" / "identity.json").unlink(),
            "run.folder_missing",
            "identity.json",
        ),
    ],
)  # fmt: skip
def test_who_cannot_join_is_told_why(
    store: RunStore, parent: str, sites: list[str], spoil: Callable[..., Any] | None, code: str, words: str
) -> None:
    if spoil is not None:
        spoil(store, parent)
    with pytest.raises(UserError, match=words) as caught:
        joins.joined_config(store, parent, sites)
    assert caught.value.code == code and caught.value.fix


@pytest.mark.parametrize(("method", "code"), [("fedtinysam", "join.method"), ("samfed", "join.method")])
def test_a_method_without_generators_is_refused(store: RunStore, method: str, code: str) -> None:
    run_id = finish(store, store.create_run(config(method), queued=True).run_id)
    with pytest.raises(UserError, match=f"'{method}' trains no generator") as caught:
        joins.joined_config(store, run_id, ["east"])
    assert caught.value.code == code and "dsfedmed_one_way" in caught.value.fix


@pytest.mark.parametrize(
    ("edit", "told", "code"),
    [
        ({"seed": 4}, {}, "join.edit"),
        ({"data": {"image_px": 64}}, {}, "join.edit"),
        ({"foundation": {"epochs": 9}}, {}, "join.edit"),
        ({"backend": "superlink", "server": "/srv"}, {}, "run.other_sites"),
        ({}, {"classes": ("polyp", "ulcer")}, "join.sites_differ"),
        ({}, {"modality": "CT"}, "join.sites_differ"),
    ],
)
def test_what_would_make_another_of_what_is_taken_over_is_refused(
    store: RunStore, parent: str, edit: dict[str, Any], told: dict[str, Any], code: str
) -> None:
    values = joins.joined_config(store, parent, ["east"]).model_dump(mode="json")
    for key, value in edit.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    with pytest.raises(UserError) as caught:
        joins.join(store, parent, config=parse_config(values), **DATA | told)
    assert caught.value.code == code and len(store.list(limit=9)) == 1


def test_distillation_may_go_on_otherwise(store: RunStore, parent: str) -> None:
    values = joins.joined_config(store, parent, ["east"]).model_dump(mode="json")
    values["distillation"]["epochs"] = 7
    child = joins.join(store, parent, config=parse_config(values), **DATA)
    assert store.get(child).config.distillation.epochs == 7


def test_a_file_that_is_gone_leaves_no_half_made_run(store: RunStore, parent: str) -> None:
    (store.run_dir(parent) / "models" / "distilled_teacher.safetensors").unlink()
    with pytest.raises(UserError, match="distilled_teacher") as caught:
        joined(store, parent, "east")
    assert caught.value.code == "run.folder_missing"
    assert [record.run_id for record in store.list(limit=9)] == [parent]
    assert [path.name for path in store.runs_folder.iterdir() if not path.name.startswith(".")] == [parent]


def test_nothing_begins_at_the_stage_that_takes_over(store: RunStore, parent: str) -> None:
    child = joined(store, parent, "east")
    with pytest.raises(UserError, match="No fork begins at the stage 'joining'") as caught:
        lifecycle.check_fork(store, child, store.get(child).config, stage="joining")
    assert caught.value.code == "run.fork_stage"
    with pytest.raises(UserError, match="engine join RUN SITE") as caught:
        lifecycle.submit(store, store.get(child).config)
    assert caught.value.code == "run.continues"
    with pytest.raises(UserError, match="engine join RUN SITE") as caught:
        read_earlier(store.run_dir(parent))
    assert caught.value.code == "join.nothing_given"


def test_images_are_those_of_the_finished_run_but_for_the_new_sites(store: RunStore, parent: str) -> None:
    facts, new = joins.earlier_of(store, parent), {"train east": "1", "validation east": "2"}
    check_unchanged_since(facts, IDENTITY | new)
    without = {key: digest for key, digest in IDENTITY.items() if not key.endswith("south")}
    for digests, site in (
        (IDENTITY | new | {"validation north": "other"}, "north"),
        (IDENTITY | new | {f"test {UNSEEN}": "fewer"}, UNSEEN),
        (without | new, "south"),
    ):
        with pytest.raises(UserError, match=site) as caught:
            check_unchanged_since(facts, digests)
        assert caught.value.code == "run.data_changed"


def row(model: str, site: str, split: Any, dice: float, class_name: str = "polyp") -> EvaluationRow:
    return EvaluationRow(model, site, split, class_name, 5, dice, None, None, 0.0, 0.0, 0.0, None)


def test_results_are_the_students_before_and_after_and_what_was_measured_or_planned(
    store: RunStore, parent: str
) -> None:
    planned = {"dsfedmed": {"minutes": 60.0, "payload_bytes": 5000}, "fedsam": {"why": "Too large."}}
    child = joined(store, parent, "east", retraining=planned)
    assert join_results(store, parent) is None
    finish(store, child, minutes=6, payload_bytes=100)
    rows = [
        row("earlier_student", "east", "validation", 0.2),
        row("joined_student", "east", "validation", 0.6),
        row("earlier_teacher", "east", "validation", 0.9),
        row("joined_teacher", "east", "validation", 0.9),
        row("earlier_student", UNSEEN, "test", 0.5),
        row("joined_student", UNSEEN, "test", 0.4),
        row("earlier_student", "north", "validation", 0.1),
        row("joined_student", "north", "validation", 0.3),
        row("earlier_student", "north", "validation", 0.7, "mean"),
        row("joined_student", "north", "validation", 0.8, "mean"),
    ]
    StoreReporter(store, child, "evaluation", attempt=1).evaluation(rows)
    found = join_results(store, child)
    assert found is not None and (found.continued, found.sites) == (parent, ("east",))
    assert found.dice == (
        SiteDice("east", "validation", True, 5, 0.2, 0.6),
        SiteDice(UNSEEN, "test", False, 5, 0.5, 0.4),
        SiteDice("north", "validation", False, 5, 0.7, 0.8),
    )
    assert found.minutes == pytest.approx(6, rel=1e-3) and found.payload_bytes == 100
    # The run of two sites is no retraining with three.
    assert found.retraining == (Retraining("dsfedmed", 60.0, 5000), Retraining("fedsam", None, None, why="Too large."))

    values = config().model_dump(mode="json") | {"seed": 9, "name": "anew"}
    values["data"]["sites"] = ["east", *SITES]
    other = parse_config(values | {"federation": values["federation"] | {"rounds": 5}})
    for chosen, minutes in ((parse_config(values), 45), (other, 99)):
        anew = finish(store, store.create_run(chosen, queued=True).run_id, minutes=minutes, payload_bytes=4000)
        write(store.run_dir(anew) / "data/identity.json", json.dumps(IDENTITY | {"train east": "1"}))
    found = join_results(store, child)
    assert found is not None
    (anew, _) = found.retraining
    assert anew.minutes == pytest.approx(45, rel=1e-3) and (anew.payload_bytes, anew.method) == (4000, "dsfedmed")
    assert anew.run_id is not None and store.get(anew.run_id).config.federation.rounds == 4

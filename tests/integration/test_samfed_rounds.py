"""SAM-Fed on phantoms for two rounds: what crosses by name and byte, what stays, and going on after a stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays_file
from safetensors.torch import load_file

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.datasets import load_federation
from engine.data.public import load_public
from engine.data.public_arrays import pack_public
from engine.federation.payload import payload_bytes
from engine.models.arrays import model_arrays
from engine.planning import plan
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.evaluation import ROWS_FILE, Evaluation
from engine.stages.public_training import PublicTraining, TeacherAdaptation
from engine.stages.semi_supervised_training import SemiSupervisedTraining
from engine.types import RunCancelled, Traffic

FACTORS = ("lora_A.q", "lora_A.v", "lora_B.q", "lora_B.v")
SITES = ("dapi_20x", "he_pink")
NUM_TRAIN, ROUNDS, PUBLIC = 4, 2, 3


def configure(method: str = "samfed", **federation: Any) -> RunConfig:
    return parse_config(
        {
            "method": method, "device": "cpu", "precision": "fp32", "seed": 5, "threads": 1,
            "data": {"task": "nuclei", "images_per_site": 6, "image_px": 64, "sites": list(SITES),
                     "held_out": "he_violet", "validation_fraction": 0.34, "public_images": PUBLIC},
            "student": {"name": "unet", "size": "mini", "weights": None},
            "teacher": {"name": "sam", "size": "mini", "weights": "sam-mini"},
            "public": {"epochs": 1, "teacher_epochs": 1, "learning_rate": 1e-3},
            "samfed": {"ramp_rounds": 0, "fusion_epochs": 1},
            "federation": {"rounds": ROUNDS, "batch_size": 2, "learning_rate": 1e-3, **federation},
        }
    )  # fmt: skip


class Kept(ConsoleReporter):
    """Keeps the records of traffic, and stops the run at a site's reply where it is told to."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        super().__init__("test")
        self.records: list[Traffic] = []
        self.curves: dict[tuple[str, str | None], list[float]] = {}
        self.stop_at = stop_at

    def traffic(self, record: Traffic) -> None:
        self.records.append(record)

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        self.curves.setdefault((name, site), []).append(value)
        if name == "wall_s" and (site, step) == self.stop_at:
            raise RunCancelled("asked for")


def context_in(folder: Path, config: RunConfig, **how: Any) -> RunContext:
    store = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    return RunContext(config=config, run_dir=folder, reporter=Kept(**how), checkpoints=store)


def run(folder: Path, config: RunConfig, *, before: Path | None = None, **how: Any) -> RunContext:
    """Run the method's training stages in ``folder``; with ``before``, from the models of the public set there."""
    if before is not None:
        shutil.copytree(before / "models", folder / "models", dirs_exist_ok=True)
    context = context_in(folder, config, **how)
    if before is None:
        PublicTraining().run(context)
        TeacherAdaptation().run(context)
    SemiSupervisedTraining().run(context)
    return context


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return run(tmp_path_factory.mktemp("samfed"), configure())


def records(context: RunContext, kind: str, site: str) -> list[tuple[str, int]]:
    reporter: Any = context.reporter
    return [(r.direction, r.payload_bytes) for r in reporter.records if (r.kind, r.site) == (kind, site)]


def test_what_crosses_is_the_public_set_the_trained_part_of_sam_and_the_student(trained: RunContext) -> None:
    config = trained.config
    public = pack_public(load_public(config.data, seed=config.seed))
    assert sum(name.startswith("image.") for name in public) == PUBLIC
    teacher = trained.load_model("teacher", "adapted_teacher")
    named = {n: v for n, v in model_arrays(teacher).items() if n.startswith("mask_decoder.") or n.endswith(FACTORS)}
    student = payload_bytes(model_arrays(trained.load_model("student", "samfed_student")))
    for site in SITES:
        assert records(trained, "public", site) == [("down", payload_bytes(public))]
        assert records(trained, "teacher", site) == [("down", payload_bytes(named))]
        sent = records(trained, "student", site)
        assert sent.count(("up", student)) == ROUNDS and sent.count(("down", student)) == ROUNDS + 1
        assert {way for way, count in sent if count > 0} == {"up", "down"}
    digests = {name: public[name] for name in ("patients", "files")}
    assert records(trained, "public", "he_violet") == [("down", payload_bytes(digests))]
    reporter: Any = trained.reporter
    assert {r.kind for r in reporter.records} == {"public", "teacher", "student", "metrics"}


def test_the_plan_knows_the_bytes(trained: RunContext, tmp_path: Path) -> None:
    """Names and headers aside, 2 %; the public set is planned in colour, and grey images have one channel."""
    planned = {(t.site, t.direction, t.kind): t.payload_bytes for t in plan(trained.config, home=tmp_path).traffic}
    for site in SITES:
        for kind in ("teacher", "student"):
            for way in ("down", "up"):
                sent = sum(count for direction, count in records(trained, kind, site) if direction == way)
                assert planned.get((site, way, kind), 0) == pytest.approx(sent, rel=0.02), (kind, way)
        assert planned[site, "down", "public"] == PUBLIC * (3 * 64 * 64 + 64 * 64 // 8)
        ((_, sent),) = records(trained, "public", site)
        assert planned[site, "down", "public"] / 3 < sent < 1.02 * planned[site, "down", "public"]


def test_the_plan_knows_the_bytes_of_rounds_that_ask_some(trained: RunContext, tmp_path: Path) -> None:
    """A round asks one of two sites; who judges the moving mean is sent it after every round."""
    config = configure(participation=0.5, patience=5, average_decay=0.9)
    planned = {(t.site, t.direction, t.kind): t.payload_bytes for t in plan(config, home=tmp_path).traffic}
    whole = {(t.site, t.direction, t.kind): t.payload_bytes for t in plan(configure(), home=tmp_path).traffic}
    context = run(tmp_path / "some", config, before=trained.run_dir)
    for way, messages in (("down", 2 * ROUNDS), ("up", ROUNDS)):
        sent = sum(size for site in SITES for found, size in records(context, "student", site) if found == way)
        first, second = (planned[site, way, "student"] for site in SITES)
        assert first == second and 2 * first == pytest.approx(sent, rel=0.02)
        one = whole[SITES[0], way, "student"] / (ROUNDS + (way == "down"))
        assert 2 * first == pytest.approx(messages * one, abs=2)


def test_sam_labels_each_image_at_its_site_with_the_weights_of_the_server(trained: RunContext) -> None:
    teacher = trained.load_model("teacher", "adapted_teacher").eval()
    federation = load_federation(trained.config.data, seed=trained.config.seed)
    for site in SITES:
        (kept,) = load_arrays_file(trained.run_dir / "sites" / site / "teacher_logits.safetensors").values()
        images = federation.sites[site].train.images(np.arange(NUM_TRAIN))
        with torch.no_grad():
            expected = teacher(torch.from_numpy(images)).numpy()
        assert kept.dtype == np.float16 and kept.shape == expected.shape
        np.testing.assert_allclose(kept.astype(np.float32), expected, atol=0.02, rtol=2e-3)


def test_the_students_start_from_the_public_set_and_learn(trained: RunContext) -> None:
    public, learnt = (load_file(trained.model_path(name)) for name in ("public_student", "samfed_student"))
    assert any(not torch.equal(public[name], learnt[name]) for name in public)
    reporter: Any = trained.reporter
    assert all(len(reporter.curves["loss", site]) == ROUNDS for site in SITES)
    assert not trained.model_path("samfed_personal_student").exists()


def test_a_stopped_run_goes_on_to_the_same_bits(trained: RunContext, tmp_path: Path) -> None:
    with pytest.raises(RunCancelled):
        run(tmp_path, configure(), before=trained.run_dir, stop_at=(SITES[0], 2))
    again = run(tmp_path, configure(), before=trained.run_dir)
    one, two = (load_file(context.model_path("samfed_student")) for context in (trained, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(records(again, "public", site) == [] for site in SITES)  # it was sent before the stop


@pytest.mark.parametrize("method", ["samfed_pseudo", "samfed_fixmatch", "samfed_labelled"])
def test_without_sam_nothing_of_it_crosses(method: str, trained: RunContext, tmp_path: Path) -> None:
    context = run(tmp_path, configure(method), before=trained.run_dir)
    reporter: Any = context.reporter
    assert {r.kind for r in reporter.records} == {"public", "student", "metrics"}
    one, two = (load_file(c.model_path("samfed_student")) for c in (trained, context))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_students_of_several_kinds_exchange_predictions_and_no_weights(trained: RunContext, tmp_path: Path) -> None:
    config = configure(site_students=[f"{SITES[1]}=tinysam/mini"])
    context = run(tmp_path, config, before=trained.run_dir)
    logits = payload_bytes({"logits": np.zeros((PUBLIC, 1, 64, 64), np.float16)})
    for site in SITES:
        assert records(context, "public_predictions", site) == [("down", logits), ("up", logits)] * ROUNDS
    reporter: Any = context.reporter
    assert all(r.payload_bytes == 0 for r in reporter.records if r.kind == "student")
    own = [load_file(tmp_path / "sites" / site / "own_round_000002.safetensors") for site in SITES]
    assert own[0].keys() != own[1].keys() and any("mask_decoder" in name for name in own[1])
    before, after = (load_file(context.model_path(name)) for name in ("public_student", "samfed_student"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load_file(context.model_path("samfed_personal_student")) == {}
    # Measured at every site: what all have in common as the server's kind, and each site's own.
    Evaluation().run(context)
    rows = json.loads((tmp_path / ROWS_FILE).read_text())
    where = {name: {row["site"] for row in rows if row["model"] == name} for name in {row["model"] for row in rows}}
    assert where["samfed_student"] == where["public_student"] == {*SITES, "he_violet"}
    assert where["samfed_personal_student"] == set(SITES)
    other = {row["dice"] for row in rows if row["site"] == SITES[1] and row["split"] == "validation"}
    assert len(other) > 1 and all(0 <= dice <= 1 for dice in other)


@pytest.mark.slow
def test_a_stopped_run_of_several_kinds_goes_on_to_the_same_bits(trained: RunContext, tmp_path: Path) -> None:
    config = configure(site_students=[f"{SITES[1]}=tinysam/mini"])
    whole = run(tmp_path / "whole", config, before=trained.run_dir)
    with pytest.raises(RunCancelled):
        run(tmp_path / "cut", config, before=trained.run_dir, stop_at=(SITES[0], 2))
    again = run(tmp_path / "cut", config, before=trained.run_dir)
    one, two = (load_file(context.model_path("samfed_student")) for context in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for site in SITES:
        one, two = (load_file(c.run_dir / "sites" / site / "own_round_000002.safetensors") for c in (whole, again))
        assert all(torch.equal(one[name], two[name]) for name in one)

"""A site joins: only its generator is trained and only its masks are shared, and distillation goes on from what was.

The stages run on phantoms of 64 pixels, with random weights and as few steps as there can be.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, load_config, parse_config
from engine.errors import UserError
from engine.federation.tasks import SHARE_MASKS, TRAIN_GENERATOR, VALIDATE_STUDENT, SiteReply, SiteRequest
from engine.generation.backbone import build_backbone, save_backbone
from engine.methods import catalogue
from engine.runs.checkpoint import CheckpointStore
from engine.runs.earlier import Earlier, give
from engine.site.program import SiteProgram
from engine.stages.context import RunContext
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.joining import ContinuedDistillation, JoinedGeneration, JoinedGeneratorTraining, Joining
from engine.stages.synthetic_set import read_samples
from engine.types import SampleScore, SyntheticSample, Traffic

OLD, NEW, UNSEEN = ("dapi_20x", "he_pink"), "he_violet", "hoechst_63x"
MODELS = {"earlier_student": "distilled_student", "earlier_teacher": "distilled_teacher"}


class Kept(ConsoleReporter):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__("test")
        self.crossed: list[Traffic] = []
        self.scored: list[SampleScore] = []
        self.drawn: list[SyntheticSample] = []

    def traffic(self, record: Traffic) -> None:
        self.crossed.append(record)

    def scores(self, records: Any) -> None:
        self.scored += records

    def samples(self, records: Any) -> None:
        self.drawn = list(records)


def configured(folder: Path, *, sites: tuple[str, ...], **more: Any) -> RunConfig:
    values = load_config("phantom_cpu_smoke").model_dump(mode="json") | {"device": "cpu", "precision": "fp32"} | more
    values |= {"threads": 1}
    values["student"]["weights"] = values["teacher"]["weights"] = None
    values["data"] |= {"task": "nuclei", "images_per_site": 6, "validation_fraction": 0.34, "sites": list(sites)}
    values["data"] |= {"held_out": UNSEEN, "augment": "none"}
    values["generator"] |= {"backbone": str(folder / "ldm"), "controlnet": None, "steps": 2}
    values["generation"] |= {"sampler_steps": 1, "max_masks_per_site": 2}
    values["distillation"] |= {"epochs": 1, "selection_rate": 0.5, "scoring": "exact"}
    return parse_config(values)


def context_of(folder: Path, config: RunConfig) -> RunContext:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    return RunContext(config=config, run_dir=folder, reporter=Kept(), checkpoints=checkpoints)


class World:
    """A finished run of two sites, one of all three whose generators are trained, and the join."""

    def __init__(self, folder: Path) -> None:
        save_backbone(build_backbone("mini", seed=1), folder / "ldm")
        self.before = context_of(folder / "before", configured(folder, sites=OLD))
        self.before.save_model(self.before.new_model("student"), "fedavg_student")
        GeneratorTraining().run(self.before)
        Generation().run(self.before)
        for sample in read_samples(self.before.run_dir):  # as distillation leaves them
            Image.new("L", (4, 4)).save(self.before.run_dir / f"{sample.image_path.with_suffix('')}_sam.png")
        for role, name in (("student", "distilled_student"), ("teacher", "distilled_teacher")):
            model = self.before.new_model(role)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.01)
            self.before.save_model(model, name)
        self.config = configured(
            folder, sites=(*OLD, NEW), method="dsfedmed_joined", join={"sites": [NEW]}
        )  # fmt: skip
        described = self.before.description
        self.identity = json.loads((self.before.run_dir / "data/identity.json").read_text())
        self.data = (described.classes, described.modality)
        facts = Earlier("r", "before", "dsfedmed", *self.data, self.identity)
        self.after = context_of(folder / "after", self.config)
        give(self.before.run_dir, self.after.run_dir, facts=facts, models=MODELS)
        self.asked: list[tuple[str, str]] = []
        self.kept: dict[str, Kept] = {}
        answer = SiteProgram.answer

        def noted(program: SiteProgram, request: SiteRequest, **how: Any) -> SiteReply:
            self.asked.append((request.task, request.site))
            return answer(program, request, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SiteProgram, "answer", noted)
            for stage in (Joining(), JoinedGeneratorTraining(), JoinedGeneration(), ContinuedDistillation()):
                self.after.reporter = self.kept[stage.name] = Kept()
                stage.run(self.after)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("join"))


def test_only_the_new_site_trains_and_shares_and_all_get_the_student(world: World) -> None:
    assert Counter(world.asked) == Counter(
        [(TRAIN_GENERATOR, NEW), (SHARE_MASKS, NEW), *((VALIDATE_STUDENT, site) for site in sorted((*OLD, NEW)))]
    )
    kinds = {(r.kind, r.direction): set() for kept in world.kept.values() for r in kept.crossed}
    for record in (r for kept in world.kept.values() for r in kept.crossed):
        kinds[record.kind, record.direction].add(record.site)
    del kinds["metrics", "up"], kinds["metrics", "down"]
    assert kinds == {("generator", "up"): {NEW}, ("masks", "up"): {NEW}, ("distilled", "down"): {*OLD, NEW}}


def test_the_new_generator_is_the_one_that_the_site_would_have_trained_from_the_start(
    world: World, tmp_path: Path
) -> None:
    everybody = context_of(tmp_path / "all", configured(world.before.run_dir.parent, sites=(*OLD, NEW)))
    everybody.save_model(everybody.new_model("student"), "fedavg_student")
    GeneratorTraining().run(everybody)
    for site in (*OLD, NEW):
        files = sorted(path.name for path in everybody.generator_dir(site).iterdir())
        assert files and files == sorted(path.name for path in world.after.generator_dir(site).iterdir())
        for name in files:
            theirs, ours = (context.generator_dir(site) / name for context in (everybody, world.after))
            assert theirs.read_bytes() == ours.read_bytes(), f"{site} {name}"


def test_earlier_samples_are_as_they_were_and_the_new_ones_are_added(world: World) -> None:
    before, after = read_samples(world.before.run_dir), read_samples(world.after.run_dir)
    assert [sample.sample_id for sample in after] == [
        *(sample.sample_id for sample in before), f"{NEW}/00000", f"{NEW}/00001",
    ]  # fmt: skip
    for old, new in zip(before, after[:-2], strict=True):
        for path in (old.image_path, old.mask_path):
            assert (world.before.run_dir / path).samefile(world.after.run_dir / path)
        assert (new.seed, new.faithfulness_dice, new.generator) == (old.seed, old.faithfulness_dice, old.site)
    for sample in after:
        assert (world.after.run_dir / sample.image_path).is_file()
        assert sample.student_path is not None and (world.after.run_dir / sample.student_path).is_file()
    # What the models of the join predict is written beside, never into the files of the finished run.
    assert all(np.asarray(Image.open(path)).shape == (4, 4) for path in world.before.run_dir.rglob("*_sam.png"))


def test_every_sample_is_scored_anew_and_both_models_go_on_from_the_earlier_ones(world: World) -> None:
    scored = {score.sample_id for score in world.kept["continued_distillation"].scored}
    assert scored == {sample.sample_id for sample in read_samples(world.after.run_dir)} and len(scored) == 6
    for role in ("student", "teacher"):
        before = load_file(world.before.model_path(f"distilled_{role}"))
        earlier, joined = (load_file(world.after.model_path(f"{when}_{role}")) for when in ("earlier", "joined"))
        first = world.after.new_model(role).state_dict()
        assert before.keys() == earlier.keys() == joined.keys()
        assert all(torch.equal(before[key], earlier[key]) for key in before)
        weights = [key for key in before if before[key].is_floating_point() and "running_" not in key]
        # Adam moves a weight by about its step size and batch count: nearer to the earlier ones than to the first.
        moved = sum(float((joined[key] - earlier[key]).abs().mean()) for key in weights)
        apart = sum(float((joined[key] - first[key].cpu()).abs().mean()) for key in weights)
        assert 0 < moved < apart


def test_models_are_named_and_compared_before_and_after(world: World) -> None:
    names = [model.name for model in world.after.models]
    assert names == ["earlier_teacher", "earlier_student", "joined_teacher", "joined_student"]
    method = catalogue.method("dsfedmed_joined")
    assert (method.last_model("student"), method.last_model("teacher")) == ("joined_student", "joined_teacher")
    assert catalogue.method("dsfedmed").last_model("student") == "distilled_student"


def test_a_join_that_finds_other_images_stops_before_anything_is_trained(world: World, tmp_path: Path) -> None:
    context = context_of(tmp_path / "other", world.config)
    facts = Earlier("r", "before", "dsfedmed", *world.data, world.identity | {f"train {OLD[0]}": "0" * 64})
    give(world.before.run_dir, context.run_dir, facts=facts, models=MODELS)
    with pytest.raises(UserError, match=OLD[0]) as caught:
        Joining().run(context)
    assert caught.value.code == "run.data_changed" and not context.model_path("earlier_student").exists()

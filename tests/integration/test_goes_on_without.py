"""Where a run goes on without sites that fail, it does so in every stage that can; elsewhere the failure ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, load_config
from engine.errors import UserError
from engine.federation.backends.local import LocalBackEnd
from engine.federation.payload import pack_masks, unpack_masks
from engine.federation.release import WITHHELD
from engine.federation.tasks import (
    EVALUATE,
    MEASURE_STATISTICS,
    SHARE_MASKS,
    TRAIN_GENERATOR,
    VALIDATE_STUDENT,
    SiteReply,
    SiteRequest,
)
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.delivery import deliver_student
from engine.stages.evaluation import DIFFERENCES_FILE, IMAGES_FILE, ROWS_FILE, Evaluation
from engine.stages.files import read_json
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.synthetic_set import read_samples
from engine.types import SiteFailure

SITES, UNSEEN = ("portable_yellow", "tower_hd"), "guided_inset"
Answer = Callable[[SiteReply], SiteReply]


class Recording(ConsoleReporter):
    """Keeps warnings and sites' failures."""

    def __init__(self) -> None:
        super().__init__("test")
        self.warnings: list[str] = []
        self.failures: list[SiteFailure] = []

    def site_failure(self, record: SiteFailure) -> None:
        self.failures.append(record)

    def log(self, level: Any, text: str) -> None:
        self.warnings += [text] if level == "warning" else []


class Sick:
    """Sites of this process that fail in some tasks, or answer something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: set[tuple[str, str]] = set()
        self.changes: dict[tuple[str, str], Answer] = {}
        self.asked: list[tuple[str, str, str]] = []
        healthy = LocalBackEnd._answer

        def answer(back_end: LocalBackEnd, request: SiteRequest) -> SiteReply:
            key = (request.site, request.task)
            self.asked.append((*key, str(request.settings.get("model", ""))))
            if key in self.fails:
                raise RuntimeError("the disk is gone")
            return self.changes.get(key, lambda reply: reply)(healthy(back_end, request))

        monkeypatch.setattr(LocalBackEnd, "_answer", answer)


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Sick:
    return Sick(monkeypatch)


def config_of(on_failure: str, **keys: Any) -> RunConfig:
    small = {
        "data.image_px": 32, "data.images_per_site": 6, "data.sites": SITES, "data.held_out": UNSEEN,
        "student.weights": None, "teacher.weights": None, "precision": "fp32", "generator.kind": "pix2pix",
        "generator.image_px": 32, "generator.steps": 2, "federation.on_failure": on_failure, "federation.retries": 1,
    }  # fmt: skip
    return load_config("phantom_cpu_smoke", overrides=small | keys)


def context_of(config: RunConfig, folder: Path) -> RunContext:
    folder.mkdir(exist_ok=True)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=folder, reporter=Recording(), checkpoints=checkpoints)
    context.save_model(context.new_model("student"), "fedavg_student")
    return context


def test_a_site_whose_generator_fails_is_gone_on_without_and_asked_again_on_resuming(
    sick: Sick, tmp_path: Path
) -> None:
    context = context_of(config_of("skip"), tmp_path)
    sick.fails = {("tower_hd", TRAIN_GENERATOR)}
    GeneratorTraining().run(context)
    (warning,) = context.reporter.warnings
    assert warning.startswith("tower_hd has no generator: the run goes on without it.") and "disk is gone" in warning
    assert [(f.site, f.outcome) for f in context.reporter.failures] == [("tower_hd", "left_out")]
    Generation().run(context)
    assert {sample.site for sample in read_samples(tmp_path)} == {"portable_yellow"}
    assert ("tower_hd", SHARE_MASKS, "") not in sick.asked, "masks of a site that nothing is drawn for stay"

    sick.fails, sick.asked = set(), []
    GeneratorTraining().run(context)
    assert sick.asked == [("tower_hd", TRAIN_GENERATOR, "")] and context.generator_dir("tower_hd").is_dir()


def test_nothing_is_drawn_where_every_generator_fails(sick: Sick, tmp_path: Path) -> None:
    sick.fails = {(site, TRAIN_GENERATOR) for site in SITES}
    with pytest.raises(UserError, match="each withholds it or has failed") as caught:
        GeneratorTraining().run(context_of(config_of("skip"), tmp_path))
    assert caught.value.code == "generator.none"


@pytest.mark.parametrize("on_failure", ["stop", "retry"])
def test_a_generator_that_fails_ends_a_run_that_needs_every_site(on_failure: str, sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of(on_failure), tmp_path)
    sick.fails = {("tower_hd", TRAIN_GENERATOR)}
    with pytest.raises(UserError, match="disk is gone"):
        GeneratorTraining().run(context)
    asked = sum(site == "tower_hd" for site, *_ in sick.asked)
    assert asked == (2 if on_failure == "retry" else 1)
    assert context.reporter.failures[-1].outcome == "stopped"


def test_a_generator_that_does_not_fit_is_a_failure_of_its_site(sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of("skip"), tmp_path)
    sick.changes[("tower_hd", TRAIN_GENERATOR)] = lambda reply: SiteReply({}, reply.metrics, reply.num_examples)
    GeneratorTraining().run(context)
    assert [(f.site, f.code) for f in context.reporter.failures] == [("tower_hd", "generator.upload_misfit")]
    assert not context.generator_dir("tower_hd").exists() and context.generator_dir("portable_yellow").is_dir()


def test_a_site_that_keeps_its_generator_as_its_operator_has_approved_is_gone_on_without(
    sick: Sick, tmp_path: Path
) -> None:
    """No check of it was asked for, and nothing was trained; the failures are none of the site's."""
    context = context_of(config_of("stop", **{"release.on_withheld": "skip"}), tmp_path)
    sick.changes[("tower_hd", TRAIN_GENERATOR)] = lambda _reply: SiteReply({}, {WITHHELD: 1.0}, 1)
    GeneratorTraining().run(context)
    (warning,) = context.reporter.warnings
    assert warning.startswith("tower_hd withholds its generator: its site's rules do not let it leave.")
    assert context.reporter.failures == []
    Generation().run(context)
    assert {sample.site for sample in read_samples(tmp_path)} == {"portable_yellow"}
    assert ("tower_hd", SHARE_MASKS, "") not in sick.asked


def test_masks_that_are_none_leave_their_site_out(sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of("skip"), tmp_path)
    GeneratorTraining().run(context)

    def small(reply: SiteReply) -> SiteReply:
        return SiteReply(pack_masks(unpack_masks(reply.arrays)[..., :16]), reply.metrics, reply.num_examples)

    sick.changes[("portable_yellow", SHARE_MASKS)] = small
    Generation().run(context)
    (warning,) = context.reporter.warnings
    assert warning.startswith("portable_yellow has shared no masks, and nothing is drawn for it") and "16" in warning
    assert {sample.site for sample in read_samples(tmp_path)} == {"tower_hd"}

    other = context_of(config_of("skip"), tmp_path / "none")
    GeneratorTraining().run(other)
    sick.fails = {("tower_hd", SHARE_MASKS)}
    with pytest.raises(UserError, match="No site has shared masks") as caught:
        Generation().run(other)
    assert caught.value.code == "generation.no_masks"


@pytest.mark.parametrize("fails", [MEASURE_STATISTICS, VALIDATE_STUDENT])
def test_the_student_goes_to_the_sites_that_are_there(fails: str, sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of("skip", **{"distillation.batch_norm_statistics": "sites"}), tmp_path)
    of_one, student = context.new_model("student"), context.new_model("student")
    sick.fails = {("portable_yellow", MEASURE_STATISTICS)}
    deliver_student(context, of_one)
    assert ("portable_yellow", VALIDATE_STUDENT, "") not in sick.asked, "who has failed is sent nothing more"
    sick.fails = {("portable_yellow", fails)}
    deliver_student(context, student)
    warning = context.reporter.warnings[-1]
    assert warning.startswith("portable_yellow is without the distilled student: the run goes on.")
    same = all(torch.equal(value, of_one.state_dict()[name]) for name, value in student.state_dict().items())
    assert same == (fails == MEASURE_STATISTICS), "the statistics are those of the sites that have told them"

    sick.fails = {(site, MEASURE_STATISTICS) for site in SITES}
    with pytest.raises(UserError, match="No site has told the statistics") as caught:
        deliver_student(context, student)
    assert caught.value.code == "delivery.no_statistics"


def test_models_are_compared_where_all_of_them_are_measured(sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of("skip"), tmp_path)
    context.save_model(context.new_model("student"), "distilled_student")
    answers = iter([lambda reply: reply])  # to the first model; then it fails

    def once(reply: SiteReply) -> SiteReply:
        try:
            return next(answers)(reply)
        except StopIteration:
            raise RuntimeError("the disk is gone") from None

    sick.changes[("tower_hd", EVALUATE)] = once
    Evaluation().run(context)
    assert [warning.split(":")[0].split(",")[0] for warning in context.reporter.warnings] == [
        "tower_hd measures nothing", "tower_hd has failed"
    ]  # fmt: skip
    places = {(row["model"], row["split"], row["site"]) for row in read_json(tmp_path / ROWS_FILE)}
    models = ("fedavg_student", "distilled_student")
    assert places == {
        (model, split, site) for model in models for split, site in (("test", UNSEEN), ("validation", SITES[0]))
    }
    assert {image["site"] for image in read_json(tmp_path / IMAGES_FILE)} == {UNSEEN, SITES[0]}
    assert {row["site"] for row in read_json(tmp_path / DIFFERENCES_FILE)} == {UNSEEN, SITES[0]}

    del sick.changes[("tower_hd", EVALUATE)]
    sick.asked = []
    Evaluation().run(context)
    assert sick.asked == [("tower_hd", EVALUATE, "distilled_student")], "only what is missing is asked for again"
    assert {row["site"] for row in read_json(tmp_path / ROWS_FILE)} == {UNSEEN, *SITES}


def test_a_site_that_has_failed_is_sent_no_further_model(sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of("skip"), tmp_path)
    context.save_model(context.new_model("student"), "distilled_student")
    sick.fails = {("tower_hd", EVALUATE)}
    Evaluation().run(context)
    assert [asked for asked in sick.asked if asked[0] == "tower_hd"] == [("tower_hd", EVALUATE, "fedavg_student")]


def test_the_unseen_site_is_needed_whatever_becomes_of_the_others(sick: Sick, tmp_path: Path) -> None:
    context = context_of(config_of("skip"), tmp_path)
    sick.fails = {(UNSEEN, EVALUATE)}
    with pytest.raises(UserError, match="disk is gone"):
        Evaluation().run(context)
    assert not (tmp_path / ROWS_FILE).exists()

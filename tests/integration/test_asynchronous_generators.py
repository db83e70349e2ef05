"""Generators that are trained beside the rounds are those that are trained after them, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.federation.sites import Desk, Quiet
from engine.federation.tasks import TRAIN_GENERATOR
from engine.methods import catalogue
from engine.models.roles import build_role
from engine.runs.checkpoint import CheckpointStore
from engine.runs.identity import checkpoint_hash
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from engine.stages.generator_training import GeneratorTraining
from tests.integration.test_generator_stage import SITES, Recording, backbone, config_of, context_of
from tests.patience import RUN_S, wait

__all__ = ["backbone"]
pytestmark = pytest.mark.timeout(RUN_S)


def early(context: RunContext) -> tuple[RunContext, Recording]:
    """Return the context and the reporter of the stage that begins early, as the worker makes them."""
    reporter = Recording()
    names = catalogue.method(context.config.method).stage_names
    checkpoints = CheckpointStore(
        context.run_dir / "checkpoints",
        lambda scope: checkpoint_hash(context.config, names, scope),
        warn=print,
        scope="generator_training",
    )
    return context.beside(reporter=reporter, checkpoints=checkpoints), reporter


def results(folder: Path) -> dict[str, bytes]:
    paths = [path for name in ("generators", "models") for path in (folder / name).rglob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_beside_the_rounds_and_after_them_give_the_same_bits(backbone: Path, tmp_path: Path, backend: str) -> None:
    config = config_of(
        backbone,
        **{"threads": 1, "generator.kind": "pix2pix", "federation.rounds": 1, "generator.steps": 12},
    )
    after = context_of(config, tmp_path / "after")
    FederatedTraining().run(after)
    GeneratorTraining().run(after)

    there = config.model_copy(update={"backend": backend, "workers": 2 if backend == "ray" else None})
    context = context_of(there, tmp_path / "beside")
    part, told = early(context)
    GeneratorTraining().begin(part)
    assert not part.generator_dir(SITES[0]).exists(), "nobody has waited"
    FederatedTraining().run(context)
    rounds = context.reporter
    context.reporter = told
    GeneratorTraining().run(context)
    context.close()
    expected = results(after.run_dir)
    assert results(context.run_dir) == expected and len(expected) >= 3
    records = after.reporter.records  # type: ignore[attr-defined]
    sent = {"student": "down", "generator": "up"}
    counted = [(r.site, r.kind) for r in told.records if sent.get(r.kind) == r.direction]
    assert sorted(counted) == [(site, "generator") for site in SITES], "each upload is counted once, with its own stage"
    assert [r for r in rounds.records if r.kind == "generator"] == []  # type: ignore[attr-defined]
    uploads = {(r.site, r.payload_bytes) for r in records if r.kind == "generator"}
    assert {(r.site, r.payload_bytes) for r in told.records if r.kind == "generator"} == uploads
    assert told.warnings == []


@pytest.mark.slow
def test_a_stop_keeps_what_sites_have_begun_and_going_on_ends_the_same(backbone: Path, tmp_path: Path) -> None:
    config = config_of(backbone, **{"generator.kind": "pix2pix", "generator.steps": 60})
    whole = context_of(config, tmp_path / "whole")
    GeneratorTraining().run(whole)

    context = context_of(config, tmp_path / "stopped")
    part, told = early(context)
    steps: list[int] = []
    told.progress = lambda step, total, message="": steps.append(step)  # type: ignore[method-assign]
    GeneratorTraining().begin(part)
    wait(lambda: bool(steps) and steps[-1] > 3, timeout_s=RUN_S)
    context.close()
    begun = part.checkpoints.load("generator_0")
    assert begun is not None and 0 < begun["training"]["done"] < 60
    assert not context.generator_dir(SITES[0]).exists()

    again = context_of(config, tmp_path / "stopped")
    part, _ = early(again)
    GeneratorTraining().begin(part)
    GeneratorTraining().run(again)
    again.close()
    assert results(again.run_dir) == results(whole.run_dir)


@pytest.mark.slow
def test_who_fails_beside_the_rounds_is_asked_again_after_them(backbone: Path, tmp_path: Path) -> None:
    context = context_of(config_of(backbone, **{"generator.kind": "pix2pix"}), tmp_path)
    part, told = early(context)
    damaged = context.checkpoints.path("generator_0")
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"no checkpoint")
    GeneratorTraining().begin(part)
    context.sites.finish()
    assert [words.split(" has no generator yet")[0] for words in told.warnings] == [SITES[0]]
    assert [context.generator_dir(site).is_dir() for site in SITES] == [False, True]
    with pytest.raises(UserError) as error:
        GeneratorTraining().run(context)
    assert error.value.code == "run.checkpoint_damaged"
    damaged.unlink()
    GeneratorTraining().run(context)
    assert all(context.generator_dir(site).is_dir() for site in SITES)
    context.close()


def test_sites_whose_models_only_this_process_can_make_do_one_thing_at_a_time(backbone: Path, tmp_path: Path) -> None:
    context = context_of(config_of(backbone), tmp_path)
    sites = context.open_sites(build=lambda role: build_role(context.config, role, num_classes=1))
    how: dict[str, Any] = {"kind": "student", "reply_kind": "generator", "to": SITES}
    desk = Desk("generator_training", context.server(), Quiet(), lambda: None)
    ignored = {"on_reply": lambda site, reply: None, "on_failure": lambda site, error: None}
    assert sites.begin(TRAIN_GENERATOR, **how, **ignored, desk=desk) is False


def test_a_generator_of_more_bytes_than_were_expected_is_refused(backbone: Path, tmp_path: Path) -> None:
    config = config_of(backbone, **{"threads": 1, "generator.kind": "pix2pix", "generator.steps": 1})
    context = context_of(config, tmp_path)
    refused: dict[str, str] = {}
    taken: list[str] = []
    begun = context.sites.begin(
        TRAIN_GENERATOR,
        kind="student",
        reply_kind="generator",
        to=SITES[:1],
        max_bytes=1000,
        on_reply=lambda site, reply: taken.append(site),
        on_failure=lambda site, error: refused.update({site: error.what}),
        desk=Desk("generator_training", context.server(), Quiet(), lambda: None),
    )
    assert begun
    context.sites.finish()
    assert taken == [] and list(refused) == [SITES[0]]
    assert "more than the 1,000 that were expected" in refused[SITES[0]]
    context.close()

"""A run of every stage that is killed twice ends with the same bits as one that is left alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from engine.config import RunConfig, load_config
from engine.methods import catalogue
from engine.runs import lifecycle
from engine.runs.records import RunView
from engine.runs.store import RunStore
from engine.seeding import numpy_generator

STAGES = catalogue.method("dsfedmed").stage_names

TIMEOUT_S = 1500.0
NUM_KILLS = 2


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The smoke preset from random weights: whether bits are equal does not depend on what was learnt before."""
    from engine.generation.backbone import build_backbone, save_backbone

    save_backbone(build_backbone("mini", seed=0), tmp_path / "ldm")
    overrides = {
        "student.weights": None,
        "teacher.weights": None,
        "generator.backbone": str(tmp_path / "ldm"),
        "generator.controlnet": None,
        "data.augment": "flips_colour",
        "distillation.gate": "best",
        "distillation.teacher_check": "sites",
        "threads": 1,
        "device": "cpu",
    }
    return load_config("phantom_cpu_smoke", overrides=overrides)


def finish(store: RunStore, run_id: str) -> RunView:
    deadline = time.monotonic() + TIMEOUT_S
    while store.get(run_id).active:
        assert time.monotonic() < deadline
        lifecycle.advance_queue(store)
        time.sleep(0.1)
    view = store.view(run_id)
    assert view.run.status == "finished", (view.run.error, (store.run_dir(run_id) / "worker.log").read_text())
    return view


def reached(view: RunView) -> float:
    """How many stages are done, the running one in part."""
    return sum(stage.fraction for stage in view.stages)


def kill_at(store: RunStore, run_id: str, moment: float) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while reached(store.view(run_id)) < moment:
        assert time.monotonic() < deadline and store.get(run_id).status == "running"
        time.sleep(0.02)
    pid = store.get(run_id).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while store.get(run_id).status == "running":
        lifecycle.reap(store)
        time.sleep(0.02)
    assert store.get(run_id).status == "interrupted"
    lifecycle.resume(store, run_id)


def files_of(store: RunStore, run_id: str) -> dict[str, bytes]:
    """Models, generators, synthetic images and the exported network, by path."""
    folder = store.run_dir(run_id)
    kept = ("models", "generators", "samples", "bundle")
    paths = [p for name in kept for p in (folder / name).rglob("*") if p.suffix in (".safetensors", ".png", ".onnx")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT_S)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["in order", "generators beside the rounds"])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    tmp_path: Path, config: RunConfig, asynchronous: bool
) -> None:
    store = RunStore(tmp_path / "home")
    generator = config.generator.model_copy(update={"asynchronous": asynchronous})
    config = config.model_copy(update={"generator": generator})
    whole = lifecycle.submit(store, config)
    finish(store, whole)
    seed = time.time_ns() % 2**32
    moments = sorted(numpy_generator(seed, "moments").uniform(0.05, len(STAGES) - 0.1, NUM_KILLS))
    print(f"killed at {moments} stages (seed {seed})")
    killed = lifecycle.submit(store, config)
    for moment in moments:
        kill_at(store, killed, float(moment))
    view = finish(store, killed)
    assert view.run.attempt == NUM_KILLS + 1
    ours, theirs = files_of(store, whole), files_of(store, killed)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    different = [name for name in ours if ours[name] != theirs[name]]
    assert different == [], f"killed at {moments} (seed {seed})"
    assert store.evaluation(whole) == store.evaluation(killed)
    assert store.scores(whole) == store.scores(killed)
    assert store.samples(whole, limit=1000) == store.samples(killed, limit=1000)
    curves = [[c for c in store.metrics(r) if c.name != "wall_s"] for r in (whole, killed)]
    assert curves[0] == curves[1]
    assert store.traffic(whole) == store.traffic(killed)
    store.close()

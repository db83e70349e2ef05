"""The same configuration and seed give the same bytes in-process and side by side on Ray, whoever goes on with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.config import RunConfig
from engine.federation.connect import connect
from engine.federation.sites import Server, Sites
from engine.federation.tasks import SHARE_MASKS, TRAIN_GENERATOR, TRAIN_STUDENT
from engine.methods import catalogue
from engine.models.arrays import model_arrays
from engine.models.execution import Placement
from engine.models.roles import build_role
from engine.models.weights import load_weights
from engine.runs.checkpoint import CheckpointStore
from engine.runs.identity import checkpoint_hash
from tests.patience import RUN_S

pytestmark = pytest.mark.timeout(RUN_S)
CONFIG = RunConfig(
    device="cpu",
    precision="fp32",
    threads=1,
    data={"task": "polyp", "images_per_site": 4, "image_px": 64},
    federation={"rounds": 2, "batch_size": 2},
    generator={"steps": 3, "batch_size": 1, "image_px": 64},
)


class Run:
    """A run's folder, and the sites that a back end reaches there."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.stage = folder, "federated_training"
        config = CONFIG.model_copy(update={"backend": backend, "workers": 2})
        self.sites: Sites = connect(
            config, state_root=folder / "sites", checkpoints=self.store, server=lambda: Server(lambda: None, print)
        )

    def store(self) -> CheckpointStore:
        names = catalogue.method(CONFIG.method).stage_names
        return CheckpointStore(
            self.folder / "checkpoints",
            lambda scope: checkpoint_hash(CONFIG, names, scope),
            warn=print,
            scope=self.stage,
        )

    def rounds(self, first: int, last: int, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.sites.train_rounds(TRAIN_STUDENT, kind="student", arrays=arrays, start_round=first, rounds=last)

    def ask(self, task: str) -> dict[str, dict[str, np.ndarray]]:
        self.stage = "generator_training" if task == TRAIN_GENERATOR else "generation"
        return {site: dict(reply.arrays) for site, reply in self.sites.ask(task, kind="k").items()}


def first_model(num_classes: int) -> dict[str, np.ndarray]:
    model = build_role(CONFIG, "student", num_classes=num_classes)
    load_weights(model, CONFIG.student.weights)
    return model_arrays(Placement(channels_last=True).place(model))


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and one
    for name, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[name])
        else:
            assert value.dtype == other[name].dtype and value.tobytes() == other[name].tobytes(), name


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_goes_on_from_an_in_process_run(tmp_path: Path) -> None:
    local = Run(tmp_path / "local", "local")
    start = first_model(len(local.sites.description.classes))
    after_one = local.rounds(1, 1, start)
    expected = local.rounds(2, 2, after_one)
    generators, masks = local.ask(TRAIN_GENERATOR), local.ask(SHARE_MASKS)
    assert any((expected[name] != start[name]).any() for name in start)
    assert len(generators) > 2

    begun = Run(tmp_path / "both", "local")
    assert_equal(begun.rounds(1, 1, start), after_one)
    ray = Run(tmp_path / "both", "ray")
    try:
        assert_equal(ray.rounds(2, 2, after_one), expected)  # with the optimisers' state of round 1 from the disk
        assert_equal(ray.ask(TRAIN_GENERATOR), generators)
        assert_equal(ray.ask(SHARE_MASKS), masks)
    finally:
        ray.sites.close()
    for path in sorted((tmp_path / "local" / "sites").rglob("*.safetensors")):
        assert (tmp_path / "both" / path.relative_to(tmp_path / "local")).read_bytes() == path.read_bytes()

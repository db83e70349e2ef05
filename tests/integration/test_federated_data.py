"""What each stage reads of whose images, and what delivery sends: through the real stages, on phantoms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.datasets import Federation, load_federation
from engine.data.imagesets import ImageSet
from engine.federation.payload import payload_bytes
from engine.federation.sites import Sites
from engine.models.arrays import model_arrays
from engine.models.batch_norm import MEAN, VARIANCE, batch_norm_layers
from engine.models.execution import Placement
from engine.models.objective import Objective
from engine.runs.checkpoint import CheckpointStore
from engine.site.local_training import evaluate_site
from engine.stages.context import RunContext
from engine.stages.delivery import deliver_student
from engine.stages.evaluation import Evaluation
from engine.stages.federated_training import FederatedTraining
from engine.types import EvaluationRow, ModelDifference, Traffic


@dataclass(frozen=True)
class Reading:
    """One request for images: their names, and whether they may be augmented."""

    names: tuple[str, ...]
    augmented: bool


@dataclass(frozen=True)
class WatchedSet(ImageSet):
    """Images that note who asked for them; a set that is made of several keeps the first one's notes."""

    readings: list[Reading] = field(default_factory=list, compare=False)

    def batch(
        self, indices: Sequence[int] | np.ndarray, *, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Note, then read."""
        self.readings.append(Reading(tuple(self.items[int(index)].name for index in indices), rng is not None))
        return super().batch(indices, rng=rng)


class WatchedContext(RunContext):
    """A run's context whose images note who asked for them."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.readings: list[Reading] = []

    @cached_property
    def federation(self) -> Federation:
        """The real images, watched."""
        plain = load_federation(self.config.data, seed=self.config.seed)
        sites = {
            name: replace(site, train=self._watched(site.train), validation=self._watched(site.validation))
            for name, site in plain.sites.items()
        }
        return replace(plain, sites=sites, test=replace(plain.test, test=self._watched(plain.test.test)))

    def open_sites(self, **where: Any) -> Sites:
        """Let the sites have the watched images."""
        return super().open_sites(federation=self.federation, **where)

    def names(self, part: str) -> set[str]:
        """Return the names of all images of ``train``, ``validation`` or ``test``."""
        if part == "test":
            return set(self.federation.test.test.names)
        return {name for site in self.federation.sites.values() for name in getattr(site, part).names}

    def read(self, *, augmented: bool) -> set[str]:
        """Return the names of the images that were read in this way."""
        return {name for reading in self.readings if reading.augmented == augmented for name in reading.names}

    def _watched(self, images: ImageSet) -> WatchedSet:
        return WatchedSet(
            images.items, images.image_px, images.planes, images.normalise, images.augment, images.cache, images.fit,
            readings=self.readings,
        )  # fmt: skip


class Kept(ConsoleReporter):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__("test")
        self.traffics: list[Traffic] = []
        self.rows: list[EvaluationRow] = []
        self.compared: list[ModelDifference] = []
        self.texts: list[str] = []

    def traffic(self, record: Traffic) -> None:
        """Keep."""
        self.traffics.append(record)

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        """Keep."""
        self.rows += rows

    def differences(self, rows: Sequence[ModelDifference]) -> None:
        """Keep."""
        self.compared += rows

    def log(self, level: str, text: str) -> None:
        """Keep."""
        self.texts.append(text)


def configure(**change: Any) -> RunConfig:
    data = {
        "task": "polyp",
        "images_per_site": 6,
        "image_px": 64,
        "validation_fraction": 0.34,
        "augment": "flips_colour",
    }
    return parse_config(
        {
            "data": {**data, "augment": "flips_colour"}, "device": "cpu", "precision": "fp32", "seed": 3,
            "student": {"name": "tinysam", "weights": None}, "teacher": {"name": "sam", "weights": None},
            "federation": {"rounds": 1, "batch_size": 3, "patience": 1, "average_decay": 0.5},
            "evaluation": {"bootstrap_samples": 50},
            **change,
        }
    )  # fmt: skip


def context_in(folder: Path, config: RunConfig) -> WatchedContext:
    store = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    return WatchedContext(config=config, run_dir=folder, reporter=Kept(), checkpoints=store)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedContext]:
    """Give a run that has federated training behind it."""
    found = context_in(tmp_path_factory.mktemp("read"), configure())
    FederatedTraining().run(found)
    yield found


def test_the_split_is_one(context: WatchedContext) -> None:
    parts = [context.names(part) for part in ("train", "validation", "test")]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_training_reads_training_images_and_validation_reads_validation_images_plainly(context: WatchedContext) -> None:
    assert context.read(augmented=True) == context.names("train"), "each is trained on, and no other one"
    assert context.read(augmented=False) == context.names("validation"), "each is validated on, unchanged, no other one"


def test_a_site_reads_its_own_images_alone(context: WatchedContext) -> None:
    of_site = {name: site for site, found in context.federation.sites.items() for name in found.train.names}
    batches = [reading.names for reading in context.readings if reading.augmented]
    assert all(len({of_site[name] for name in names}) == 1 for names in batches)


def test_sites_draw_orders_of_their_own(context: WatchedContext) -> None:
    orders: dict[str, list[str]] = {}
    for reading in context.readings:
        if reading.augmented:
            for name in reading.names:
                site, number = name.rsplit("_", 1)
                orders.setdefault(site, []).append(number)
    kept = {site: tuple(np.argsort(order)) for site, order in orders.items()}
    assert len(set(kept.values())) > 1, "one stream for all would give each site the same order"


def test_evaluation_reads_no_image_that_was_trained_on_and_changes_none(context: WatchedContext) -> None:
    context.readings.clear()
    context.save_model(context.new_model("student"), "distilled_student")
    Evaluation().run(context)
    assert context.read(augmented=True) == set()
    assert context.read(augmented=False) == context.names("validation") | context.names("test")
    reporter = context.reporter
    assert isinstance(reporter, Kept)
    by_split = {split: {row.site for row in reporter.rows if row.split == split} for split in ("test", "validation")}
    assert by_split == {"test": {context.federation.test.name}, "validation": set(context.federation.sites)}
    dice = {(row.model, row.site): row.dice for row in reporter.rows}
    assert {(row.model, row.baseline) for row in reporter.compared} == {("distilled_student", "fedavg_student")}
    assert {row.site for row in reporter.compared} == by_split["test"] | by_split["validation"]
    for row in reporter.compared:
        assert row.dice == pytest.approx(dice[row.model, row.site] - dice[row.baseline, row.site])


def arrays_down(reporter: Kept, kind: str) -> list[Traffic]:
    return [record for record in reporter.traffics if record.kind == kind]


def test_every_site_validates_the_mean_that_goes_on(context: WatchedContext) -> None:
    """Two models go down in the one round, the average to train on and the mean to validate; no key hides another."""
    reporter = context.reporter
    assert isinstance(reporter, Kept)
    down = [record for record in arrays_down(reporter, "student") if record.direction == "down"]
    keys = {(record.site, record.direction, record.kind, record.round) for record in down}
    assert len(down) == len(keys) == 2 * len(context.federation.sites)


def test_the_distilled_student_goes_down_once_and_is_counted(tmp_path: Path) -> None:
    context = context_in(tmp_path, configure())
    student = context.new_model("student")
    before = model_arrays(student)
    deliver_student(context, student)
    assert all(np.array_equal(before[name], array) for name, array in model_arrays(student).items())
    reporter = context.reporter
    assert isinstance(reporter, Kept)
    sent = arrays_down(reporter, "distilled")
    assert {(r.site, r.direction) for r in sent} == {(site, "down") for site in context.federation.sites}
    assert [r.payload_bytes for r in sent] == [payload_bytes(before)] * len(context.federation.sites)
    assert {r.kind for r in reporter.traffics} == {"distilled", "metrics"}
    assert context.read(augmented=False) == context.names("validation") and not context.read(augmented=True)


def pooled_statistics(model: torch.nn.Module, image: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of a layer's input over all images at once."""
    seen = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    with torch.no_grad():
        model(image)
    hook.remove()
    return seen[0].mean(dim=(0, 2, 3)), seen[0].var(dim=(0, 2, 3), unbiased=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[WatchedContext, dict[str, np.ndarray], torch.nn.Module]:
    context = context_in(
        tmp_path_factory.mktemp("measured"), configure(distillation={"batch_norm_statistics": "sites"})
    )
    student = context.new_model("student")
    before = model_arrays(student)
    deliver_student(context, student)
    return context, before, student


def test_statistics_are_those_of_all_sites_training_images_together(measured: Any) -> None:
    context, before, student = measured
    images = [site.train.batch(np.arange(len(site.train)))[0] for site in context.federation.sites.values()]
    together = torch.from_numpy(np.concatenate(images))
    original = context.new_model("student").eval()
    first = next(iter(batch_norm_layers(student)))  # what comes before the first layer is the same for every batch
    mean, variance = pooled_statistics(original, together, first)
    after = model_arrays(student)
    np.testing.assert_allclose(after[f"{first}.{MEAN}"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after[f"{first}.{VARIANCE}"], variance, rtol=1e-4, atol=1e-6)
    of_sites = [pooled_statistics(original, torch.from_numpy(part), first)[1] for part in images]
    within = sum(len(part) * own for part, own in zip(images, of_sites, strict=True)) / len(together)
    assert not np.allclose(within, variance, rtol=1e-2), "the differences between sites would not tell"
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"{layer}.{part}" for layer in batch_norm_layers(student) for part in (MEAN, VARIANCE)}


def test_statistics_come_from_training_images_plainly_read(measured: Any) -> None:
    context, _, _ = measured
    assert not context.read(augmented=True)
    assert context.read(augmented=False) == context.names("train") | context.names("validation")


def test_statistics_are_counted_and_nothing_else_comes_up(measured: Any) -> None:
    context, before, _ = measured
    sites = len(context.federation.sites)
    up = arrays_down(context.reporter, "statistics")
    own = {name: array for name, array in before.items() if name.endswith((MEAN, VARIANCE))}
    assert [(r.direction, r.payload_bytes) for r in up] == [("up", payload_bytes(own))] * sites
    sent = arrays_down(context.reporter, "distilled")
    assert [(r.direction, r.payload_bytes) for r in sent] == [("down", payload_bytes(before))] * 2 * sites
    assert len({(r.site, r.round) for r in sent}) == 2 * sites
    assert not any(r.direction == "up" for r in context.reporter.traffics if r.kind not in ("statistics", "metrics"))


def test_the_sites_say_what_the_statistics_gave(measured: Any) -> None:
    context, _, student = measured
    scores, counts = [], []
    for site in context.federation.sites.values():
        score = evaluate_site(
            student, site.validation, batch_size=3, objective=Objective(), placement=Placement(channels_last=True),
            check_cancelled=lambda: None,
        )  # fmt: skip
        scores.append(score.dice if score else 0.0)
        counts.append(len(site.validation))
    expected = f"{np.average(scores, weights=counts):.3f}"
    assert any("those of the sites" in text and expected in text for text in context.reporter.texts)


def test_asked_again_the_sites_give_the_same_bits(measured: Any, tmp_path: Path) -> None:
    context, _, student = measured
    again = context_in(tmp_path, context.config)
    other = again.new_model("student")
    deliver_student(again, other)
    first, second = model_arrays(student), model_arrays(other)
    assert all(np.array_equal(first[name], second[name]) for name in first)

"""The gate through the real stage at sites of phantoms: what is asked of whom, what is kept, going on after kills."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.config import RunConfig
from engine.data.datasets import load_federation
from engine.federation.payload import payload_bytes
from engine.models.arrays import model_arrays
from engine.runs.checkpoint import CheckpointStore
from engine.runs.gates import read_gate
from engine.stages.export import _origin
from engine.stages.mutual_distillation import MutualDistillationStage
from engine.types import RunCancelled
from tests.integration.test_federated_data import Kept, WatchedContext, configure

EPOCHS = 3
GATED = {"gate": "best", "teacher_check": "sites"}


class Curves(Kept):
    """Keeps curves too, and ends the run at its ``end_at``-th word: as a stop, or as a kill."""

    def __init__(self, *, end_at: int | None = None, how: type[BaseException] = RunCancelled) -> None:
        super().__init__()
        self.curves: dict[tuple[str, str | None], dict[int, float]] = {}
        self.left, self.how, self.words = end_at, how, 0

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Keep."""
        self.curves.setdefault((name, site), {})[step] = value

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Count."""
        self.check_cancelled()

    def check_cancelled(self) -> None:
        """Count."""
        self.words += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise self.how


class SitesImages:
    """The sites' validation images with their masks, or with background and foreground changed about.

    What is learned from the first makes validation better, from the second worse.
    """

    def __init__(self, config: RunConfig, *, inverted: bool) -> None:
        sites = load_federation(config.data, seed=config.seed).sites.values()
        parts = [site.validation.batch(np.arange(len(site.validation))) for site in sites]
        self.image, mask = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.mask = 1 - mask if inverted else mask
        self.names = tuple(f"v{i}" for i in range(len(mask)))

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Sequence[int] | np.ndarray, *, rng: Any = None) -> tuple[np.ndarray, np.ndarray]:
        return self.image[indices], self.mask[indices]


def distil(
    folder: Path, *, start: Path | None = None, reporter: Curves | None = None, **part: Any
) -> tuple[WatchedContext, Curves]:
    """Run the stage in ``folder``, going on where there is a checkpoint.

    It begins with the released mini weights and learns what is right, or with the student that the run in ``start`` has
    made of these, and learns what is wrong.
    """
    values = {"epochs": EPOCHS, "batch_size": 4, "selection_rate": 1.0, "student_learning_rate": 5e-4, **part}
    config = configure(
        student={"name": "tinysam", "weights": "tinysam-mini", "batch_norm": "kept"},
        teacher={"name": "sam", "weights": "sam-mini"},
        distillation=values,
        dice_weight=1.0,
        threads=1,
    )
    reporter = reporter or Curves()
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = WatchedContext(config=config, run_dir=folder, reporter=reporter, checkpoints=checkpoints)
    if not context.model_path("fedavg_student").is_file():
        context.save_model(context.new_model("student"), "fedavg_student")
        context.save_model(context.new_model("teacher"), "finetuned_teacher")
        if start is not None:
            shutil.copy(start / "models" / "distilled_student.safetensors", context.model_path("fedavg_student"))
    MutualDistillationStage(pool=lambda given: SitesImages(given.config, inverted=start is not None)).run(context)
    return context, reporter


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / f"{name}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[WatchedContext, Curves]:
    return distil(tmp_path_factory.mktemp("gated"), **GATED)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory, gated: Any) -> tuple[WatchedContext, Curves]:
    return distil(tmp_path_factory.mktemp("worse"), start=gated[0].run_dir, gate="best")


def pooled(context: WatchedContext, student: torch.nn.Module) -> float:
    """Dice of every validation image at one place, by a few lines of our own."""
    student.eval()
    found = []
    for site in context.federation.sites.values():
        image, mask = site.validation.batch(np.arange(len(site.validation)))
        with torch.no_grad():
            predicted = student(torch.from_numpy(image)) > 0
        step = mask.shape[-1] // predicted.shape[-1]
        truth = torch.from_numpy(mask[..., step // 2 :: step, step // 2 :: step].copy()) > 0
        overlap = (predicted & truth).flatten(2).sum(2)
        size = predicted.flatten(2).sum(2) + truth.flatten(2).sum(2)
        found.append(torch.where(size == 0, torch.ones(1), 2 * overlap / size.clamp(min=1)).mean(1))
    return float(torch.cat(found).mean())


def test_validation_images_alone_are_asked_and_every_message_is_counted_once(gated: Any) -> None:
    context, reporter = gated
    sites, student = set(context.federation.sites), context.load_model("student", "distilled_student")
    assert context.read(augmented=True) == set()
    assert context.read(augmented=False) == context.names("validation"), "no test image, and nothing of training"
    assert {record.site for record in reporter.traffics} == sites
    down = [record for record in reporter.traffics if record.kind != "metrics"]
    counts = {kind: sum(r.kind == kind for r in down) for kind in {r.kind for r in down}}
    assert counts == {
        "candidate": (EPOCHS + 1) * len(sites),
        "checked_teacher": len(sites),
        "distilled": len(sites),
    }
    assert all(record.direction == "down" for record in down), "figures alone come up"
    keys = {(r.site, r.direction, r.kind, r.round) for r in reporter.traffics}
    assert len(keys) == len(reporter.traffics), "no message hides another in the ledger"
    size = payload_bytes(model_arrays(student))
    assert {r.payload_bytes for r in down if r.kind != "checked_teacher"} == {size}


def test_an_epoch_that_the_sites_find_better_is_kept(gated: Any) -> None:
    context, reporter = gated
    record, curve = read_gate(context.run_dir), reporter.curves["val_dice", None]
    assert record is not None and sorted(curve) == list(range(EPOCHS + 1)) and record.dice == tuple(curve.values())
    assert record.kept_epoch > 0 and curve[record.kept_epoch] == max(curve.values()) > curve[0]
    student = context.load_model("student", "distilled_student")
    assert pooled(context, student) == pytest.approx(curve[record.kept_epoch], abs=2e-3)
    assert pooled(context, context.load_model("student", "fedavg_student")) == pytest.approx(curve[0], abs=2e-3)
    assert pooled(context, context.load_model("teacher", "finetuned_teacher")) == pytest.approx(
        record.teacher_dice, abs=2e-3
    )
    for site, found in context.federation.sites.items():
        assert len(found.validation) == 0 or sorted(reporter.curves["val_dice", site]) == list(range(EPOCHS + 1))
    assert any(text.startswith(f"Epoch {record.kept_epoch} of distillation is kept") for text in reporter.texts)
    assert record.student_listens is (record.teacher_dice >= curve[0])
    assert _origin(context, {"distilled_student": "itself"}, "distilled_student") == "itself"  # type: ignore[dict-item]


def test_where_every_epoch_is_worse_fedavg_s_own_goes_on_and_it_is_said(worse: Any) -> None:
    context, reporter = worse
    record = read_gate(context.run_dir)
    assert record is not None and record.keeps_the_first and record.dice[0] > max(record.dice[1:])
    assert same(weights(context.run_dir, "distilled_student"), weights(context.run_dir, "fedavg_student"))
    assert any("Distillation did not help; FedAvg's model is kept" in text for text in reporter.texts)
    made: Any = {"distilled_student": "distilled", "fedavg_student": "fedavg"}
    assert _origin(context, made, "distilled_student") == "fedavg", "the bundle is called what it is"


def test_the_mean_that_the_sites_allow_is_kept(gated: Any, worse: Any, tmp_path: Path) -> None:
    """Nothing is lost by what is right, so the distilled student is kept; of what is wrong as much as they allow."""
    best, _ = gated
    context, reporter = distil(tmp_path / "right", **{**GATED, "gate": "mix", "gate_tolerance": 0.5})
    record = read_gate(context.run_dir)
    assert record is not None and record.share == 1.0 and len(record.dice) == 1
    student = context.load_model("student", "distilled_student")
    assert pooled(context, student) == pytest.approx(dict(record.mixes)[1.0], abs=2e-3)
    assert record.dice[0] == read_gate(best.run_dir).dice[0], "before, both gates ask the same"
    assert same(weights(context.run_dir, "distilled_teacher"), weights(best.run_dir, "distilled_teacher"))
    down = [r for r in reporter.traffics if r.kind == "candidate"]
    assert len(down) == 5 * len(context.federation.sites), "before, and four means"
    assert len({(r.site, r.round) for r in down}) == len(down)
    assert {step: value for step, value in reporter.curves["mix_dice", None].items()} == pytest.approx(
        {round(100 * share): dice for share, dice in record.mixes}
    )
    assert sorted(reporter.curves["val_dice", None]) == [0]

    context, reporter = distil(tmp_path / "wrong", start=best.run_dir, gate="mix", gate_tolerance=0.0)
    record = read_gate(context.run_dir)
    allowed = [share for share, dice in record.mixes if dice >= record.dice[0]]
    assert record.share == max(allowed, default=0.0) < 1.0
    kept, first = (weights(context.run_dir, name) for name in ("distilled_student", "fedavg_student"))
    last = weights(worse[0].run_dir, "fedavg_student") if not record.share else None
    if last is not None:
        assert same(kept, first)
    assert any(text.startswith(record.sentences()[0]) for text in reporter.texts)


def context_dice(context: WatchedContext) -> tuple[float, ...]:
    record = read_gate(context.run_dir)
    assert record is not None
    return record.dice


def test_the_gate_disturbs_no_training(gated: Any, worse: Any, tmp_path: Path) -> None:
    """Off, the last student is kept; the teacher, which no gate chooses, has the same bits with it and without."""
    context, reporter = worse
    _, plain = distil(tmp_path, start=gated[0].run_dir)
    assert same(weights(tmp_path, "distilled_teacher"), weights(context.run_dir, "distilled_teacher"))
    assert not same(weights(tmp_path, "distilled_student"), weights(context.run_dir, "distilled_student"))
    assert plain.curves["student_loss", None] == reporter.curves["student_loss", None]
    assert read_gate(tmp_path) is None and {r.kind for r in plain.traffics} == {"distilled", "metrics"}
    watched, told = distil(tmp_path / "watched", start=gated[0].run_dir, gate="watch")
    for name in ("distilled_student", "distilled_teacher"):
        assert same(weights(watched.run_dir, name), weights(tmp_path, name)), "figures were asked for, and nothing else"
    record = read_gate(watched.run_dir)
    assert record is not None and record.is_watched and record.kept_epoch == EPOCHS
    assert record.dice == tuple(told.curves["val_dice", None].values()) == context_dice(context)
    assert told.traffics[: len(reporter.traffics)] == reporter.traffics, "as much goes down as with the gate"


@pytest.mark.parametrize("how", [RunCancelled, KeyboardInterrupt], ids=["stopped", "killed"])
def test_ended_anywhere_and_gone_on_with_it_has_the_same_weights(gated: Any, tmp_path: Path, how: Any) -> None:
    """A kill saves nothing: the run goes on from whatever the last checkpoint has."""
    whole, told = gated
    ended = 0
    for share in (0.2, 0.4, 0.4, 9.0):
        try:
            context, reporter = distil(tmp_path, reporter=Curves(end_at=int(share * told.words), how=how), **GATED)
            break
        except how:
            ended += 1
    assert ended >= 2 and read_gate(context.run_dir) == read_gate(whole.run_dir)
    for name in ("distilled_student", "distilled_teacher"):
        assert same(weights(tmp_path, name), weights(whole.run_dir, name)), name
    assert told.curves["val_dice", None][EPOCHS] == reporter.curves["val_dice", None][EPOCHS]

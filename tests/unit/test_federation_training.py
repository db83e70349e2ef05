"""A site's local epochs: named randomness, Adam's state on the site's own disk, bad losses, validation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.tasks import SiteRequest
from engine.models.arrays import buffer_names, load_arrays, model_arrays
from engine.models.execution import Placement
from engine.models.objective import Objective
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter
from engine.site.local_training import evaluate_site, train_site
from engine.site.optimiser_files import load_optimiser, save_optimiser
from engine.site.round_files import KEPT_ROUNDS
from tests.unit.federation_world import CONFIG, CPU, SEED, Discs, build_unet, student_tasks

TRAIN = Discs("north", 5)


def train(model: nn.Module, state_dir: Path, *, number: int = 1, images: object = TRAIN, **change: object) -> float:
    arguments = {"config": CONFIG, "objective": Objective(), "placement": CPU, "check_cancelled": lambda: None}
    return train_site(
        model,
        images,
        **{**arguments, **change},
        seed=SEED,
        site="north",
        round_number=number,
        state_dir=state_dir,
    )


@dataclass(frozen=True)
class Recorded(Discs):
    """Discs that remember the order in which they were asked for."""

    order: list[list[int]]

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert rng is not None
        self.order.append([int(index) for index in indices])
        return super().batch(indices)


def orders(state_dir: Path, *, number: int) -> list[list[int]]:
    recorded = Recorded("north", 5, order=[])
    train(build_unet(), state_dir, number=number, images=recorded)
    return recorded.order


def test_every_image_once_an_epoch_in_an_order_of_its_own(tmp_path: Path) -> None:
    first = orders(tmp_path / "a", number=1)
    assert [len(batch) for batch in first] == [2, 2, 1, 2, 2, 1]
    assert sorted(chain(*first[:3])) == sorted(chain(*first[3:])) == list(range(5))
    assert first[:3] != first[3:]
    assert orders(tmp_path / "b", number=1) == first
    assert orders(tmp_path / "c", number=2) != first


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    model = build_unet()
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(model, tmp_path)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_round_run_again_gives_the_same_bits_though_its_state_was_written(tmp_path: Path) -> None:
    arrays, results = None, []
    for number in (1, 2, 2):
        model = build_unet()
        if number == 2 and arrays is not None:
            load_arrays(model, arrays)
        loss = train(model, tmp_path, number=number)
        if number == 1:
            arrays = model_arrays(model)
        else:
            results.append((loss, model_arrays(model)))
    (loss, first), (again, second) = results
    assert loss == again
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_adams_state_goes_on_from_round_to_round(tmp_path: Path) -> None:
    kept, fresh = build_unet(), build_unet()
    train(kept, tmp_path / "a", number=1)
    load_arrays(fresh, model_arrays(kept))
    train(kept, tmp_path / "a", number=2)
    train(fresh, tmp_path / "b", number=2)
    assert not np.array_equal(model_arrays(kept)["model.0.conv.weight"], model_arrays(fresh)["model.0.conv.weight"])


def test_the_newest_states_are_kept_and_later_ones_dropped(tmp_path: Path) -> None:
    model = build_unet()
    optimiser = torch.optim.Adam(model.parameters())
    for number in range(1, 7):
        save_optimiser(optimiser, model=model, folder=tmp_path, round_number=number)
    assert _rounds_in(tmp_path) == [4, 5, 6] and KEPT_ROUNDS == 3
    save_optimiser(optimiser, model=model, folder=tmp_path, round_number=5)
    assert _rounds_in(tmp_path) == [4, 5]
    for number, expected in [(6, 5), (9, 5), (5, 4), (4, 0)]:
        assert load_optimiser(optimiser, model=model, folder=tmp_path, round_number=number) == expected


def test_a_site_that_is_asked_now_and_then_keeps_the_state_that_an_earlier_round_needs(tmp_path: Path) -> None:
    """Killed between its own state of round 60 and its reply, it is asked for round 60 again: from that of 21."""
    model = nn.Linear(1, 1)
    optimiser = torch.optim.Adam(model.parameters())
    for number in (2, 9, 21, 60):
        save_optimiser(optimiser, model=model, folder=tmp_path, round_number=number)
    assert _rounds_in(tmp_path) == [9, 21, 60]
    assert load_optimiser(optimiser, model=model, folder=tmp_path, round_number=60) == 21
    save_optimiser(optimiser, model=model, folder=tmp_path, round_number=20)
    assert _rounds_in(tmp_path) == [9, 20], "what comes after a round that is run again is void"


def _rounds_in(folder: Path) -> list[int]:
    assert all(path.suffix == ".safetensors" for path in folder.iterdir())
    return sorted(int(path.stem.split("_")[-1]) for path in folder.iterdir())


def test_the_state_is_adams_and_nothing_else(tmp_path: Path) -> None:
    model = build_unet()
    train(model, tmp_path)
    with safe_open(tmp_path / "adam_round_000001.safetensors", "pt") as file:
        keys = set(file.keys())
    names = [name for name, _ in model.named_parameters()]
    assert keys == {f"{field}/{name}" for name in names for field in ("step", "exp_avg", "exp_avg_sq")}


@dataclass(frozen=True)
class Broken(Discs):
    """Discs whose image 0 is not a number."""

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        image_B3HW, mask_BKHW = super().batch(indices)
        image_B3HW[np.asarray(indices) == 0] = np.nan
        return image_B3HW, mask_BKHW


def test_a_loss_that_is_not_finite_names_site_round_and_step(tmp_path: Path) -> None:
    model = build_unet()
    steps: list[int] = []
    with pytest.raises(UserError) as caught:
        train(model, tmp_path, number=4, images=Broken("north", 5), on_step=lambda step, total: steps.append(step))
    assert caught.value.code == "federation.loss_not_finite"
    assert caught.value.what == f"The loss at site north is nan in round 4, step {len(steps) + 1}."
    assert not list(tmp_path.iterdir())


def test_the_proximal_term_pulls_by_mu_times_the_way_gone(tmp_path: Path) -> None:
    """After two steps Adam's first moment is 0.9 * 0.1 g1 + 0.1 g2; FedProx adds mu (theta_1 - theta_0) to g2 alone."""
    config = CONFIG.model_copy(update={"local_epochs": 1, "batch_size": 3})
    before_step: list[dict[str, np.ndarray]] = []
    model = build_unet()
    train(model, tmp_path / "0", config=config, check_cancelled=lambda: before_step.append(model_arrays(model)))
    train(build_unet(), tmp_path / "1", config=config.model_copy(update={"proximal_mu": 0.7}))
    plain, pulled = (load_file(tmp_path / name / "adam_round_000001.safetensors") for name in "01")
    assert len(before_step) == 2
    for name, _ in model.named_parameters():
        gone = before_step[1][name] - before_step[0][name]
        pull = (pulled[f"exp_avg/{name}"] - plain[f"exp_avg/{name}"]).numpy()
        np.testing.assert_allclose(pull, 0.1 * 0.7 * gone, rtol=1e-3, atol=1e-6)
        assert np.abs(gone).max() > 1e-3


def test_steps_are_told_in_order(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    train(build_unet(), tmp_path, on_step=lambda step, total: told.append((step, total)))
    assert told == [(step, 6) for step in range(1, 7)]


@pytest.mark.parametrize("placement", [Placement(channels_last=True), Placement(precision="bf16")])
def test_other_placements_train_as_well(tmp_path: Path, placement: Placement) -> None:
    losses = []
    for name, where in (("plain", CPU), ("other", placement)):
        model = where.place(build_unet())
        losses.append(train(model, tmp_path / name, placement=where))
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


class Constant(nn.Module):
    """Logits of one value on half the image's grid."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        side_px = image_B3HW.shape[-1] // 2
        return torch.full((len(image_B3HW), 1, side_px, side_px), self.logit)


def test_validation_is_dice_at_one_half_on_the_decoders_grid() -> None:
    images = Discs("north", 3)
    areas = [images.batch(np.array([i]))[1][..., 1::2, 1::2].mean() for i in range(3)]
    expected = np.mean([2 * area / (area + 1) for area in areas])  # everything predicted as foreground
    score = evaluate_site(
        Constant(0.01), images, batch_size=2, objective=Objective(), placement=CPU, check_cancelled=lambda: None
    )
    assert score is not None and score.dice == pytest.approx(expected, rel=1e-4)
    nothing = evaluate_site(
        Constant(-0.01), images, batch_size=2, objective=Objective(), placement=CPU, check_cancelled=lambda: None
    )
    assert nothing is not None and nothing.dice < 1e-4


def test_the_split_into_batches_does_not_change_validation() -> None:
    scores = [
        evaluate_site(
            build_unet(),
            Discs("north", 5),
            batch_size=size,
            objective=Objective(),
            placement=CPU,
            check_cancelled=lambda: None,
        )
        for size in (1, 2, 5)
    ]
    assert all(score is not None for score in scores)
    assert {round(score.dice, 6) for score in scores if score} == {round(scores[0].dice, 6)}  # type: ignore[union-attr]
    assert scores[0].loss == pytest.approx(scores[2].loss, rel=1e-5)  # type: ignore[union-attr]


def test_no_validation_images_no_score(tmp_path: Path) -> None:
    tasks = student_tasks(tmp_path, validation={"north": Discs("north", 0)})
    reply = tasks["train.student"](SiteRequest("north", "train.student", 1, {}, model_arrays(build_unet())))
    assert set(reply.metrics) == {"loss", "wall_s"}


def test_buffers_are_all_that_is_no_parameter() -> None:
    names = buffer_names(build_unet())
    assert {name.rsplit(".", 1)[1] for name in names} == {"running_mean", "running_var", "num_batches_tracked"}


def test_tinysam_trains_and_is_never_stale(tmp_path: Path) -> None:
    """The mini student through both tasks: a round validates what it was sent, a query what the round made."""

    def build() -> Segmenter:
        model = build_model("tinysam", size="mini", image_px=64, seed=1)
        assert isinstance(model, Segmenter)
        return model

    tasks = student_tasks(
        tmp_path,
        build=build,
        train={"north": _Large("north", 2)},
        validation={"north": _Large("validation", 2)},
        config=FederationConfig(rounds=1, batch_size=2, learning_rate=1e-3),
        dice_weight=0.5,
    )
    first = model_arrays(build())
    before = tasks["query.student"](SiteRequest("north", "query.student", 0, {}, first))
    reply = tasks["train.student"](SiteRequest("north", "train.student", 1, {}, first))
    after = tasks["query.student"](SiteRequest("north", "query.student", 1, {}, reply.arrays))
    again = tasks["query.student"](SiteRequest("north", "query.student", 0, {}, first))
    assert reply.metrics["val_loss"] == before.metrics["val_loss"] == again.metrics["val_loss"]
    assert after.metrics["val_loss"] < before.metrics["val_loss"]
    assert reply.arrays.keys() == first.keys()


@dataclass(frozen=True)
class _Large(Discs):
    """Discs at twice the side."""

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        image_B3HW, mask_BKHW = super().batch(indices)
        return image_B3HW.repeat(2, axis=2).repeat(2, axis=3), mask_BKHW.repeat(2, axis=2).repeat(2, axis=3)

    def content(self, indices: np.ndarray) -> np.ndarray:
        return super().content(indices).repeat(2, axis=2).repeat(2, axis=3)

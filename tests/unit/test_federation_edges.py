"""Where the federation changes over: one image, round 0, a slow network, a renamed state; BatchNorm by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from engine.errors import UserError
from engine.federation import exchange
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.checks import check_reply
from engine.federation.client_app import build_client_app
from engine.federation.exchange import ask, find_sites
from engine.federation.rounds import Failure, RoundResult, call_once, run_rounds
from engine.federation.statistics import combine_statistics
from engine.federation.tasks import SiteReply, SiteRequest
from engine.models.arrays import model_arrays
from engine.models.execution import Placement
from engine.models.objective import Objective
from engine.site.local_training import evaluate_site
from engine.site.optimiser_files import load_optimiser, save_optimiser
from engine.site.statistics import measure_statistics
from engine.types import Traffic
from tests.unit.federation_world import SEED, Discs, build_unet, student_tasks

SITES = ("north", "south")
WEIGHT = {"w": np.zeros((2, 2), np.float32)}


def echo(request: SiteRequest) -> SiteReply:
    return SiteReply(dict(request.arrays), {"round": float(request.round)}, 1)


def test_a_site_of_one_image_counts() -> None:
    check_reply(SiteReply(WEIGHT, {"loss": 0.0}, 1), site="north", round_number=1, sent=WEIGHT)
    with pytest.raises(UserError, match="it counts 0 examples"):
        check_reply(SiteReply(WEIGHT, {"loss": 0.0}, 0), site="north", round_number=1, sent=WEIGHT)


def test_what_is_asked_once_is_asked_in_round_zero() -> None:
    traffic: list[Traffic] = []
    grid = InProcessGrid(build_client_app({"query": echo}), sites=SITES)
    replies = call_once(grid, task="query", kind="student", sites=SITES, arrays=WEIGHT, on_traffic=traffic.append)
    assert [reply.metrics["round"] for reply in replies.values()] == [0.0, 0.0]
    assert {record.round for record in traffic} == {0}


class Known(InProcessGrid):
    """A grid that knows which node is which site: all sites of a question are asked side by side."""

    def site_nodes(self, sites: Sequence[str], *, wait_s: float) -> dict[str, int]:
        del wait_s
        return {site: node_id for site, node_id in zip(SITES, self.get_node_ids(), strict=True) if site in sites}


def north_fails(request: SiteRequest) -> SiteReply:
    if request.site == "north":
        raise RuntimeError("the disk is gone")
    return echo(request)


@pytest.mark.parametrize("of", [InProcessGrid, Known])
def test_what_is_asked_once_may_lack_a_site(of: type[InProcessGrid]) -> None:
    failures: list[Failure] = []
    asked: dict[str, Any] = {"task": "query", "kind": "student", "sites": SITES, "on_failure": failures.append}
    grid = of(build_client_app({"query": north_fails}), sites=SITES)
    assert list(call_once(grid, **asked, may_lack=True)) == ["south"]
    (failure,) = failures
    assert (failure.site, failure.attempt, failure.stops) == ("north", None, False)
    with pytest.raises(UserError, match="the disk is gone"):
        call_once(grid, **asked)
    assert failures[-1].stops


@pytest.mark.parametrize("code", ["federation.bad_reply", "generator.upload_misfit", "generator.withheld"])
def test_a_reply_that_its_reader_refuses_is_its_sites_failure_and_another_word_ends_the_run(code: str) -> None:
    def read(_round: int, site: str, _reply: SiteReply) -> None:
        if site == "north":
            raise UserError(code, what="Not this.", why="Because.", fix="Mend it.")

    rounds: list[RoundResult] = []
    grid = InProcessGrid(build_client_app({"train.student": echo}), sites=SITES)
    how: dict[str, Any] = {"arrays": WEIGHT, "sites": SITES, "rounds": 1, "on_reply": read, "on_round": rounds.append}
    if code == "generator.withheld":
        with pytest.raises(UserError, match="Not this"):
            run_rounds(grid, quorum=1, **how)
    else:
        run_rounds(grid, quorum=1, **how)
        assert list(rounds[0].metrics) == ["south"] and rounds[0].failures["north"].code == code


class Remote(Grid):
    """A network: an in-process grid behind another class, whose answers come at the third look."""

    def __init__(self, grid: InProcessGrid) -> None:
        self._grid, self.looks = grid, 0

    @property
    def run(self) -> Any:
        return self._grid.run

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        return self._grid.create_message(*arguments, **named)

    def get_node_ids(self) -> list[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.looks += 1
        return self._grid.pull_messages(message_ids) if self.looks > 2 else []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


def test_a_network_is_asked_again_after_a_pause_and_not_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(exchange, "sleep", pauses.append)
    inside = InProcessGrid(build_client_app({"query": echo}), sites=SITES)
    nodes = find_sites(inside, sites=SITES)
    requests = [SiteRequest(site, "query", 1, {}, WEIGHT) for site in SITES]
    remote = Remote(inside)
    found = [site for site, _ in ask(remote, requests, nodes=nodes, kind="student")]
    assert found == list(SITES) and remote.looks == 4
    assert pauses == [0.5, 0.5], "twice there was nothing"
    assert [site for site, _ in ask(inside, requests, nodes=nodes, kind="student")] == list(SITES)
    assert len(pauses) == 2, "in one process nothing comes by waiting"


class Muddled(Remote):
    """A network that gives each answer twice, the last one first, and one that nobody has asked for."""

    def __init__(self, grid: InProcessGrid) -> None:
        super().__init__(grid)
        self.answers: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ids = list(message_ids)
        while found := self._grid.pull_messages(ids):
            self.answers += found
        stray = self._grid.send_and_receive(
            [Message(RecordDict(), dst_node_id=self.get_node_ids()[0], message_type="query.who")]
        )
        return [*reversed(self.answers), *self.answers, *stray]


def test_replies_that_come_twice_in_another_order_or_unasked_leave_a_round_what_it_is() -> None:
    def own(request: SiteRequest) -> SiteReply:
        factor = np.float32(1.3 if request.site == "north" else 0.7)
        return SiteReply({"w": request.arrays["w"] * factor + 1}, {}, len(request.site))

    inside = InProcessGrid(build_client_app({"student": own}), sites=SITES)
    plain = run_rounds(inside, arrays=WEIGHT, sites=SITES, rounds=3)
    came: list[tuple[int, str]] = []
    found = run_rounds(
        Muddled(inside), arrays=WEIGHT, sites=SITES, rounds=3, on_reply=lambda *told: came.append(told[:2])
    )
    assert np.array_equal(found["w"], plain["w"])
    assert came == [(number, site) for number in (1, 2, 3) for site in ("south", "north")]


def test_a_rounds_mean_weighs_by_images_and_needs_every_site() -> None:
    metrics = {"north": {"loss": 1.0, "dice": 0.5}, "south": {"loss": 4.0}}
    result = RoundResult(1, {}, metrics, {"north": 2, "south": 1}, {}, 0.0)
    assert result.mean("loss") == pytest.approx((2 * 1.0 + 1 * 4.0) / 3)
    assert result.mean("dice") is None and result.mean("wall_s") is None


def test_a_state_whose_tensors_have_changed_names_is_damaged(tmp_path: Path) -> None:
    """Bytes and order are as they were written; only what they belong to is not."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    folder = tmp_path / "of a site" / "that is new"
    save_optimiser(optimiser, model=model, folder=folder, round_number=1)
    assert load_optimiser(optimiser, model=model, folder=folder, round_number=2) == 1
    (path,) = folder.iterdir()
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    renamed = {key.replace("1.weight", "2.weight"): tensor for key, tensor in tensors.items()}
    assert len(renamed) == len(tensors) and renamed.keys() != tensors.keys()
    save_file(renamed, path, metadata=metadata)
    with pytest.raises(UserError) as caught:
        load_optimiser(optimiser, model=model, folder=folder, round_number=2)
    assert caught.value.code == "federation.site_state_damaged"


class TwoImages:
    """Two pictures of two pixels, whose channels are 1 3 and 5 7 (twice that, and thrice, in the other two)."""

    def __len__(self) -> int:
        return 2

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert rng is None, "statistics are of images as they are"
        values = np.array([[1.0, 3.0], [5.0, 7.0]], np.float32)[indices]  # (B, 2 pixels)
        planes = np.stack([values, 2 * values, 3 * values], axis=1)[:, :, None]  # (B, 3, 1, 2)
        return planes.astype(np.float32), np.zeros((len(indices), 1, 1, 2), np.uint8)

    def content(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), 1, 1, 2), np.uint8)


def test_statistics_are_those_of_all_pixels_and_each_batch_is_normalised_by_itself() -> None:
    """One image a batch. The first layer sees 1 3 5 7: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5.

    Normalised by itself (eps 0 to rounding) each image is -1 1 in every channel, so the second layer, which is given
    2 x + 10, sees 8 12 8 12: mean 10, variance 4. Normalised by the layer's old statistics (mean 0, variance 1) it
    would see 12 16 20 24.
    """
    model = nn.Sequential(nn.BatchNorm2d(3, eps=1e-12), nn.BatchNorm2d(3, eps=1e-12))
    second = model[1]
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[0].bias.fill_(10.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    momenta, asked = (model[0].momentum, second.momentum), []
    found = measure_statistics(
        model,
        TwoImages(),
        batch_size=1,
        seed=1,
        site="north",
        placement=Placement(),
        check_cancelled=lambda: asked.append(1),
    )
    expected = {
        "0.running_mean": [4.0, 8.0, 12.0],
        "0.running_var": [5.0, 20.0, 45.0],
        "1.running_mean": [10.0, 10.0, 10.0],
        "1.running_var": [4.0, 4.0, 4.0],
    }
    assert found.keys() == expected.keys() and len(asked) == 2
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
        assert found[name].dtype == np.float32
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)
    assert (model[0].momentum, second.momentum) == momenta and not model[0].training


def test_statistics_of_sites_together_are_those_of_their_images_in_one_place() -> None:
    """North has 3 images of mean 1 and variance 2, south 1 of mean 5 and variance 6.

    Mean (3 x 1 + 5) / 4 = 2; variance 3/4 (2 + 1) + 1/4 (6 + 9) = 2.25 + 3.75 = 6.
    """
    north = SiteReply(
        {"n.running_mean": np.array([1.0], np.float32), "n.running_var": np.array([2.0], np.float32)}, {}, 3
    )
    south = SiteReply(
        {"n.running_mean": np.array([5.0], np.float32), "n.running_var": np.array([6.0], np.float32)}, {}, 1
    )
    found = combine_statistics({"south": south, "north": north})
    assert {name: array.tolist() for name, array in found.items()} == {"n.running_mean": [2.0], "n.running_var": [6.0]}
    assert all(array.dtype == np.float32 for array in found.values())


class ThreeMasks:
    """Images of 4 x 4 pixels with no foreground, nothing else, and half of it."""

    def __len__(self) -> int:
        return 3

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert rng is None, "validation is on images as they are"
        mask = np.zeros((3, 1, 4, 4), np.uint8)
        mask[1], mask[2, :, :2] = 1, 1
        return np.zeros((len(indices), 3, 4, 4), np.float32), mask[indices]

    def content(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), 1, 4, 4), np.uint8)


class Undecided(nn.Module):
    """Logit 0 everywhere: probability one half, which is no foreground."""

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(image_B3HW[:, :1])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_validation_is_the_mean_over_images_however_they_are_batched(batch_size: int) -> None:
    """Each pixel costs log 2, foreground twice that: the images cost log 2, 2 log 2 and 1.5 log 2.

    Nothing is predicted: Dice is 1 for the empty mask, and 1e-4 / (16 + 1e-4) and 1e-4 / (8 + 1e-4) for the others.
    """
    score = evaluate_site(
        Undecided(),
        ThreeMasks(),
        batch_size=batch_size,
        objective=Objective(pos_weight=2.0),
        placement=Placement(),
        check_cancelled=lambda: None,
    )
    assert score is not None
    assert score.loss == pytest.approx(1.5 * np.log(2))
    assert score.dice == pytest.approx((1 + 1e-4 / (16 + 1e-4) + 1e-4 / (8 + 1e-4)) / 3)


@pytest.mark.parametrize("task", ["query.student", "query.statistics"])
def test_a_site_answers_of_the_model_that_was_sent(task: str, tmp_path: Path) -> None:
    """One process, one model: what it was asked of before does not count."""
    tasks = student_tasks(tmp_path)
    for factor in (1.0, -3.0):
        model = build_unet()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        found = tasks[task](SiteRequest("north", task, 1, {}, model_arrays(model)))
        how = {"batch_size": 2, "placement": Placement(), "check_cancelled": lambda: None}
        score = evaluate_site(model, Discs("north-validation", 2), objective=Objective(), **how)  # type: ignore[arg-type]
        assert score is not None and found.metrics["val_loss"] == pytest.approx(score.loss)
        assert found.metrics["val_dice"] == pytest.approx(score.dice) and found.metrics["val_images"] == 2
        if task == "query.statistics":
            expected = measure_statistics(model, Discs("north", 5), seed=SEED, site="north", **how)  # type: ignore[arg-type]
            assert expected.keys() == found.arrays.keys() and found.num_examples == 5
            for name, values in expected.items():
                np.testing.assert_allclose(found.arrays[name], values, rtol=1e-5)
        else:
            assert not found.arrays and found.num_examples == 2

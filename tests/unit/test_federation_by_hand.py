"""The stage of federated training against numpy, in every switch that changes its numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.datasets import Federation, Site
from engine.errors import UserError
from engine.federation.sites import Sites
from engine.federation.tasks import TRAIN_STUDENT, SiteReply, SiteRequest
from engine.runs.checkpoint import CheckpointStore
from engine.site.program import SiteProgram
from engine.stages.context import Role, RunContext
from engine.stages.federated_training import FederatedTraining
from engine.types import RunCancelled
from tests.unit import federation_by_hand as by_hand
from tests.unit.federation_by_hand import VALIDATION, OneLayer, Switches, Weights
from tests.unit.federation_world import SITES, SIZES, Discs

FEDERATION = {"rounds": 2, "batch_size": 2, "learning_rate": 0.05}
ROUNDED = {"north": 0.42, "south": 0.25, "west": 0.33}  # of 5, 3 and 4 images; west, the last by name, has the rest
NORM = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
CASES: list[tuple[dict[str, Any], Switches]] = [
    ({}, Switches()),
    ({"federation": {"local_epochs": 2}}, Switches(epochs=2)),
    ({"federation": {"rounds": 4, "batch_size": 3}}, Switches(rounds=4, batch=3)),
    ({"federation": {"learning_rate": 0.01}}, Switches(rate=0.01)),
    ({"pos_weight": 3.5}, Switches(pos_weight=3.5)),
    ({"dice_weight": 0.7}, Switches(dice_weight=0.7)),
    ({"federation": {"aggregation_weights": "rounded"}}, Switches(shares=ROUNDED)),
    ({"federation": {"average_buffers": False}}, Switches(averages_buffers=False)),
    ({"student": {"name": "tinysam", "weights": "tinysam-mini", "batch_norm": "kept"}}, Switches(keeps=True)),
    ({"federation": {"rounds": 4, "average_decay": 0.6}}, Switches(rounds=4, decay=0.6)),
    ({"seed": 12}, Switches(seed=12)),
    ({"federation": {"proximal_mu": 0.8, "local_epochs": 2}}, Switches(mu=0.8, epochs=2)),
    ({"federation": {"rounds": 4, "aggregation": "fedavgm", "server_momentum": 0.5}}, Switches(rounds=4, momentum=0.5)),
    ({"federation": {"aggregation": "median"}}, Switches(is_median=True)),
    ({"federation": {"normalisation": "local"}}, Switches(local=NORM, mean_once=True)),
    ({"federation": {"rounds": 4, "normalisation": "local", "average_decay": 0.6}},
     Switches(rounds=4, decay=0.6, local=NORM, mean_once=True)),
    ({"federation": {"local_parameters": ["norm.*"]}}, Switches(local=NORM)),
    ({"federation": {"local_parameters": ["norm.[wb]*"]}}, Switches(local=NORM[:2])),
    ({"federation": {"rounds": 3, "shared_parameters": ["norm.*"]}}, Switches(rounds=3, local=("conv.weight",))),
]  # fmt: skip


@dataclass(frozen=True)
class Images(Discs):
    """Discs as a site's images; they lie in no file."""

    items = ()
    labelled = True


def discs_of(site: str) -> Any:
    return Images(site, SIZES[site]), Images(f"{site}-validation", VALIDATION[site]), Images(site, 0)


class HandContext(RunContext):
    """A run's context whose sites are discs and whose student is one layer."""

    federation: Any = Federation(
        "discs", "discs", "discs", ("disc",),
        {s: Site(s, *discs_of(s)) for s in SITES},
        Site("test", Images("test", 0), Images("test", 0), Images("test", 2)),
    )  # fmt: skip

    def new_model(self, role: Role) -> torch.nn.Module:
        return OneLayer(keeps_statistics=self.config.student.batch_norm == "kept")

    def open_sites(self, **where: Any) -> Sites:
        return super().open_sites(federation=self.federation, build=self.new_model, **where)


class Curves(ConsoleReporter):
    """Keeps the curves: name, then (site, step) to value."""

    def __init__(self) -> None:
        super().__init__("test")
        self.points: dict[str, dict[tuple[str | None, int], float]] = defaultdict(dict)
        self.lines: list[str] = []

    def log(self, level: Any, text: str) -> None:
        self.lines.append(text)

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        self.points[name][site, step] = value


class Interrupted(Curves):
    """Stops the run in the third round, when one site's reply is on the disk."""

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        super().metric(name, value, step=step, site=site)
        if (name, step, site) == ("loss", 3, "south"):
            raise RunCancelled


def configure(change: dict[str, Any]) -> RunConfig:
    values: dict[str, Any] = {"precision": "fp32", "device": "cpu", "seed": 11, "federation": dict(FEDERATION)}
    for key, value in change.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_config(values)


def run(folder: Path, change: dict[str, Any], *, reporter: Curves | None = None) -> tuple[Weights, Curves]:
    config, reporter = configure(change), reporter or Curves()
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = HandContext(config=config, run_dir=folder, reporter=reporter, checkpoints=checkpoints)
    FederatedTraining().run(context)
    saved = load_file(folder / "models" / "fedavg_student.safetensors")
    return {name: tensor.numpy() for name, tensor in saved.items()}, reporter


def close(found: Weights, expected: Weights) -> bool:
    return all(np.allclose(found[name], expected[name], rtol=2e-4, atol=2e-6) for name in expected)


@pytest.mark.parametrize(("change", "switches"), CASES, ids=[str(change) for change, _ in CASES])
def test_the_rounds_are_those_of_the_paper(change: dict[str, Any], switches: Switches, tmp_path: Path) -> None:
    expected = by_hand.train(switches)
    saved, reporter = run(tmp_path, change)
    assert reporter.points["loss"] == pytest.approx(expected.loss, rel=1e-4)
    for name, value in expected.goes_on.items():
        np.testing.assert_allclose(saved[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    dice = reporter.points["val_dice"]
    assert {key: value for key, value in dice.items() if key[0]} == pytest.approx(expected.dice, abs=2e-3)
    for number in range(switches.rounds + 1):  # over validation images, not over sites
        of_sites = sum(VALIDATION[site] * expected.dice[site, number] for site in SITES) / sum(VALIDATION.values())
        assert dice[None, number] == pytest.approx(of_sites, abs=2e-3)


def test_the_cases_tell_the_switches_apart() -> None:
    """No case would pass with another's switch: each expected result differs by far more than the tolerance."""
    results = [by_hand.train(switches).goes_on for _, switches in CASES]
    for index, first in enumerate(results):
        assert not any(close(first, second) for second in results[:index])
    plain = Switches()
    for wrong in (
        replace(plain, shares=dict.fromkeys(SITES, 1 / 3)),
        replace(plain, shares={site: VALIDATION[site] / 6 for site in SITES}),
        replace(plain, decay=0.5),
    ):
        assert not close(by_hand.train(wrong).goes_on, results[0])


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_the_model_that_goes_on_is_the_one_that_was_validated(decay: float, tmp_path: Path) -> None:
    """With patience the best one goes on; of averages where there is no moving mean, of means where there is one."""
    switches = Switches(rounds=20, rate=0.4, decay=decay, pos_weight=0.3)
    federation = {"rounds": 20, "learning_rate": 0.4, "average_decay": decay, "patience": 3}
    saved, reporter = run(tmp_path, {"federation": federation, "pos_weight": 0.3})
    judged = {step: value for (site, step), value in reporter.points["val_dice"].items() if site is None}
    best = max(judged, key=lambda step: (judged[step], -step))
    goes_on = by_hand.train(replace(switches, rounds=best)).goes_on
    assert close(saved, goes_on)
    assert not close(saved, by_hand.train(replace(switches, rounds=best, decay=0.7 - decay)).goes_on)
    expected = sum(VALIDATION[site] * by_hand.validate(goes_on, site) for site in SITES) / sum(VALIDATION.values())
    assert judged[best] == pytest.approx(expected, abs=2e-3)
    # It waited for three models that are no better. An average is validated a round after it was made, the last one
    # at the end; a mean at once.
    assert max(judged) == (best + 3 if decay else best + 4) < 20


def test_what_an_algorithm_keeps_is_in_the_checkpoint(tmp_path: Path) -> None:
    change = {"federation": {"rounds": 4, "aggregation": "fedavgm", "server_momentum": 0.5}}
    whole, _ = run(tmp_path / "whole", change)
    with pytest.raises(RunCancelled):
        run(tmp_path / "again", change, reporter=Interrupted())
    again, reporter = run(tmp_path / "again", change)
    assert {step for (_, step) in reporter.points["loss"]} == {3, 4}
    assert all(np.array_equal(whole[name], again[name]) for name in whole)


def south_lies(patch: pytest.MonkeyPatch, change: Callable[[SiteReply], SiteReply]) -> None:
    """Let the south change what it replies to a round."""
    honest = SiteProgram.answer

    def answer(program: SiteProgram, request: SiteRequest, **how: Any) -> SiteReply:
        reply = honest(program, request, **how)
        return change(reply) if (request.site, request.task) == ("south", TRAIN_STUDENT) else reply

    patch.setattr(SiteProgram, "answer", answer)


def ten_times(reply: SiteReply) -> SiteReply:
    return replace(reply, arrays={k: a * 10 if a.dtype == np.float32 else a for k, a in reply.arrays.items()})


@pytest.mark.parametrize(
    ("lie", "federation", "problem"),
    [
        (lambda reply: replace(reply, num_examples=10**9), {}, "counts 1000000000 examples, and the site has 3"),
        (lambda reply: replace(reply, metrics={**reply.metrics, "val_images": 9.0}), {}, "9 validation images"),
        (lambda reply: replace(reply, metrics={**reply.metrics, "val_dice": 99.0}), {}, "val_dice is 99"),
        (lambda reply: replace(reply, metrics={"loss": 1.0}), {}, "does not say wall_s"),
        (ten_times, {"large_updates": "refuse"}, "times as large as the median of the other sites'"),
    ],
)
def test_the_stage_holds_sites_to_what_is_known_of_them(
    lie: Any, federation: dict[str, Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    south_lies(monkeypatch, lie)
    with pytest.raises(UserError, match="site south in round 1") as caught:
        run(tmp_path, {"federation": federation})
    assert caught.value.code == "federation.bad_reply" and problem in caught.value.what


def test_large_updates_are_accepted_or_shortened_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, usual = run(tmp_path / "honest", {"federation": {"update_norm_limit": 4.0}})
    south_lies(monkeypatch, ten_times)
    accepted, named = run(tmp_path / "accepted", {"federation": {"update_norm_limit": 4.0}})
    clipped, shortened = run(tmp_path / "clipped", {"federation": {"large_updates": "clip", "update_norm_limit": 1.0}})
    assert not any("update" in line for line in usual.lines)
    large = [line for line in named.lines if "its update is" in line]
    assert [line.split(":")[0] for line in large] == ["Round 1, south", "Round 2, south"], "whoever counts is named"
    ratio = float(large[0].split("its update is ")[1].split()[0])
    assert ratio > 4 and "and counts as it is (federation.large_updates)" in large[0]
    assert any(line.startswith("Round 1, south") and "and is shortened" in line for line in shortened.lines)
    off = {
        name: np.abs(found["conv.weight"] - honest["conv.weight"]).max()
        for name, found in [("accepted", accepted), ("clipped", clipped)]
    }
    assert off["accepted"] > 1 > 10 * off["clipped"] > 0

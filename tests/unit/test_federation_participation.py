"""Rounds that ask some of the sites: drawn by the seed, written down, weighed by n_k, the same after a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bench.reporting import ConsoleReporter
from bench.simulated_sites import SimulatedContext, num_train, site_names, train
from engine.config import RunConfig, parse_config
from engine.errors import UserError
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.participation import draw_participants
from engine.federation.tasks import SiteReply, SiteRequest
from engine.stages.federated_training import TOOK_PART, FederatedRounds, FederatedTraining
from engine.types import RunCancelled

SITES = site_names(12)


@pytest.mark.parametrize(
    ("share", "num_sites", "expected"),
    [(1.0, 7, 7), (0.05, 1000, 50), (0.5, 3, 2), (0.3, 7, 2), (0.001, 7, 1), (0.99, 3, 3)],
)
def test_how_many_sites_a_round_asks(share: float, num_sites: int, expected: int) -> None:
    config = parse_config({"federation": {"participation": share}}).federation
    assert config.num_asked(num_sites) == expected


def test_draws_follow_seed_and_round_and_nothing_else() -> None:
    how: dict[str, Any] = {"count": 4, "seed": 7, "round_number": 3}
    drawn = draw_participants(SITES, **how)
    assert drawn == draw_participants(tuple(reversed(SITES)), **how) == tuple(sorted(drawn))
    assert len(set(drawn)) == 4 and set(drawn) <= set(SITES)
    others = [draw_participants(SITES, **{**how, key: 8}) for key in ("seed", "round_number")]
    assert drawn not in others and others[0] != others[1]
    assert draw_participants(SITES, count=99, seed=7, round_number=3) == SITES
    assert draw_participants((), count=4, seed=7, round_number=3) == ()


def test_every_site_is_drawn_about_as_often_as_any_other() -> None:
    """400 rounds of 3 of 12: 100 times each, give or take 4 standard deviations of sqrt(400 / 4 * 3 / 4) = 8.7."""
    drawn = Counter(s for n in range(400) for s in draw_participants(SITES, count=3, seed=1, round_number=n))
    assert set(drawn) == set(SITES) and all(abs(count - 100) < 35 for count in drawn.values())


def build() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(6.0).reshape(2, 3))
        model[0].bias.zero_()
    return model


class Told(ConsoleReporter):
    """Keeps curves and progress."""

    def __init__(self) -> None:
        super().__init__("test")
        self.points: dict[tuple[str, str | None, int], float] = {}
        self.steps: list[tuple[int, int]] = []

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Keep."""
        self.points[name, site, step] = value

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Keep."""
        self.steps.append((step, total))


def configure(**federation: Any) -> RunConfig:
    return parse_config({"seed": 5, "federation": {"rounds": 4, "participation": 0.25, **federation}})


def run(
    folder: Path, config: RunConfig, answer: Callable[[SiteRequest], SiteReply] = train
) -> tuple[dict[str, torch.Tensor], Told]:
    told = Told()
    FederatedTraining().run(
        SimulatedContext(config=config, run_dir=folder, reporter=told, names=SITES, build=build, train=answer)
    )
    return load_file(folder / "models" / "fedavg_student.safetensors"), told


class Answers:
    """Sites that note who was asked, and a stop at one of the questions."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.asked: list[tuple[int, str]] = []
        self.stop_at = stop_at

    def __call__(self, request: SiteRequest) -> SiteReply:
        self.asked.append((request.round, request.site))
        if len(self.asked) == self.stop_at:
            raise RunCancelled
        return train(request)


def test_the_average_is_over_those_asked_by_their_n_k_and_who_was_asked_is_on_record(tmp_path: Path) -> None:
    """Each site adds a step of its own to every weight: the model moves by the steps' mean, weighed by n_k."""
    answers = Answers()
    model, told = run(tmp_path, configure(), answers)
    weight = build().state_dict()["0.weight"].numpy().astype(np.float64)
    for number in range(1, 5):
        asked = draw_participants(SITES, count=3, seed=5, round_number=number)
        assert [site for n, site in answers.asked if n == number] == list(asked)
        steps = [float(train(SiteRequest(s, "t", 0, {}, {"w": np.zeros(1, np.float32)})).arrays["w"][0]) for s in asked]
        weight += np.average(steps, weights=[num_train(site) for site in asked])
        on_record = {site: v for (name, site, n), v in told.points.items() if name == TOOK_PART and n == number}
        assert on_record == dict.fromkeys(asked, 1.0)
    np.testing.assert_allclose(model["0.weight"].numpy(), weight, rtol=1e-6)


@pytest.mark.parametrize("stop_at", range(1, 13))
def test_stopped_at_any_question_it_goes_on_with_the_same_sites_to_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    whole, _ = run(tmp_path / "whole", configure())
    first, second = Answers(stop_at), Answers()
    with pytest.raises(RunCancelled):
        run(tmp_path / "stopped", configure(), first)
    model, _ = run(tmp_path / "stopped", configure(), second)
    assert all(torch.equal(model[name], tensor) for name, tensor in whole.items())
    reference = Answers()
    run(tmp_path / "reference", configure(), reference)
    assert first.asked[:-1] + second.asked == reference.asked, "who has answered is not asked again"


@contextmanager
def away(count: int) -> Iterator[None]:
    """Let the first ``count`` sites be registered, and not there."""
    every = InProcessGrid.get_node_ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcessGrid, "get_node_ids", lambda self: every(self)[count:])
        patch.setattr(
            "engine.federation.rounds.find_sites",
            lambda grid, *, sites, wait_s: dict(zip(sites, every(grid), strict=True)),
        )
        yield


def test_a_round_that_had_begun_asks_whom_it_asked_whoever_is_there_now(tmp_path: Path) -> None:
    """Two of twelve sites are away when the round begins and back when it goes on: a new draw would be another one."""
    config, stopped, answers = configure(on_failure="skip", rounds=1), Answers(stop_at=3), Answers()
    with away(2), pytest.raises(RunCancelled):
        run(tmp_path, config, stopped)
    there = draw_participants(SITES[2:], count=3, seed=5, round_number=1)
    assert [site for _, site in stopped.asked] == list(there)
    assert there != draw_participants(SITES, count=3, seed=5, round_number=1), "the test would show nothing"
    run(tmp_path, config, answers)
    assert [site for _, site in answers.asked] == [there[2]]


@pytest.mark.parametrize(("policy", "absent", "needed"), [("retry", 12, 1), ("skip", 11, 2)])
def test_nobody_is_drawn_from_too_few_and_the_run_goes_on_when_they_are_back(
    tmp_path: Path, policy: str, absent: int, needed: int
) -> None:
    config = configure(on_failure=policy, rounds=1)
    with away(absent), pytest.raises(UserError, match=f"Round 1 needs {needed} sites; connected") as caught:
        run(tmp_path, config)
    assert caught.value.code == "federation.site_absent"
    answers = Answers()
    run(tmp_path, config, answers)
    assert [site for _, site in answers.asked] == list(draw_participants(SITES, count=3, seed=5, round_number=1))


def test_a_round_without_enough_of_those_asked_is_not_averaged(tmp_path: Path) -> None:
    """Of four asked two are needed, half of them; three fail."""
    config = configure(participation=1 / 3, on_failure="skip", rounds=1)
    failing = draw_participants(SITES, count=4, seed=5, round_number=1)[:3]

    def answer(request: SiteRequest) -> SiteReply:
        if request.site in failing:
            raise RuntimeError("no power")
        return train(request)

    with pytest.raises(UserError, match="has 1 of the 2 replies") as caught:
        run(tmp_path, config, answer)
    assert caught.value.code == "federation.quorum"


def failing_once(sites: tuple[str, ...]) -> Callable[[SiteRequest], SiteReply]:
    def answer(request: SiteRequest) -> SiteReply:
        if request.site in sites:
            raise RuntimeError("no power")
        return train(request)

    return answer


def test_after_a_failed_quorum_those_who_answered_stay_and_the_others_are_drawn_anew(tmp_path: Path) -> None:
    """Of four asked three fail: one keeps its reply, and three of the others are drawn by (seed, round, draw)."""
    config = configure(participation=1 / 3, on_failure="skip", rounds=1)
    first = draw_participants(SITES, count=4, seed=5, round_number=1)
    answered, rest = first[3], [site for site in SITES if site != first[3]]
    for attempt in (1, 2):
        with pytest.raises(UserError, match="has 1 of the 2 replies"):
            run(tmp_path, config, failing_once(tuple(site for site in SITES if site != answered)))
        drawn = draw_participants(rest, count=3, seed=5, round_number=1, draw=attempt)
        assert set(drawn) != set(first[:3]), "the test would show nothing"
    stopped, answers = Answers(stop_at=2), Answers()
    with pytest.raises(RunCancelled):
        run(tmp_path, config, stopped)
    model, told = run(tmp_path, config, answers)
    assert [site for _, site in stopped.asked[:1] + answers.asked] == list(drawn)
    steps = {s: float(train(SiteRequest(s, "t", 0, {}, {"w": np.zeros(1, np.float32)})).arrays["w"][0]) for s in SITES}
    asked = sorted([answered, *drawn])
    moved = np.average([steps[s] for s in asked], weights=[num_train(s) for s in asked])
    expected = build().state_dict()["0.weight"].numpy().astype(np.float64) + moved
    np.testing.assert_allclose(model["0.weight"].numpy(), expected, rtol=1e-6)
    assert {site for name, site, _ in told.points if name == TOOK_PART} == set(asked)


def test_where_every_reply_is_needed_the_same_sites_are_asked_again(tmp_path: Path) -> None:
    config = configure(participation=1 / 3, on_failure="stop", rounds=1)
    first = draw_participants(SITES, count=4, seed=5, round_number=1)
    with pytest.raises(UserError, match="no power"):
        run(tmp_path, config, failing_once(first[2:3]))
    answers = Answers()
    run(tmp_path, config, answers)
    assert [site for _, site in answers.asked] == list(first[2:])


def test_a_draw_anew_has_a_stream_of_its_own() -> None:
    how: dict[str, Any] = {"count": 4, "seed": 7, "round_number": 3}
    draws = [draw_participants(SITES, **how, draw=draw) for draw in range(4)]
    assert draws[0] == draw_participants(SITES, **how) and len(set(draws)) == 4


def test_progress_counts_those_asked_and_never_goes_back(tmp_path: Path) -> None:
    told = Told()
    context = SimulatedContext(config=configure(), run_dir=tmp_path, reporter=told, names=SITES, build=build)
    training = FederatedRounds(
        context, stage="federated_training", model=context.new_model("student"), names=FederatedTraining.models
    )
    for number in (1, 2, 3, 4):
        for site in training._choose(number, lambda: list(SITES)):
            for step in (1, 2):
                training.progress(site, number, step, 2)
    steps = [step for step, _ in told.steps]
    assert steps == [50 * count for count in range(1, 25)] and {total for _, total in told.steps} == {1200}


def test_all_sites_is_what_it_was(tmp_path: Path) -> None:
    """Nothing is drawn or written down, and the configuration is the one that it was."""
    config = parse_config({"seed": 5, "federation": {"rounds": 2}})
    assert (
        config.content_hash()
        == parse_config({"seed": 5, "federation": {"rounds": 2, "participation": 1.0}}).content_hash()
    )
    assert config.content_hash() != configure(rounds=2).content_hash()
    answers = Answers()
    _, told = run(tmp_path, config, answers)
    assert answers.asked == [(number, site) for number in (1, 2) for site in SITES]
    assert not any(name == TOOK_PART for name, _, _ in told.points)

"""A stage of differentially private rounds: epsilon as a curve of each site, in the log, through a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.accounting import gaussian_epsilon
from engine.errors import UserError
from engine.federation.tasks import TRAIN_STUDENT
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from tests.integration import test_goes_on_without as without
from tests.integration.test_goes_on_without import SITES, Sick, config_of, context_of

sick = without.sick


class Told(without.Recording):
    """Keeps curves and lines."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[tuple[str, str | None], dict[int, float]] = {}
        self.lines: list[str] = []

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        self.curves.setdefault((name, site), {})[step] = value

    def log(self, level: Any, text: str) -> None:
        self.lines.append(text)


def private_context(folder: Path, mechanism: str, **keys: object) -> tuple[RunContext, Told]:
    private = {
        "privacy.mechanism": mechanism, "privacy.noise_multiplier": 2.0, "privacy.clip_norm": 0.01,
        "federation.rounds": 3,
    }  # fmt: skip
    context = context_of(config_of("stop", **private | keys), folder)
    reporter = context.reporter = Told()
    return context, reporter


def spent(releases: int) -> float:
    return gaussian_epsilon(noise_multiplier=2.0, releases=releases, delta=1e-5)


@pytest.mark.parametrize("mechanism", ["client", "central"])
def test_each_site_s_epsilon_goes_on_through_a_restart(mechanism: str, sick: Sick, tmp_path: Path) -> None:
    answers: list[Any] = []

    def fails_in_the_third(reply: Any) -> Any:
        answers.append(reply)
        if len(answers) == 3:
            raise RuntimeError("the disk is gone")
        return reply

    sick.changes[SITES[1], TRAIN_STUDENT] = fails_in_the_third
    context, before = private_context(tmp_path, mechanism)
    with pytest.raises(UserError, match="the disk is gone"):
        FederatedTraining().run(context)
    for site in SITES:
        assert before.curves["epsilon", site] == {1: spent(1), 2: spent(2)}
    context, after = private_context(tmp_path, mechanism)
    FederatedTraining().run(context)
    for site in SITES:
        assert after.curves["epsilon", site] == {3: spent(3)}
    (line,) = (line for line in after.lines if line.startswith("Privacy"))
    assert f"epsilon is at most {spent(3):.2f}"[:-1] in line and "3 noised updates" in line


def test_with_system_noise_what_a_site_sent_in_vain_counts_too(sick: Sick, tmp_path: Path) -> None:
    """The first reply of a round is lost after the site has sent it: its noise was another, so it is one more."""

    def lost(reply: Any) -> Any:
        del sick.changes[SITES[1], TRAIN_STUDENT]
        raise RuntimeError("the line is cut")

    keys = {"privacy.noise_source": "system", "federation.on_failure": "retry", "federation.rounds": 1}
    context, told = private_context(tmp_path, "client", **keys)
    sick.changes[SITES[1], TRAIN_STUDENT] = lost
    FederatedTraining().run(context)
    assert [told.curves["epsilon", site][1] for site in SITES] == [spent(1), spent(2)]


def test_a_site_that_is_not_asked_spends_nothing(sick: Sick, tmp_path: Path) -> None:
    context, told = private_context(tmp_path, "central", **{"federation.participation": 0.5})
    FederatedTraining().run(context)
    curves = [told.curves.get(("epsilon", site), {}) for site in SITES]
    assert sorted(step for curve in curves for step in curve) == [1, 2, 3]
    assert all(list(curve.values()) == [spent(n + 1) for n in range(len(curve))] for curve in curves)


def test_an_unclipped_update_ends_the_run(sick: Sick, tmp_path: Path) -> None:
    context, _ = private_context(tmp_path, "central")

    def unclipped(reply: Any) -> Any:
        return type(reply)({n: a * 2 for n, a in reply.arrays.items()}, reply.metrics, reply.num_examples, reply.texts)

    sick.changes[SITES[0], TRAIN_STUDENT] = unclipped
    with pytest.raises(UserError, match=SITES[0]) as refused:
        FederatedTraining().run(context)
    assert "sites clip theirs to 0.01" in refused.value.what

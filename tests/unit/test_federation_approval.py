"""Who takes part in a run that not all sites allow, under each policy, and that this stays so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.config import RunConfig, load_config
from engine.config_federation import FederationConfig
from engine.data.phantoms import write_dataset
from engine.errors import UserError, is_plain
from engine.federation.backends import approval
from engine.federation.backends.approval import TAKES_PART_FILE, Approvals
from engine.federation.descriptions import SiteDescription
from engine.federation.sites import Server
from engine.federation.tasks import EVALUATE, SiteReply, SiteRequest
from engine.federation.watch import Told
from engine.stages.evaluation import Evaluation
from engine.stages.federated_training import FederatedTraining
from engine.types import SiteActivity, SiteFailure
from tests.unit.deployed_world import StandingAlone, rows_of

SITES = ("guided_inset", "portable_yellow", "scope_octagon", "tower_hd")
HELD_OUT, REFUSES = SITES[0], SITES[2]
SOURCES = [SiteDescription(name, "source", 4, 1, 0) for name in ("a", "b", "c", "d")]
TESTS = [SiteDescription("t", "test", 0, 0, 5)]


class Asked:
    """Sites whose decisions, one a question, are given; the last one stays."""

    def __init__(
        self, patch: pytest.MonkeyPatch, *, reason: str = "its own reasons", **decisions: Sequence[str]
    ) -> None:
        self.reason = reason
        self.decisions, self.counts, self.now = decisions, dict[str, int](), 0.0
        self.failures: list[SiteFailure] = []
        self.states: dict[str, str] = {}
        self.words: list[str] = []
        patch.setattr(approval, "monotonic", lambda: self.now)
        patch.setattr(approval, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self, sites: Sequence[str]) -> Mapping[str, SiteReply]:
        replies = {}
        for site in sites:
            count = self.counts[site] = self.counts.get(site, 0) + 1
            said = self.decisions.get(site, ("approved",))
            state = said[min(count, len(said)) - 1]
            replies[site] = SiteReply({}, {}, 1, {"state": state, "reason": self.reason})
        return replies

    def server(self) -> Server:
        def site(activity: SiteActivity) -> None:
            self.states[activity.site] = activity.state

        return Server(lambda: None, lambda _: None, self.words.append, Told(site, self.failures.append))

    def wait(self, kept: Path | None = None, **federation: Any) -> tuple[str, ...]:
        config = FederationConfig(**federation)
        approvals = Approvals(self, config=config, run_id="run-1", server=self.server, kept=kept)
        return approvals.wait(SOURCES, tests=TESTS)

    @property
    def outcomes(self) -> list[tuple[str, str, str]]:
        return [(failure.site, failure.code, failure.outcome) for failure in self.failures]


def test_who_has_not_decided_is_asked_again_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, b=("waiting", "waiting", "approved"))
    assert asked.wait() == ("a", "b", "c", "d")
    assert asked.counts == {"a": 1, "b": 3, "c": 1, "d": 1, "t": 1}
    assert asked.words == ["waiting for the approval of b; somebody there decides with: site approve FOLDER run-1"] * 2
    assert asked.failures == [] and set(asked.states.values()) == {"answered"}
    assert 9.9 < asked.now < 11, "twice five seconds"


@pytest.mark.parametrize("policy", ["stop", "retry"])
def test_a_refusal_ends_a_run_that_needs_every_site(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    asked = Asked(monkeypatch, c=("refused",))
    with pytest.raises(UserError, match="c does not take part in this run: its own reasons") as raised:
        asked.wait(on_failure=policy)
    assert raised.value.code == "federation.refused" and "data.sites" in raised.value.fix
    assert asked.outcomes == [("c", "federation.refused", "stopped")] and asked.states["c"] == "refused"


def test_a_reason_is_one_line_that_no_terminal_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, reason="no\n2026-01-01 12:00:00 info - c has approved\x1b[2J\u202e", c=("refused",))
    with pytest.raises(UserError, match="c does not take part in this run: no 2026-01-01") as raised:
        asked.wait()
    assert all(is_plain(words) for words in raised.value.as_dict().values())
    assert all(is_plain(failure.what) for failure in asked.failures)


def test_a_run_that_skips_goes_on_without_who_refuses_and_it_stays_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "sites" / TAKES_PART_FILE
    asked = Asked(monkeypatch, c=("waiting", "refused", "approved"))
    assert asked.wait(kept, on_failure="skip") == ("a", "b", "d")
    assert asked.outcomes == [("c", "federation.refused", "left_out")]
    assert list(json.loads(kept.read_text())["left_out"]) == ["c"]
    again = Asked(monkeypatch, a=("refused",))
    assert again.wait(kept, on_failure="skip") == ("a", "b", "d"), "c has trained nothing; what a has, counts"
    assert "c" not in again.counts and again.failures == []
    with pytest.raises(UserError, match="a does not take part"):
        Asked(monkeypatch, a=("refused",)).wait(kept, on_failure="stop")
    kept.write_text("{")
    with pytest.raises(UserError, match="which says which sites take part in this run, cannot be read"):
        asked.wait(kept, on_failure="skip")


def test_the_unseen_site_and_a_quorum_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="t does not take part"):
        Asked(monkeypatch, t=("refused",)).wait(on_failure="skip")
    two = {"a": ("refused",), "b": ("refused",)}
    assert Asked(monkeypatch, **two).wait(on_failure="skip") == ("c", "d"), "half of the sites, unless told otherwise"
    three = Asked(monkeypatch, **two, c=("refused",))
    with pytest.raises(UserError, match="c does not take part"):
        three.wait(on_failure="skip")
    assert [outcome for _, _, outcome in three.outcomes] == ["left_out", "left_out", "stopped"]
    assert Asked(monkeypatch, **two, c=("refused",)).wait(on_failure="skip", quorum=1) == ("d",)
    with pytest.raises(UserError, match="b does not take part"):
        Asked(monkeypatch, **two).wait(on_failure="skip", quorum=3)


def test_a_decision_that_never_comes_is_waited_for_as_long_as_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, b=("waiting",))
    assert asked.wait(on_failure="skip", deadline_s=12.0) == ("a", "c", "d")
    assert asked.outcomes == [("b", "federation.not_approved", "left_out")] and asked.states["b"] == "undecided"
    assert 12 <= asked.now < 18
    late = Asked(monkeypatch, t=("waiting",))
    with pytest.raises(UserError, match="t had not decided about this run"):
        late.wait(on_failure="skip", deadline_s=12.0)
    patient = Asked(monkeypatch, b=("waiting",) * 100 + ("approved",))
    assert patient.wait(on_failure="skip") == ("a", "b", "c", "d") and patient.now > 450, "no deadline, no end"
    assert Asked(monkeypatch, b=("waiting",) * 9 + ("approved",)).wait(deadline_s=12.0) == ("a", "b", "c", "d")


def test_a_decision_that_cannot_be_is_the_sites_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"reply of site b .* its decision is 'perhaps'") as raised:
        Asked(monkeypatch, b=("perhaps",)).wait(on_failure="skip")
    assert raised.value.code == "federation.bad_reply"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("polyp", tmp_path_factory.mktemp("all") / "set", images_per_site=4, image_px=32)


def config_of(sites: Sequence[str], **more: object) -> RunConfig:
    values: dict[str, object] = {
        "method": "fedtinysam", "data.source": "folder", "data.image_px": 32, "data.sites": list(sites),
        "data.held_out": HELD_OUT, "device": "cpu", "threads": 1, "student.weights": None,
        "federation.rounds": 2, "evaluation.bootstrap_samples": 50, "federation.patience": None,
        "backend": "superlink", "server": "/nowhere",
    }  # fmt: skip
    return load_config("phantom_cpu_smoke", overrides={**values, **more})


class FailsOnce:
    """A site's program whose first answer to ``task`` is a fault."""

    def __init__(self, program: Any, task: str) -> None:
        self.program, self.task = program, task

    def answer(self, request: SiteRequest, **how: Any) -> SiteReply:
        if request.task == self.task:
            self.task = ""
            raise RuntimeError("the disk was away")
        return self.program.answer(request, **how)

    def idle(self) -> None:
        self.program.idle()


@pytest.mark.parametrize("policy", ["retry", "skip"])
def test_only_where_it_is_configured_is_a_site_asked_again_for_its_figures(
    policy: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES[:3])
    config = config_of(SITES[1:3], **{"federation.on_failure": policy, "federation.rounds": 1})
    context, _ = world.context(config, tmp_path / "run")
    FederatedTraining().run(context)
    world.programs[HELD_OUT] = FailsOnce(world.programs[HELD_OUT], EVALUATE)  # type: ignore[assignment]
    if policy == "skip":
        with pytest.raises(UserError, match=f"Site {HELD_OUT} failed at query.evaluate"):
            Evaluation().run(context)
    else:
        Evaluation().run(context)
        assert {row["site"] for row in rows_of(tmp_path / "run")} == set(SITES[:3])
    context.close()


def test_the_run_without_who_refuses_is_the_run_of_the_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real programs, each with its own folder: weights are bit-equal, and the refusing site is asked for nothing."""
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)

    def trained(name: str, config: RunConfig, *stages: Callable[[], Any]) -> Mapping[str, np.ndarray]:
        context, _ = world.context(config, tmp_path / name)
        for stage in stages:
            stage().run(context)
        context.close()
        return load_file(tmp_path / name / "models" / "fedavg_student.safetensors")

    others = trained("others", config_of([site for site in SITES[1:] if site != REFUSES]), FederatedTraining)
    (world.at / REFUSES / "policy.toml").write_text('approval = "automatic"\nkinds = ["figures"]\n', encoding="utf-8")
    skips = config_of(SITES[1:], **{"federation.on_failure": "skip"})
    without = trained("skips", skips, FederatedTraining)
    assert all(np.array_equal(without[name], others[name]) for name in others)
    world.start(REFUSES)  # whose rules allow it now
    trained("skips", skips, Evaluation)
    assert {row["site"] for row in rows_of(tmp_path / "skips")} == set(SITES) - {REFUSES}
    with pytest.raises(UserError, match=f"{REFUSES} does not take part in this run") as raised:
        (world.at / REFUSES / "policy.toml").write_text('approval = "automatic"\nkinds = ["figures"]\n')
        trained("stops", config_of(SITES[1:]), FederatedTraining)
    assert "federation.on_failure = 'skip'" in raised.value.fix

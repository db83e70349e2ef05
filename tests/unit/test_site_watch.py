"""What is heard of each site: kept while a run goes, read from the store, and shown with those in need first."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import site_table
from engine.cli import main
from engine.config import RunConfig
from engine.errors import UserError
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.descriptions import FederationDescription, SiteDescription
from engine.federation.sites import Server, SiteListener, Sites
from engine.federation.tasks import SHARE_MASKS, TRAIN_STUDENT, SiteReply, SiteRequest
from engine.federation.watch import Told
from engine.runs.events import StoreReporter
from engine.runs.sites import SiteView, site_views
from engine.runs.store import RunStore
from engine.stages.site_progress import SiteProgress
from engine.types import SiteActivity, SiteFailure, Traffic

SITES = ("north", "south")
STAGE = "federated_training"


class Toy:
    """A back end of two sites in this process; what they do is a function of the request."""

    def __init__(self, does: Callable[[SiteRequest], None]) -> None:
        sources = tuple(SiteDescription(name, "source", 8, 2, 0, {"train": name}) for name in SITES)
        test = SiteDescription("west", "test", 0, 0, 5, {"test": "w"})
        self.description = FederationDescription(
            "toy", "toy", "toy", ("disc",), sources, (test,), "west", "w", False, None, None, None
        )
        self.listener: SiteListener | None = None

        def answer(request: SiteRequest) -> SiteReply:
            assert self.listener is not None
            self.listener.progress(request.site, request.round, 3, 4)
            does(request)
            return SiteReply({"w": request.arrays["w"]}, {"loss": 1.0}, 8)

        self.grid = InProcessGrid(build_client_app({TRAIN_STUDENT: answer, SHARE_MASKS: answer}), sites=SITES)
        self.seen: dict[str, float] = {}

    def last_seen(self) -> dict[str, float]:
        return self.seen

    def listen(self, listener: SiteListener) -> None:
        self.listener = listener

    def close(self) -> None:
        pass


class Heard:
    """Keeps everything that is told."""

    def __init__(self, does: Callable[[SiteRequest], None] = lambda _: None, *, retries: int = 0) -> None:
        self.activities: list[SiteActivity] = []
        self.failures: list[SiteFailure] = []
        self.logged: list[object] = []
        told = Told(self.activities.append, self.failures.append)
        self.sites = Sites(
            Toy(does), server=lambda: Server(lambda: None, lambda _: None, watched=told), retries=retries
        )

    def ask(self) -> list[str]:
        return list(self.sites.ask(SHARE_MASKS, kind="masks", round_number=3, arrays={"w": np.ones(2, np.float32)}))

    def train(self, **how: object) -> None:
        arrays = {"w": np.ones(2, np.float32)}
        self.sites.train_rounds(TRAIN_STUDENT, kind="student", arrays=arrays, rounds=1, **how)

    def of(self, site: str) -> list[tuple[str, int, int, int]]:
        return [(a.state, a.round, a.step, a.total) for a in self.activities if a.site == site]


def failing(site: str, *, times: int = 99) -> Callable[[SiteRequest], None]:
    left = [times]

    def does(request: SiteRequest) -> None:
        if request.site == site and left[0]:
            left[0] -= 1
            raise UserError("run.disk_full", what="The disk at south is full.", why="w", fix="f")

    return does


def test_a_site_is_asked_works_and_answers() -> None:
    heard = Heard()
    heard.train()
    for site in SITES:
        assert heard.of(site) == [("asked", 1, 0, 0), ("working", 1, 3, 4), ("answered", 1, 4, 4)]
    last = heard.activities[-1]
    assert (last.task, last.num_train, last.num_validation) == (TRAIN_STUDENT, 8, 2)
    assert last.seen_at is not None


def test_a_question_between_two_rounds_gives_the_ear_back() -> None:
    """As with patience, which has every round's model validated: all rounds are heard of, and what they are about."""
    heard = Heard()
    rounds: list[tuple[int, str]] = []

    class Listener:
        def progress(self, site: str, round_number: int, step: int, total: int) -> None:
            rounds.append((round_number, site))

        def metric(self, site: str, name: str, value: float, step: int) -> None:
            raise AssertionError("no curve is told")

    heard.sites.train_rounds(
        TRAIN_STUDENT, kind="student", arrays={"w": np.ones(2, np.float32)}, rounds=3, listener=Listener(),
        on_round=lambda *_: heard.ask() and None,
    )  # fmt: skip
    assert rounds == [(number, site) for number in (1, 2, 3) for site in SITES]
    of_rounds = [a.round for a in heard.activities if a.task == TRAIN_STUDENT and a.state == "working"]
    assert of_rounds == [1] * len(SITES) + [2] * len(SITES) + [3] * len(SITES)
    assert {a.round for a in heard.activities if a.task == SHARE_MASKS} == {3}, "as asked"


def test_a_site_that_tells_nothing_is_seen_while_it_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.federation.sites.SEEN_EVERY_S", 0.0)
    heard = Heard()
    toy = heard.sites._back_end
    now = time.time()
    toy.seen = {"north": now + 50, "south": now - 1e9, "elsewhere": now}  # type: ignore[attr-defined]
    heard.train()
    north = [(a.state, a.seen_at) for a in heard.activities if a.site == "north"]
    assert north[0] == ("asked", None) and ("asked", now + 50) in north
    assert north[-1][0] == "answered" and {a.site for a in heard.activities} == set(SITES)
    last = [a.seen_at for a in heard.activities if a.site == "south"][-1]
    assert last is not None and last >= now, "what was heard later counts"


def test_a_failure_says_why_and_what_was_done() -> None:
    heard = Heard(failing("south", times=1))
    heard.train(retries=2, on_failure=heard.logged.append)
    assert [(f.site, f.round, f.attempt, f.code, f.outcome) for f in heard.failures] == [
        ("south", 1, 1, "run.disk_full", "asked_again")
    ]
    assert [state for state, *_ in heard.of("south")] == ["asked", "working", "failed", "asked", "working", "answered"]
    assert len(heard.logged) == 1


@pytest.mark.parametrize(("code", "state"), [("refused", "refused"), ("not_approved", "undecided")])
def test_what_a_site_has_decided_is_no_failure_and_not_asked_again(code: str, state: str) -> None:
    def decides(request: SiteRequest) -> None:
        if request.site == "south":
            raise UserError(f"federation.{code}", what="South does not take part.", why="w", fix="f")

    heard = Heard(decides)
    heard.train(retries=3, quorum=1, on_failure=heard.logged.append)
    assert [(f.site, f.attempt, f.outcome) for f in heard.failures] == [("south", 0, "left_out")]
    assert [now for now, *_ in heard.of("south")] == ["asked", "working", state]


def test_a_sites_own_exit_ends_its_work_and_not_the_servers() -> None:
    def leaves(request: SiteRequest) -> None:
        if request.site == "south":
            raise SystemExit(3)

    heard = Heard(leaves)
    heard.train(quorum=1)
    assert [(f.site, f.what) for f in heard.failures] == [("south", "Site south failed: SystemExit: 3.")]


def test_a_site_that_is_left_out_stays_failed() -> None:
    heard = Heard(failing("south"))
    heard.train(quorum=1, on_failure=heard.logged.append)
    assert [(f.attempt, f.outcome) for f in heard.failures] == [(0, "left_out")]
    assert heard.of("south")[-1][0] == "failed"
    assert len(heard.logged) == 1


@pytest.mark.parametrize("retries", [0, 1])
def test_the_failure_that_ends_a_run_is_kept_once_and_logged_by_the_worker_alone(retries: int) -> None:
    heard = Heard(failing("south"))
    with pytest.raises(UserError, match="disk at south"):
        heard.train(retries=retries, on_failure=heard.logged.append)
    assert [f.outcome for f in heard.failures] == ["asked_again"] * retries + ["stopped"]
    assert len(heard.logged) == retries


def test_a_site_that_fails_in_another_question_than_a_rounds_is_asked_again_as_often() -> None:
    heard = Heard(failing("south", times=2), retries=2)
    assert heard.ask() == ["north", "south"]
    assert [(f.site, f.attempt, f.outcome) for f in heard.failures] == [
        ("south", 1, "asked_again"),
        ("south", 2, "asked_again"),
    ]
    assert {f.round for f in heard.failures} == {0}, "the number of another question is none of a round"
    states = [state for state, *_ in heard.of("north")]
    assert states == ["asked", "working", "answered"], "who has answered is not asked again"
    for most, failures in ((2, ["asked_again"] * 2 + ["stopped"]), (0, ["stopped"])):
        heard = Heard(failing("south"), retries=most)
        with pytest.raises(UserError, match="disk at south"):
            heard.ask()
        assert [f.outcome for f in heard.failures] == failures


def activity(site: str, **values: object) -> SiteActivity:
    return SiteActivity(site, 8, 2, 0, **{"task": "train.student", "state": "answered", "seen_at": 5.0, **values})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def reporter(store: RunStore, run_id: str, stage: str = STAGE) -> StoreReporter:
    return StoreReporter(store, run_id, stage, attempt=0)


def failure(site: str, round_number: int, *, what: str = "x <b>") -> SiteFailure:
    return SiteFailure(site, round_number, 0, 7.0 + round_number, "code", what, "left_out")


def test_the_store_gives_each_site_once_those_in_need_first(store: RunStore) -> None:
    run_id = store.create_run(RunConfig()).run_id
    first, second = reporter(store, run_id), reporter(store, run_id, "generator_training")
    for site, dice in (("a", 0.9), ("b", 0.5), ("c", 0.7), ("d", 0.8)):
        first.site(activity(site, state="working", step=1, total=9))
        first.site(activity(site))
        first.metric("val_dice", 0.1, step=1, site=site)
        first.metric("val_dice", dice, step=2, site=site)
        first.traffic(Traffic(site, "up", "student", 10, 1))
        first.traffic(Traffic(site, "up", "student", 20, 2))
        first.traffic(Traffic(site, "down", "student", 5, 1))
    first.site_failure(failure("d", 2))
    first.site_failure(failure("d", 1))
    first.flush()
    second.site(activity("c", state="failed", task="train.generator"))
    second.flush()
    views = site_views(store, run_id, active=True)
    assert [view.now.site for view in views] == ["c", "d", "b", "a"]
    assert (views[0].stage, views[0].now.task, views[2].stage) == ("generator_training", "train.generator", STAGE)
    assert [(view.score, view.bytes_up, view.bytes_down) for view in views] == [
        (0.7, 30, 5), (0.8, 30, 5), (0.5, 30, 5), (0.9, 30, 5),
    ]  # fmt: skip
    assert views[3].now == activity("a")
    assert [one.round for one in views[1].failures] == [1, 2]


def test_nobody_works_in_a_run_that_has_ended(store: RunStore) -> None:
    run_id = store.create_run(RunConfig()).run_id
    tells = reporter(store, run_id)
    for site, state in (("a", "working"), ("b", "asked"), ("c", "answered"), ("d", "failed")):
        tells.site(activity(site, state=state))
    tells.flush()
    states = {view.now.site: view.now.state for view in site_views(store, run_id, active=False)}
    assert states == {"a": "stopped", "b": "stopped", "c": "answered", "d": "failed"}


def test_a_run_of_before_has_no_sites(store: RunStore) -> None:
    assert site_views(store, store.create_run(RunConfig()).run_id, active=True) == ()
    assert site_table.table(()) == ""


def test_the_page_shows_what_a_site_does_and_its_failures_escaped() -> None:
    now = activity("n<1>", state="working", round=3, step=2, total=8)
    html = site_table.table([SiteView(STAGE, now, 0.81, 2_000_000, 1_000, (failure("n<1>", 2), failure("n<1>", 0)))])
    for words in ("training the student, round 3, step 2 of 8", "8 training · 2 validation", "0.810", "2.0 MB",
                  "n&lt;1&gt;", "<p>Round 2: x &lt;b&gt; (left out)</p>", "<p>x &lt;b&gt; (left out)</p>",
                  "width:25%", "2, last: left out"):  # fmt: skip
        assert words in html, words
    assert "<b>" not in html


def test_the_page_shows_work_beside_the_rounds_while_it_goes_on() -> None:
    now = activity("n", state="answered", round=3)
    beside = activity("n", task="train.generator", state="working", step=3, total=4, seen_at=3605.0)
    html = site_table.table([SiteView(STAGE, now, 0.8, 1, 1, beside=beside)])
    assert "<div class='beside'>Beside it: <span class='state working'>working</span> training its generator" in html
    assert "step 3 of 4" in html and "width:75%" in html
    assert time.strftime("%H:%M:%S", time.localtime(3605.0)) in html, "the later of both"
    over = site_table.table([SiteView(STAGE, now, 0.8, 1, 1, beside=replace(beside, state="answered"))])
    assert "Beside it" not in over and "class='beside'" not in over


def test_a_thousand_sites_are_a_page_of_fifty() -> None:
    views = [SiteView(STAGE, activity(f"s{i}"), 0.5, 0, 0) for i in range(1000)]
    html = site_table.table(views)
    assert len(re.findall("<tr>", html)) == 51
    assert "50 of 1000 sites" in html


def test_status_lists_the_sites(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = store.create_run(RunConfig()).run_id
    assert main(["status", run_id, "--home", str(store.home)]) == 0
    assert "No site has been asked yet." in capsys.readouterr().out
    tells = reporter(store, run_id)
    tells.site(activity("north", state="working", round=2, step=1, total=4))
    tells.site_failure(failure("north", 1, what="late"))
    tells.flush()
    assert main(["status", run_id, "--home", str(store.home)]) == 0
    said = capsys.readouterr().out
    assert "north  working  training the student, round 2, step 1 of 4" in said and "1, last: late" in said
    assert main(["status", run_id, "--json", "--home", str(store.home)]) == 0
    (site,) = json.loads(capsys.readouterr().out)["sites"]
    assert (site["now"]["state"], site["failures"][0]["outcome"]) == ("working", "left_out")


def test_progress_of_sites_side_by_side_only_rises_and_sums() -> None:
    progress = SiteProgress()
    told = [("a", 1, 0.5), ("b", 1, 0.25), ("a", 1, 0.75), ("b", 1, 0.1), ("a", 2, 0.5)]
    assert [progress.done(*one) for one in told] == [0.5, 0.75, 1.0, 1.0, 0.5]
    progress.answered("b", 2)
    assert progress.done("a", 2, 0.5) == 1.5


@pytest.mark.parametrize(("state", "is_said"), [("answered", False), ("working", False), ("failed", True)])
def test_of_a_finished_run_no_site_does_anything_any_more(state: str, is_said: bool) -> None:
    now = activity("north", state=state, round=3, step=2, total=5)
    view = SiteView(STAGE, now, 0.8, 1, 1)
    assert "round 3" in site_table.table([view])
    over = site_table.table([view], of="finished")
    assert ("round 3" in over, ">done</span>" in over) == (is_said, not is_said)

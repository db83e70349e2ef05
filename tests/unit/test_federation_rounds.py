"""Federated training over real Flower messages: equal to bare FedAvg, resumable, cancellable, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.aggregation import federated_average
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.payload import payload_bytes
from engine.federation.rounds import Failure, RoundResult, call_once, quorum_of, run_rounds
from engine.federation.tasks import SiteReply, SiteRequest
from engine.models.arrays import buffer_names, load_arrays, model_arrays
from engine.models.objective import Objective
from engine.site.local_training import train_site
from engine.types import RunCancelled, Traffic
from tests.unit.federation_world import (
    CONFIG,
    CPU,
    SEED,
    SITES,
    SIZES,
    Asked,
    Discs,
    build_unet,
    student_grid,
    student_tasks,
)

Arrays = dict[str, np.ndarray]


def assert_same_bits(first: Arrays, second: Arrays) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert np.array_equal(first[name], second[name]), name


def bare_fedavg(state_root: Path, *, rounds: int) -> Arrays:
    """Return Eq. 4 written out in numpy, with no Flower, no messages and no round loop of ours."""
    arrays = model_arrays(build_unet())
    for number in range(1, rounds + 1):
        local = {}
        for site in SITES:
            model = CPU.place(build_unet())
            load_arrays(model, arrays)
            train_site(
                model,
                Discs(site, SIZES[site]),
                config=CONFIG,
                objective=Objective(),
                seed=SEED,
                site=site,
                round_number=number,
                state_dir=state_root / site,
                placement=CPU,
                check_cancelled=lambda: None,
            )
            local[site] = model_arrays(model)
        for name, array in arrays.items():
            if array.dtype == np.float32:
                total = sum(SIZES[site] * local[site][name].astype(np.float64) for site in SITES)
                arrays[name] = (total / sum(SIZES.values())).astype(np.float32)
            else:
                arrays[name] = local[SITES[0]][name]
    return arrays


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrays, list[RoundResult], list[Traffic]]:
    results: list[RoundResult] = []
    traffic: list[Traffic] = []
    arrays = run_rounds(
        student_grid(tmp_path_factory.mktemp("whole")),
        arrays=model_arrays(build_unet()),
        sites=SITES,
        rounds=CONFIG.rounds,
        on_round=results.append,
        on_traffic=traffic.append,
    )
    return arrays, results, traffic


def test_equals_bare_fedavg_bit_for_bit(trained, tmp_path: Path) -> None:
    assert_same_bits(trained[0], bare_fedavg(tmp_path, rounds=CONFIG.rounds))


def test_training_lowers_the_loss_at_every_site(trained) -> None:
    first, last = trained[1][0].metrics, trained[1][-1].metrics
    for site in SITES:
        assert last[site]["loss"] < 0.8 * first[site]["loss"]
        assert 0.0 <= last[site]["val_dice"] <= 1.0
    assert trained[1][0].num_examples == SIZES


def test_order_of_sites_does_not_matter(trained, tmp_path: Path) -> None:
    grid = student_grid(tmp_path)
    arrays = run_rounds(grid, arrays=model_arrays(build_unet()), sites=tuple(reversed(SITES)), rounds=CONFIG.rounds)
    assert_same_bits(trained[0], arrays)


@pytest.mark.parametrize("done", range(1, CONFIG.rounds))
def test_restart_after_a_round_equals_uninterrupted(trained, tmp_path: Path, done: int) -> None:
    before = run_rounds(student_grid(tmp_path), arrays=model_arrays(build_unet()), sites=SITES, rounds=done)
    after = run_rounds(student_grid(tmp_path), arrays=before, sites=SITES, rounds=CONFIG.rounds, start_round=done + 1)
    assert_same_bits(trained[0], after)


@pytest.mark.parametrize("killed_at", [("north", 2, 1), ("south", 2, 2), ("west", 2, 4), ("west", 3, 1)])
def test_cancel_stops_within_a_step_and_finished_sites_are_not_trained_again(
    trained, tmp_path: Path, killed_at: tuple[str, int, int]
) -> None:
    asked = Asked()
    saved: dict[int, Arrays] = {0: model_arrays(build_unet())}
    replies: dict[int, dict[str, SiteReply]] = {}

    def check_cancelled() -> None:
        if asked.steps and asked.steps[-1] == killed_at:
            raise RunCancelled

    tasks = student_tasks(tmp_path, asked=asked, check_cancelled=check_cancelled)
    with pytest.raises(RunCancelled):
        run_rounds(
            InProcessGrid(build_client_app(tasks), sites=SITES),
            arrays=saved[0],
            sites=SITES,
            rounds=CONFIG.rounds,
            on_reply=lambda number, site, reply: replies.setdefault(number, {}).update({site: reply}),
            on_round=lambda result: saved.update({result.round: dict(result.arrays)}),
        )
    assert asked.steps[-1] == killed_at
    again, number = Asked(), killed_at[1]
    arrays = run_rounds(
        student_grid(tmp_path, asked=again),
        arrays=saved[number - 1],
        sites=SITES,
        rounds=CONFIG.rounds,
        start_round=number,
        completed=replies.get(number),
    )
    assert_same_bits(trained[0], arrays)
    finished = {(site, number) for site in replies.get(number, {})}
    assert not finished & set(again.rounds())
    assert len(again.rounds()) + len(finished) == 3 * (CONFIG.rounds - number + 1)


def test_every_message_is_counted(trained) -> None:
    arrays, _, traffic = trained
    expected = payload_bytes(arrays)
    for number in range(1, CONFIG.rounds + 1):
        for site in SITES:
            mine = [record for record in traffic if (record.site, record.round) == (site, number)]
            assert sorted((record.direction, record.kind) for record in mine) == [
                ("down", "metrics"),
                ("down", "student"),
                ("up", "metrics"),
                ("up", "student"),
            ]
            assert {record.payload_bytes for record in mine if record.kind == "student"} == {expected}
            assert all(0 < record.payload_bytes < 2000 for record in mine if record.kind == "metrics")
    assert len(traffic) == 4 * len(SITES) * CONFIG.rounds


def test_round_zero_validates_the_first_model(tmp_path: Path) -> None:
    arrays = model_arrays(build_unet())
    replies = call_once(student_grid(tmp_path), task="query.student", kind="student", sites=SITES, arrays=arrays)
    assert list(replies) == sorted(SITES)
    assert all(set(reply.metrics) == {"val_dice", "val_loss", "val_images", "wall_s"} for reply in replies.values())
    assert not any(tmp_path.iterdir())


def test_on_round_can_end_the_loop(tmp_path: Path) -> None:
    asked = Asked()
    run_rounds(
        student_grid(tmp_path, asked=asked),
        arrays=model_arrays(build_unet()),
        sites=SITES,
        rounds=3,
        on_round=lambda result: result.round == 2,
    )
    assert {number for _, number in asked.rounds()} == {1, 2}


def test_buffers_of_the_server_stay_when_not_averaged(tmp_path: Path) -> None:
    buffers = buffer_names(build_unet())
    arrays = model_arrays(build_unet())
    result = run_rounds(
        student_grid(tmp_path),
        arrays=arrays,
        sites=SITES,
        rounds=1,
        aggregate=lambda replies, previous, num_refused: federated_average(
            replies, previous, average_buffers=False, buffers=buffers
        ),
    )
    statistics = [name for name in buffers if arrays[name].dtype.kind == "f"]
    assert statistics
    assert all(np.array_equal(result[name], arrays[name]) for name in statistics)
    assert not np.array_equal(result["model.0.conv.weight"], arrays["model.0.conv.weight"])


def echo(request: SiteRequest) -> SiteReply:
    """Return what was sent, one larger."""
    return SiteReply({name: array + 1 for name, array in request.arrays.items()}, {"loss": 1.0}, 10)


def broken(request: SiteRequest, **change: object) -> SiteReply:
    reply = echo(request)
    return replace(reply, **change) if request.site == "south" else reply


WEIGHT = {"w": np.zeros((2, 2), np.float32)}
NAN = {"w": np.full((2, 2), np.nan, np.float32)}

BAD_REPLIES = [
    ({"arrays": NAN}, "'w' has values that are not finite"),
    ({"arrays": {}}, "arrays are missing or unknown, the first is 'w'"),
    ({"arrays": {"w": np.zeros((2, 3), np.float32)}}, "'w' is float32(2, 3), not float32(2, 2)"),
    ({"arrays": {"w": np.zeros((2, 2), np.float16)}}, "'w' is float16(2, 2), not float32(2, 2)"),
    ({"num_examples": 0}, "it counts 0 examples"),
    ({"num_examples": -3}, "it counts -3 examples"),
    ({"metrics": {"loss": float("nan")}}, "loss is nan"),
]


@pytest.mark.parametrize(("change", "problem"), BAD_REPLIES)
def test_a_bad_reply_names_its_site(change: dict[str, object], problem: str) -> None:
    grid = InProcessGrid(build_client_app({"student": lambda request: broken(request, **change)}), sites=SITES)
    with pytest.raises(UserError) as caught:
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1)
    assert caught.value.code == "federation.bad_reply"
    assert "site south in round 1" in caught.value.what
    assert problem in caught.value.what


def test_a_user_error_of_a_site_reaches_the_server_as_it_is() -> None:
    raised = UserError("data.mask_missing", what="south/x.png has no mask.", why="It is needed.", fix="Add it.")

    def task(request: SiteRequest) -> SiteReply:
        if request.site == "south":
            raise raised
        return echo(request)

    replies: list[str] = []
    grid = InProcessGrid(build_client_app({"student": task}), sites=SITES)
    with pytest.raises(UserError) as caught:
        run_rounds(
            grid, arrays=WEIGHT, sites=SITES, rounds=1, on_reply=lambda number, site, reply: replies.append(site)
        )
    assert caught.value is raised
    assert replies == ["north"]


def failing_south(request: SiteRequest) -> SiteReply:
    if request.site == "south":
        raise ZeroDivisionError("one over none")
    return echo(request)


def test_any_other_failure_names_the_site_and_keeps_the_cause() -> None:
    grid = InProcessGrid(build_client_app({"student": failing_south}), sites=SITES)
    with pytest.raises(UserError, match="Site south failed: ZeroDivisionError: one over none") as caught:
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1)
    assert caught.value.code == "federation.site_failed"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_quorum_goes_on_without_a_failed_site_and_says_so() -> None:
    results: list[RoundResult] = []
    grid = InProcessGrid(build_client_app({"student": failing_south}), sites=SITES)
    arrays = run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=2, quorum=2, on_round=results.append)
    assert np.array_equal(arrays["w"], np.full((2, 2), 2.0))
    assert [sorted(result.metrics) for result in results] == [["north", "west"]] * 2
    assert [list(result.failures) for result in results] == [["south"]] * 2


def failing_first(times: int) -> tuple[Callable[[SiteRequest], SiteReply], list[tuple[str, int]]]:
    """Return a task that fails so often at the south in each round, and the list of who was asked."""
    asked: list[tuple[str, int]] = []

    def task(request: SiteRequest) -> SiteReply:
        asked.append((request.site, request.round))
        if request.site == "south" and asked.count((request.site, request.round)) <= times:
            raise RuntimeError("the disk is full")
        return echo(request)

    return task, asked


def test_a_site_that_fails_is_asked_again_and_the_model_is_that_of_no_failure() -> None:
    task, asked = failing_first(2)
    told: list[Failure] = []
    results: list[RoundResult] = []
    grid = InProcessGrid(build_client_app({"student": task}), sites=SITES)
    how: dict[str, Any] = {"arrays": WEIGHT, "sites": SITES, "rounds": 2}
    arrays = run_rounds(grid, retries=2, on_failure=told.append, on_round=results.append, **how)
    plain = run_rounds(InProcessGrid(build_client_app({"student": echo}), sites=SITES), **how)
    assert_same_bits(arrays, plain)
    assert [(f.round, f.site, f.attempt) for f in told] == [(n, "south", k) for n in (1, 2) for k in (1, 2)]
    assert all("the disk is full" in failure.error.what for failure in told)
    assert not any(result.failures for result in results)
    assert asked.count(("north", 1)) == asked.count(("west", 2)) == 1, "who has answered is not asked again"


def test_a_site_that_goes_on_failing_stops_the_run_by_name() -> None:
    task, asked = failing_first(9)
    grid = InProcessGrid(build_client_app({"student": task}), sites=SITES)
    with pytest.raises(UserError, match=r"Site south failed.*the disk is full"):
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1, retries=2)
    assert asked.count(("south", 1)) == 3


def test_a_long_reason_is_cut_and_says_where_it_goes_on() -> None:
    def wordy(request: SiteRequest) -> SiteReply:
        raise RuntimeError("Missing key(s): " + ", ".join(f"layer.{n}.weight" for n in range(1000)))

    grid = InProcessGrid(build_client_app({"student": wordy}), sites=SITES)
    with pytest.raises(UserError, match="the whole text is in the log of north") as caught:
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1)
    assert "Missing key(s): layer.0.weight" in caught.value.what and len(caught.value.what) < 800


def test_a_late_site_is_a_failure_that_can_be_left_out() -> None:
    told: list[Failure] = []
    grid = InProcessGrid(build_client_app({"student": echo}), sites=SITES)
    with pytest.raises(UserError, match=r"0 of the 1 replies .*north: Round 1 is over its deadline without north"):
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1, quorum=1, deadline_s=0.0, on_failure=told.append)
    assert {(failure.site, failure.error.code) for failure in told} == {(s, "federation.deadline") for s in SITES}


@pytest.mark.parametrize(
    ("federation", "expected"),
    [
        ({}, None),
        ({"on_failure": "retry"}, None),
        ({"on_failure": "skip"}, 3),
        ({"on_failure": "skip", "quorum": 2}, 2),
        ({"on_failure": "skip", "quorum": 9}, 5),
        ({"quorum": 2}, None),
    ],
)
def test_how_many_replies_a_round_needs(federation: dict[str, Any], expected: int | None) -> None:
    """Of five sites; half of them, rounded up, where only skipping is chosen."""
    assert quorum_of(FederationConfig(**federation), num_sites=5) == expected


def test_too_few_replies_for_the_quorum() -> None:
    grid = InProcessGrid(build_client_app({"student": failing_south}), sites=SITES)
    with pytest.raises(UserError, match=r"has 2 of the 3 replies.*south: Site south failed") as caught:
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1, quorum=3)
    assert caught.value.code == "federation.quorum"


def test_a_deadline_names_the_sites_that_missed_it() -> None:
    grid = InProcessGrid(build_client_app({"student": echo}), sites=SITES)
    with pytest.raises(UserError, match="without north, south, west") as caught:
        run_rounds(grid, arrays=WEIGHT, sites=SITES, rounds=1, deadline_s=0.0)
    assert caught.value.code == "federation.deadline"


def test_a_site_without_a_node_is_named() -> None:
    grid = InProcessGrid(build_client_app({"student": echo}), sites=SITES)
    with pytest.raises(UserError, match="No node answers for east") as caught:
        run_rounds(grid, arrays=WEIGHT, sites=(*SITES, "east"), rounds=1)
    assert caught.value.code == "federation.site_absent"


def test_call_once_skips_sites_that_have_answered() -> None:
    asked: list[str] = []

    def task(request: SiteRequest) -> SiteReply:
        asked.append(request.site)
        return SiteReply({f"weights of {request.site}": np.ones(3, np.float16)}, {"steps": 5}, 3)

    grid = InProcessGrid(build_client_app({"train.generator": task}), sites=SITES)
    known = {"south": SiteReply({"weights of south": np.zeros(3, np.float16)}, {"steps": 5}, 3)}
    replies = call_once(grid, task="generator", kind="generator", sites=SITES, completed=known)
    assert asked == ["north", "west"]
    assert [list(reply.arrays) for reply in replies.values()] == [[f"weights of {site}"] for site in sorted(SITES)]

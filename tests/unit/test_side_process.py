"""A process beside the run's own: questions in a row, what is told before a state is kept, failures, deaths, stops."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.federation.backends.side_process import REPLIES, Outcome, SideProcess, Told, lock_of
from engine.federation.tasks import SiteRequest
from tests.patience import WAIT_S, is_over, wait

pytestmark = pytest.mark.timeout(2 * WAIT_S)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.told, self.flushed = folder, [], []
        self.process = SideProcess(
            entry="tests.unit.side_world:open_counting",
            arguments={"folder": str(folder)},
            threads=None,
            folder=folder,
            hear=self.hear,
            flush=lambda: self.flushed.append((len(self.told), self.state("north"))),
        )

    def hear(self, told: Told) -> None:
        self.told.append(told)

    def ask(self, key: str, what: str, *, site: str = "north", number: int = 2) -> None:
        self.process.ask(key, SiteRequest(site, "train.generator", number, {"what": what}), stage="drawing")

    def outcome(self) -> Outcome:
        found: list[Outcome | None] = [None]

        def is_there() -> bool:
            found[0] = self.process.outcome()
            return found[0] is not None

        wait(is_there, timeout_s=WAIT_S)
        assert found[0] is not None
        return found[0]

    def state(self, site: str) -> str | None:
        path = self.folder / f"{site}.state"
        return path.read_text() if path.is_file() else None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.process.stop()


def test_questions_are_answered_in_a_row_and_heard_before_a_state_is_kept(world: World) -> None:
    world.ask("one", "count")
    world.ask("two", "fail", site="south")
    world.ask("three", "count", site="west", number=0)
    outcomes = [world.outcome() for _ in range(3)]
    assert [outcome.key for outcome in outcomes] == ["one", "two", "three"]
    files = [outcome.file for outcome in outcomes]
    assert files[0] is not None and files[0].parent == world.folder / REPLIES, "replies wait on the disk"
    replies = [outcomes[place].reply() for place in (0, 2)]
    assert not list((world.folder / REPLIES).iterdir())
    expected = {"w": np.array([[1, 2]], np.float16), "one": np.array(5, np.int64), "site": np.zeros(2)}
    for name, array in expected.items():
        assert replies[0].arrays[name].dtype == array.dtype and np.array_equal(replies[0].arrays[name], array)
    assert (replies[0].metrics, replies[0].num_examples) == ({"wall_s": 0.5}, 7)
    assert replies[0].texts["stage"] == "drawing" and replies[0].texts["pid"] == replies[1].texts["pid"]
    assert replies[1].arrays["site"].shape == (0,)
    record = json.loads(outcomes[1].failure)
    assert (record["site"], record["code"], record["fix"]) == ("south", "data.missing", "Put it back.")
    of_north = [told for told in world.told if told.site == "north"]
    curve = [(told.name, told.value, told.step) for told in of_north if told.name]
    assert curve == [("loss", 1.0, 1), ("loss", 0.5, 2), ("loss", 1 / 3, 3)]
    assert [(t.step, t.total) for t in of_north if not t.name] == [(1, 3), (2, 3), (3, 3)]
    assert world.flushed[0] == (6, None), "all six were heard, and nothing was kept yet"


def test_a_process_that_dies_is_a_failure_and_another_takes_its_place(world: World) -> None:
    world.ask("one", "die")
    world.ask("two", "count")
    died, answered = world.outcome(), world.outcome()
    record = json.loads(died.failure)
    assert (died.key, record["code"], record["site"]) == ("one", "federation.worker_died", "north")
    assert "-9" in record["what"]
    assert answered.key == "two" and answered.reply().num_examples == 7


def test_a_process_that_cannot_begin_is_a_failure_of_every_question(world: World) -> None:
    world.process._opening["entry"] = "tests.unit.side_world:nothing_of_this_name"
    world.ask("one", "count")
    world.ask("two", "count", site="south")
    outcomes = [world.outcome() for _ in range(2)]
    codes = [(outcome.key, json.loads(outcome.failure)["code"]) for outcome in outcomes]
    assert codes == [("one", "federation.worker_died"), ("two", "federation.worker_died")]


def test_a_stop_lets_the_task_keep_what_it_has_begun(world: World) -> None:
    world.ask("one", "forever")
    world.ask("two", "count", site="south")
    wait(lambda: len(world.told) > 10, timeout_s=WAIT_S)
    world.process.stop()
    kept = int(world.state("north") or 0)
    assert kept and kept == max(told.step for told in world.told if told.name), "as far as was heard"
    assert world.process.outcome() is None and world.state("south") is None


def test_what_hearing_raises_is_raised_where_the_outcome_is_asked_for(world: World) -> None:
    def full(_told: Told) -> None:
        raise OSError("the disk is full")

    world.hear = full  # type: ignore[method-assign]
    world.process._hear = full
    world.ask("one", "count")
    with pytest.raises(OSError, match="the disk is full"):
        world.outcome()


def test_it_ends_with_whoever_started_it_and_keeps_no_state_that_nobody_heard_of(tmp_path: Path) -> None:
    child = os.fork()
    if not child:  # a process of its own that asks and is killed
        world = World(tmp_path)
        world.ask("one", "forever")
        while len(world.told) < 10:
            pass
        (tmp_path / "pid").write_text(str(world.process._process.pid))  # type: ignore[union-attr]
        signal.pause()
    wait((tmp_path / "pid").is_file, timeout_s=WAIT_S)
    wait(lambda: (tmp_path / "pid").read_text() != "", timeout_s=WAIT_S)
    beside = int((tmp_path / "pid").read_text())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait(lambda: is_over(beside), timeout_s=WAIT_S)
    assert not (tmp_path / "north.state").exists()
    assert (tmp_path / lock_of("north")).exists()

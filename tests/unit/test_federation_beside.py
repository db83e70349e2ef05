"""Work beside rounds: fetched when it is there, checked, counted once; a failure ends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Message

from engine.errors import UserError
from engine.federation import beside
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.beside import Beside, Work
from engine.federation.client_app import build_client_app
from engine.federation.exchange import Questions
from engine.federation.tasks import BESIDE, TRAIN_GENERATOR, SiteReply, SiteRequest
from engine.types import RunCancelled, Traffic

SITES = ("east", "north", "west")


class LateGrid(InProcessGrid):
    """Answers those sites alone that are ready."""

    def __init__(self, answer: Callable[[SiteRequest], SiteReply]) -> None:
        super().__init__(build_client_app({TRAIN_GENERATOR: answer}), sites=SITES)
        self.ready: set[str] = set()
        self.num_pulls = 0

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.num_pulls += 1
        sites = dict(zip(self.get_node_ids(), SITES, strict=True))
        there = [key for key in message_ids if sites[self._pending[key].metadata.dst_node_id] in self.ready]
        return super().pull_messages(there)


def answer(request: SiteRequest) -> SiteReply:
    assert request.settings == {BESIDE: True} and not request.arrays
    if request.site == "north":
        raise UserError("generator.diverged", what="Its loss is not finite.", why="-", fix="-")
    return SiteReply({"w": np.full(3, 2, np.float16)}, {"wall_s": 1.0}, 4)


class World:
    def __init__(self, task: Callable[[SiteRequest], SiteReply] = answer, *, max_bytes: int = 10_000) -> None:
        self.grid = LateGrid(task)
        self.kept: list[str] = []
        self.failed: dict[str, str] = {}
        self.traffic: list[Traffic] = []
        nodes = dict(zip(SITES, self.grid.get_node_ids(), strict=True))
        questions = Questions(
            self.grid,
            [SiteRequest(site, TRAIN_GENERATOR, settings={BESIDE: True}) for site in SITES],
            nodes=nodes,
            kind="student",
            reply_kind="generator",
            max_bytes=max_bytes,
            on_traffic=self.traffic.append,
        )
        self.beside = Beside()
        self.beside.add(Work(questions, self.keep, lambda site, error: self.failed.update({site: error.code})))

    def keep(self, site: str, reply: SiteReply) -> None:
        assert reply.arrays["w"].tolist() == [2, 2, 2] and reply.num_examples == 4
        self.kept.append(site)

    def look(self) -> None:
        self.beside._looked_at = float("-inf")
        self.beside.look()

    def finish(self) -> None:
        self.beside.finish(check_cancelled=lambda: None)


def test_each_reply_is_taken_when_it_is_there_and_counted_once() -> None:
    world = World()
    world.look()
    assert (world.kept, world.failed) == ([], {})
    world.grid.ready = {"west"}
    world.look()
    world.look()
    assert world.kept == ["west"]
    world.grid.ready = set(SITES)
    world.finish()
    assert (world.kept, world.failed) == (["west", "east"], {"north": "generator.diverged"})
    up = [(record.site, record.kind) for record in world.traffic if record.direction == "up"]
    assert up == [("west", "generator"), ("west", "metrics"), ("east", "generator"), ("east", "metrics")]
    pulls = world.grid.num_pulls
    world.look()
    world.finish()
    assert world.grid.num_pulls == pulls, "nothing is asked for that has come"


def test_looking_asks_no_more_often_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(beside, "monotonic", lambda: now[0])
    world = World()
    for second, pulls in ((0.0, 1), (1.9, 1), (2.0, 2), (3.9, 2), (4.0, 3)):
        now[0] = 100.0 + second
        world.beside.look()
        assert world.grid.num_pulls == pulls, second


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (SiteReply({"w": np.full(3, np.nan, np.float16)}, {}, 4), "federation.bad_reply"),
        (SiteReply({"w": np.zeros(3, np.float16)}, {}, 0), "federation.bad_reply"),
        (SiteReply({"w": np.zeros(9_000, np.float16)}, {}, 4), "federation.bad_reply"),
    ],
    ids=["not a number", "of nothing", "too large"],
)
def test_a_bad_reply_is_its_sites_failure_and_the_others_count(reply: SiteReply, code: str) -> None:
    world = World(lambda request: reply if request.site == "west" else answer(request))
    world.grid.ready = set(SITES)
    world.finish()
    assert world.kept == ["east"] and world.failed == {"north": "generator.diverged", "west": code}


@pytest.mark.parametrize(("code", "is_raised"), [("generator.upload_misfit", False), ("run.disk_full", True)])
def test_what_the_server_itself_lacks_is_raised(code: str, is_raised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.grid.ready = {"east", "west"}

    def keep(site: str, reply: SiteReply) -> None:
        raise UserError(code, what="-", why="-", fix="-")

    monkeypatch.setattr(world, "keep", keep)
    work = world.beside._works[0]
    world.beside._works = [Work(work.questions, keep, work.on_failure)]
    if is_raised:
        with pytest.raises(UserError) as raised:
            world.look()
        assert raised.value.code == code
    else:
        world.look()
        world.look()
        assert world.failed == {"east": code, "west": code}


def test_waiting_hears_of_a_stop() -> None:
    def stop() -> None:
        raise RunCancelled("asked to stop")

    with pytest.raises(RunCancelled):
        World().beside.finish(check_cancelled=stop)

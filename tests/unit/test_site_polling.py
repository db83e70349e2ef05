"""How often a site's program asks the server: by its own clock, so that no test waits."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import pytest

from engine.errors import UserError
from engine.site import node


class Clock:
    """Time that passes while the site waits, and ends when it is up."""

    def __init__(self, ends_s: float) -> None:
        self.now, self.ends_s, self.waits = 0.0, ends_s, list[float]()

    def is_set(self) -> bool:
        return self.now >= self.ends_s

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Server:
    """Asks something at the given times, and is away at others."""

    address = "example:9092"

    def __init__(self, clock: Clock, *, asks_at: list[float], away_at: tuple[float, ...] = ()) -> None:
        self.clock, self.asks_at, self.away_at = clock, asks_at, list(away_at)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def receive(self) -> object | None:
        if self.away_at and self.clock.now >= self.away_at[0]:
            self.away_at.pop(0)
            raise UserError("federation.server_unreachable", what="It is away.", why="b", fix="c")
        if self.asks_at and self.clock.now >= self.asks_at[0]:
            self.asks_at.pop(0)
            return object()
        return None


class Program:
    idle_calls = 0

    def idle(self) -> None:
        self.idle_calls += 1


def waits(
    monkeypatch: pytest.MonkeyPatch, *, ends_s: float, said: list[str] | None = None, **given: Any
) -> tuple[list[float], Program]:
    clock, program = Clock(ends_s), Program()
    say = (said if said is not None else []).append
    monkeypatch.setattr(node, "monotonic", lambda: clock.now)
    monkeypatch.setattr(node, "_handle", lambda *_, **__: None)
    server = Server(clock, **given)
    node.serve(lambda: server, program, site="a", stop=clock, say=say)  # type: ignore[arg-type,return-value]
    return clock.waits, program


def test_a_site_that_nobody_asks_becomes_quiet_and_lively_again_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found, program = waits(monkeypatch, ends_s=190.0, asks_at=[100.0])
    # lively for the first minute; the question of second 100 is met at 102; lively until 162; quiet to the end
    assert found == [0.5] * 120 + [3.0] * 14 + [0.5] * 120 + [3.0] * 10
    assert program.idle_calls == len(found)


def test_a_server_that_is_away_is_tried_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    found, _ = waits(monkeypatch, ends_s=21.0, asks_at=[], away_at=(0.0, 10.0), said=said)
    assert found == [10.0, 10.0, 0.5, 0.5]
    assert [line for line in said if "away" in line] == 2 * ["It is away. Trying again every 10 s."]


def test_an_outage_is_told_once_and_the_next_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    away = UserError("federation.server_unreachable", what="It is away.", why="b", fix="c")
    clock = Clock(60.0)
    server = Server(clock, asks_at=[], away_at=(40.0,))

    def connect() -> Server:
        if clock.now < 30 or 41 < clock.now < 60:
            raise away
        return server

    monkeypatch.setattr(node, "monotonic", lambda: clock.now)
    node.serve(connect, Program(), site="a", stop=clock, say=said.append)  # type: ignore[arg-type]
    told = ["It is away. Trying again every 10 s.", "Connected to the server at example:9092 as a."]
    assert said == [*told, told[0]]

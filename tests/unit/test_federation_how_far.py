"""What the server hears of sites at work, by hand: whom it asks when, what it believes, and what is counted."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.task_identity import TaskIdentity

from engine.errors import UserError
from engine.federation.backends import how_far
from engine.federation.backends.deployed import DeployedBackEnd
from engine.federation.backends.how_far import EVERY_S, FORGOTTEN_S, HowFar
from engine.federation.payload import content_bytes, reply_content
from engine.federation.sites import Quiet
from engine.federation.task_titles import HOW_FAR_FROM
from engine.federation.tasks import (
    APPROVAL,
    AT_WORK,
    HOW_FAR,
    READ_EVERYTHING,
    ROUND,
    STEP,
    TOTAL,
    TRAIN_STUDENT,
    SiteReply,
)  # fmt: skip
from engine.site import node
from engine.types import Traffic

SITES = {1: "a", 2: "b"}


class Server:
    """Sends over nothing; ``now`` is the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("_run_id", "_node_id", "_task_id"):
            monkeypatch.setattr(TaskIdentity, name, 1)
        monkeypatch.setattr(how_far, "monotonic", lambda: self.now)
        self.now, self.told, self.counted = 100.0, list[tuple[str, int, int, int]](), list[Traffic]()
        self.sent: list[Message] = []
        self.far = HowFar("run-1", tell=lambda *told: self.told.append(told), count=self.counted.append)

    def begin(self, *nodes: int, task: str = TRAIN_STUDENT, number: int = 3) -> list[str]:
        messages = [Message(RecordDict(), node, task, group_id=str(number)) for node in nodes]
        keys = [f"{task}-{number}-{node}" for node in nodes]
        self.far.begun(messages, keys, sites=SITES)
        return keys

    def ask(self) -> list[int]:
        """Return the nodes that are asked now."""
        before = len(self.sent)
        self.far.ask(self.push)
        return [message.metadata.dst_node_id for message in self.sent[before:]]

    def push(self, messages: Iterable[Message]) -> list[str]:
        first = len(self.sent)
        self.sent += messages
        return [f"far-{number}" for number in range(first, len(self.sent))]

    def say(self, key: str, *, task: str = TRAIN_STUDENT, number: float = 3, at: tuple[float, float] = (2, 8)) -> bool:
        self.now += EVERY_S + 0.1  # as long as a site works between two looks, at least
        reply = SiteReply({}, {STEP: at[0], TOTAL: at[1], ROUND: number}, 1, {AT_WORK: task})
        return self.far.heard(self.reply(key, reply_content(reply)))

    def reply(self, key: str, content: RecordDict | Error, *, task: str = HOW_FAR) -> Message:
        request = Message(RecordDict(), 1, task)
        request.metadata.__dict__["_message_id"] = key
        return Message(content, reply_to=request)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def test_who_works_is_asked_once_at_a_time_until_its_question_has_an_answer(server: Server) -> None:
    keys = server.begin(1, 2)
    assert server.ask() == [1, 2] and server.far.keys == ("far-0", "far-1")
    assert {message.metadata.message_type for message in server.sent} == {HOW_FAR}
    assert server.ask() == [], "each has one such question"
    assert server.say("far-0") and server.told == [("a", 3, 2, 8)] and server.far.keys == ("far-1",)
    assert server.ask() == [1]
    server.far.ended(keys[0])
    assert server.say("far-2", at=(8, 8)) and server.told == [("a", 3, 2, 8)], "its question has been answered"
    assert server.ask() == []
    server.begin(1, number=4)
    assert server.ask() == [1]


def test_a_question_that_is_answered_at_once_has_none_beside_it(server: Server) -> None:
    server.begin(1, task=APPROVAL)
    assert server.ask() == [] and server.far.keys == ()


def test_a_site_that_keeps_silent_is_asked_anew(server: Server) -> None:
    """Its program may have been killed with the small question in its hands."""
    server.begin(1)
    assert server.ask() == [1]
    server.now += FORGOTTEN_S
    assert server.ask() == []
    server.now += 0.1
    assert server.ask() == [1] and server.far.keys == ("far-1",)
    assert server.say("far-0"), "a late answer is none to anything else"
    assert server.told == []


def test_a_message_of_another_kind_is_left_to_whoever_asked(server: Server) -> None:
    (key,) = server.begin(1)
    assert not server.far.heard(server.reply(key, RecordDict(), task=TRAIN_STUDENT))


@pytest.mark.parametrize(
    "said",
    [
        {"task": "query.evaluate"},
        {"number": 2},
        {"at": (9, 8)},
        {"at": (-1, 8)},
        {"at": (0, 0)},
        {"at": (1, 1e12)},
        {"at": (float("nan"), 8)},
        {"at": (1, float("inf"))},
        {"task": "", "number": 0, "at": (0, 0)},
    ],
)
def test_what_cannot_be_or_is_of_other_work_is_not_told(said: dict[str, object], server: Server) -> None:
    server.begin(1)
    server.ask()
    assert server.say("far-0", **said) and server.told == []  # type: ignore[arg-type]
    assert server.ask() == [1], "it is asked again all the same"


def test_an_answer_that_is_none_harms_nothing(server: Server) -> None:
    server.begin(1)
    for number, content in enumerate((Error(2, "broken"), RecordDict())):
        server.ask()
        server.now += EVERY_S + 0.1
        assert server.far.heard(server.reply(f"far-{number}", content))
    assert server.told == [] and server.ask() == [1]


def test_whatever_comes_back_at_once_a_site_is_asked_no_more_often(server: Server) -> None:
    """For one that is away the SuperLink answers at once, and a hostile one may."""
    server.begin(1)
    for number in range(3):
        assert server.ask() == [1]
        assert server.far.heard(server.reply(f"far-{number}", Error(1, "away")))
        assert server.ask() == []
        server.now += EVERY_S
        assert server.ask() == []
        server.now += 0.1


def test_what_the_superlink_does_not_take_has_no_answer_to_wait_for(server: Server) -> None:
    """A site that was revoked meanwhile: its id is None, with which nothing may be asked for."""
    server.begin(1, 2)
    server.far.ask(lambda messages: [None if m.metadata.dst_node_id == 1 else "far-b" for m in messages])  # type: ignore
    assert server.far.keys == ("far-b",)
    server.now += EVERY_S + 0.1
    assert server.ask() == [1]


def test_all_bytes_so_far_are_counted_apart_from_rounds(server: Server) -> None:
    server.begin(1)
    for number in range(3):
        server.ask()
        server.say(f"far-{number}")
    sizes = {
        direction: [r.payload_bytes for r in server.counted if r.direction == direction] for direction in ("down", "up")
    }
    size = content_bytes(server.sent[0].content)[1]
    assert sizes["down"] == [size, 2 * size, 3 * size] and size > 0
    assert len(sizes["up"]) == 3 and sizes["up"][2] == 3 * sizes["up"][0] > 0
    assert {(r.site, r.kind, r.round) for r in server.counted} == {("a", "metrics", HOW_FAR_FROM)}


def test_reading_all_images_is_no_progress_of_whoever_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked outside of every stage's own question: the listener is still that of the one before."""
    heard = list[tuple[str, int, int, int]]()

    class Before(Quiet):
        def progress(self, site: str, round_number: int, step: int, total: int) -> None:
            heard.append((site, round_number, step, total))

    back_end = object.__new__(DeployedBackEnd)
    back_end.grid = SimpleNamespace(beside=None)  # type: ignore[assignment]
    back_end.description = SimpleNamespace(sources=(), tests=())  # type: ignore[assignment]
    back_end.listen(Before())
    monkeypatch.setattr(back_end, "_ask", lambda *_, **__: back_end.tell_progress("a", 0, 3, 9))
    back_end.read_everything(on_image=lambda _done, _total: None)
    assert heard == []
    back_end.tell_progress("a", 1, 2, 4)
    assert heard == [("a", 1, 2, 4)]


def test_every_site_is_asked_to_read_everything_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    back_end, counted, asked = object.__new__(DeployedBackEnd), list[tuple[int, int]](), list[tuple[str, list[str]]]()
    back_end.grid = SimpleNamespace(beside=None)  # type: ignore[assignment]
    sources, tests = [SimpleNamespace(name="a"), SimpleNamespace(name="b")], [SimpleNamespace(name="unseen")]
    back_end.description = SimpleNamespace(sources=sources, tests=tests)  # type: ignore[assignment]
    back_end.listen(Quiet())

    def ask(task: str, sites: list[str], *, on_reply: Any) -> None:
        asked.append((task, sites))
        for site in sites:
            on_reply(0, site, None)

    monkeypatch.setattr(back_end, "_ask", ask)
    assert back_end.read_everything(on_image=lambda done, total: counted.append((done, total))) == []
    assert asked == [(READ_EVERYTHING, ["a", "b", "unseen"])] and counted == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "fault",
    [
        UserError("federation.server_unreachable", what="a", why="b", fix="c"),
        ObjectPullError("x", "gone"),
        OSError(5, "-"),
    ],
)
def test_what_goes_wrong_in_telling_how_far_it_is_ends_no_work(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that asks may have ended meanwhile, and its message with it. A broken disk is the site's fault still."""

    class Connection:
        def receive_meanwhile(self, message_type: str) -> None:
            raise fault

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(node, "TELL_EVERY_S", -1.0)
    message = Message(RecordDict(), 1, TRAIN_STUDENT, group_id="3")
    listener = node._Listener(Connection(), message=message, stop=Event(), say=print)  # type: ignore[arg-type]
    if isinstance(fault, OSError):
        with pytest.raises(OSError, match="-"):
            listener.progress(1, 2)
    else:
        listener.progress(1, 2)
        listener.check_cancelled()

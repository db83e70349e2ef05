"""What the Grid of a SuperLink makes of replies that no site of ours would write: bad replies, never a broken round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from engine.errors import UserError
from engine.federation.backends.packing import pack
from engine.federation.backends.superlink import Link, Node, SuperlinkGrid
from engine.federation.exchange import failure_of
from engine.federation.payload import to_payload

NODE = 7


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> SuperlinkGrid:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(HttpGrid, "push_messages", lambda self, messages: [f"m{k}" for k, _ in enumerate(messages)])
    return SuperlinkGrid(Link("127.0.0.1:1", b"", b"secret"), keys={})


@pytest.fixture(autouse=True)
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.federation.backends.superlink.Control", lambda link: None)


def asked(grid: SuperlinkGrid) -> Message:
    message = Message(RecordDict({"arrays": to_payload({})}), dst_node_id=NODE, message_type="train.student")
    (message_id,) = grid.push_messages([message])
    message.metadata.__dict__["_message_id"] = message_id
    return message


def good() -> RecordDict:
    return RecordDict({"arrays": to_payload({"w": np.ones(3, np.float32)})})


def short() -> RecordDict:
    content = good()
    pack([Message(content, dst_node_id=NODE, message_type="train.student")])
    content["packed-index-of-arrays"]["sizes"] = [10**12]
    return content


def nameless() -> RecordDict:
    return RecordDict({"packed-index-of-gone": ConfigRecord({"names": ["w"]}), "arrays": ArrayRecord()})


def wordy() -> RecordDict:
    content = good()
    pack([Message(content, dst_node_id=NODE, message_type="train.student")])
    content["packed-index-of-arrays"]["shapes"] = ["many"]
    return content


@pytest.mark.parametrize("content", [short, nameless, wordy])
def test_a_reply_that_cannot_be_read_is_a_bad_reply_of_its_site(
    grid: SuperlinkGrid, monkeypatch: pytest.MonkeyPatch, content: Callable[[], RecordDict]
) -> None:
    reply = Message(content(), reply_to=asked(grid))
    monkeypatch.setattr(HttpGrid, "pull_messages", lambda self, ids: [reply])
    (found,) = grid.pull_messages(["m0"])
    assert found.has_error() and found.metadata.reply_to_message_id == "m0"
    failure = failure_of(found.error, site="north")
    assert failure.code == "federation.bad_reply" and failure.what.startswith("Site north: Its reply cannot be read")


def test_only_the_site_that_was_asked_can_answer(grid: SuperlinkGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Message(good(), reply_to=asked(grid))
    monkeypatch.setattr(HttpGrid, "pull_messages", lambda self, ids: [reply])
    assert not grid.pull_messages(["m0"])[0].has_error()
    other = Message(good(), reply_to=asked(grid))
    other.metadata.__dict__["_src_node_id"] = NODE + 1
    monkeypatch.setattr(HttpGrid, "pull_messages", lambda self, ids: [other])
    assert "not asked" in grid.pull_messages(["m0"])[0].error.reason


def test_a_site_that_is_away_is_waited_for_or_asked_all_the_same(
    grid: SuperlinkGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {"a": Node(1, "a", b"", True, 0.0), "b": Node(2, "b", b"", False, 0.0)}
    monkeypatch.setattr(grid, "nodes", lambda: nodes)
    with pytest.raises(UserError, match=r"Not connected: b; connected: a\.") as raised:
        grid.site_nodes(["a", "b"], wait_s=0.0)
    assert raised.value.code == "federation.site_absent"
    grid.goes_on_without = True
    assert grid.site_nodes(["a", "b"], wait_s=0.0) == {"a": 1, "b": 2}
    with pytest.raises(UserError):
        grid.site_nodes(["c"], wait_s=0.0)
    waited = iter([nodes, nodes | {"b": Node(2, "b", b"", True, 0.0)}])
    monkeypatch.setattr(grid, "nodes", lambda: next(waited))
    grid.goes_on_without = False
    assert grid.site_nodes(["b"], wait_s=60.0) == {"b": 2}

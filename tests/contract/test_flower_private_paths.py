"""The private paths of Flower that the in-process Grid stands on, and the function of the trimmed mean, pinned to
the version that they were read in."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.supercore.differential_privacy import compute_clip_model_update, compute_stdv
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

ENGINE = Path(__file__).parents[2] / "engine"
PRIVATE = re.compile(r"^\s*(?:from|import) flwr\.(?!app\b|clientapp\b|serverapp\b)(\S+)", re.MULTILINE)


def test_version_is_the_one_that_was_read() -> None:
    assert version("flwr").startswith("1.41."), "read inprocess.py against the new Flower, then move the pin"


def test_only_the_grid_touches_private_paths() -> None:
    touched = {path.relative_to(ENGINE).as_posix() for path in ENGINE.rglob("*.py") if PRIVATE.search(path.read_text())}
    assert touched == {
        "federation/backends/inprocess.py",
        "federation/backends/superlink.py",
        "federation/backends/fleet.py",
        "federation/privacy.py",
    }


def test_only_the_federation_imports_flower() -> None:
    importing = re.compile(r"^\s*(?:from|import) flwr\b", re.MULTILINE)
    outside = [
        path.relative_to(ENGINE).as_posix()
        for path in ENGINE.rglob("*.py")
        if importing.search(path.read_text())
        and not path.is_relative_to(ENGINE / "federation")
        and path != ENGINE / "site" / "node.py"
    ]
    assert outside == []


def test_the_trimmed_mean_cuts_a_whole_number_of_sites_at_either_end() -> None:
    values = np.array([[3.0], [100.0], [7.0], [-2.0], [2.0]])
    assert [trim_mean(values, share).tolist() for share in (0.19, 0.2, 0.4)] == [[22.0], [4.0], [3.0]]


def test_an_update_is_clipped_as_a_whole_and_noise_is_shared_by_the_sites() -> None:
    """3, 0 and 4 from the model before are of norm 5: at a norm of 1 they are a fifth as long."""
    after, before = [np.array([4.0, 1.0]), np.array([4.0])], [np.array([1.0, 1.0]), np.array([0.0])]
    compute_clip_model_update(after, before, 1.0)
    assert [part.tolist() for part in after] == [[1.6, 1.0], [0.8]]
    assert compute_stdv(1.5, 2.0, 4) == 0.75


def test_an_empty_run_can_be_made() -> None:
    assert Run.create_empty(1).run_id == 1


def test_the_grid_has_the_methods_that_we_implement() -> None:
    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }


def test_a_message_takes_its_sender_from_the_task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_run_id", 11), ("_node_id", 12), ("_task_id", 13)):
        monkeypatch.setattr(TaskIdentity, name, value)
    message = Message(RecordDict(), dst_node_id=14, message_type="train.student", group_id="3")
    metadata = message.metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (11, 12, 14)
    assert metadata.message_id == ""
    metadata.__dict__["_message_id"] = "message-1"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "message-1"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (14, 12)


def test_a_message_can_be_rebuilt_from_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(RecordDict(), dst_node_id=2, message_type="query.who")
    assert Message(RecordDict(), metadata=message.metadata).metadata is message.metadata


def test_error_codes_that_a_lost_site_gives() -> None:
    codes = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.NODE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED)
    assert codes == (2, 5, 8)

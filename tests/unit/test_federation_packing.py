"""Arrays in one piece: what is packed comes out as it was, few objects travel, and wrong pieces are refused."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from engine.errors import UserError
from engine.federation.backends.packing import pack, unpack
from engine.federation.payload import from_payload, to_payload

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(7, np.int64),
    "none": np.zeros((0, 4), np.float16),
    "bits": np.array([True, False]),
}


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def message(content: RecordDict) -> Message:
    return Message(content, dst_node_id=2, message_type="train.student")


def test_arrays_come_out_as_they_went_in_and_share_one_piece() -> None:
    shared = to_payload(ARRAYS)
    sent = [message(RecordDict({"arrays": shared, "settings": ConfigRecord({"site": site})})) for site in "xy"]
    pack(sent)
    assert sent[0].content["arrays"] is sent[1].content["arrays"], "encoded once for all sites"
    assert list(sent[0].content.array_records["arrays"]) == ["packed"]
    for one in sent:
        unpack(one.content)
        assert sorted(one.content) == ["arrays", "settings"]
        back = from_payload(one.content.array_records["arrays"])
        assert list(back) == sorted(ARRAYS)
        for name, value in ARRAYS.items():
            assert back[name].dtype == value.dtype and back[name].shape == value.shape
            assert (back[name] == value).all()


def test_three_hundred_arrays_are_a_handful_of_objects() -> None:
    one = message(RecordDict({"arrays": to_payload({f"w{k}": np.full(9, k, np.float32) for k in range(300)})}))
    assert len(get_all_nested_objects(one)) > 600
    pack([one])
    assert len(get_all_nested_objects(one)) <= 6


def test_a_message_without_arrays_stays_without() -> None:
    one = message(RecordDict({"arrays": to_payload({}), "settings": ConfigRecord({"round": 1})}))
    pack([one])
    unpack(one.content)
    assert from_payload(one.content.array_records["arrays"]) == {}


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4], [10**9, 1, 1, 1], [-1, 1, 1, 1]])
def test_an_index_that_does_not_fit_is_refused(sizes: list[int]) -> None:
    one = message(RecordDict({"arrays": to_payload(ARRAYS)}))
    pack([one])
    one.content["packed-index-of-arrays"]["sizes"] = sizes
    with pytest.raises(UserError, match="not the"):
        unpack(one.content)

"""What crosses a site's border: round trips, exact byte counts, nothing that can run code."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.errors import UserError
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.payload import (
    WIRE_DTYPES,
    Malformed,
    content_bytes,
    from_payload,
    pack_masks,
    payload_bytes,
    read_reply,
    read_request,
    reply_content,
    request_content,
    to_payload,
    unpack_masks,
)
from engine.federation.tasks import SiteReply, SiteRequest, message_type

NAMES = st.text(min_size=1, max_size=20)
ARRAYS = st.dictionaries(
    NAMES,
    st.sampled_from(WIRE_DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype=dtype, shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    max_size=5,
)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


@settings(max_examples=60, deadline=None)
@given(arrays=ARRAYS)
def test_arrays_come_back_bit_for_bit_and_are_counted_exactly(arrays: dict[str, np.ndarray]) -> None:
    record = to_payload(arrays)
    returned = from_payload(record)
    assert list(record) == sorted(arrays)
    assert all(same(returned[name], array) for name, array in arrays.items())
    assert payload_bytes(arrays) == sum(len(name.encode()) + len(array.data) for name, array in record.items())


@settings(max_examples=60, deadline=None)
@given(arrays=ARRAYS)
def test_the_wire_format_is_flowers_own(arrays: dict[str, np.ndarray]) -> None:
    for name, array in to_payload(arrays).items():
        theirs = FlowerArray(arrays[name])
        assert (array.dtype, array.shape, array.stype, array.data) == (
            theirs.dtype,
            theirs.shape,
            theirs.stype,
            theirs.data,
        )
        assert same(array.numpy(), arrays[name])


def test_arrays_written_in_another_layout_are_read_too() -> None:
    weight = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    returned = from_payload(ArrayRecord({"w": FlowerArray(weight)}))
    assert np.array_equal(returned["w"], weight)


def test_arrays_of_foreign_types_or_lengths_are_refused_on_arrival() -> None:
    with pytest.raises(Malformed, match="'w' is of type complex64"):
        from_payload(ArrayRecord({"w": FlowerArray(np.zeros(3, np.complex64))}))
    whole = FlowerArray(np.zeros(3, np.float32))
    cut = FlowerArray(whole.dtype, whole.shape, whole.stype, whole.data[:-1])
    with pytest.raises(Malformed, match="'w' says that it is float32\\(3,\\), and has 11 bytes"):
        from_payload(ArrayRecord({"w": cut}))


def test_count_agrees_with_flower() -> None:
    arrays = {"weight": np.zeros((64, 3, 3, 3), np.float32), "counter": np.array(3)}
    assert payload_bytes(arrays) == to_payload(arrays).count_bytes()


def test_equal_arrays_are_equal_bytes_whatever_the_order_and_layout() -> None:
    weight = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    channels_last = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    bias = np.ones(2, np.float16)
    first, second = to_payload({"w": weight, "b": bias}), to_payload({"b": bias, "w": channels_last})
    assert first.object_id == second.object_id


@pytest.mark.parametrize(
    "array", [np.zeros(2, np.complex64), np.zeros(2, np.int32), np.array(["a"]), np.array([{}], dtype=object)]
)
def test_other_dtypes_do_not_cross(array: np.ndarray) -> None:
    with pytest.raises(UserError, match="'secret' is of type") as caught:
        to_payload({"secret": array})
    assert caught.value.code == "federation.dtype"


def test_returned_arrays_are_writable_and_own_their_memory() -> None:
    record = to_payload({"w": np.zeros(3, np.float32)})
    from_payload(record)["w"][0] = 1.0
    assert from_payload(record)["w"][0] == 0.0


@settings(max_examples=60, deadline=None)
@given(mask=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=9), elements=st.integers(0, 1)))
def test_masks_are_one_bit_a_pixel(mask: np.ndarray) -> None:
    packed = pack_masks(mask)
    assert packed["bits"].nbytes == -(-mask.size // 8)
    assert same(unpack_masks(from_payload(to_payload(packed))), mask)


def test_no_masks_at_all() -> None:
    empty = np.zeros((0, 1, 8, 8), np.uint8)
    assert unpack_masks(pack_masks(empty)).shape == empty.shape


def test_masks_with_other_values_are_refused() -> None:
    with pytest.raises(UserError, match="values up to 255"):
        pack_masks(np.full((1, 1, 2, 2), 255, np.uint8))


def test_request_and_reply_survive_the_wire() -> None:
    InProcessGrid(build_client_app({}), sites=["north"])  # sets the identity that messages are stamped with
    sent = SiteRequest(
        "north", "train.student", 4, {"rate": 0.5, "epochs": 2, "on": True, "name": "a"}, {"w": np.ones(2, np.float32)}
    )
    content = request_content(sent, arrays=to_payload(sent.arrays))
    message = Message(content, dst_node_id=1, message_type=sent.task)
    got = read_request(message, site="north")
    assert (got.site, got.task, got.round, got.settings) == (sent.site, sent.task, 4, sent.settings)
    assert same(got.arrays["w"], sent.arrays["w"])
    reply = SiteReply({"w": np.zeros(2, np.float32)}, {"loss": 0.25, "steps": 3}, 17)
    back = read_reply(Message(reply_content(reply), reply_to=message))
    assert (back.metrics, back.num_examples) == ({"loss": 0.25, "steps": 3.0}, 17)
    assert same(back.arrays["w"], reply.arrays["w"])


def test_scalars_are_counted_as_serialised() -> None:
    content = reply_content(SiteReply({"w": np.zeros(2, np.float32)}, {"loss": 0.25}, 17))
    arrays, scalars = content_bytes(content)
    assert arrays == payload_bytes({"w": np.zeros(2, np.float32)})
    assert scalars == len(MetricRecord({"loss": 0.25, "num-examples": 17}).deflate())
    assert scalars != len(ConfigRecord({}).deflate())


@pytest.mark.parametrize(
    ("task", "expected"),
    [("student", "train.student"), ("train.student", "train.student"), ("query.masks", "query.masks")],
)
def test_message_types(task: str, expected: str) -> None:
    assert message_type(task) == expected

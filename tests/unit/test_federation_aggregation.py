"""Eq. 4 against hand sums, Flower's own FedAvg, and the reference code's rounded weights."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.federation.aggregation import federated_average, rounded_shares
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.payload import from_payload, reply_content, request_content, to_payload
from engine.federation.tasks import SiteReply, SiteRequest
from engine.seeding import numpy_generator

PREVIOUS = {
    "conv.weight": np.zeros((4, 3), np.float32),
    "norm.running_mean": np.full(4, 9.0, np.float32),
    "norm.num_batches_tracked": np.array(0),
    "half": np.zeros(2, np.float16),
}
COUNTS = {"a": 31, "b": 7, "c": 12}


def random_replies(counts: dict[str, int] = COUNTS) -> dict[str, SiteReply]:
    replies = {}
    for index, (site, count) in enumerate(counts.items()):
        rng = numpy_generator(3, site)
        arrays = {
            name: rng.normal(size=array.shape).astype(array.dtype) if array.dtype.kind == "f" else np.array(index + 5)
            for name, array in PREVIOUS.items()
        }
        replies[site] = SiteReply(arrays, {}, count)
    return replies


def test_weights_are_n_k_over_n() -> None:
    replies = random_replies()
    result = federated_average(replies, PREVIOUS)
    for name in ("conv.weight", "norm.running_mean"):
        a, b, c = (replies[site].arrays[name].astype(np.float64) for site in "abc")
        assert np.array_equal(result[name], ((31 * a + 7 * b + 12 * c) / 50).astype(np.float32))
    assert {name: array.dtype for name, array in result.items()} == {n: a.dtype for n, a in PREVIOUS.items()}


def test_counters_are_the_first_sites_and_never_averaged() -> None:
    assert federated_average(random_replies(), PREVIOUS)["norm.num_batches_tracked"] == 5


def test_buffers_stay_the_servers_when_not_averaged() -> None:
    result = federated_average(
        random_replies(), PREVIOUS, average_buffers=False, buffers=frozenset({"norm.running_mean"})
    )
    assert np.array_equal(result["norm.running_mean"], PREVIOUS["norm.running_mean"])
    assert not np.array_equal(result["conv.weight"], PREVIOUS["conv.weight"])


def test_arrival_order_does_not_matter() -> None:
    replies = random_replies()
    expected = federated_average(replies, PREVIOUS)
    for order in permutations(replies):
        result = federated_average({site: replies[site] for site in order}, PREVIOUS)
        assert all(np.array_equal(result[name], expected[name]) for name in PREVIOUS)


@settings(max_examples=30, deadline=None)
@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False),
    counts=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
)
def test_equal_models_average_to_themselves(value: float, counts: list[int]) -> None:
    arrays = {"w": np.array([value], np.float32)}
    replies = {f"site{index}": SiteReply(arrays, {}, count) for index, count in enumerate(counts)}
    assert np.array_equal(federated_average(replies, arrays)["w"], arrays["w"])


def test_the_result_is_nobodys_memory() -> None:
    replies = random_replies()
    before = {name: array.copy() for name, array in replies["a"].arrays.items()}
    for array in federated_average(replies, PREVIOUS).values():
        array[...] = 77
    assert all(np.array_equal(replies["a"].arrays[name], array) for name, array in before.items())


def test_equals_flowers_fedavg_on_the_same_records() -> None:
    InProcessGrid(build_client_app({}), sites=["a"])  # sets the identity that messages are stamped with
    previous = {name: array for name, array in PREVIOUS.items() if array.dtype == np.float32}
    replies = {
        site: SiteReply({name: reply.arrays[name] for name in previous}, {"loss": 1.0}, reply.num_examples)
        for site, reply in random_replies().items()
    }
    messages = []
    for node_id, (site, reply) in enumerate(replies.items(), start=2):
        request = SiteRequest(site, "train.student", 1, {}, {})
        asked = Message(request_content(request, arrays=ArrayRecord()), dst_node_id=node_id, message_type="train")
        messages.append(Message(reply_content(reply), reply_to=asked))
    flowers, metrics = FedAvg().aggregate_train(1, messages)
    assert flowers is not None and metrics is not None
    ours = federated_average(replies, previous)
    for name, array in from_payload(flowers).items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-7)
    assert metrics["loss"] == pytest.approx(1.0)
    assert to_payload(ours).keys() == flowers.keys()


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ({"a": 31, "b": 7, "c": 12}, {"a": 62, "b": 14, "c": 24}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 33, "b": 33, "c": 34}),  # the last takes the remainder
        ({"b": 2, "a": 1}, {"a": 33, "b": 67}),  # last by name, not by arrival
        ({"a": 9}, {"a": 100}),
    ],
)
def test_rounded_weights_of_the_reference(counts: dict[str, int], shares: dict[str, int]) -> None:
    assert rounded_shares(counts) == shares
    replies = random_replies(counts)
    result = federated_average(replies, PREVIOUS, rounded_weights=True)["conv.weight"]
    expected = sum(shares[site] / 100 * replies[site].arrays["conv.weight"].astype(np.float64) for site in counts)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("counts", [{"a": 1, "b": 10_000}, {"a": 10_000, "b": 1}])
def test_rounded_weights_that_silence_a_site_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(UserError) as caught:
        rounded_shares(counts)
    assert caught.value.code == "federation.rounded_weights"

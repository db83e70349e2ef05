"""Every algorithm of aggregation on numbers worked out by hand, and equal to Flower's own where Flower has it."""

from __future__ import annotations

from itertools import permutations
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg
from flwr.serverapp.strategy import FedAvgM as FlowersFedAvgM
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, MultiKrum
from flwr.serverapp.strategy import Krum as FlowersKrum

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.aggregation import AGGREGATORS, Aggregator, make_aggregator
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.payload import from_payload, reply_content, request_content, to_payload
from engine.federation.tasks import SiteReply, SiteRequest
from engine.federation.update_norms import UpdateNorms, update_norms, update_ratios
from engine.seeding import numpy_generator

ALL = get_args(FederationConfig.model_fields["aggregation"].annotation)


def make(buffers: frozenset[str] = frozenset(), **values: Any) -> Aggregator:
    return make_aggregator(FederationConfig(**values), buffers=buffers)


def replies_of(values: dict[str, list[float]], counts: dict[str, int] | None = None) -> dict[str, SiteReply]:
    """Return replies whose one array ``w`` has these values; every site has one image where nothing is said."""
    return {
        site: SiteReply({"w": np.array(numbers, np.float32)}, {}, (counts or {}).get(site, 1))
        for site, numbers in values.items()
    }


def test_every_name_of_the_configuration_has_its_algorithm() -> None:
    assert tuple(AGGREGATORS) == ALL
    assert FederationConfig().aggregation == "fedavg" and FederationConfig().large_updates == "accept"


def test_median_by_hand() -> None:
    start = {"w": np.zeros(3, np.float32)}
    odd = replies_of({"a": [1, -9, 4], "b": [3, 2, 4], "c": [100, 1, 5]}, {"a": 50})
    assert make(aggregation="median").aggregate(odd, start)["w"].tolist() == [3, 1, 4]
    even = replies_of({"a": [1, -9, 4], "b": [3, 2, 4], "c": [100, 1, 5], "d": [4, 0, 9]})
    assert make(aggregation="median").aggregate(even, start)["w"].tolist() == [3.5, 0.5, 4.5]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, [22.0]), (0.2, [4.0]), (0.39, [4.0]), (0.4, [3.0])],  # int(0.39 * 5) = 1 at either end, int(0.4 * 5) = 2
)
def test_trimmed_mean_by_hand(share: float, expected: list[float]) -> None:
    values = replies_of({"a": [3], "b": [100], "c": [7], "d": [-2], "e": [2]}, {"b": 9})
    assert make(aggregation="trimmed_mean", trimmed_share=share).aggregate(values, {"w": np.zeros(1, np.float32)})[
        "w"
    ].tolist() == pytest.approx(expected)


KRUM = {"a": [0.0, 0.0], "b": [0.0, 1.0], "c": [2.0, 0.0], "d": [0.0, -2.0], "e": [50.0, 50.0]}
# Squared distances: ab 1, ac 4, ad 4, bc 5, bd 9, cd 8, and e is far from all. n = 5, f = 1: two neighbours each.
# a: 1 + 4 = 5, b: 1 + 5 = 6, c: 4 + 5 = 9, d: 4 + 8 = 12.


def test_krum_by_hand() -> None:
    start = {"w": np.full(2, 9.0, np.float32)}
    values = replies_of(KRUM, {"a": 1, "b": 2, "c": 3, "d": 4, "e": 1000})
    assert make(aggregation="krum").aggregate(values, start)["w"].tolist() == [0.0, 0.0]
    # Multi-Krum keeps n - f = 4, by n_k: (2 * (0, 1) + 3 * (2, 0) + 4 * (0, -2)) / 10
    kept = make(aggregation="multi_krum").aggregate(values, start)["w"]
    assert kept.tolist() == pytest.approx([0.6, -0.6])
    # f = 2: one neighbour each; a and b at 1 are best, c and d follow at 4, n - f = 3: of c and d the first by name
    kept = make(aggregation="multi_krum", hostile_sites=2).aggregate(values, start)["w"]
    assert kept.tolist() == pytest.approx([(3 * 2) / 6, (2 * 1) / 6])


def test_krum_takes_the_chosen_sites_counters_and_leaves_buffers_that_stay() -> None:
    start = {"w": np.zeros(2, np.float32), "norm.running_mean": np.zeros(1, np.float32), "n": np.array(0)}
    values = {
        site: SiteReply(
            {
                "w": np.array(numbers, np.float32),
                "norm.running_mean": np.array([1000.0 * (site == "a")], np.float32),
                "n": np.array(index),
            },
            {},
            1,
        )
        for index, (site, numbers) in enumerate(KRUM.items())
    }
    buffers = frozenset({"norm.running_mean", "n"})
    averaged = make(buffers, aggregation="krum").aggregate(values, start)
    # By its statistics a lies far off. Among the others b: 5 + 9, c: 5 + 8, d: 9 + 8.
    assert (averaged["w"].tolist(), averaged["n"]) == ([2.0, 0.0], 2)
    stays = make(buffers, aggregation="krum", average_buffers=False).aggregate(values, start)
    assert (stays["w"].tolist(), stays["norm.running_mean"].tolist(), stays["n"]) == ([0.0, 0.0], [0.0], 0)


def test_krum_goes_on_with_one_neighbour_where_replies_are_missing() -> None:
    """Three replies, f = 1: a and b lie close together; Multi-Krum keeps two."""
    start, values = {"w": np.zeros(1, np.float32)}, replies_of({"a": [1.0], "b": [2.0], "c": [60.0]})
    assert make(aggregation="krum").aggregate(values, start)["w"].tolist() == [1.0]
    assert make(aggregation="multi_krum").aggregate(values, start)["w"].tolist() == [1.5]
    for large in ("accept", "clip"):  # one was refused, so it is none of these
        kept = make(aggregation="multi_krum", large_updates=large, update_norm_limit=1000.0)
        assert kept.aggregate(values, start, num_refused=1)["w"].tolist() == [21.0]
    assert make(aggregation="krum", hostile_sites=0).aggregate(replies_of({"a": [4.0]}), start)["w"].tolist() == [4.0]


@pytest.mark.parametrize(("sites", "hostile"), [(2, 1), (3, 2), (1, 1)])
def test_krum_with_too_few_sites_says_so(sites: int, hostile: int) -> None:
    values = replies_of({f"site {index}": [index] for index in range(sites)})
    with pytest.raises(UserError) as caught:
        make(aggregation="krum", hostile_sites=hostile).aggregate(values, {"w": np.zeros(1, np.float32)})
    assert caught.value.code == "federation.too_few_for_krum"
    assert f"{sites} replies" in caught.value.what


def test_momentum_by_hand_and_after_a_restart() -> None:
    """theta 10; averages 8, 7.5; beta 0.5, eta 2: v = 2, theta = 6; v = 0.5 * 2 + (6 - 7.5) = -0.5, theta = 7."""
    values = {"aggregation": "fedavgm", "server_momentum": 0.5, "server_learning_rate": 2.0}
    first = make(**values)
    one = first.aggregate(replies_of({"a": [6.0], "b": [9.0]}, {"a": 1, "b": 2}), {"w": np.full(1, 10, np.float32)})
    assert one["w"].tolist() == [6.0]
    again = make(**values)
    again.restore(first.state())
    replies = replies_of({"a": [7.5]})
    assert again.aggregate(replies, one)["w"].tolist() == first.aggregate(replies, one)["w"].tolist() == [7.0]
    forgetful = make(**values)
    forgetful.restore({})
    assert forgetful.aggregate(replies, one)["w"].tolist() == [9.0]


def test_momentum_moves_no_statistics_and_no_counters() -> None:
    buffers = frozenset({"norm.running_var", "n"})
    start = {"norm.running_var": np.ones(1, np.float32), "n": np.array(4)}
    reply = SiteReply({"norm.running_var": np.full(1, 0.25, np.float32), "n": np.array(5)}, {}, 3)
    aggregator = make(buffers, aggregation="fedavgm", server_learning_rate=4.0)
    for _ in range(2):
        result = aggregator.aggregate({"a": reply}, start)
        assert (result["norm.running_var"].tolist(), result["n"]) == ([0.25], 5)
    assert aggregator.state() == {"velocity": {}}


CLIPPED = {"a": [1.0, 2.0], "b": [3.0, 1.0], "c": [1.0, -3.0], "d": [-59.0, 81.0]}
# From (1, 1) the updates are (0, 1), (2, 0), (0, -4) and (-60, 80): norms 1, 2, 4, 100.
# The others' medians are 4, 4, 2, 2: ratios 0.25, 0.5, 2, 50.


def norms_of(
    replies: dict[str, SiteReply], start: dict[str, np.ndarray], buffers: frozenset[str] = frozenset()
) -> dict[str, UpdateNorms]:
    return {site: update_norms(reply.arrays, start, buffers=buffers) for site, reply in replies.items()}


def test_ratios_by_hand() -> None:
    start = {"w": np.ones(2, np.float32)}
    found = update_ratios(norms_of(replies_of(CLIPPED), start))
    assert {site: ratio.parameters for site, ratio in found.items()} == {"a": 0.25, "b": 0.5, "c": 2, "d": 50}
    assert {ratio.statistics for ratio in found.values()} == {0.0}
    # d is known to have five times as many images as the others' median; what c has fewer of changes nothing
    known = {"a": 20, "b": 20, "c": 2, "d": 100}
    found = update_ratios(norms_of(replies_of(CLIPPED), start), num_examples=known)
    assert {site: ratio.largest for site, ratio in found.items()} == {"a": 0.25, "b": 0.5, "c": 2, "d": 10}


def test_ratios_at_the_edges() -> None:
    start = {"w": np.zeros(1, np.float32), "v": np.zeros(1, np.float32)}
    replies = {
        site: SiteReply({"w": np.array([w], np.float32), "v": np.array([v], np.float32)}, {}, 1)
        for site, w, v in [("a", 0, 0), ("b", 0, 0), ("c", 1, 0), ("d", 0, 2)]
    }
    found = update_ratios(norms_of(replies, start, buffers=frozenset({"v"})))
    assert (found["a"].parameters, found["c"].parameters, found["c"].statistics) == (0, np.inf, 0)
    assert (found["d"].parameters, found["d"].statistics, found["d"].largest) == (0, np.inf, np.inf)
    assert update_ratios(norms_of({"c": replies["c"]}, start))["c"].largest == 1


@pytest.mark.parametrize(("limit", "expected"), [(10.0, [-11.0, 17.0]), (50.0, [-59.0, 81.0]), (1.0, [-0.2, 2.6])])
def test_clipping_by_hand(limit: float, expected: list[float]) -> None:
    """d is shortened to ``limit`` times 2, the others' median, and is then one of four in the mean."""
    start = {"w": np.ones(2, np.float32)}
    others = {"a": [1.0, 2.0], "b": [3.0, 1.0], "c": [1.0, -3.0 if limit > 1 else -1.0]}  # c: 4 is twice its others'
    replies = replies_of({**others, "d": CLIPPED["d"]})
    clipped = make(large_updates="clip", update_norm_limit=limit).aggregate(replies, start)["w"]
    assert clipped.tolist() == pytest.approx(np.mean([*others.values(), expected], axis=0).tolist())
    assert replies["d"].arrays["w"].tolist() == CLIPPED["d"]


def test_clipping_shortens_statistics_apart_and_goes_before_every_algorithm() -> None:
    buffers = frozenset({"v"})
    start = {"w": np.zeros(1, np.float32), "v": np.ones(1, np.float32), "n": np.array(0)}
    numbers = {"a": (1, 2), "b": (1, 2), "c": (1, 101)}  # c's statistics moved by 100, the others' by 1
    replies = {
        site: SiteReply({"w": np.array([w], np.float32), "v": np.array([v], np.float32), "n": np.array(7)}, {}, 1)
        for site, (w, v) in numbers.items()
    }
    values = {"large_updates": "clip", "update_norm_limit": 4.0}
    plain = make(buffers, **values).aggregate(replies, start)
    assert (plain["w"].tolist(), plain["v"].tolist(), plain["n"]) == ([1.0], [3.0], 7)  # (2 + 2 + 5) / 3
    trimmed = make(buffers, aggregation="trimmed_mean", trimmed_share=0.0, **values).aggregate(replies, start)
    assert trimmed["v"].tolist() == [3.0]
    momentum = make(buffers, aggregation="fedavgm", **values)
    momentum.aggregate(replies, start)
    assert momentum.state()["velocity"]["w"].tolist() == [-1.0]
    again = make(buffers, aggregation="fedavgm", **values)
    again.restore(momentum.state())
    assert again.aggregate(replies, start)["w"].tolist() == momentum.aggregate(replies, start)["w"].tolist() != [1.0]
    assert make(aggregation="fedavgm", **values).state() == {"velocity": {}}


def random_replies(seed: int, sites: int = 7) -> tuple[dict[str, SiteReply], dict[str, np.ndarray]]:
    rng = numpy_generator(seed, "robust")
    start = {"a.weight": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=2).astype(np.float32)}
    replies = {
        f"site {index}": SiteReply(
            {name: (array + rng.normal(size=array.shape) * (1 + index)).astype(np.float32) for name, array in
             start.items()}, {"loss": 1.0}, int(rng.integers(1, 50)),
        )
        for index in range(sites)
    }  # fmt: skip
    return replies, start


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("large_updates", ["accept", "clip"])
def test_order_and_memory_of_the_replies_do_not_matter(name: str, large_updates: str) -> None:
    replies, start = random_replies(4, sites=5)
    before = {site: {k: v.copy() for k, v in reply.arrays.items()} for site, reply in replies.items()}
    values = {"aggregation": name, "large_updates": large_updates, "update_norm_limit": 1.0}
    expected = make(**values).aggregate(replies, start)
    for order in list(permutations(replies))[::17]:
        result = make(**values).aggregate({site: replies[site] for site in order}, start)
        assert all(np.array_equal(result[key], expected[key]) for key in start)
        for array in result.values():
            array[...] = 77
    assert all(np.array_equal(replies[site].arrays[k], v) for site in before for k, v in before[site].items())


FLOWERS: list[tuple[dict[str, Any], FlowersFedAvg]] = [
    ({"aggregation": "median"}, FedMedian()),
    ({"aggregation": "trimmed_mean", "trimmed_share": 0.2}, FedTrimmedAvg(beta=0.2)),
    ({"aggregation": "trimmed_mean", "trimmed_share": 0.3}, FedTrimmedAvg(beta=0.3)),
    ({"aggregation": "krum", "hostile_sites": 1}, FlowersKrum(num_malicious_nodes=1)),
    ({"aggregation": "krum", "hostile_sites": 3}, FlowersKrum(num_malicious_nodes=3)),
    ({"aggregation": "multi_krum", "hostile_sites": 2}, MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5)),
]


@pytest.mark.parametrize(("values", "theirs"), FLOWERS, ids=[str(values) for values, _ in FLOWERS])
@pytest.mark.parametrize("seed", range(5))
def test_equals_flowers_own(values: dict[str, Any], theirs: FlowersFedAvg, seed: int) -> None:
    replies, start = random_replies(seed)
    ours = make(**values).aggregate(replies, start)
    for name, array in aggregate_by(theirs, replies).items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("momentum", "rate"), [(0.9, 1.0), (0.5, 0.3), (0.0, 0.7)])
def test_momentum_equals_flowers_over_rounds(momentum: float, rate: float) -> None:
    theirs = FlowersFedAvgM(server_momentum=momentum, server_learning_rate=rate)
    ours = make(aggregation="fedavgm", server_momentum=momentum, server_learning_rate=rate)
    _, arrays = random_replies(0)
    theirs.current_arrays = to_payload(arrays)
    for seed in range(4):
        replies, _ = random_replies(seed)
        arrays = ours.aggregate(replies, arrays)
        for name, array in aggregate_by(theirs, replies).items():
            np.testing.assert_allclose(arrays[name], array, rtol=1e-4, atol=1e-5)


def aggregate_by(theirs: FlowersFedAvg, replies: dict[str, SiteReply]) -> dict[str, np.ndarray]:
    """Return what a strategy of Flower's makes of the replies as messages."""
    InProcessGrid(build_client_app({}), sites=["a"])  # sets the identity that messages are stamped with
    messages = []
    for node_id, (site, reply) in enumerate(replies.items(), start=2):
        content = request_content(SiteRequest(site, "train.student", 1), arrays=ArrayRecord())
        asked = Message(content, dst_node_id=node_id, message_type="train")
        messages.append(Message(reply_content(reply), reply_to=asked))
    arrays, _ = theirs.aggregate_train(1, messages)
    assert arrays is not None
    return from_payload(arrays)

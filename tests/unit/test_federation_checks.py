"""What a reply must satisfy before it counts: each rule refuses, names the site, and lets the honest pass."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from engine.errors import UserError
from engine.federation import release
from engine.federation.aggregation import federated_average
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.checks import METRIC_RANGES, RoundChecks, check_masks, check_reply
from engine.federation.client_app import build_client_app
from engine.federation.exchange import ask, find_sites
from engine.federation.payload import Malformed, from_payload, pack_masks, read_reply, to_payload, unpack_masks
from engine.federation.rounds import RoundResult, call_once, run_rounds
from engine.federation.tasks import SiteReply, SiteRequest

SENT = {
    "conv.weight": np.zeros((2, 2), np.float32),
    "norm.running_mean": np.zeros(2, np.float32),
    "norm.running_var": np.ones(2, np.float32),
    "norm.num_batches_tracked": np.array(3),
}
GOOD = SiteReply(SENT, {"loss": 0.5, "wall_s": 2.0, "val_dice": 1.0, "val_loss": 0.0, "val_images": 4.0}, 10)
KNOWN = RoundChecks(num_examples={"south": 10}, num_validation={"south": 4}, needed=("loss", "wall_s"))


def with_array(name: str, value: np.ndarray) -> SiteReply:
    return replace(GOOD, arrays={**SENT, name: value})


def with_metric(**metrics: float) -> SiteReply:
    return replace(GOOD, metrics={**GOOD.metrics, **metrics})


BAD: dict[str, SiteReply] = {
    "it counts 0 examples": replace(GOOD, num_examples=0),
    "it counts 1000000000 examples, and the site has 10": replace(GOOD, num_examples=10**9),
    "it counts 9 examples, and the site has 10": replace(GOOD, num_examples=9),
    "'norm.running_var' has values down to -0.001, and none can be below 0": with_array(
        "norm.running_var", np.array([1, -0.001], np.float32)
    ),
    "'norm.num_batches_tracked' has values down to -1,": with_array("norm.num_batches_tracked", np.array(-1)),
    "'conv.weight' has values that are not finite": with_array("conv.weight", np.full((2, 2), np.inf, np.float32)),
    "'conv.weight' is float32(4, 2), not float32(2, 2)": with_array("conv.weight", np.zeros((4, 2), np.float32)),
    "1 arrays are missing or unknown, the first is 'extra'": with_array("extra", np.zeros(1, np.float32)),
    "val_dice is 99, not 0 to 1": with_metric(val_dice=99.0),
    "val_dice is -0.01, not 0 to 1": with_metric(val_dice=-0.01),
    "loss is -1, not 0 or more": with_metric(loss=-1.0),
    "wall_s is -2, not 0 or more": with_metric(wall_s=-2.0),
    "loss is nan": with_metric(loss=float("nan")),
    "val_images is 4.5, and counts whole things": with_metric(val_images=4.5),
    "it counts 5 validation images, and the site has 4": with_metric(val_images=5.0),
    "it has a val_dice of no val_images": with_metric(val_images=0.0),
    "it does not say loss": replace(GOOD, metrics={"wall_s": 1.0}),
    "it has 105 figures": with_metric(**{f"x{index}": 0.0 for index in range(100)}),
    "anything is inf": with_metric(anything=float("inf")),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_reply_is_refused_by_the_name_of_its_site(problem: str) -> None:
    with pytest.raises(UserError) as caught:
        KNOWN.check(BAD[problem], site="south", round_number=7, sent=SENT)
    assert caught.value.code == "federation.bad_reply"
    assert caught.value.what.startswith("The reply of site south in round 7 cannot be used: ")
    assert problem in caught.value.what


def test_an_honest_reply_passes_and_so_does_one_without_validation_images() -> None:
    KNOWN.check(GOOD, site="south", round_number=1, sent=SENT)
    without = replace(GOOD, metrics={"loss": 0.0, "wall_s": 0.0})
    replace(KNOWN, num_validation={"south": 0}).check(without, site="south", round_number=1, sent=SENT)
    check_reply(with_metric(anything=-5.0), site="north", round_number=1)
    check_reply(SiteReply({"norm.mean": np.full(3, -1.0, np.float32)}, {}, 1), site="north", round_number=1)


def test_arrays_of_other_types_are_refused_where_nothing_was_sent() -> None:
    with pytest.raises(UserError, match="site south in round 0 cannot be used: 'w' is of type complex64"):
        check_reply(SiteReply({"w": np.zeros(2, np.complex64)}, {}, 1), site="south", round_number=0)


def test_every_known_figure_has_its_range() -> None:
    of_generators = set(release.FIGURES)
    shares = {name for name, known in METRIC_RANGES.items() if known.high == 1}
    counts = {name for name, known in METRIC_RANGES.items() if known.is_count}
    assert shares - of_generators == {"dice", "iou", "val_dice", "val_iou"}
    assert counts - of_generators == {"val_images", "steps", "releases"}
    assert shares & of_generators == {
        release.WITHHELD, release.AUC, release.AUC_LOW, release.AUC_HIGH, release.LIMIT_AUC, release.FAITHFULNESS,
        release.FAITHFULNESS_REAL,
    }  # fmt: skip
    assert counts & of_generators == {release.MEMBERS, release.HELD_OUT, release.COPIES, release.LIMIT_COPIES}
    # An unbiased distance and a difference of likelihoods can be below 0.
    assert of_generators - METRIC_RANGES.keys() == {release.KERNEL, release.FLD, release.INCEPTION_KERNEL}


# --- masks


def masks(num: int = 3, classes: int = 2, px: int = 8) -> SiteReply:
    mask_NKHW = (np.arange(num * classes * px * px) % 3 == 0).astype(np.uint8).reshape(num, classes, px, px)
    return SiteReply(pack_masks(mask_NKHW), {}, num)


def claimed(shape: list[int], **change: Any) -> SiteReply:
    reply = masks()
    return replace(reply, arrays={**reply.arrays, "shape": np.array(shape, np.int64)}, **change)


WRONG_MASKS: dict[str, SiteReply] = {
    "its masks say that they are (3000000000, 1, 1000, 1), and have 48 bytes of bits": claimed([3 * 10**9, 1, 1000, 1]),
    "its masks say that they are (2305843009213693952, 8, 1, 24)": claimed([2**61, 8, 1, 24]),  # 2^64 * 24: 0 in int64
    "its masks say that they are (-3, -2, 8, 8)": claimed([-3, -2, 8, 8]),
    "its masks say that they are (0, 4611686018427387904, 8, 8)": SiteReply(
        {"bits": np.zeros(0, np.uint8), "shape": np.array([0, 2**62, 8, 8])}, {}, 1
    ),
    "its masks are (3, 128), not (N, 2, 8, 8)": claimed([3, 128]),
    "its masks are (6, 1, 8, 8), not (N, 2, 8, 8)": claimed([6, 1, 8, 8]),
    "its masks are (3, 2, 4, 16), not (N, 2, 8, 8)": claimed([3, 2, 4, 16]),
    "it has 4 masks, and 3 were asked for": masks(4),
    "it has 3 masks and counts 2": claimed([3, 2, 8, 8], num_examples=2),
    "it has ['bits'] and not the bits and the shape": SiteReply({"bits": masks().arrays["bits"]}, {}, 3),
    "its masks are float32(48,) in the shape int64(4,)": SiteReply(
        {"bits": np.zeros(48, np.float32), "shape": np.array([3, 2, 8, 8])}, {}, 3
    ),
}


@pytest.mark.parametrize("problem", WRONG_MASKS)
def test_masks_that_are_not_what_was_asked_for(problem: str) -> None:
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        check_masks(WRONG_MASKS[problem], site="south", num_classes=2, image_px=8, at_most=3)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert caught.value.code == "federation.bad_reply"
    assert "site south" in caught.value.what and problem in caught.value.what


def test_masks_as_asked_for_pass_and_unpacking_looks_first() -> None:
    check_masks(masks(), site="south", num_classes=2, image_px=8, at_most=3)
    assert unpack_masks(masks().arrays).shape == (3, 2, 8, 8)
    for problem in list(WRONG_MASKS)[:4]:
        with pytest.raises(Malformed):
            unpack_masks(WRONG_MASKS[problem].arrays)


# --- bytes


def npy(header: dict[str, Any], data: bytes) -> bytes:
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def raw(data: bytes) -> ArrayRecord:
    return ArrayRecord({"w": FlowerArray("float32", (2, 2), "numpy.ndarray", data)})


def foreign(shape: tuple[int, ...], *, descr: str = "<f4", data: bytes = bytes(16), stype: str = "numpy.ndarray"):
    written = npy({"descr": descr, "fortran_order": False, "shape": shape}, data)
    return ArrayRecord({"w": FlowerArray("float32", (2, 2), stype, written)})


BOMBS: dict[str, tuple[ArrayRecord, str]] = {
    "huge": (foreign((10**6, 10**6)), r"'w' says that it is float32\(1000000, 1000000\), and has 16 bytes"),
    "overflow": (foreign((2**32, 2**32)), "'w' says that its shape is"),
    "negative": (foreign((-2, -2)), "'w' says that its shape is"),
    "empty and huge": (foreign((0, 2**62), data=b""), "'w' says that its shape is"),
    "cut": (foreign((2, 2), data=bytes(15)), "and has 15 bytes"),
    "long": (foreign((2, 2), data=bytes(17)), "and has 17 bytes"),
    "big-endian": (foreign((2, 2), descr=">f4"), "'w' is of type >f4"),
    "objects": (foreign((2,), descr="|O"), "'w' is of type object"),
    "text": (foreign((2, 2), stype="pickle"), "'w' is written as 'pickle'"),
    "no header": (raw(b"\x93NUMPY\x01\x00\xff"), "'w' is no array"),
    "nothing": (raw(b""), "'w' is no array"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_declared_shape_allocates_no_more_than_the_bytes_that_came(name: str) -> None:
    record, message = BOMBS[name]
    tracemalloc.start()
    with pytest.raises(Malformed, match=message):
        from_payload(record)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_what_flower_declares_beside_the_bytes_decides_nothing() -> None:
    honest = to_payload({"w": np.ones((2, 2), np.float32)})["w"]
    for dtype, shape in [("float32", (10**9, 10**9)), ("float32", (-2, -2)), ("object", (2, 2))]:
        lying = ArrayRecord({"w": FlowerArray(dtype, shape, honest.stype, honest.data)})
        assert np.array_equal(from_payload(lying)["w"], np.ones((2, 2), np.float32))


def test_arrays_with_a_header_of_the_second_version_are_read() -> None:
    file, weight = BytesIO(), np.arange(6, dtype=np.float32).reshape(2, 3)
    np.lib.format.write_array(file, weight, version=(2, 0))
    assert np.array_equal(from_payload(raw(file.getvalue()))["w"], weight)


def metric_record(values: Mapping[str, Any]) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord(), "metrics": MetricRecord(dict(values))})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (RecordDict(), "it has no arrays or no figures"),
        (RecordDict({"arrays": ArrayRecord()}), "it has no arrays or no figures"),
        (RecordDict({"metrics": MetricRecord({"num-examples": 2})}), "it has no arrays or no figures"),
        (metric_record({}), "num-examples is None"),
        (metric_record({"num-examples": 2.5}), "num-examples is 2.5"),
        (metric_record({"num-examples": 2, "loss": [0.5, 1.0]}), "'loss' is a list"),
        (metric_record({"num-examples": 2, "loss": [0.5] * 100_000}), "its figures have"),
        (metric_record({"num-examples": [1]}), "'num-examples' is a list"),
    ],
)
def test_a_message_that_is_no_reply_is_its_sites_failure(content: RecordDict, problem: str) -> None:
    grid = answering(lambda message: Message(content, reply_to=message))
    nodes = find_sites(grid, sites=["north", "south"])
    requests = [SiteRequest(site, "train.student", 4, {}, {}) for site in ("north", "south")]
    answers = dict(ask(grid, requests, nodes=nodes, kind="student"))
    failure = answers["south"]
    assert isinstance(failure, UserError) and failure.code == "federation.bad_reply"
    assert "site south in round 4" in failure.what and problem in failure.what
    assert isinstance(answers["north"], SiteReply)


def answering(reply: Callable[[Message], Message]) -> InProcessGrid:
    """Return a Grid of north, which echoes, and south, which answers by ``reply``."""
    app = build_client_app({"query.nothing": echo})

    @app.train("student")
    def train(message: Message, context: Any) -> Message:
        if context.node_config["site"] == "south":
            return reply(message)
        metrics = MetricRecord({"num-examples": 2, "loss": 0.5})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

    return InProcessGrid(app, sites=["north", "south"])


def test_a_reply_of_more_bytes_than_expected_is_not_decoded() -> None:
    large = to_payload({"w": np.zeros(100_000, np.float32)})
    content = RecordDict({"arrays": large, "metrics": MetricRecord({"num-examples": 2})})
    grid = answering(lambda message: Message(content, reply_to=message))
    with pytest.raises(UserError, match=r"site south in round 1.*400,12\d bytes, more than the 10,137 that were"):
        run_rounds(grid, arrays={"w": np.zeros(2, np.float32)}, sites=["north", "south"], rounds=1)
    with pytest.raises(Malformed, match="more than the 9 that"):
        read_reply(Message(content, dst_node_id=1, message_type="train.student"), max_bytes=9)


# --- the round's replies together


def echo(request: SiteRequest) -> SiteReply:
    """Return what was sent, one larger."""
    return SiteReply({name: array + np.float32(1) for name, array in request.arrays.items()}, {"loss": 1.0}, 10)


def hostile(request: SiteRequest) -> SiteReply:
    reply = echo(request)
    if request.site != "south":
        return reply
    return replace(reply, arrays={name: array - np.float32(51) for name, array in request.arrays.items()})


SITES = ("north", "south", "west", "zeeland")
START = {"w": np.zeros(4, np.float32)}
STRICT = RoundChecks(update_limit=50.0)


def test_an_update_far_larger_than_the_others_stops_the_round_or_is_left_out() -> None:
    grid = InProcessGrid(build_client_app({"student": hostile}), sites=SITES)
    with pytest.raises(UserError, match=r"south in round 1.*its update is 51 times as large as the median") as caught:
        run_rounds(grid, arrays=START, sites=SITES, rounds=1, checks=STRICT)
    assert caught.value.code == "federation.bad_reply"
    results: list[RoundResult] = []
    arrays = run_rounds(grid, arrays=START, sites=SITES, rounds=2, checks=STRICT, quorum=3, on_round=results.append)
    assert arrays["w"].tolist() == [2.0] * 4
    assert [list(result.failures) for result in results] == [["south"]] * 2
    assert [sorted(result.num_examples) for result in results] == [["north", "west", "zeeland"]] * 2
    with pytest.raises(UserError, match="has 3 of the 4 replies") as caught:
        run_rounds(grid, arrays=START, sites=SITES, rounds=1, checks=STRICT, quorum=4)
    assert caught.value.code == "federation.quorum"
    lenient = RoundChecks(update_limit=51.0)
    assert run_rounds(grid, arrays=START, sites=SITES, rounds=1, checks=lenient)["w"].tolist() == [-12.0] * 4
    assert run_rounds(grid, arrays=START, sites=SITES, rounds=1)["w"].tolist() == [-12.0] * 4


def test_a_refused_site_is_asked_again_when_the_run_goes_on() -> None:
    replies: dict[str, SiteReply] = {}
    grid = InProcessGrid(build_client_app({"student": hostile}), sites=SITES)
    options: dict[str, Any] = {"arrays": START, "sites": SITES, "rounds": 1, "checks": STRICT}
    with pytest.raises(UserError, match="site south"):
        run_rounds(grid, **options, on_reply=lambda number, site, reply: replies.update({site: reply}))
    assert sorted(replies) == sorted(SITES)
    asked: list[str] = []

    def mended(request: SiteRequest) -> SiteReply:
        asked.append(request.site)
        return echo(request)

    grid = InProcessGrid(build_client_app({"student": mended}), sites=SITES)
    assert run_rounds(grid, **options, completed=replies)["w"].tolist() == [1.0] * 4
    assert asked == ["south"]


def test_queries_are_held_to_what_is_known_too() -> None:
    def boast(request: SiteRequest) -> SiteReply:
        return SiteReply({}, {"val_dice": 1.0, "val_images": 1e9}, 1)

    grid = InProcessGrid(build_client_app({"query.student": boast}), sites=SITES)
    checks = RoundChecks(num_validation=dict.fromkeys(SITES, 4))
    with pytest.raises(UserError, match=r"counts 1e\+09 validation images, and the site has 4"):
        call_once(grid, task="query.student", kind="student", sites=SITES, checks=checks)


def test_without_the_checks_these_replies_would_spoil_the_average() -> None:
    """What the rules are for: each of these was once accepted."""
    honest = SiteReply(START, {}, 10)
    claims = {"north": honest, "south": SiteReply({"w": np.full(4, 7, np.float32)}, {}, 10**9)}
    assert federated_average(claims, START)["w"].tolist() == pytest.approx([7.0] * 4)


def test_a_refused_site_is_counted_where_it_is_known_to_be_hostile() -> None:
    told: list[int] = []

    def aggregate(replies: Mapping[str, SiteReply], previous: Any, *, num_refused: int) -> dict[str, np.ndarray]:
        told.append(num_refused)
        return federated_average(replies, previous)

    def fail(request: SiteRequest) -> SiteReply:
        if request.site == "west":
            raise ZeroDivisionError
        return hostile(request)

    grid = InProcessGrid(build_client_app({"student": fail}), sites=SITES)
    run_rounds(
        grid, arrays=START, sites=SITES, rounds=1, checks=RoundChecks(update_limit=5.0), quorum=2, aggregate=aggregate
    )
    run_rounds(grid, arrays=START, sites=SITES, rounds=1, quorum=2, aggregate=aggregate)
    assert told == [1, 0]

"""Replies that wait on the disk: every algorithm gives the bits that it gives of replies in memory, in flat memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

from bench.reporting import ConsoleReporter
from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.aggregation import blocks, make_aggregator, median, trimmed_mean
from engine.federation.aggregation.aggregator import combine
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.checks import RoundChecks
from engine.federation.client_app import build_client_app
from engine.federation.rounds import run_rounds
from engine.federation.tasks import SiteReply, SiteRequest
from engine.runs.checkpoint import CheckpointStore
from engine.runs.stored_arrays import StoredArrays
from engine.seeding import numpy_generator
from engine.stages.reply_files import ReplyFiles

ALL = get_args(FederationConfig.model_fields["aggregation"].annotation)
SHAPES = {"conv": (7, 5, 3), "bias": (3,), "one": (1,), "scalar": (), "norm.running_var": (4,)}
BUFFERS = frozenset({"norm.running_var", "count"})


def model(*names: str | int) -> dict[str, np.ndarray]:
    rng = numpy_generator(5, *names)
    arrays: dict[str, np.ndarray] = {
        key: np.asarray(rng.gamma(2.0, size=shape), np.float32) for key, shape in SHAPES.items()
    }
    return {**arrays, "half": rng.normal(size=9).astype(np.float16), "count": np.array(int(rng.integers(9)))}


SITES = tuple(f"site {index}" for index in range(6))
REPLIES = {site: SiteReply(model(site), {"loss": 1.0}, 3 + index) for index, site in enumerate(SITES)}
START = model("start")


class Stored:
    """A folder in which replies wait, as the stage keeps them."""

    def __init__(self, folder: Path, sites: tuple[str, ...] = SITES) -> None:
        self.store = CheckpointStore(folder, "hash", warn=print)
        self.sites = self
        self.names = sites
        self.checkpoints, self.reporter = self.store, ConsoleReporter("test")
        self.files = ReplyFiles(self)  # type: ignore[arg-type]

    def keep(self, replies: Mapping[str, SiteReply]) -> dict[str, SiteReply]:
        return {site: self.files.save(1, site, reply) for site, reply in replies.items()}


def assert_same_bits(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
        assert found[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("large_updates", ["accept", "clip"])
@pytest.mark.parametrize("name", ALL)
def test_from_files_in_small_parts_every_algorithm_gives_the_bits_of_replies_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, large_updates: str
) -> None:
    values: dict[str, Any] = {"aggregation": name, "large_updates": large_updates, "update_norm_limit": 1.0}
    counts = {site: reply.num_examples for site, reply in REPLIES.items()}

    def average(replies: Mapping[str, SiteReply]) -> dict[str, np.ndarray]:
        return make_aggregator(FederationConfig(**values), buffers=BUFFERS, num_examples=counts).aggregate(
            replies, START
        )

    expected = average(REPLIES)
    stored = Stored(tmp_path).keep(REPLIES)
    assert all(isinstance(reply.arrays, StoredArrays) for reply in stored.values())
    assert_same_bits(average(stored), expected)
    for module in (median, trimmed_mean):
        monkeypatch.setattr(module, "BLOCK_OF_ALL", 4 * len(SITES))
    monkeypatch.setattr(combine, "__kwdefaults__", {"at_most": 4})
    assert_same_bits(average(stored), expected)
    for order in list(permutations(SITES))[::97]:
        assert_same_bits(average({site: stored[site] for site in order}), expected)


def test_the_mean_is_that_of_whole_arrays_summed_in_the_order_of_names() -> None:
    """Written out as it was before anything was cut into parts."""
    expected = {}
    for key, old in START.items():
        summed = np.zeros(old.shape)
        for site in sorted(REPLIES):
            summed += np.multiply(REPLIES[site].arrays[key], REPLIES[site].num_examples, dtype=np.float64)
        total = sum(reply.num_examples for reply in REPLIES.values())
        expected[key] = (summed / total).astype(old.dtype) if old.dtype.kind == "f" else REPLIES[SITES[0]].arrays[key]
    assert_same_bits(make_aggregator(FederationConfig(), buffers=BUFFERS).aggregate(REPLIES, START), expected)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_the_robust_means_are_those_of_whole_arrays(name: str) -> None:
    rule = {"median": lambda stacked: np.median(stacked, axis=0), "trimmed_mean": lambda s: trim_mean(s, 0.25)}[name]
    stacked = {key: np.stack([REPLIES[site].arrays[key] for site in SITES]).astype(np.float64) for key in START}
    expected = {
        key: np.asarray(rule(stacked[key])).astype(old.dtype)
        if old.dtype.kind == "f"
        else REPLIES[SITES[0]].arrays[key]
        for key, old in START.items()
    }
    assert_same_bits(
        make_aggregator(FederationConfig(aggregation=name), buffers=BUFFERS).aggregate(REPLIES, START), expected
    )


@pytest.mark.parametrize(("size", "at_most"), [(0, 3), (1, 3), (3, 3), (4, 3), (10, 3), (7, 2), (1000, 7)])
def test_parts_cover_everything_once_and_none_is_a_lone_number(size: int, at_most: int) -> None:
    found = list(blocks.parts(size, at_most=at_most))
    lengths = [part.stop - part.start for part in found]
    assert np.concatenate([np.arange(size)[part] for part in found] or [np.arange(0)]).tolist() == list(range(size))
    assert max(lengths, default=0) <= at_most
    assert size <= 1 or at_most <= 2 or min(lengths) > 1


@pytest.mark.parametrize("name", ALL)
def test_what_averaging_takes_does_not_grow_with_the_number_of_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One array of 400 KB a site; in memory 24 of them would be 9.6 MB, and 19 MB in float64."""
    monkeypatch.setattr(blocks, "BLOCK", 10_000)
    for module in ("krum", "median", "trimmed_mean"):
        monkeypatch.setattr(f"engine.federation.aggregation.{module}.BLOCK_OF_ALL", 60_000)
    monkeypatch.setattr(combine, "__kwdefaults__", {"at_most": 10_000})
    start = {"w": np.zeros(100_000, np.float32)}
    peaks = {}
    for count in (6, 24):
        sites = tuple(f"s{index:02d}" for index in range(count))
        stored = Stored(tmp_path / str(count), sites)
        kept = {}
        for index, site in enumerate(sites):
            numbers = numpy_generator(1, site).normal(size=100_000).astype(np.float32)
            kept |= stored.keep({site: SiteReply({"w": numbers}, {}, index + 1)})
        aggregator = make_aggregator(FederationConfig(aggregation=name, large_updates="clip"), buffers=frozenset())
        tracemalloc.start()
        aggregator.aggregate(kept, start)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[24] < 1.1 * peaks[6] + 100_000


def twice(request: SiteRequest) -> SiteReply:
    """Return the model doubled, and one more for each letter of the site's name."""
    arrays = {key: np.asarray(array * 2 + len(request.site)) for key, array in request.arrays.items()}
    return SiteReply(arrays, {"loss": 1.0}, len(request.site))


def test_no_more_than_one_reply_is_in_memory_and_the_model_is_the_same(tmp_path: Path) -> None:
    names = tuple(f"{'s' * (1 + index % 3)}{index:02d}" for index in range(20))
    start = {"w": np.ones(50_000, np.float32), "v": np.ones(3, np.float32)}
    stored = Stored(tmp_path, names)
    plain = run_rounds(
        InProcessGrid(build_client_app({"student": twice}), sites=names), arrays=start, sites=names, rounds=2
    )
    alive: list[int] = []

    def keep(number: int, site: str, reply: SiteReply) -> SiteReply:
        alive.append(tracemalloc.get_traced_memory()[0])
        return stored.files.save(number, site, reply)

    tracemalloc.start()
    streamed = run_rounds(
        InProcessGrid(build_client_app({"student": twice}), sites=names),
        arrays=start, sites=names, rounds=2, on_reply=keep, checks=RoundChecks(update_limit=1e6),
    )  # fmt: skip
    tracemalloc.stop()
    assert_same_bits(streamed, plain)
    assert alive[19] < alive[1] + 200_000, "20 replies of 200 KB wait on the disk"


def test_late_refused_and_repeated_replies_leave_the_round_what_it_is(tmp_path: Path) -> None:
    """South sends a huge update first and a good one when asked again; the files hold the good one when all is read."""
    names, start = ("north", "south", "west"), {"w": np.zeros(5, np.float32)}
    asked: list[str] = []

    def answer(request: SiteRequest) -> SiteReply:
        asked.append(request.site)
        reply = twice(request)
        huge = {"w": reply.arrays["w"] * np.float32(1e6)}
        return replace(reply, arrays=huge) if asked.count("south") == 1 and request.site == "south" else reply

    stored = Stored(tmp_path, names)
    found = run_rounds(
        InProcessGrid(build_client_app({"student": answer}), sites=names), arrays=start, sites=names, rounds=1,
        retries=1, checks=RoundChecks(update_limit=100.0), on_reply=stored.files.save,
    )  # fmt: skip
    plain = run_rounds(
        InProcessGrid(build_client_app({"student": twice}), sites=names), arrays=start, sites=names, rounds=1
    )
    assert asked == ["north", "south", "west", "south"]
    assert_same_bits(found, plain)


def test_a_reply_whose_file_is_cut_off_while_the_round_goes_on_stops_it(tmp_path: Path) -> None:
    names, start = ("north", "south"), {"w": np.zeros(500, np.float32)}
    stored = Stored(tmp_path, names)

    def keep(number: int, site: str, reply: SiteReply) -> SiteReply:
        kept = stored.files.save(number, site, reply)
        if site == "north":
            (path,) = tmp_path.rglob("site_0000.safetensors")
            path.write_bytes(path.read_bytes()[:-50])
        return kept

    how: dict[str, Any] = {"arrays": start, "sites": names, "rounds": 1}
    with pytest.raises(UserError) as caught:
        run_rounds(InProcessGrid(build_client_app({"student": twice}), sites=names), on_reply=keep, **how)
    assert caught.value.code == "run.checkpoint_damaged"
    completed = stored.files.load(1)
    assert list(completed) == ["south"], "what is damaged is asked for again"
    grid = InProcessGrid(build_client_app({"student": twice}), sites=names)
    assert_same_bits(run_rounds(grid, completed=completed, **how), run_rounds(grid, **how))

"""What the federation itself costs: time beside training, memory beside a model; and one model wherever the sites are.

    python -m bench.federation [--parts time memory backends generators beside] [--folder bench_federation] [--json]

time        a round of a 40 MB model at three sites that train in no time, against a bare numpy loop; averaging three
            replies, in memory and from files, against copying their bytes once, into new memory
memory      the server's peak with 50 and with 1,000 sites of a 40 MB model, 50 of them in a round; with more rounds
backends    a whole run in one process, on Ray, and at programs of their own over TLS: largest difference of the models
generators  the generators of four sites (phantom_cpu_demo's) on Ray with two workers, against one after the other: the
            same weights
beside      rounds with generators beside them (generator.asynchronous), against after them: the same weights

Timings alternate with what they are compared with, and are medians: other work on the machine hits both. Prints a
table and ends with 1 where a limit is missed. Ray's rows say so where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from bench import federation_runs
from engine.federation.aggregation import federated_average
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.rounds import run_rounds
from engine.federation.tasks import SiteReply, SiteRequest
from engine.runs.checkpoint import CheckpointStore
from engine.seeding import numpy_generator

SITES = ("site-a", "site-b", "site-c")
COUNTS = {"site-a": 31, "site-b": 7, "site-c": 12}
ARRAYS_IN_A_MODEL = 200
"""TinySAM's state dict has a few hundred entries; their number is most of the cost at small payloads."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One line of the table; ``limit`` is the largest ``value`` that will do, None where there is none."""

    part: str
    what: str
    value: float | None
    unit: str
    limit: float | None
    how: str

    @property
    def holds(self) -> bool:
        """Whether the limit is kept; a row without a value has none to keep."""
        return self.limit is None or self.value is None or self.value <= self.limit


def model_of(megabytes: float) -> Arrays:
    """Return float32 arrays of ``megabytes`` (10^6 bytes) together."""
    size = max(1, int(megabytes * 1e6 / 4 / ARRAYS_IN_A_MODEL))
    rng = numpy_generator(0, "bench")
    return {f"layer{index}": rng.standard_normal(size, dtype=np.float32) for index in range(ARRAYS_IN_A_MODEL)}


def compared(one: Callable[[], object], other: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Return the median seconds of both, called in turns after a first time that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for call, own in zip((one, other), seconds, strict=True):
            started = perf_counter()
            call()
            if number:
                own.append(perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def bare_loop(arrays: Arrays) -> Arrays:
    """Return what a round gives, in numpy alone: each site has a copy, and the copies are averaged in float64."""
    local = {site: {name: array.copy() for name, array in arrays.items()} for site in SITES}
    total = sum(COUNTS.values())
    return {
        name: (sum(COUNTS[site] * local[site][name].astype(np.float64) for site in SITES) / total).astype(array.dtype)
        for name, array in arrays.items()
    }


def answer(request: SiteRequest) -> SiteReply:
    """Return the arrays as they came: a site that trains in no time."""
    return SiteReply(request.arrays, {"loss": 0.5}, COUNTS[request.site])


def time_rows(megabytes: float, *, repeats: int) -> list[Row]:
    """Return the rows of what a round and an average take."""
    arrays = model_of(megabytes)
    grid = InProcessGrid(build_client_app({"student": answer}), sites=SITES)
    one_round = partial(run_rounds, grid, arrays=arrays, sites=SITES, rounds=1, on_traffic=lambda record: None)
    took, bare = compared(one_round, partial(bare_loop, arrays), repeats=repeats)
    rows = [_ratio("a round in one process / a bare numpy loop", took, bare, limit=2.0)]
    replies = {site: SiteReply({n: a.copy() for n, a in arrays.items()}, {}, COUNTS[site]) for site in SITES}
    average = partial(federated_average, replies, arrays)
    took, copied = compared(average, partial(_copies, replies), repeats=repeats)
    rows.append(_ratio("averaging replies in memory / copying their bytes once", took, copied, limit=1.5))
    with TemporaryDirectory() as folder:
        store, stored = CheckpointStore(Path(folder), "bench", warn=print), {}
        for site, reply in replies.items():
            store.save(site, {"arrays": reply.arrays})
            stored[site] = SiteReply(store.load(site, leave="arrays")["arrays"], {}, COUNTS[site])  # type: ignore[index]
        average = partial(federated_average, stored, arrays)
        took, read = compared(average, partial(_copies, stored), repeats=repeats)
        rows.append(_ratio("averaging replies from files / reading their bytes once", took, read, limit=1.5))
        kept = partial(one_round, on_reply=partial(_kept, store))
        took, bare = compared(kept, partial(bare_loop, arrays), repeats=max(2, repeats // 3))
        rows.append(_ratio("a round whose replies are written and fsynced / a bare numpy loop", took, bare, limit=None))
    return rows


def _kept(store: CheckpointStore, _round: int, site: str, reply: SiteReply) -> SiteReply:
    store.save(site, {"arrays": reply.arrays})
    return SiteReply(store.load(site, leave="arrays", verify=False)["arrays"], {}, reply.num_examples)  # type: ignore[index]


def _copies(replies: dict[str, SiteReply]) -> list[Arrays]:
    return [{name: np.array(array) for name, array in reply.arrays.items()} for reply in replies.values()]


def _ratio(what: str, took: float, other: float, *, limit: float | None) -> Row:
    return Row("time", what, took / other, "x", limit, f"{1000 * took:.0f} ms / {1000 * other:.0f} ms")


def memory_rows(
    folder: Path, *, few: int, many: int, asked: int, rounds: int, more_rounds: int, small: bool
) -> list[Row]:
    """Return the server's peak memory with few and many sites, and with more rounds, and how far they are apart."""
    cells = [(few, rounds), (many, rounds), (many, more_rounds)]
    found = [
        federation_runs.peak(folder, num_sites=sites, asked=asked, rounds=number, small=small)
        for sites, number in cells
    ]
    rows = [
        Row("memory", f"peak with {sites:,} sites, {asked} in each of {number} rounds", cell.peak_mb, "MB", None,
            f"{cell.seconds_per_round:.1f} s a round")
        for (sites, number), cell in zip(cells, found, strict=True)
    ]  # fmt: skip
    for (sites, number), cell in zip(cells[1:], found[1:], strict=True):
        what = f"{sites:,} sites, {number} rounds / {few} sites, {rounds} rounds"
        rows.append(Row("memory", what, cell.peak_mb / found[0].peak_mb, "x", 1.1, "peak memory"))
    return rows


def backend_rows(folder: Path, *, rounds: int) -> list[Row]:
    """Return how far the models of each back end are from those of one process."""
    rows = []
    for backend, found in federation_runs.differences(folder, rounds=rounds).items():
        what = f"largest difference, {backend} and in one process"
        if found is None:
            rows.append(Row("backends", what, None, "", 0.0, "is not here"))
        else:
            rows.append(Row("backends", what, found[0], "", 0.0, f"over {found[1]} files"))
    return rows


def generator_rows(folder: Path, *, steps: int | None, pairs: int) -> list[Row]:
    """Return the time of four sites' generators on Ray with two workers over that of one after the other."""
    what = "four generators, Ray with two workers / one after the other"
    ratios, against_two, opened = [], [], []
    for pair in range(pairs):
        found = federation_runs.generator_seconds(folder / f"pair_{pair}", steps=steps)
        if found is None:
            return [Row("generators", what, None, "x", 0.6, "Ray is not here")]
        side_by_side, serial, two_threads = found
        ratios.append(side_by_side.trained_s / serial.trained_s)
        against_two.append(side_by_side.trained_s / two_threads.trained_s)
        opened.append((side_by_side.opened_s, serial.opened_s))
    last = f"the last {side_by_side.trained_s:.1f} s / {serial.trained_s:.1f} s"
    how = f"{min(ratios):.3f} to {max(ratios):.3f} in {pairs} pairs, {last}, the same weights"
    ray_s, serial_s = (statistics.median(times) for times in zip(*opened, strict=True))
    begun = f"{ray_s:.1f} s / {serial_s:.1f} s"
    threaded = f"{min(against_two):.3f} to {max(against_two):.3f}"
    return [
        Row("generators", what, statistics.median(ratios), "x", 0.6, how),
        Row("generators", "the same / with two threads", statistics.median(against_two), "x", None, threaded),
        Row("generators", "opening the sites before, once a run", ray_s, "s", None, begun),
    ]


def beside_rows(folder: Path, *, rounds: int, steps: int) -> list[Row]:
    """Return the time of rounds with generators beside them over that of generators after them."""
    beside, after, work_s = federation_runs.asynchronous_seconds(folder, rounds=rounds, steps=steps)
    what = "rounds and generators in one process, beside each other / one after the other"
    how = f"{beside:.1f} s / {after:.1f} s, {work_s:.1f} s beside the rounds, the same weights"
    return [Row("beside", what, beside / after, "x", None, how)]


def table(rows: Sequence[Row], *, judged: bool) -> str:
    """Return the rows as text."""
    lines = [["Part", "What", "Value", "At most", "", ""]]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
        limit = "" if row.limit is None else f"{row.limit:g}"
        lines.append([row.part, row.what, value, limit, row.how, "" if row.holds or not judged else "MISSED"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main() -> int:
    """Measure and print; return 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("time", "memory", "backends", "generators", "beside")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--folder", type=Path, default=Path("bench_federation"), help="is made; must not exist")
    parser.add_argument("--megabytes", type=float, default=40.0, help="size of the model of part time")
    parser.add_argument("--repeats", type=int, default=15, help="of each timing")
    parser.add_argument("--sites", type=int, nargs=2, default=(50, 1000), metavar=("FEW", "MANY"))
    parser.add_argument("--asked", type=int, default=50, help="sites in a round of part memory")
    parser.add_argument("--rounds", type=int, nargs=2, default=(2, 6), metavar=("FEW", "MANY"), help="of part memory")
    parser.add_argument("--quick", action="store_true", help="small models, few steps; no limit is judged")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True)
    folder, quick = chosen.folder.resolve(), chosen.quick
    torch.set_num_threads(1)
    rows: list[Row] = []
    for part in chosen.parts:
        print(f"measuring {part}", file=sys.stderr, flush=True)
        if part == "time":
            rows += time_rows(1.0 if quick else chosen.megabytes, repeats=2 if quick else chosen.repeats)
        elif part == "memory":
            (few, many), (rounds, more) = chosen.sites, chosen.rounds
            rows += memory_rows(
                folder, few=few, many=many, asked=chosen.asked, rounds=rounds, more_rounds=more, small=quick
            )
        elif part == "backends":
            rows += backend_rows(folder, rounds=1 if quick else 3)
        elif part == "beside":
            rows += beside_rows(folder, rounds=1 if quick else 12, steps=2 if quick else 40)
        else:
            rows += generator_rows(folder, steps=2 if quick else None, pairs=1 if quick else 3)
    missed = [] if quick else [row.what for row in rows if not row.holds]
    if chosen.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "missed": missed}, indent=1))
    else:
        print(table(rows, judged=not quick))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

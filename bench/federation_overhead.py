"""Seconds a round that the in-process federation adds to training: messages, checks and FedAvg for three sites.

    python -m bench.federation_overhead [--megabytes 5 40] [--rounds 5]

Prints one line a payload.
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter

import numpy as np

from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.client_app import build_client_app
from engine.federation.rounds import RoundResult, run_rounds
from engine.federation.tasks import SiteReply, SiteRequest
from engine.seeding import numpy_generator

SITES = ("site-a", "site-b", "site-c")
ARRAYS_IN_A_MODEL = 200
"""TinySAM's state dict has a few hundred entries; their number is most of the cost at small payloads."""


def answer(request: SiteRequest) -> SiteReply:
    """Return the arrays as they came: a site that trains in no time."""
    return SiteReply(request.arrays, {"loss": 0.5}, 10)


def seconds_per_round(megabytes: float, *, rounds: int) -> list[float]:
    """Return the wall seconds of each round for a float32 payload of ``megabytes`` (10^6 bytes)."""
    size = int(megabytes * 1e6 / 4 / ARRAYS_IN_A_MODEL)
    rng = numpy_generator(0, "bench")
    arrays = {f"layer{index}": rng.standard_normal(size, dtype=np.float32) for index in range(ARRAYS_IN_A_MODEL)}
    results: list[RoundResult] = []
    grid = InProcessGrid(build_client_app({"student": answer}), sites=SITES)
    run_rounds(grid, arrays=arrays, sites=SITES, rounds=rounds, on_round=results.append, on_traffic=lambda record: None)
    return [result.wall_s for result in results]


def main() -> None:
    """Print the overhead for each payload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[5, 40])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for megabytes in arguments.megabytes:
        started = perf_counter()
        seconds = seconds_per_round(megabytes, rounds=arguments.rounds)
        print(
            f"{megabytes:6.1f} MB, {len(SITES)} sites: median {statistics.median(seconds):.3f} s a round "
            f"({min(seconds):.3f}-{max(seconds):.3f}; {perf_counter() - started:.1f} s in all)"
        )


if __name__ == "__main__":
    main()

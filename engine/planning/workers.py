"""What a run gains, and takes, where several sites work at a time. Torch-free."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import RunConfig
from engine.federation.side_by_side import available_cores, num_workers, threads_of_worker
from engine.planning.costs import CORES_EXPONENT

HELPERS_GIB = 0.6
"""Ray's own processes, measured."""


@dataclass(frozen=True)
class Workers:
    """``count`` processes of ``threads`` threads each; one of all cores where sites work one after the other."""

    count: int
    threads: int
    cores: int
    beside: bool
    """Whether they are processes beside the server's own."""

    @classmethod
    def of(cls, config: RunConfig, *, num_sites: int) -> Workers:
        """Return what the configuration asks for; on a cluster each worker counts as one of this machine."""
        cores = min(available_cores(), config.threads or available_cores())
        if config.backend != "ray":
            return cls(1, cores, cores, beside=False)
        count = num_workers(config, num_sites=num_sites)
        return cls(count, threads_of_worker(count, cores=available_cores(), threads=config.threads), cores, beside=True)

    def seconds(self, alone_s: float, shares: Sequence[float]) -> float:
        """Return how long sites take together that take ``alone_s`` seconds one after the other with all cores.

        ``shares`` are their parts of the work, in the order in which they are asked: whoever is free takes the next.
        More threads than cores wait for each other.
        """
        if not self.beside or not sum(shares):
            return alone_s
        slower = (self.cores / self.threads) ** CORES_EXPONENT
        slower *= max(1.0, self.count * self.threads / available_cores())
        free_at = [0.0] * self.count
        for share in shares:
            heapq.heappush(free_at, heapq.heappop(free_at) + share)
        return alone_s * slower * max(free_at) / sum(shares)

    def gib(self, each: float) -> float:
        """Return the memory of the processes, of which each needs ``each`` GiB, beside what the server itself has."""
        return HELPERS_GIB + self.count * each if self.beside else 0.0

    def words(self, config: RunConfig) -> str:
        """Return where sites are and how many work at a time."""
        if config.backend == "superlink":
            return "at hospitals, side by side"
        if not self.beside:
            return "in this process, one after the other"
        where = f"on the Ray cluster {config.ray_address}" if config.ray_address else "on this machine"
        return f"{where}, {self.count} at a time with {self.threads} CPU thread{'s' if self.threads > 1 else ''} each"

"""How many sites work at a time, and with how many threads each. Torch-free."""

from __future__ import annotations

import os

from engine.config import RunConfig


def available_cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_workers(config: RunConfig, *, num_sites: int) -> int:
    """Return how many sites a run with ``backend = "ray"`` lets work at a time.

    Where nothing is said that is one for each core of this machine, or all sites on a cluster, which may have fewer
    cores; never more than there are sites.
    """
    if config.workers is not None:
        return min(config.workers, max(1, num_sites))
    return max(1, num_sites if config.ray_address else min(num_sites, available_cores()))


def threads_of_worker(workers: int, *, cores: int, threads: int | None) -> int:
    """Return the CPU threads of each of ``workers`` processes: those asked for, else the cores shared out evenly."""
    return threads or max(1, cores // workers)

"""Krum and Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757): only the models that lie among others count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.errors import UserError
from engine.federation.aggregation.aggregator import Stateless
from engine.federation.aggregation.blocks import BLOCK_OF_ALL, flat, parts
from engine.federation.aggregation.fedavg import FedAvg
from engine.federation.tasks import Arrays, SiteReply


@dataclass(frozen=True)
class Krum(Stateless):
    """A site's score is the sum of the squared distances to its n - f - 2 closest; the lowest scores are averaged.

    Sites that were refused in the round are some of the f. Where others' replies are missing, one neighbour at least is
    asked, as in Flower.

    Parameters
    ----------
    average : FedAvg
        What makes one model of the chosen sites'.
    num_hostile : int
        f, the number of sites that may send anything.
    num_kept : int or None
        How many are chosen: 1 is Krum, more are Multi-Krum; None is n - f.

    Flower has the same rule (``select_multikrum``); this one takes distances in float64, at most ``BLOCK_OF_ALL``
    numbers of all sites at a time, where that one holds all models at once and subtracts large float32 squares from
    each other. (An array that is cut for this is summed part by part: its distances may differ in their last bits.)
    """

    average: FedAvg
    num_hostile: int
    num_kept: int | None = 1

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the average of the chosen replies by n_k. Raises ``UserError`` ``federation.too_few_for_krum``."""
        chosen = self.choose(replies, previous, num_refused=num_refused)
        return self.average.aggregate({name: replies[name] for name in chosen}, previous)

    def choose(self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0) -> list[str]:
        """Return the chosen sites, the best first; of equal scores the first by name."""
        names = sorted(replies)
        num_hostile = max(0, self.num_hostile - num_refused)
        if num_hostile and len(names) < num_hostile + 2:
            raise UserError(
                "federation.too_few_for_krum",
                what=f"Krum has {len(names)} replies in a round and is told that {num_hostile} may be hostile.",
                why="A model is judged by those that lie close to it: two honest ones are needed.",
                fix="Take more sites, lower federation.hostile_sites, or set federation.aggregation to 'median'.",
            )
        num_closest = max(1, len(names) - num_hostile - 2)
        distances_nn = _squared_distances(replies, previous, average=self.average)
        np.fill_diagonal(distances_nn, np.inf)  # a model is not its own neighbour
        scores = np.sort(distances_nn, axis=1)[:, :num_closest].sum(axis=1)
        num_kept = self.num_kept or len(names) - num_hostile
        return [names[index] for index in np.argsort(scores, kind="stable")[:num_kept]]


def _squared_distances(replies: Mapping[str, SiteReply], previous: Arrays, *, average: FedAvg) -> np.ndarray:
    """Return the squared L2 distances (n, n) between the sites' float arrays, of those that are averaged."""
    names = sorted(replies)
    distances_nn = np.zeros((len(names), len(names)))
    for key, old in previous.items():
        stays = key in average.buffers.names and not average.buffers.averaged
        if old.dtype.kind != "f" or stays:
            continue
        of_sites = [flat(replies[name].arrays, key) for name in names]
        for part in parts(old.size, at_most=BLOCK_OF_ALL // len(names)):
            flat_nd = np.stack([numbers[part] for numbers in of_sites], dtype=np.float64)
            for index, own_d in enumerate(flat_nd):
                distances_nn[index] += np.square(flat_nd - own_d).sum(axis=1)
    return distances_nn

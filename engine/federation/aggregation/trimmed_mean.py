"""The mean over sites of every single weight without its largest and smallest values (Yin et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

from engine.federation.aggregation.aggregator import NO_BUFFERS, Buffers, Stateless, combine
from engine.federation.aggregation.blocks import BLOCK_OF_ALL
from engine.federation.tasks import Arrays, SiteReply


@dataclass(frozen=True)
class TrimmedMean(Stateless):
    """Of n sites, int(share * n) are cut at either end, for every weight by itself; the others count the same.

    ``share`` is in [0, 0.5). The arithmetic is Flower's.
    """

    share: float
    buffers: Buffers = NO_BUFFERS

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the trimmed mean of the replies, weight by weight."""
        at_most = BLOCK_OF_ALL // len(replies)
        return combine(replies, previous, rule=self._mean, buffers=self.buffers, at_most=at_most)

    def _mean(self, of_sites: Iterable[np.ndarray]) -> np.ndarray:
        return np.asarray(trim_mean(np.stack(list(of_sites), dtype=np.float64), self.share))

"""The median over sites of every single weight (Yin et al. 2018, arXiv 1803.01498)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.federation.aggregation.aggregator import NO_BUFFERS, Buffers, Stateless, combine
from engine.federation.aggregation.blocks import BLOCK_OF_ALL
from engine.federation.tasks import Arrays, SiteReply


@dataclass(frozen=True)
class Median(Stateless):
    """Each site counts the same, whatever its n_k; of an even number of sites the mean of the middle two.

    Fewer than half of the sites cannot move a weight out of the others' range.
    """

    buffers: Buffers = NO_BUFFERS

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the median of the replies, weight by weight."""
        at_most = BLOCK_OF_ALL // len(replies)
        return combine(replies, previous, rule=_median, buffers=self.buffers, at_most=at_most)


def _median(of_sites: Iterable[np.ndarray]) -> np.ndarray:
    return np.asarray(np.median(np.stack(list(of_sites), dtype=np.float64), axis=0))

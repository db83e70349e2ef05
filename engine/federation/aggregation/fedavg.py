"""FedAvg, Eq. 4: the sites' models averaged by their numbers of examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.errors import UserError
from engine.federation.aggregation.aggregator import NO_BUFFERS, Buffers, Stateless, combine
from engine.federation.tasks import Arrays, SiteReply

_HUNDREDTHS = 100


def federated_average(
    replies: Mapping[str, SiteReply],
    previous: Arrays,
    *,
    rounded_weights: bool = False,
    average_buffers: bool = True,
    buffers: frozenset[str] = frozenset(),
) -> dict[str, np.ndarray]:
    """Return theta = sum_k (n_k / n) theta_k (Eq. 4), summed in float64 over sites sorted by name, then cast back.

    Parameters
    ----------
    replies : mapping
        Each site's arrays (same names, shapes and dtypes as ``previous``) and n_k. The result does not depend on
        the mapping's order.
    previous : arrays
        The model that was sent down.
    rounded_weights : bool
        The reference code's weights: n_k/n at two decimals, the last site's the remainder.
    average_buffers, buffers
        When ``average_buffers`` is False the float arrays named in ``buffers`` (BatchNorm statistics) stay as they
        are in ``previous``.

    Integers (BatchNorm's counters) are never averaged: they are the first site's.
    """
    num_examples = {name: replies[name].num_examples for name in sorted(replies)}
    weights = list((rounded_shares(num_examples) if rounded_weights else num_examples).values())
    total = sum(weights)

    def mean(of_sites: Iterable[np.ndarray]) -> np.ndarray:
        # Whole weights first and one division last: n_k * x is exact in float64 for float32 x and n_k < 2^29.
        summed: np.ndarray | None = None
        for numbers, weight in zip(of_sites, weights, strict=True):
            weighed = numbers.astype(np.float64)
            weighed *= weight
            if summed is None:
                summed = weighed
            else:
                summed += weighed
        assert summed is not None
        summed /= total
        return summed

    return combine(replies, previous, rule=mean, buffers=Buffers(buffers, average_buffers))


def rounded_shares(num_examples: Mapping[str, int]) -> dict[str, int]:
    """Return the reference code's weights in hundredths: n_k/n at two decimals, the last site by name the remainder."""
    names = sorted(num_examples)
    total = sum(num_examples.values())
    shares = {name: round(round(num_examples[name] / total, 2) * _HUNDREDTHS) for name in names[:-1]}
    shares[names[-1]] = _HUNDREDTHS - sum(shares.values())
    if min(shares.values()) < 0 or (len(names) > 1 and not all(shares.values())):
        raise UserError(
            "federation.rounded_weights",
            what=f"Weights of two decimals for {len(names)} sites of {dict(num_examples)} images leave one with none.",
            why="A site without weight would be trained for nothing.",
            fix="Set federation.aggregation_weights to 'exact'.",
        )
    return shares


@dataclass(frozen=True)
class FedAvg(Stateless):
    """:func:`federated_average` as an :class:`~engine.federation.aggregation.aggregator.Aggregator`."""

    buffers: Buffers = NO_BUFFERS
    rounded_weights: bool = False

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the average of the replies by n_k."""
        return federated_average(
            replies,
            previous,
            rounded_weights=self.rounded_weights,
            average_buffers=self.buffers.averaged,
            buffers=self.buffers.names,
        )

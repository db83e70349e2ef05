"""What every algorithm of aggregation is, and what all of them do alike. Free of Flower and of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine.federation.aggregation.blocks import BLOCK, flat, parts
from engine.federation.tasks import Arrays, SiteReply

Rule = Callable[[Iterable[np.ndarray]], np.ndarray]
"""From the same numbers of each site, floats (n,) in the order of the sites' names, to those that go on, float64 (n,).

Each weight by itself: which of them come together does not matter."""


class Aggregator(Protocol):
    """One algorithm with what it keeps from round to round."""

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the model after a round: the arrays of ``previous``, the model before it, with their dtypes.

        ``num_refused`` is how many sites sent something that was refused; their replies are not among ``replies``.
        Sites are taken in the order of their names, sums are float64, and the replies are left as they are. Their
        arrays may lie in files and are read in parts (``blocks``).
        """

    def state(self) -> dict[str, Any]:
        """Return what has to be in a checkpoint, so that the next round is the same after a restart."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave; an empty one is the state before the first round."""


class Stateless:
    """Base of the algorithms that keep nothing from round to round."""

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Buffers:
    """The names of the arrays that are no parameters (BatchNorm's statistics and counters), and their handling."""

    names: frozenset[str] = frozenset()
    averaged: bool = True
    """False: the float ones stay as they are at the server."""


NO_BUFFERS = Buffers()


def combine(
    replies: Mapping[str, SiteReply], previous: Arrays, *, rule: Rule, buffers: Buffers, at_most: int = BLOCK
) -> dict[str, np.ndarray]:
    """Return the model that ``rule`` makes, ``at_most`` numbers of each site at a time.

    Integers (BatchNorm's counters) are never averaged: they are the first site's by name. Float buffers that are not
    averaged stay as they are in ``previous``.
    """
    names = sorted(replies)
    result = {}
    for key, old in previous.items():
        if old.dtype.kind != "f":
            result[key] = np.array(replies[names[0]].arrays[key])
        elif key in buffers.names and not buffers.averaged:
            result[key] = np.array(old)
        else:
            of_sites = [flat(replies[name].arrays, key) for name in names]
            new = np.empty(old.size, old.dtype)
            for part in parts(old.size, at_most=at_most):
                new[part] = rule(numbers[part] for numbers in of_sites)
            result[key] = new.reshape(old.shape)
    return result

"""Numbers from the operating system's secure randomness, where a run's seed must not give them away."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

BLOCK = 1 << 20
"""Numbers that are drawn from the operating system at a time (ours)."""
_BITS = 53
"""Of a float64's fraction."""


class Numbers(Protocol):
    """Where random numbers come from: a named stream (``numpy.random.Generator``), or :class:`SystemNumbers`."""

    def standard_normal(self, size: int) -> np.ndarray:
        """Return ``size`` independent numbers of N(0, 1), float64 (size,)."""

    def random(self, size: int) -> np.ndarray:
        """Return ``size`` independent numbers, uniform in [0, 1), float64 (size,)."""


class SystemNumbers:
    """Numbers that nobody can draw again.

    Normal ones by Box-Muller, of 53 random bits each; none lies beyond 8.6 standard deviations, which has a
    probability of 1e-17.
    """

    def standard_normal(self, size: int) -> np.ndarray:
        """Return ``size`` independent numbers of N(0, 1), float64 (size,)."""
        drawn = np.empty(size)
        for start in range(0, size, BLOCK):
            part = drawn[start : start + BLOCK]
            pairs = -(-part.size // 2)
            first, second = self.random(pairs), self.random(pairs)
            radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
            part[:] = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: part.size]
        return drawn

    def random(self, size: int) -> np.ndarray:
        """Return ``size`` independent numbers, uniform in [0, 1), float64 (size,)."""
        bits = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(64 - _BITS)
        return bits.astype(np.float64) / 2.0**_BITS

"""Updates that are too large are shortened before any algorithm sees them (Sun et al. 2019, arXiv 1911.07963)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.federation.aggregation.aggregator import Aggregator
from engine.federation.aggregation.blocks import Flat, flat
from engine.federation.tasks import Arrays, SiteReply
from engine.federation.update_norms import UpdateRatios, update_norms, update_ratios


@dataclass(frozen=True)
class NormClipping:
    """Shorten each site's update to ``limit`` times the median norm of the others', then let ``inner`` aggregate.

    The bound follows the round's own replies (ours; the paper's is a fixed norm). Parameters and statistics are
    shortened apart; ``buffers`` and ``num_examples`` are those of :func:`engine.federation.update_norms.update_ratios`.
    A shortened variance lies between the server's and the site's, so it stays at 0 or above.
    """

    inner: Aggregator
    limit: float
    buffers: frozenset[str] = frozenset()
    num_examples: Mapping[str, int] | None = None

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return what ``inner`` makes of the shortened updates."""
        norms = {name: update_norms(reply.arrays, previous, buffers=self.buffers) for name, reply in replies.items()}
        ratios = update_ratios(norms, num_examples=self.num_examples)
        clipped = {name: self._clip(reply, previous, ratios[name]) for name, reply in replies.items()}
        return self.inner.aggregate(clipped, previous, num_refused=num_refused)

    def state(self) -> dict[str, Any]:
        """Return the state of ``inner``."""
        return self.inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore ``inner``."""
        self.inner.restore(state)

    def _clip(self, reply: SiteReply, previous: Arrays, ratios: UpdateRatios) -> SiteReply:
        if ratios.largest <= self.limit:
            return reply
        return replace(reply, arrays=Shortened(reply.arrays, previous, self._factors(previous, ratios)))

    def _factors(self, previous: Arrays, ratios: UpdateRatios) -> dict[str, float]:
        """Return by which factor each array's update is shortened; those that stay as they are have none."""
        found = {}
        for key, old in previous.items():
            ratio = ratios.statistics if key in self.buffers else ratios.parameters
            if old.dtype.kind == "f" and ratio > self.limit:
                found[key] = self.limit / ratio
        return found


@dataclass(frozen=True, eq=False)
class Shortened(Mapping[str, np.ndarray]):
    """A site's arrays with a shortened update, made when they are read."""

    arrays: Arrays
    previous: Arrays
    factors: Mapping[str, float]

    def __getitem__(self, key: str) -> np.ndarray:
        return self.flat(key)[:].reshape(self.previous[key].shape) if key in self.factors else self.arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def flat(self, name: str) -> Flat:
        """Return an array for reading it in parts."""
        own = flat(self.arrays, name)
        if name not in self.factors:
            return own
        return _ShortenedNumbers(own, self.previous[name].reshape(-1), self.factors[name])


@dataclass(frozen=True, eq=False)
class _ShortenedNumbers:
    """start + factor * (end - start), in the type of ``start``."""

    end: Flat
    start: np.ndarray
    factor: float

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start = self.start[part].astype(np.float64)
        return np.asarray(start + self.factor * (self.end[part] - start)).astype(self.start.dtype)

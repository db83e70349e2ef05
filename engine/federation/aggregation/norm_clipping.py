"""Updates that are too large are shortened before any algorithm sees them (Sun et al. 2019, arXiv 1911.07963)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.federation.aggregation.aggregator import Aggregator
from engine.federation.tasks import Arrays, SiteReply
from engine.federation.update_norms import UpdateRatios, update_ratios


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
        ratios = update_ratios(replies, previous, buffers=self.buffers, num_examples=self.num_examples)
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
        arrays = dict(reply.arrays)
        for key, old in previous.items():
            ratio = ratios.statistics if key in self.buffers else ratios.parameters
            if old.dtype.kind == "f" and ratio > self.limit:
                start = old.astype(np.float64)
                arrays[key] = (start + self.limit / ratio * (arrays[key] - start)).astype(old.dtype)
        return replace(reply, arrays=arrays)

"""How large a site's update is against the others': one that is far larger is a fault or an attack (ours).

A model's parameters and its BatchNorm statistics are measured apart: their scales have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.federation.tasks import Arrays, SiteReply


@dataclass(frozen=True)
class UpdateRatios:
    """A site's update over the median of the others': of its parameters, and of its statistics."""

    parameters: float
    statistics: float

    @property
    def largest(self) -> float:
        """The larger of both."""
        return max(self.parameters, self.statistics)


def update_ratios(
    replies: Mapping[str, SiteReply],
    previous: Arrays,
    *,
    buffers: frozenset[str] = frozenset(),
    num_examples: Mapping[str, int] | None = None,
) -> dict[str, UpdateRatios]:
    """Return the L2 norm of each site's theta_k - theta over the median of the others' norms, by site.

    Parameters
    ----------
    replies, previous
        The sites' models and the one that was sent to them; integers do not count.
    buffers
        Names of what is no parameter.
    num_examples
        What each site is known to have. A site with more examples than the others' median takes that many more steps:
        its norm is divided by this factor, if it is above 1. Never take it from the replies themselves.

    The ratio is 0 where a site's update is 0, infinite where only the others' median is. A site alone has ratio 1.
    """
    names = sorted(replies)
    allowed = {name: 1.0 for name in names}
    if num_examples is not None:
        counts = {name: float(num_examples[name]) for name in names}
        allowed = {name: max(1.0, counts[name] / _others_median(counts, name)) for name in names}
    floats = {key for key, array in previous.items() if array.dtype.kind == "f"}
    parts = []
    for keys in (floats - buffers, floats & buffers):
        norms = {name: _norm(replies[name].arrays, previous, keys=sorted(keys)) for name in names}
        parts.append({name: _ratio(norms[name], _others_median(norms, name)) / allowed[name] for name in names})
    return {name: UpdateRatios(parts[0][name], parts[1][name]) for name in names}


def _norm(arrays: Arrays, previous: Arrays, *, keys: list[str]) -> float:
    squares = (np.square(np.subtract(arrays[key], previous[key], dtype=np.float64)).sum() for key in keys)
    return float(np.sqrt(sum(squares)))


def _others_median(values: Mapping[str, float], name: str) -> float:
    return float(np.median([value for other, value in values.items() if other != name or len(values) == 1]))


def _ratio(norm: float, others: float) -> float:
    if norm == 0:
        return 0.0
    return norm / others if others > 0 else float("inf")

"""How large a site's update is against the others': one that is far larger is a fault or an attack (ours).

A model's parameters and its BatchNorm statistics are measured apart: their scales have nothing to do with each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.federation.tasks import Arrays


@dataclass(frozen=True)
class UpdateNorms:
    """L2 norms of a site's theta_k - theta: of its parameters, and of its statistics."""

    parameters: float
    statistics: float


@dataclass(frozen=True)
class UpdateRatios:
    """A site's update over the median of the others': of its parameters, and of its statistics."""

    parameters: float
    statistics: float

    @property
    def largest(self) -> float:
        """The larger of both."""
        return max(self.parameters, self.statistics)


def update_norms(arrays: Arrays, previous: Arrays, *, buffers: frozenset[str] = frozenset()) -> UpdateNorms:
    """Return the norms of a site's update, ``buffers`` being the names of what is no parameter.

    ``previous`` is the model that was sent to the site; integers do not count. One array at a time is read.
    """
    floats = {key for key, array in previous.items() if array.dtype.kind == "f"}
    return UpdateNorms(
        _norm(arrays, previous, keys=sorted(floats - buffers)), _norm(arrays, previous, keys=sorted(floats & buffers))
    )


def update_ratios(
    norms: Mapping[str, UpdateNorms], *, num_examples: Mapping[str, int] | None = None
) -> dict[str, UpdateRatios]:
    """Return the norm of each site's update over the median of the others' norms, by site.

    ``num_examples`` is what each site is known to have. A site with more examples than the others' median takes that
    many more steps: its norm is divided by this factor, if it is above 1. Never take it from the replies themselves.

    The ratio is 0 where a site's update is 0, infinite where only the others' median is. A site alone has ratio 1.
    """
    names = sorted(norms)
    allowed = {name: 1.0 for name in names}
    if num_examples is not None:
        counts = {name: float(num_examples[name]) for name in names}
        medians = _others_medians(counts)
        allowed = {name: max(1.0, counts[name] / medians[name]) for name in names}
    parts = []
    for of_site in ({n: norms[n].parameters for n in names}, {n: norms[n].statistics for n in names}):
        medians = _others_medians(of_site)
        parts.append({name: _ratio(of_site[name], medians[name]) / allowed[name] for name in names})
    return {name: UpdateRatios(parts[0][name], parts[1][name]) for name in names}


def _norm(arrays: Arrays, previous: Arrays, *, keys: list[str]) -> float:
    squares = (np.square(np.subtract(arrays[key], previous[key], dtype=np.float64)).sum() for key in keys)
    return float(np.sqrt(sum(squares)))


def _others_medians(values: Mapping[str, float]) -> dict[str, float]:
    """Return, for each name, the median of the others' values; a value that is alone is its own."""
    if len(values) == 1:
        return dict(values)
    ordered = sorted(values.values())
    found = {}
    for name, value in values.items():
        at = bisect_left(ordered, value)
        middle = [index + (index >= at) for index in ((len(ordered) - 2) // 2, (len(ordered) - 1) // 2)]
        found[name] = float(np.mean([ordered[index] for index in middle]))
    return found


def _ratio(norm: float, others: float) -> float:
    if norm == 0:
        return 0.0
    return norm / others if others > 0 else float("inf")

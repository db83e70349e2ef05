"""Epsilon of the Gaussian mechanism, by Rényi differential privacy (Mironov 2017, arXiv 1702.07476). Torch-free.

The arithmetic is Google's ``dp-accounting``, which Flower's own accountant wraps, too; it is imported when asked for.
"""

from __future__ import annotations

import math
from typing import Any

_LOW_ORDERS = tuple(1 + 2.0**-power for power in range(1, 13))
_FRACTIONS = tuple(1 + step / 10 for step in range(1, 100))
_WHOLE = (*range(2, 65), 80, 96, 128, 256, 512, 1024)
"""Orders alpha that are tried (ours): of sampled mechanisms whole ones alone, whose value has a closed form."""


def gaussian_epsilon(*, noise_multiplier: float, releases: int, delta: float, sensitivity: float = 1.0) -> float:
    """Return epsilon at ``delta`` after ``releases`` Gaussian mechanisms, each seen whole (no amplification).

    Parameters
    ----------
    noise_multiplier
        Standard deviation of each one's noise over the clipping norm, above 0.
    releases
        How many there were, 0 or more; epsilon of none is 0.
    delta
        In (0, 1).
    sensitivity
        How far two neighbours lie apart, in clipping norms: 1 for a site's update against none, 2 for one against
        any other.
    """
    if not releases:
        return 0.0
    event = _events().GaussianDpEvent(noise_multiplier / sensitivity)
    return _epsilon(event, count=releases, delta=delta, orders=sorted({*_LOW_ORDERS, *_FRACTIONS, *_WHOLE}))


def sampled_epsilon(*, noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """Return epsilon at ``delta`` after ``steps`` of DP-SGD, each unit drawn for each by itself (Poisson sampling).

    ``sampling_rate`` in (0, 1] is the probability that a unit is drawn; whoever sees the result does not know when.
    """
    if not steps:
        return 0.0
    gaussian = _events().GaussianDpEvent(noise_multiplier)
    if sampling_rate >= 1:
        return gaussian_epsilon(noise_multiplier=noise_multiplier, releases=steps, delta=delta)
    event = _events().PoissonSampledDpEvent(sampling_rate, gaussian)
    return _epsilon(event, count=steps, delta=delta, orders=list(_WHOLE))


def epsilon_words(epsilon: float) -> str:
    """Return an epsilon rounded up to three figures, for it is a bound."""
    if epsilon <= 0 or not math.isfinite(epsilon):
        return f"{epsilon:g}"
    unit = 10.0 ** (math.floor(math.log10(epsilon)) - 2)
    return f"{math.ceil(epsilon / unit - 1e-9) * unit:.3g}" if epsilon < 1e4 else f"{epsilon:.1e}"


def _epsilon(event: Any, *, count: int, delta: float, orders: list[float]) -> float:
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=orders)
    accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def _events() -> Any:
    from dp_accounting import dp_event

    return dp_event

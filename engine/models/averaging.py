"""A moving mean of a model's weights over rounds or epochs (ours; neither the paper nor its code has one).

Adam at a constant step size leaves the last weights several Dice points from their neighbours on images of a new site;
a mean over the last few is steadier there (stochastic weight averaging: Izmailov 2018, for new domains Cha 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def moved_mean(
    mean: Mapping[str, Tensor] | None, current: Mapping[str, Tensor], *, decay: float, count: int
) -> dict[str, Tensor]:
    """Return d * mean + (1 - d) * current with d = min(decay, (count - 1) / count): at first the plain mean.

    Parameters
    ----------
    mean, current : mapping
        State dicts with equal names; ``mean`` is None at the first call. Integers are taken from ``current``.
    decay : float
        In [0, 1); 0 keeps ``current`` alone, 0.8 averages over about the last five.
    count : int
        How many states the result has seen, ``current`` included; from 1.
    """
    share = 1.0 - min(decay, (count - 1) / count)
    moved = {}
    for name, value in current.items():
        value = value.detach()
        if mean is None or not value.is_floating_point():
            moved[name] = value.clone()
        else:
            moved[name] = torch.lerp(mean[name].to(value.device), value, share)
    return moved

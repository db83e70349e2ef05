"""FedAvgM (Hsu et al. 2019, arXiv 1909.06335): the averages' steps with momentum at the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.federation.aggregation.fedavg import FedAvg
from engine.federation.tasks import Arrays, SiteReply


class FedAvgM:
    """v <- beta v + (theta - average), theta <- theta - eta v, over the parameters; with Flower's signs and order.

    Parameters
    ----------
    average : FedAvg
        What makes the round's average.
    momentum : float
        beta in [0, 1).
    learning_rate : float
        eta > 0.

    Buffers are averaged as by FedAvg: momentum would carry a variance below 0. (Flower moves them too.)
    """

    def __init__(self, average: FedAvg, *, momentum: float, learning_rate: float) -> None:
        self._average, self._momentum, self._learning_rate = average, momentum, learning_rate
        self._velocity: dict[str, np.ndarray] = {}

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the model a step of momentum further than the average of the replies."""
        result = self._average.aggregate(replies, previous)
        for key, old in previous.items():
            if old.dtype.kind != "f" or key in self._average.buffers.names:
                continue
            step = old.astype(np.float64) - result[key].astype(np.float64)
            self._velocity[key] = self._momentum * self._velocity.get(key, 0.0) + step
            result[key] = (old.astype(np.float64) - self._learning_rate * self._velocity[key]).astype(old.dtype)
        return result

    def state(self) -> dict[str, Any]:
        """Return the velocity by parameter, float64."""
        return {"velocity": dict(self._velocity)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back the velocity; none before the first round."""
        self._velocity = {key: np.asarray(value) for key, value in state.get("velocity", {}).items()}

"""DP-FedAvg with noise at the server (McMahan et al. 2018, arXiv 1710.06963): a mean of clipped updates, and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.federation.aggregation.aggregator import Buffers
from engine.federation.aggregation.fedavg import FedAvg
from engine.federation.aggregation.norm_clipping import Shortened
from engine.federation.privacy import noise_std, noised
from engine.federation.tasks import Arrays, SiteReply
from engine.federation.update_norms import update_norms
from engine.system_randomness import Numbers


@dataclass
class PrivateAverage:
    """Every site counts the same, whatever its n_k, so that one moves the mean by ``clip_norm`` / sites at most.

    An update whose norm is above ``clip_norm`` by rounding is shortened once more, exactly. Statistics of BatchNorm
    stay as they are. ``noise`` gives the noise of a round, counted from 1; each average counts as a round.
    """

    clip_norm: float
    noise_multiplier: float
    noise: Callable[[int], Numbers]
    buffers: frozenset[str] = frozenset()
    _rounds: int = field(default=0, init=False)

    def aggregate(
        self, replies: Mapping[str, SiteReply], previous: Arrays, *, num_refused: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the noised mean of the sites' models."""
        self._rounds += 1
        equal = {name: self._clip(reply, previous) for name, reply in replies.items()}
        mean = FedAvg(Buffers(self.buffers, averaged=False)).aggregate(equal, previous)
        std = noise_std(noise_multiplier=self.noise_multiplier, clip_norm=self.clip_norm, num_sites=len(replies))
        return noised(mean, std=std, noise=self.noise(self._rounds), buffers=self.buffers)

    def state(self) -> dict[str, Any]:
        """Return the number of rounds, so that the next one's noise is its own."""
        return {"rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back the number of rounds."""
        self._rounds = int(state.get("rounds", 0))

    def _clip(self, reply: SiteReply, previous: Arrays) -> SiteReply:
        norm = update_norms(reply.arrays, previous, buffers=self.buffers).parameters
        if norm <= self.clip_norm:
            return replace(reply, num_examples=1)
        names = [key for key, old in previous.items() if old.dtype.kind == "f" and key not in self.buffers]
        factors = dict.fromkeys(names, self.clip_norm / norm)
        return replace(reply, arrays=Shortened(reply.arrays, previous, factors), num_examples=1)

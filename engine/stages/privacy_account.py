"""How much of the sites' privacy the rounds of a run have spent, round by round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.accounting import epsilon_words, gaussian_epsilon
from engine.federation.rounds import RoundResult
from engine.stages.context import RunContext

EPSILON = "epsilon"
"""Curve of a site: what all its updates up to a round have spent, a site's update against none."""


class PrivacyAccount:
    """Counts each site's releases, and tells epsilon after each round; nothing where ``[privacy]`` is off.

    A site that noises its own updates says how many there were, for one that was asked twice has made two. With noise
    at the server the rounds count whose average has the site's update. No amplification by sampling is claimed: the
    server knows who was asked, and it follows from the run's seed.
    """

    def __init__(self, context: RunContext) -> None:
        self._context, self._part = context, context.config.privacy
        self._releases: dict[str, int] = {}

    def add(self, result: RoundResult) -> None:
        """Count a round and tell of it."""
        if not self._part.is_on:
            return
        for site, metrics in result.metrics.items():
            before = self._releases.get(site, 0)
            told = int(metrics.get("releases", 0)) if self._part.mechanism == "client" else 0
            self._releases[site] = max(before + 1, told)
            self._context.reporter.metric(EPSILON, self.epsilon(site), step=result.round, site=site)

    def epsilon(self, site: str, *, sensitivity: float = 1.0) -> float:
        """Return what a site has spent; ``sensitivity`` as of :func:`engine.accounting.gaussian_epsilon`."""
        part = self._part
        return gaussian_epsilon(
            noise_multiplier=part.noise_multiplier,
            releases=self._releases.get(site, 0),
            delta=part.delta,
            sensitivity=sensitivity,
        )

    def tell(self) -> None:
        """Write the whole into the run's log."""
        if not self._releases:
            return
        most = max(self._releases, key=lambda site: self._releases[site])
        alone, other = (epsilon_words(self.epsilon(most, sensitivity=far)) for far in (1.0, 2.0))
        self._context.reporter.log(
            "info",
            f"Privacy of the rounds: epsilon is at most {alone} at delta {self._part.delta:g} for a site's updates "
            f"against none ({other} against any other's); the most were {self._releases[most]} noised updates of "
            f"{most}. Figures that sites tell, and what later stages send, are not covered.",
        )

    def state(self) -> dict[str, Any]:
        """Return what has to be in a checkpoint."""
        return dict(self._releases)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self._releases = {str(site): int(count) for site, count in state.items()}

"""How far apart sites look: how much less an image of another site is like a site's own than its own are. Torch-free.

Figures and distances are those of ``engine.data.appearance``, by which a served model tells a foreign image; that sites
are compared by them, and how, is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from engine.data.appearance import Look

FEWEST = 8
"""Images of a site below which its figures say little (ours): two halves of four."""

ROUGH_BELOW = 24
"""Images of a site from which on the figure hardly moves: for phantom fundus it is 2.6 of 12, 2.1 of 24 and of 48."""


@dataclass(frozen=True)
class Apart:
    """How far the images of each site are from every other's: ``times[a][b]`` for images of a, measured at b.

    1 says that an image of a is as near to the images of b as to further ones of a.
    """

    times: Mapping[str, Mapping[str, float]]

    @property
    def overall(self) -> float:
        """The mean over all pairs of sites."""
        return mean(value for others in self.times.values() for value in others.values())

    def nearest(self, site: str, *, among: Sequence[str]) -> tuple[str, float] | None:
        """Return the site of ``among`` to which the images of ``site`` are nearest, and how far; None for none."""
        found = [(value, other) for other, value in self.times.get(site, {}).items() if other in among]
        return None if not found else (min(found)[1], min(found)[0])


def apart(figures: Mapping[str, np.ndarray], groups: Mapping[str, Sequence[str]]) -> Apart | None:
    """Return how far apart sites are by their images' ``figures`` (N, 20) and patients (N); None of less than two.

    Sites of fewer than ``FEWEST`` images are left out. Each site is halved between its patients: what is near one half
    is told by the other half's images, not by its own, to which it would be nearer than to any that it has not seen.
    """
    halves = {site: _halves(rows, groups[site]) for site, rows in figures.items() if len(rows) >= FEWEST}
    if len(halves) < 2:
        return None
    looks = {site: tuple(Look.of(half) for half in both) for site, both in halves.items()}
    own = {site: _typical([(looks[site][0], both[1]), (looks[site][1], both[0])]) for site, both in halves.items()}
    return Apart(
        {
            site: {
                other: _typical([(look, half) for look in looks[other] for half in both]) / max(own[site], 1e-9)
                for other in halves
                if other != site
            }
            for site, both in halves.items()
        }
    )


def _typical(pairs: Sequence[tuple[Look, np.ndarray]]) -> float:
    return float(np.median([look.distance(row) for look, half in pairs for row in half]))


def _halves(rows: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return two halves of about one size that share no patient; of two or fewer patients every other image."""
    sizes = Counter(groups)
    if len(sizes) <= 2:
        return rows[::2], rows[1::2]
    filled, sides = [0, 0], {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):  # the largest first, each to the emptier half
        sides[name] = int(filled[1] < filled[0])
        filled[sides[name]] += sizes[name]
    first = np.array([sides[name] == 0 for name in groups])
    return rows[first], rows[~first]

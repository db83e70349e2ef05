"""Whether a generator has learnt its training images by heart: distances to them, copies, membership inference.

Shape legend: M training images, H held-out real images, N drawn images, D numbers of an image (features or pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

NEIGHBOURS = 50
"""Training images that a drawn one is compared with, at most (Carlini et al., 5.1)."""
COPY_SHARE = 0.5
"""A copy is closer to its original than this share of the mean distance to the neighbours (Carlini et al.: 0.5)."""


@dataclass(frozen=True)
class Copy:
    """Drawn image ``drawn`` is a copy of training image ``original``; ``share`` as in ``COPY_SHARE``."""

    drawn: int
    original: int
    share: float


def distance_ratio(drawn_ND: np.ndarray, train_MD: np.ndarray, held_out_HD: np.ndarray) -> float:
    """Return the median distance of drawn images to the nearest training image over that to the nearest held-out one.

    1 where training images are no nearer than other images of the site, near 0 where drawn images are copies. Give
    as many training as held-out images: the nearest of more is nearer.
    """
    nearest = [float(np.median(cdist(drawn_ND, real).min(axis=1))) for real in (train_MD, held_out_HD)]
    return nearest[0] / nearest[1] if nearest[1] > 0 else float(nearest[0] > 0)


def find_copies(drawn_ND: np.ndarray, train_MD: np.ndarray, *, held_out_HD: np.ndarray) -> tuple[Copy, ...]:
    """Return the drawn images that are copies of training images, after Carlini et al. (USENIX Security 2023, Eq. 2).

    An image is one where its distance to the nearest training image is below half of its mean distance to the 50
    nearest (all of them where there are fewer): closeness is judged by how close this image is to any. Of a site with
    few or uneven images that would call real ones copies, too: no drawn image is one that has a larger share than some
    held-out real image (ours), which certainly copies nothing.
    """
    share, originals = _nearest_share(drawn_ND, train_MD)
    limit = min(COPY_SHARE, float(_nearest_share(held_out_HD, train_MD)[0].min()))
    return tuple(Copy(drawn, int(originals[drawn]), float(share[drawn])) for drawn in np.flatnonzero(share < limit))


def _nearest_share(points_ND: np.ndarray, train_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest training image as a share of the mean to the neighbours, and which it is."""
    distances = cdist(points_ND, train_MD)
    neighbours = np.sort(distances, axis=1)[:, :NEIGHBOURS].mean(axis=1)
    share = np.divide(distances.min(axis=1), neighbours, out=np.zeros(len(distances)), where=neighbours > 0)
    return share, distances.argmin(axis=1)


def area_under_curve(members_M: np.ndarray, others_H: np.ndarray) -> float:
    """Return the chance that a member has a higher score than another, ties counting half (Mann and Whitney)."""
    return float(_wins(members_M, others_H).mean())


def area_interval(
    members_M: np.ndarray,
    others_H: np.ndarray,
    *,
    member_groups: Sequence[str],
    other_groups: Sequence[str],
    num_samples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the area; patients are drawn with replacement, on either side.

    An empty group is an image of its own. Few images give a wide interval, a single patient one without width.
    """
    wins_MH = _wins(members_M, others_H)
    sides = [_drawn(groups, num_samples=num_samples, rng=rng) for groups in (member_groups, other_groups)]
    sums = np.einsum("sm,mh,sh->s", sides[0], wins_MH, sides[1])
    areas = sums / (sides[0].sum(axis=1) * sides[1].sum(axis=1))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(areas, [tail, 100 - tail])
    return float(low), float(high)


def _wins(members_M: np.ndarray, others_H: np.ndarray) -> np.ndarray:
    difference = np.asarray(members_M, np.float64)[:, None] - np.asarray(others_H, np.float64)[None, :]
    return (np.sign(difference) + 1) / 2


def _drawn(groups: Sequence[str], *, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each image is in each resample, (samples, images)."""
    names = [f"group {name}" if name else f"image {index}" for index, name in enumerate(groups)]
    group_of = np.unique(names, return_inverse=True)[1]
    count = int(group_of.max()) + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=num_samples)[:, group_of].astype(np.float64)

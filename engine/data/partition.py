"""Cuts a site's images into training and validation by patient, and shows what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.types import SitePreview

if TYPE_CHECKING:
    from typing import Literal

    from engine.data.datasets import Federation, Site

PREVIEW_IMAGES = 64
"""Images of a site that a preview looks at, spread evenly."""


def split_by_group(
    groups: Sequence[str], *, validation_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (training, validation) indices, each sorted; no group is on both sides.

    Groups are taken in random order while they fit into ``round(fraction * N)`` images (at least one image where the
    fraction is above 0). Where none fits, the smallest group is taken. One group always stays for training, so a
    single group gives an empty validation half; callers refuse that.
    """
    sizes = Counter(groups)
    names = sorted(sizes)
    chosen: set[str] = set()
    if validation_fraction > 0 and len(names) > 1:
        target = max(1, round(validation_fraction * len(groups)))
        order = [names[k] for k in rng.permutation(len(names))]
        filled = 0
        for name in order:
            if filled + sizes[name] <= target and len(chosen) < len(names) - 1:
                chosen.add(name)
                filled += sizes[name]
        if not chosen:
            chosen.add(min(order, key=lambda name: sizes[name]))
    in_validation = np.array([name in chosen for name in groups], dtype=bool)
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def partition_preview(federation: Federation) -> list[SitePreview]:
    """Return one record a site, sources first, then the held-out one.

    Foreground share and intensity are means over at most 64 evenly spread images of the site, after resizing to the
    model's input, before normalisation. ``extra`` holds ``sampled_images`` and ``intensity_quantiles`` (5, 50, 95 % of
    the images' mean intensities).
    """
    sources = [_preview(site, "source", federation.classes) for site in federation.sites.values()]
    return [*sources, _preview(federation.test, "test", federation.classes)]


def _preview(site: Site, role: Literal["source", "test"], classes: tuple[str, ...]) -> SitePreview:
    places = [(part, index) for part in (site.train, site.validation, site.test) for index in range(len(part))]
    picked = np.unique(np.linspace(0, len(places) - 1, min(PREVIEW_IMAGES, len(places))).round().astype(int))
    shares, means = [], []
    for part, index in (places[k] for k in picked):
        shares.append(part.read_mask(index).mean(axis=(1, 2)))
        means.append(float(part.read_levels(index).mean()) / 255)
    groups = {group for part in (site.train, site.validation, site.test) for group in part.groups}
    share = np.mean(shares, axis=0)
    return SitePreview(
        site=site.name,
        role=role,
        num_train=len(site.train),
        num_validation=len(site.validation),
        num_test=len(site.test),
        num_groups=len(groups),
        foreground_share={name: float(value) for name, value in zip(classes, share, strict=True)},
        mean_intensity=float(np.mean(means)),
        extra={
            "sampled_images": len(means),
            "intensity_quantiles": [float(value) for value in np.quantile(means, (0.05, 0.5, 0.95))],
        },
    )

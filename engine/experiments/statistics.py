"""From figures of images and runs to a line of the table: mean, sd, interval, paired test, worst site. Torch-free.

Every held-out site counts the same. A seed counts where all of its held-out sites have a run. The interval resamples
patients within each held-out site, their figures averaged over seeds; the sd is over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from engine.evaluation.bootstrap import count_groups, percentiles, resampled_means
from engine.seeding import numpy_generator

IMAGES_FILE = Path("evaluation") / "images.json"
"""Where a run keeps the figures of each image: ``engine.stages.evaluation``, which needs torch."""
NUM_RESAMPLES = 2000
"""(ours)"""
SEED = 1337


@dataclass(frozen=True)
class ImageFigure:
    """One image's figure: its name and its patient's, as its site numbers them, and the value."""

    name: str
    group: str
    value: float


BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
Images = Mapping[tuple[str, int], Sequence[ImageFigure]]
"""By held-out site and seed."""


@dataclass(frozen=True)
class Spread:
    """Mean, sd over seeds (``None`` of one seed) and 95 % interval (``None`` where each site has one patient)."""

    num_seeds: int
    mean: float
    sd: float | None
    low: float | None = None
    high: float | None = None
    worst_site: str = ""
    """Held-out site of the lowest mean, where there are several."""
    worst: float | None = None


@dataclass(frozen=True)
class Paired:
    """How much better one system is than another on the same images, and the p value of Wilcoxon's signed-rank test."""

    mean: float
    low: float | None
    high: float | None
    p_value: float
    num_groups: int


def verdict(low: float | None, high: float | None, *, higher_is_better: bool = True) -> str:
    """Return in a word what the interval of a difference says: it lies above 0, below it, or neither."""
    if low is None or high is None or low <= 0 <= high:
        return UNDECIDED
    return BETTER if (low > 0) == higher_is_better else WORSE


def complete_seeds(keys: Sequence[tuple[str, int]], *, held_out: Sequence[str]) -> tuple[int, ...]:
    """Return the seeds of which every held-out site is among ``keys``, ascending."""
    return tuple(sorted({seed for _, seed in keys if all((site, seed) in keys for site in held_out)}))


def spread_of_runs(values: Mapping[tuple[str, int], float], *, held_out: Sequence[str]) -> Spread | None:
    """Return the spread of one figure a run; ``None`` where no seed is complete."""
    seeds = complete_seeds(list(values), held_out=held_out)
    if not seeds:
        return None
    of_seeds = [fmean(values[site, seed] for site in held_out) for seed in seeds]
    return Spread(len(seeds), fmean(of_seeds), stdev(of_seeds) if len(seeds) > 1 else None)


def spread_of_images(images: Images, *, held_out: Sequence[str]) -> Spread | None:
    """Return the spread of a figure of images, with its interval and the worst held-out site."""
    means = {key: fmean(image.value for image in of_run) for key, of_run in images.items() if of_run}
    found = spread_of_runs(means, held_out=held_out)
    if found is None:
        return None
    seeds = complete_seeds(list(means), held_out=held_out)
    low, high = _interval([over_seeds(images, site=site, seeds=seeds) for site in held_out])
    of_sites = {site: fmean(means[site, seed] for seed in seeds) for site in held_out}
    worst = min(of_sites, key=lambda site: of_sites[site])
    several = len(held_out) > 1
    return Spread(
        found.num_seeds,
        found.mean,
        found.sd,
        low,
        high,
        worst_site=worst if several else "",
        worst=of_sites[worst] if several else None,
    )


def paired(ours: Images, theirs: Images, *, held_out: Sequence[str]) -> Paired | None:
    """Return the difference, ours minus theirs, over the seeds that both have; ``None`` where there is none.

    The test is two-sided, over patients: an image's difference is averaged over seeds, then over the patient's images.
    P values are not corrected for the number of comparisons. Images that only one of them has, at one of the seeds, are
    left out.
    """
    from scipy import stats  # a tenth of a second that no page need wait for

    seeds = [s for s in complete_seeds(list(ours), held_out=held_out) if all((site, s) in theirs for site in held_out)]
    if not seeds:
        return None
    of_sites = []
    for site in held_out:
        a, b = (over_seeds(images, site=site, seeds=seeds) for images in (ours, theirs))
        other = {image.name: image for image in b}
        both = [ImageFigure(i.name, i.group, i.value - other[i.name].value) for i in a if i.name in other]
        of_sites.append(both)
    if not all(of_sites):
        return None
    groups: dict[tuple[int, str], list[float]] = {}
    for number, of_site in enumerate(of_sites):
        for image in of_site:
            groups.setdefault((number, image.group or f"image {image.name}"), []).append(image.value)
    differences = [fmean(values) for values in groups.values()]
    p_value = float(stats.wilcoxon(differences).pvalue) if any(differences) else 1.0
    low, high = _interval(of_sites)
    mean = fmean(fmean(image.value for image in of_site) for of_site in of_sites)
    return Paired(mean, low, high, p_value, len(differences))


def over_seeds(images: Images, *, site: str, seeds: Sequence[int]) -> list[ImageFigure]:
    """Return each image's mean over ``seeds``, of those that every seed has, by name.

    A site numbers its images alike in every run. Phantoms are drawn anew for each seed: there the mean is of images of
    one number.
    """
    by_seed = [{image.name: image for image in images[site, seed]} for seed in seeds]
    common = sorted(set.intersection(*(set(of_seed) for of_seed in by_seed)))
    return [
        ImageFigure(name, by_seed[0][name].group, fmean(of_seed[name].value for of_seed in by_seed)) for name in common
    ]


def _interval(of_sites: Sequence[Sequence[ImageFigure]]) -> tuple[float | None, float | None]:
    """Return the percentile interval of the mean of the sites' means, patients resampled within each site."""
    groups = [[image.group for image in of_site] for of_site in of_sites]
    if not all(of_sites) or all(count_groups(of_site) == 1 for of_site in groups):
        return None, None
    drawn = [
        resampled_means(
            [image.value for image in of_site],
            groups=names,
            num_samples=NUM_RESAMPLES,
            rng=numpy_generator(SEED, "table", number),
        )
        for number, (of_site, names) in enumerate(zip(of_sites, groups, strict=True))
    ]
    return percentiles(np.mean(drawn, axis=0))

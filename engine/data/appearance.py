"""What pictures look like, in twenty figures each, and how unlike those of a site another one is. Torch-free.

The figures are of brightness, colour and texture of what a model sees, so that training, export and the served model
measure the same. They tell a kind of picture from another (a polyp from a nucleus), and nobody's picture from a
figure. The Mahalanobis distance to Gaussians of training features is Lee et al. 2018 (arXiv 1807.03888); figures in
place of a network's features, one Gaussian a site, and every constant here are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE_PX = 128
"""Pictures are compared at this side, whatever the model's."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NUM_SCALES = 5
RIM_PX = 8
DARK, BRIGHT = 0.03, 0.97
FIGURES = (
    *(f"brightness_q{round(100 * q)}" for q in QUANTILES), "contrast", "red_green", "green_blue", "red_green_spread",
    "green_blue_spread", *(f"detail_{2**scale}px" for scale in range(1, NUM_SCALES + 1)), "centre_to_rim", "dark_share",
    "bright_share", "asymmetry", "skewness",
)  # fmt: skip
"""Names of the figures, in order."""
SHRINKAGE = 0.1
"""How far correlations go to 0: a site may have fewer images than figures."""
FLOOR = 0.02
"""Least spread of any figure: grey sites have colour figures of exactly 0."""
FALSE_NOTICES = 0.01
"""Share of the sources' own validation images that the threshold is to give a false notice of. A site that nobody has
trained on looks further away than those; at most 5 % there is what is wanted, and `bench.foreign` counts it."""
FEWEST_DISTANCES = 19
"""Of fewer images the largest distance is exceeded by more than 5 % of further ones: 1 / (n + 1)."""

COLOURED, SPACING_LOW, SPACING_HIGH = "coloured_images", "spacing_low_mm", "spacing_high_mm"
FILES = {"dicom": "dicom_images", "nifti": "nifti_images", "picture": "picture_images"}
"""Names of figures: how many training images have colour, how far apart pixels are, and images by kind of file."""


def measure(image_3HW: np.ndarray) -> np.ndarray:
    """Return ``FIGURES`` of a model's input (3, H, W) in [0, 1] as float64 (20,)."""
    size = (SIDE_PX, SIDE_PX)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BOX)) for plane in image_3HW
    ]
    red, green, blue = (plane.astype(np.float64) for plane in planes)
    grey = (red + green + blue) / 3
    spread, mean = grey.std(), grey.mean()
    rim = np.ones_like(grey, dtype=bool)
    rim[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX] = False
    quarter = SIDE_PX // 4
    centre = grey[quarter:-quarter, quarter:-quarter]
    turned = [np.abs(grey - np.flip(grey, axis)).mean() for axis in (0, 1)]
    return np.array(
        [
            *np.quantile(grey, QUANTILES),
            spread,
            (red - green).mean(),
            (green - blue).mean(),
            (red - green).std(),
            (green - blue).std(),
            *_details(grey),
            centre.mean() - grey[rim].mean(),
            (grey < DARK).mean(),
            (grey > BRIGHT).mean(),
            np.mean(turned) / (spread + 0.02),
            ((grey - mean) ** 3).mean() / (spread**3 + 1e-3),
        ]
    )


def _details(grey: np.ndarray) -> list[float]:
    """Return the logarithm of what each halving of the picture loses, finest first."""
    found = []
    for _ in range(NUM_SCALES):
        half = grey.shape[0] // 2
        low = grey.reshape(half, 2, half, 2).mean(axis=(1, 3))
        found.append(math.log((grey - low.repeat(2, axis=0).repeat(2, axis=1)).std() + 1e-3))
        grey = low
    return found


@dataclass(frozen=True, eq=False)
class Look:
    """What one site's training images look like together: mean (20,) and covariance (20, 20) of their figures."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, figures_N20: np.ndarray) -> Look:
        """Return the look of at least one picture; the covariance divides by N."""
        centred = figures_N20 - figures_N20.mean(axis=0)
        return cls(figures_N20.mean(axis=0), centred.T @ centred / len(figures_N20))

    def distance(self, figures: np.ndarray) -> float:
        """Return how far the figures of a picture are from these: the Mahalanobis distance over the root of 20.

        About 1 for the images themselves, were they Gaussian. Correlations are shrunk by ``SHRINKAGE`` and ``FLOOR``
        squared is added to every variance.
        """
        variances = np.diag(np.diag(self.covariance))
        matrix = (1 - SHRINKAGE) * self.covariance + SHRINKAGE * variances + FLOOR**2 * np.eye(len(self.mean))
        offset = figures - self.mean
        return float(np.sqrt(offset @ np.linalg.solve(matrix, offset) / len(offset)))


def threshold(distances: Sequence[float], *, false_notices: float = FALSE_NOTICES) -> float | None:
    """Return the distance that at most ``false_notices`` of further images like these are expected to exceed.

    The conformal quantile: the value of rank ceil((1 - false_notices) (n + 1)), the largest where there are too few
    (n = 42 images then give 1 / 43); None of fewer than ``FEWEST_DISTANCES``.
    """
    if len(distances) < FEWEST_DISTANCES:
        return None
    ordered = sorted(distances)
    rank = math.ceil((1 - false_notices) * (len(ordered) + 1))
    return ordered[min(rank, len(ordered)) - 1]

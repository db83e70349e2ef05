"""The individual typology angle of the skin around a lesion, and the group that it falls into."""

from __future__ import annotations

import numpy as np
from skimage.color import rgb2lab

BOUNDS_DEG = (41.0, 28.0)
"""Above the first: light; above the second: intermediate; else tan or darker. They are two of the five bounds of
Chardon et al., Int J Cosmet Sci 13 (1991) and Del Bino and Bernerd, Br J Dermatol 169 (2013): very light > 55 > light
> 41 > intermediate > 28 > tan > 10 > brown > -30 > dark. The authors train on three groups; which bounds they
took is not published (ours)."""
GROUPS = ("light", "intermediate", "tan_or_darker")
DARK_BELOW = 20.0
"""L* of the lens's black corners and of hair, which are no skin (ours)."""
LEAST_SHARE = 0.01
"""Skin that must be seen, as a share of the picture (ours)."""
MAX_SIDE = 256
"""Pixels a side that are looked at, at equal steps (ours): the median of a whole picture changes by hundredths."""


def typology_angle(image: np.ndarray, lesion: np.ndarray) -> float | None:
    """Return ITA = arctan((L* - 50) / b*) · 180 / pi in degrees, of the median L* and b* of the healthy skin.

    ``image`` (H, W, 3) sRGB of any depth, ``lesion`` (H, W). Healthy is what lies outside of the lesion and is not
    dark; None where there is too little of it. D65, 2 degrees (CIE 1976).
    """
    step = max(1, -(-max(image.shape[:2]) // MAX_SIDE))
    lab = rgb2lab(image[::step, ::step, :3])
    healthy = (lesion[::step, ::step] == 0) & (lab[..., 0] >= DARK_BELOW)
    if healthy.mean() < LEAST_SHARE:
        return None
    lightness, yellow = np.median(lab[healthy][:, 0]), np.median(lab[healthy][:, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.degrees(np.arctan((lightness - 50) / yellow))
    return float(angle) if np.isfinite(angle) else None


def tone_group(angle_deg: float) -> str:
    """Return the group of an angle."""
    return GROUPS[sum(angle_deg <= bound for bound in BOUNDS_DEG)]

"""Two views of an unlabelled image: a weak one to be labelled in, and a strong one to be learnt from (torch-free).

Both have the same geometry, one of the eight symmetries of the square, so that a map of the plain image is that of the
view after ``augmentation.move``, without interpolation (ours; HSSF turns by any angle and crops [H datasets.py:30-50]).
The strong view has gamma, contrast, brightness and hue changed, as ``flips_colour`` draws them, and Gaussian noise, in
place of HSSF's RandAugment.
"""

from __future__ import annotations

import numpy as np

from engine.data.augmentation import Change, draw_change, move, tone_curve, turn_hue
from engine.data.imagesets import ImageSet
from engine.data.transforms import PADDING


def two_views(
    images: ImageSet, indices: np.ndarray, *, rng: np.random.Generator, noise: float
) -> tuple[np.ndarray, np.ndarray, list[Change]]:
    """Return weak_B3HW and strong_B3HW (float32 in [0, 1]), and the change of each; both share its geometry alone.

    ``noise`` is the standard deviation of what is added to the strong view. Padding stays as it is.
    """
    plain, content = images.images(indices), images.content(indices)
    weak, strong, changes = np.empty_like(plain), np.empty_like(plain), []
    for slot, image in enumerate(plain):
        change = draw_change(rng, "flips_colour")
        assert change is not None
        toned = turn_hue(tone_curve(image, change), change.hue_rad)
        toned = np.clip(toned + noise * rng.standard_normal(image.shape, dtype=np.float32), 0.0, 1.0)
        toned = np.where(content[slot] > 0, toned, np.float32(PADDING))
        weak[slot], strong[slot] = move(image, change), move(toned, change)
        changes.append(change)
    return weak, strong, changes

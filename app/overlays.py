"""Predictions and their disagreement as pictures, for the page. Pure numpy; pictures are (H, W, 3) uint8 RGB.

Masks over images are drawn by ``export.results``, which the command line uses too.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SHOWN_PX = (768, 1400)
"""Least and greatest longest side of the picture that is shown: small images are enlarged, large ones reduced."""
Colour = tuple[int, int, int]
BOTH: Colour = (140, 107, 177)
TEACHER_ONLY: Colour = (240, 228, 66)
STUDENT_ONLY: Colour = (0, 114, 178)
"""Colours that none of the first three classes has: more do not fit into a mask picture."""
OPACITY = 0.9
"""Of all three, so that what is drawn has the colour of its key."""


def heat(probability_HW: np.ndarray) -> np.ndarray:
    """Return a probability map in [0, 1] as a grey picture: black 0, white 1."""
    grey = (np.clip(probability_HW, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


FULL_KL = 4.0
"""Symmetric KL that is drawn white (ours): one model at 0.98, the other at 0.11."""
_LEAST = 0.5 / 255
"""Stored probabilities are levels of 255: what lies below half a level is none."""


def symmetric_kl(teacher_HW: np.ndarray, student_HW: np.ndarray) -> np.ndarray:
    """Return KL(p||q) + KL(q||p) of two Bernoulli variables at each pixel, in nats, float64, at least 0.

    That is (p - q) (logit p - logit q), as in Eq. 6 at temperature 1. ``teacher_HW`` and ``student_HW`` are
    probabilities in [0, 1]; those at the ends count as half a stored level away from them.
    """
    p, q = (np.clip(one.astype(np.float64), _LEAST, 1 - _LEAST) for one in (teacher_HW, student_HW))
    return (p - q) * (np.log(p / (1 - p)) - np.log(q / (1 - q)))


def disagreement(
    image_HW3: np.ndarray, teacher_HW: np.ndarray, student_HW: np.ndarray, *, threshold: float = 0.5
) -> np.ndarray:
    """Return the darkened image with violet where both models see foreground, yellow SAM alone, blue TinySAM alone.

    ``teacher_HW`` and ``student_HW`` are probabilities in [0, 1] on the image's grid.
    """
    teacher, student = teacher_HW >= threshold, student_HW >= threshold
    canvas = image_HW3.astype(np.float32) * 0.45
    for region, colour in (
        (teacher & student, BOTH),
        (teacher & ~student, TEACHER_ONLY),
        (student & ~teacher, STUDENT_ONLY),
    ):
        canvas[region] = (1.0 - OPACITY) * canvas[region] + OPACITY * np.asarray(colour, np.float32)
    return canvas.round().astype(np.uint8)


def resize_nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an (H, W) or (H, W, C) array on a (height, width) grid by nearest neighbour (pixel centres)."""
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
    return array[rows][:, columns]


def fit(height: int, width: int, *, longest_px: int) -> tuple[int, int]:
    """Return the (height, width) of a picture whose longest side is ``longest_px``, aspect kept."""
    scale = longest_px / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def hex_colour(colour: Colour) -> str:
    """Return ``#rrggbb``."""
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def shown_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the picture that is shown of an image."""
    return fit(*size_hw, longest_px=int(np.clip(max(size_hw), *SHOWN_PX)))


def reduced(image_HW3: np.ndarray) -> np.ndarray:
    """Return an image (uint8) at a size for screens."""
    height, width = shown_size((image_HW3.shape[0], image_HW3.shape[1]))
    return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BICUBIC))

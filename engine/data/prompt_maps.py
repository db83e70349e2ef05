"""Where a person clicked, as a map that goes with a model's own logits: what a decoder is given as its mask prompt.

Torch-free: training and the runtime draw the same. Shape legend: h and w the decoder's grid, N points.
"""

from __future__ import annotations

import numpy as np

MOST_LOGIT, SURE = 4.0, 12.0
"""Logits are cut at the one, and the other is what a click says (ours): no answer of the model looks like a click."""
CLICK_CELLS = 2.5
"""Radius of a click in cells of the grid (ours)."""


def prompt_map(logits_hw: np.ndarray, points_N2: np.ndarray, labels_N: np.ndarray, *, stride: int) -> np.ndarray:
    """Return the model's own logits (h, w) of a class with its clicks drawn on them, float32.

    ``points_N2`` are (x, y) in pixels of the model's input, from the middle of its first one; ``labels_N`` 1 for a
    thing and 0 for none; other labels (corners of boxes, no point) leave no trace.
    """
    drawn_hw = np.clip(logits_hw, -MOST_LOGIT, MOST_LOGIT).astype(np.float32)
    rows, columns = np.ogrid[: drawn_hw.shape[0], : drawn_hw.shape[1]]
    for (x, y), label in zip((points_N2 + 0.5) / stride - 0.5, labels_N, strict=True):
        if label in (0, 1):
            inside_hw = (rows - y) ** 2 + (columns - x) ** 2 <= CLICK_CELLS**2
            drawn_hw[inside_hw] = SURE if label else -SURE
    return drawn_hw

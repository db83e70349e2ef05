"""What the page says of how the samples' learnability lies from epoch to epoch."""

from __future__ import annotations

PLOT = "Learnability of the synthetic samples (brighter: more of them)"
EPOCH, SCORE = "epoch", "score"
BOUNDARY = "lowest score trained on"
HOVER = "epoch %{x}, score %{y:.3g}: %{z:.1f} % of the samples<extra></extra>"
EMPTY = "No sample is scored yet."

"""What the page says of distillation that the sites judge epoch by epoch."""

from __future__ import annotations

BEFORE = "before distillation: {dice:.3f}"
KEPT, SO_FAR = "kept: epoch {epoch}, {dice:.3f}", "best so far: epoch {epoch}, {dice:.3f}"
BEST = "best: epoch {epoch}, {dice:.3f}"
HEADING = "Distillation, judged by the sites"

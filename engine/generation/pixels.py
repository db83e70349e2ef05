"""From a network's output to pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_levels(image_B3HW: Tensor) -> np.ndarray:
    """Return images in [-1, 1] as uint8 RGB (B, H, W, 3) on the CPU; what is beyond is cut."""
    levels = ((image_B3HW.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()

"""From masks to the picture that ControlNet is conditioned on.

Shape legend: N masks, K classes, H W pixels.
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch


def mask_condition(mask_NKHW: np.ndarray) -> torch.Tensor:
    """Return the conditioning picture (N, 3, H, W), float32 in [0, 1], of uint8 masks in {0, 1}.

    One class is repeated (methods.md 7); two classes are red, green and their union blue; three are the three
    channels; more get evenly spaced hues, the brightest winning where they overlap.
    """
    mask = torch.tensor(mask_NKHW, dtype=torch.float32)
    classes = mask.shape[1]
    if classes == 1:
        return mask.repeat(1, 3, 1, 1)
    if classes == 2:
        return torch.cat([mask, mask.amax(dim=1, keepdim=True)], dim=1)
    if classes == 3:
        return mask
    hues = torch.tensor([colorsys.hsv_to_rgb(index / classes, 1.0, 1.0) for index in range(classes)])
    return (mask.unsqueeze(2) * hues.reshape(1, classes, 3, 1, 1)).amax(dim=1)

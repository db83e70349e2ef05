"""What drawn and real images are compared by: features of SAM's mini encoder always, Inception's where it is given.

Shape legend: N images, H W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import UserError
from engine.models.registry import build_model
from engine.models.weights import load_weights

SAM_WEIGHTS, SAM_SIDE = "sam-mini", 128
"""The encoder whose features all sites have, and its native side in pixels."""
INCEPTION_FEATURES = "2048"
BATCH = 16

Extract = Callable[[Tensor], Tensor]


def sam_features(image_N3HW: np.ndarray, *, device: torch.device) -> np.ndarray:
    """Return SAM-mini's features, means over its cells: float64 (N, 128), of float32 images in [0, 1] of any side."""
    model = build_model("sam", size="mini", image_px=SAM_SIDE, seed=0)
    load_weights(model, SAM_WEIGHTS)
    encoder = model.to(device).eval()

    def extract(image: Tensor) -> Tensor:
        return encoder.encode(_resized(image, SAM_SIDE)).mean(dim=(2, 3))

    return _in_batches(image_N3HW, extract, device=device)


def inception_features(image_N3HW: np.ndarray, *, weights: str | Path, device: torch.device) -> np.ndarray:
    """Return the 2048 pool features of Inception v3 with the weights in the file ``weights`` (torch-fidelity's)."""
    if not Path(weights).is_file():
        raise UserError(
            "release.inception_absent",
            what=f"There are no Inception weights at {weights} (release.inception).",
            why="Fréchet and kernel distances of Inception features need them; nothing is downloaded.",
            fix="Give the path of torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or leave the key out.",
        )
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", [INCEPTION_FEATURES], feature_extractor_weights_path=str(weights)
    )
    network = network.to(device).eval()

    def extract(image: Tensor) -> Tensor:
        return network((image * 255).round().clamp(0, 255).to(torch.uint8))[0].flatten(1)

    return _in_batches(image_N3HW, extract, device=device)


@torch.inference_mode()
def _in_batches(image_N3HW: np.ndarray, extract: Extract, *, device: torch.device) -> np.ndarray:
    parts = [image_N3HW[start : start + BATCH] for start in range(0, len(image_N3HW), BATCH)]
    found = [extract(torch.from_numpy(np.ascontiguousarray(part)).to(device)).double().cpu().numpy() for part in parts]
    return np.concatenate(found)


def _resized(image_N3HW: Tensor, side: int) -> Tensor:
    if image_N3HW.shape[-1] == side:
        return image_N3HW
    return functional.interpolate(image_N3HW, size=(side, side), mode="bilinear", antialias=True)

"""Do the ONNX model and the PyTorch model give the same logits?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from engine.errors import UserError
from engine.seeding import numpy_generator
from export.manifest import INPUT_NAME, OUTPUT_NAME, Parity
from export.onnx_export import on_cpu

BATCH_SIZES = (1, 3)


def check_parity(model: nn.Module, path: Path, *, image_px: int, tolerance: float, seed: int) -> Parity:
    """Return how far the logits of the ONNX file are from the model's, on seeded images at two batch sizes.

    Both run on the CPU in float32. Raises ``UserError`` ``export.parity`` when the largest difference is not a number,
    or is above ``tolerance``, times the largest logit where that is above 1: float32 has seven digits, however large
    its numbers are.
    """
    reference = on_cpu(model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences, disagreements, num_images, largest = [], [], 0, 1.0
    for batch in BATCH_SIZES:
        image_B3HW = sample_images(batch, image_px=image_px, seed=seed)
        with torch.inference_mode():
            expected = reference(torch.from_numpy(image_B3HW)).numpy()
        found = session.run([OUTPUT_NAME], {INPUT_NAME: image_B3HW})[0]
        differences.append(np.abs(found.astype(np.float64) - expected).ravel())
        largest = max(largest, float(np.abs(expected).max()))
        disagreements.append(((found > 0) != (expected > 0)).ravel())
        num_images += batch
    difference = np.concatenate(differences)
    parity = Parity(
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        mask_disagreement=float(np.concatenate(disagreements).mean()),
        tolerance=tolerance * largest,
        num_images=num_images,
    )
    if not parity.max_abs_difference <= parity.tolerance:  # also true for NaN
        raise UserError(
            "export.parity",
            what=f"The ONNX model's logits differ from PyTorch's by up to {parity.max_abs_difference:.2e}.",
            why=f"The exported model must be the evaluated one; up to {parity.tolerance:.0e} is accepted.",
            fix="Raise export.parity_tolerance if the difference does not matter, or try another export.opset.",
        )
    return parity


def sample_images(batch: int, *, image_px: int, seed: int) -> np.ndarray:
    """Return seeded images (B, 3, H, W), float32 in [0, 1]: smooth structure of several scales, with pixel noise."""
    rng = numpy_generator(seed, "parity", batch, image_px)
    image_B3HW = torch.zeros(batch, 3, image_px, image_px)
    for side in (2, 8, 32):
        coarse = torch.from_numpy(rng.random((batch, 3, side, side), dtype=np.float32))
        image_B3HW += functional.interpolate(coarse, size=(image_px, image_px), mode="bilinear") / 4
    noise = torch.from_numpy(rng.random((batch, 3, image_px, image_px), dtype=np.float32))
    return (image_B3HW + noise / 4).clamp(0, 1).numpy()

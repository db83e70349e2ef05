"""Do the ONNX model and the PyTorch model give the same logits?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from engine.data.prompt_maps import prompt_map
from engine.errors import UserError
from engine.models.prompts import Prompts
from engine.models.segmenter import Segmenter
from engine.seeding import numpy_generator
from export.manifest import EMBEDDING_NAME, INPUT_NAME, LABELS_NAME, MASK_NAME, OUTPUT_NAME, POINTS_NAME, Parity
from export.onnx_export import on_cpu

BATCH_SIZES = (1, 3)
PROMPTS = ((1,), (0,), (2, 3), (1, 0, 1, 2, 3, -1))
"""Labels of the prompts that two graphs are compared on."""


def check_parity(model: nn.Module, path: Path, *, image_px: int, tolerance: float, seed: int) -> Parity:
    """Return how far the logits of the ONNX file are from the model's, on seeded images at two batch sizes.

    Both run on the CPU in float32. Raises ``UserError`` ``export.parity`` when the largest difference is not a number,
    or is above ``tolerance``, times the largest logit where that is above 1: float32 has seven digits, however large
    its numbers are.
    """
    reference = on_cpu(model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pairs = []
    for batch in BATCH_SIZES:
        image_B3HW = sample_images(batch, image_px=image_px, seed=seed)
        with torch.inference_mode():
            expected = reference(torch.from_numpy(image_B3HW)).numpy()
        pairs.append((session.run([OUTPUT_NAME], {INPUT_NAME: image_B3HW})[0], expected))
    return _compared(pairs, num_images=sum(BATCH_SIZES), tolerance=tolerance)


def check_prompt_parity(
    model: Segmenter, whole: Path, decoder: Path, *, image_px: int, tolerance: float, seed: int
) -> Parity:
    """Return how far two graphs, one after the other, are from the model that takes prompts; raises as above.

    The features are the second output of ``whole``, and prompts are those of ``PROMPTS`` at seeded places.
    """
    reference = on_cpu(model)
    assert isinstance(reference, Segmenter)
    first, second = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (whole, decoder)
    )
    image_13HW = sample_images(1, image_px=image_px, seed=seed)
    own_1Kgg, embedding_1Chw = first.run([OUTPUT_NAME, EMBEDDING_NAME], {INPUT_NAME: image_13HW})
    rng = numpy_generator(seed, "parity", "prompts", image_px)
    pairs = []
    for labels in PROMPTS:
        labels_1N = np.array([labels], np.int64)
        points_1N2 = (rng.random((1, len(labels), 2)) * image_px).astype(np.float32)
        drawn_gg = prompt_map(own_1Kgg[0, 0], points_1N2[0], labels_1N[0], stride=reference.mask_stride)
        given = {POINTS_NAME: points_1N2, LABELS_NAME: labels_1N, MASK_NAME: drawn_gg[None, None]}
        prompts = Prompts(*(torch.from_numpy(given[name]) for name in (POINTS_NAME, LABELS_NAME)), None,
                          torch.from_numpy(given[MASK_NAME]))  # fmt: skip
        with torch.inference_mode():
            expected = reference(torch.from_numpy(image_13HW), prompts).numpy()
        pairs.append((second.run([OUTPUT_NAME], {EMBEDDING_NAME: embedding_1Chw, **given})[0], expected))
    return _compared(pairs, num_images=1, tolerance=tolerance)


def _compared(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, num_images: int, tolerance: float) -> Parity:
    """Return the differences of pairs of what was found and what is expected."""
    difference = np.concatenate([np.abs(found.astype(np.float64) - expected).ravel() for found, expected in pairs])
    disagreement = np.concatenate([((found > 0) != (expected > 0)).ravel() for found, expected in pairs])
    largest = max(1.0, *(float(np.abs(expected).max()) for _, expected in pairs))
    parity = Parity(
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        mask_disagreement=float(disagreement.mean()),
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

"""Features of a frozen image encoder, worked out once for the whole pool instead of once a step.

They may be kept only where they cannot change: the encoder is frozen and the images are not augmented.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.models.execution import Precision, autocast, place_images
from engine.models.segmenter import Segmenter

BUDGET_BYTES = 4 << 30
"""Host memory that kept features may take (ours): SAM's at 1024 px are 2 MiB an image in float16."""


class Images(Protocol):
    """The part of a pool that is read here."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return image_B3HW float32 [0, 1] and mask_BKHW uint8."""


def may_keep_features(model: torch.nn.Module, *, augment: str, num_images: int, image_px: int) -> bool:
    """Return whether ``model``'s features of the pool stay as they are and fit into ``BUDGET_BYTES``."""
    if augment != "none" or not isinstance(model, Segmenter):
        return False
    if any(parameter.requires_grad for parameter in model.image_encoder.parameters()):
        return False
    grid = image_px // model.feature_stride
    channels = model.mask_decoder.transformer_dim
    return num_images * channels * grid * grid * torch.finfo(torch.float16).bits // 8 <= BUDGET_BYTES


class KeptFeatures:
    """The features of every image of a pool, float16 on the host, in pool order.

    They are worked out in eval mode, in pool order and in batches of ``batch_size``, so a resumed stage gets the same.
    """

    def __init__(
        self,
        model: Segmenter,
        pool: Images,
        *,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        on_batch: Callable[[], None],
    ) -> None:
        self._device = device
        was_training = model.training
        model.eval()
        parts = []
        with torch.no_grad(), autocast(device, precision):
            for start in range(0, len(pool), batch_size):
                on_batch()
                image, _ = pool.batch(np.arange(start, min(start + batch_size, len(pool))))
                parts.append(model.encode(place_images(image, device)).to("cpu", torch.float16))
        model.train(was_training)
        self._features_NChw = torch.cat(parts)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return the features (B, C, h, w), float32 on the device, of the images at ``indices`` (B,)."""
        return self._features_NChw[torch.from_numpy(indices)].to(self._device, torch.float32)

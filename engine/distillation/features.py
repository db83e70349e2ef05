"""Features of SAM's image encoder, kept for the whole pool instead of worked out at every step or for every score.

Training may use them only where they cannot change: the encoder is frozen and the images are not augmented. Scores may
use them a few epochs long (``engine.distillation.scoring``).
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


def features_fit(model: torch.nn.Module, *, num_images: int, image_px: int) -> bool:
    """Return whether ``model``'s features of so many images fit into ``BUDGET_BYTES``."""
    if not isinstance(model, Segmenter):
        return False
    grid = image_px // model.feature_stride
    channels = model.mask_decoder.transformer_dim
    return num_images * channels * grid * grid * torch.finfo(torch.float16).bits // 8 <= BUDGET_BYTES


def encoder_is_frozen(model: torch.nn.Module) -> bool:
    """Return whether no parameter of the image encoder learns."""
    return not any(parameter.requires_grad for parameter in model.image_encoder.parameters())


def may_keep_features(model: torch.nn.Module, *, augment: str, num_images: int, image_px: int) -> bool:
    """Return whether ``model`` can be trained on kept features of the pool: they stay as they are, and fit."""
    fits = features_fit(model, num_images=num_images, image_px=image_px)
    return fits and augment == "none" and encoder_is_frozen(model)


class KeptFeatures:
    """The features of every image of a pool, float16 on the host, in pool order.

    They are worked out in eval mode, on images as they are and in batches of ``batch_size`` in pool order, so a resumed
    stage gets the same; or taken from a checkpoint as ``values_NChw``.
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
        values_NChw: Tensor | None = None,
    ) -> None:
        self._model, self._pool, self._batch_size = model, pool, batch_size
        self._device, self._precision = device, precision
        self.values_NChw = torch.empty(0, dtype=torch.float16) if values_NChw is None else values_NChw
        if values_NChw is None:
            self.renew(np.arange(len(pool)), on_batch=on_batch)

    def renew(self, indices: np.ndarray, *, on_batch: Callable[[], None]) -> None:
        """Work out the features of the images at ``indices`` (B,), ascending, with the encoder as it is now."""
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad(), autocast(self._device, self._precision):
            for start in range(0, len(indices), self._batch_size):
                on_batch()
                rows = indices[start : start + self._batch_size]
                image, _ = self._pool.batch(rows)
                features = self._model.encode(place_images(image, self._device)).to("cpu", torch.float16)
                if not len(self.values_NChw):
                    self.values_NChw = torch.empty((len(self._pool), *features.shape[1:]), dtype=torch.float16)
                self.values_NChw[torch.from_numpy(rows)] = features
        self._model.train(was_training)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return the features (B, C, h, w), float32 on the device, of the images at ``indices`` (B,)."""
        return self.values_NChw[torch.from_numpy(indices)].to(self._device, torch.float32)

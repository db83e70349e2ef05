"""Models of different kinds learn from each other on the public set: regularity condensation and fusion.

As the code of HSSF has them [H train.py:158-269], whose protocol SAM-Fed very probably inherits (our specification,
methods.md 2.2). Left out: that HSSF turns over the server's unsure pixels before it is graded, and its confidence head.

Shape legend: B images, K classes, h and w rows and columns of the grid on which predictions are sent. All are logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.distillation.agreement import resized_logits
from engine.distillation.losses import directed_kl


class PlainImages(Protocol):
    """The part of an image set that is read here."""

    def __len__(self) -> int: ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Return image_B3HW float32 [0, 1], not augmented."""


def pixel_accuracy(logits_BKhw: Tensor, mask_BKhw: Tensor) -> Tensor:
    """Return the share of right pixels of each image, (B,)."""
    right = (logits_BKhw > 0) == (mask_BKhw > 0)
    return right.flatten(1).to(torch.float32).mean(dim=1)


def condensed(
    server_BKhw: Tensor, sites_BKhw: Sequence[Tensor], mask_BKhw: Tensor, *, least_accuracy: float
) -> tuple[Tensor, Tensor]:
    """Return the best prediction of each image, and whether it beats the server's, bool (B,).

    It begins with the server's own; a site's takes its place where its grade (pixel accuracy) is higher, and above
    ``least_accuracy``. Of sites with equal grades the first counts.
    """
    best, grades = server_BKhw.detach(), pixel_accuracy(server_BKhw, mask_BKhw)
    first = grades.clone()
    for logits in sites_BKhw:
        grade = pixel_accuracy(logits, mask_BKhw)
        better = (grade > grades) & (grade > least_accuracy)
        best = torch.where(better[:, None, None, None], logits.to(best.dtype), best)
        grades = torch.where(better, grade, grades)
    return best, grades > first


def regularity_loss(taught_BKhw: Tensor, logits_BKhw: Tensor, teaches_B: Tensor, *, temperature: float) -> Tensor:
    """Return KL(taught || learner) of the images where ``teaches_B`` holds, summed over them and divided by B.

    Times T^2 and over Bernoulli pixels, as every divergence here; 10 of HSSF's are 10 / (2 T^2) of these, for its mean
    runs over two channels and it leaves T^2 out. No gradient runs into ``taught_BKhw``.
    """
    divergence_B = directed_kl(taught_BKhw.detach(), logits_BKhw, temperature=temperature)
    return (teaches_B.to(divergence_B.dtype) * divergence_B).mean()


def fusion_loss(server_BKhw: Tensor, logits_BKhw: Tensor, mask_BKhw: Tensor, *, temperature: float) -> Tensor:
    """Return :func:`regularity_loss` of the images on which the server's accuracy exceeds the site's own."""
    teaches_B = pixel_accuracy(server_BKhw, mask_BKhw) > pixel_accuracy(logits_BKhw.detach(), mask_BKhw)
    return regularity_loss(server_BKhw, logits_BKhw, teaches_B, temperature=temperature)


@torch.no_grad()
def public_logits(
    model: nn.Module, public: PlainImages, *, batch_size: int, grid_px: int, forward: Callable[[np.ndarray], Tensor]
) -> np.ndarray:
    """Return logits (N, K, grid_px, grid_px) float16 of all images of ``public``, the model in eval mode.

    ``forward`` gives the float32 logits of image_B3HW.
    """
    model.eval()
    half, parts = torch.finfo(torch.float16).max, []
    for start in range(0, len(public), batch_size):
        indices = np.arange(start, min(start + batch_size, len(public)))
        logits = resized_logits(forward(public.images(indices)), grid_px)
        parts.append(logits.clamp(-half, half).half().cpu().numpy())
    return np.concatenate(parts)

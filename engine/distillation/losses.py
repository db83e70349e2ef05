"""Divergences between the two models' pixel-wise Bernoulli predictions (Eq. 7-8).

Shapes: logits_BKhw float32 before the sigmoid; results are per image, (B,), unless said otherwise.

One convention for every term of the objective and of Eq. 6: the mean over classes and pixels, like the cross-entropy of
L_sup and the authors' ``mean()``. So w and lambda weigh the same for one class as for several.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.objective import at_least_float32


def symmetric_kl(first_BKhw: Tensor, second_BKhw: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return KL(p||q) + KL(q||p) of each image, (B,), mean over classes and pixels, times temperature^2.

    For two Bernoulli variables with logits a and b the sum of both directions is (sigmoid(a) - sigmoid(b)) (a - b):
    one product instead of eight logarithms, and finite for every finite logit. Gradient flows into both inputs.
    """
    first, second = at_least_float32(first_BKhw) / temperature, at_least_float32(second_BKhw) / temperature
    divergence_BKhw = (first.sigmoid() - second.sigmoid()) * (first - second)
    return divergence_BKhw.flatten(1).mean(dim=1) * temperature**2


def directed_kl(target_BKhw: Tensor, predicted_BKhw: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return KL(p_target || p_predicted) of each image, (B,): mean over classes and pixels, times T^2."""
    target, predicted = at_least_float32(target_BKhw) / temperature, at_least_float32(predicted_BKhw) / temperature
    log_sigmoid = torch.nn.functional.logsigmoid
    divergence_BKhw = target.sigmoid() * (log_sigmoid(target) - log_sigmoid(predicted)) + (-target).sigmoid() * (
        log_sigmoid(-target) - log_sigmoid(-predicted)
    )
    return divergence_BKhw.flatten(1).mean(dim=1) * temperature**2


def reference_kl(first_BKhw: Tensor, second_BKhw: Tensor, *, temperature: float = 1.0, eps: float = 1e-8) -> Tensor:
    """Return the authors' term KL(second || first) of each image, (B,), with their eps inside the logarithms.

    Their flag 'sample': P = sigmoid(first / T), Q = sigmoid(second / T), mean over classes and pixels, times T^2.
    """
    p, q = (
        (at_least_float32(first_BKhw) / temperature).sigmoid(),
        (at_least_float32(second_BKhw) / temperature).sigmoid(),
    )
    divergence_BKhw = q * ((q + eps).log() - (p + eps).log()) + (1 - q) * ((1 - q + eps).log() - (1 - p + eps).log())
    return divergence_BKhw.flatten(1).mean(dim=1) * temperature**2


def feature_loss(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """Return the authors' optional feature term, a scalar: mean((feat_S - feat_T)^2). Both encoders share one width."""
    return (at_least_float32(student_BChw) - at_least_float32(teacher_BChw)).square().mean()

"""BatchNorm statistics of a model on a site's own images (ours).

A model that has learnt from synthetic images normalises by their statistics. One query gives it those of real ones:
each site passes its training images through the model and sends up the mean and the population variance of every
BatchNorm layer's input; no image and no weight goes with them. On that pass each batch is normalised by itself, as in
training: normalised by the old statistics, the deeper layers would be measured on what they will never see again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from engine.models.batch_norm import MEAN, VARIANCE, batch_norm_layers
from engine.models.execution import Placement
from engine.seeding import numpy_generator
from engine.site.local_training import ImageSource


@torch.no_grad()
def measure_statistics(
    model: nn.Module,
    image_set: ImageSource,
    *,
    batch_size: int,
    seed: int,
    site: str,
    placement: Placement,
    check_cancelled: Callable[[], None],
) -> dict[str, np.ndarray]:
    """Return ``LAYER.running_mean`` and ``LAYER.running_var`` (C,) float32 over all pixels of a site's images.

    Images are not augmented; the stream ("statistics", site) mixes them, for pictures of one patient lie together. The
    variance is the population's, over all batches, summed in float64. The model's own statistics stay as they are.
    """
    layers = batch_norm_layers(model)
    moments = {name: _Moments() for name in layers}
    hooks = [layer.register_forward_pre_hook(moments[name].add) for name, layer in layers.items()]
    momenta = {name: layer.momentum for name, layer in layers.items()}
    model.eval()
    order = numpy_generator(seed, "statistics", site).permutation(len(image_set))
    try:
        for layer in layers.values():
            layer.train()
            layer.momentum = 0.0
        for start in range(0, len(order), batch_size):
            check_cancelled()
            image_B3HW, _ = image_set.batch(order[start : start + batch_size])
            with placement.autocast():
                model(placement.batch(image_B3HW))
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.momentum = momenta[name]
            layer.eval()
    found = {}
    for name, moment in moments.items():
        found[f"{name}.{MEAN}"], found[f"{name}.{VARIANCE}"] = moment.mean_and_variance()
    return found


class _Moments:
    """Pixels, sums and sums of squares of a layer's input by channel, float64 (C,)."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take in a batch; a forward pre-hook."""
        value_CN = inputs[0].detach().transpose(0, 1).flatten(1).double()
        self._count += value_CN.shape[1]
        self._sum = self._sum + value_CN.sum(dim=1)
        self._squares = self._squares + value_CN.square().sum(dim=1)

    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both, float32."""
        mean = torch.as_tensor(self._sum) / self._count
        variance = (torch.as_tensor(self._squares) / self._count - mean.square()).clamp(min=0)
        return mean.float().cpu().numpy(), variance.float().cpu().numpy()

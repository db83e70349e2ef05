"""The BatchNorm layers of a model, and what their statistics are called in its state."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

MEAN, VARIANCE = "running_mean", "running_var"


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers of ``model`` that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


def statistic_names(model: nn.Module) -> list[str]:
    """Return the names of all running means and variances in the model's state."""
    return [f"{layer}.{part}" for layer in batch_norm_layers(model) for part in (MEAN, VARIANCE)]

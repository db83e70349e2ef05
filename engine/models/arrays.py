"""A model as named arrays, the form in which it crosses a site's border."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn


def model_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of the whole state dict as numpy arrays: parameters, float buffers and integer counters."""
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Give ``model`` the weights and buffers in ``arrays``, keeping its device and memory layout."""
    model.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()})


def buffer_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the state dict's buffers, for ``aggregation.federated_average``."""
    return frozenset(model.state_dict()) - {name for name, _ in model.named_parameters()}

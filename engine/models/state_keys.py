"""The keys of a model's state, and what each is: parameter or buffer, trained or frozen, part of a normalisation layer.

Normalisation layers are known by their type; their names say nothing (``image_encoder.neck.1``).
"""

from __future__ import annotations

from segment_anything.modeling.common import LayerNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from engine.config import FederationConfig
from engine.models.sharing import SharedParameters, StateKey

NORMALISATION_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, LayerNorm2d)
"""Batch and instance normalisation (timm's and torch's), those over channels, and SAM's own."""


def state_keys(model: nn.Module) -> tuple[StateKey, ...]:
    """Return the keys of ``model.state_dict()`` in its order."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layers = [name for name, module in model.named_modules() if isinstance(module, NORMALISATION_LAYERS)]
    normalising = frozenset(f"{layer}." if layer else "" for layer in layers)
    return tuple(
        StateKey(
            name,
            tensor.numel() * tensor.element_size(),
            is_buffer=name not in parameters,
            trains=name in parameters and parameters[name].requires_grad,
            normalises=name[: name.rfind(".") + 1] in normalising,
            num_channels=tensor.shape[0] if tensor.dim() > 1 else 1,
        )
        for name, tensor in model.state_dict().items()
    )


def shared_parameters(model: nn.Module, config: FederationConfig, *, name: str) -> SharedParameters:
    """Return which arrays of ``model`` the sites share; ``name`` and errors as in ``SharedParameters.choose``."""
    return SharedParameters.choose(state_keys(model), config, model=name)


def trained_keys(model: nn.Module, *, name: str) -> tuple[str, ...]:
    """Return the names of what learns of a model, with the statistics of its normalisation layers."""
    return shared_parameters(model, FederationConfig(shared="trainable"), name=name).shared

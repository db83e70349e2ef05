"""LoRA (Hu et al., ICLR 2022): low-rank updates of frozen linear layers of SAM's image encoder.

Shape legend: B images or windows, h and w tokens, I and O the width of what comes in and goes out, r the rank.

segment_anything computes q, k and v by one layer, of which peft would update all rows, and peft would rename the
layers' keys. Here an update has the rows of one projection, and every key of SAM stays; for a whole layer the numbers
are peft's (``tests/unit/test_tuned_models.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional

from engine.config_tuning import LoraConfig
from engine.models.tuned_keys import MODULES, refuse_model


class LoraLinear(nn.Linear):
    """A frozen linear layer with updates: y = W x + b, and for each part its rows += (alpha / r) B A x.

    ``lora_A`` (r, I) is normal with deviation 1 / r, peft's "gaussian"; ``lora_B`` (rows, r) is zero, so that the
    layer begins as it was.
    """

    def __init__(self, layer: nn.Linear, *, rows: Mapping[str, slice], rank: int, alpha: float) -> None:
        """``rows`` are the rows of the layer that a part updates, by its name; the layer's own weights are taken."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.rows, self.scale = dict(rows), alpha / rank
        first = torch.randn(len(rows), rank, self.in_features) / rank
        self.lora_A = nn.ParameterDict([(name, nn.Parameter(part)) for name, part in zip(rows, first, strict=True)])
        sizes = {name: part.stop - part.start for name, part in self.rows.items()}
        self.lora_B = nn.ParameterDict([(name, nn.Parameter(torch.zeros(size, rank))) for name, size in sizes.items()])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h, w, O) of the tokens (B, h, w, I)."""
        y = functional.linear(x, self.weight, self.bias)
        for name, part in self.rows.items():
            update = functional.linear(functional.linear(x, self.lora_A[name]), self.lora_B[name]) * self.scale
            y = y + functional.pad(update, (part.start, self.out_features - part.stop))
        return y

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain layer of the same function: W + (alpha / r) B A."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device=self.weight.device)
        layer.weight.copy_(self.weight)
        if self.bias is not None:
            layer.bias.copy_(self.bias)
        for name, part in self.rows.items():
            layer.weight[part] += self.scale * self.lora_B[name] @ self.lora_A[name]
        return layer.requires_grad_(self.weight.requires_grad)


def sam_blocks(model: nn.Module, *, name: str, layers: Sequence[str]) -> list[nn.Module]:
    """Return the blocks of SAM's image encoder; ``UserError`` ``lora.layers`` for any other model, called ``name``."""
    blocks = list(getattr(getattr(model, "image_encoder", None), "blocks", ()))
    if not blocks or not all(isinstance(getattr(block, "attn", None), Attention) for block in blocks):
        raise refuse_model(name, layers)
    return blocks


def add_lora(model: nn.Module, config: LoraConfig, *, name: str) -> None:
    """Lay updates beside the named layers of every block, in place; draws from torch's global generator.

    ``UserError`` ``lora.layers`` for a model, called ``name``, that has no such layers.
    """
    for block in sam_blocks(model, name=name, layers=config.layers):
        for path in dict.fromkeys(MODULES[layer] for layer in MODULES if layer in config.layers):
            layer = block.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            third = layer.out_features // 3
            rows = {
                part: slice(place * third, (place + 1) * third) if path == "attn.qkv" else slice(0, layer.out_features)
                for place, part in enumerate(MODULES)
                if MODULES[part] == path and part in config.layers
            }
            block.set_submodule(path, LoraLinear(layer, rows=rows, rank=config.rank, alpha=config.alpha))


def merge_lora(model: nn.Module) -> nn.Module:
    """Put plain layers of the same function in the place of updated ones, in place, and return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            model.set_submodule(name, module.merged())
    return model

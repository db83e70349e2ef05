"""LoRA on the attention of SAM's image encoder (Hu et al. 2021, arXiv 2106.09685): small factors learn, SAM stays.

Each block of SAM makes queries, keys and values by one linear layer ``attn.qkv``. A LoRA of peft on that layer would
share one A between the three and change the keys too; here queries and values get factors of their own, which is what
"LoRA on q and v" means in the papers that tune SAM so (methods.md 2.3 and 3.2: 36,864 r parameters for ViT-B). The
names of SAM's own arrays stay as they are, so that released weights load.

Shape legend: D width of the encoder, r rank.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import UserError
from engine.models.segmenter import Segmenter
from engine.seeding import torch_generator

FACTORS = ("lora_q_a", "lora_q_b", "lora_v_a", "lora_v_b")
"""Names of the arrays that a block gains, below its ``attn.qkv``."""


class LoraQkv(nn.Linear):
    """A block's ``qkv`` layer W0 with q and v moved: h = W0 x + (alpha / r) B A x; keys are W0's.

    Attributes
    ----------
    lora_q_a, lora_v_a : Parameter
        (r, D), drawn from N(0, 1 / r) (ours; the papers say Gaussian).
    lora_q_b, lora_v_b : Parameter
        (D, r), zero at first: the model then is the one without LoRA.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        width = base.in_features
        self.scale = alpha / rank
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        for name in FACTORS:
            shape = (rank, width) if name.endswith("_a") else (width, rank)
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, **like)))

    def forward(self, x: Tensor) -> Tensor:
        """Return queries, keys and values side by side, (..., 3 D), of ``x`` (..., D)."""
        q, k, v = super().forward(x).chunk(3, dim=-1)
        moved_q = functional.linear(functional.linear(x, self.lora_q_a), self.lora_q_b)
        moved_v = functional.linear(functional.linear(x, self.lora_v_a), self.lora_v_b)
        return torch.cat((q + self.scale * moved_q, k, v + self.scale * moved_v), dim=-1)


def add_lora(model: nn.Module, *, rank: int, alpha: float, seed: int, name: str) -> nn.Module:
    """Give every block of the model's SAM encoder a LoRA on q and v, in place; freeze all but it and the mask decoder.

    The class head, where there is one, belongs to the decoder. Equal ``seed``, equal factors. Returns the model.

    Raises
    ------
    UserError
        ``lora.no_layers`` where the model, called ``name``, has no such block.
    """
    blocks = [module for module in model.modules() if isinstance(module, Attention) and hasattr(module, "qkv")]
    if not isinstance(model, Segmenter) or not blocks:
        raise UserError(
            "lora.no_layers",
            what=f"LoRA was asked for on {name}, which has no attention layer 'attn.qkv' of SAM's image encoder.",
            why="LoRA moves the queries and values of these layers; other models have none to move.",
            fix="Choose sam as this model's name, or leave lora_rank out.",
        )
    model.requires_grad_(False)
    draws = torch_generator(seed, "lora", name)
    for block in blocks:
        block.qkv = LoraQkv(block.qkv, rank=rank, alpha=alpha)
        for factor in ("lora_q_a", "lora_v_a"):
            values = getattr(block.qkv, factor)
            with torch.no_grad():
                values.copy_(torch.randn(values.shape, generator=draws) / math.sqrt(rank))
    model.mask_decoder.requires_grad_(True)
    if model.seg1 is not None:
        model.seg1.requires_grad_(True)
    return model

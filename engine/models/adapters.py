"""SAM with adapters (MSA, as FedFMS and FedMSA train it): small layers in SAM's blocks learn, not the blocks.

Shape legend: B images or windows, h and w tokens, D the encoder's width.

Placement (FedFMS ``image_encoder.py:178-211``): an adapter with a skip right after attention, before the windows are
put together again, and one without a skip beside the MLP, on what LayerNorm gives the MLP, at half its strength. Blocks
are segment_anything's own, so LayerNorm comes before windows are padded, with zeros: in FedFMS it comes after, and
padded tokens are LayerNorm's bias. FedFMS has a third adapter in every block that only volumes use; it is counted and
sent there (36 of 295,872 parameters for ViT-B), and does not exist here (24).
"""

from __future__ import annotations

from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from engine.models.sam import SamPreset, build_sam
from engine.models.segmenter import Segmenter

BOTTLENECK = 4
"""How much narrower an adapter is than the encoder [F common.py:12-29]."""
BESIDE_MLP = 0.5
"""Strength of the adapter beside the MLP [F image_encoder.py:205]."""


class Adapter(nn.Module):
    """Linear D to D/4, GELU, Linear D/4 to D; torch's own first weights, not zero [F common.py:12-29]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, dim // BOTTLENECK)
        self.act = nn.GELU()
        self.up = nn.Linear(dim // BOTTLENECK, dim)

    def forward(self, tokens_BhwD: Tensor) -> Tensor:
        """Return up(GELU(down(x))), without a skip, of the same shape."""
        return self.up(self.act(self.down(tokens_BhwD)))


class AdaptedAttention(Attention):
    """segment_anything's attention with an adapter after it: y + adapter(y), y what attention gives."""

    def __init__(self, attention: Attention) -> None:
        dim = attention.qkv.in_features
        sides = [(len(table) + 1) // 2 for table in (attention.rel_pos_h, attention.rel_pos_w)]
        super().__init__(dim, attention.num_heads, use_rel_pos=True, input_size=(sides[0], sides[1]))
        self.load_state_dict(attention.state_dict())
        self.adapter = Adapter(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h, w, D) of the tokens (B, h, w, D) of windows or of the whole image."""
        attended_BhwD = super().forward(x)
        return attended_BhwD + self.adapter(attended_BhwD)


class AdaptedMlp(MLPBlock):
    """segment_anything's MLP with an adapter beside it: mlp(x) + adapter(x) / 2, x what LayerNorm gives."""

    def __init__(self, mlp: MLPBlock) -> None:
        dim = mlp.lin1.in_features
        super().__init__(embedding_dim=dim, mlp_dim=mlp.lin1.out_features)
        self.load_state_dict(mlp.state_dict())
        self.adapter = Adapter(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h, w, D) of the tokens (B, h, w, D)."""
        return super().forward(x) + BESIDE_MLP * self.adapter(x)


def build_msa(preset: SamPreset, *, num_classes: int, image_px: int) -> Segmenter:
    """Return SAM with two adapters a block, of which adapters, mask decoder and class head learn.

    Keys of the state are SAM's, and ``.adapter.`` is in those that are added: SAM's weights load as they are. The
    prompt encoder, which FedFMS leaves trainable, is frozen: without prompts no gradient reaches it.
    """
    model = build_sam(preset, num_classes=num_classes, image_px=image_px)
    for block in model.image_encoder.blocks:
        block.attn = AdaptedAttention(block.attn)
        block.mlp = AdaptedMlp(block.mlp)
    model.image_encoder.requires_grad_(False)
    model.prompt_encoder.requires_grad_(False)
    for module in model.image_encoder.modules():
        if isinstance(module, Adapter):
            module.requires_grad_(True)
    return model

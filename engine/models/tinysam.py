"""TinySAM: timm's TinyViT, SAM's neck, SAM's prompt encoder and mask decoder (methods.md 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention, TinyVit, TinyVitBlock
from torch import Tensor, nn

from engine.models.decoder import DecoderPreset, build_mask_decoder, build_prompt_encoder
from engine.models.segmenter import Segmenter

STEM_STRIDE = 4


@dataclass(frozen=True)
class TinySamPreset:
    """The numbers that tell one TinySAM from another (TinySAM ``build_sam.py:47-87``, and a mini size).

    ``merge_strides`` are the strides of the three patch mergings: the official encoder keeps the resolution at the
    last one, the mini encoder at the last two.
    """

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    window_sizes: tuple[int, int, int, int]
    merge_strides: tuple[int, int, int]
    image_px: int = 1024
    decoder: DecoderPreset = field(default_factory=DecoderPreset)

    @property
    def feature_stride(self) -> int:
        """Return pixels per feature cell."""
        return STEM_STRIDE * prod(self.merge_strides)


TINYSAM_PRESETS: dict[str, TinySamPreset] = {
    "mini": TinySamPreset(
        embed_dims=(32, 64, 96, 128),
        depths=(1, 2, 2, 1),
        num_heads=(1, 2, 3, 4),
        window_sizes=(8, 8, 8, 8),
        merge_strides=(2, 1, 1),
        image_px=128,
        decoder=DecoderPreset(dim=128, mlp_dim=256, iou_hidden_dim=128),
    ),
    "5m": TinySamPreset(
        embed_dims=(64, 128, 160, 320),
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        merge_strides=(2, 2, 1),
    ),
}


class LiveBiasAttention(Attention):
    """timm's TinyViT attention whose relative biases are read from the parameter at every forward pass.

    In eval mode timm, like the official code, keeps a copy of the indexed biases: weights loaded after ``eval()``
    are then ignored, and training in eval mode gives the biases no gradient (methods.md 1.10 and 5, trap 2).
    """

    attention_bias_idxs: Tensor

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """Return the biases (heads, N, N) with their gradient, in either mode."""
        return self.attention_biases[:, self.attention_bias_idxs]

    def train(self, mode: bool = True) -> LiveBiasAttention:
        """Set the mode and return the module (timm's override returns nothing)."""
        return nn.Module.train(self, mode)


class TinyVitEncoder(nn.Module):
    """TinyViT without its classifier, and SAM's neck: images (B, 3, H, W) in [0, 1] to features (B, C, h, w)."""

    def __init__(self, preset: TinySamPreset) -> None:
        super().__init__()
        self.trunk = TinyVit(
            num_classes=0,
            embed_dims=preset.embed_dims,
            depths=preset.depths,
            num_heads=preset.num_heads,
            window_sizes=preset.window_sizes,
            drop_path_rate=0.0,
        )
        self.trunk.head = nn.Identity()  # type: ignore[assignment]
        for stage, stride in zip(list(self.trunk.stages)[1:], preset.merge_strides, strict=True):
            convolution = stage.get_submodule("downsample.conv2.conv")
            assert isinstance(convolution, nn.Conv2d)
            convolution.stride = (stride, stride)
        for block in self.trunk.modules():
            if isinstance(block, TinyVitBlock):
                block.attn = _with_live_biases(block.attn)
        self.neck = nn.Sequential(
            nn.Conv2d(preset.embed_dims[-1], preset.decoder.dim, kernel_size=1, bias=False),
            LayerNorm2d(preset.decoder.dim),
            nn.Conv2d(preset.decoder.dim, preset.decoder.dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(preset.decoder.dim),
        )

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return features (B, C, h, w)."""
        return self.neck(self.trunk.stages(self.trunk.patch_embed(image_B3HW)))


def fix_attention_biases(model: nn.Module) -> None:
    """Keep TinyViT's attention biases of ``model`` from learning; they are still read at every forward pass.

    So they behave as in the authors' distillation, which trains in eval mode: there attention reads a copy that was
    cached without a gradient, and Adam leaves the parameter behind it alone. Models without TinyViT stay as they are.
    """
    for module in model.modules():
        if isinstance(module, LiveBiasAttention):
            module.attention_biases.requires_grad_(False)


def _with_live_biases(attention: Attention) -> LiveBiasAttention:
    live = LiveBiasAttention(
        attention.norm.normalized_shape[0],
        attention.key_dim,
        attention.num_heads,
        attn_ratio=attention.attn_ratio,
        resolution=attention.resolution,
        device=attention.attention_biases.device,
    )
    live.load_state_dict(attention.state_dict())
    return live


def build_tinysam(preset: TinySamPreset, *, num_classes: int, image_px: int) -> Segmenter:
    """Return a randomly initialised TinySAM for a native side of ``image_px`` (a multiple of the feature stride)."""
    return Segmenter(
        TinyVitEncoder(preset),
        prompt_encoder=build_prompt_encoder(preset.decoder, image_px=image_px, feature_stride=preset.feature_stride),
        mask_decoder=build_mask_decoder(preset.decoder),
        image_px=image_px,
        feature_stride=preset.feature_stride,
        num_classes=num_classes,
    )

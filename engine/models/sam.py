"""SAM: segment_anything's own modules in three sizes, for any image size that the patch divides."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional

from engine.models.decoder import DecoderPreset, build_mask_decoder, build_prompt_encoder
from engine.models.segmenter import Segmenter


@dataclass(frozen=True)
class SamPreset:
    """The numbers that tell one SAM from another (segment_anything's ``build_sam.py``, and a mini size)."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    image_px: int = 1024
    patch_px: int = 16
    window_size: int = 14
    decoder: DecoderPreset = field(default_factory=DecoderPreset)

    @property
    def feature_stride(self) -> int:
        """Return pixels per feature cell, which is the patch."""
        return self.patch_px


SAM_PRESETS: dict[str, SamPreset] = {
    "mini": SamPreset(
        embed_dim=192,
        depth=6,
        num_heads=3,
        global_attn_indexes=(2, 5),
        image_px=128,
        patch_px=8,
        window_size=8,
        decoder=DecoderPreset(dim=128, mlp_dim=256, iou_hidden_dim=128),
    ),
    "vit_b": SamPreset(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    "vit_l": SamPreset(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
}


class SamImageEncoder(ImageEncoderViT):
    """``ImageEncoderViT`` whose absolute positional embedding follows the size of the image.

    At the native size the output equals the official class. Relative positional embeddings are interpolated by
    segment_anything itself. State-dict keys are the official ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C, h, w) of images (B, 3, H, W) in [0, 1]; h = H / patch."""
        tokens_BhwD = self.patch_embed(x)
        tokens_BhwD = tokens_BhwD + resize_positions(self.pos_embed, grid_hw=tuple(tokens_BhwD.shape[1:3]))
        for block in self.blocks:
            tokens_BhwD = block(tokens_BhwD)
        return self.neck(tokens_BhwD.permute(0, 3, 1, 2))


def resize_positions(positions_1hwD: Tensor, *, grid_hw: tuple[int, int]) -> Tensor:
    """Return an absolute positional embedding (1, h, w, D) resized bicubically to ``grid_hw`` (unchanged if equal)."""
    if tuple(positions_1hwD.shape[1:3]) == tuple(grid_hw):
        return positions_1hwD
    resized = functional.interpolate(
        positions_1hwD.permute(0, 3, 1, 2).float(), size=grid_hw, mode="bicubic", align_corners=False
    )
    return resized.permute(0, 2, 3, 1).to(positions_1hwD.dtype)


def build_sam(preset: SamPreset, *, num_classes: int, image_px: int) -> Segmenter:
    """Return a randomly initialised SAM for a native side of ``image_px`` (a multiple of the patch)."""
    encoder = SamImageEncoder(
        img_size=image_px,
        patch_size=preset.patch_px,
        embed_dim=preset.embed_dim,
        depth=preset.depth,
        num_heads=preset.num_heads,
        mlp_ratio=4,
        out_chans=preset.decoder.dim,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=preset.window_size,
        global_attn_indexes=preset.global_attn_indexes,
    )
    # segment_anything leaves this at zero because it always loads a checkpoint; ViT's usual start learns sooner.
    assert encoder.pos_embed is not None
    torch.nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    return Segmenter(
        encoder,
        prompt_encoder=build_prompt_encoder(preset.decoder, image_px=image_px, feature_stride=preset.patch_px),
        mask_decoder=build_mask_decoder(preset.decoder),
        image_px=image_px,
        feature_stride=preset.patch_px,
        num_classes=num_classes,
    )

"""SAM's mask decoder and prompt encoder: their sizes, their construction, and a batched forward.

Shape legend: B images, C decoder channels, h and w the feature grid, T prompt tokens, M mask tokens asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

NUM_MULTIMASK_OUTPUTS = 3
NUM_MASK_TOKENS = NUM_MULTIMASK_OUTPUTS + 1


@dataclass(frozen=True)
class DecoderPreset:
    """The numbers that size a prompt encoder and a mask decoder (defaults: the released SAM and TinySAM)."""

    dim: int = 256
    mlp_dim: int = 2048
    num_heads: int = 8
    depth: int = 2
    iou_hidden_dim: int = 256
    mask_in_chans: int = 16


def build_prompt_encoder(preset: DecoderPreset, *, image_px: int, feature_stride: int) -> PromptEncoder:
    """Return segment_anything's prompt encoder for square images of ``image_px`` pixels."""
    grid = image_px // feature_stride
    return PromptEncoder(
        embed_dim=preset.dim,
        image_embedding_size=(grid, grid),
        input_image_size=(image_px, image_px),
        mask_in_chans=preset.mask_in_chans,
    )


def build_mask_decoder(preset: DecoderPreset) -> MaskDecoder:
    """Return segment_anything's mask decoder with its two-way transformer."""
    return MaskDecoder(
        transformer_dim=preset.dim,
        transformer=TwoWayTransformer(
            depth=preset.depth, embedding_dim=preset.dim, num_heads=preset.num_heads, mlp_dim=preset.mlp_dim
        ),
        num_multimask_outputs=NUM_MULTIMASK_OUTPUTS,
        iou_head_depth=3,
        iou_head_hidden_dim=preset.iou_hidden_dim,
    )


def decode_masks(
    decoder: MaskDecoder,
    features_BChw: Tensor,
    *,
    positions_1Chw: Tensor,
    sparse_BTC: Tensor | None,
    dense_BChw: Tensor | None,
    num_masks: int,
) -> tuple[Tensor, Tensor]:
    """Run ``MaskDecoder.predict_masks`` on a batch of images, one set of prompts an image.

    The official forward repeats a single image for many prompts; this one pairs image i with prompts i, and works
    out only the first ``num_masks`` of the four mask tokens. Without sparse and dense embeddings it is the
    prompt-free path of the DSFedMed code: tokens are the IoU token and the four mask tokens, nothing else.

    Returns
    -------
    logits_BMHW : Tensor
        Mask logits of the first ``num_masks`` tokens at four times the feature grid.
    tokens_BTC : Tensor
        The transformer's output tokens, from which :func:`predict_quality` reads the IoU token.
    """
    batch, channels, height, width = features_BChw.shape
    own_5C = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens_BTC = own_5C.unsqueeze(0).expand(batch, -1, -1)
    if sparse_BTC is not None:
        tokens_BTC = torch.cat([tokens_BTC, sparse_BTC], dim=1)
    source_BChw = features_BChw if dense_BChw is None else features_BChw + dense_BChw
    out_BTC, source_BLC = decoder.transformer(source_BChw, positions_1Chw, tokens_BTC)
    upscaled_BcHW = decoder.output_upscaling(source_BLC.transpose(1, 2).reshape(batch, channels, height, width))
    weights_BMc = torch.stack(
        [decoder.output_hypernetworks_mlps[index](out_BTC[:, 1 + index]) for index in range(num_masks)], dim=1
    )
    logits_BMHW = (weights_BMc @ upscaled_BcHW.flatten(2)).unflatten(2, upscaled_BcHW.shape[2:])
    return logits_BMHW, out_BTC


def predict_quality(decoder: MaskDecoder, tokens_BTC: Tensor) -> Tensor:
    """Return the decoder's own estimate (B, 4) of each mask token's IoU; meaningful only with SAM's own weights."""
    return decoder.iou_prediction_head(tokens_BTC[:, 0])

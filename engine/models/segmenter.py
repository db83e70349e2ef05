"""A segmentation model in SAM's three parts: image encoder, prompt encoder, mask decoder.

Shape legend: B images, 3 channels, H and W pixels, C feature channels, h = H / feature_stride, w = W / feature_stride,
K classes. Images are float in [0, 1] (SAM's pixel mean and std are never applied, as in the DSFedMed code).
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from engine.errors import UserError
from engine.models.decoder import NUM_MASK_TOKENS, decode_masks, predict_quality
from engine.models.prompts import DensePositions, Prompts, embed_mask, embed_prompts


class Segmenter(nn.Module):
    """SAM or TinySAM, prompt-free by default (DSFedMed code, ``mask_decoder.py:109-149``).

    Attributes
    ----------
    image_px : int
        The native side in pixels; any H and W that ``feature_stride`` divides are accepted.
    feature_stride, mask_stride : int
        Pixels per feature cell and per logit: logits have H / mask_stride rows.
    num_classes : int
        K. One class reads mask token 0; more classes read a 1x1 convolution ``seg1`` over the four mask tokens.
    keeps_statistics : bool
        Whether BatchNorm keeps and uses its running statistics in train mode too; scale and shift still learn.
        With batch statistics every site normalises by its own images, and their average normalises nobody's.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        *,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        image_px: int,
        feature_stride: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.image_px = image_px
        self.feature_stride = feature_stride
        self.mask_stride = feature_stride // 4
        self.num_classes = num_classes
        self.seg1 = nn.Conv2d(NUM_MASK_TOKENS, num_classes, kernel_size=1) if num_classes > 1 else None
        self.keeps_statistics = False
        self._positions = DensePositions()

    def train(self, mode: bool = True) -> Segmenter:
        """Set the mode; BatchNorm stays in eval mode while ``keeps_statistics``."""
        super().train(mode)
        if mode and self.keeps_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    @torch.no_grad()
    def copy_mask_to_classes(self) -> None:
        """Give every class a mask token of its own that begins as a copy of the trained one (ours).

        A random ``seg1`` over one-class weights starts with a wrong mask for most pixels; the gradient of that error
        runs through the shared decoder and erases what it had learnt before the classes part.
        """
        assert self.seg1 is not None, "one class reads mask token 0 and needs no head"
        decoder = self.mask_decoder
        self.seg1.weight.zero_()
        assert self.seg1.bias is not None
        self.seg1.bias.zero_()
        for class_index in range(self.num_classes):
            token = class_index % NUM_MASK_TOKENS
            self.seg1.weight[class_index, token] = 1.0
            decoder.mask_tokens.weight[token] = decoder.mask_tokens.weight[0]
            first = decoder.output_hypernetworks_mlps[0].state_dict()
            decoder.output_hypernetworks_mlps[token].load_state_dict(first)

    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Return the image features (B, C, h, w), the dear half of the model.

        Parameters
        ----------
        image_B3HW : Tensor
            Float in [0, 1]; H and W multiples of ``feature_stride``.

        Raises
        ------
        UserError
            ``model.image_size`` for any other shape.
        """
        check_image_shape(tuple(image_B3HW.shape), stride=self.feature_stride)
        return self.image_encoder(image_B3HW)

    def decode(self, features_BChw: Tensor, *, prompts: Prompts | None = None) -> Tensor:
        """Return mask logits (B, K, 4h, 4w), the cheap half of the model.

        Without ``prompts`` neither a sparse nor a dense prompt embedding enters: only the IoU token, the mask tokens
        and the dense positional encoding (methods 1.2). With prompts it is SAM's usual path; features of one image
        (B = 1) may be paired with many prompts, and then B is the number of prompts.
        """
        return self._decode(features_BChw, prompts=prompts)[0]

    def decode_with_quality(self, features_BChw: Tensor, *, prompts: Prompts | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits of :meth:`decode` and the decoder's IoU estimates (B, 4) of the four mask tokens."""
        logits_BKHW, tokens_BTC = self._decode(features_BChw, prompts=prompts)
        return logits_BKHW, predict_quality(self.mask_decoder, tokens_BTC)

    def forward(self, image_B3HW: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Return mask logits (B, K, H / mask_stride, W / mask_stride) for float images in [0, 1]."""
        return self.decode(self.encode(image_B3HW), prompts=prompts)

    def _decode(self, features_BChw: Tensor, *, prompts: Prompts | None) -> tuple[Tensor, Tensor]:
        grid_h, grid_w = features_BChw.shape[-2:]
        sparse_BTC = dense_BChw = None
        if prompts is not None:
            features_BChw = _pair(features_BChw, prompts=prompts)
            image_hw = (grid_h * self.feature_stride, grid_w * self.feature_stride)
            sparse_BTC = embed_prompts(self.prompt_encoder, prompts, image_hw=image_hw)
            dense_BChw = embed_mask(self.prompt_encoder, prompts)
        logits_BMHW, tokens_BTC = decode_masks(
            self.mask_decoder,
            features_BChw,
            positions_1Chw=self._positions(self.prompt_encoder, grid_hw=(grid_h, grid_w)),
            sparse_BTC=sparse_BTC,
            dense_BChw=dense_BChw,
            num_masks=1 if self.seg1 is None else NUM_MASK_TOKENS,
        )
        return (logits_BMHW if self.seg1 is None else self.seg1(logits_BMHW)), tokens_BTC


def check_image_shape(shape: tuple[int, ...], *, stride: int) -> None:
    """Raise ``UserError`` ``model.image_size`` unless ``shape`` is (B, 3, H, W), H and W multiples of ``stride``."""
    if len(shape) != 4 or shape[1] != 3 or shape[2] % stride or shape[3] % stride or not shape[2] or not shape[3]:
        raise UserError(
            "model.image_size",
            what=f"The model got images of shape {tuple(shape)}.",
            why=f"It needs (batch, 3, height, width) with height and width multiples of {stride} pixels.",
            fix=f"Resize or pad the images to a multiple of {stride} and repeat a grey channel three times.",
        )


def _pair(features_BChw: Tensor, *, prompts: Prompts) -> Tensor:
    """Return features with one row a prompt: as they are, or one image's features expanded to all prompts."""
    if len(features_BChw) == prompts.batch_size:
        return features_BChw
    if len(features_BChw) == 1:
        return features_BChw.expand(prompts.batch_size, -1, -1, -1)
    raise UserError(
        "prompt.batch",
        what=f"There are {prompts.batch_size} prompts for {len(features_BChw)} images.",
        why="Prompts are paired with images one to one, or all belong to a single image.",
        fix="Give one row of prompts an image, or decode the images one by one.",
    )

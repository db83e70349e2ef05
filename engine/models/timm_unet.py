"""U-Nets on encoders of timm: students of other capacities, for sites whose machines differ.

The encoder is timm's own module (``features_only``), never fetched: its weights are random, or a file's. The decoder is
MONAI's, as in its ``FlexibleUNet``: nearest upsampling, the encoder's features beside it, two convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from engine.models.segmenter import check_image_shape


@dataclass(frozen=True)
class TimmPreset:
    """timm's name of the encoder, the decoder's channels (one for each of its features), the native side in pixels."""

    encoder: str
    decoder_channels: tuple[int, ...]
    image_px: int
    first_stride: int = 2
    """Pixels per cell of the finest features."""
    feature_stride: int = 32
    """Pixels per cell of the deepest ones, which the image's sides must be multiples of."""


TIMM_PRESETS: dict[str, TimmPreset] = {
    "mobilenetv3": TimmPreset("mobilenetv3_small_050", (64, 32, 24, 16, 16), 128),
    "resnet10": TimmPreset("resnet10t", (128, 64, 32, 16, 16), 128),
    "resnet18": TimmPreset("resnet18", (256, 128, 64, 32, 16), 384),
    "resnet34": TimmPreset("resnet34", (256, 128, 64, 32, 16), 384),
    "pvt_v2": TimmPreset("pvt_v2_b0", (128, 64, 32, 16), 384, first_stride=4),
}
"""Decoders' widths are ours. HSSF has ResNet-18 and -34 at its sites, and a PVTv2 among those it offers [H]."""


class TimmUNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to logits (B, K, H / mask_stride, W / mask_stride).

    H and W are multiples of ``feature_stride``; logits are twice as fine as the encoder's finest features. It has the
    attributes of :class:`engine.models.segmenter.Segmenter` that a training loop reads.
    """

    def __init__(self, preset: TimmPreset, *, num_classes: int, image_px: int) -> None:
        import timm  # here, because importing it and MONAI takes seconds
        from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder

        super().__init__()
        self.image_px = image_px
        self.num_classes = num_classes
        self.feature_stride = preset.feature_stride
        self.mask_stride = preset.first_stride // 2
        self.encoder = timm.create_model(preset.encoder, pretrained=False, features_only=True)
        self.decoder = UNetDecoder(
            spatial_dims=2,
            encoder_channels=(3, *self.encoder.feature_info.channels()),
            decoder_channels=preset.decoder_channels,
            act="relu",
            norm="batch",
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=False,
        )
        self.head = SegmentationHead(
            spatial_dims=2, in_channels=preset.decoder_channels[-1], out_channels=num_classes, kernel_size=3
        )

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return logits; raises ``UserError`` ``model.image_size`` for a size the levels cannot halve."""
        check_image_shape(tuple(image_B3HW.shape), stride=self.feature_stride)
        features = self.encoder(image_B3HW)
        return self.head(self.decoder(features, skip_connect=len(features) - 1))

"""nnU-Net's network: a U-Net of plain convolutions with instance normalisation and deep supervision.

What follows nnU-Net (Isensee et al. 2021; defaults of its version 2, 2-D): two 3x3 convolutions a stage, each with
instance normalisation and leaky ReLU (0.01); strided convolutions down, transposed ones up; as many levels as halve the
side without going below 4 (``num_levels``); widths that double from level to level up to a limit; a loss at every
resolution but the coarsest, with weights 1, 1/2, 1/4 and so on, against masks at that resolution.

What does not: depth is planned for a size's native side, not for the images' median shape and a GPU's memory; nothing
is resampled to a common spacing (the side is ``data.image_px`` as for all systems); intensities stay in [0, 1], whose
scale the first normalisation takes out; optimiser, step size, loss per resolution and number of epochs are those of all
systems compared; no mean over five folds, and no mirrored copies at prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from engine.models.segmenter import check_image_shape

SMALLEST_SIDE = 4
"""No level is smaller than this, at the native side (nnU-Net's ``UNet_featuremap_min_edge_length``)."""


@dataclass(frozen=True)
class PlainUNetPreset:
    """Channels of the first level, the limit up to which they double, and the native side in pixels."""

    first_channels: int
    most_channels: int
    image_px: int

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of each level, the finest first."""
        levels = num_levels(self.image_px)
        return tuple(min(self.first_channels * 2**level, self.most_channels) for level in range(levels))

    @property
    def feature_stride(self) -> int:
        """Return pixels per cell of the deepest level, which the image's sides must be multiples of."""
        return 2 ** (num_levels(self.image_px) - 1)


PLAIN_UNET_PRESETS: dict[str, PlainUNetPreset] = {
    "mini": PlainUNetPreset(first_channels=8, most_channels=128, image_px=128),
    # Widths are not in the paper; these give 13.40 MiB, and its traffic is that of 13.45 MiB (2,690 MB, 100 rounds).
    "paper": PlainUNetPreset(first_channels=16, most_channels=112, image_px=1024),
    "planned": PlainUNetPreset(first_channels=32, most_channels=512, image_px=1024),
}
"""``planned`` has nnU-Net's own widths."""


def num_levels(side_px: int) -> int:
    """Return nnU-Net's number of resolutions for square images: halve while both halves keep ``SMALLEST_SIDE``."""
    levels = 1
    while side_px >= 2 * SMALLEST_SIDE:
        side_px //= 2
        levels += 1
    return levels


class PlainUNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to logits (B, K, H, W); H and W are multiples of ``feature_stride``.

    Built of MONAI's ``DynUNet``, whose blocks are run here one by one: its own forward stretches coarse logits to full
    size, and its state names each block twice.
    """

    def __init__(self, preset: PlainUNetPreset, *, num_classes: int, image_px: int) -> None:
        from monai.networks.nets import DynUNet  # here, because importing MONAI takes seconds

        super().__init__()
        self.image_px = image_px
        self.num_classes = num_classes
        self.feature_stride = preset.feature_stride
        self.mask_stride = 1
        levels = len(preset.channels)
        self.net = DynUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=num_classes,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=preset.channels,
            deep_supervision=True,
            deep_supr_num=levels - 3,  # nnU-Net's coarsest logits have weight 0: here there are none
        )
        del self.net.skip_layers

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return logits (B, K, H, W); raises ``UserError`` ``model.image_size`` for a size the levels cannot halve."""
        return self.net.output_block(self._decode(image_B3HW)[0])

    def forward_levels(self, image_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, K, H / 2^i, W / 2^i) for i = 0, 1, ..., those of :meth:`forward` first."""
        decoded = self._decode(image_B3HW)
        heads = [self.net.output_block, *self.net.deep_supervision_heads]
        return tuple(head(features) for head, features in zip(heads, decoded, strict=False))

    def _decode(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the decoder's features at each level, the finest first."""
        check_image_shape(tuple(image_B3HW.shape), stride=self.feature_stride)
        encoded = [self.net.input_block(image_B3HW)]
        for down in self.net.downsamples:
            encoded.append(down(encoded[-1]))
        features, decoded = self.net.bottleneck(encoded[-1]), []
        for up, skipped in zip(self.net.upsamples, reversed(encoded), strict=True):
            features = up(features, skipped)
            decoded.append(features)
        return decoded[::-1]

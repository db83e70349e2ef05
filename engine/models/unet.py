"""U-Net: MONAI's residual U-Net, the conventional model that federated segmentation is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from engine.models.segmenter import check_image_shape


@dataclass(frozen=True)
class UNetPreset:
    """Channels of each level (the stride is two between levels) and the native side in pixels."""

    channels: tuple[int, ...]
    num_res_units: int
    image_px: int

    @property
    def feature_stride(self) -> int:
        """Return pixels per cell of the deepest level, which the image's sides must be multiples of."""
        return 2 ** (len(self.channels) - 1)


UNET_PRESETS: dict[str, UNetPreset] = {
    "mini": UNetPreset(channels=(16, 32, 64, 128, 256), num_res_units=2, image_px=128),
    "paper": UNetPreset(channels=(22, 44, 88, 176, 352), num_res_units=2, image_px=1024),
}


class UNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to logits (B, K, H, W); H and W are multiples of ``feature_stride``.

    It has the attributes of :class:`engine.models.segmenter.Segmenter` that a training loop reads, with a
    ``mask_stride`` of one: logits are at the image's own resolution.
    """

    def __init__(self, preset: UNetPreset, *, num_classes: int, image_px: int) -> None:
        from monai.networks.nets import UNet as MonaiUNet  # here, because importing MONAI takes seconds

        super().__init__()
        self.image_px = image_px
        self.num_classes = num_classes
        self.feature_stride = preset.feature_stride
        self.mask_stride = 1
        self.net = MonaiUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=num_classes,
            channels=preset.channels,
            strides=(2,) * (len(preset.channels) - 1),
            num_res_units=preset.num_res_units,
        )

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return logits (B, K, H, W); raises ``UserError`` ``model.image_size`` for a size the levels cannot halve."""
        check_image_shape(tuple(image_B3HW.shape), stride=self.feature_stride)
        return self.net(image_B3HW)

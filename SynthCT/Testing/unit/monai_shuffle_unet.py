"""The ShuffleUNet put together from MONAI's own blocks: an independent reference for tests."""

from __future__ import annotations

from monai.networks.blocks import Convolution, ResidualUnit, SubpixelUpsample
from monai.networks.nets import UNet
from torch import nn


class MonaiShuffleUNet(UNet):
    """MONAI's U-Net whose upsampling is a pixel shuffle and a (transposed) convolution."""

    def _get_up_layer(
        self, in_channels: int, out_channels: int, strides: int, is_top: bool
    ) -> nn.Module:
        convolution: nn.Module = Convolution(
            3, out_channels, out_channels, conv_only=is_top and self.num_res_units == 0,
            is_transposed=True,
        )  # fmt: skip
        if self.num_res_units:
            unit = ResidualUnit(3, out_channels, out_channels, subunits=1, last_conv_only=is_top)
            convolution = nn.Sequential(convolution, unit)
        level = nn.Sequential()
        level.add_module("shuffle", SubpixelUpsample(3, in_channels, out_channels, strides))
        level.add_module("conv", convolution)
        return level


def monai_shuffle_unet(channels: tuple[int, ...], residual_units: int = 0) -> MonaiShuffleUNet:
    return MonaiShuffleUNet(
        3, 1, 1, channels, (2,) * (len(channels) - 1), num_res_units=residual_units
    )

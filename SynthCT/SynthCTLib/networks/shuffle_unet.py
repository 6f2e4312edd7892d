"""ShuffleUNet: the residual U-Net with sub-pixel upsampling of Paper 1, section 3.2 and Figure 1.

Five levels with 32 to 512 channels; every convolution (kernel 3) is followed by instance
normalisation and a PReLU. The encoder halves the resolution by convolutions of stride 2 with a
residual connection. The decoder upsamples by a 3D pixel shuffle (Shi et al., CVPR 2016, arXiv
1609.05158; mean of neighbours after it against the checkerboard: Aitken et al., arXiv 1707.02937)
and concatenates the output of the encoder. The figure's drawing of a residual unit is not
spelled out in the text: two convolutions in the encoder and one in the decoder are those of
MONAI's U-Net, which the paper was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import nn

KERNEL = 3
UPSCALE = 2


@dataclass(frozen=True)
class Settings:
    """Size of the network. The defaults are Paper 1's.

    ``channels``: of each level, the last at the bottom; each level but the last halves the
    resolution, so that sides of a patch are multiples of 2^(levels - 1). ``residual_units``:
    convolutions in the residual unit of the encoder; 0 is the network without residual
    connections. ``smoothed``: mean of 2x2x2 voxels after each pixel shuffle.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: Annotated[int, Field(ge=1)] = 1
    out_channels: Annotated[int, Field(ge=1)] = 1
    channels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)] = (
        32,
        64,
        128,
        256,
        512,
    )
    residual_units: Annotated[int, Field(ge=0)] = 2
    smoothed: bool = True


class ConvUnit(nn.Sequential):
    """Convolution, instance normalisation, PReLU with one slope."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inside, outside, KERNEL, stride, padding=1)
        self.norm = nn.InstanceNorm3d(outside)
        self.act = nn.PReLU()


class ResidualUnit(nn.Module):
    """Convolution units with a shortcut around them, a convolution where the shape changes.

    ``bare_end``: the last unit is a convolution alone, so that the sum can take any value.
    """

    def __init__(
        self, inside: int, outside: int, stride: int, units: int, *, bare_end: bool = False
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for index in range(units):
            first, last = index == 0, index == units - 1
            wide, step = (inside, stride) if first else (outside, 1)
            if last and bare_end:
                steps.append(nn.Conv3d(wide, outside, KERNEL, step, padding=1))
            else:
                steps.append(ConvUnit(wide, outside, step))
        self.steps = nn.Sequential(*steps)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Conv3d(inside, outside, KERNEL, stride, padding=1)
        elif inside != outside:
            self.shortcut = nn.Conv3d(inside, outside, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of both ways."""
        return self.steps(x) + self.shortcut(x)


def pixel_shuffle(x: torch.Tensor) -> torch.Tensor:
    """(N, 8 C, D, H, W) to (N, C, 2 D, 2 H, 2 W): eight channels become one voxel's octants.

    Octants in the order of (z, y, x), x fastest.
    """
    n, c, d, h, w = x.shape
    octants = x.reshape(n, c // UPSCALE**3, UPSCALE, UPSCALE, UPSCALE, d, h, w)
    woven = octants.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return woven.reshape(n, c // UPSCALE**3, UPSCALE * d, UPSCALE * h, UPSCALE * w)


class ShuffleUp(nn.Module):
    """Upsampling by two: a convolution to eight times the channels, then the pixel shuffle."""

    def __init__(self, inside: int, outside: int, smoothed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inside, outside * UPSCALE**3, KERNEL, padding=1)
        # Initially all octants of a voxel are alike (ICNR, Aitken et al.): no checkerboard.
        octant = nn.init.kaiming_normal_(torch.empty(outside, inside, KERNEL, KERNEL, KERNEL))
        with torch.no_grad():
            self.conv.weight.copy_(octant.repeat_interleave(UPSCALE**3, dim=0))
        self.smooth: nn.Module = nn.Identity()
        if smoothed:
            self.smooth = nn.Sequential(
                nn.ConstantPad3d((UPSCALE - 1, 0) * 3, 0.0), nn.AvgPool3d(UPSCALE, stride=1)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inside, D, H, W) to (N, outside, 2 D, 2 H, 2 W)."""
        return self.smooth(pixel_shuffle(self.conv(x)))


class DecoderLevel(nn.Module):
    """Upsampling and the convolution after it; at the top the output has no activation."""

    def __init__(self, inside: int, outside: int, settings: Settings, *, top: bool) -> None:
        super().__init__()
        residual = settings.residual_units > 0
        self.shuffle = ShuffleUp(inside, outside, settings.smoothed)
        bare = top and not residual
        self.conv: nn.Module = (
            nn.Conv3d(outside, outside, KERNEL, padding=1) if bare else ConvUnit(outside, outside)
        )
        self.residual: nn.Module = (
            ResidualUnit(outside, outside, 1, 1, bare_end=top) if residual else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inside, D, H, W) to (N, outside, 2 D, 2 H, 2 W)."""
        return self.residual(self.conv(self.shuffle(x)))


class ShuffleUNet(nn.Module):
    """(N, in_channels, D, H, W) to (N, out_channels, D, H, W).

    Sides are multiples of ``2 ** (levels - 1)``, and twice that at least: instance normalisation
    needs more than one voxel at the bottom.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        channels, units = settings.channels, settings.residual_units

        def encoder(inside: int, outside: int, stride: int) -> nn.Module:
            if units:
                return ResidualUnit(inside, outside, stride, units)
            return ConvUnit(inside, outside, stride)

        *upper, deepest = channels
        inputs = [settings.in_channels, *upper[:-1]]
        self.down = nn.ModuleList(
            encoder(inside, outside, 2) for inside, outside in zip(inputs, upper, strict=True)
        )
        self.bottom = encoder(upper[-1], deepest, 1)
        # A level takes what the encoder made there and what comes from below it.
        below = [*upper[:-1], deepest]
        outputs = [settings.out_channels, *upper[:-1]]
        self.up = nn.ModuleList(
            DecoderLevel(own + under, out, settings, top=index == 0)
            for index, (own, under, out) in enumerate(zip(upper, below, outputs, strict=True))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Decode what was encoded."""
        kept = []
        for level in self.down:
            x = level(x)
            kept.append(x)
        x = self.bottom(x)
        for level, own in zip(reversed(self.up), reversed(kept), strict=True):
            x = level(torch.cat((own, x), dim=1))
        return x


def build(settings: Settings) -> ShuffleUNet:
    """The network with fresh weights."""
    return ShuffleUNet(settings)

"""DeepUNet: the U-Net of Paper 2, section 2.2, in two or three dimensions.

A U-Net (Ronneberger et al., MICCAI 2015) with three poolings in place of four and three
convolutions in place of two before each pooling and each upsampling. The paper counts 23 layers and
draws no figure of them. Counted as the original's 23 are (convolutions of 3 x 3, up-convolutions,
the last of 1 x 1), this reading of the text gives that number: three convolutions at each of the
three levels of the encoder, at the bottom, and at the two lower levels of the decoder (18), three
up-convolutions, and at the top, after the last of them, one convolution and the output.

In two dimensions a volume is answered slice by slice: the depth is folded into the batch, so that a
slice's answer depends on nothing but the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

KERNEL = 3
CONVOLUTIONS = 3
LEVELS = 4


@dataclass(frozen=True)
class Settings:
    """Size of the network.

    ``channels``: of the three levels and the bottom; the defaults are the original U-Net's, Paper 2
    states none. ``dimensions``: 2 for slices, 3 for volumes. ``normalised``: batch normalisation
    after each convolution of 3 x 3, which Paper 2 does not mention; the small presets have it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: Annotated[int, Field(ge=1)] = 1
    out_channels: Annotated[int, Field(ge=1)] = 1
    channels: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=LEVELS, max_length=LEVELS)
    ] = (64, 128, 256, 512)
    dimensions: Literal[2, 3] = 2
    normalised: bool = False


class _Kinds:
    """The layers of a dimension."""

    def __init__(self, settings: Settings) -> None:
        flat = settings.dimensions == 2
        self.conv: type[nn.Module] = nn.Conv2d if flat else nn.Conv3d
        self.up: type[nn.Module] = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        self.pool: type[nn.Module] = nn.MaxPool2d if flat else nn.MaxPool3d
        self.norm: type[nn.Module] = nn.BatchNorm2d if flat else nn.BatchNorm3d
        self.normalised = settings.normalised

    def convolutions(self, inside: int, outside: int, count: int) -> nn.Sequential:
        """Convolutions of 3 x 3 (x 3) with ReLU; size is kept."""
        steps: list[nn.Module] = []
        for index in range(count):
            wide = inside if index == 0 else outside
            steps.append(self.conv(wide, outside, KERNEL, padding=1, bias=not self.normalised))
            if self.normalised:
                steps.append(self.norm(outside))
            steps.append(nn.ReLU(inplace=True))
        return nn.Sequential(*steps)


class DeepUNet(nn.Module):
    """(N, in_channels, D, H, W) to (N, out_channels, D, H, W).

    Sides are multiples of 8; in two dimensions D is any.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.flat = settings.dimensions == 2
        kinds = _Kinds(settings)
        *upper, deepest = settings.channels
        inputs = [settings.in_channels, *upper[:-1]]
        self.down = nn.ModuleList(
            kinds.convolutions(inside, outside, CONVOLUTIONS)
            for inside, outside in zip(inputs, upper, strict=True)
        )
        self.pool = kinds.pool(2)
        self.bottom = kinds.convolutions(upper[-1], deepest, CONVOLUTIONS)
        self.rise = nn.ModuleList(
            kinds.up(under, own, 2, stride=2)
            for own, under in zip(upper, [*upper[1:], deepest], strict=True)
        )
        self.up = nn.ModuleList(
            kinds.convolutions(2 * own, own, 1 if level == 0 else CONVOLUTIONS)
            for level, own in enumerate(upper)
        )
        self.exit = kinds.conv(upper[0], settings.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Decode what was encoded."""
        if not self.flat:
            return self._answer(x)
        n, c, d, h, w = x.shape
        slices = x.permute(0, 2, 1, 3, 4).reshape(n * d, c, h, w)
        made = self._answer(slices)
        return made.reshape(n, d, -1, h, w).permute(0, 2, 1, 3, 4)

    def _answer(self, x: Tensor) -> Tensor:
        kept = []
        for level in self.down:
            x = level(x)
            kept.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for rise, level, own in zip(
            reversed(self.rise), reversed(self.up), reversed(kept), strict=True
        ):
            x = level(torch.cat((own, rise(x)), dim=1))
        answer: Tensor = self.exit(x)
        return answer


def build(settings: Settings) -> DeepUNet:
    """The network with fresh weights."""
    return DeepUNet(settings)

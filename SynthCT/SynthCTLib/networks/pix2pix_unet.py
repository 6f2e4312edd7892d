"""The generator of pix2pix: a 2D U-Net whose bottleneck sees the whole image.

Isola et al., CVPR 2017 (arXiv 1611.07004), appendix 6.1; Paper 3, section 2.3; Paper 5, section
2.3. With Ck a convolution of k filters, normalisation and ReLU, and CDk the same with a dropout of
50 %, all of 4x4 filters and stride 2:

    encoder   C64 - C128 - C256 - C512 - C512 - C512 - C512 - C512      (leaky ReLU, slope 0.2)
    decoder   CD512 - CD512 - CD512 - C512 - C512 - C256 - C128 - C64

Level i of the decoder sees the encoder's features of its resolution beside its own (skip
connections). After the last level a convolution gives the image. Its kernel, which no paper states,
is 1. As in Isola's program, the first and the innermost convolution are not normalised: a single
voxel has no variance. Dropout is the network's source of chance in training; an answer is given
without it, so that the same image gives the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from SynthCTLib.networks._slices import SliceNetwork

KERNEL, STRIDE, PADDING = 4, 2, 1
SLOPE = 0.2
WEIGHT_SD = 0.02  # Isola et al., section 6.2: Gaussian with mean 0, batch normalisation about 1

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Settings:
    """Size of the network; the defaults are Paper 3's.

    ``channels``: of each level of the encoder; each halves the resolution, so that sides of an
    image are multiples of 2^levels (256 for eight). ``dropouts``: how many levels of the decoder,
    from the innermost, have dropout. ``bounded``: the answer is kept between -1 and 1 (tanh).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: Count = 1
    out_channels: Count = 1
    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (
        64,
        128,
        256,
        512,
        512,
        512,
        512,
        512,
    )
    dropouts: Annotated[int, Field(ge=0)] = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    normalisation: Literal["batch", "instance"] = "batch"
    bounded: bool = True


class Pix2PixUNet(SliceNetwork):
    """Slices to slices, see :class:`SliceNetwork`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths = settings.channels
        depth = len(widths)
        self.side_multiple = 2**depth
        self.bounded = settings.bounded
        norm = nn.BatchNorm2d if settings.normalisation == "batch" else nn.InstanceNorm2d
        down, up = [], []
        inside = settings.in_channels
        for level, width in enumerate(widths):
            steps: list[nn.Module] = [nn.LeakyReLU(SLOPE)] if level else []
            steps.append(nn.Conv2d(inside, width, KERNEL, STRIDE, PADDING))
            if 0 < level < depth - 1:
                steps.append(norm(width))
            down.append(nn.Sequential(*steps))
            inside = width
        for level in reversed(range(depth)):
            # The innermost level has only the bottleneck; the others see the skip as well.
            wide = widths[level] * (1 if level == depth - 1 else 2)
            narrow = widths[level - 1] if level else widths[0]
            steps = [
                nn.ReLU(),
                nn.ConvTranspose2d(wide, narrow, KERNEL, STRIDE, PADDING),
                norm(narrow),
            ]
            if depth - 1 - level < settings.dropouts:
                steps.append(nn.Dropout(settings.dropout))
            up.append(nn.Sequential(*steps))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(widths[0], settings.out_channels, 1))
        self.apply(_begin)

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """The images (N, channels, H, W) that the network makes of images."""
        seen = []
        for step in self.down:
            x = step(x)
            seen.append(x)
        x = self.up[0](seen.pop())
        for step in self.up[1:]:
            x = step(torch.cat([x, seen.pop()], dim=1))
        x = self.last(x)
        return torch.tanh(x) if self.bounded else x


def _begin(module: nn.Module) -> None:
    """Initial weights of Isola et al."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, WEIGHT_SD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, WEIGHT_SD)
        nn.init.zeros_(module.bias)


def build(settings: Settings) -> Pix2PixUNet:
    """The network's entry."""
    return Pix2PixUNet(settings)

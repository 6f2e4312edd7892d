"""PatchGAN: a discriminator that judges patches (Isola et al., CVPR 2017, section 3.3).

Convolutions of 4 x 4 with stride 2, each with twice the channels of the one before, then two of
stride 1, the last to one channel: each number of the answer judges the part of the image it sees,
70 x 70 pixels with the defaults. No activation at the end: least-squares losses (Mao et al., ICCV
2017; Paper 2, equations 3 and 4) want a number, cross-entropy a logit. Paper 2 does not describe
its discriminator; this is the one of the adversarial U-Nets it builds on.

In two dimensions a volume is judged slice by slice: the depth is folded into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from torch import Tensor, nn

KERNEL = 4
SLOPE = 0.2


@dataclass(frozen=True)
class Settings:
    """Size of the discriminator.

    ``in_channels``: of the image judged, and of the image it is conditioned on where it sees both.
    ``channels``: of the convolutions but the last; all but the last of them halve the resolution.
    ``dimensions``: 2 for slices, 3 for volumes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: Annotated[int, Field(ge=1)] = 1
    channels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (
        64,
        128,
        256,
        512,
    )
    dimensions: Literal[2, 3] = 2

    @property
    def receptive_field(self) -> int:
        """Side of the part of the image that one number of the answer sees, in pixels."""
        side = 1
        for stride in (1, 1, *(2 for _ in self.channels[1:])):
            side = (side - 1) * stride + KERNEL
        return side


class PatchGAN(nn.Module):
    """(N, in_channels, D, H, W) to judgements (M, 1, ...), M = N D in two dimensions.

    The sides judged are 2 ** (len(channels) - 1) pixels and a few at least, so that something is
    left of them.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.flat = settings.dimensions == 2
        conv = nn.Conv2d if self.flat else nn.Conv3d
        norm = nn.InstanceNorm2d if self.flat else nn.InstanceNorm3d
        *halving, last = settings.channels
        steps: list[nn.Module] = []
        inside = settings.in_channels
        for index, outside in enumerate(halving):
            steps.append(conv(inside, outside, KERNEL, stride=2, padding=1))
            if index:  # none on the first, as Isola et al. have it
                steps.append(norm(outside, affine=True))
            steps.append(nn.LeakyReLU(SLOPE, inplace=True))
            inside = outside
        steps.append(conv(inside, last, KERNEL, padding=1))
        steps.append(norm(last, affine=True))
        steps.append(nn.LeakyReLU(SLOPE, inplace=True))
        steps.append(conv(last, 1, KERNEL, padding=1))
        self.steps = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """One number for each part of the image."""
        if self.flat:
            n, c, d, h, w = x.shape
            x = x.permute(0, 2, 1, 3, 4).reshape(n * d, c, h, w)
        judged: Tensor = self.steps(x)
        return judged


def build(settings: Settings) -> PatchGAN:
    """The discriminator with fresh weights."""
    return PatchGAN(settings)

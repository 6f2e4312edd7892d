"""A U-Net with two views of one volume: fine patches at full resolution, the whole at a quarter.

The wide view is a U-Net over the whole volume pooled to a quarter of its resolution; its features
are what a patch cannot know (where in the head it lies). The fine view works on patches: a pixel
unshuffle at the door brings a patch to half resolution with eight times the channels, a U-Net joins
the wide view's features one level down, and a pixel shuffle at the exit brings it back. The shuffle
is that of Shi et al., CVPR 2016, as Paper 1 uses it for its upsampling; skips are added, not
concatenated, which costs half. Batch normalisation in the fine view makes the answer at a voxel
independent of the patch it was computed in; the wide view always sees the whole volume and is
normalised over it.

Sizes: the volume's axes are multiples of 16 voxels, a patch's of 8, and a patch begins at multiples
of 8 voxels of the volume. One axis of the volume is longer than 32 voxels: the wide view is
normalised over at least two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT_POOLING = 4


@dataclass(frozen=True)
class Settings:
    """Channels of the two views.

    ``in_channels``: normalised image and mask of the scanned field. ``out_channels``: the answer,
    and a second where the network also states its error. ``fine``: channels at half, quarter and
    eighth resolution; ``wide``: at a quarter, eighth, sixteenth and thirty-second.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    in_channels: int = 2
    out_channels: int = 1
    fine: tuple[int, int, int] = (32, 64, 128)
    wide: tuple[int, int, int, int] = (24, 48, 96, 128)


class _Residual(nn.Module):
    """Two convolutions of 3 x 3 x 3 around which the input is added."""

    def __init__(self, channels: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x + self.body(x), 0.1)


def _entry(inside: int, outside: int, norm: type[nn.Module], stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inside, outside, 3, stride=stride, padding=1, bias=False),
        norm(outside),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Rise(nn.Module):
    """To twice the resolution: a 1 x 1 x 1 convolution, then nearest neighbour, added to the skip.

    Interpolation after the convolution touches an eighth of the voxels; what follows smooths it.
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(inside, outside, 1)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return skip + functional.interpolate(self.mix(below), skip.shape[2:], mode="nearest")


class _InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation with its own scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)


class _WideView(nn.Module):
    """Whole volume, pooled: (n, 3 channels in + 1, z/4, y/4, x/4) to features of the same size."""

    def __init__(self, inside: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = channels
        norm = _InstanceNorm
        self.down_a = nn.Sequential(_entry(inside, a, norm), _Residual(a, norm))
        self.down_b = nn.Sequential(_entry(a, b, norm, 2), _Residual(b, norm))
        self.down_c = nn.Sequential(_entry(b, c, norm, 2), _Residual(c, norm))
        self.down_d = nn.Sequential(_entry(c, d, norm, 2), _Residual(d, norm))
        self.rise_c, self.up_c = _Rise(d, c), _Residual(c, norm)
        self.rise_b, self.up_b = _Rise(c, b), _Residual(b, norm)
        self.rise_a, self.up_a = _Rise(b, a), _Residual(a, norm)
        self.sketch = nn.Conv3d(a, 1, 1)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        a = self.down_a(pooled)
        b = self.down_b(a)
        c = self.down_c(b)
        c = self.up_c(self.rise_c(self.down_d(c), c))
        b = self.up_b(self.rise_b(c, b))
        a = self.up_a(self.rise_a(b, a))
        return a, self.sketch(a)


class _FineView(nn.Module):
    """Patch (n, channels, z, y, x) and the wide view's features there (n, wide, z/4, y/4, x/4)."""

    def __init__(self, inside: int, channels: tuple[int, int, int], wide: int, outside: int):
        super().__init__()
        a, b, c = channels
        norm = nn.BatchNorm3d
        self.door = nn.Sequential(_entry(8 * inside, a, norm), _Residual(a, norm))
        self.down_b = _entry(a, b, norm, 2)
        self.join = nn.Conv3d(wide, b, 1)
        self.at_b = _Residual(b, norm)
        self.down_c = nn.Sequential(_entry(b, c, norm, 2), _Residual(c, norm), _Residual(c, norm))
        self.rise_b, self.up_b = _Rise(c, b), _Residual(b, norm)
        self.rise_a = _Rise(b, a)
        self.up_a = nn.Sequential(_Residual(a, norm), _entry(a, a, norm))
        self.exit = nn.Conv3d(a, 8 * outside, 3, padding=1)

    def forward(self, patch: Tensor, features: Tensor) -> Tensor:
        a = self.door(pixel_unshuffle(patch))
        b = self.at_b(self.down_b(a) + self.join(features))
        b = self.up_b(self.rise_b(self.down_c(b), b))
        return pixel_shuffle(self.exit(self.up_a(self.rise_a(b, a))))


class TwoViewUNet(nn.Module):
    """See the module. ``forward`` is both views of one volume, for training and small volumes."""

    context_pooling = CONTEXT_POOLING

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        wide = settings.wide
        self.wide_view = _WideView(settings.in_channels + 2, wide)
        self.fine_view = _FineView(
            settings.in_channels, settings.fine, wide[0], settings.out_channels
        )

    def pool(self, volume: Tensor) -> Tensor:
        """What the wide view looks at, see :func:`pooled`."""
        return pooled(volume)

    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Features and sketch (the output at a quarter of the resolution) of a pooled volume."""
        features, sketch = self.wide_view(seen)
        return features, sketch

    def context(self, volume: Tensor) -> Tensor:
        """Features of the whole volume (n, channels, z, y, x), at a quarter of its resolution."""
        return self.look(self.pool(volume))[0]

    def fine(self, patch: Tensor, features: Tensor) -> Tensor:
        """The answer in a patch, from its voxels and the features of the same place."""
        answer: Tensor = self.fine_view(patch, features)
        return answer

    def forward(self, volume: Tensor) -> Tensor:
        """The answer for a whole volume (n, channels, z, y, x) at once."""
        return self.fine(volume, self.context(volume))


def pooled(volume: Tensor) -> Tensor:
    """(n, channels, z, y, x) at a quarter: mean of all channels, least and largest of the first.

    Thin bone is lost in a mean over 4 mm, not in the extremes; those are of means over 2 mm,
    which noise hardly moves.
    """
    halved = functional.avg_pool3d(volume, 2)
    first = halved[:, :1]
    largest = functional.max_pool3d(first, 2)
    least = -functional.max_pool3d(-first, 2)
    return torch.cat([functional.avg_pool3d(halved, 2), least, largest], dim=1)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """(n, c, 2z, 2y, 2x) to (n, 8c, z, y, x): each cube of eight voxels becomes eight channels."""
    n, c, z, y, x_size = x.shape
    x = x.reshape(n, c, z // 2, 2, y // 2, 2, x_size // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, 8 * c, z // 2, y // 2, x_size // 2)


def pixel_shuffle(x: Tensor) -> Tensor:
    """The inverse of ``pixel_unshuffle``."""
    n, c8, z, y, x_size = x.shape
    x = x.reshape(n, c8 // 8, 2, 2, 2, z, y, x_size)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c8 // 8, 2 * z, 2 * y, 2 * x_size)


def build(settings: Settings) -> TwoViewUNet:
    """The network with random weights."""
    return TwoViewUNet(settings)

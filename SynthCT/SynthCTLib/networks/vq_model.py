"""A vector-quantised autoencoder in the layout of the public LDM-f4 (Paper 4).

Rombach et al., CVPR 2022 (arXiv 2112.10752), first stage ``vq-f4``: residual blocks with group
normalisation of 32 groups and SiLU, two halvings of the resolution, attention at the bottom, a
codebook of 8192 vectors of 3 numbers. Modules carry the names of that program's checkpoint
(``encoder.down.0.block.0.conv1`` and so on), so that its state dict is loaded as it is, without
its discriminator (``loss.*``). With other images at both ends it is an image-to-image network.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import ConfigDict, Field
from torch import nn
from torch.nn import functional

from SynthCTLib.errors import MissingModel
from SynthCTLib.networks._slices import SliceNetwork

EPSILON = 1e-6
CODE_VECTORS_AT_ONCE = 4096  # distances of so many to 8192 codes take 128 MiB
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Settings:
    """Size of the network; the defaults are those of LDM-f4.

    ``channels``: of each resolution, each but the last followed by a halving. ``in_channels`` and
    ``out_channels``: of the images; where an image has one, it is repeated to the three of the
    checkpoint, and the mean of the three is the answer. ``groups`` of the normalisation.
    ``commitment``: weight of the codebook's own loss, 0 for none (Paper 4 states L1 alone, by
    which the codebook stays as it is).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: Count = 1
    out_channels: Count = 1
    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (128, 256, 512)
    residual_blocks: Count = 2
    codes: Annotated[int, Field(ge=2)] = 8192
    code_size: Count = 3
    groups: Count = 32
    commitment: Annotated[float, Field(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"the channels {self.channels} are not multiples of {self.groups}")


IMAGE_CHANNELS = 3  # of LDM-f4


class ResidualBlock(nn.Module):
    """Twice normalisation, SiLU and convolution; a 1x1 convolution where the width changes."""

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inside, EPSILON)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outside, EPSILON)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        if inside != outside:
            self.nin_shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of both ways."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Every place looks at every other: one head over all channels, with a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, EPSILON)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The image with what its places say of each other."""
        n, c, height, width = x.shape
        normal = self.norm(x)
        q, k, v = (
            f(normal).reshape(n, 1, c, height * width).transpose(2, 3)
            for f in (self.q, self.k, self.v)
        )
        seen = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(seen.transpose(2, 3).reshape(n, c, height, width))


class Middle(nn.Module):
    """The bottom of encoder and decoder."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = Attention(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through all three."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Halving(nn.Module):
    """Convolution of stride 2; the image is padded by one voxel below and on the right alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Half the resolution."""
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Doubling(nn.Module):
    """Every voxel becomes four, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the resolution."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, and the way to the next."""

    def __init__(self, widths: list[int], groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(a, b, groups) for a, b in itertools.pairwise(widths)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through all blocks, and the change of resolution where there is one."""
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    """Image to features (N, code_size, H / f, W / f)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths, groups = settings.channels, settings.groups
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        inside = widths[0]
        for index, width in enumerate(widths):
            level = Level([inside, *[width] * settings.residual_blocks], groups)
            if index < len(widths) - 1:
                level.downsample = Halving(width)
            self.down.append(level)
            inside = width
        self.mid = Middle(inside, groups)
        self.norm_out = nn.GroupNorm(groups, inside, EPSILON)
        self.conv_out = nn.Conv2d(inside, settings.code_size, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The features, not yet quantised."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features to image. ``up`` counts from the finest resolution, as in the checkpoint."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths, groups = settings.channels, settings.groups
        inside = widths[-1]
        self.conv_in = nn.Conv2d(settings.code_size, inside, 3, padding=1)
        self.mid = Middle(inside, groups)
        levels = []
        for index, width in reversed(list(enumerate(widths))):
            level = Level([inside, *[width] * (settings.residual_blocks + 1)], groups)
            if index:
                level.upsample = Doubling(width)
            levels.append(level)
            inside = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = nn.GroupNorm(groups, inside, EPSILON)
        self.conv_out = nn.Conv2d(inside, IMAGE_CHANNELS, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """The image."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


class Quantised(NamedTuple):
    """The nearest vectors of the codebook (N, code_size, H, W) and their numbers (N, H, W)."""

    vectors: torch.Tensor
    codes: torch.Tensor


class Codebook(nn.Module):
    """Every vector becomes the nearest of the codebook (Euclidean); gradients pass as if not."""

    def __init__(self, codes: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, size)
        nn.init.uniform_(self.embedding.weight, -1.0 / codes, 1.0 / codes)

    def forward(self, z: torch.Tensor) -> Quantised:
        """Quantise features."""
        n, c, height, width = z.shape
        places = z.permute(0, 2, 3, 1).reshape(-1, c).float()
        book = self.embedding.weight.float()
        # |z - e|^2 without |z|^2, which is the same for every code.
        codes = torch.cat(
            [
                (book.square().sum(1) - 2 * part @ book.T).argmin(1)
                for part in places.detach().split(CODE_VECTORS_AT_ONCE)
            ]
        ).reshape(n, height, width)
        return Quantised(self.embedding(codes).permute(0, 3, 1, 2), codes)


class VqModel(SliceNetwork):
    """Slices to slices through a codebook, see :class:`SliceNetwork`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.side_multiple = 2 ** (len(settings.channels) - 1)
        self.encoder, self.decoder = Encoder(settings), Decoder(settings)
        self.quantize = Codebook(settings.codes, settings.code_size)
        self.quant_conv = nn.Conv2d(settings.code_size, settings.code_size, 1)
        self.post_quant_conv = nn.Conv2d(settings.code_size, settings.code_size, 1)
        self._term: torch.Tensor | None = None

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """The images (N, channels, H, W) that the network makes of images."""
        if x.shape[1] == 1:
            x = x.repeat(1, IMAGE_CHANNELS, 1, 1)
        z = self.quant_conv(self.encoder(x))
        near = self.quantize(z).vectors
        if self.training and self.settings.commitment:
            # van den Oord et al. 2017 (arXiv 1711.00937), eq. 3: the codes follow the features,
            # the features stay near their codes.
            follow = (near - z.detach()).square().mean()
            stay = (near.detach() - z).square().mean()
            self._term = follow + self.settings.commitment * stay
        straight = z + (near - z).detach()
        y = self.decoder(self.post_quant_conv(straight))
        return y.mean(1, keepdim=True) if self.settings.out_channels == 1 else y

    def own_terms(self) -> Mapping[str, torch.Tensor]:
        """The codebook's loss in the last pass, for a training."""
        return {} if self._term is None else {"codebook": self._term}

    def adopt(self, state: Mapping[str, torch.Tensor]) -> str:
        """Take the weights of an LDM-f4 checkpoint in its own layout, and say so.

        Its discriminator (``loss.``) and moving average (``model_ema.``) are left out. Raises
        MissingModel when the rest does not fit this network.
        """
        left_out = ("loss.", "model_ema.")
        kept = {name: value for name, value in state.items() if not name.startswith(left_out)}
        mine = self.state_dict()
        wrong = sorted(
            name
            for name in {*mine, *kept}
            if name not in mine or name not in kept or mine[name].shape != kept[name].shape
        )
        if wrong:
            raise MissingModel(
                f"The weights given to begin with are not those of an LDM-f4 of this size "
                f"({len(wrong)} tensors differ, the first is {wrong[0]}): give the checkpoint of "
                "vq-f4, or correct the network's settings."
            )
        self.load_state_dict(dict(kept))
        return f"The network begins from an LDM-f4 checkpoint of {len(kept)} tensors."


def build(settings: Settings) -> VqModel:
    """The network's entry."""
    return VqModel(settings)

"""FCN-4s on VGG-16: a fully convolutional network with skips from three pooling layers.

Paper 3, section 2.2 and figure 3. VGG-16 (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556)
without its classifier, the fully connected layers as convolutions of 7x7 and 1x1, then a 1x1
convolution that gives the image at 1/32 of the resolution. It is enlarged twofold and added to a
1x1 convolution of pool4, then of pool3, as in FCN-8s (Long et al., CVPR 2015, arXiv 1411.4038),
and likewise of pool2, which the paper adds; at last enlarged fourfold. Convolutions are padded so
that no border is lost, where Long et al. pad the image by 100 and crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import nn

from SynthCTLib.errors import MissingModel
from SynthCTLib.networks._slices import SliceNetwork

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG-16 (configuration D) before each pooling
FC6_KERNEL = 7
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Settings:
    """Size of the network; the defaults are VGG-16's.

    ``channels``: of the five blocks. ``hidden``: of the two layers that were fully connected.
    ``in_channels`` are repeated to the three that VGG sees where there is one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: Annotated[int, Field(ge=1, le=3)] = 1
    out_channels: Count = 1
    channels: tuple[Count, Count, Count, Count, Count] = (64, 128, 256, 512, 512)
    hidden: Count = 4096
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Fcn4s(SliceNetwork):
    """Slices to slices, see :class:`SliceNetwork`."""

    side_multiple = 32

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.repeats = 3 if settings.in_channels == 1 else 1
        inside = settings.in_channels * self.repeats
        blocks = []
        for width, count in zip(settings.channels, CONVOLUTIONS, strict=True):
            steps: list[nn.Module] = []
            for _ in range(count):
                steps += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
                inside = width
            blocks.append(nn.Sequential(*steps, nn.MaxPool2d(2)))
        self.blocks = nn.ModuleList(blocks)
        self.fc6 = nn.Conv2d(inside, settings.hidden, FC6_KERNEL, padding=FC6_KERNEL // 2)
        self.fc7 = nn.Conv2d(settings.hidden, settings.hidden, 1)
        self.dropout = nn.Dropout(settings.dropout)
        out = settings.out_channels
        self.score = nn.Conv2d(settings.hidden, out, 1)
        _, pool2, pool3, pool4, _ = settings.channels
        self.score_pools = nn.ModuleList(nn.Conv2d(c, out, 1) for c in (pool4, pool3, pool2))
        self.enlarge = nn.ModuleList(enlargement(out, factor) for factor in (2, 2, 2, 4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        # As in FCN: what is added to the coarse answer starts from nothing.
        for module in (self.score, *self.score_pools):
            nn.init.zeros_(module.weight)

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """The images (N, channels, H, W) that the network makes of images."""
        x = x.repeat(1, self.repeats, 1, 1)
        pools = []
        for block in self.blocks:
            x = block(x)
            pools.append(x)
        x = self.dropout(torch.relu(self.fc6(x)))
        x = self.dropout(torch.relu(self.fc7(x)))
        x = self.score(x)
        skips = zip(self.score_pools, (pools[3], pools[2], pools[1]), strict=True)
        for enlarge, (score, pool) in zip(self.enlarge[:3], skips, strict=True):
            x = enlarge(x) + score(pool)
        return self.enlarge[3](x)

    def adopt(self, state: Mapping[str, torch.Tensor]) -> str:
        """Take the weights of a VGG-16 in torchvision's layout, and say so.

        ``features.N`` are the convolutions, ``classifier.0`` and ``classifier.3`` the layers that
        become convolutions, where they fit; the scores stay as they are. Raises MissingModel when
        the convolutions are not those of a VGG-16 of this size.
        """
        convolutions = [m for block in self.blocks for m in block if isinstance(m, nn.Conv2d)]
        names = sorted(
            (k for k in state if k.startswith("features.") and k.endswith(".weight")),
            key=lambda k: int(k.split(".")[1]),
        )
        found = [state[name] for name in names]
        if [v.shape for v in found] != [m.weight.shape for m in convolutions]:
            raise MissingModel(
                "The weights given to begin with are not those of a VGG-16 in torchvision's "
                "layout, or the recipe's FCN has another size: give vgg16's state dict."
            )
        with torch.no_grad():
            for module, name in zip(convolutions, names, strict=True):
                module.weight.copy_(state[name])
                module.bias.copy_(state[name.removesuffix("weight") + "bias"])
            taken = self._adopt_classifier(state)
        return f"The FCN begins from VGG-16: {len(names)} convolutions{taken}."

    def _adopt_classifier(self, state: Mapping[str, torch.Tensor]) -> str:
        for layer, name in ((self.fc6, "classifier.0"), (self.fc7, "classifier.3")):
            weight = state.get(f"{name}.weight")
            if weight is None or weight.numel() != layer.weight.numel():
                return "; the layers behind them at random, as they are not in the file"
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(state[f"{name}.bias"])
        return " and two layers that were fully connected"


def enlargement(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution that begins as bilinear interpolation (Long et al., section 3.3)."""
    kernel = 2 * factor
    layer = nn.ConvTranspose2d(channels, channels, kernel, factor, factor // 2, bias=False)
    places = torch.arange(kernel)
    line = 1 - (places - (factor - 0.5)).abs() / factor
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, channel] = line[:, None] * line[None, :]
    return layer


def build(settings: Settings) -> Fcn4s:
    """The network's entry."""
    return Fcn4s(settings)

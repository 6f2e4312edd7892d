"""Varied pairs: the same small turn, size and mirroring of MR and CT, and another MR contrast.

Few patients are many with it. What is unknown stays unknown: where the weight is 0, and beyond the
field of view that turns with the body.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from SynthCTLib.volume import AIR_HU

NonNegative = Annotated[float, Field(ge=0)]
BIAS_KNOTS = 4
AXIS = {"z": -3, "y": -2, "x": -1}
KNOWN = 0.99  # a voxel interpolated from any that is not known is not


@dataclass(frozen=True)
class PairVariation:
    """How much pairs are varied; nothing by default.

    ``mirror``: axes along which half of them are mirrored. ``turn_degrees`` (about each axis) and
    ``size`` (a share) are the largest changes, drawn evenly. ``gamma``, ``bias`` and ``noise``
    change the MR alone, the standard deviations of the logarithm of its exponent and of a smooth
    field that multiplies it, and of noise (1 is the bright end of the robust scale).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    mirror: tuple[Literal["x", "y", "z"], ...] = ()
    turn_degrees: NonNegative = 0.0
    size: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: NonNegative = 0.0
    bias: NonNegative = 0.0
    noise: NonNegative = 0.0

    @property
    def changes_shape(self) -> bool:
        """Whether voxels are interpolated."""
        return self.turn_degrees > 0 or self.size > 0

    @property
    def changes_contrast(self) -> bool:
        """Whether the MR is given other intensities."""
        return self.gamma > 0 or self.bias > 0 or self.noise > 0


def varied(
    image: Tensor, hu: Tensor, weight: Tensor, by: PairVariation, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A pair (channels, z, y, x), (1, z, y, x) twice, varied; the inputs are not changed.

    All on the generator's device.
    Intensities change in the first channel of the image, where it is above 0: what is not scanned
    stays 0.
    """
    for axis in by.mirror:
        if float(torch.rand(1, generator=generator, device=generator.device)) < 0.5:
            image, hu, weight = (part.flip(AXIS[axis]) for part in (image, hu, weight))
    if by.changes_shape:
        image, hu, weight = _turned(image, hu, weight, by, generator)
    if by.changes_contrast:
        first = _other_contrast(image[0], by, generator)
        image = torch.cat((first[None], image[1:]))
    return image, hu, weight


def _turned(
    image: Tensor, hu: Tensor, weight: Tensor, by: PairVariation, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    draws = (2 * torch.rand(4, generator=generator, device=generator.device) - 1).tolist()
    matrix = torch.eye(3)
    for axis, draw in enumerate(draws[:3]):
        a, b = (n for n in range(3) if n != axis)
        angle = math.radians(by.turn_degrees) * draw
        turn = torch.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    matrix = matrix / (1 + by.size * draws[3])
    # affine_grid counts in half sides (x, y, z): a turn in voxels is one between unequal sides.
    half = torch.tensor([n / 2 for n in reversed(hu.shape[1:])])
    theta = torch.cat((matrix * half[None] / half[:, None], torch.zeros(3, 1)), dim=1)
    theta = theta.to(generator.device)
    parts = torch.cat((image, hu - AIR_HU, weight)).float()[None]
    grid = functional.affine_grid(theta[None], list(parts.shape), align_corners=False)
    made = functional.grid_sample(parts, grid, align_corners=False)[0]
    known = (made[-1:] > KNOWN).float()
    return made[:-2], made[-2:-1] + AIR_HU, known


def _other_contrast(channel: Tensor, by: PairVariation, generator: torch.Generator) -> Tensor:
    device = generator.device
    drawn = torch.randn(1, generator=generator, device=device)
    exponent = float((by.gamma * drawn).exp())
    knots = torch.randn((1, 1, *[BIAS_KNOTS] * 3), generator=generator, device=device)
    field = functional.interpolate(
        knots, list(channel.shape), mode="trilinear", align_corners=True
    )[0, 0]
    noise = torch.randn(channel.shape, generator=generator, device=device)
    made = channel.clamp(min=0) ** exponent * (by.bias * field).exp() + by.noise * noise
    return torch.where(channel > 0, made.clamp(min=0), channel)

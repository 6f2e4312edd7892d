"""Other heads from one: pose, size, shape, thickness of the skull, and lesions of it.

Works on label maps as tensors (z, y, x) in LPS order with cubic voxels of 1 mm, on any device. All
chance comes from the generator given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from SynthCTLib.phantom.fields import blur, smooth_field

AIR, CSF, SOFT_TISSUE, SKIN, CORTICAL, CANCELLOUS = 0, 24, 507, 511, 515, 516
_BRAIN_BELOW = 500  # labels from 1 to 500 are brain and fluid
_UNIT: tuple[float, float, float] = (1.0, 1.0, 1.0)

_BONE_FWHM_MM = 4.0
_THICKNESS_FWHM_MM = 45.0  # over which thickness varies


@dataclass(frozen=True)
class VariationOptions:
    """How far a varied head may depart from its anatomy.

    ``scale``: least and largest size, one factor for the head and one each axis within
    ``axis_scale`` of it; ``rotation_degrees`` and ``shift_mm`` are standard deviations of the pose;
    ``elastic_mm`` that of the displacement, smooth over ``elastic_fwhm_mm``. ``thin`` and ``thick``
    are the shares of heads whose skull is thinned or thickened, ``craniotomy`` of those with a
    hole in it.
    """

    scale: tuple[float, float] = (0.78, 1.08)
    axis_scale: float = 0.06
    rotation_degrees: float = 9.0
    shift_mm: float = 6.0
    elastic_mm: float = 2.5
    elastic_fwhm_mm: float = 60.0
    thin: float = 0.35
    thick: float = 0.15
    craniotomy: float = 0.04


STILL = VariationOptions((1.0, 1.0), 0.0, 0.0, 0.0, 0.0, thin=0.0, thick=0.0, craniotomy=0.0)
"""No departure at all, but for the mirroring."""


def vary(
    labels: Tensor,
    known: Tensor,
    shape: tuple[int, int, int],
    options: VariationOptions,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A varied head on a canvas of ``shape`` (z, y, x), and where it is known (bool).

    ``labels`` (int16) and ``known`` (bool) have the shape of the anatomy; half of the heads are
    mirrored (left becomes right). The head's block is centred on the canvas before the pose; what
    the anatomy does not reach is air and not known, but for the air above and around it.
    """
    coordinates = _coordinates(labels, shape, options, generator)
    stacked = torch.stack([labels.float(), known.float()])[None]
    moved = functional.grid_sample(
        stacked, coordinates[None], mode="nearest", padding_mode="zeros", align_corners=True
    )[0]
    # Above, beside, in front and behind the block there is air, known to be such where the block's
    # nearest voxel is known.
    nearest = functional.grid_sample(
        known.float()[None, None],
        coordinates[None],
        mode="nearest",
        padding_mode="border",
        align_corners=True,
    )[0, 0]
    varied = moved[0].to(torch.int16)
    varied = _with_skull(varied, options, generator)
    return varied, nearest > 0.5


def _coordinates(
    labels: Tensor,
    shape: tuple[int, int, int],
    options: VariationOptions,
    generator: torch.Generator,
) -> Tensor:
    """Where each voxel of the canvas looks in the anatomy, (z, y, x, 3) in -1..1, last axis x y z.

    A point of the canvas at ``q`` mm from its centre looks at ``A q + u(q)`` from the block's.
    """
    device = generator.device

    def normal(count: int) -> Tensor:
        return torch.randn(count, generator=generator, device=device)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator, device=device)

    low, high = options.scale
    size = low + (high - low) * uniform(1) ** 0.5  # more adults than small children
    scales = size * (1 + options.axis_scale * (2 * uniform(3) - 1))
    mirror = torch.where(uniform(1) < 0.5, -1.0, 1.0)
    angles = (normal(3) * options.rotation_degrees).clamp_(-25, 25) * (math.pi / 180)
    matrix = _rotation(angles) / scales[:, None]
    matrix[0] *= mirror
    shift = normal(3) * options.shift_mm
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    q = torch.stack([x, y, z], dim=-1).float() - shift
    looked = q @ matrix.T
    if options.elastic_mm:
        field = smooth_field((3, *shape), options.elastic_fwhm_mm, _UNIT, generator)
        looked += options.elastic_mm * field.permute(1, 2, 3, 0)
    half = torch.tensor([(n - 1) / 2 for n in reversed(labels.shape)], device=device)
    return looked / half


def _rotation(angles: Tensor) -> Tensor:
    """Rotation about x, then y, then z (radians), acting on (x, y, z)."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().tolist(), angles.sin().tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).to(angles.device, torch.float32)


def _with_skull(labels: Tensor, options: VariationOptions, generator: torch.Generator) -> Tensor:
    """The head with a thinner or thicker skull, or with a hole in it, as chance has it.

    The share of bone within a few millimetres is one half at a flat surface and grows inwards: all
    bone below a threshold is taken away, or all soft tissue above one added, which moves the
    surface by up to about a millimetre and a half.
    """
    draw = torch.rand(4, generator=generator, device=labels.device).tolist()
    thin = draw[0] < options.thin
    thick = not thin and draw[0] < options.thin + options.thick
    hole = draw[1] < options.craniotomy
    if not (thin or thick or hole):
        return labels
    bone = (labels == CORTICAL) | (labels == CANCELLOUS)
    share = blur(bone.float(), _BONE_FWHM_MM, _UNIT)
    fluid = (labels > 0) & (labels < _BRAIN_BELOW)
    inner = blur(fluid.float(), 2 * _BONE_FWHM_MM, _UNIT)
    soft = (labels == SOFT_TISSUE) | (labels == SKIN)
    outer = blur(soft.float(), 2 * _BONE_FWHM_MM, _UNIT)
    filling = torch.where(inner > outer, CSF, SOFT_TISSUE).to(labels.dtype)
    if thin or thick:
        field = smooth_field(labels.shape, _THICKNESS_FWHM_MM, _UNIT, generator)
        if thin:
            removed = bone & (share < 0.5 + 0.25 * draw[2] + 0.04 * field) & (inner + outer > 0.2)
            labels = torch.where(removed, filling, labels)
        else:
            room = (labels == CSF) | (labels == SOFT_TISSUE)
            added = room & (share > 0.5 - 0.3 * draw[2] + 0.04 * field) & (inner > 0.02)
            labels = torch.where(added, CORTICAL, labels)
    if hole:
        places = torch.nonzero(bone & (inner > 0.25))
        if len(places):
            centre = places[int(draw[3] * len(places))]
            axes = [torch.arange(n, device=labels.device) for n in labels.shape]
            squares = [(a - c).square() for a, c in zip(axes, centre, strict=True)]
            distance = squares[0][:, None, None] + squares[1][:, None] + squares[2]
            radius = 12 + 20 * draw[2]
            labels = torch.where(bone & (distance < radius**2), filling, labels)
    return labels

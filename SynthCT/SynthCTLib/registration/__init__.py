"""Rigid, affine and deformable registration, and how far its result can be trusted."""

from SynthCTLib.registration.deformable import register_deformable
from SynthCTLib.registration.linear import register_affine, register_rigid
from SynthCTLib.registration.options import (
    AffineOptions,
    DeformableOptions,
    Metric,
    RigidOptions,
)
from SynthCTLib.registration.quality import Kind, Quality, Registration, assess
from SynthCTLib.registration.transforms import read_transform, write_transform

__all__ = [
    "AffineOptions",
    "DeformableOptions",
    "Kind",
    "Metric",
    "Quality",
    "Registration",
    "RigidOptions",
    "assess",
    "read_transform",
    "register_affine",
    "register_deformable",
    "register_rigid",
    "write_transform",
]

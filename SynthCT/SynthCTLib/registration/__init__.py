"""Rigid, affine and deformable registration, and how far its result can be trusted."""

from SynthCTLib.registration.bending import Bending, examined_bending, follow_bending
from SynthCTLib.registration.deformable import register_deformable
from SynthCTLib.registration.fit import examined
from SynthCTLib.registration.linear import register_affine, register_rigid
from SynthCTLib.registration.options import (
    ROUGH_MM,
    ROUGH_SAMPLES,
    AffineOptions,
    DeformableOptions,
    Metric,
    RigidOptions,
)
from SynthCTLib.registration.quality import Fit, Kind, Quality, Registration, assess
from SynthCTLib.registration.transforms import read_transform, write_transform

__all__ = [
    "ROUGH_MM",
    "ROUGH_SAMPLES",
    "AffineOptions",
    "Bending",
    "DeformableOptions",
    "Fit",
    "Kind",
    "Metric",
    "Quality",
    "Registration",
    "RigidOptions",
    "assess",
    "examined",
    "examined_bending",
    "follow_bending",
    "read_transform",
    "register_affine",
    "register_deformable",
    "register_rigid",
    "write_transform",
]

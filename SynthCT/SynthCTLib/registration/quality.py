"""How far a registration can be trusted, and when it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.registration import pyramid
from SynthCTLib.registration.options import LEAST_QUALITY
from SynthCTLib.registration.similarity import Sampled, agreement, voxel_centres
from SynthCTLib.registration.transforms import LinearParts, jacobian_determinants, matrix_of
from SynthCTLib.volume import Volume

QUALITY_SPACING_MM = 4.0
QUALITY_POINTS = 20_000
MOST_ROTATION_DEGREES = 60.0
SCALE_RANGE = (0.7, 1.4)
LEAST_OVERLAP = 0.2


class Kind(StrEnum):
    """The family of a transform. ``GIVEN``: supplied by the user, only assessed."""

    RIGID = "rigid"
    AFFINE = "affine"
    DEFORMABLE = "deformable"
    GIVEN = "given"


@dataclass(frozen=True)
class Quality:
    """Facts about a transform between two images.

    ``mutual_information``: normalised mutual information 2 I / (H1 + H2) of both images over the
    fixed body and 8 mm around it, at 4 mm: 0 none, 1 one image determines the other.
    ``overlap``: share of the smaller body that lies inside the other image's field.
    ``folding``: share of the fixed body in which space is folded (Jacobian determinant <= 0).
    ``suspicions``: sentences about what looks wrong; empty when nothing does.
    """

    mutual_information: float
    overlap: float
    folding: float
    suspicions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registration:
    """A transform from fixed to moving LPS mm points, and how it was found.

    ``transform`` is in ITK's resampling direction: ``resample(moving, fixed.grid,
    transform=registration.transform)`` lies on the fixed image. ``metric`` is the optimiser's
    own figure at the end (larger is better). ``iterations`` counts those at all levels.
    """

    transform: sitk.Transform
    kind: Kind
    quality: Quality
    metric: float
    converged: bool
    iterations: int


def near_body(image: sitk.Image, volume: Volume, margin_mm: float = 8.0) -> npt.NDArray[np.bool_]:
    """The body and a margin of the air around it, (z, y, x): the skin is worth registering by."""
    mask = pyramid.body(image, volume.unit)
    near: npt.NDArray[np.bool_] = (
        ndimage.distance_transform_edt(~mask, sampling=image.GetSpacing()[::-1]) <= margin_mm
    )
    return near


def assess(
    fixed: Volume,
    moving: Volume,
    transform: sitk.Transform,
    least_quality: float = LEAST_QUALITY,
) -> Quality:
    """The quality of any transform from fixed to moving LPS mm points, a given one too.

    A normalised mutual information below ``least_quality`` is among the suspicions.
    """
    (fixed_image,) = pyramid.levels(fixed, (QUALITY_SPACING_MM,))
    (moving_image,) = pyramid.levels(moving, (QUALITY_SPACING_MM,))
    near = near_body(fixed_image, fixed)
    points = voxel_centres(fixed_image, near, QUALITY_POINTS, seed=1)
    if len(points) == 0:
        raise RegistrationFailed(
            f"The {fixed.role} volume shows no body to register by: choose another volume."
        )
    bins, _ = Sampled(fixed_image).bins_at(points)
    moved = np.array([transform.TransformPoint(p) for p in points.tolist()])
    found = agreement(bins, Sampled(moving_image), moved)
    overlap = min(
        1.0,
        found.overlap
        * _body_mm3(fixed_image, near)
        / min(
            _body_mm3(fixed_image, near),
            _body_mm3(moving_image, near_body(moving_image, moving)),
        ),
    )
    if transform.IsLinear():
        folding = float(np.linalg.det(matrix_of(transform)[:3, :3]) <= 0)
    else:
        jacobian = sitk.GetArrayViewFromImage(jacobian_determinants(transform, fixed_image))
        folding = float((jacobian[near] <= 0).mean())
    return Quality(
        found.value,
        overlap,
        folding,
        tuple(_suspicions(found.value, least_quality, overlap, folding, transform)),
    )


def _body_mm3(image: sitk.Image, near: npt.NDArray[np.bool_]) -> float:
    return float(near.sum() * np.prod(image.GetSpacing()))


def _suspicions(
    value: float, least: float, overlap: float, folding: float, transform: sitk.Transform
) -> list[str]:
    found = []
    if overlap < LEAST_OVERLAP:
        found.append(
            f"Only {overlap:.0%} of the smaller body lies in the other image's field of view."
        )
    if value < least:
        found.append(
            f"The images hardly predict each other (normalised mutual information {value:.2f}, "
            f"at least {least:.2f} expected)."
        )
    if folding > 0:
        found.append(f"Space is folded in {folding:.2%} of the body.")
    if transform.IsLinear():
        parts = LinearParts.of(matrix_of(transform))
        if parts.mirrored:
            found.append("The transform mirrors the image.")
        if parts.rotation_degrees > MOST_ROTATION_DEGREES:
            found.append(f"The transform turns by {parts.rotation_degrees:.0f} degrees.")
        low, high = SCALE_RANGE
        if min(parts.scales) < low or max(parts.scales) > high:
            found.append(
                "The transform scales by "
                + " x ".join(f"{s:.2f}" for s in parts.scales)
                + f", outside {low} to {high}."
            )
    return found


def accepted(registration: Registration, folding_limit: float = 0.0) -> Registration:
    """The registration itself; raises RegistrationFailed when it cannot be right."""
    quality = registration.quality
    if not registration.converged and registration.kind != Kind.DEFORMABLE:
        raise RegistrationFailed(
            f"The {registration.kind} registration did not converge in "
            f"{registration.iterations} iterations: give a transform or closer images."
        )
    reasons = [s for s in quality.suspicions if "folded" not in s]
    if quality.folding > folding_limit:
        reasons += [s for s in quality.suspicions if "folded" in s]
    if reasons:
        raise RegistrationFailed(
            f"The {registration.kind} registration is not credible: {reasons[0][0].lower()}"
            f"{reasons[0][1:-1]}: check that both images show the same body part, or give a "
            "transform."
        )
    return registration

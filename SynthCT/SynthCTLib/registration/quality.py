"""How far a registration can be trusted, and when it is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.registration.likeness import Ascent
from SynthCTLib.registration.options import LEAST_QUALITY
from SynthCTLib.registration.pyramid import Views
from SynthCTLib.registration.similarity import Points, Sampled, agreement, voxel_centres
from SynthCTLib.registration.transforms import LinearParts, jacobian_determinants, matrix_of
from SynthCTLib.volume import Grid, Volume

QUALITY_SPACING_MM = 4.0
QUALITY_POINTS = 20_000
DISPLACED_MM = 16.0
DISPLACED_DEGREES = 20.0
# Images of noise reach 0.01, heads of different people 0.09.
LEAST_INFORMATION = 0.03
MOST_ROTATION_DEGREES = 60.0
SCALE_RANGE = (0.7, 1.4)
LEAST_OVERLAP = 0.2
MISFIT_MM = 4.0
# What to do without a registration.
_INSTEAD = "give a transform, or take them as they lie (registration none)"


class Kind(StrEnum):
    """The family of a transform. ``GIVEN``: supplied by the user, only assessed."""

    RIGID = "rigid"
    AFFINE = "affine"
    DEFORMABLE = "deformable"
    GIVEN = "given"


@dataclass(frozen=True)
class Quality:
    """Facts about a transform between two images, over the fixed body and 8 mm of air around it.

    ``mutual_information``: normalised, 2 I / (H1 + H2), of 4 mm voxels: 0 none, 1 one image
    determines the other. ``overlap``: share of the smaller body that lies inside the other image.
    ``folding``: share in which the Jacobian determinant is zero or less. ``distinctness``: share of
    the mutual information that is lost, on average, when the moving image is displaced by 16 mm or
    turned by 20 degrees about its centre, whichever loses less: near 0 any other position would do
    as well. ``suspicions``: sentences about what looks wrong; empty when nothing does.
    """

    mutual_information: float
    overlap: float
    folding: float
    suspicions: tuple[str, ...] = ()
    distinctness: float = float("nan")


@dataclass(frozen=True)
class Fit:
    """Whether a registration holds when it is done again, and everywhere (see :mod:`.fit`).

    ``repeat_mm``: how far from the first answer others lie that fit as well, found from new points
    and other starts; the median over the body, NaN when none were looked for. ``misfit_mm``: the
    displacement that would fit clearly better, the median over ``places`` (blocks of 40 mm, near
    bone where ``near_bone``), NaN when no place tells; ``misfit_share``: the share of these
    places where it is ``MISFIT_MM`` or more. ``warnings``: sentences about what is too much.
    """

    repeat_mm: float
    misfit_mm: float
    misfit_share: float
    places: int
    near_bone: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registration:
    """A transform from fixed to moving LPS mm points, and how it was found.

    ``transform`` is in ITK's resampling direction: ``resample(moving, fixed.grid,
    transform=registration.transform)`` lies on the fixed image. ``metric`` is the optimiser's own
    figure at the end, larger is better. ``iterations`` counts those at all levels. ``fit`` is None
    unless it was examined.
    """

    transform: sitk.Transform
    kind: Kind
    quality: Quality
    metric: float
    converged: bool
    iterations: int
    fit: Fit | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Every sentence about what looks wrong."""
        return self.quality.suspicions + (() if self.fit is None else self.fit.warnings)

    @staticmethod
    def of(
        fixed: Volume,
        moving: Volume,
        transform: sitk.Transform,
        kind: Kind,
        ascents: Sequence[Ascent],
        fixed_mask: Volume | None,
        least_quality: float,
    ) -> Registration:
        """The outcome of some runs, one after the other, that led to a transform."""
        return Registration(
            transform,
            kind,
            assess(fixed, moving, transform, least_quality, fixed_mask=fixed_mask),
            ascents[-1].metric,
            ascents[-1].converged,
            sum(a.iterations for a in ascents),
        )


def assess(
    fixed: Volume,
    moving: Volume,
    transform: sitk.Transform,
    least_quality: float = LEAST_QUALITY,
    *,
    fixed_mask: Volume | None = None,
) -> Quality:
    """The quality of any transform from fixed to moving LPS mm points, a given one too.

    A distinctness below ``least_quality`` is among the suspicions. ``fixed_mask`` (on any grid)
    is where the fixed image is judged. Raises RegistrationFailed when there is nothing to judge.
    """
    views = Views.of(fixed, moving, (), fixed_mask, coarse_mm=QUALITY_SPACING_MM)
    fixed_image, near = views.coarse_fixed, views.near
    points = voxel_centres(fixed_image, near, QUALITY_POINTS, seed=1)
    bins, inside = Sampled(fixed_image).bins_at(points)
    moved = np.array([transform.TransformPoint(p) for p in points[inside].tolist()])
    looked_up = Sampled(views.coarse_moving)
    found = agreement(bins, looked_up, moved)
    overlap = min(1.0, found.overlap / views.overlap_possible)
    distinctness = 0.0
    if found.value > 0:
        lost = [
            1 - float(np.mean([agreement(bins, looked_up, p).value for p in there])) / found.value
            for there in (_shifted(moved), _turned(moved))
        ]
        distinctness = max(0.0, min(lost))
    if transform.IsLinear():
        folding = float(np.linalg.det(matrix_of(transform)[:3, :3]) <= 0)
    else:
        jacobian = jacobian_determinants(transform, Grid.of(fixed_image))
        folding = float((jacobian[near] <= 0).mean())
    quality = Quality(found.value, overlap, folding, distinctness=distinctness)
    return replace(quality, suspicions=tuple(_suspicions(quality, transform, least_quality)))


def _shifted(points: Points) -> Iterator[Points]:
    for axis, sign in product(np.eye(3), (-1, 1)):
        yield points + sign * DISPLACED_MM * axis


def _turned(points: Points) -> Iterator[Points]:
    centre = points.mean(axis=0)
    for axis, sign in product(np.eye(3), (-1, 1)):
        turn = Rotation.from_rotvec(sign * np.radians(DISPLACED_DEGREES) * axis)
        yield turn.apply(points - centre) + centre


def _suspicions(quality: Quality, transform: sitk.Transform, least_quality: float) -> Iterator[str]:
    if quality.overlap < LEAST_OVERLAP:
        yield (
            f"Only {quality.overlap:.0%} of the smaller body lies in the other image's field "
            "of view."
        )
    if quality.mutual_information < LEAST_INFORMATION:
        yield (
            "The images do not predict each other (normalised mutual information "
            f"{quality.mutual_information:.3f}, at least {LEAST_INFORMATION} expected)."
        )
    if quality.distinctness < least_quality:
        yield (
            "Other positions fit nearly as well (distinctness "
            f"{quality.distinctness:.2f}, at least {least_quality:.2f} expected)."
        )
    if quality.folding > 0:
        yield f"Space is folded in {quality.folding:.3%} of the body."
    if transform.IsLinear():
        parts = LinearParts.of(matrix_of(transform))
        low, high = SCALE_RANGE
        if parts.mirrored:
            yield "The transform mirrors the image."
        if parts.rotation_degrees > MOST_ROTATION_DEGREES:
            yield f"The transform turns by {parts.rotation_degrees:.0f} degrees."
        if min(parts.scales) < low or max(parts.scales) > high:
            scales = " x ".join(f"{s:.2f}" for s in parts.scales)
            yield f"The transform scales by {scales}, beyond {low} to {high}."


def accepted(registration: Registration, folding_limit: float = 0.0) -> Registration:
    """The registration itself; raises RegistrationFailed when it cannot be right."""
    kind, quality = registration.kind, registration.quality
    if not registration.converged and kind != Kind.DEFORMABLE:
        raise RegistrationFailed(
            f"The {kind} registration did not converge in {registration.iterations} iterations: "
            f"check that both images show the same body part; else {_INSTEAD}."
        )
    tolerated = 0 < quality.folding <= folding_limit
    reasons = [s for s in quality.suspicions if not (tolerated and "folded" in s)]
    if reasons:
        reason = reasons[0][0].lower() + reasons[0][1:-1]
        raise RegistrationFailed(
            f"The {kind} registration is not credible, {reason}: check that both images show the "
            f"same body part; else {_INSTEAD}."
        )
    return registration

"""What may be chosen about a registration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from SynthCTLib.errors import InputError

# Distinctness (see quality): 0.30 and more in the MR/CT pairs of one patient in the benchmark,
# 0.22 and less for heads against limbs.
LEAST_QUALITY = 0.25
# Levels and points of a rigid registration that only starts another one.
ROUGH_MM = (8.0, 4.0, 2.0)
ROUGH_SAMPLES = 60_000


class Metric(StrEnum):
    """What is maximised.

    ``MATTES`` mutual information suits any pair of modalities, ``CORRELATION`` (over the whole
    overlap) images of the same contrast.
    """

    MATTES = "mattes"
    CORRELATION = "correlation"


@dataclass(frozen=True)
class RigidOptions:
    """Settings of a rigid registration.

    ``search_degrees`` and ``search_mm`` bound the exhaustive search at the coarsest level, about
    the position in which the centres of the two bodies coincide. ``spacings_mm`` are the voxel
    sizes of the levels of refinement, coarse to fine; a level that would see the same voxels as the
    next is left out. ``samples`` is the number of points of the fixed image that the metric is
    computed from, drawn with ``seed``; ``final_samples`` that of the last level, which decides how
    exact the result is. A result whose distinctness
    (see :class:`~SynthCTLib.registration.Quality`) is below ``least_quality`` is refused; images
    of different people reach less than those of one. ``threads`` None takes all cores; the
    result does not depend on it.
    """

    metric: Metric = Metric.MATTES
    bins: int = 40
    spacings_mm: tuple[float, ...] = (8.0, 4.0, 2.0, 1.0)
    samples: int = 60_000
    final_samples: int = 1_000_000
    iterations: int = 100
    search_degrees: float = 30.0
    search_mm: float = 50.0
    seed: int = 1
    least_quality: float = LEAST_QUALITY
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_metric(self.bins, self.iterations, self.least_quality, self.threads)
        _check_levels(self.spacings_mm)
        _check_sampling(min(self.samples, self.final_samples), self.seed)
        if not 0 <= self.search_degrees <= 60 or not 0 <= self.search_mm <= 200:
            raise InputError(
                f"A search of {self.search_degrees} degrees and {self.search_mm} mm is not "
                "possible: give 0 to 60 degrees and 0 to 200 mm."
            )

    @property
    def samples_at(self) -> tuple[int, ...]:
        """The number of points at each level."""
        return (self.samples,) * (len(self.spacings_mm) - 1) + (self.final_samples,)


@dataclass(frozen=True)
class AffineOptions:
    """Settings of an affine registration (12 parameters), refined from a rigid one."""

    metric: Metric = Metric.MATTES
    bins: int = 40
    spacings_mm: tuple[float, ...] = (8.0, 4.0)
    samples: int = 60_000
    iterations: int = 100
    seed: int = 1
    least_quality: float = LEAST_QUALITY
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_metric(self.bins, self.iterations, self.least_quality, self.threads)
        _check_levels(self.spacings_mm)
        _check_sampling(self.samples, self.seed)

    @property
    def samples_at(self) -> tuple[int, ...]:
        """The number of points at each level."""
        return (self.samples,) * len(self.spacings_mm)


@dataclass(frozen=True)
class DeformableOptions:
    """Settings of a B-spline free-form deformation on top of an affine registration.

    One level for each ``control_spacings_mm``, coarse to fine, each a whole fraction of the one
    before: (30,) is that of paper 2, section 3.3, (30, 15) follows finer anatomy. ``spacings_mm``
    are the voxel sizes of the images at these levels. ``stiffness`` weighs the bending energy
    (mean squared change of strain between control points) against the metric. ``folding_limit``
    is the share of the fixed body in which the Jacobian determinant may be zero or less.
    ``threads`` None takes all cores.
    """

    metric: Metric = Metric.MATTES
    bins: int = 32
    control_spacings_mm: tuple[float, ...] = (30.0,)
    spacings_mm: tuple[float, ...] = (4.0,)
    iterations: int = 40
    stiffness: float = 2.0
    folding_limit: float = 0.001
    least_quality: float = LEAST_QUALITY
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_metric(self.bins, self.iterations, self.least_quality, self.threads)
        _check_levels(self.spacings_mm)
        _check_levels(self.control_spacings_mm)
        if len(self.spacings_mm) != len(self.control_spacings_mm):
            raise InputError(
                f"{len(self.control_spacings_mm)} control point spacings need as many image "
                f"spacings, not {len(self.spacings_mm)}: give one for each level."
            )
        for coarse, fine in pairwise(self.control_spacings_mm):
            if abs(coarse / fine - round(coarse / fine)) > 1e-6:
                raise InputError(
                    f"Control points {fine} mm apart do not divide {coarse} mm evenly: give "
                    "spacings such as (30, 15)."
                )
        for control, spacing in zip(self.control_spacings_mm, self.spacings_mm, strict=True):
            if control < 2 * spacing:
                raise InputError(
                    f"Control points {control} mm apart are too dense for images of {spacing} mm "
                    "voxels: keep them at least two voxels apart."
                )
        if not 0 <= self.folding_limit < 1 or self.stiffness < 0:
            raise InputError(
                f"A folding limit of {self.folding_limit} with a stiffness of {self.stiffness} is "
                "not possible: give a share from 0 to 1 and a stiffness of 0 or more."
            )


def _check_metric(bins: int, iterations: int, least_quality: float, threads: int | None) -> None:
    if not 8 <= bins <= 256 or iterations < 1:
        raise InputError(
            f"{bins} histogram bins and {iterations} iterations are not possible: give 8 to 256 "
            "bins and one or more iterations."
        )
    if not 0 <= least_quality <= 1:
        raise InputError(f"The least quality {least_quality} is not a figure from 0 to 1.")
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads are not possible: give one or more, or none.")


def _check_levels(spacings_mm: tuple[float, ...]) -> None:
    if not spacings_mm or min(spacings_mm) <= 0:
        raise InputError(
            f"The level spacings {spacings_mm} mm must be one or more lengths above 0."
        )
    if list(spacings_mm) != sorted(spacings_mm, reverse=True):
        raise InputError(f"The level spacings {spacings_mm} mm must go from coarse to fine.")


def _check_sampling(samples: int, seed: int) -> None:
    if samples < 1000 or seed < 1:
        raise InputError(
            f"{samples} samples and seed {seed} do not work: give at least 1000 samples and a seed "
            "above 0."
        )

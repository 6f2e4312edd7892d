"""What may be chosen about a registration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from SynthCTLib.errors import InputError


LEAST_QUALITY = 0.1  # normalised mutual information of one patient's images: see benchmarks


class Metric(StrEnum):
    """What is maximised: ``MATTES`` mutual information for any pair of modalities,
    ``CORRELATION`` (squared, over the whole overlap) for images of the same contrast.
    """

    MATTES = "mattes"
    CORRELATION = "correlation"


@dataclass(frozen=True)
class RigidOptions:
    """Settings of a rigid registration.

    ``search_degrees`` and ``search_mm`` bound the exhaustive search at the coarsest level, about
    the position in which the centres of the two bodies coincide. ``spacings_mm`` are the voxel
    sizes of the levels of refinement, coarse to fine. ``samples`` is the number of points of the
    fixed image that the metric is computed from, drawn with ``seed``. A result whose normalised
    mutual information is below ``least_quality`` is refused; images of different people need less
    than those of one. ``threads`` None leaves the number to ITK.
    """

    metric: Metric = Metric.MATTES
    bins: int = 40
    spacings_mm: tuple[float, ...] = (8.0, 4.0, 2.0)
    samples: int = 60_000
    iterations: int = 200
    search_degrees: float = 30.0
    search_mm: float = 50.0
    seed: int = 1
    least_quality: float = LEAST_QUALITY
    threads: int | None = None

    def __post_init__(self) -> None:
        _check(self.bins, self.spacings_mm, self.samples, self.iterations, self.seed, self.threads)
        if not 0 <= self.search_degrees <= 60 or not 0 <= self.search_mm <= 200:
            raise InputError(
                f"A search of {self.search_degrees} degrees and {self.search_mm} mm is not "
                "possible: give 0 to 60 degrees and 0 to 200 mm."
            )


@dataclass(frozen=True)
class AffineOptions:
    """Settings of an affine registration (12 parameters), refined from a rigid one."""

    metric: Metric = Metric.MATTES
    bins: int = 40
    spacings_mm: tuple[float, ...] = (8.0, 4.0)
    samples: int = 60_000
    iterations: int = 200
    seed: int = 1
    least_quality: float = LEAST_QUALITY
    threads: int | None = None

    def __post_init__(self) -> None:
        _check(self.bins, self.spacings_mm, self.samples, self.iterations, self.seed, self.threads)


@dataclass(frozen=True)
class DeformableOptions:
    """Settings of a B-spline free-form deformation on top of an affine registration.

    One level for each ``control_spacings_mm``, coarse to fine; 30 mm is that of paper 2,
    section 3.3 (after Rueckert 1999). ``spacings_mm`` are the voxel sizes of the images at these
    levels. ``folding_limit`` is the share of the fixed body in which the Jacobian determinant of
    the transform may be zero or less.
    """

    metric: Metric = Metric.MATTES
    bins: int = 32
    control_spacings_mm: tuple[float, ...] = (30.0,)
    spacings_mm: tuple[float, ...] = (4.0,)
    samples: int = 30_000
    iterations: int = 40
    folding_limit: float = 0.001
    seed: int = 1
    least_quality: float = LEAST_QUALITY
    threads: int | None = None

    def __post_init__(self) -> None:
        _check(self.bins, self.spacings_mm, self.samples, self.iterations, self.seed, self.threads)
        if len(self.spacings_mm) != len(self.control_spacings_mm):
            raise InputError(
                f"{len(self.control_spacings_mm)} control point spacings need as many image "
                f"spacings, not {len(self.spacings_mm)}: give one for each level."
            )
        for control, spacing in zip(self.control_spacings_mm, self.spacings_mm, strict=True):
            if control < 2 * spacing:
                raise InputError(
                    f"Control points {control} mm apart are too dense for images of {spacing} mm "
                    "voxels: keep them at least two voxels apart."
                )
        if not 0 <= self.folding_limit < 1:
            raise InputError(f"The folding limit {self.folding_limit} is not a share from 0 to 1.")


def _check(
    bins: int,
    spacings_mm: tuple[float, ...],
    samples: int,
    iterations: int,
    seed: int,
    threads: int | None,
) -> None:
    if not 8 <= bins <= 256:
        raise InputError(f"{bins} histogram bins are not possible: give 8 to 256.")
    if not spacings_mm or min(spacings_mm) <= 0:
        raise InputError(
            f"The level spacings {spacings_mm} mm must be one or more lengths above 0."
        )
    if list(spacings_mm) != sorted(spacings_mm, reverse=True):
        raise InputError(f"The level spacings {spacings_mm} mm must go from coarse to fine.")
    if samples < 1000 or iterations < 1 or seed < 1:
        raise InputError(
            f"{samples} samples, {iterations} iterations and seed {seed} do not work: give at "
            "least 1000 samples, one iteration and a seed above 0 (0 means the clock to ITK)."
        )
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads are not possible: give one or more, or none.")

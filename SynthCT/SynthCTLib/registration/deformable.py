"""B-spline free-form deformation on top of an affine registration.

Rueckert et al., IEEE TMI 1999;18:712 (doi 10.1109/42.796284), with 30 mm between control points as
in Paper 2, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.progress import Progress
from SynthCTLib.registration.freeform import FreeForm, bending
from SynthCTLib.registration.likeness import Ascent, Reals, ascend, workers
from SynthCTLib.registration.linear import register_affine
from SynthCTLib.registration.options import AffineOptions, DeformableOptions
from SynthCTLib.registration.pyramid import Views, nearest_on
from SynthCTLib.registration.quality import Kind, Registration, accepted
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.volume import Grid, Triple, Volume

# A spline is zero beyond its domain: the step must lie in air, far from any skin.
DOMAIN_MARGIN_MM = 20.0
# An iteration that gains less than this share of the metric is the last.
LEAST_GAIN = 1e-4
CUBIC = 3


def register_deformable(
    fixed: Volume,
    moving: Volume,
    options: DeformableOptions = DeformableOptions(),  # noqa: B008 - frozen
    *,
    initial: Registration | sitk.Transform | None = None,
    fixed_mask: Volume | None = None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Registration:
    """Cubic B-splines before ``initial``: a fixed point is first displaced, then goes its way.

    ``initial`` (rigid or affine) None means an affine registration with default settings and this
    one's metric and threads. The transform is a composite of ``initial`` and the spline. The
    metric is followed for ``options.iterations`` at each level: that it still rises then
    (``converged`` False) is no failure. Raises RegistrationFailed when space is folded in more
    than ``options.folding_limit`` of the body or the result is otherwise not credible, InputError
    when ``initial`` is not linear.
    """
    if initial is None:
        affine = AffineOptions(
            metric=options.metric, least_quality=options.least_quality, threads=options.threads
        )
        initial = register_affine(
            fixed, moving, affine, fixed_mask=fixed_mask, progress=progress.within("Affine", 0.5)
        )
    start = initial.transform if isinstance(initial, Registration) else initial
    matrix = matrix_of(start)
    views = Views.of(fixed, moving, options.spacings_mm, fixed_mask, DOMAIN_MARGIN_MM)
    domain = Domain.around(Grid.of(views.fixed[0]), options.control_spacings_mm[0])
    spline = domain.spline(options.control_spacings_mm[0])
    ascents: list[Ascent] = []
    part = progress.within("Deformable registration", 1.0)
    with workers(options.threads) as pool:
        levels = zip(options.control_spacings_mm, views.fixed, views.moving, strict=True)
        for control, image, target in levels:
            part.stage(f"{control:g} mm between control points", 1.0 / len(views.fixed))
            spline = domain.refined(spline, control)
            inside = sitk.GetArrayFromImage(nearest_on(image, views.mask)) > 0
            level = FreeForm(
                image, target, inside, matrix, spline, options.metric, options.bins, pool
            )
            start_at = np.asarray(spline.GetParameters())
            score = _stiffened(level, options.stiffness, control)
            ascents.append(ascend(score, start_at, options.iterations, LEAST_GAIN, part))
            spline.SetParameters(ascents[-1].parameters.tolist())
    found = sitk.CompositeTransform([start, spline])
    found.FlattenTransform()
    return accepted(
        Registration.of(
            fixed, moving, found, Kind.DEFORMABLE, ascents, fixed_mask, options.least_quality
        ),
        options.folding_limit,
    )


def _stiffened(
    level: FreeForm, stiffness: float, control_mm: float
) -> Callable[[Reals], tuple[float, Reals]]:
    """The score of a level, less what the bending of the spline costs."""

    def score(parameters: Reals) -> tuple[float, Reals]:
        value, slope = level.score(parameters)
        bent, bent_slope = bending(parameters.reshape(level.shape), control_mm)
        return value - stiffness * bent, slope - stiffness * bent_slope.ravel()

    return score


@dataclass(frozen=True)
class Domain:
    """The block of space that a spline deforms; a whole number of control point spacings long."""

    origin_mm: Triple
    extent_mm: Triple
    direction: tuple[float, ...]

    @staticmethod
    def around(grid: Grid, control_mm: float) -> Domain:
        """The smallest such block around a grid, along its axes."""
        x, y, z = (float(np.ceil(e / control_mm) * control_mm) for e in grid.extent_mm)
        corner: npt.NDArray[np.float64] = grid.centre_mm - np.reshape(grid.direction, (3, 3)) @ (
            x / 2,
            y / 2,
            z / 2,
        )
        return Domain(
            (float(corner[0]), float(corner[1]), float(corner[2])), (x, y, z), grid.direction
        )

    def spline(self, control_mm: float) -> sitk.BSplineTransform:
        """Zero displacement, from control points exactly so far apart."""
        spline = sitk.BSplineTransform(3, CUBIC)
        spline.SetTransformDomainDirection(self.direction)
        spline.SetTransformDomainPhysicalDimensions(self.extent_mm)
        spline.SetTransformDomainMeshSize([round(e / control_mm) for e in self.extent_mm])
        spline.SetTransformDomainOrigin(self.origin_mm)
        return spline

    def refined(self, coarse: sitk.BSplineTransform, control_mm: float) -> sitk.BSplineTransform:
        """The same displacement from control points ``control_mm`` apart."""
        fine = self.spline(control_mm)
        coefficients = []
        for given, wanted in zip(
            coarse.GetCoefficientImages(), fine.GetCoefficientImages(), strict=True
        ):
            displacement = sitk.Resample(
                given, wanted, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkBSplineResampler
            )
            coefficients.append(sitk.BSplineDecomposition(displacement, CUBIC))
        return sitk.BSplineTransform(coefficients, CUBIC)

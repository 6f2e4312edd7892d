"""B-spline free-form deformation (Rueckert 1999), on top of an affine registration."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.progress import Progress
from SynthCTLib.registration import pyramid
from SynthCTLib.registration.optimise import Similarity, method_for, run
from SynthCTLib.registration.options import DeformableOptions, AffineOptions
from SynthCTLib.registration.quality import Kind, Registration, accepted, assess, near_body
from SynthCTLib.registration.linear import register_affine
from SynthCTLib.volume import Grid, Volume

# The optimiser ends when an iteration gains less than this share of the metric.
LEAST_GAIN = 1e-4


def register_deformable(
    fixed: Volume,
    moving: Volume,
    options: DeformableOptions = DeformableOptions(),  # noqa: B008 - frozen
    *,
    initial: Registration | sitk.Transform | None = None,
    fixed_mask: Volume | None = None,
    progress: Progress = Progress(),  # noqa: B008
) -> Registration:
    if initial is None:
        initial = register_affine(
            fixed,
            moving,
            AffineOptions(metric=options.metric, seed=options.seed, threads=options.threads),
            fixed_mask=fixed_mask,
            progress=progress.within("Affine", 0.3),
        )
    start = initial.transform if isinstance(initial, Registration) else initial
    fixed_levels = pyramid.levels(fixed, (8.0, *options.spacings_mm))
    moving_levels = pyramid.levels(moving, (8.0, *options.spacings_mm))
    coarse = fixed_levels[0]
    near = near_body(coarse, fixed, 8.0)
    if fixed_mask is not None:
        near &= sitk.GetArrayViewFromImage(pyramid.mask_on(coarse, fixed_mask)) > 0
    mask = sitk.GetImageFromArray(near.astype(np.uint8))
    mask.CopyInformation(coarse)
    grid = Grid.of(coarse)
    whole = sitk.CompositeTransform([start])
    similarity = Similarity(
        options.metric, options.bins, options.samples, options.seed, options.threads
    )
    iterations = 0
    part = progress.within("Deformable registration", 1.0)
    for control, spacing, fl, ml in zip(
        options.control_spacings_mm,
        options.spacings_mm,
        fixed_levels[1:],
        moving_levels[1:],
        strict=True,
    ):
        part.stage(f"{control:g} mm", 1.0 / len(options.control_spacings_mm))
        image = pyramid.cropped(fl, near, grid, 0.0)
        mesh = [max(1, round(e / control)) for e in Grid.of(image).extent_mm]
        spline = sitk.BSplineTransformInitializer(image, mesh, 3)
        method = method_for(image, mask, similarity)
        method.SetMovingInitialTransform(whole)
        method.SetInitialTransform(spline, True)
        method.SetOptimizerAsLBFGSB(
            gradientConvergenceTolerance=1e-8,
            numberOfIterations=options.iterations,
            maximumNumberOfCorrections=5,
            maximumNumberOfFunctionEvaluations=4 * options.iterations,
            costFunctionConvergenceFactor=LEAST_GAIN / np.finfo(float).eps,
        )
        descent = run(method, image, ml, part, options.iterations)
        iterations += descent.iterations
        whole = sitk.CompositeTransform(whole)
        whole.AddTransform(spline)
    return accepted(
        Registration(
            whole,
            Kind.DEFORMABLE,
            assess(fixed, moving, whole, options.least_quality),
            -descent.metric,
            descent.converged,
            iterations,
        ),
        options.folding_limit,
    )

"""Rigid and affine registration."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.progress import Progress
from SynthCTLib.registration.optimise import Descent, Similarity, method_for, run
from SynthCTLib.registration.options import AffineOptions, RigidOptions
from SynthCTLib.registration.pyramid import Views
from SynthCTLib.registration.quality import Kind, Registration, accepted
from SynthCTLib.registration.search import Matrix, Scene, find_start
from SynthCTLib.registration.similarity import Points, Sampled, voxel_centres
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.volume import Volume

# The optimiser's first step is half a voxel, its last is far below what a scanner resolves.
LAST_STEP_MM = 0.005
# With ITK's 0.5 the steps run out on the way to the optimum: 1 mm off in simulated heads.
RELAXATION = 0.7
SEARCH_POINTS = 4000


def register_rigid(
    fixed: Volume,
    moving: Volume,
    options: RigidOptions = RigidOptions(),  # noqa: B008 - frozen
    *,
    fixed_mask: Volume | None = None,
    initial: Registration | sitk.Transform | None = None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Registration:
    """Six parameters from ``fixed`` to ``moving`` LPS mm points.

    Without ``initial`` the start is searched for, over the rotations and shifts of ``options``
    about the position in which the bodies' centres coincide, and in the position in which the
    images were supplied. ``fixed_mask`` (on any grid) is where the fixed image is compared.
    Raises RegistrationFailed when the result is not credible (see :mod:`.quality`), InputError
    when ``initial`` is not rigid.
    """
    views = Views.of(fixed, moving, options.spacings_mm, fixed_mask)
    points = _search_points(views, options.seed)
    if initial is None:
        progress.stage("Searching for the position", 0.5)
        start = _search(views, points, options, progress)
    else:
        start = _rigid(matrix_of(_transform(initial)))
    return _refine(
        fixed,
        moving,
        views,
        _euler(start, points.mean(axis=0)),
        Kind.RIGID,
        options,
        progress.within("Rigid registration", 1.0),
    )


def register_affine(
    fixed: Volume,
    moving: Volume,
    options: AffineOptions = AffineOptions(),  # noqa: B008 - frozen
    *,
    initial: Registration | sitk.Transform | None = None,
    fixed_mask: Volume | None = None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Registration:
    """Twelve parameters from ``fixed`` to ``moving`` LPS mm points.

    Starts from ``initial`` (rigid or affine); None means a rigid registration with default
    settings and this one's metric, seed and threads. Raises RegistrationFailed when the result
    is not credible, InputError when ``initial`` is not linear.
    """
    if initial is None:
        rigid = RigidOptions(
            metric=options.metric,
            seed=options.seed,
            least_quality=options.least_quality,
            threads=options.threads,
        )
        initial = register_rigid(
            fixed, moving, rigid, fixed_mask=fixed_mask, progress=progress.within("Rigid", 0.6)
        )
    views = Views.of(fixed, moving, options.spacings_mm, fixed_mask)
    centre = _search_points(views, options.seed).mean(axis=0)
    return _refine(
        fixed,
        moving,
        views,
        _affine(matrix_of(_transform(initial)), centre),
        Kind.AFFINE,
        options,
        progress.within("Affine registration", 1.0),
    )


def _transform(initial: Registration | sitk.Transform) -> sitk.Transform:
    return initial.transform if isinstance(initial, Registration) else initial


def _search_points(views: Views, seed: int) -> Points:
    return voxel_centres(views.coarse_fixed, views.near, SEARCH_POINTS, seed)


def _search(views: Views, points: Points, options: RigidOptions, progress: Progress) -> Matrix:
    """A 4x4 matrix, fixed to moving LPS mm."""
    moving = voxel_centres(views.coarse_moving, views.near_moving, SEARCH_POINTS, options.seed)
    scene = Scene(
        Sampled(views.coarse_fixed),
        Sampled(views.coarse_moving),
        points,
        moving.mean(axis=0),
        views.overlap_possible,
    )
    return find_start(scene, options.search_degrees, options.search_mm, progress)


def _rigid(matrix: Matrix) -> Matrix:
    """The matrix itself, when rigid. Raises InputError otherwise."""
    if not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-4):
        raise InputError(
            "The initial transform of a rigid registration scales or shears: give a rigid one."
        )
    return matrix


def _euler(matrix: Matrix, centre: Points) -> sitk.Transform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    # A file holds fewer digits than ITK's own tolerance for an orthogonal matrix (1e-10) asks.
    transform.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-3)
    transform.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ centre - centre).tolist())
    return transform


def _affine(matrix: Matrix, centre: Points) -> sitk.Transform:
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ centre - centre).tolist())
    return transform


def _refine(
    fixed: Volume,
    moving: Volume,
    views: Views,
    transform: sitk.Transform,
    kind: Kind,
    options: RigidOptions | AffineOptions,
    progress: Progress,
) -> Registration:
    """Follow the metric uphill, level by level, and judge the end."""
    similarity = Similarity(
        options.metric, options.bins, options.samples, options.seed, options.threads
    )
    descents: list[Descent] = []
    for spacing, image, target in zip(options.spacings_mm, views.fixed, views.moving, strict=True):
        progress.stage(f"{spacing:g} mm", 1.0 / len(options.spacings_mm))
        method = method_for(image, views.mask, similarity)
        method.SetInitialTransform(transform, True)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=spacing / 2,
            minStep=LAST_STEP_MM,
            numberOfIterations=options.iterations,
            relaxationFactor=RELAXATION,
            gradientMagnitudeTolerance=1e-9,
        )
        descents.append(run(method, image, target, progress, options.iterations))
    return accepted(
        Registration.of(fixed, moving, transform, kind, descents, options.least_quality)
    )

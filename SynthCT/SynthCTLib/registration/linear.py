"""Rigid and affine registration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError, RegistrationFailed
from SynthCTLib.progress import Progress
from SynthCTLib.registration import pyramid
from SynthCTLib.registration.optimise import Descent, Similarity, method_for, run
from SynthCTLib.registration.options import AffineOptions, RigidOptions
from SynthCTLib.registration.quality import Kind, Registration, accepted, assess, near_body
from SynthCTLib.registration.search import MOST_POINTS, Scene, starts
from SynthCTLib.registration.similarity import Sampled, voxel_centres
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.volume import Grid, Volume

SEARCH_SPACING_MM = 8.0
MARGIN_MM = 8.0
# Steps of the optimiser: the first is half a voxel, the last is far below what a scanner resolves.
LAST_STEP_MM = 0.005
# Halving the step (ITK's default) at each turn ends half a millimetre short of the optimum.
RELAXATION = 0.7

Matrix = npt.NDArray[np.float64]


def register_rigid(
    fixed: Volume,
    moving: Volume,
    options: RigidOptions = RigidOptions(),  # noqa: B008 - frozen
    *,
    fixed_mask: Volume | None = None,
    initial: sitk.Transform | None = None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Registration:
    """Six parameters from ``fixed`` to ``moving`` LPS mm points.

    Without ``initial`` the start is searched for, over the rotations and shifts of ``options``
    about the position in which the bodies' centres coincide, and about the given position of
    both images in space. ``fixed_mask`` (any grid) is where the fixed image is compared.
    Raises RegistrationFailed when the result is not credible (see :mod:`.quality`).
    """
    views = _Views.of(fixed, moving, options.spacings_mm, fixed_mask)
    if initial is None:
        progress.stage("Searching for the position", 0.4)
        candidates = _search(views, options, progress)
    else:
        candidates = [_rigid_part(matrix_of(initial))]
    finished = _refine(
        views, candidates, _euler, options, progress.within("Rigid registration", 1.0)
    )
    return accepted(finished.registration(fixed, moving, Kind.RIGID, options.least_quality))


def register_affine(
    fixed: Volume,
    moving: Volume,
    options: AffineOptions = AffineOptions(),  # noqa: B008 - frozen
    *,
    initial: Registration | sitk.Transform | None = None,
    fixed_mask: Volume | None = None,
    progress: Progress = Progress(),  # noqa: B008
) -> Registration:
    """Twelve parameters from ``fixed`` to ``moving`` LPS mm points.

    Starts from ``initial``; when None, from a rigid registration with default settings and this
    one's metric, seed and threads. Raises RegistrationFailed when the result is not credible.
    """
    if initial is None:
        rigid = RigidOptions(
            metric=options.metric,
            seed=options.seed,
            threads=options.threads,
            least_quality=options.least_quality,
        )
        initial = register_rigid(
            fixed, moving, rigid, fixed_mask=fixed_mask, progress=progress.within("Rigid", 0.6)
        )
    if isinstance(initial, Registration):
        initial = initial.transform
    views = _Views.of(fixed, moving, options.spacings_mm, fixed_mask)
    finished = _refine(
        views, [matrix_of(initial)], _affine, options, progress.within("Affine registration", 1.0)
    )
    return accepted(finished.registration(fixed, moving, Kind.AFFINE, options.least_quality))


@dataclass(frozen=True)
class _Views:
    """Both volumes as the levels see them; ``mask``: where the fixed image is compared."""

    fixed: tuple[sitk.Image, ...]
    moving: tuple[sitk.Image, ...]
    coarse_fixed: sitk.Image
    coarse_moving: sitk.Image
    mask: sitk.Image
    near: npt.NDArray[np.bool_]
    moving_body: npt.NDArray[np.bool_]

    @staticmethod
    def of(
        fixed: Volume, moving: Volume, spacings_mm: tuple[float, ...], fixed_mask: Volume | None
    ) -> _Views:
        coarse_fixed, *fixed_levels = pyramid.levels(fixed, (SEARCH_SPACING_MM, *spacings_mm))
        coarse_moving, *moving_levels = pyramid.levels(moving, (SEARCH_SPACING_MM, *spacings_mm))
        near = near_body(coarse_fixed, fixed, MARGIN_MM)
        if fixed_mask is not None:
            near &= sitk.GetArrayViewFromImage(pyramid.mask_on(coarse_fixed, fixed_mask)) > 0
        moving_body = near_body(coarse_moving, moving, MARGIN_MM)
        for volume, found in ((fixed, near), (moving, moving_body)):
            if not found.any():
                raise RegistrationFailed(
                    f"The {volume.role} volume shows no body to register by"
                    f"{' inside the mask' if volume is fixed and fixed_mask else ''}: "
                    "choose another volume."
                )
        mask = sitk.GetImageFromArray(near.astype(np.uint8))
        mask.CopyInformation(coarse_fixed)
        grid = Grid.of(coarse_fixed)
        return _Views(
            tuple(pyramid.cropped(i, near, grid, 0.0) for i in fixed_levels),
            tuple(moving_levels),
            coarse_fixed,
            coarse_moving,
            mask,
            near,
            moving_body,
        )


def _search(views: _Views, options: RigidOptions, progress: Progress) -> list[Matrix]:
    points = voxel_centres(views.coarse_fixed, views.near, MOST_POINTS, options.seed)
    moving_points = voxel_centres(views.coarse_moving, views.moving_body, MOST_POINTS, options.seed)
    volumes = [
        mask.sum() * np.prod(image.GetSpacing())
        for image, mask in (
            (views.coarse_fixed, views.near),
            (views.coarse_moving, views.moving_body),
        )
    ]
    scene = Scene(
        Sampled(views.coarse_fixed),
        Sampled(views.coarse_moving),
        points,
        moving_points.mean(axis=0),
        float(volumes[1] / volumes[0]),
    )
    found = starts(scene, options.search_degrees, options.search_mm, progress)
    return [s.matrix for s in found]


def _euler(matrix: Matrix, centre: Matrix) -> sitk.Transform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    # ITK compares with a tolerance of 1e-10 whether the matrix is orthogonal.
    transform.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-6)
    transform.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ centre - centre).tolist())
    return transform


def _affine(matrix: Matrix, centre: Matrix) -> sitk.Transform:
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ centre - centre).tolist())
    return transform


def _rigid_part(matrix: Matrix) -> Matrix:
    """The matrix itself when it is a rigid one. Raises InputError otherwise."""
    if not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-4):
        raise InputError(
            "The initial transform of a rigid registration scales or shears: give a rigid one."
        )
    return matrix


@dataclass(frozen=True)
class _Refined:
    transform: sitk.Transform
    descent: Descent
    iterations: int

    def registration(
        self, fixed: Volume, moving: Volume, kind: Kind, least_quality: float
    ) -> Registration:
        return Registration(
            self.transform,
            kind,
            assess(fixed, moving, self.transform, least_quality),
            -self.descent.metric,
            self.descent.converged,
            self.iterations,
        )


def _refine(
    views: _Views,
    candidates: list[Matrix],
    family: Callable[[Matrix, Matrix], sitk.Transform],
    options: RigidOptions | AffineOptions,
    progress: Progress,
) -> _Refined:
    """Refine every candidate at the coarsest level, and the best of them at the others."""
    similarity = Similarity(
        options.metric, options.bins, options.samples, options.seed, options.threads
    )
    centre = voxel_centres(views.coarse_fixed, views.near, MOST_POINTS, options.seed).mean(axis=0)
    transforms = [family(c, centre) for c in candidates]
    iterations = 0
    levels = len(options.spacings_mm)
    for level, spacing in enumerate(options.spacings_mm):
        inner = progress.within(f"{spacing:g} mm", 1.0 / levels)
        descents = []
        for transform in transforms:
            inner.stage("", 1.0 / len(transforms))
            method = method_for(views.fixed[level], views.mask, similarity)
            method.SetInitialTransform(transform, True)
            method.SetOptimizerScalesFromPhysicalShift()
            method.SetOptimizerAsRegularStepGradientDescent(
                learningRate=spacing / 2,
                minStep=LAST_STEP_MM,
                numberOfIterations=options.iterations,
                relaxationFactor=RELAXATION,
                gradientMagnitudeTolerance=1e-9,
            )
            try:
                descent = run(
                    method, views.fixed[level], views.moving[level], inner, options.iterations
                )
            except RuntimeError as error:
                raise RegistrationFailed(
                    "The images hardly overlap: check that both show the same body part, or give "
                    "a transform."
                ) from error
            iterations += descent.iterations
            descents.append(descent)
        best = int(np.argmin([d.metric for d in descents]))
        transforms = [transforms[best]]
    return _Refined(transforms[0], descents[best], iterations)

"""Rigid and affine registration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import InputError
from SynthCTLib.progress import Progress
from SynthCTLib.registration.likeness import (
    Array,
    Ascent,
    Likeness,
    Reals,
    ascend,
    look_up,
    workers,
)
from SynthCTLib.registration.options import ROUGH_MM, ROUGH_SAMPLES, AffineOptions, RigidOptions
from SynthCTLib.registration.pyramid import Views, nearest_on
from SynthCTLib.registration.quality import Kind, Registration, accepted
from SynthCTLib.registration.search import LEVER_MM, Matrix, Scene, find_starts
from SynthCTLib.registration.similarity import Points, Sampled, voxel_centres
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.volume import Grid, Volume

# An iteration that gains less than this share of the metric is the last.
LEAST_GAIN = 1e-7
SEARCH_POINTS = 4000
# What the score of a position must be, against the best, to be followed at the next level. At
# 8 mm a limb 50 mm off along the bone may lead by a tenth; at 4 mm the right one leads.
WORTH_FOLLOWING_COARSE = 0.8
WORTH_FOLLOWING = 0.99
SAME_POSITION_MM = 1.0
COMPARED_POINTS = 200

Score = Callable[[Reals], tuple[float, Reals]]


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
    if initial is None:
        progress.stage("Searching for the position", 0.5)
        starts = _search(views, options, progress)
    else:
        starts = [_rigid(matrix_of(_transform(initial)))]
    return _refine(
        fixed,
        moving,
        fixed_mask,
        views,
        starts,
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

    Starts from ``initial`` (rigid or affine); None means a rigid registration that is quick and
    rough (:data:`.options.ROUGH_MM`), with this one's metric, seed and threads. Raises
    RegistrationFailed when the result is not credible, InputError when ``initial`` is not linear.
    """
    if initial is None:
        rigid = RigidOptions(
            metric=options.metric,
            spacings_mm=ROUGH_MM,
            final_samples=ROUGH_SAMPLES,
            seed=options.seed,
            least_quality=options.least_quality,
            threads=options.threads,
        )
        initial = register_rigid(
            fixed, moving, rigid, fixed_mask=fixed_mask, progress=progress.within("Rigid", 0.6)
        )
    views = Views.of(fixed, moving, options.spacings_mm, fixed_mask)
    return _refine(
        fixed,
        moving,
        fixed_mask,
        views,
        [matrix_of(_transform(initial))],
        Kind.AFFINE,
        options,
        progress.within("Affine registration", 1.0),
    )


def _transform(initial: Registration | sitk.Transform) -> sitk.Transform:
    return initial.transform if isinstance(initial, Registration) else initial


def _search(views: Views, options: RigidOptions, progress: Progress) -> list[Matrix]:
    """4x4 matrices, fixed to moving LPS mm, the likeliest first."""
    points = voxel_centres(views.coarse_fixed, views.near, SEARCH_POINTS, options.seed)
    moving = voxel_centres(views.coarse_moving, views.near_moving, SEARCH_POINTS, options.seed)
    scene = Scene(
        Sampled(views.coarse_fixed),
        Sampled(views.coarse_moving),
        points,
        moving.mean(axis=0),
        views.overlap_possible,
    )
    return find_starts(scene, options.search_degrees, options.search_mm, progress)


def _rigid(matrix: Matrix) -> Matrix:
    """The matrix itself, when rigid. Raises InputError otherwise."""
    if not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-4):
        raise InputError(
            "The initial transform of a rigid registration scales or shears: give a rigid one."
        )
    return matrix


class _Family:
    """The transforms of a family near a start.

    Parameters are small steps in mm (at ``LEVER_MM`` from the centre, for those without a length).
    """

    def __init__(self, kind: Kind, start: Matrix, centre: Points) -> None:
        self._kind, self._start, self._centre = kind, start, centre
        self.size = 6 if kind == Kind.RIGID else 12

    def change(self, parameters: Reals) -> tuple[Reals, Reals]:
        """The 3x3 matrix applied after the start, and its derivative by each parameter of it."""
        if self._kind == Kind.RIGID:
            a, b, c = parameters[:3] / LEVER_MM
            turns = [_turn(axis, angle) for axis, angle in enumerate((a, b, c))]
            slopes = [_turn_slope(axis, angle) for axis, angle in enumerate((a, b, c))]
            x, y, z = turns
            dx, dy, dz = slopes
            return z @ y @ x, np.stack([z @ y @ dx, z @ dy @ x, dz @ y @ x]) / LEVER_MM
        steps = np.eye(9).reshape(9, 3, 3) / LEVER_MM
        return np.eye(3) + np.tensordot(parameters[:9], steps, 1), steps

    def matrix(self, parameters: Reals) -> Matrix:
        """4x4, fixed to moving LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.change(parameters)[0] @ self._start[:3, :3]
        there = self._start[:3, :3] @ self._centre + self._start[:3, 3] + parameters[-3:]
        matrix[:3, 3] = there - matrix[:3, :3] @ self._centre
        return matrix

    def score(self, likeness: Likeness, points: Reals, to_index: Array) -> Score:
        """The score of parameters.

        ``points``: (3, n), fixed LPS mm; ``to_index``: 4x4, moving LPS mm to voxels (x, y, z).
        """
        about = (self._start[:3, :3] @ (points - self._centre[:, None])).astype(np.float32)
        centre = self._start[:3, :3] @ self._centre + self._start[:3, 3]

        def score(parameters: Reals) -> tuple[float, Reals]:
            change, slopes = self.change(parameters)
            offset = to_index[:3, :3] @ (centre + parameters[-3:]) + to_index[:3, 3]
            index = (to_index[:3, :3] @ change).astype(np.float32) @ about
            value, pull = likeness.at(index + offset[:, None].astype(np.float32))
            # Sums over all points, in double precision: they decide where the metric is flat.
            by_matrix = to_index[:3, :3].T @ np.einsum("in,jn->ij", pull, about, dtype=np.float64)
            by_shift = to_index[:3, :3].T @ pull.sum(axis=1, dtype=np.float64)
            return value, np.concatenate([np.tensordot(slopes, by_matrix, 2), by_shift])

        return score

    def transform(self) -> sitk.Transform:
        """The start as an ITK transform, with this centre."""
        matrix = self._start
        transform: sitk.Transform
        if self._kind == Kind.RIGID:
            transform = sitk.Euler3DTransform()
            transform.SetCenter(self._centre.tolist())
            # A file holds fewer digits than ITK's tolerance for an orthogonal matrix asks (1e-10).
            transform.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-3)
        else:
            transform = sitk.AffineTransform(3)
            transform.SetCenter(self._centre.tolist())
            transform.SetMatrix(matrix[:3, :3].ravel().tolist())
        shift = matrix[:3, :3] @ self._centre + matrix[:3, 3] - self._centre
        transform.SetTranslation(shift.tolist())
        return transform


def _turn(axis: int, angle: float) -> Reals:
    matrix: Reals = Rotation.from_rotvec(angle * np.eye(3)[axis]).as_matrix()
    return matrix


def _turn_slope(axis: int, angle: float) -> Reals:
    """The derivative of :func:`_turn` by the angle."""
    x, y, z = np.eye(3)[axis]
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ _turn(axis, angle)


@dataclass(frozen=True)
class Candidate:
    """A position, and how it was come by.

    ``score``: the metric, times the share of the possible overlap; of a limb that slides along
    its axis little is left to disagree.
    """

    matrix: Matrix
    score: float = 0.0
    ascents: tuple[Ascent, ...] = ()

    def away_mm(self, other: Candidate, points: Reals) -> float:
        """How far two positions send points (3, n) of the fixed body apart, in the median."""
        between = self.matrix - other.matrix
        return float(np.median(np.linalg.norm(between[:3, :3] @ points + between[:3, 3:], axis=0)))


def _refine(
    fixed: Volume,
    moving: Volume,
    fixed_mask: Volume | None,
    views: Views,
    starts: Sequence[Matrix],
    kind: Kind,
    options: RigidOptions | AffineOptions,
    progress: Progress,
) -> Registration:
    """Follow the metric uphill from each start, and judge the best end."""
    best = follow(views, starts, kind, options, progress)[0]
    transform = _Family(kind, best.matrix, views.centre_mm).transform()
    return accepted(
        Registration.of(
            fixed, moving, transform, kind, best.ascents, fixed_mask, options.least_quality
        )
    )


def follow(
    views: Views,
    starts: Sequence[Matrix],
    kind: Kind,
    options: RigidOptions | AffineOptions,
    progress: Progress,
) -> list[Candidate]:
    """Follow the metric uphill from each start, level by level.

    The best end, and after it all others that are nearly as good and elsewhere.
    """
    candidates = [Candidate(start) for start in starts]
    with workers(options.threads) as pool:
        levels = _levels(views, options)
        for number, (spacing, samples, image, target) in enumerate(levels):
            points, values = drawn(image, views.mask, samples, options.seed + number)
            likeness = Likeness(values, target, options.metric, options.bins, pool)
            to_index = np.linalg.inv(Grid.of(target).index_to_world)
            followed = []
            for candidate in candidates:
                progress.stage(f"{spacing:g} mm", 1.0 / len(levels) / len(candidates))
                family = _Family(kind, candidate.matrix, views.centre_mm)
                score = family.score(likeness, points, to_index)
                still = np.zeros(family.size)
                end = ascend(score, still, options.iterations, LEAST_GAIN, progress)
                matrix = family.matrix(end.parameters)
                overlap = likeness.overlap(to_index[:3] @ matrix @ _with_one(points))
                share = min(1.0, overlap / views.overlap_possible)
                followed.append(Candidate(matrix, end.metric * share, (*candidate.ascents, end)))
            worth = WORTH_FOLLOWING if number else WORTH_FOLLOWING_COARSE
            candidates = _leading(followed, worth, points)
    return candidates


def _levels(
    views: Views, options: RigidOptions | AffineOptions
) -> list[tuple[float, int, sitk.Image, sitk.Image]]:
    """Spacing, number of points, fixed and moving image; of levels with the same voxels the last.

    Images of 4 mm voxels are no finer at 2 and 1 mm.
    """
    every = list(
        zip(options.spacings_mm, options.samples_at, views.fixed, views.moving, strict=True)
    )
    sizes = [(image.GetSize(), target.GetSize()) for _, _, image, target in every]
    return [level for k, level in enumerate(every) if sizes[k] not in sizes[k + 1 :]]


def _leading(candidates: list[Candidate], worth: float, points: Reals) -> list[Candidate]:
    """The best one and all others not much worse, best first; of the same position only one."""
    some = points[:, :: max(1, points.shape[1] // COMPARED_POINTS)]
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score):
        if kept and candidate.score < worth * kept[0].score:
            break
        if all(candidate.away_mm(k, some) > SAME_POSITION_MM for k in kept):
            kept.append(candidate)
    return kept


def _with_one(points: Reals) -> Reals:
    return np.vstack([points, np.ones(points.shape[1])])


def drawn(image: sitk.Image, mask: sitk.Image, most: int, seed: int) -> tuple[Reals, Array]:
    """Points (3, n) of the mask in LPS mm, at most so many, and the image's values there.

    They lie anywhere in their voxels: on the voxels' centres, mutual information has false optima
    where the grids of both images coincide (Pluim et al., 2000).
    """
    random = np.random.default_rng(seed)
    index = np.argwhere(sitk.GetArrayFromImage(nearest_on(image, mask)) > 0)[:, ::-1]
    if len(index) > most:
        index = index[np.sort(random.choice(len(index), most, replace=False))]
    anywhere = (index + random.uniform(-0.5, 0.5, index.shape)).T
    found = look_up(sitk.GetArrayFromImage(image), anywhere.astype(np.float32))
    matrix = Grid.of(image).index_to_world
    points: Reals = matrix[:3, :3] @ anywhere[:, found.known] + matrix[:3, 3:]
    return points, found.values

"""Whether a registration holds when it is done again, and in every part of the body.

Two figures that need no truth. A registration is repeated from new points and from other starts:
where other positions fit as well, none of them is the answer. And a body in blocks shows whether
each of them would rather lie elsewhere: a limb that was bent otherwise in the second scan has a
rigid registration that repeats perfectly and is wrong nearly everywhere.

Blocks are compared by point similarity (Rogelj, Kovacic and Gee, Computer Vision and Image
Understanding 2003;92:112): what a pair of values adds to the mutual information of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.progress import Progress
from SynthCTLib.registration.likeness import Reals, binned
from SynthCTLib.registration.linear import drawn, follow
from SynthCTLib.registration.options import RigidOptions
from SynthCTLib.registration.pyramid import Views
from SynthCTLib.registration.quality import MISFIT_MM, Fit, Kind, Registration
from SynthCTLib.registration.search import Matrix
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.volume import Grid, Unit, Volume

Mask = npt.NDArray[np.bool_]

SPACINGS_MM = (4.0, 2.0)
SAMPLES = 60_000
FINAL_SAMPLES = 200_000
OTHER_POINTS = 100  # added to the seed
OTHER_START_MM = 15.0  # more than what is refused, or nothing would be
OTHER_START_DEGREES = 10.0
MOST_REPEAT_MM = 2.0
REFUSED_REPEAT_MM = 10.0

BLOCK_MM = 40.0
REACH_MM = 10.0
STEP_MM = 2.0
BINS = 24
BONE_HU = 250.0
NEAR_BONE_MM = 8.0
BLOCK_POINTS = 20_000
LEAST_POINTS = 150  # of a block
# A block whose best place says less than this share of what the images say on average is mute.
LEAST_SAID = 0.25
# A displacement is needed only where staying loses a tenth of what the best one says.
NEARLY_BEST = 0.9
# Of the sarcoma pairs looked at, those whose bone outlines agree have 0, others 0.23 to 0.6.
MOST_MISFIT_SHARE = 0.2


def examined(
    fixed: Volume,
    moving: Volume,
    registration: Registration,
    *,
    fixed_mask: Volume | None = None,
    threads: int | None = None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Registration:
    """The registration with its :class:`~.quality.Fit`.

    A given transform is not repeated. Raises RegistrationFailed when another position as good is
    more than ``REFUSED_REPEAT_MM`` away, InputError when the transform is not linear.
    """
    matrix = matrix_of(registration.transform)
    views = Views.of(fixed, moving, SPACINGS_MM, fixed_mask)
    repeat_mm = float("nan")
    if registration.kind == Kind.RIGID:
        options = RigidOptions(
            spacings_mm=SPACINGS_MM,
            samples=SAMPLES,
            final_samples=FINAL_SAMPLES,
            seed=RigidOptions().seed + OTHER_POINTS,
            threads=threads,
        )
        repeat_mm = _repeated_mm(views, matrix, options, progress.within("Repeating", 0.7))
        if repeat_mm > REFUSED_REPEAT_MM:
            raise RegistrationFailed(
                f"The registration cannot be repeated: {repeat_mm:.0f} mm away the images fit as "
                "well: check that both show the same body part and enough of it, or give a "
                "transform."
            )
    progress.stage("Looking at the parts", 0.3)
    misfit = _misfit(views, matrix, fixed.unit, moving.unit, progress)
    fit = Fit(repeat_mm, misfit.median_mm, misfit.share, misfit.places, misfit.near_bone)
    progress.update(1.0)
    return replace(registration, fit=replace(fit, warnings=tuple(fit_warnings(fit))))


def fit_warnings(fit: Fit, kind: Kind = Kind.RIGID) -> Iterator[str]:
    """Sentences about what of a fit is too much; its own warnings are not looked at."""
    bent = kind == Kind.DEFORMABLE
    if fit.repeat_mm > MOST_REPEAT_MM:
        it = "the rigid registration that it began from" if bent else "it"
        yield (
            f"Done again from other points and starts, {it} ends {fit.repeat_mm:.1f} mm away and "
            f"fits as well (up to {MOST_REPEAT_MM:g} mm is usual): do not rely on edges."
        )
    if fit.places == 0:
        yield (
            "No part of the body shows enough in both images to tell whether it fits: look at the "
            "outlines."
        )
    if fit.misfit_share >= MOST_MISFIT_SHARE:
        where = "near bone" if fit.near_bone else "of the body"
        reason = (
            "the deformation does not follow there"
            if bent
            else "one rigid movement does not fit this pair, perhaps a limb that was bent "
            "otherwise, which a deformable registration follows"
        )
        yield (
            f"In {fit.misfit_share:.0%} of {fit.places} places {where}, a shift of "
            f"{MISFIT_MM:g} mm or more would fit clearly better: {reason}. Do not rely on figures "
            "of bone."
        )


def _body_points(views: Views) -> Reals:
    """(n, 3), LPS mm: the voxel centres of the coarse body."""
    matrix = Grid.of(views.coarse_fixed).index_to_world
    index = np.argwhere(views.near)[:, ::-1]
    points: Reals = index @ matrix[:3, :3].T + matrix[:3, 3]
    return points


def _repeated_mm(views: Views, matrix: Matrix, options: RigidOptions, progress: Progress) -> float:
    """How far from a rigid transform its rivals send the body, in the median; the farthest."""
    points = _body_points(views)
    starts = [matrix, *(matrix @ away for away in _displacements(points))]
    ends = follow(views, starts, Kind.RIGID, options, progress)
    between = [end.matrix - matrix for end in ends]
    return max(
        float(np.median(np.linalg.norm(points @ b[:3, :3].T + b[:3, 3], axis=1))) for b in between
    )


def _displacements(points: Reals) -> Iterator[Matrix]:
    """Two ways to lie otherwise: along and about the long axis of the body, and across."""
    centre = points.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(points.T))
    for along, about, sign in ((2, 2, 1.0), (2, 1, -1.0)):
        turn = np.radians(OTHER_START_DEGREES) * sign * axes[:, about]
        away = np.eye(4)
        away[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
        away[:3, 3] = centre - away[:3, :3] @ centre + sign * OTHER_START_MM * axes[:, along]
        yield away


@dataclass(frozen=True)
class _Misfit:
    """See :class:`~.quality.Fit`."""

    median_mm: float
    share: float
    places: int
    near_bone: bool


def _misfit(
    views: Views, matrix: Matrix, fixed_unit: Unit, moving_unit: Unit, progress: Progress
) -> _Misfit:
    """How far blocks of the body would rather lie from where the matrix puts them."""
    image, target = views.fixed[-1], views.moving[-1]
    points, values = drawn(image, views.mask, 10 * BLOCK_POINTS, seed=1)
    seen = _Seen(target, matrix)
    first, inside = seen.at(points, np.zeros(3))
    points, values, first = points[:, inside], values[inside], first[inside]
    if points.shape[1] < LEAST_POINTS:
        return _Misfit(float("nan"), 0.0, 0, False)
    fixed = np.clip(binned(values, BINS), 0, BINS - 1).astype(np.intp)
    told = _told(fixed, first)
    near = np.zeros(points.shape[1], bool)
    if moving_unit == Unit.HU:
        near = seen.near_bone(points)
    elif fixed_unit == Unit.HU:
        near = values >= BONE_HU
    near_bone = bool(np.count_nonzero(near) >= LEAST_POINTS)
    chosen = np.flatnonzero(near) if near_bone else np.arange(points.shape[1])
    chosen = chosen[:: max(1, len(chosen) // BLOCK_POINTS)]
    average = float(told[fixed, first].mean())
    points, fixed = points[:, chosen], fixed[chosen]
    block = _blocks(points)
    counts = np.bincount(block)
    steps = np.arange(-REACH_MM, REACH_MM + STEP_MM / 2, STEP_MM)
    shifts = np.array(list(product(steps, repeat=3)))
    said = np.empty((len(shifts), len(counts)))
    for number, shift in enumerate(shifts):
        if number % 100 == 0:
            progress.update(number / len(shifts))
        there, inside = seen.at(points, shift)
        says = np.where(inside, told[fixed, there], 0.0)
        said[number] = np.bincount(block, weights=says, minlength=len(counts))
    best = said.max(axis=0)
    telling = (counts >= LEAST_POINTS) & (best >= LEAST_SAID * average * counts)
    if not telling.any():
        return _Misfit(float("nan"), 0.0, 0, near_bone)
    lengths = np.linalg.norm(shifts, axis=1)[:, None]
    needed = np.where(said >= NEARLY_BEST * best, lengths, np.inf).min(axis=0)[telling]
    return _Misfit(
        float(np.median(needed)), float((needed >= MISFIT_MM).mean()), len(needed), near_bone
    )


def _told(fixed: npt.NDArray[np.intp], moving: npt.NDArray[np.intp]) -> Reals:
    """What a pair of bins adds to the mutual information, (fixed, moving)."""
    joint = np.bincount(fixed * BINS + moving, minlength=BINS * BINS).reshape(BINS, BINS)
    share = ndimage.gaussian_filter(joint + 0.5, 0.7)
    share /= share.sum()
    alone = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    told: Reals = np.log(share / alone)
    return told


def _blocks(points: Reals) -> npt.NDArray[np.intp]:
    """The number of the block that each point (3, n) lies in."""
    cell = ((points - points.min(axis=1, keepdims=True)) / BLOCK_MM).astype(np.intp)
    _, number = np.unique(cell, axis=1, return_inverse=True)
    return np.asarray(number, np.intp).ravel()


class _Seen:
    """The moving image in bins, looked up at its nearest voxels."""

    def __init__(self, image: sitk.Image, matrix: Matrix) -> None:
        self._image = image
        values = sitk.GetArrayFromImage(image)
        self._bins = binned(values, BINS).astype(np.intp)
        self._size = np.array(values.shape[::-1])[:, None]
        self._to_index = np.linalg.inv(Grid.of(image).index_to_world)
        self._matrix = self._to_index @ matrix

    def at(self, points: Reals, shift: Reals) -> tuple[npt.NDArray[np.intp], Mask]:
        """Bins (n,), and which points (3, n), moved and then shifted (mm), lie inside."""
        index, inside = self._nearest(points, shift)
        x, y, z = index
        return self._bins[z, y, x], inside

    def near_bone(self, points: Reals) -> Mask:
        """Which points come to lie near bone; for an image in HU."""
        bone = sitk.GetArrayViewFromImage(self._image) >= BONE_HU
        if not bone.any():
            return np.zeros(points.shape[1], bool)
        away = ndimage.distance_transform_edt(~bone, sampling=self._image.GetSpacing()[::-1])
        (x, y, z), inside = self._nearest(points, np.zeros(3))
        return np.asarray(inside & (away[z, y, x] <= NEAR_BONE_MM))

    def _nearest(self, points: Reals, shift: Reals) -> tuple[npt.NDArray[np.intp], Mask]:
        offset = self._matrix[:3, 3] + self._to_index[:3, :3] @ shift
        index = np.rint(self._matrix[:3, :3] @ points + offset[:, None]).astype(np.intp)
        inside = np.all((index >= 0) & (index < self._size), axis=0)
        return np.where(inside, index, 0), inside

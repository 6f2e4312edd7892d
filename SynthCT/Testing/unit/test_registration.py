"""Registration of closed-form heads: the true transform is known everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import Cancelled, InputError, RegistrationFailed
from SynthCTLib.imaging.grids import resample
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.registration import (
    AffineOptions,
    Bending,
    DeformableOptions,
    Fit,
    Kind,
    Metric,
    Quality,
    Registration,
    RigidOptions,
    assess,
    bending,
    examined,
    examined_bending,
    follow_bending,
    register_affine,
    register_deformable,
    register_rigid,
)
from SynthCTLib.registration.fit import fit_warnings
from SynthCTLib.volume import DEFAULT_UNIT, Grid, Role, Volume

Reals = npt.NDArray[np.float64]
Map = Callable[[Reals], Reals]

LPS = np.eye(3)
RAS = np.diag([-1.0, -1.0, 1.0])
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
OBLIQUE = Rotation.from_euler("xyz", (20, -15, 35), degrees=True).as_matrix()

# Ellipsoids: centre (mm from the head's), half axes (mm), MR, CT (HU). Later ones lie on top.
HEAD = (
    ((0, 0, 0), (75, 92, 105), 800, 20),
    ((2, -88, -20), (14, 22, 18), 700, 0),  # nose
    ((0, 2, 4), (69, 86, 99), 60, 950),  # skull
    ((0, 2, 4), (63, 80, 93), 550, 38),  # brain
    ((14, 12, 20), (12, 30, 10), 150, 8),
    ((-16, 5, 15), (9, 24, 9), 150, 8),
    ((0, -68, 5), (18, 14, 12), 20, -1000),  # sinus
    ((-28, -50, 10), (13, 13, 13), 250, 15),
    ((30, 40, -50), (20, 16, 14), 420, 45),
)
LIMB = (
    ((0, 0, 0), (55, 62, 900), 900, -90),
    ((3, 2, 0), (45, 50, 900), 300, 55),
    ((12, -10, 0), (15, 15, 900), 40, 1100),
    ((12, -10, 0), (8, 8, 900), 800, 20),
)


@dataclass(frozen=True)
class Movement:
    """Fixed to moving LPS mm: rotation vector (degrees) about the origin, then a shift (mm)."""

    degrees: tuple[float, float, float]
    shift_mm: tuple[float, float, float]

    def __call__(self, points: Reals) -> Reals:
        return Rotation.from_rotvec(np.radians(self.degrees)).apply(points) + self.shift_mm

    def back(self, points: Reals) -> Reals:
        turn = Rotation.from_rotvec(np.radians(self.degrees))
        return turn.inv().apply(points - np.asarray(self.shift_mm))


STILL = Movement((0, 0, 0), (0, 0, 0))
# The heads here have 4 mm voxels: a third level would see the same images again.
QUICK = RigidOptions(spacings_mm=(8.0, 4.0), samples=20_000)


def texture(points: Reals) -> Reals:
    """Smooth, aperiodic structure of about -1 to 1, in waves of 20 to 60 mm: ellipsoids alone are
    their own image under many affine transforms."""
    random = np.random.default_rng(11)
    waves = [random.normal(0, 2 * np.pi / 60, 3) for _ in range(12)]
    return sum(np.sin(points @ wave + k) for k, wave in enumerate(waves)) / 3.5


def grid_around(
    centre_mm: tuple[float, float, float],
    extent_mm: tuple[float, float, float],
    spacing_mm: tuple[float, float, float],
    direction: Reals = LPS,
) -> Grid:
    size = [round(e / s) for e, s in zip(extent_mm, spacing_mm, strict=True)]
    origin = np.asarray(centre_mm) - direction @ (
        np.asarray(spacing_mm) * (np.asarray(size) - 1) / 2
    )
    return Grid(tuple(size), spacing_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def picture(
    role: Role,
    grid: Grid,
    to_anatomy: Map = STILL,
    anatomy: tuple[tuple[object, ...], ...] = HEAD,
    seed: int = 0,
) -> Volume:
    """MR or CT of the ellipsoids, seen from a grid whose points ``to_anatomy`` takes to them."""
    nx, ny, nz = grid.size
    z, y, x = np.meshgrid(np.arange(nz), np.arange(ny), np.arange(nx), indexing="ij")
    index = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(float)
    matrix = grid.index_to_world
    points = to_anatomy(index @ matrix[:3, :3].T + matrix[:3, 3])
    values = np.full(len(points), -1000.0 if role == Role.CT else 0.0)
    structure = np.clip(texture(points), -1, 1)
    edge_mm = 0.5 * min(grid.spacing_mm)
    for centre, axes, mr, ct in anatomy:
        radius = np.linalg.norm((points - centre) / axes, axis=1)
        inside = np.clip((1 - radius) * min(axes) / edge_mm / 2 + 0.5, 0, 1)
        tissue = ct if role == Role.CT else mr
        values += inside * (tissue * (1 + 0.25 * structure) - values)
    noise = np.random.default_rng(seed).normal(0, 15, len(values))
    values = np.abs(values + noise) if role == Role.MR else values + noise
    image = sitk.GetImageFromArray(values.reshape(nz, ny, nx).astype(np.float32))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return Volume(image, role, DEFAULT_UNIT[role])


WHOLE = (190.0, 240.0, 250.0)
FIXED_GRID = grid_around((0, 0, 0), WHOLE, (4, 4, 4))
HEAD_POINTS = np.array(
    [
        [75 * a, 92 * b, 105 * c]
        for a, b, c in np.random.default_rng(3).uniform(-1, 1, (400, 3))
        if a * a + b * b + c * c < 1
    ]
)
EVERY = np.ones(len(HEAD_POINTS), bool)


@pytest.fixture(scope="module")
def mr() -> Volume:
    return picture(Role.MR, FIXED_GRID)


@pytest.fixture(scope="module")
def ct() -> Volume:
    return ct_of(STILL)


def ct_of(
    movement: Movement,
    direction: Reals = LPS,
    extent_mm: tuple[float, float, float] = WHOLE,
    offset_mm: tuple[float, float, float] = (0, 0, 0),
) -> Volume:
    """A CT of the moved head, on a grid about where it went."""
    centre = movement(np.array([offset_mm], dtype=float))[0]
    grid = grid_around(tuple(centre.tolist()), extent_mm, (3, 3, 5), direction)
    return picture(Role.CT, grid, movement.back, seed=1)


def error_mm(transform: sitk.Transform, truth: Map, part: npt.NDArray[np.bool_] = EVERY) -> float:
    """The largest distance over the head between where points go and where they should."""
    points = HEAD_POINTS[part]
    gone = np.array([transform.TransformPoint(p) for p in points.tolist()])
    return float(np.linalg.norm(gone - truth(points), axis=1).max())


@pytest.mark.parametrize(
    ("movement", "direction"),
    [
        (Movement((30, 0, 0), (50, 0, 0)), LPS),
        (Movement((-10, 5, -28), (-20, 30, -35)), RAS),
        (Movement((8, 24, 10), (300, -200, 1200)), CORONAL),
        (Movement((-14, -20, 5), (0, 0, 0)), OBLIQUE),
    ],
    ids=["30-degrees-50-mm", "ras", "coronal-far-away", "oblique"],
)
def test_rigid_recovers_a_known_movement(mr: Volume, movement: Movement, direction: Reals) -> None:
    found = register_rigid(mr, ct_of(movement, direction))
    # The voxels are of 4 mm: another draw of points ends up to 0.6 mm from the truth.
    assert error_mm(found.transform, movement) < 0.75
    assert found.kind == Kind.RIGID
    assert found.converged
    assert found.quality.suspicions == ()
    assert found.quality.overlap > 0.95


def test_rigid_on_an_oblique_fixed_grid_with_half_the_head_in_the_moving_field() -> None:
    movement = Movement((12, -18, 9), (15, -25, 10))
    fixed = picture(Role.MR, grid_around((0, 0, 0), WHOLE, (4, 4, 4), OBLIQUE))
    moving = ct_of(movement, LPS, (190, 240, 110), (0, 0, 55))
    found = register_rigid(fixed, moving)
    # Half an ellipsoid holds its place less firmly than a whole one: the optimum lies up to 2.7 mm
    # from the truth, two thirds of a voxel.
    assert error_mm(found.transform, movement, HEAD_POINTS[:, 2] > 5) < 3.0
    assert found.quality.overlap > 0.8


def test_the_transform_takes_fixed_points_to_moving_points(mr: Volume) -> None:
    shift = (12.0, -7.0, 5.0)
    moving = ct_of(Movement((0, 0, 0), shift))
    start = sitk.TranslationTransform(3, (8.0, -4.0, 2.0))
    found = register_rigid(mr, moving, initial=start)
    assert np.allclose(found.transform.TransformPoint((0, 0, 0)), shift, atol=0.3)
    # A voxel of bright bone on the fixed grid comes from bone of the moving image.
    moved = resample(moving, mr.grid, transform=found.transform)
    expected = picture(Role.CT, mr.grid)
    assert np.mean(np.abs(moved.array - expected.array)) < 40
    back = resample(moving, mr.grid, transform=found.transform.GetInverse())
    assert np.mean(np.abs(back.array - expected.array)) > 80


def test_registration_is_repeatable_and_independent_of_threads(mr: Volume) -> None:
    movement = Movement((6, -4, 3), (5, -3, 4))
    moving = ct_of(movement)
    start = sitk.Euler3DTransform()
    ends = [
        register_rigid(mr, moving, replace(QUICK, threads=threads), initial=start).transform
        for threads in (1, 1, 2)
    ]
    points = [np.array([t.TransformPoint(p) for p in HEAD_POINTS.tolist()]) for t in ends]
    assert np.array_equal(points[0], points[1])
    assert np.array_equal(points[0], points[2])


def test_the_callers_initial_transform_stays_as_it_was(mr: Volume, ct: Volume) -> None:
    start = sitk.Euler3DTransform()
    start.SetTranslation((2.0, 0.0, 0.0))
    before = start.GetParameters()
    register_rigid(mr, ct, QUICK, initial=start)
    assert start.GetParameters() == before


def test_a_mask_keeps_what_moved_by_itself_from_counting(mr: Volume) -> None:
    # The lower half of the "head" turns by itself, as a jaw and a neck do.
    upper, lower = Movement((4, -3, 6), (6, 4, -3)), Movement((4, -3, 18), (14, 4, -3))

    def back(points: Reals) -> Reals:
        above = upper.back(points)
        return np.where(above[:, 2:] > 10, above, lower.back(points))

    moving = picture(Role.CT, grid_around((0, 0, 0), WHOLE, (4, 4, 4)), back)
    z = np.indices(mr.array.shape)[0] * 4 + FIXED_GRID.origin_mm[2]
    mask = mr.mask(z > 20)
    found = register_rigid(mr, moving, initial=sitk.Euler3DTransform(), fixed_mask=mask)
    assert error_mm(found.transform, upper, HEAD_POINTS[:, 2] > 20) < 2.0
    unmasked = register_rigid(
        mr, moving, replace(QUICK, least_quality=0.0), initial=sitk.Euler3DTransform()
    )
    assert error_mm(unmasked.transform, upper, HEAD_POINTS[:, 2] > 20) > 4.0


def test_affine_recovers_scale_and_shear(mr: Volume) -> None:
    matrix = np.array([[1.08, 0.05, 0], [0, 0.94, 0.06], [-0.04, 0, 1.05]])
    truth: Map = lambda p: p @ matrix.T + (6, -4, 3)  # noqa: E731
    back: Map = lambda p: (p - (6, -4, 3)) @ np.linalg.inv(matrix).T  # noqa: E731
    moving = picture(Role.MR, grid_around((6, -4, 3), (230, 250, 280), (3, 3, 4)), back)
    like = 0.1  # of different people
    rigid = register_rigid(
        mr, moving, replace(QUICK, least_quality=like), initial=sitk.Euler3DTransform()
    )
    found = register_affine(mr, moving, AffineOptions(least_quality=like), initial=rigid)
    assert error_mm(rigid.transform, truth) > 4.0
    assert error_mm(found.transform, truth) < 1.0
    assert found.kind == Kind.AFFINE
    assert found.quality.distinctness > rigid.quality.distinctness


@pytest.mark.parametrize("metric", list(Metric))
def test_splines_follow_a_smooth_warp_that_affine_cannot(mr: Volume, metric: Metric) -> None:
    def warp(points: Reals) -> Reals:
        """Up to 7 mm, the inverse of what the registration must find to first order."""
        wave = np.sin(2 * np.pi * points[:, [1, 2, 0]] / 150.0)
        return points + 7.0 * wave

    # The anatomy that the moving image shows at y is that of the fixed one at warp(y).
    moving = picture(Role.MR, FIXED_GRID, warp, seed=2)

    def missed_mm(transform: sitk.Transform) -> float:
        gone = np.array([transform.TransformPoint(p) for p in HEAD_POINTS.tolist()])
        return float(np.linalg.norm(warp(gone) - HEAD_POINTS, axis=1).mean())

    like = AffineOptions(least_quality=0.1)  # of different people
    affine = register_affine(mr, moving, like, initial=sitk.Euler3DTransform())
    options = DeformableOptions(metric=metric, iterations=25)
    found = register_deformable(mr, moving, options, initial=affine)
    assert missed_mm(affine.transform) > 5.0
    assert missed_mm(found.transform) < 0.5 * missed_mm(affine.transform)
    assert found.quality.folding == 0.0
    assert found.kind == Kind.DEFORMABLE


def test_a_finer_level_follows_finer_anatomy(mr: Volume) -> None:
    def warp(points: Reals) -> Reals:
        return points + 4.0 * np.sin(2 * np.pi * points[:, [1, 2, 0]] / 70.0)

    moving = picture(Role.MR, FIXED_GRID, warp, seed=2)

    def missed_mm(options: DeformableOptions) -> float:
        found = register_deformable(mr, moving, options, initial=sitk.AffineTransform(3))
        assert found.quality.folding == 0.0
        gone = np.array([found.transform.TransformPoint(p) for p in HEAD_POINTS.tolist()])
        return float(np.linalg.norm(warp(gone) - HEAD_POINTS, axis=1).mean())

    coarse = missed_mm(DeformableOptions(iterations=20))
    two = DeformableOptions(control_spacings_mm=(30.0, 15.0), spacings_mm=(4.0, 4.0), iterations=20)
    fine = missed_mm(two)
    assert fine < 0.8 * coarse


def test_wild_splines_are_refused_for_folding(mr: Volume) -> None:
    turned = picture(Role.MR, FIXED_GRID, Movement((0, 90, 0), (0, 0, 0)), seed=2)
    wild = DeformableOptions(
        control_spacings_mm=(12.0,), stiffness=0.0, iterations=20, least_quality=0.0
    )
    with pytest.raises(RegistrationFailed, match="folded"):
        register_deformable(mr, turned, wild, initial=sitk.AffineTransform(3))


def noise(grid: Grid, role: Role) -> Volume:
    values = np.random.default_rng(5).uniform(0, 1000, grid.size[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return Volume(image, role, DEFAULT_UNIT[role])


def test_noise_is_refused(mr: Volume, ct: Volume) -> None:
    with pytest.raises(RegistrationFailed, match="take them as they lie"):
        register_rigid(noise(FIXED_GRID, Role.MR), ct, QUICK)


def test_a_head_is_not_registered_to_a_limb(mr: Volume) -> None:
    grid = grid_around((0, 0, 0), (200, 200, 240), (4, 4, 4))
    limb = picture(Role.CT, grid, anatomy=LIMB)
    with pytest.raises(RegistrationFailed, match="not credible"):
        register_rigid(mr, limb, QUICK)


def test_images_apart_are_refused_when_the_start_says_so(mr: Volume, ct: Volume) -> None:
    apart = sitk.TranslationTransform(3, (900.0, 0.0, 0.0))
    with pytest.raises(RegistrationFailed, match="only 0% of the smaller body"):
        register_rigid(mr, ct, QUICK, initial=apart)


@pytest.mark.parametrize("role", [Role.MR, Role.CT])
def test_an_empty_image_is_refused(mr: Volume, role: Role) -> None:
    empty = mr.with_array(np.full(mr.array.shape, -1000.0 if role == Role.CT else 0.0), role=role)
    with pytest.raises(RegistrationFailed, match=f"The {role} volume shows no contrast"):
        register_rigid(mr, empty)
    with pytest.raises(RegistrationFailed, match=f"The {role} volume shows no contrast"):
        register_rigid(empty, mr)


def test_values_that_are_no_numbers_are_refused(mr: Volume, ct: Volume) -> None:
    values = mr.array.copy()
    values[10:14, 10:14, 10:14] = np.nan
    with pytest.raises(InputError, match="NaN"):
        register_rigid(mr.with_array(values), ct)


def test_a_mask_without_body_in_it_is_refused(mr: Volume, ct: Volume) -> None:
    nothing = mr.mask(np.zeros(mr.array.shape, bool))
    with pytest.raises(RegistrationFailed, match="inside the mask"):
        register_rigid(mr, ct, fixed_mask=nothing)
    with pytest.raises(InputError, match="The fixed mask is a mr volume"):
        register_rigid(mr, ct, fixed_mask=mr)


def test_an_unfinished_descent_is_refused(mr: Volume, ct: Volume) -> None:
    with pytest.raises(RegistrationFailed, match="did not converge in 4 iterations"):
        register_rigid(mr, ct, RigidOptions(iterations=2), initial=sitk.Euler3DTransform())


def test_what_no_family_can_start_from_is_refused(mr: Volume, ct: Volume) -> None:
    stretched = sitk.ScaleTransform(3, (1.1, 1.0, 1.0))
    spline = sitk.BSplineTransformInitializer(mr.image, [4, 4, 4], 3)
    with pytest.raises(InputError, match="scales or shears"):
        register_rigid(mr, ct, initial=stretched)
    with pytest.raises(InputError, match="not linear"):
        register_affine(mr, ct, initial=spline)


@pytest.mark.parametrize("after", [2, 30, 45])
def test_rigid_stops_at_once_when_asked(mr: Volume, ct: Volume, after: int) -> None:
    """Early and late in the search (2, 30), and while refining (45)."""
    _stops(lambda p: register_rigid(mr, ct, progress=p), after)


def test_affine_stops_at_once_when_asked(mr: Volume, ct: Volume) -> None:
    start = sitk.Euler3DTransform()
    _stops(lambda p: register_affine(mr, ct, initial=start, progress=p), 5)


def test_splines_stop_at_once_when_asked(mr: Volume, ct: Volume) -> None:
    start = sitk.AffineTransform(3)
    _stops(lambda p: register_deformable(mr, ct, initial=start, progress=p), 5)


def test_examining_stops_at_once_when_asked(mr: Volume, ct: Volume) -> None:
    start = given(sitk.Euler3DTransform())
    found = replace(start, kind=Kind.RIGID)
    _stops(lambda p: examined(mr, ct, found, progress=p), 3)
    _stops(lambda p: examined(mr, ct, start, progress=p), 4)


def _stops(work: Callable[[Progress], object], after: int) -> None:
    events: list[ProgressEvent] = []
    asked: list[float] = []

    def listen(event: ProgressEvent) -> None:
        events.append(event)
        if len(events) == after:
            asked.append(time.monotonic())

    with pytest.raises(Cancelled):
        work(Progress(listen, lambda: bool(asked)))
    assert len(events) == after
    assert time.monotonic() - asked[0] < 2.0


def test_an_error_in_a_listener_is_not_swallowed(mr: Volume, ct: Volume) -> None:
    def listen(event: ProgressEvent) -> None:
        if event.stage.endswith(" mm"):
            raise ZeroDivisionError("a bug in the listener")

    start = sitk.Euler3DTransform()
    with pytest.raises(ZeroDivisionError, match="listener"):
        register_rigid(mr, ct, initial=start, progress=Progress(listen))


def test_progress_reaches_the_end(mr: Volume, ct: Volume) -> None:
    progress = Progress()
    register_affine(mr, ct, initial=sitk.Euler3DTransform(), progress=progress)
    assert progress.fraction == pytest.approx(1.0)


def _scaled(factor: float) -> sitk.Transform:
    return sitk.ScaleTransform(3, (factor,) * 3)


def _turned(degrees: float) -> sitk.Transform:
    return sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.0, float(np.radians(degrees)))


@pytest.mark.parametrize(
    ("transform", "suspicion"),
    [
        (sitk.Euler3DTransform(), ""),
        (sitk.TranslationTransform(3, (3.0, 0.0, 0.0)), ""),
        (sitk.TranslationTransform(3, (60.0, 40.0, 50.0)), "Other positions fit nearly as well"),
        (sitk.TranslationTransform(3, (500.0, 0.0, 0.0)), "Only 0% of the smaller body"),
        (_turned(80), "turns by 80 degrees"),
        (_scaled(1.6), "scales by 1.60 x 1.60 x 1.60"),
        (sitk.ScaleTransform(3, (-1.0, 1.0, 1.0)), "mirrors"),
    ],
)
def test_a_given_transform_is_assessed(
    mr: Volume, ct: Volume, transform: sitk.Transform, suspicion: str
) -> None:
    said = assess(mr, ct, transform).suspicions
    assert (said == ()) if not suspicion else any(suspicion in s for s in said)


def test_quality_falls_with_the_distance_from_the_truth(mr: Volume, ct: Volume) -> None:
    found = [
        assess(mr, ct, sitk.TranslationTransform(3, (shift, 0.0, 0.0))).mutual_information
        for shift in (0.0, 3.0, 8.0, 20.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.5 * found[2]


def test_a_folding_transform_is_seen(mr: Volume, ct: Volume) -> None:
    spline = sitk.BSplineTransformInitializer(mr.image, [6, 6, 6], 3)
    along_x = np.zeros((3, 9, 9, 9))
    along_x[0] = 150.0 * (-1.0) ** np.arange(9)
    spline.SetParameters(along_x.ravel().tolist())
    quality = assess(mr, ct, spline)
    assert quality.folding > 0.05
    assert any("folded" in s for s in quality.suspicions)


def test_a_sound_registration_repeats_and_fits_everywhere(mr: Volume, ct: Volume) -> None:
    found = register_rigid(mr, ct, QUICK, initial=sitk.Euler3DTransform())
    progress = Progress()
    again = examined(mr, ct, found, threads=1, progress=progress)
    assert again.fit is not None
    assert again.fit.repeat_mm < 1.0
    assert again.fit.misfit_mm == 0.0
    assert again.fit.misfit_share < 0.05
    assert again.fit.places > 10
    assert again.fit.near_bone
    assert again.doubts == ()
    assert progress.fraction == pytest.approx(1.0)
    assert (again.transform, found.fit) == (found.transform, None)


def given(transform: sitk.Transform) -> Registration:
    return Registration(transform, Kind.GIVEN, Quality(0.3, 1.0, 0.0), np.nan, True, 0)


@pytest.mark.parametrize("moving_role", [Role.CT, Role.MR])
def test_a_body_that_bent_in_between_is_told(moving_role: Role) -> None:
    """The lower half lies 6 mm to the side; bone is seen in either image."""

    def back(points: Reals) -> Reals:
        return points - np.where(points[:, 2:] > 0, 0.0, 1.0) * (6.0, 0.0, 0.0)

    grid = grid_around((0, 0, 0), WHOLE, (4, 4, 4))
    fixed = picture(Role.MR if moving_role == Role.CT else Role.CT, FIXED_GRID)
    fit = examined(fixed, picture(moving_role, grid, back), given(sitk.Euler3DTransform())).fit
    assert fit is not None
    assert np.isnan(fit.repeat_mm)  # what is given is not looked for again
    assert fit.near_bone
    assert 0.2 < fit.misfit_share < 0.7
    assert ["one rigid movement does not fit" in w for w in fit.warnings] == [True]


def tube(role: Role, length_mm: float) -> Volume:
    """A limb that is the same in every slice and from every side."""
    grid = grid_around((0, 0, 0), (140, 140, length_mm), (4, 4, 4))
    nx, ny, nz = grid.size
    x = (np.arange(nx) - (nx - 1) / 2) * 4
    radius = np.broadcast_to(np.hypot(x[None, :, None], x[None, None, :]), (nz, ny, nx))
    muscle, bone, air = (400, 30, 0) if role == Role.MR else (50, 1000, -1000)
    values = np.where(radius < 20, bone, np.where(radius < 50, muscle, air)).astype(np.float32)
    values += np.random.default_rng(nz).normal(0, 5, values.shape).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    return Volume(image, role, DEFAULT_UNIT[role])


def test_a_position_that_another_is_as_good_as_is_refused() -> None:
    fixed, moving = tube(Role.MR, 120), tube(Role.CT, 240)
    found = register_rigid(fixed, moving, QUICK, initial=sitk.Euler3DTransform())
    with pytest.raises(RegistrationFailed, match=r"cannot be repeated: 1\d mm away .* as well"):
        examined(fixed, moving, found)


def test_what_shows_nothing_in_parts_is_not_judged(ct: Volume) -> None:
    fit = examined(noise(FIXED_GRID, Role.MR), ct, given(sitk.Euler3DTransform())).fit
    assert fit is not None
    assert np.isnan(fit.misfit_mm) == (fit.places == 0)
    outside = given(sitk.TranslationTransform(3, (900.0, 0.0, 0.0)))
    fit = examined(noise(FIXED_GRID, Role.MR), ct, outside).fit
    assert fit is not None
    assert (fit.places, fit.misfit_share) == (0, 0.0)
    assert ["No part of the body" in w for w in fit.warnings] == [True]


def test_a_repeat_that_ends_elsewhere_is_a_doubt() -> None:
    quality = Quality(0.3, 1.0, 0.0, ("It looks odd.",))
    for repeat_mm, doubts in ((1.9, 0), (2.1, 1)):
        fit = Fit(repeat_mm, 0.0, 0.0, 9, True)
        fit = replace(fit, warnings=tuple(fit_warnings(fit)))
        found = Registration(sitk.Euler3DTransform(), Kind.RIGID, quality, 1.0, True, 9, fit)
        assert len(found.doubts) == 1 + doubts
        assert found.doubts[0] == "It looks odd."


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RigidOptions(bins=2),
        lambda: RigidOptions(spacings_mm=()),
        lambda: RigidOptions(spacings_mm=(2.0, 4.0)),
        lambda: RigidOptions(samples=10),
        lambda: RigidOptions(final_samples=10),
        lambda: RigidOptions(seed=0),
        lambda: RigidOptions(threads=0),
        lambda: RigidOptions(search_degrees=90.0),
        lambda: RigidOptions(search_mm=-1.0),
        lambda: AffineOptions(iterations=0),
        lambda: AffineOptions(least_quality=2.0),
        lambda: DeformableOptions(control_spacings_mm=(30.0, 15.0)),
        lambda: DeformableOptions(control_spacings_mm=(30.0, 20.0), spacings_mm=(4.0, 4.0)),
        lambda: DeformableOptions(control_spacings_mm=(6.0,)),
        lambda: DeformableOptions(folding_limit=1.0),
        lambda: DeformableOptions(stiffness=-1.0),
    ],
)
def test_settings_that_cannot_work_are_refused_when_built(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        wrong()


def test_where_no_deformation_is_credible_the_rigid_registration_is_kept(
    mr: Volume, ct: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of splines that may not help at all, none is: the reasons are told."""
    never = tuple(replace(options, least_quality=1.0) for options in bending.DEFORMATIONS)
    monkeypatch.setattr(bending, "DEFORMATIONS", never)
    rigid = register_rigid(mr, ct, QUICK, initial=sitk.Euler3DTransform())
    found = follow_bending(mr, ct, rigid, threads=1)
    assert found.registration is rigid
    assert (found.control_mm, found.moved_mm, found.most_moved_mm) == (None, 0.0, 0.0)
    assert [r.split(":")[0] for r in found.refused] == [
        "15 mm between control points",
        "30 mm between control points",
    ]
    assert all("distinctness" in r for r in found.refused)
    assert examined_bending(mr, ct, found, rigid_fit=None) is rigid


def test_a_deformation_that_does_not_fit_is_told() -> None:
    """A spline of no displacement, where the lower half lies 6 mm to the side."""

    def back(points: Reals) -> Reals:
        return points - np.where(points[:, 2:] > 0, 0.0, 1.0) * (6.0, 0.0, 0.0)

    fixed = picture(Role.MR, FIXED_GRID)
    moving = picture(Role.CT, grid_around((0, 0, 0), WHOLE, (4, 4, 4)), back)
    still = replace(given(sitk.Euler3DTransform()), kind=Kind.DEFORMABLE)
    found = examined_bending(fixed, moving, Bending(still, (), 15.0), rigid_fit=None)
    assert found.fit is not None
    assert found.kind == Kind.DEFORMABLE
    assert 0.2 < found.fit.misfit_share < 0.7
    assert ["the deformation does not follow there" in w for w in found.doubts] == [True]

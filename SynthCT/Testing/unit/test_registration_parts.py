"""The parts of registration, against closed forms and ITK."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import InputError, OutputError, RegistrationFailed
from SynthCTLib.progress import Progress
from SynthCTLib.registration import Kind, Metric, RigidOptions, read_transform, write_transform
from SynthCTLib.registration.deformable import Domain
from SynthCTLib.registration.freeform import FreeForm, bending
from SynthCTLib.registration.likeness import Likeness, workers
from SynthCTLib.registration.linear import Candidate, _Family, _leading, _levels, _refine
from SynthCTLib.registration.pyramid import Views, levels, near_body
from SynthCTLib.registration.similarity import BINS, Sampled, agreement, voxel_centres
from SynthCTLib.registration.transforms import LinearParts, jacobian_determinants, matrix_of
from SynthCTLib.volume import Grid, Role, Unit, Volume

TURN = Rotation.from_euler("xyz", (25, -10, 40), degrees=True).as_matrix()


def smooth_image(seed: int, size: tuple[int, int, int] = (30, 26, 22)) -> sitk.Image:
    """Random blobs on an oblique, anisotropic grid."""
    values = np.random.default_rng(seed).normal(0, 1, size[::-1]).astype(np.float32)
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(values), 2.5)
    image.SetSpacing((3.0, 4.0, 5.0))
    image.SetOrigin((-40.0, 15.0, 200.0))
    image.SetDirection(TURN.ravel().tolist())
    return image


def spline_on(image: sitk.Image, seed: int, size_mm: float = 3.0) -> sitk.BSplineTransform:
    spline = sitk.BSplineTransformInitializer(image, [4, 3, 5], 3)
    parameters = np.random.default_rng(seed).normal(0, size_mm, len(spline.GetParameters()))
    spline.SetParameters(parameters.tolist())
    return spline


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1.0, 1.0]), TURN])
@pytest.mark.parametrize("size", [(32, 32, 32), (37, 29, 41)])
def test_shrinking_moves_nothing(direction: np.ndarray, size: tuple[int, int, int]) -> None:
    grid = Grid(size, (1.0, 1.1, 2.6), (10.0, -20.0, 5.0), tuple(direction.ravel().tolist()))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    world = index @ grid.index_to_world[:3, :3].T + grid.index_to_world[:3, 3]
    ramp = (world @ (1.0, 2.0, -1.5)).transpose(2, 1, 0).astype(np.float32)
    volume = Volume(grid.blank(), Role.MR, Unit.ARBITRARY).with_array(ramp)
    for small in levels(volume, (8.0, 4.0)):
        values = sitk.GetArrayFromImage(small)
        inner = np.argwhere(np.ones(values.shape, bool))[:, ::-1]
        places = np.array([small.TransformIndexToPhysicalPoint(i.tolist()) for i in inner])
        seen = values[tuple(inner[:, ::-1].T)]
        # The darkest and brightest values are cut off on purpose.
        kept = (seen > np.percentile(ramp, 5)) & (seen < np.percentile(ramp, 95))
        assert np.allclose(seen[kept], (places @ (1.0, 2.0, -1.5))[kept], atol=0.05)
        assert max(small.GetSpacing()) < 8.5


def test_the_body_of_an_mr_and_of_a_ct() -> None:
    z, y, x = np.indices((30, 30, 30))
    ball = (x - 15) ** 2 + (y - 15) ** 2 + (z - 15) ** 2 < 64
    for inside, outside, unit in ((300.0, 10.0, Unit.ARBITRARY), (40.0, -1000.0, Unit.HU)):
        image = sitk.GetImageFromArray(np.where(ball, inside, outside).astype(np.float32))
        image.SetSpacing((4.0, 4.0, 4.0))
        near = near_body(image, unit)
        distance_mm = 4 * np.sqrt((x - 15) ** 2 + (y - 15) ** 2 + (z - 15) ** 2)
        assert near[distance_mm < 36].all()
        assert not near[distance_mm > 44].any()


def test_agreement_is_one_with_itself_and_nothing_with_noise() -> None:
    image = smooth_image(1, (40, 40, 40))
    points = voxel_centres(image, np.ones((40, 40, 40), bool), 20_000, seed=1)
    sampled = Sampled(image)
    bins, inside = sampled.bins_at(points)
    assert inside.all()
    same = agreement(bins, sampled, points)
    assert same.value == pytest.approx(1.0)
    assert same.overlap == 1.0
    noise = np.random.default_rng(0).integers(0, BINS, len(bins))
    assert agreement(noise, sampled, points).value < 0.02
    half = agreement(bins, sampled, points + TURN @ (60.0, 0.0, 0.0))
    assert half.overlap == pytest.approx(0.5, abs=0.02)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with workers(1) as executor:
        yield executor


def near_start() -> np.ndarray:
    """A small rotation and shift, 4x4, so that the second image covers most of the first."""
    start = np.eye(4)
    start[:3, :3] = Rotation.from_euler("x", 5, degrees=True).as_matrix()
    middle = np.array(smooth_image(1).TransformContinuousIndexToPhysicalPoint((15.0, 13.0, 11.0)))
    start[:3, 3] = middle - start[:3, :3] @ middle + (1, -2, 1)
    return start


@pytest.mark.parametrize("metric", list(Metric))
def test_the_slope_by_control_points_is_the_change_of_the_score(
    metric: Metric, pool: ThreadPoolExecutor
) -> None:
    fixed, moving = smooth_image(1), smooth_image(2)
    inside = np.zeros((22, 26, 30), bool)
    inside[5:-5, 5:-5, 5:-5] = True
    spline = spline_on(fixed, 3)
    level = FreeForm(fixed, moving, inside, near_start(), spline, metric, 32, pool)
    at = np.asarray(spline.GetParameters())
    way = np.random.default_rng(4).normal(0, 1, len(at))
    value, slope = level.score(at)
    change = (level.score(at + 0.02 * way)[0] - level.score(at - 0.02 * way)[0]) / 0.04
    assert value > 0
    assert slope @ way == pytest.approx(change, rel=0.03)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", [Kind.RIGID, Kind.AFFINE])
def test_the_slope_by_linear_parameters_is_the_change_of_the_score(
    kind: Kind, metric: Metric, pool: ThreadPoolExecutor
) -> None:
    fixed, moving = smooth_image(1), smooth_image(2)
    index = np.random.default_rng(2).uniform(5, 16, (5000, 3))
    grid = Grid.of(fixed)
    points = (index @ grid.index_to_world[:3, :3].T + grid.index_to_world[:3, 3]).T
    values = np.random.default_rng(5).normal(0, 1, 5000) + index[:, 0]
    likeness = Likeness(values, moving, metric, 32, pool)
    family = _Family(kind, near_start(), points.mean(axis=1))
    score = family.score(likeness, points, np.linalg.inv(Grid.of(moving).index_to_world))
    random = np.random.default_rng(6)
    at, way = random.normal(0, 2, family.size), random.normal(0, 1, family.size)
    change = (score(at + 0.01 * way)[0] - score(at - 0.01 * way)[0]) / 0.02
    assert score(at)[1] @ way == pytest.approx(change, rel=0.03)


@pytest.mark.parametrize("kind", [Kind.RIGID, Kind.AFFINE])
def test_a_family_hands_itk_the_transform_that_it_scored(kind: Kind) -> None:
    centre = np.array([3.0, -8.0, 40.0])
    family = _Family(kind, near_start(), centre)
    at = np.random.default_rng(6).normal(0, 5, family.size)
    point = np.array([30.0, 10.0, -20.0])
    expected = family.matrix(at)[:3] @ [*point, 1]
    there = _Family(kind, family.matrix(at), centre).transform()
    assert np.allclose(there.TransformPoint(point.tolist()), expected)
    assert np.allclose(family.matrix(np.zeros(family.size)), near_start())


def test_of_levels_with_the_same_voxels_only_the_last_is_followed() -> None:
    volume = Volume(smooth_image(1), Role.MR, Unit.ARBITRARY)  # 3 x 4 x 5 mm
    options = RigidOptions(spacings_mm=(8.0, 2.0, 1.0), samples=2000, final_samples=5000)
    views = Views.of(volume, volume, options.spacings_mm, None)
    kept = [(spacing, samples) for spacing, samples, _, _ in _levels(views, options)]
    assert kept == [(8.0, 2000), (1.0, 5000)]
    fine = RigidOptions(spacings_mm=(8.0, 4.0))
    views = Views.of(volume, volume, fine.spacings_mm, None)
    assert [spacing for spacing, *_ in _levels(views, fine)] == [8.0, 4.0]


def shifted(mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[2, 3] = mm
    return matrix


def test_of_one_position_one_candidate_is_followed_and_none_that_is_much_worse() -> None:
    points = np.random.default_rng(2).normal(0, 60, (3, 500))
    scores = {0.0: 0.30, 0.4: 0.29, 40.0: 0.31, -40.0: 0.28, 80.0: 0.20}
    candidates = [Candidate(shifted(mm), score) for mm, score in scores.items()]
    kept = _leading(candidates, 0.8, points)
    assert [c.matrix[2, 3] for c in kept] == [40.0, 0.0, -40.0]
    assert [c.matrix[2, 3] for c in _leading(candidates, 0.99, points)] == [40.0]


def test_finer_images_choose_among_the_starts_whichever_comes_first() -> None:
    volume = Volume(smooth_image(1), Role.MR, Unit.ARBITRARY)
    options = RigidOptions(spacings_mm=(8.0, 4.0), samples=5000, least_quality=0.0, threads=1)
    views = Views.of(volume, volume, options.spacings_mm, None)
    right, wrong = shifted(2.0), shifted(30.0)
    with pytest.raises(RegistrationFailed):
        _refine(volume, volume, None, views, [wrong], Kind.RIGID, options, Progress())
    for starts in ([right, wrong], [wrong, right]):
        found = _refine(volume, volume, None, views, starts, Kind.RIGID, options, Progress())
        assert np.linalg.norm(found.transform.TransformPoint((0, 0, 0))) < 0.5


def test_control_points_mean_what_they_mean_to_itk(pool: ThreadPoolExecutor) -> None:
    fixed, moving = smooth_image(1), smooth_image(2)
    inside = np.zeros((22, 26, 30), bool)
    inside[5:-5, 5:-5, 5:-5] = True
    spline = spline_on(fixed, 3)
    level = FreeForm(fixed, moving, inside, np.eye(4), spline, Metric.CORRELATION, 32, pool)
    ours, _ = level.score(np.asarray(spline.GetParameters()))
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, spline, sitk.sitkLinear))
    theirs = np.corrcoef(warped[inside], sitk.GetArrayFromImage(fixed)[inside])[0, 1] ** 2
    assert ours == pytest.approx(-np.log(1 - theirs) / 2, rel=1e-3)


def test_a_refined_spline_displaces_alike() -> None:
    domain = Domain.around(Grid.of(smooth_image(1)), 40.0)
    coarse = domain.spline(40.0)
    parameters = np.random.default_rng(3).normal(0, 5, len(coarse.GetParameters()))
    coarse.SetParameters(parameters.tolist())
    fine = domain.refined(coarse, 20.0)
    assert len(fine.GetParameters()) > 3 * len(coarse.GetParameters())
    index = np.random.default_rng(0).uniform(8, 14, (50, 3))
    for place in index.tolist():
        point = smooth_image(1).TransformContinuousIndexToPhysicalPoint(place)
        assert np.allclose(fine.TransformPoint(point), coarse.TransformPoint(point), atol=0.05)


def test_mutual_information_is_that_of_itk(pool: ThreadPoolExecutor) -> None:
    fixed = smooth_image(1)
    moving = sitk.Sin(fixed * 8) + 0.3 * smooth_image(2)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in fixed.GetSize()), indexing="ij"))
    values = sitk.GetArrayFromImage(fixed).transpose(2, 1, 0).ravel()
    ours, _ = Likeness(values, moving, Metric.MATTES, 32, pool).at(index.reshape(3, -1))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInitialTransform(sitk.Transform(3, sitk.sitkIdentity))
    method.SetInterpolator(sitk.sitkLinear)
    assert ours == pytest.approx(-method.MetricEvaluate(fixed, moving), rel=1e-3)


def test_points_outside_the_moving_image_do_not_count(pool: ThreadPoolExecutor) -> None:
    moving = smooth_image(2)
    index = np.random.default_rng(1).uniform(0, 21, (3, 4000))
    values = np.random.default_rng(2).normal(0, 1, 4000) + index[0]
    inside = np.arange(4000) < 2500
    away = np.where(inside, index, index + 500)
    for metric in Metric:
        value, slope = Likeness(values, moving, metric, 32, pool).at(away)
        # The range of the bins is that of all values, so that it must be the same for both.
        few = np.concatenate([values[inside], [values.min(), values.max()]])
        some = np.concatenate([index[:, inside], np.full((3, 2), -9.0)], axis=1)
        alone, _ = Likeness(few, moving, metric, 32, pool).at(some)
        assert value == pytest.approx(alone, rel=1e-6)
        assert not slope[:, ~inside].any()
        assert slope[:, inside].any()
        assert Likeness(values, moving, metric, 32, pool).at(index + 500)[0] == 0.0


def test_bending_ignores_what_is_affine_and_its_slope_is_its_change() -> None:
    z, y, x = np.indices((6, 5, 7)).astype(float)
    affine = np.stack([x + 2 * y, 3 * z - x, 0.5 * y + 4])
    value, slope = bending(affine, 30.0)
    assert value == pytest.approx(0.0, abs=1e-20)
    rng = np.random.default_rng(1)
    at, way = rng.normal(0, 2, affine.shape), rng.normal(0, 1, affine.shape)
    value, slope = bending(at, 30.0)
    change = (bending(at + 1e-3 * way, 30.0)[0] - bending(at - 1e-3 * way, 30.0)[0]) / 2e-3
    assert (slope * way).sum() == pytest.approx(change, rel=1e-6)


def test_the_jacobian_of_a_linear_transform_is_its_determinant() -> None:
    image = smooth_image(1)
    for size in ((1.1, 0.9, 1.2), (-1.0, 1.0, 1.0)):
        change = jacobian_determinants(sitk.ScaleTransform(3, size), Grid.of(image))
        assert np.allclose(change, np.prod(size))


def test_parts_of_a_linear_transform() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = TURN @ np.diag([1.1, 0.9, 1.3])
    parts = LinearParts.of(matrix)
    angle = np.degrees(Rotation.from_matrix(TURN).magnitude())
    assert parts.rotation_degrees == pytest.approx(angle)
    assert parts.scales == pytest.approx((1.3, 1.1, 0.9))
    assert not parts.mirrored
    assert LinearParts.of(np.diag([-1.0, 1.0, 1.0, 1.0])).mirrored


def test_the_matrix_of_a_chain_of_transforms() -> None:
    first = sitk.Euler3DTransform((5.0, 6.0, 7.0), 0.1, 0.2, -0.3, (1.0, 2.0, 3.0))
    chain = sitk.CompositeTransform([sitk.ScaleTransform(3, (1.1, 1.0, 0.9)), first])
    point = np.array([11.0, -7.0, 30.0])
    assert np.allclose(matrix_of(chain)[:3] @ [*point, 1], chain.TransformPoint(point.tolist()))
    with pytest.raises(InputError, match="not linear"):
        matrix_of(spline_on(smooth_image(1), 1))


def _transforms() -> dict[str, sitk.Transform]:
    euler = sitk.Euler3DTransform((5.0, 6.0, 7.0), 0.1, 0.2, -0.3, (1.0, 2.0, 3.0))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((TURN @ np.diag([1.1, 0.9, 1.3])).ravel().tolist())
    spline = spline_on(smooth_image(1), 5)
    return {
        "rigid": euler,
        "affine": affine,
        "spline": spline,
        "composite": sitk.CompositeTransform([affine, spline]),
    }


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".txt"])
@pytest.mark.parametrize("name", ["rigid", "affine", "spline", "composite"])
def test_transforms_survive_a_file(tmp_path: Path, name: str, suffix: str) -> None:
    transform = _transforms()[name]
    path = tmp_path / f"a transform ü{suffix}"
    write_transform(transform, path)
    write_transform(transform, path)  # over an older one
    again = read_transform(path)
    points = np.random.default_rng(0).uniform(-60, 60, (50, 3)) + np.array([0, 60, 240])
    for point in points.tolist():
        assert np.allclose(again.TransformPoint(point), transform.TransformPoint(point), atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_transform_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    rigid = _transforms()["rigid"]
    with pytest.raises(OutputError, match="let it end in"):
        write_transform(rigid, tmp_path / "transform.nii")
    with pytest.raises(OutputError, match="check that the folder exists"):
        write_transform(rigid, tmp_path / "absent" / "transform.h5")
    blocked = tmp_path / "taken.h5"
    blocked.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_transform(rigid, blocked)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.h5"]


def test_what_is_no_transform_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no transform file"):
        read_transform(tmp_path / "absent.h5")
    for name in ("text.tfm", "data.h5", "picture.png"):
        path = tmp_path / name
        path.write_bytes(b"this is no transform")
        with pytest.raises(InputError, match="cannot be read as an ITK transform"):
            read_transform(path)
    flat = tmp_path / "flat.tfm"
    sitk.WriteTransform(sitk.Euler2DTransform(), str(flat))
    with pytest.raises(InputError, match="2 dimensions"):
        read_transform(flat)

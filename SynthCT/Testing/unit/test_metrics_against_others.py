"""Each figure against an independent implementation, and against tiny cases done by hand."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from scipy import ndimage, signal
from scipy.cluster.vq import kmeans2
from skimage import measure
from skimage.metrics import normalized_mutual_information, structural_similarity

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.metrics.clusters import clusters_of, kmeans_dice_bone
from SynthCTLib.metrics.error_curve import error_curve
from SynthCTLib.metrics.errors import mae_hu, mse_hu2, rmse_hu
from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.metrics.lesions import LesionDetection, detect_lesions, detection_rates
from SynthCTLib.metrics.lines import line_errors
from SynthCTLib.metrics.masked import MaskedPair, masked_pair
from SynthCTLib.metrics.overlap import HU_CLASSES, dice_by_class, dice_curve, dice_of
from SynthCTLib.metrics.similarity import normalised_mutual_information, psnr_db
from SynthCTLib.metrics.structure import ms_ssim, mssim_paper_2, ssim
from SynthCTLib.metrics.surfaces import bone_surface_distance, surface_distance
from SynthCTLib.metrics.tissues import TISSUES, tissue_errors
from SynthCTLib.physics.lines import (
    attenuation_factors,
    averaged,
    integrals_of,
    line_integrals,
    line_matrix,
)
from SynthCTLib.physics.mumap import convention_named, hu_to_mu
from SynthCTLib.resources import resource
from SynthCTLib.volume import Role, Unit, Volume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monai = pytest.importorskip("monai.metrics")
import torch

Floats = npt.NDArray[np.float32]
Where = npt.NDArray[np.bool_]


def volume(
    array: npt.ArrayLike, role: Role = Role.CT, spacing: tuple[float, float, float] = (1, 2, 2.5)
) -> Volume:
    values = np.asarray(array)
    image = sitk.GetImageFromArray(values.astype(np.uint8) if values.dtype == bool else values)
    image.SetSpacing(spacing)
    unit = {Role.MASK: Unit.ARBITRARY, Role.PET: Unit.SUV, Role.MU_MAP: Unit.PER_CM}
    return Volume(image, role, unit.get(role, Unit.HU))


def head_like(shape: tuple[int, int, int] = (40, 44, 36), seed: int = 0) -> tuple[Floats, Where]:
    """An ellipsoid of soft tissue in a shell of bone, with an air cavity, and its mask."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    r = np.sqrt((z / 0.9) ** 2 + (y / 0.85) ** 2 + (x / 0.8) ** 2)
    hu = np.where(r < 1, 40.0, -1000.0)
    hu[(r < 0.92) & (r > 0.75)] = 1100.0
    hu[(r >= 0.92) & (r < 1)] = -100.0
    hu[(z**2 + (y + 0.4) ** 2 + x**2) < 0.04] = -1000.0
    return (hu + rng.normal(0, 30, shape)).astype(np.float32), r < 1


def shifted(hu: Floats, seed: int = 1) -> Floats:
    moved = ndimage.shift(hu, (1.0, -0.5, 0.7), order=1, mode="nearest")
    return (moved + np.random.default_rng(seed).normal(0, 40, hu.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume, Volume]:
    hu, where = head_like()
    return volume(hu), volume(shifted(hu)), volume(where, Role.MASK)


@pytest.fixture(scope="module")
def real_pair() -> tuple[Volume, Volume, Volume]:
    """A real CT of a thigh, against itself blurred and shifted by one voxel."""
    ct = read_volume(resource("SampleData", "STS_014", "ct.nii.gz"), Role.CT)
    hu = ct.array.astype(np.float32)
    worse = ndimage.gaussian_filter(np.roll(hu, 1, axis=2), 1.0)
    body = ndimage.binary_fill_holes(hu > -300)
    return ct.with_array(hu), ct.with_array(worse), ct.mask(body)


both_pairs = pytest.mark.parametrize("which", ["pair", "real_pair"])


def tensors(images: tuple[Volume, Volume, Volume]) -> list[torch.Tensor]:
    where = images[2].array > 0
    return [torch.from_numpy(v.array[where].astype(np.float64))[None] for v in images[:2]]


# Voxel errors and peak signal to noise: MONAI


@both_pairs
def test_voxel_errors_agree_with_monai(which: str, request: pytest.FixtureRequest) -> None:
    images = request.getfixturevalue(which)
    first, second = tensors(images)
    for ours, theirs in (
        (mae_hu, monai.MAEMetric()),
        (mse_hu2, monai.MSEMetric()),
        (rmse_hu, monai.RMSEMetric()),
    ):
        assert ours(*images) == pytest.approx(float(theirs(second, first)), rel=1e-9)
    low, high = -1024.0, 3071.0
    expected = float(
        monai.PSNRMetric(max_val=4096)(second.clamp(low, high), first.clamp(low, high))
    )
    assert psnr_db(*images) == pytest.approx(expected, rel=1e-9)


@both_pairs
def test_mutual_information_agrees_with_scikit_image(
    which: str, request: pytest.FixtureRequest
) -> None:
    images = request.getfixturevalue(which)
    first, second = (t.numpy() for t in tensors(images))
    expected = normalized_mutual_information(first, second, bins=100)
    assert normalised_mutual_information(*images) == pytest.approx(expected, rel=1e-4)


def test_mutual_information_by_hand() -> None:
    # Two values each, independent of one another: knowing one tells nothing.
    reference, synthetic = volume([[[0.0, 0, 1, 1]]]), volume([[[0.0, 1, 0, 1]]])
    mask = volume(np.ones((1, 1, 4), bool), Role.MASK)
    assert normalised_mutual_information(reference, synthetic, mask) == pytest.approx(1.0)
    assert normalised_mutual_information(reference, reference, mask) == pytest.approx(2.0)
    # H(A) = H(B) = ln 2, and H(A, B) of (1/2, 1/4, 0, 1/4) = 1.5 ln 2 with B = 0, 0, 0, 1
    skewed = volume([[[0.0, 0, 0, 1]]])
    b = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = (math.log(2) + b) / (1.5 * math.log(2))
    assert normalised_mutual_information(reference, skewed, mask) == pytest.approx(expected)


# Structural similarity: the rules, done on the whole volume in double precision


def synthrad_2025(reference: Floats, synthetic: Floats, where: Where) -> float:
    """The rule in physics words: mask, clip, pad, five scales, product of masked means."""
    low, high = -1024.0, 3000.0
    images = [
        np.where(where, a.astype(np.float64), low).clip(low, high) - low
        for a in (reference, synthetic)
    ]
    pads = [((97 - n) // 2, 97 - n - (97 - n) // 2) if n < 97 else (0, 0) for n in where.shape]
    x, y, mask = (np.pad(a, pads, mode="edge") for a in (*images, where))
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    answer = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        mx, my, mxx, myy, mxy = (ndimage.uniform_filter(v, 7) for v in (x, y, x * x, y * y, x * y))
        n = 343 / 342
        vx, vy, vxy = n * (mxx - mx * mx), n * (myy - my * my), n * (mxy - mx * my)
        root = np.sqrt(vx.clip(0)) * np.sqrt(vy.clip(0))
        luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
        contrast = (2 * root + c2) / (vx + vy + c2)
        structure = (vxy + c2 / 2) / (root + c2 / 2)
        inner = (slice(3, -3),) * 3
        value = np.prod(
            [v[inner][mask[inner]].clip(0) ** weight for v in (luminance, contrast, structure)],
            axis=0,
        ).mean()
        answer *= min(value, 1.0)
        cube = np.ones((2, 2, 2)) / 8
        x, y = (signal.convolve(v, cube, mode="full")[:-1, :-1, :-1][::2, ::2, ::2] for v in (x, y))
        mask = mask[::2, ::2, ::2]
    return answer


@pytest.mark.parametrize("shape", [(40, 44, 36), (100, 99, 120), (96, 130, 97)])
def test_ms_ssim_is_that_of_the_rule(shape: tuple[int, int, int]) -> None:
    hu, where = head_like(shape)
    other = shifted(hu)
    found = ms_ssim(volume(hu), volume(other), volume(where, Role.MASK))
    assert found == pytest.approx(synthrad_2025(hu, other, where), rel=1e-6)
    assert 0 < found < 1


def test_ms_ssim_of_a_mask_that_touches_the_border_is_that_of_the_rule() -> None:
    hu, where = head_like((98, 97, 99))
    other = shifted(hu)
    where = where.copy()
    where[:30] = True
    found = ms_ssim(volume(hu), volume(other), volume(where, Role.MASK))
    assert found == pytest.approx(synthrad_2025(hu, other, where), rel=1e-6)
    single = np.zeros(where.shape, bool)
    single[2, 50, 50] = True  # no inner voxel on any scale
    assert math.isnan(ms_ssim(volume(hu), volume(other), volume(single, Role.MASK)))


def test_negative_structure_counts_as_none() -> None:
    rng = np.random.default_rng(4)
    hu = rng.normal(0, 300, (97, 97, 97)).astype(np.float32)
    whole = np.ones(hu.shape, bool)
    found = ms_ssim(volume(hu), volume(-hu), volume(whole, Role.MASK))
    assert found == pytest.approx(synthrad_2025(hu, -hu, whole), abs=1e-6)


@both_pairs
def test_structural_similarity_agrees_with_scikit_image(
    which: str, request: pytest.FixtureRequest
) -> None:
    images = request.getfixturevalue(which)
    where = images[2].array > 0
    kept = [np.where(where, v.array.astype(np.float64), -1024.0) for v in images[:2]]
    _, full = structural_similarity(
        *(v.clip(-1024, 3000) for v in kept), data_range=4024, full=True
    )
    inner = (slice(3, -3),) * 3
    # SynthRAD shifts by 1024 first; luminance needs it.
    _, full = structural_similarity(
        *(v.clip(-1024, 3000) + 1024 for v in kept), data_range=4024, full=True
    )
    assert ssim(*images) == pytest.approx(full[inner][where[inner]].mean(), rel=1e-6)
    # Paper 2: times the mask, mean over all; scikit-image's own mean leaves 3 voxels out too.
    whole = structural_similarity(
        *((v.clip(-1024, 3071) + 1024) * where for v in kept), data_range=4094
    )
    assert mssim_paper_2(*images) == pytest.approx(whole, rel=1e-6)


# Overlap: SimpleITK, MONAI


@both_pairs
def test_overlaps_agree_with_simpleitk(which: str, request: pytest.FixtureRequest) -> None:
    images = request.getfixturevalue(which)
    where, values = images[2].array > 0, masked_pair(*images)

    def label_dice(low: float, below: float) -> float:
        labels = [
            sitk.GetImageFromArray((where & (v.array >= low) & (v.array < below)).astype(np.uint8))
            for v in images[:2]
        ]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*labels)
        return float(overlap.GetDiceCoefficient(1))

    for name, dice in dice_by_class(values).items():
        assert dice == pytest.approx(label_dice(*HU_CLASSES[name])), name
    curve = dice_curve(values, (150, 300, 700))
    for threshold, dice in zip(curve.thresholds_hu, curve.dice, strict=True):
        assert dice == pytest.approx(label_dice(threshold, np.inf))
        assert dice == pytest.approx(dice_of(values, threshold))


def test_dice_curve_by_hand() -> None:
    values = MaskedPair(np.array([300.0, 500, 0]), np.array([299.0, 900, 400]))
    curve = dice_curve(values, (299, 300, 500, 1000))
    assert curve.dice[:3] == pytest.approx((2 * 2 / (2 + 3), 2 * 1 / (2 + 2), 2 * 1 / (1 + 1)))
    assert math.isnan(curve.dice[3])
    for wrong in ((), (300, 300), (400, 300)):
        with pytest.raises(InputError, match="that rise"):
            dice_curve(values, wrong)


def test_hu_classes_do_not_overlap() -> None:
    limits = sorted(HU_CLASSES.values())
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(limits))
    edge = MaskedPair(np.array([-500.0, -190, -30, 300]), np.array([-500.0, -190, -30, 300]))
    assert list(dice_by_class(edge).values()) == [1.0, 1.0, 1.0, 1.0]


# Surfaces: MONAI


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@both_pairs
def test_surface_distances_agree_with_monai(which: str, request: pytest.FixtureRequest) -> None:
    images = request.getfixturevalue(which)
    where = images[2].array > 0
    bones = [where & (v.array >= 300) for v in images[:2]]
    masks = [torch.from_numpy(np.ascontiguousarray(b))[None, None].float() for b in bones]
    spacing = images[0].grid.spacing_mm[::-1]
    hausdorff = {"include_background": True, "spacing": spacing}
    found = bone_surface_distance(*images)
    hd95 = monai.compute_hausdorff_distance(masks[1], masks[0], percentile=95, **hausdorff)
    largest = monai.compute_hausdorff_distance(masks[1], masks[0], **hausdorff)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
    assert found.largest_mm == pytest.approx(float(largest), rel=1e-5)
    forth, back = (
        float(monai.compute_average_surface_distance(a, b, **hausdorff))
        for a, b in ((masks[0], masks[1]), (masks[1], masks[0]))
    )
    assert min(forth, back) <= found.mean_mm + 1e-5
    assert found.mean_mm <= max(forth, back) + 1e-5


def test_surface_distance_by_hand() -> None:
    first, second = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    first[4, 4, 1], second[4, 4, 4] = True, True
    found = surface_distance(first, second, (2.0, 1.0, 1.0))
    assert (found.hd95_mm, found.mean_mm, found.largest_mm) == (6.0, 6.0, 6.0)
    second[4, 4, 1] = True  # one of two is where it should be: 0 forth, 0 and 6 back
    found = surface_distance(first, second, (2.0, 1.0, 1.0))
    assert found.mean_mm == pytest.approx(6 / 3)
    assert found.hd95_mm == pytest.approx(0.95 * 6)
    assert math.isnan(surface_distance(first, np.zeros_like(first), (1, 1, 1)).hd95_mm)
    # The inside of a solid is no surface: a cube of 5 about one of 3 is 1 away everywhere.
    outer, inner = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    outer[2:7, 2:7, 2:7], inner[3:6, 3:6, 3:6] = True, True
    assert surface_distance(inner, outer, (1, 1, 1)).mean_mm < math.sqrt(3)
    assert surface_distance(inner, outer, (1, 1, 1)).largest_mm == pytest.approx(math.sqrt(3))


def test_surface_distance_refuses_what_it_cannot_compare(
    pair: tuple[Volume, Volume, Volume],
) -> None:
    reference, synthetic, mask = pair
    with pytest.raises(InputError, match="needs HU"):
        bone_surface_distance(hu_to_mu(reference), synthetic, mask)
    with pytest.raises(InputError, match="does not lie on the grid"):
        bone_surface_distance(reference, volume(synthetic.array[1:]), mask)


# k-means: scipy


@both_pairs
def test_clusters_agree_with_scipy(which: str, request: pytest.FixtureRequest) -> None:
    values = masked_pair(*request.getfixturevalue(which)).reference
    found = clusters_of(values)
    assert found is not None
    low, high = values.min(), values.max()
    width = (high - low) / 1024
    binned = low + (np.minimum((values - low) / width, 1023).astype(int) + 0.5) * width
    start = np.quantile(np.unique(binned), [1 / 6, 3 / 6, 5 / 6])
    centres, labels = kmeans2(binned[:, None], start[:, None], iter=100, minit="matrix")
    assert found.centres == pytest.approx(centres.ravel(), rel=1e-4)
    assert np.mean((values > found.parts[1]) == (labels == 2)) > 0.999


def test_kmeans_dice_by_hand_needs_no_hounsfield_scale() -> None:
    reference = np.array([[[-1000.0] * 4 + [40.0] * 4 + [1000.0] * 4]])
    synthetic = reference / 7 + 3  # not HU at all
    synthetic[0, 0, 8] = synthetic[0, 0, 0]  # one of four bone voxels became air
    mask = volume(np.ones(reference.shape, bool), Role.MASK)
    found = kmeans_dice_bone(volume(reference), volume(synthetic), mask)
    assert found == pytest.approx(2 * 3 / (4 + 3))
    two = np.where(reference > 500, 500.0, 0.0)
    assert math.isnan(kmeans_dice_bone(volume(reference), volume(two), mask))
    assert clusters_of(np.full(9, 3.0)) is None


# Error by HU and by tissue


def test_error_curve_by_hand() -> None:
    values = MaskedPair(
        np.array([-1001.0, -1000, -990, 0, 10, 100]), np.array([0.0, -900, -1000, 10, 0, 130])
    )
    curve = error_curve(values, (-1000, -500, 0, 50, 100))
    assert curve.voxels == (2, 0, 2, 1)
    assert curve.mean_hu[0] == pytest.approx(45)
    assert curve.mae_hu == pytest.approx((55, math.nan, 10, 30), nan_ok=True)
    assert curve.sd_hu == pytest.approx((55, math.nan, 10, 0), nan_ok=True)
    assert curve.voxels_outside == 1
    with pytest.raises(InputError, match="that rise"):
        error_curve(values, (0, 0))


@both_pairs
def test_error_curve_agrees_with_scipy(which: str, request: pytest.FixtureRequest) -> None:
    from scipy.stats import binned_statistic

    values = masked_pair(*request.getfixturevalue(which))
    curve = error_curve(values, range(-1000, 1001, 100))
    error = values.synthetic - values.reference
    mean, _, _ = binned_statistic(values.reference, error, "mean", bins=curve.edges_hu)
    spread, _, _ = binned_statistic(values.reference, error, "std", bins=curve.edges_hu)
    assert curve.mean_hu == pytest.approx(mean, nan_ok=True, abs=1e-6)
    assert curve.sd_hu == pytest.approx(spread, nan_ok=True, abs=1e-3)


def test_tissue_errors_by_hand() -> None:
    values = MaskedPair(np.array([-1000.0, 40, 40, 400, 1500]), np.array([-300.0, 40, 0, 900, 900]))
    rows = {row.tissue: row for row in tissue_errors(values, 2000.0)}
    assert list(rows) == list(TISSUES)
    assert [rows[t].reference_ml for t in TISSUES] == [2, 0, 4, 2, 2]
    assert [rows[t].synthetic_ml for t in TISSUES] == [0, 2, 4, 0, 4]
    assert rows["spongy bone"].volume_error_percent == -100
    assert rows["cortical bone"].volume_error_percent == 100
    assert rows["soft tissue"].mean_error_hu == -20
    assert rows["cortical bone"].mae_hu == 600
    assert math.isnan(rows["edges of air"].mae_hu)
    assert math.isnan(rows["air cavities"].mu_error_percent)  # air attenuates nothing
    curve = convention_named("carney-140")
    mu = curve.mu_per_cm(np.array([1500.0, 900.0]))
    assert rows["cortical bone"].mu_error_per_cm == pytest.approx(mu[1] - mu[0])
    assert rows["cortical bone"].mu_error_percent == pytest.approx(100 * (mu[1] / mu[0] - 1))
    assert rows["air cavities"].hu_share == pytest.approx(700 / (700 + 40 + 500 + 600))


@both_pairs
def test_tissues_share_out_the_whole_error(which: str, request: pytest.FixtureRequest) -> None:
    images = request.getfixturevalue(which)
    rows = tissue_errors(masked_pair(*images), images[0].grid.voxel_mm3)
    for share in ("hu_share", "mu_share"):
        total = sum(getattr(row, share) for row in rows if row.reference_ml)
        assert total == pytest.approx(1.0)
    ml = np.count_nonzero(images[2].array) * images[0].grid.voxel_mm3 / 1000
    assert sum(row.reference_ml for row in rows) == pytest.approx(ml)
    assert sum(row.synthetic_ml for row in rows) == pytest.approx(ml)


# Lines of response


def cylinder(radius_mm: float, mu: float, n: int = 128, mm: float = 2.0) -> npt.NDArray[np.float64]:
    """A cylinder along z, its edge smoothed over sub-voxels."""
    fine = (np.arange(4 * n) - (4 * n - 1) / 2) * mm / 4
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2 < radius_mm**2).astype(float)
    flat = inside.reshape(n, 4, n, 4).mean(axis=(1, 3)) * mu
    return np.repeat(flat[None], 4, axis=0)


def test_integrals_through_a_cylinder_are_its_chords() -> None:
    radius, mu = 90.0, 0.096
    integrals = integrals_of(cylinder(radius, mu), (2.0, 2.0), angles=12)
    lines = integrals.shape[2]
    offsets = (np.arange(lines) - (lines - 1) / 2) * 2.0
    chord_cm = 2 * np.sqrt(np.maximum(radius**2 - offsets**2, 0)) / 10
    inner = np.abs(offsets) < 0.9 * radius
    expected = np.broadcast_to(mu * chord_cm[inner], integrals[:, :, inner].shape)
    assert integrals[:, :, inner] == pytest.approx(expected, rel=0.01)
    assert integrals[0, :, lines // 2] == pytest.approx(0.096 * 18, rel=5e-3)  # the diameter
    assert integrals[:, :, np.abs(offsets) > radius + 4].max() == 0
    assert attenuation_factors(integrals).max() == pytest.approx(math.exp(0.096 * 18), rel=1e-2)


def test_a_single_voxel_by_hand() -> None:
    values = np.zeros((1, 5, 5))
    values[0, 2, 2] = 1.0
    upright = integrals_of(values, (10.0, 10.0), angles=2)[0]
    middle = upright.shape[1] // 2
    assert upright[0].tolist() == upright[1].tolist()
    assert upright[0][middle] == pytest.approx(1.0)  # 1/cm over a voxel of 1 cm
    assert upright[0].sum() == pytest.approx(1.0)
    diagonal = integrals_of(values, (10.0, 10.0), angles=4)[0, 1]
    assert diagonal.max() == pytest.approx(math.sqrt(2))


def test_lines_keep_the_mass_at_every_angle() -> None:
    smooth = ndimage.gaussian_filter(np.pad(np.ones((1, 10, 14)), ((0, 0), (15, 15), (15, 15))), 2)
    per_angle = integrals_of(smooth, (4.0, 4.0), angles=18)[0].sum(axis=1) * 0.4  # cm apart
    assert per_angle == pytest.approx(smooth.sum() * 0.16, rel=2e-3)


def test_lines_agree_with_the_radon_transform_of_scikit_image() -> None:
    from skimage.transform import radon

    slice_ = ndimage.gaussian_filter(np.random.default_rng(0).random((33, 33)), 2)
    y, x = np.ogrid[-16:17, -16:17]
    slice_ *= x * x + y * y < 14**2
    angles = 6
    ours = integrals_of(slice_[None], (10.0, 10.0), angles)[0]
    theirs = radon(slice_, theta=-np.degrees(np.arange(angles) * math.pi / angles), circle=True)
    middle = ours.shape[1] // 2
    for ours_at, theirs_at in zip(ours, theirs.T, strict=True):
        cut = ours_at[middle - 16 : middle + 17]
        best = min(np.abs(cut - v).max() for v in (theirs_at, theirs_at[::-1]))
        assert best < 0.03 * theirs_at.max()


def test_averaging_keeps_every_integral() -> None:
    mu = np.random.default_rng(0).random((5, 7, 9))
    mean, spacing = averaged(mu, (1.0, 2.0, 3.9))
    assert spacing == (4.0, 4.0, 3.9)
    assert mean.shape == (5, 4, 3)
    assert mean.sum() * np.prod(spacing) == pytest.approx(mu.sum() * 1.0 * 2.0 * 3.9)


def test_lines_refuse_what_they_cannot_follow() -> None:
    mu = cylinder(50, 0.096, 32)
    found = line_integrals(volume(mu, Role.MU_MAP, (2, 2, 4)))
    assert found.shape[0] == 4
    with pytest.raises(InputError, match="needs 1/cm"):
        line_integrals(volume(mu))
    mu[0, 0, 0] = math.nan
    with pytest.raises(InputError, match="not numbers"):
        line_integrals(volume(mu, Role.MU_MAP))
    with pytest.raises(InputError, match="at least one"):
        line_matrix((3, 3), (1.0, 1.0), 0)


def test_line_errors_of_a_cylinder_by_hand() -> None:
    inside = cylinder(80, 1.0, 64, 4.0) > 0.5
    water, denser = np.where(inside, 0.0, -1000.0), np.where(inside, 20.0, -1000.0)
    mask = volume(inside, Role.MASK, (4, 4, 4))
    found = line_errors(volume(water, spacing=(4, 4, 4)), volume(denser, spacing=(4, 4, 4)), mask)
    longest = 100 * math.expm1(9.6e-5 * 20 * 16)  # 20 HU over a chord of 16 cm
    assert found.largest_percent == pytest.approx(longest, rel=0.03)
    assert 0 < found.mean_percent == pytest.approx(found.mae_percent)
    assert found.mean_percent < found.p95_percent <= found.largest_percent
    # What cancels along each line does no harm: planes of +100 and -100 HU along z do not cancel,
    # because lines lie in the planes; sources in x do for lines along x.
    same = line_errors(volume(water, spacing=(4, 4, 4)), volume(water, spacing=(4, 4, 4)), mask)
    assert (same.mean_percent, same.sd_percent, same.largest_percent) == (0, 0, 0)
    speck = np.zeros(inside.shape, bool)
    speck[1, 32, 32] = True
    nothing = line_errors(
        volume(water, spacing=(4, 4, 4)), volume(denser, spacing=(4, 4, 4)),
        volume(speck, Role.MASK, (4, 4, 4)),
    )  # fmt: skip
    assert nothing.lines == 0
    assert math.isnan(nothing.mean_percent)


def test_lines_do_not_depend_on_how_the_voxels_are_stored() -> None:
    hu, where = head_like((24, 28, 20))
    images = [volume(hu), volume(shifted(hu)), volume(where, Role.MASK)]
    turned = []
    for v in images:
        image = sitk.PermuteAxes(v.image, (2, 0, 1))
        turned.append(Volume(sitk.Flip(image, (True, False, True)), v.role, v.unit))
    assert line_errors(*turned).mae_percent == pytest.approx(line_errors(*images).mae_percent)


# Lesions


def test_lesions_by_hand() -> None:
    real, made = np.zeros((1, 9, 20)), np.zeros((1, 9, 20))
    real[0, 1:3, 1:3], real[0, 1:3, 6:8], real[0, 6, 1] = 5.0, 4.0, 2.6
    made[0, 2, 2] = 3.0  # finds the first
    made[0, 1:3, 6:8] = 2.5  # not greater than 2.5: the second is missed
    made[0, 7, 2] = 9.0  # touches the third at a corner but lies outside it: missed, and not false
    made[0, 4, 15], made[0, 5, 16] = 9.0, 9.0  # one false finding of two voxels
    made[0, 8, 19] = 9.0  # outside the region
    region = np.ones(real.shape, bool)
    region[0, 8, 19] = False
    pet, virtual = volume(real, Role.PET), volume(made, Role.PET)
    found = detect_lesions(pet, virtual, volume(region, Role.MASK))
    assert found == LesionDetection(3, 1, 1)
    assert found.true_positive_rate == pytest.approx(1 / 3)
    given = detect_lesions(
        pet, virtual, volume(region, Role.MASK), lesions=volume(real > 3, Role.MASK)
    )
    assert given == LesionDetection(2, 1, 2)  # the voxel of the third is a false finding now
    larger = detect_lesions(pet, virtual, volume(region, Role.MASK), least_ml=0.01)  # two voxels
    assert larger == LesionDetection(2, 1, 1)


def test_detection_rates_of_paper_3() -> None:
    scans = [LesionDetection(13, 12, 1), LesionDetection(13, 12, 1)]
    scans += [LesionDetection(0, 0, 0)] * 6
    rates = detection_rates(scans)
    assert round(100 * rates.true_positive_rate, 1) == 92.3  # 24 of 26
    assert rates.false_positives_per_scan == 0.25  # 2 in 8 scans
    assert math.isnan(scans[-1].true_positive_rate)
    with pytest.raises(InputError, match="at least one"):
        detection_rates([])


def test_lesions_agree_with_scikit_image() -> None:
    rng = np.random.default_rng(3)
    real, made = (ndimage.gaussian_filter(rng.random((20, 20, 20)), 1.5) * 5 for _ in range(2))
    region = volume(np.ones(real.shape, bool), Role.MASK)
    found = detect_lesions(
        volume(real, Role.PET), volume(made, Role.PET), region, threshold_suv=2.75
    )
    labels = measure.label(real > 2.75, connectivity=3)
    assert found.lesions == labels.max() > 3
    hits = [bool((made[labels == k] > 2.75).any()) for k in range(1, labels.max() + 1)]
    assert found.detected == sum(hits)


def test_lesions_refuse_what_they_cannot_count() -> None:
    pet = volume(np.zeros((2, 3, 3)), Role.PET)
    region = volume(np.ones((2, 3, 3), bool), Role.MASK)
    with pytest.raises(InputError, match="needs SUV"):
        detect_lesions(pet, volume(np.zeros((2, 3, 3))), region)
    bad = np.zeros((2, 3, 3))
    bad[0, 0, 0] = math.nan
    with pytest.raises(InputError, match="not numbers"):
        detect_lesions(pet, volume(bad, Role.PET), region)


# The whole on a real image


def test_every_figure_of_a_real_pair_is_finite(real_pair: tuple[Volume, Volume, Volume]) -> None:
    reference, synthetic, body = real_pair
    found = evaluate(reference, synthetic, {"body": body})
    assert all(math.isfinite(value) for value in found.flat().values())
    assert found.lines.lines > 1000


def test_the_schema_in_the_documentation_names_every_key(
    real_pair: tuple[Volume, Volume, Volume],
) -> None:
    reference, synthetic, body = real_pair
    record = evaluate(reference, synthetic, {"body": body}).to_json()
    schema = Path(__file__).parents[3] / "docs" / "metrics-json.md"
    text = schema.read_text(encoding="utf-8")
    keys = {*record, *record["masks"][0], *record["tissues"][0]}
    for part in ("bone", "classes", "error_curve", "lines"):
        keys |= set(record[part])
    for key in keys:
        assert f"`{key}`" in text, key
    assert record["schema"] in text

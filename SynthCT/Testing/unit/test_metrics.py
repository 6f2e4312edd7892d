"""Figures of a synthetic CT against its reference, against other libraries and by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.definitions import MASK_FIGURES, REGION_FIGURES, Better, figure_of
from SynthCTLib.metrics.errors import (
    difference,
    mae_hu,
    mean_error_hu,
    mse_hu2,
    mu_rmae_percent,
    rmse_hu,
)
from SynthCTLib.metrics.evaluation import DEFINITIONS, evaluate
from SynthCTLib.metrics.histogram import hu_histogram
from SynthCTLib.metrics.intensities import (
    PAPER_2,
    PRESETS,
    SYNTHRAD_2023,
    SYNTHRAD_2025,
    IntensityRange,
    intensity_range_named,
)
from SynthCTLib.metrics.overlap import dice_bone, jaccard_bone
from SynthCTLib.metrics.similarity import normalised_mutual_information, pearson, psnr_db
from SynthCTLib.metrics.structure import ms_ssim, mssim_paper_2, ssim
from SynthCTLib.physics.mumap import CONVENTIONS, hu_to_mu
from SynthCTLib.volume import Role, Unit, Volume

Array = npt.NDArray[np.float32]
Metric = Callable[[Volume, Volume, Volume], float]
METRICS: tuple[Metric, ...] = (
    mae_hu,
    rmse_hu,
    mse_hu2,
    mean_error_hu,
    psnr_db,
    ssim,
    ms_ssim,
    mssim_paper_2,
    pearson,
    normalised_mutual_information,
    jaccard_bone,
    dice_bone,
    mu_rmae_percent,
)
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)


def ct(array: npt.ArrayLike, unit: Unit = Unit.HU, x_mm: float = 0.0) -> Volume:
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing((1.0, 2.0, 2.5))
    image.SetOrigin((x_mm, 0.0, 0.0))
    return Volume(image, Role.CT, unit)


def mask_of(array: npt.ArrayLike) -> Volume:
    return ct(np.asarray(array, np.uint8)).with_array(
        np.asarray(array, np.uint8), role=Role.MASK, unit=Unit.ARBITRARY
    )


def random_pair(shape: tuple[int, int, int] = (14, 17, 19), seed: int = 1) -> tuple[Array, Array]:
    """Air, soft tissue and bone with noise, and values beyond every clipping range."""
    rng = np.random.default_rng(seed)
    base = rng.choice([-1000.0, 40.0, 900.0, 3500.0, -1500.0], shape, p=[0.2, 0.4, 0.3, 0.05, 0.05])
    reference = base + rng.normal(0, 60, shape)
    synthetic = reference + rng.normal(20, 200, shape)
    return reference.astype(np.float32), synthetic.astype(np.float32)


def random_mask(shape: tuple[int, int, int] = (14, 17, 19), seed: int = 2) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < 0.6


def small() -> tuple[Volume, Volume, Volume]:
    """Five voxels in a row, the last outside the mask; bone in voxels 1, 2 and in 2, 3."""
    reference = ct([[[0.0, 300.0, 1000.0, 100.0, 7.0]]])
    synthetic = ct([[[-100.0, 299.0, 1000.0, 400.0, -3000.0]]])
    return reference, synthetic, mask_of([[[1, 1, 1, 1, 0]]])


# By hand


def test_voxel_errors_by_hand() -> None:
    images = small()
    assert mae_hu(*images) == pytest.approx((100 + 1 + 0 + 300) / 4)
    assert mean_error_hu(*images) == pytest.approx((-100 - 1 + 0 + 300) / 4)
    assert rmse_hu(*images) == pytest.approx(math.sqrt((100**2 + 1 + 300**2) / 4))
    assert mse_hu2(*images) == pytest.approx((100**2 + 1 + 300**2) / 4)


def test_bone_overlap_by_hand() -> None:
    images = small()
    assert jaccard_bone(*images) == pytest.approx(1 / 3)
    assert dice_bone(*images) == pytest.approx(2 / 4)
    assert jaccard_bone(*images, threshold_hu=290.0) == pytest.approx(2 / 3)


def test_mu_error_by_hand() -> None:
    images = small()
    mu_reference = [0.096, 5.64e-5 * 1300 + 4.08e-2, 0.0972 + 0.0564, 5.64e-5 * 1100 + 4.08e-2]
    mu_synthetic = [0.0864, 5.64e-5 * 1299 + 4.08e-2, 0.0972 + 0.0564, 5.64e-5 * 1400 + 4.08e-2]
    expected = 100 * np.abs(np.subtract(mu_synthetic, mu_reference)).sum() / np.sum(mu_reference)
    assert mu_rmae_percent(*images) == pytest.approx(expected, rel=1e-6)


def test_psnr_by_hand() -> None:
    reference, synthetic = ct([[[0.0, 5000.0]]]), ct([[[409.6, 4000.0]]])  # the second is clipped
    both = mask_of([[[1, 1]]])
    rmse = 409.6 / math.sqrt(2)
    assert psnr_db(reference, synthetic, both) == pytest.approx(20 * math.log10(4096 / rmse))
    first = mask_of([[[1, 0]]])
    assert psnr_db(reference, synthetic, first) == pytest.approx(20.0)
    assert psnr_db(reference, synthetic, first, SYNTHRAD_2023) == pytest.approx(
        20 + 20 * math.log10(4024 / 4096)
    )


def test_ssim_by_hand() -> None:
    # One voxel counts: the centre of a cube of 7, a window of two constants
    reference, synthetic = np.full((7, 7, 7), -24.0), np.full((7, 7, 7), 976.0)
    c1 = (0.01 * 4024) ** 2
    expected = (2 * 1000 * 2000 + c1) / (1000**2 + 2000**2 + c1)
    whole = mask_of(np.ones((7, 7, 7)))
    assert ssim(ct(reference), ct(synthetic), whole) == pytest.approx(expected, rel=1e-9)


# Against other libraries


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("intensities", [PAPER_2, SYNTHRAD_2023], ids=lambda r: r.name)
def test_psnr_agrees_with_scikit_image(seed: int, intensities: IntensityRange) -> None:
    reference, synthetic = random_pair(seed=seed)
    where = random_mask(seed=seed)
    clipped = [
        a[where].clip(intensities.low_hu, intensities.high_hu) for a in (reference, synthetic)
    ]
    expected = peak_signal_noise_ratio(
        *(a.astype(np.float64) for a in clipped), data_range=intensities.data_range
    )
    assert psnr_db(ct(reference), ct(synthetic), mask_of(where), intensities) == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize("seed", range(3))
def test_pearson_agrees_with_scipy(seed: int) -> None:
    reference, synthetic = random_pair(seed=seed)
    where = random_mask(seed=seed)
    expected = stats.pearsonr(
        reference[where].astype(np.float64), synthetic[where].astype(np.float64)
    ).statistic
    assert pearson(ct(reference), ct(synthetic), mask_of(where)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_overlap_agrees_with_simpleitk(seed: int) -> None:
    reference, synthetic = random_pair(seed=seed)
    where = random_mask(seed=seed)
    bones = [
        sitk.GetImageFromArray(((a >= 300) & where).astype(np.uint8))
        for a in (reference, synthetic)
    ]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*bones)
    images = ct(reference), ct(synthetic), mask_of(where)
    assert jaccard_bone(*images) == pytest.approx(overlap.GetJaccardCoefficient(1))
    assert dice_bone(*images) == pytest.approx(overlap.GetDiceCoefficient(1))


def synthrad_ssim(reference: Array, synthetic: Array, where: npt.NDArray[np.bool_]) -> float:
    """The rule of SynthRAD 2023, read off its description: the whole volume, nothing spared."""
    low, high = -1024.0, 3000.0
    images = [
        np.where(where, a.astype(np.float64).clip(low, high), low) - low
        for a in (reference, synthetic)
    ]
    _, full = structural_similarity(*images, data_range=high - low, full=True)
    inside = (slice(3, -3),) * 3
    return float(full[inside][where[inside]].mean())


def corner_mask(shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    where = np.zeros(shape, bool)
    where[0:6, -5:, 4:9] = True  # reaches two borders
    return where


def deep_mask(shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    where = np.zeros(shape, bool)
    where[7, 8, 9] = True
    return where


@pytest.mark.parametrize(
    "make", [random_mask, corner_mask, deep_mask, lambda s: np.ones(s, bool)],
    ids=["scattered", "corner", "one voxel", "all"],
)  # fmt: skip
def test_ssim_of_the_bounding_box_is_that_of_the_whole(
    make: Callable[[tuple[int, int, int]], npt.NDArray[np.bool_]],
) -> None:
    reference, synthetic = random_pair()
    where = make(reference.shape)
    assert ssim(ct(reference), ct(synthetic), mask_of(where)) == pytest.approx(
        synthrad_ssim(reference, synthetic, where), rel=1e-6
    )


def test_ssim_of_many_blocks_is_that_of_the_whole() -> None:
    reference, synthetic = random_pair((34, 300, 290))
    z, y, x = np.ogrid[-17:17, -150:150, -145:145]
    where = (z / 16) ** 2 + (y / 148) ** 2 + (x / 140) ** 2 < 1
    assert ssim(ct(reference), ct(synthetic), mask_of(where)) == pytest.approx(
        synthrad_ssim(reference, synthetic, where), rel=1e-6
    )


def test_mu_error_agrees_with_the_maps() -> None:
    reference, synthetic = random_pair()
    where = random_mask()
    for name in CONVENTIONS:
        mu, other = (hu_to_mu(ct(a), name).array[where] for a in (reference, synthetic))
        expected = 100 * np.abs(other - mu).sum(dtype=float) / mu.sum(dtype=float)
        found = mu_rmae_percent(ct(reference), ct(synthetic), mask_of(where), name)
        assert found == pytest.approx(expected, rel=1e-5)


def test_errors_agree_with_numpy_for_integers_that_would_overflow() -> None:
    reference = np.array([[[-32000, 32000, 0]]], np.int16)
    synthetic = np.array([[[32000, -32000, 5]]], np.int16)
    images = ct(reference), ct(synthetic), mask_of([[[1, 1, 1]]])
    assert mae_hu(*images) == pytest.approx((64000 + 64000 + 5) / 3)
    assert difference(images[0], images[1]).array.tolist() == [[[64000.0, -64000.0, 5.0]]]


# Laws


def test_symmetries() -> None:
    reference, synthetic = map(ct, random_pair())
    mask = mask_of(random_mask())
    for metric in set(METRICS) - {mean_error_hu, mu_rmae_percent}:
        assert metric(reference, synthetic, mask) == pytest.approx(
            metric(synthetic, reference, mask), rel=1e-12
        )
    assert mean_error_hu(reference, synthetic, mask) == pytest.approx(
        -mean_error_hu(synthetic, reference, mask), rel=1e-12
    )
    jaccard = jaccard_bone(reference, synthetic, mask)
    assert dice_bone(reference, synthetic, mask) == pytest.approx(2 * jaccard / (1 + jaccard))
    assert mae_hu(reference, synthetic, mask) <= rmse_hu(reference, synthetic, mask)


def test_a_constant_shift_is_its_own_error() -> None:
    reference, _ = random_pair()
    images = ct(reference), ct(reference + 64), mask_of(random_mask())
    assert mean_error_hu(*images) == pytest.approx(64, rel=1e-5)
    assert mae_hu(*images) == pytest.approx(64, rel=1e-5)
    assert rmse_hu(*images) == pytest.approx(64, rel=1e-5)
    assert pearson(*images) == pytest.approx(1)


@every_metric
def test_perfect_agreement(metric: Metric) -> None:
    reference, _ = random_pair()
    ones = (ssim, ms_ssim, mssim_paper_2, pearson, jaccard_bone, dice_bone)
    perfect = {psnr_db: math.inf, normalised_mutual_information: 2.0, **dict.fromkeys(ones, 1.0)}
    found = metric(ct(reference), ct(reference.copy()), mask_of(random_mask()))
    assert found == pytest.approx(perfect.get(metric, 0.0), abs=1e-6)


ORIENTATIONS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in ((), (0,), (1, 2), (0, 1, 2))
]


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_figures_do_not_depend_on_the_order_of_the_axes(
    axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    arrays = (*random_pair(), random_mask().astype(np.uint8))
    turned = [np.ascontiguousarray(np.flip(a.transpose(axes), flips)) for a in arrays]
    images = ct(arrays[0]), ct(arrays[1]), mask_of(arrays[2])
    turned_images = ct(turned[0]), ct(turned[1]), mask_of(turned[2])
    for metric in METRICS:
        if metric is not ms_ssim:  # its pairs of voxels begin at the first, wherever that lies
            assert metric(*turned_images) == pytest.approx(metric(*images), rel=1e-6)


@every_metric
def test_what_lies_outside_the_mask_does_not_count(metric: Metric) -> None:
    reference, synthetic = random_pair()
    where = random_mask()
    before = metric(ct(reference), ct(synthetic), mask_of(where))
    reference[~where], synthetic[~where] = np.nan, 5000.0
    assert metric(ct(reference), ct(synthetic), mask_of(where)) == before


# Where they say no


@every_metric
def test_another_grid_is_refused(metric: Metric) -> None:
    reference, synthetic = random_pair()
    mask = mask_of(random_mask())
    with pytest.raises(InputError, match="does not lie on the grid"):
        metric(ct(reference), ct(synthetic, x_mm=1.0), mask)
    with pytest.raises(InputError, match="does not lie on the grid"):
        metric(ct(reference, x_mm=1.0), ct(synthetic, x_mm=1.0), mask)
    with pytest.raises(InputError, match="does not lie on the grid"):
        metric(ct(reference), ct(synthetic[1:]), mask)


@every_metric
def test_another_unit_is_refused(metric: Metric) -> None:
    reference, synthetic = random_pair()
    mask = mask_of(random_mask())
    with pytest.raises(InputError, match="needs HU"):
        metric(ct(reference), ct(synthetic, Unit.ARBITRARY), mask)
    with pytest.raises(InputError, match="needs HU"):
        metric(hu_to_mu(ct(reference)), ct(synthetic), mask)


@every_metric
def test_a_mask_must_be_one_and_hold_voxels(metric: Metric) -> None:
    reference, synthetic = map(ct, random_pair())
    with pytest.raises(InputError, match="holds no voxel"):
        metric(reference, synthetic, mask_of(np.zeros(reference.array.shape)))
    with pytest.raises(InputError, match="where a mask is needed"):
        metric(reference, synthetic, reference)


@every_metric
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["reference", "synthetic"])
def test_values_that_are_not_numbers_inside_the_mask_are_refused(
    metric: Metric, bad: float, which: str
) -> None:
    reference, synthetic = random_pair()
    (reference if which == "reference" else synthetic)[0, 0, 0] = bad  # at the border, for SSIM
    where = random_mask()
    where[0, 0, 0] = True
    with pytest.raises(InputError, match=f"The {which} volume holds values inside the mask"):
        metric(ct(reference), ct(synthetic), mask_of(where))


def test_figures_that_are_not_defined_are_nan() -> None:
    air, soft = ct(np.full((9, 9, 9), -1000.0)), ct(np.full((9, 9, 9), 40.0))
    noise, _ = map(ct, random_pair((9, 9, 9)))
    whole = mask_of(np.ones((9, 9, 9)))
    assert math.isnan(jaccard_bone(air, soft, whole))
    assert math.isnan(dice_bone(air, soft, whole))
    assert math.isnan(pearson(soft, noise, whole))
    assert math.isnan(pearson(noise, soft, whole))
    assert math.isnan(mu_rmae_percent(air, soft, whole))
    rim = np.ones((9, 9, 9))
    rim[3:-3, 3:-3, 3:-3] = 0
    assert math.isnan(ssim(air, soft, mask_of(rim)))
    thin = np.ones((2, 9, 9))
    assert math.isnan(ssim(ct(thin), ct(thin), mask_of(thin)))
    assert math.isnan(mssim_paper_2(ct(thin), ct(thin), mask_of(thin)))
    assert math.isnan(normalised_mutual_information(air, soft, whole))
    assert normalised_mutual_information(soft, noise, whole) == pytest.approx(1.0)
    assert jaccard_bone(soft, noise, whole) == 0.0  # bone in one image only is defined


def test_unknown_convention_is_refused() -> None:
    with pytest.raises(InputError, match="carney-90"):
        mu_rmae_percent(*small(), "carney-90")


def test_an_empty_intensity_range_is_refused() -> None:
    for low, high, span in ((0.0, 0.0, 4096.0), (0.0, -5.0, 4096.0), (0.0, 1.0, 0.0)):
        with pytest.raises(InputError, match="is empty"):
            IntensityRange("mine", low, high, span, "")


# Difference and histogram


def test_difference_is_synthetic_minus_reference() -> None:
    reference, synthetic, mask = small()
    found = difference(reference, synthetic)
    assert found.array.tolist() == [[[-100.0, -1.0, 0.0, 300.0, -3007.0]]]
    assert (found.role, found.unit) == (Role.CT, Unit.HU)
    assert found.provenance.steps[-1].name == "difference"
    mean = found.array[mask.array > 0].mean()
    assert mean == pytest.approx(mean_error_hu(reference, synthetic, mask))
    with pytest.raises(InputError, match="needs HU"):
        difference(reference, ct(synthetic.array, Unit.ARBITRARY))
    with pytest.raises(InputError, match="does not lie on the grid"):
        difference(reference, ct(synthetic.array, x_mm=1.0))


def test_histogram_accounts_for_every_voxel() -> None:
    values = [[[-1001.0, -1000.0, -1.0, 0.0, 99.0, 100.0, 101.0, 5.0]]]
    found = hu_histogram(ct(values), mask_of([[[1, 1, 1, 1, 1, 1, 1, 0]]]), [-1000, 0, 100])
    assert found.counts.tolist() == [2, 3]  # the last bin holds its end
    assert (found.below, found.above) == (1, 1)
    assert found.edges_hu.tolist() == [-1000, 0, 100]


@pytest.mark.parametrize("edges", [[0.0], [0.0, 0.0], [1.0, 0.0], [0.0, math.nan], [[0.0, 1.0]]])
def test_histogram_edges_must_rise(edges: list[float]) -> None:
    with pytest.raises(InputError, match="must be two or more"):
        hu_histogram(ct(np.zeros((1, 1, 2))), mask_of([[[1, 1]]]), edges)


def test_histogram_refuses_what_it_cannot_count() -> None:
    edges = [-1000, 0, 1000]
    with pytest.raises(InputError, match="holds no voxel"):
        hu_histogram(ct(np.zeros((1, 1, 2))), mask_of([[[0, 0]]]), edges)
    with pytest.raises(InputError, match="needs HU"):
        hu_histogram(ct(np.zeros((1, 1, 2)), Unit.ARBITRARY), mask_of([[[1, 1]]]), edges)
    with pytest.raises(InputError, match="not numbers"):
        hu_histogram(ct([[[np.nan, 0.0]]]), mask_of([[[1, 1]]]), edges)


# The whole table


def test_evaluation_holds_each_figure_of_each_mask() -> None:
    reference, synthetic = map(ct, random_pair())
    masks = {"head": mask_of(np.ones((14, 17, 19))), "skull": mask_of(random_mask())}
    found = evaluate(reference, synthetic, masks, convention="stir-ge-120")
    assert [row.mask for row in found.rows] == ["head", "skull"]
    assert set(MASK_FIGURES) == {metric.__name__ for metric in METRICS} | {"psnr_synthrad_db"}
    assert set(DEFINITIONS) == set(MASK_FIGURES) | set(REGION_FIGURES)
    for name, mask in masks.items():
        assert found.row(name).psnr_synthrad_db == psnr_db(
            reference, synthetic, mask, SYNTHRAD_2025
        )
        row = found.row(name)
        for metric in METRICS:
            more = ("stir-ge-120",) if metric is mu_rmae_percent else ()
            assert getattr(row, metric.__name__) == metric(reference, synthetic, mask, *more)
        assert row.voxels == mask.array.sum()
        assert row.volume_ml == pytest.approx(row.voxels * 1.0 * 2.0 * 2.5 / 1000)
        assert (row.unscanned_voxels, row.undefined) == (0, {})
    assert found.bone.dice == found.row("head").dice_bone  # the union of the masks is the head
    assert found.bone.jaccard == found.row("head").jaccard_bone
    assert found.bone.reference_ml == pytest.approx((reference.array >= 300).sum() * 5 / 1000)
    assert found.bone.synthetic_ml == pytest.approx((synthetic.array >= 300).sum() * 5 / 1000)
    assert found.scanned_only is False


def test_nothing_outside_the_scan_is_counted() -> None:
    reference, synthetic = random_pair()
    scanned = np.zeros(reference.shape, bool)
    scanned[:, 5:] = True
    head = random_mask()
    cut = evaluate(ct(reference), ct(synthetic), {"head": mask_of(head & scanned)})
    holed = np.where(scanned, reference, -1000.0).astype(np.float32)
    found = evaluate(
        ct(holed), ct(synthetic), {"head": mask_of(head)}, scanned=mask_of(scanned)
    ).row("head")
    assert found.unscanned_voxels == (head & ~scanned).sum() > 0
    for name in ("voxels", *MASK_FIGURES):
        assert getattr(found, name) == getattr(cut.row("head"), name)
    wrong = evaluate(ct(holed), ct(synthetic), {"head": mask_of(head)}).row("head")
    assert wrong.mae_hu > found.mae_hu + 50


def test_bone_is_counted_in_the_union_of_the_masks() -> None:
    shape = (8, 8, 8)
    hu = np.full(shape, 1000.0)
    left, right = np.zeros(shape), np.zeros(shape)
    left[:, :, :2], right[:, :, 1:4] = 1, 1
    found = evaluate(ct(hu), ct(hu), {"left": mask_of(left), "right": mask_of(right)})
    assert found.bone.reference_ml == pytest.approx(8 * 8 * 4 * 5 / 1000)


def test_json_is_plain_and_says_why_a_figure_is_missing() -> None:
    shape = (9, 9, 9)
    air, image = ct(np.full(shape, -1000.0)), ct(np.full(shape, -1000.0))
    inside, outside = np.zeros(shape), np.zeros(shape)
    inside[:5], outside[5:] = 1, 1
    masks = {"air": mask_of(inside), "elsewhere": mask_of(outside)}
    record = evaluate(air, image, masks, scanned=mask_of(inside)).to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["schema"] == "synthct-evaluation/2"
    assert record["convention"] == "carney-140"
    assert record["scanned_only"] is True
    bone = record["bone"]
    assert (bone["reference_ml"], bone["synthetic_ml"]) == (0.0, 0.0)
    for name in ("jaccard", "dice", "hd95_mm", "mean_surface_mm", "kmeans_dice"):
        assert bone[name] is None
    assert set(bone["dice_curve"]["dice"]) == {None}
    assert set(record["definitions"]) == set(DEFINITIONS)
    first, second = record["masks"]
    assert first["mae_hu"] == 0.0
    assert set(first["undefined"]) == {
        "psnr_db", "psnr_synthrad_db", "pearson", "normalised_mutual_information",
        "jaccard_bone", "dice_bone", "mu_rmae_percent",
    }  # fmt: skip
    assert "infinite" in first["undefined"]["psnr_db"]
    assert second["voxels"] == 0
    assert second["unscanned_voxels"] == 4 * 81
    for row in (first, second):
        assert {name for name in MASK_FIGURES if row[name] is None} == set(row["undefined"])
    assert all("no voxel" in reason for reason in second["undefined"].values())


def test_a_thin_image_has_no_ssim_and_says_so() -> None:
    reference, synthetic = random_pair((4, 12, 12))
    row = evaluate(ct(reference), ct(synthetic), {"all": mask_of(np.ones((4, 12, 12)))}).row("all")
    assert set(row.undefined) == {"ssim", "mssim_paper_2"}
    assert "3 voxels" in row.undefined["ssim"]


def test_values_outside_every_mask_may_be_anything() -> None:
    reference, synthetic = random_pair()
    where = random_mask()
    before = evaluate(ct(reference), ct(synthetic), {"head": mask_of(where)})
    reference[~where] = np.nan
    after = evaluate(ct(reference), ct(synthetic), {"head": mask_of(where)})
    assert after.to_json() == before.to_json()


def test_evaluation_is_the_same_to_the_last_bit_with_any_number_of_threads() -> None:
    reference, synthetic = map(ct, random_pair())
    masks = {"head": mask_of(np.ones((14, 17, 19))), "skull": mask_of(random_mask())}
    alone = evaluate(reference, synthetic, masks)
    for threads in (2, 5):
        together = evaluate(reference, synthetic, masks, threads=threads)
        assert together.to_json() == alone.to_json()
    with pytest.raises(InputError, match="needs HU"):
        evaluate(reference, ct(random_pair()[1], Unit.ARBITRARY), masks, threads=2)


def test_evaluation_refuses_what_it_cannot_use() -> None:
    reference, synthetic = map(ct, random_pair())
    head = mask_of(random_mask())
    nothing = mask_of(np.zeros(head.array.shape))
    with pytest.raises(InputError, match="no voxel to evaluate"):
        evaluate(reference, synthetic, {})
    with pytest.raises(InputError, match="no voxel to evaluate"):
        evaluate(reference, synthetic, {"head": head}, scanned=nothing)
    with pytest.raises(InputError, match="where a mask is needed"):
        evaluate(reference, synthetic, {"head": reference})
    with pytest.raises(InputError, match="where a mask is needed"):
        evaluate(reference, synthetic, {"head": head}, scanned=reference)
    with pytest.raises(InputError, match="does not lie on the grid"):
        evaluate(reference, ct(synthetic.array, x_mm=1.0), {"head": head})
    with pytest.raises(InputError, match="needs HU"):
        evaluate(reference, ct(synthetic.array, Unit.ARBITRARY), {"head": head})
    with pytest.raises(InputError, match="carney-90"):
        evaluate(reference, synthetic, {"head": head}, convention="carney-90")
    with pytest.raises(KeyError):
        evaluate(reference, synthetic, {"head": head}).row("skull")


def test_the_flat_table_names_every_figure() -> None:
    reference, synthetic = map(ct, random_pair())
    found = evaluate(reference, synthetic, {"head": mask_of(random_mask())})
    flat = found.flat()
    assert set(flat) == {f"head.{name}" for name in MASK_FIGURES} | set(REGION_FIGURES)
    assert flat["head.mae_hu"] == found.row("head").mae_hu
    assert flat["bone.hd95_mm"] == found.bone.hd95_mm
    assert flat["classes.fat"] == found.classes["fat"]
    assert figure_of("head.mae_hu").better is Better.LESS
    assert figure_of("classes.fat").title == "Dice of fat"
    with pytest.raises(KeyError):
        figure_of("head.beauty")


def test_intensity_ranges_have_names() -> None:
    for name, preset in PRESETS.items():
        assert intensity_range_named(name) is preset
        assert preset.source
    with pytest.raises(InputError, match=r"no intensity range 'mine': choose one of paper-2"):
        intensity_range_named("mine")

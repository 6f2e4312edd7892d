"""Figures of a synthetic PET: values by hand, the free-response curve, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.lesions import LesionScan, free_response, lesion_uptake
from SynthCTLib.metrics.uptake import uptake_figures
from SynthCTLib.volume import Role, Unit, Volume

SHAPE = (10, 20, 20)


def pet(array: np.ndarray, unit: Unit = Unit.SUV) -> Volume:
    image = sitk.GetImageFromArray(array.astype("f4"))
    image.SetSpacing((5.0, 5.0, 5.0))  # 0.125 ml a voxel
    return Volume(image, Role.PET, unit)


def with_hot(*places: tuple[int, int, int, float]) -> Volume:
    """Cubes of 3 voxels (3.4 ml) of the given SUV in a background of 1."""
    array = np.ones(SHAPE)
    for z, y, x, suv in places:
        array[z : z + 3, y : y + 3, x : x + 3] = suv
    return pet(array)


REAL = with_hot((1, 2, 2, 6.0), (5, 12, 12, 4.0))
EVERYWHERE = REAL.mask(np.ones(SHAPE, bool))


def test_errors_in_suv_by_hand() -> None:
    made = pet(np.ones(SHAPE) * 1.5)
    real = pet(np.ones(SHAPE))
    figures = uptake_figures(real, made, EVERYWHERE)
    assert figures.voxels == 4000
    assert figures.mae_suv == pytest.approx(0.5)
    assert figures.rmse_suv == pytest.approx(0.5)
    assert figures.mean_error_suv == pytest.approx(0.5)
    assert figures.psnr_db == pytest.approx(20 * math.log10(20 / 0.5))
    assert figures.lesions.lesions == 0


def test_the_same_image_is_perfect_and_its_json_has_no_infinity() -> None:
    figures = uptake_figures(REAL, REAL, EVERYWHERE)
    assert figures.psnr_db == math.inf
    assert figures.ssim == pytest.approx(1)
    assert (figures.lesions.detected, figures.lesions.false_positives) == (2, 0)
    content = figures.to_json()
    assert content["psnr_db"] is None
    assert content["lesions"]["lesions"] == 2


def test_likeness_is_scikit_images() -> None:
    random = np.random.default_rng(0)
    real, made = random.gamma(2, 2, SHAPE), random.gamma(2, 2, SHAPE)
    figures = uptake_figures(pet(real), pet(made), EVERYWHERE)
    a, b = (v.astype("f4").astype(float).clip(0, 20) for v in (real, made))
    assert figures.psnr_db == pytest.approx(peak_signal_noise_ratio(a, b, data_range=20))
    _, likeness = structural_similarity(a, b, data_range=20, full=True)
    assert figures.ssim == pytest.approx(likeness.mean())


def test_what_is_outside_the_region_does_not_count() -> None:
    made = REAL.array.copy()
    made[:, :, 10:] = 19
    left = np.zeros(SHAPE, bool)
    left[:, :, :10] = True
    figures = uptake_figures(REAL, pet(made), REAL.mask(left))
    assert figures.mae_suv == 0
    assert figures.lesions.lesions == 1


def test_pets_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="SUV"):
        uptake_figures(REAL, pet(REAL.array, Unit.BQ_PER_ML), EVERYWHERE)
    with pytest.raises(InputError, match="holds no voxel"):
        uptake_figures(REAL, REAL, REAL.mask(np.zeros(SHAPE, bool)))
    with pytest.raises(InputError, match="grid"):
        uptake_figures(REAL, pet(np.ones((10, 20, 21))), EVERYWHERE)


def test_a_free_response_curve_by_hand() -> None:
    # Shows the first lesion at 5 SUV, the second at 3, and one that is not there at 3.5.
    made = with_hot((1, 2, 2, 5.0), (5, 12, 12, 3.0), (5, 2, 12, 3.5))
    empty = LesionScan(pet(np.ones(SHAPE)), pet(np.ones(SHAPE) * 1.2), EVERYWHERE)
    curve = free_response((LesionScan(REAL, made, EVERYWHERE), empty), (2.5, 3.2, 4.0, 5.5))
    assert [p.called_above_suv for p in curve] == [2.5, 3.2, 4.0, 5.5]
    assert [p.rates.true_positive_rate for p in curve] == [1.0, 0.5, 0.5, 0.0]
    assert [p.rates.false_positives_per_scan for p in curve] == [0.5, 0.5, 0.0, 0.0]


def test_a_lower_threshold_never_finds_fewer_lesions() -> None:
    random = np.random.default_rng(1)
    made = pet(REAL.array * random.uniform(0.3, 1.2, SHAPE))
    scan = LesionScan(REAL, made, EVERYWHERE)
    found = [p.rates.true_positive_rate for p in free_response((scan,), (5, 3, 2, 1, 0.5))]
    assert found == sorted(found)


def test_no_scan_makes_no_curve() -> None:
    with pytest.raises(InputError, match="no scan"):
        free_response((), (2.5,))


def test_uptake_of_lesions_by_hand() -> None:
    made = with_hot((1, 2, 2, 5.0), (5, 12, 12, 1.0))
    big = np.zeros(SHAPE, bool)
    big[1:4, 2:5, 2:5] = True
    big[1, 5, 2] = True  # one voxel of background belongs to the outline
    outlines = big.copy()
    outlines[5:8, 12:15, 12:15] = True
    first, second = lesion_uptake(LesionScan(REAL, made, EVERYWHERE, REAL.mask(outlines)))
    assert first.volume_ml == pytest.approx(28 * 0.125)
    assert (first.real_max_suv, first.synthetic_max_suv) == (6.0, 5.0)
    assert first.real_mean_suv == pytest.approx((27 * 6 + 1) / 28)
    assert first.synthetic_mean_suv == pytest.approx((27 * 5 + 1) / 28)
    assert (second.real_max_suv, second.synthetic_max_suv) == (4.0, 1.0)
    by_threshold = lesion_uptake(LesionScan(REAL, made, EVERYWHERE))
    assert [lesion.real_mean_suv for lesion in by_threshold] == [6.0, 4.0]
    assert lesion_uptake(LesionScan(REAL, made, EVERYWHERE), least_ml=3.5) == ()
    with pytest.raises(InputError, match="SUV"):
        lesion_uptake(LesionScan(pet(REAL.array, Unit.BQ_PER_ML), made, EVERYWHERE))

"""Preparation of an MR for a network: closed forms, MONAI as reference, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import HistogramNormalize, ScaleIntensity
from pydantic import TypeAdapter, ValidationError

from SynthCTLib.errors import InputError
from SynthCTLib.synthesis.preparation import (
    Preparation,
    equalized,
    missing_noise,
    prepare,
    with_noise,
)

SHAPE = (12, 14, 16)


@pytest.fixture
def mr() -> np.ndarray:
    """Air with noise and a bright block, as an MR: skewed, with negative values."""
    values = np.abs(np.random.default_rng(0).normal(0, 20, SHAPE)) - 3
    values[3:9, 3:11, 4:12] += np.random.default_rng(1).gamma(3, 200, (6, 8, 8))
    return values.astype(np.float32)


@pytest.fixture
def head() -> np.ndarray:
    inside = np.zeros(SHAPE, bool)
    inside[3:9, 3:11, 4:12] = True
    return inside


EVERYWHERE = np.ones(SHAPE, bool)


def test_histogram_is_monais_rule(mr: np.ndarray, head: np.ndarray) -> None:
    normalise, scale = HistogramNormalize(num_bins=256, min=0, max=255), ScaleIntensity(-1.0, 1.0)
    expected = scale(normalise(torch.from_numpy(mr[np.newaxis]))).numpy()
    ours = prepare(mr, EVERYWHERE, head, Preparation("histogram"))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_histogram_counts_only_what_was_scanned(mr: np.ndarray, head: np.ndarray) -> None:
    scanned = EVERYWHERE.copy()
    scanned[:, :, 13:] = False
    ours = prepare(mr, scanned, head, Preparation("histogram"))
    alone = prepare(mr[:, :, :13], scanned[:, :, :13], head[:, :, :13], Preparation("histogram"))
    np.testing.assert_array_equal(ours[..., :13], alone)
    assert (ours[..., 13:] == -1).all()


def test_a_clean_background_is_given_noise_and_a_noisy_one_is_left() -> None:
    head = np.zeros((24, 32, 32), bool)
    head[6:18, 8:24, 8:24] = True
    whole = np.ones_like(head)
    clean = np.zeros(head.shape, np.float32)
    clean[head] = np.linspace(40, 60, np.count_nonzero(head))
    asked = Preparation("histogram", noise=0.02)
    deviation = missing_noise(clean, whole, head, asked)
    assert deviation == pytest.approx(0.02 * np.percentile(clean[head], 99.5))
    noisy = with_noise(clean, deviation)
    # Rayleigh's median is sqrt(2 ln 2) of the deviation; far above it noise adds next to nothing.
    expected = deviation * math.sqrt(2 * math.log(2))
    assert np.median(noisy[~head]) == pytest.approx(expected, rel=0.05)
    assert noisy[head].mean() == pytest.approx(clean[head].mean(), rel=0.01)
    np.testing.assert_array_equal(noisy, with_noise(clean, deviation))
    assert missing_noise(noisy, whole, head, asked) == 0
    assert missing_noise(clean, head, head, asked) == 0  # no background
    assert missing_noise(clean, whole, head, Preparation("histogram")) == 0
    plain = prepare(clean, whole, head, Preparation("histogram"))[0]
    told = prepare(clean, whole, head, asked)[0]
    # Equalised with a clean background, tissue lies low in the range; with a noisy one at its top.
    assert plain[head].mean() < told[head].mean()
    assert (plain[~head] == -1).all()
    assert told[~head].std() > 0.3


def test_noise_for_a_background_that_is_removed_is_refused() -> None:
    with pytest.raises(ValueError, match="masked"):
        Preparation("histogram", masked=True, noise=0.01)


def test_equalising_uniform_values_changes_nothing() -> None:
    values = np.linspace(0, 1, 256 * 64, dtype=np.float32).reshape(16, 32, 32)
    made = equalized(values, np.ones(values.shape, bool))
    assert np.abs(made - values).max() < 1 / 256


def test_robust_is_a_straight_line_between_the_percentiles_of_the_head(
    mr: np.ndarray, head: np.ndarray
) -> None:
    made = prepare(mr, EVERYWHERE, head, Preparation("robust"))[0]
    low, high = np.percentile(mr[head], (0, 99.5))
    expected = np.clip((mr - low) / (high - low), 0, 1.5)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert np.percentile(made[head], 99.5) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("method", ["histogram", "robust"])
def test_scale_and_offset_of_the_mr_do_not_matter(
    mr: np.ndarray, head: np.ndarray, method: str
) -> None:
    settings = Preparation(method)  # type: ignore[arg-type]
    straight = prepare(mr, EVERYWHERE, head, settings)
    changed = prepare(3 * mr + 50, EVERYWHERE, head, settings)
    # A value on the edge of a histogram bin may fall to its other side.
    assert np.mean(np.abs(straight - changed) > 1e-4) < 0.002


def test_the_brightest_vessel_is_clipped_and_outside_the_field_is_zero(
    mr: np.ndarray, head: np.ndarray
) -> None:
    mr[5, 5, 5] = 1e6
    scanned = EVERYWHERE.copy()
    scanned[:2] = False
    made = prepare(mr, scanned, head, Preparation("robust", scanned_channel=True))
    assert made.shape == (2, *SHAPE)
    assert made[0, 5, 5, 5] == pytest.approx(1.5)
    assert (made[0, :2] == 0).all()
    np.testing.assert_array_equal(made[1], scanned)


@pytest.mark.parametrize("method", ["histogram", "robust"])
def test_masked_removes_what_lies_outside_the_head(
    mr: np.ndarray, head: np.ndarray, method: str
) -> None:
    settings = Preparation(method, masked=True)  # type: ignore[arg-type]
    made = prepare(mr, EVERYWHERE, head, settings)[0]
    assert np.unique(made[~head]).size == 1
    assert np.unique(made[head]).size > 100


def test_the_input_is_not_changed(mr: np.ndarray, head: np.ndarray) -> None:
    before = mr.copy()
    prepare(mr, EVERYWHERE, head, Preparation("robust", masked=True))
    np.testing.assert_array_equal(mr, before)


@pytest.mark.parametrize("method", ["histogram", "robust"])
def test_an_mr_without_contrast_is_refused(head: np.ndarray, method: str) -> None:
    flat = np.full(SHAPE, 7, np.float32)
    with pytest.raises(InputError, match="same value"):
        prepare(flat, EVERYWHERE, head, Preparation(method))  # type: ignore[arg-type]


def test_without_a_head_nothing_can_be_scaled(mr: np.ndarray) -> None:
    with pytest.raises(InputError, match="same value"):
        prepare(mr, EVERYWHERE, ~EVERYWHERE, Preparation("robust"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "z-score"},
        {"ceiling": 0},
        {"percentiles": [0, 101]},
        {"percentiles": [99, 1]},
        {"colour": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Preparation).validate_python(wrong)

"""The sliding window: partition of unity, MONAI as reference, alignment, and memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from pydantic import TypeAdapter, ValidationError

from SynthCTLib.synthesis.window import (
    START_MULTIPLE,
    Corner,
    Tiling,
    Window,
    canvas_sides,
    fitted,
    profile,
    slide,
    starts,
)


def slid(
    tiling: Tiling,
    canvas: np.ndarray,
    function: object = lambda x: x,
    wanted: np.ndarray | None = None,
    batch: int = 2,
) -> np.ndarray:
    """Every patch of the canvas through a function, put together."""
    made = np.full(canvas.shape, np.nan, np.float32)

    def predict(corners: Sequence[Corner]) -> np.ndarray:
        assert 1 <= len(corners) <= batch
        answers = [function(canvas[tiling.block(c)]) for c in corners]  # type: ignore[operator]
        return np.stack(answers)[:, np.newaxis]

    def take(first: int, planes: np.ndarray) -> None:
        block = slice(first, first + planes.shape[1])
        assert np.isnan(made[block]).all()
        made[block] = planes[0]

    slide(tiling, np.ones(canvas.shape, bool) if wanted is None else wanted, batch, predict, take)
    return made


@given(
    length=st.integers(1, 30).map(lambda n: 16 * n),
    side=st.integers(1, 12).map(lambda n: 16 * n),
    overlap=st.floats(0, 0.95),
)
def test_starts_cover_the_axis_with_the_overlap_on_multiples_of_eight(
    length: int, side: int, overlap: float
) -> None:
    length = max(length, side)
    begins = starts(length, side, overlap)
    assert begins[0] == 0
    assert begins[-1] == length - side
    steps = np.diff(begins)
    assert all(b % START_MULTIPLE == 0 for b in begins)
    assert (steps > 0).all()
    assert (steps <= max(START_MULTIPLE, side * (1 - overlap))).all()


@given(
    length=st.integers(1, 30).map(lambda n: 16 * n),
    side=st.integers(1, 12).map(lambda n: 16 * n),
    overlap=st.floats(0, 0.9),
)
def test_a_fitted_side_needs_no_more_patches_and_no_smaller_one_does(
    length: int, side: int, overlap: float
) -> None:
    side = min(side, length)
    fit = fitted(length, side, overlap)
    count = len(starts(length, side, overlap))
    assert fit <= side
    assert fit % 16 == 0
    assert len(starts(length, fit, overlap)) <= count
    if fit > 32:
        assert len(starts(length, fit - 16, overlap)) > count


def test_a_window_that_fits_computes_fewer_voxels() -> None:
    assert [fitted(n, 112, 0.25) for n in (240, 224, 192, 48)] == [96, 96, 112, 48]
    assert Window((112, 112, 112)).least_canvas == (112, 112, 112)
    assert Window((112, 112, 16), fit=True).least_canvas == (32, 32, 16)


def test_canvas_is_a_multiple_of_sixteen_and_holds_a_patch() -> None:
    assert canvas_sides((1, 33, 200), (32, 32, 64)) == (32, 48, 208)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_identity_network_gives_back_the_canvas(overlap: float, batch: int) -> None:
    canvas = np.random.default_rng(0).normal(size=(80, 48, 64)).astype(np.float32)
    tiling = Tiling((80, 48, 64), (32, 48, 32), overlap)
    np.testing.assert_allclose(slid(tiling, canvas, batch=batch), canvas, atol=2e-6)


def test_channels_are_averaged_each_by_itself() -> None:
    tiling = Tiling((48, 32, 32), (32, 32, 32), 0.5)
    made = np.full((2, 48, 32, 32), np.nan, np.float32)

    def predict(corners: Sequence[Corner]) -> np.ndarray:
        levels = [[c[0], 7.0] for c in corners]
        return np.ones((len(corners), 2, 32, 32, 32), np.float32) * np.reshape(
            levels, (-1, 2, 1, 1, 1)
        )

    def take(first: int, planes: np.ndarray) -> None:
        made[:, first : first + planes.shape[1]] = planes

    slide(tiling, np.ones((48, 32, 32), bool), 1, predict, take, 2)
    np.testing.assert_allclose(made[1], 7.0, rtol=1e-5)
    assert made[0, 0].max() == pytest.approx(0.0)
    assert made[0, -1].min() == pytest.approx(16.0)


def test_patches_are_weighted_as_monai_weights_them_with_the_same_map() -> None:
    canvas = np.random.default_rng(1).normal(size=(64, 48, 32)).astype(np.float32)
    tiling = Tiling((64, 48, 32), (32, 16, 16), 0.5)

    def function(patch: np.ndarray) -> np.ndarray:  # not local: every patch answers differently
        return patch * patch.mean() + patch.std()

    weight = profile(32)[:, None, None] * profile(16)[:, None] * profile(16)
    reference = sliding_window_inference(
        torch.from_numpy(canvas)[None, None],
        (32, 16, 16),
        2,
        lambda batch: torch.stack(
            [torch.from_numpy(function(patch.numpy())) for patch in batch[:, 0]]
        )[:, None],
        overlap=0.5,
        roi_weight_map=torch.from_numpy(weight)[None, None],
    )
    np.testing.assert_allclose(slid(tiling, canvas, function), reference[0, 0].numpy(), atol=1e-5)


def test_the_profile_is_monais_gaussian() -> None:
    from monai.data.utils import compute_importance_map

    ours = profile(48)
    theirs = compute_importance_map((48,), mode="gaussian", sigma_scale=0.125).numpy()
    # The middle half decides; MONAI convolves the Gaussian over each voxel.
    np.testing.assert_allclose(ours[12:36] / ours.max(), theirs[12:36] / theirs.max(), atol=0.01)


def test_patches_without_a_wanted_voxel_are_not_computed() -> None:
    canvas = np.random.default_rng(2).normal(size=(96, 32, 96)).astype(np.float32)
    tiling = Tiling((96, 32, 96), (32, 32, 32), 0.0)
    wanted = np.zeros(canvas.shape, bool)
    wanted[40, 5, 70] = True
    seen: list[np.ndarray] = []

    def function(patch: np.ndarray) -> np.ndarray:
        seen.append(patch)
        return patch

    made = slid(tiling, canvas, function, wanted)
    assert len(seen) == tiling.count(wanted) == 1
    assert made[40, 5, 70] == pytest.approx(canvas[40, 5, 70], abs=1e-6)
    assert tiling.fullest(wanted) == (32, 0, 64)


def test_totals_are_the_sum_of_all_weights() -> None:
    tiling = Tiling((64, 48, 64), (32, 32, 48), 0.3)
    whole = np.zeros(tiling.canvas, np.float32)
    z, y, x = tiling.weights
    for corner in itertools.product(*tiling.axes):
        whole[tiling.block(corner)] += z[:, None, None] * y[:, None] * x  # type: ignore[arg-type]
    z, y, x = tiling.totals
    np.testing.assert_allclose(whole, z[:, None, None] * y[:, None] * x, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": [30, 32, 32]},
        {"patch": [0, 32, 32]},
        {"patch": [32, 32]},
        {"patch": [32, 32, 32], "overlap": 1.0},
        {"patch": [32, 32, 32], "batch": 0},
        {"patch": [32, 32, 32], "colour": 1},
    ],
)
def test_wrong_windows_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Window).validate_python(wrong)

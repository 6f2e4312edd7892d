"""Blending by pyramids and fusion of planes: laws and values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from SynthCTLib.errors import InputError
from SynthCTLib.synthesis.blending import (
    blended,
    collapsed,
    expanded,
    gaussian_pyramid,
    laplacian_pyramid,
    reduced,
)
from SynthCTLib.synthesis.fusion import Fusion, fused


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=shape).astype("f4"), random.normal(size=shape).astype("f4")


@pytest.mark.parametrize("shape", [(2, 32, 48), (1, 37, 50), (3, 9, 8), (1, 5, 64), (1, 4, 4)])
def test_a_laplacian_pyramid_collapses_to_its_image(shape: tuple[int, ...]) -> None:
    image, _ = images(shape)
    np.testing.assert_allclose(collapsed(laplacian_pyramid(image, 6)), image, atol=1e-5)


def test_reducing_and_expanding_by_hand() -> None:
    line = np.array([[0, 0, 16, 0, 0, 0, 0]], "f4").repeat(4, 0)
    # 1 4 6 4 1 over 16 about every other pixel; constant along y.
    np.testing.assert_allclose(reduced(line)[0], [2, 6, 1, 0])  # at 0 the mirror doubles the 1
    peak = np.zeros((4, 4), "f4")
    peak[:, 1] = 8
    # At 0 the mirror doubles the 1, so that a constant keeps its value.
    np.testing.assert_allclose(expanded(peak, (8, 8))[0], [2, 4, 6, 4, 1, 0, 0, 0])


@pytest.mark.parametrize("sides", [(16, 16), (15, 16), (16, 15), (7, 9)])
def test_a_constant_stays_a_constant(sides: tuple[int, int]) -> None:
    flat = np.full(sides, 3.0, "f4")
    np.testing.assert_allclose(reduced(flat), 3.0, rtol=1e-6)
    np.testing.assert_allclose(expanded(reduced(flat), sides), 3.0, rtol=1e-6)


def test_a_full_mask_gives_the_inner_image_and_an_empty_one_the_outer() -> None:
    inner, outer = images((2, 40, 33))
    full = np.ones(inner.shape, bool)
    np.testing.assert_allclose(blended(inner, outer, full), inner, atol=1e-5)
    np.testing.assert_allclose(blended(inner, outer, ~full), outer, atol=1e-5)


def test_one_level_is_a_cut_without_blending() -> None:
    inner, outer = images((1, 32, 32))
    mask = np.random.default_rng(1).random(inner.shape) > 0.5
    np.testing.assert_allclose(blended(inner, outer, mask, 1), np.where(mask, inner, outer))


def test_two_levels_by_the_definition() -> None:
    inner, outer = images((1, 32, 32))
    mask = np.zeros(inner.shape, bool)
    mask[:, 10:20, 5:25] = True
    w, coarse_w = mask.astype("f4"), reduced(mask.astype("f4"))
    fine = w * (inner - expanded(reduced(inner), (32, 32)))
    fine += (1 - w) * (outer - expanded(reduced(outer), (32, 32)))
    coarse = coarse_w * reduced(inner) + (1 - coarse_w) * reduced(outer)
    expected = fine + expanded(coarse, (32, 32))
    np.testing.assert_allclose(blended(inner, outer, mask, 2), expected, atol=1e-5)


def test_a_blend_has_no_step_where_a_cut_has_one() -> None:
    shape = (1, 64, 64)
    inner, outer = np.full(shape, 10.0, "f4"), np.zeros(shape, "f4")
    mask = np.zeros(shape, bool)
    mask[:, :, 32:] = True
    made = blended(inner, outer, mask, 5)[0, 32]
    assert np.abs(np.diff(made)).max() < 1.0  # the cut has 10
    assert (np.diff(made) >= -1e-4).all()
    assert made[0] < 0.5
    assert made[-1] > 9.5


def test_slices_do_not_see_each_other() -> None:
    inner, outer = images((3, 32, 32))
    mask = np.zeros(inner.shape, bool)
    mask[1, 8:20, 8:20] = True
    np.testing.assert_allclose(blended(inner, outer, mask)[[0, 2]], outer[[0, 2]], atol=1e-5)


def test_the_pyramid_of_a_mask_stays_between_nothing_and_all() -> None:
    mask = np.random.default_rng(2).random((1, 48, 48)) > 0.7
    for level in gaussian_pyramid(mask.astype("f4"), 5):
        assert level.min() >= 0
        assert level.max() <= 1 + 1e-6


def test_images_that_do_not_fit_are_refused() -> None:
    inner, outer = images((1, 16, 16))
    with pytest.raises(InputError, match="one shape"):
        blended(inner, outer[:, :8], np.ones(inner.shape, bool))
    with pytest.raises(InputError, match="levels"):
        blended(inner, outer, np.ones(inner.shape, bool), 0)


def test_fusions_by_hand() -> None:
    answers = [np.full((1, 1, 2), v, "f4") for v in (1.0, 2.0, 9.0)]
    assert fused(answers, Fusion.MEDIAN).ravel().tolist() == [2, 2]
    assert fused(answers, Fusion.MEAN).ravel().tolist() == [4, 4]
    assert fused(answers, Fusion.AGREEING).ravel().tolist() == [1.5, 1.5]
    assert fused([-a for a in answers], Fusion.AGREEING).ravel().tolist() == [-1.5, -1.5]


@pytest.mark.parametrize("how", list(Fusion))
def test_the_order_of_planes_does_not_matter_and_one_plane_is_itself(how: Fusion) -> None:
    one, two = images((2, 3, 4))
    three = one * two
    turned = fused([three, one, two], how)
    np.testing.assert_allclose(fused([one, two, three], how), turned, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fused([one], how), one)


def test_nothing_cannot_be_fused() -> None:
    with pytest.raises(InputError, match="one shape"):
        fused([], Fusion.MEAN)
    with pytest.raises(InputError, match="one shape"):
        fused([np.zeros((1, 2, 3), "f4"), np.zeros((3, 2, 1), "f4")], Fusion.MEDIAN)

"""Bias correction against a shading that is known in closed form."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import Cancelled, InputError
from SynthCTLib.imaging.bias import BiasOptions, correct_bias
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.volume import Role, Unit, Volume

SHAPE = (56, 64, 60)
SPACING_MM = 3.0
QUICK = BiasOptions(iterations=(15, 10))


def axes() -> list[np.ndarray]:
    return np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)


@cache
def tissues() -> np.ndarray:
    """0 air, 1 grey, 2 white: a ball of grey with white inside it and in a lattice around."""
    z, y, x = axes()
    radius = np.sqrt(x**2 + y**2 + z**2)
    lattice = (np.cos(14 * x) * np.cos(14 * y) * np.cos(14 * z)) > 0
    return np.where(radius < 0.85, 1 + ((radius < 0.35) | lattice & (radius < 0.8)), 0)


@cache
def shading() -> np.ndarray:
    """Field whose ends differ about fivefold."""
    z, y, x = axes()
    return np.exp(0.45 * z + 0.3 * y - 0.35 * x**2 + 0.25 * z * y)


def mr(values: np.ndarray) -> Volume:
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((SPACING_MM,) * 3)
    image.SetOrigin((10.0, -40.0, 25.0))
    return Volume(image, Role.MR, Unit.ARBITRARY)


def flat() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 2.0, SHAPE)
    return np.array([0.0, 100.0, 160.0])[tissues()] + np.abs(noise)


def spread(values: np.ndarray, tissue: int) -> float:
    inside = values[tissues() == tissue]
    return float(inside.std() / inside.mean())


@pytest.fixture(scope="module")
def corrected() -> Volume:
    return correct_bias(mr(flat() * shading()))


def test_a_known_shading_is_removed(corrected: Volume) -> None:
    shaded = flat() * shading()
    for tissue in (1, 2):
        assert spread(shaded, tissue) > 0.2
        assert spread(corrected.array, tissue) < 0.2 * spread(shaded, tissue)


def test_the_field_itself_is_found(corrected: Volume) -> None:
    shaded = mr(flat() * shading()).array
    inside = tissues() > 0
    difference = np.log(shaded[inside] / corrected.array[inside]) - np.log(shading()[inside])
    assert difference.std() < 0.04


def test_grid_mean_and_history_are_kept(corrected: Volume) -> None:
    shaded = mr(flat() * shading())
    assert corrected.grid.matches(shaded.grid)
    assert corrected.role == Role.MR
    assert corrected.image.GetPixelID() == sitk.sitkFloat32
    inside = tissues() > 0
    assert corrected.array[inside].mean() == pytest.approx(shaded.array[inside].mean(), rel=0.01)
    assert corrected.provenance.steps[-1].name == "correct_bias"
    assert corrected.provenance.steps[-1].settings["iterations"] == (50, 50, 50)


def test_outside_the_head_the_result_is_finite_and_dark(corrected: Volume) -> None:
    assert np.isfinite(corrected.array).all()
    assert corrected.array.min() >= 0
    assert corrected.array[tissues() == 0].max() < 60


def test_an_even_image_stays_nearly_as_it_is() -> None:
    even = mr(flat())
    ratio = correct_bias(even, QUICK).array[tissues() > 0] / even.array[tissues() > 0]
    assert ratio.std() < 0.02
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("code", ["RAS", "PIR"])
def test_the_order_of_the_axes_does_not_matter(code: str) -> None:
    volume = mr(flat() * shading())
    turned = volume.with_image(sitk.DICOMOrient(volume.image, code))
    expected = sitk.DICOMOrient(correct_bias(volume, QUICK).image, code)
    found = correct_bias(turned, QUICK)
    assert found.grid.matches(turned.grid)
    assert np.allclose(found.array, sitk.GetArrayViewFromImage(expected), rtol=1e-4, atol=1e-3)


def test_stopping_raises_cancelled_after_the_level_at_work() -> None:
    seen: list[ProgressEvent] = []
    progress = Progress(seen.append, lambda: len(seen) >= 2)
    progress.stage("Bias", 1.0)
    with pytest.raises(Cancelled):
        correct_bias(mr(flat()), BiasOptions(iterations=(1, 1, 1, 1)), progress)
    assert seen[-1].fraction < 0.5


def test_progress_reaches_the_end() -> None:
    seen: list[ProgressEvent] = []
    progress = Progress(seen.append)
    progress.stage("Bias", 1.0)
    correct_bias(mr(flat()), BiasOptions(iterations=(1, 1)), progress)
    assert [round(e.fraction, 2) for e in seen] == [0.0, 0.0, 0.5, 1.0]


def test_only_an_mr_with_something_in_it_is_taken() -> None:
    with pytest.raises(InputError, match="given a ct volume"):
        correct_bias(Volume(mr(flat()).image, Role.CT, Unit.HU))
    with pytest.raises(InputError, match="No tissue"):
        correct_bias(mr(np.zeros(SHAPE)))


@pytest.mark.parametrize(
    "wrong",
    [{"grid_mm": 0.0}, {"spline_mm": -1.0}, {"convergence": 0.0}, {"iterations": ()}],
)
def test_options_without_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="needs"):
        BiasOptions(**wrong)  # type: ignore[arg-type]


def test_iterations_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="needs"):
        BiasOptions(iterations=(50, 0))

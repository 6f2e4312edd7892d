"""The effect of a µ-map's error on PET: closed forms and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.physics.effect_figures import effect_figures
from SynthCTLib.physics.pet_effect import PetEffectOptions, pet_effect
from SynthCTLib.physics.reconstruction import ReconstructionOptions, ScanOptions
from SynthCTLib.volume import Role, Unit, Volume

SIZE, SLICES, SPACING_MM = 33, 2, 8.0
WATER, RADIUS_MM = 0.096, 100.0  # 25 voxels across: 20 cm
AT = (np.arange(SIZE) - SIZE // 2) * SPACING_MM
DISTANCE = np.hypot(AT[:, None], AT[None, :])
QUICK = PetEffectOptions(
    scan=ScanOptions(angles=48, events_per_slice=None), reconstruction=ReconstructionOptions(4, 6)
)


def volume(plane: npt.NDArray[Any], role: Role, unit: Unit) -> Volume:
    image = sitk.GetImageFromArray(np.repeat(plane[None], SLICES, axis=0).astype(np.float32))
    image.SetSpacing((SPACING_MM,) * 3)
    return Volume(image, role, unit)


def mu_map(factor: float = 1.0) -> Volume:
    plane = np.where(DISTANCE <= RADIUS_MM, factor * WATER, 0.0)
    return volume(plane, Role.MU_MAP, Unit.PER_CM)


BODY = volume(np.where(DISTANCE <= RADIUS_MM, 1.0, 0.0), Role.PET, Unit.SUV)
SOURCE = volume(np.where(DISTANCE < 4.0, 1.0, 0.0), Role.PET, Unit.SUV)
NEAR = volume(DISTANCE < 4.0, Role.MASK, Unit.ARBITRARY)


def test_a_map_without_error_has_no_effect() -> None:
    effect = pet_effect(mu_map(), mu_map(), BODY, QUICK)
    assert not effect.difference.array.any()
    figures = effect.figures()
    assert (figures.mean_percent, figures.sd_percent, figures.mae_percent) == (0, 0, 0)
    assert figures.beyond == {5.0: 0.0, 10.0: 0.0, 15.0: 0.0}
    # the body is counted, the air around it is not
    assert effect.counted.array[:, DISTANCE < 80].all()
    assert not effect.counted.array[:, DISTANCE > 130].any()


@pytest.mark.parametrize(
    ("factor", "beyond"),
    [
        (1.1, {5.0: 1.0, 10.0: 1.0, 15.0: 1.0}),  # +21.2 %
        (0.97, {5.0: 1.0, 10.0: 0.0, 15.0: 0.0}),  # -5.6 %
        (1.065, {5.0: 1.0, 10.0: 1.0, 15.0: 0.0}),  # +13.3 %
    ],
)
def test_a_source_in_the_middle_changes_by_its_factor(
    factor: float, beyond: dict[float, float]
) -> None:
    """All its lines have the same way through the body: exp(delta µ * 20 cm) - 1."""
    effect = pet_effect(mu_map(factor), mu_map(), SOURCE, QUICK)
    figures = effect.figures(NEAR)
    expected = 100 * math.expm1((factor - 1) * WATER * 20.0)
    assert figures.mean_percent == pytest.approx(expected, rel=0.03)
    assert figures.voxels == SLICES
    assert figures.beyond == beyond
    assert (effect.difference.unit, effect.pet.unit) == (Unit.PERCENT, Unit.SUV)
    assert "simulation" in effect.difference.provenance.steps[-1].settings["note"]


def test_figures_count_both_directions_and_are_no_numbers_of_too_few() -> None:
    percent = np.array([-12.0, 4.0, 8.0, 0.0], np.float32)
    found = effect_figures(percent, 4)
    assert (found.voxels, found.mean_percent, found.mae_percent) == (4, 0.0, 6.0)
    assert found.sd_percent == pytest.approx(math.sqrt((144 + 16 + 64) / 4))
    assert found.beyond == {5.0: 0.5, 10.0: 0.25, 15.0: 0.0}
    few = effect_figures(percent, 5)
    assert few.voxels == 4
    numbers = (few.mean_percent, few.sd_percent, few.mae_percent, *few.beyond.values())
    assert all(math.isnan(value) for value in numbers)


def test_an_error_in_one_place_is_felt_most_there() -> None:
    """Bone taken for water on one side: the PET there is too low, on the far side nearly right."""
    y, x = np.meshgrid(AT, AT, indexing="ij")
    bone = np.hypot(x - 64, y) < 20
    reference = np.where(DISTANCE <= RADIUS_MM, WATER, 0.0)
    reference[bone] = 0.15
    effect = pet_effect(mu_map(), volume(reference, Role.MU_MAP, Unit.PER_CM), BODY, QUICK)
    there = effect.figures(volume(bone, Role.MASK, Unit.ARBITRARY))
    far = effect.figures(volume(np.hypot(x + 64, y) < 20, Role.MASK, Unit.ARBITRARY))
    assert there.mean_percent < -5
    assert there.mean_percent < 3 * far.mean_percent < 0
    assert there.mae_percent == pytest.approx(-there.mean_percent)
    assert effect.figures().voxels > there.voxels + far.voxels


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="needs 1/cm"):
        pet_effect(BODY, mu_map(), BODY, QUICK)
    with pytest.raises(InputError, match="needs 1/cm"):
        pet_effect(mu_map(), BODY, BODY, QUICK)
    elsewhere = BODY.with_image(sitk.GetImageFromArray(BODY.array))
    with pytest.raises(InputError, match="does not lie on the grid"):
        pet_effect(mu_map(), mu_map(), elsewhere, QUICK)
    with pytest.raises(InputError, match="nothing to count"):
        pet_effect(mu_map(), mu_map(), BODY.with_array(0 * BODY.array), QUICK)
    effect = pet_effect(mu_map(), mu_map(), BODY, QUICK)
    with pytest.raises(InputError, match="no voxel with enough activity"):
        effect.figures(volume(DISTANCE > 130, Role.MASK, Unit.ARBITRARY))
    with pytest.raises(InputError, match="does not lie on the grid"):
        effect.figures(elsewhere)
    for share in (0.0, 1.0, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            PetEffectOptions(least_activity=share)

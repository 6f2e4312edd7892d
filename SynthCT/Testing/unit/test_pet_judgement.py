"""What a CT's error, or its uncertainty, does to a PET: closed forms, orders of axes, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.pet import PetJudgement, PetKind, pet_difference, pet_uncertainty
from SynthCTLib.physics.fdg import BONE_SUV, BRAIN_SUV, FAT_SUV, MUSCLE_SUV, fdg_pattern
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.synthesizer import Anatomy
from SynthCTLib.volume import Role, Unit, Volume
from SynthCTLib.workflow.outcome import Outcome
from SynthCTLib.workflow.pet import judge_for_pet

SIZE, SLICES, SPACING_MM = 64, 4, 4.0
WATER_PER_CM, RADIUS_MM = 0.096, 100.0
AT = (np.arange(SIZE) - SIZE / 2 + 0.5) * SPACING_MM
DISTANCE = np.hypot(AT[:, None], AT[None, :])
BODY, MIDDLE = DISTANCE <= RADIUS_MM, DISTANCE < 6.0


def volume(
    plane: npt.NDArray[np.generic], role: Role, unit: Unit = Unit.ARBITRARY, axes: str = "LPS"
) -> Volume:
    image = sitk.GetImageFromArray(np.repeat(plane[None], SLICES, axis=0).astype(np.float32))
    if role == Role.MASK:
        image = sitk.Cast(image, sitk.sitkUInt8)
    image.SetSpacing((SPACING_MM,) * 3)
    return Volume(sitk.DICOMOrient(image, axes), role, unit)


def ct(tissue_hu: float, axes: str = "LPS") -> Volume:
    return volume(np.where(BODY, tissue_hu, -1000.0), Role.CT, Unit.HU, axes)


def mask(plane: npt.NDArray[np.bool_], axes: str = "LPS") -> Volume:
    return volume(plane, Role.MASK, axes=axes)


def source(axes: str = "LPS") -> Volume:
    return volume(MIDDLE * 5.0, Role.PET, Unit.SUV, axes)


def judged(tissue_hu: float, where: npt.NDArray[np.bool_], axes: str = "LPS") -> PetJudgement:
    return pet_difference(
        ct(-20, axes), ct(tissue_hu, axes), mask(BODY, axes), mask(where, axes), source(axes),
        {"middle": mask(MIDDLE, axes), "rim": mask(BODY & (DISTANCE > 80), axes)},
    )  # fmt: skip


def test_a_source_in_the_middle_changes_by_the_factor_of_its_lines() -> None:
    """20 cm of water, 5 % less dense: exp(-0.05 * 0.096 * 20) - 1 along every line."""
    found = judged(-70, BODY)
    row = found.row("middle")
    assert row is not None
    expected = 100 * math.expm1(-0.05 * WATER_PER_CM * 20)
    assert row.mean_percent == pytest.approx(expected, rel=0.04)
    assert row.mae_percent == pytest.approx(-row.mean_percent)
    assert row.beyond[5.0] == 1
    assert row.beyond[15.0] == 0
    assert (found.kind, found.map.unit) == (PetKind.DIFFERENCE, Unit.PERCENT)
    # nothing glows at the rim, so nothing is claimed there
    assert found.row("rim") is None
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["masks"][1] == {
        "mask": "rim", "voxels": 0, "mean_percent": None, "sd_percent": None, "mae_percent": None,
        "beyond": None,
    }  # fmt: skip


def test_where_nothing_is_judged_nothing_changes() -> None:
    """The reference is used only where it was scanned: half a body, half the way."""
    whole, half = judged(-70, BODY), judged(-70, BODY & (AT[None, :] > 0))
    assert not judged(-20, BODY).map.array.any()
    middle = half.row("middle")
    assert middle is not None
    assert middle.voxels < whole.rows[0].voxels
    expected = 100 * math.expm1(-0.05 * WATER_PER_CM * 10)
    assert middle.mean_percent == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("axes", ["RAS", "SLA", "ASL"])
def test_the_order_of_the_axes_does_not_matter(axes: str) -> None:
    assert judged(-70, BODY, axes).rows == judged(-70, BODY).rows


def test_an_uncertainty_moves_the_pet_both_ways() -> None:
    """5 % of the density more and less: sinh(0.05 * 0.096 * 20), half of what lies between."""
    spread = volume(np.full(BODY.shape, 50.0), Role.UNCERTAINTY, Unit.HU)
    events: list[float] = []
    found = pet_uncertainty(
        ct(-60), spread, mask(BODY), source(), {"middle": mask(MIDDLE)},
        progress=Progress(lambda event: events.append(event.fraction)),
    )  # fmt: skip
    row = found.row("middle")
    assert row is not None
    assert found.kind == PetKind.UNCERTAINTY
    assert row.mean_percent == pytest.approx(100 * math.sinh(0.05 * WATER_PER_CM * 20), rel=0.04)
    assert events == sorted(events)
    assert events[-1] == pytest.approx(1.0)
    none = volume(np.zeros(BODY.shape), Role.UNCERTAINTY, Unit.HU)
    sure = pet_uncertainty(ct(-60), none, mask(BODY), source(), {"middle": mask(MIDDLE)})
    assert not sure.map.array.any()


def test_a_pet_may_lie_on_a_grid_of_its_own_and_must_meet_the_body() -> None:
    small = sitk.Resample(
        source().image, [32, 32, 4], sitk.Transform(), sitk.sitkLinear,
        [(AT[0] - AT[0]), 0.0, 0.0], [8.0, 8.0, 4.0], [1, 0, 0, 0, 1, 0, 0, 0, 1], 0.0,
    )  # fmt: skip
    pet = Volume(small, Role.PET, Unit.SUV)
    masks = {"middle": mask(MIDDLE)}
    arguments = (ct(-20), ct(-70), mask(BODY), mask(BODY))
    row = pet_difference(*arguments, pet, masks).row("middle")
    assert row is not None
    assert row.mean_percent == pytest.approx(100 * math.expm1(-0.096), rel=0.05)
    small.SetOrigin((900.0, 0.0, 0.0))
    with pytest.raises(InputError, match="no activity where the CTs are compared"):
        pet_difference(*arguments, Volume(small, Role.PET, Unit.SUV), masks)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda v: v.with_image(sitk.GetImageFromArray(v.array[:2])), "does not lie on the grid"),
        (lambda v: v.with_array(v.array, role=Role.MU_MAP, unit=Unit.PER_CM), "needs HU"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    spoil: Callable[[Volume], Volume], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        pet_difference(spoil(ct(-20)), ct(-20), mask(BODY), mask(BODY), source(), {})


def test_the_usual_pattern_goes_by_tissue() -> None:
    hu = np.full(BODY.shape, 40.0)
    hu[BODY] = np.linspace(-1000, 1500, int(BODY.sum()))
    image = volume(hu, Role.CT, Unit.HU)
    brain = mask((hu > 35) & (hu < 60) & BODY)
    suv = fdg_pattern(image, mask(BODY), brain).array
    values = image.array
    inside = np.broadcast_to(BODY, suv.shape)
    assert not suv[~inside].any()
    assert not suv[inside & (values < -500)].any()
    assert np.unique(suv[inside & (values > -400) & (values < -50)]) == np.float32(FAT_SUV)
    assert np.unique(suv[inside & (values > 100) & (values < 290)]) == np.float32(MUSCLE_SUV)
    assert np.unique(suv[inside & (values > 310)]) == np.float32(BONE_SUV)
    assert np.unique(suv[brain.array > 0]) == np.float32(BRAIN_SUV)
    with pytest.raises(InputError, match="no tissue"):
        fdg_pattern(ct(-1000), mask(BODY))
    with pytest.raises(InputError, match="needs HU"):
        fdg_pattern(source(), mask(BODY))


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome(volumes={"ct": ct(-60)}, region=mask(BODY), anatomy=Anatomy.HEAD)
    progress = Progress()
    judge_for_pet(outcome, None, "carney-140", progress)
    assert progress.notes == ()
    judge_for_pet(outcome, source(), "carney-140", progress)
    assert "The PET was not used" in progress.notes[0]
    outcome.volumes["ct_uncertainty"] = volume(np.full(BODY.shape, 50.0), Role.UNCERTAINTY, Unit.HU)
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        judge_for_pet(outcome, None, "carney-140", progress)
    assert "needs the package torch" in progress.notes[1]
    assert outcome.pet is None
    # a disk is no head: the pattern does without a brain, and says so
    judge_for_pet(outcome, None, "carney-140", progress)
    assert outcome.pet is not None
    assert outcome.pet.kind == PetKind.UNCERTAINTY
    assert "no brain was found" in outcome.pet.activity

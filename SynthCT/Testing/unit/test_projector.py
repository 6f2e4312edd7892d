"""The projector and the reconstruction: closed forms, laws, and what they refuse."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch

from SynthCTLib.errors import InputError
from SynthCTLib.physics.lines import integrals_of
from SynthCTLib.physics.projector import Projector, TimeOfFlight
from SynthCTLib.physics.reconstruction import (
    ReconstructionOptions,
    ScanOptions,
    reconstructed,
    simulated_scan,
)
from SynthCTLib.volume import Role, Unit, Volume

SIZE, SLICES = 32, 4
SPACING = (8.0, 8.0, 8.0)
RADIUS_MM = 100.0
WATER = 0.096
TOF = TimeOfFlight(fwhm_ps=400.0, bin_ps=200.0)
MLEM = ReconstructionOptions(iterations=60, subsets=1)
OSEM = ReconstructionOptions(iterations=8, subsets=6)


def radius(size: int = SIZE, spacing: float = SPACING[0]) -> npt.NDArray[np.float64]:
    at = (np.arange(size) - (size - 1) / 2) * spacing
    return np.hypot(at[:, None], at[None, :])


def cylinder(value: float, radius_mm: float = RADIUS_MM) -> npt.NDArray[np.float32]:
    """Voxels are filled by the part of them that lies inside (found on a grid 8 times as fine)."""
    fine = radius(SIZE * 8, SPACING[0] / 8) <= radius_mm
    part = fine.reshape(SIZE, 8, SIZE, 8).mean(axis=(1, 3))
    return np.repeat(value * part[None], SLICES, axis=0).astype(np.float32)


def volume(array: npt.NDArray[Any], role: Role, unit: Unit) -> Volume:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing(SPACING)
    return Volume(image, role, unit)


ACTIVITY = volume(cylinder(5000.0), Role.PET, Unit.BQ_PER_ML)
MU = volume(cylinder(WATER), Role.MU_MAP, Unit.PER_CM)
EXACT = ScanOptions(angles=60, events_per_slice=None)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def projector(tof: TimeOfFlight | None = None, angles: int = 12) -> Projector:
    return Projector((SIZE, SIZE - 5), (8.0, 6.0), angles, tof)


# --- the projector -------------------------------------------------------------------------


@pytest.mark.parametrize("tof", [None, TOF])
@pytest.mark.parametrize("subset", [None, (1, 3)])
def test_the_adjoint_is_the_adjoint(
    tof: TimeOfFlight | None, subset: tuple[int, int] | None
) -> None:
    system = projector(tof) if subset is None else projector(tof).subset(*subset)
    image = random(SLICES, SIZE, SIZE - 5)
    seen = system.forward(image)
    sinogram = random(*seen.shape, seed=1)
    forth = float((seen.double() * sinogram.double()).sum())
    back = float((image.double() * system.adjoint(sinogram).double()).sum())
    assert abs(forth - back) / abs(forth) < 1e-5
    # the adjoint of views in another order is another one, and is seen
    other = float((image.double() * system.adjoint(sinogram.flip(1)).double()).sum())
    assert abs(forth - other) / abs(forth) > 1e-5


def test_the_gradient_is_the_adjoint() -> None:
    system = projector(TOF)
    image = random(2, SIZE, SIZE - 5).requires_grad_()
    weights = random(*system.forward(image).shape, seed=2)
    (system.forward(image) * weights).sum().backward()
    torch.testing.assert_close(image.grad, system.adjoint(weights))
    weights.requires_grad_()
    (system.adjoint(weights) * image.detach()).sum().backward()
    torch.testing.assert_close(weights.grad, system.forward(image.detach()))


def test_it_follows_the_lines_of_the_metric() -> None:
    image = random(SLICES, SIZE, SIZE - 5).numpy()
    expected = integrals_of(image.astype(np.float64), (8.0, 6.0), 12)
    seen = projector().forward(torch.from_numpy(image))
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_time_of_flight_summed_over_bins_is_the_line() -> None:
    image = random(SLICES, SIZE, SIZE - 5)
    timed = projector(TOF).forward(image)
    assert timed.shape[-1] == projector(TOF).bins == 11  # 309 mm of diagonal, bins of 30 mm
    torch.testing.assert_close(timed.sum(-1), projector().forward(image), rtol=1e-5, atol=1e-4)


def test_a_point_is_spread_over_the_bins_as_the_timing_kernel() -> None:
    image = torch.zeros(1, 33, 33)
    image[0, 24, 16] = 1.0  # 64 mm along y, the direction of the lines of angle 0
    timed = Projector((33, 33), (8.0, 8.0), 2, TOF).forward(image)
    along, across = timed[0, 0], timed[0, 1]
    line = int(along.sum(-1).argmax())
    sigma = 400 * 0.299792458 / 2 / 2.354820045
    width = 200 * 0.299792458 / 2
    bins = timed.shape[-1]
    edges = (np.arange(bins + 1) - bins / 2) * width
    share = [
        0.5 * (math.erf((b - 64) / sigma / 2**0.5) - math.erf((a - 64) / sigma / 2**0.5))
        for a, b in pairwise(edges)
    ]
    np.testing.assert_allclose(along[line] / along[line].sum(), share, atol=1e-5)
    # across it, the point lies in the middle of its line
    seen = across[int(across.sum(-1).argmax())]
    torch.testing.assert_close(seen, seen.flip(0))


def test_every_angle_counts_the_whole_activity() -> None:
    """The integral over a slice is the integral of its projection, from wherever it is seen."""
    system = Projector((SIZE, SIZE), SPACING[:2], 60)
    seen = system.forward(torch.from_numpy(cylinder(1.0)))
    total = seen.sum(-1) * SPACING[0] / 10  # cm^2
    np.testing.assert_allclose(total, math.pi * (RADIUS_MM / 10) ** 2, rtol=0.005)


def test_attenuation_of_a_cylinder_by_hand() -> None:
    system = Projector((33, 33), (8.0, 8.0), 8)
    inside = radius(33) <= RADIUS_MM
    share = system.attenuation(torch.from_numpy(np.where(inside, WATER, 0.0))[None])
    middle = share.shape[-1] // 2
    # 25 voxels of 8 mm in a row lie inside: exp(-0.096 * 20)
    assert float(share[0, 0, middle]) == pytest.approx(math.exp(-WATER * 20), rel=1e-5)
    assert float(share[0, 0, 0]) == 1.0
    timed = Projector((33, 33), (8.0, 8.0), 8, TOF)
    broad = timed.attenuation(torch.from_numpy(np.where(inside, WATER, 0.0))[None])
    torch.testing.assert_close(broad[..., 0], share)


@pytest.mark.parametrize("values", [{"fwhm_ps": 0.0}, {"bin_ps": -1.0}, {"fwhm_ps": math.nan}])
def test_impossible_timing_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="impossible"):
        TimeOfFlight(**values)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit a projector of slices of 32 x 27"):
        projector().forward(random(SLICES, SIZE, SIZE))
    with pytest.raises(InputError, match="does not fit"):
        projector().adjoint(random(SLICES, 11, 30))
    with pytest.raises(InputError, match="5 equal subsets"):
        projector().subset(0, 5)
    with pytest.raises(InputError, match="at least one"):
        Projector((4, 4), (1.0, 1.0), 0)


# --- scan and reconstruction ---------------------------------------------------------------


@pytest.mark.parametrize("tof", [None, TOF])
def test_without_noise_the_corrected_pet_is_the_activity(tof: TimeOfFlight | None) -> None:
    options = ScanOptions(angles=60, time_of_flight=tof, events_per_slice=None)
    pet = reconstructed(simulated_scan(ACTIVITY, MU, options), MU, OSEM)
    assert (pet.role, pet.unit) == (Role.PET, Unit.BQ_PER_ML)
    assert pet.grid == ACTIVITY.grid
    inside = radius() < RADIUS_MM - 2 * SPACING[0]
    np.testing.assert_allclose(pet.array[:, inside], 5000.0, rtol=0.03)
    assert pet.array[:, radius() > RADIUS_MM + 2 * SPACING[0]].max() < 100


def test_with_noise_the_corrected_pet_is_the_activity_within_it() -> None:
    scan = simulated_scan(ACTIVITY, MU, ScanOptions(angles=60, events_per_slice=1e6, seed=3))
    pet = reconstructed(scan, MU, ReconstructionOptions(3, 6))
    inside = radius() < RADIUS_MM - 2 * SPACING[0]
    assert pet.array[:, inside].mean() == pytest.approx(5000.0, rel=0.01)
    assert 0.005 < pet.array[:, inside].std() / 5000.0 < 0.2
    assert pet.array.min() >= 0


def test_events_are_as_many_as_asked_for_and_the_seed_makes_them() -> None:
    options = ScanOptions(angles=12, events_per_slice=1e5, seed=7)
    first, again = (simulated_scan(ACTIVITY, MU, options).events for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.sum()) == pytest.approx(4e5, abs=5 * math.sqrt(4e5))
    assert torch.equal(first, first.round())
    other = simulated_scan(ACTIVITY, MU, ScanOptions(angles=12, events_per_slice=1e5, seed=8))
    assert not torch.equal(first, other.events)


@pytest.mark.parametrize("mu", [MU, None])
def test_mlem_keeps_the_number_of_events(mu: Volume | None) -> None:
    scan = simulated_scan(ACTIVITY, MU, ScanOptions(angles=12, events_per_slice=1e5))
    pet = reconstructed(scan, mu, ReconstructionOptions(2, 1))
    expected = scan.projector.forward(torch.from_numpy(pet.array.copy())) * scan.events_per_value
    if mu is not None:
        expected = expected * scan.projector.attenuation(torch.from_numpy(mu.array.copy()))
    assert float(expected.sum()) == pytest.approx(float(scan.events.sum()), rel=1e-4)


def test_without_correction_the_middle_is_hollow() -> None:
    """Cupping: lines through the middle are attenuated most."""
    nac = reconstructed(simulated_scan(ACTIVITY, MU, EXACT), None, OSEM)
    assert nac.role == Role.NAC_PET
    middle = nac.array[:, radius() < 20].mean()
    ring = nac.array[:, np.abs(radius() - 80) < 8].mean()
    assert middle < 0.6 * ring
    assert ring < 5000.0
    # every line through the middle loses exp(-0.096 * 20) there and less everywhere else
    assert middle < 5000.0 * 0.25
    (step,) = nac.provenance.steps
    assert "simulation" in step.settings["note"]
    assert step.settings["attenuation_corrected"] is False


def test_a_point_in_the_middle_without_correction_by_hand() -> None:
    """All lines of a small source in the middle of a cylinder lose the same: exp(-µ d)."""
    point = volume(cylinder(1000.0, 14.0), Role.PET, Unit.BQ_PER_ML)
    scan = simulated_scan(point, MU, EXACT)
    nac, ac = (reconstructed(scan, mu, OSEM) for mu in (None, MU))
    near = radius() < 40
    lost = nac.array[:, near].sum() / ac.array[:, near].sum()
    assert lost == pytest.approx(math.exp(-WATER * 20), rel=0.03)


def test_smoothing_is_a_gaussian_of_that_width_and_keeps_the_activity() -> None:
    scan = simulated_scan(ACTIVITY, MU, EXACT)
    sharp, smooth = (reconstructed(scan, MU, ReconstructionOptions(2, 6, w)) for w in (0.0, 20.0))
    assert smooth.array.sum() == pytest.approx(sharp.array.sum(), rel=1e-4)
    # all slices are alike, so only the variance of the distance from the middle grows
    at = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING[0]
    spread = [(v.array[1] * at**2).sum() / v.array[1].sum() for v in (sharp, smooth)]
    assert spread[1] - spread[0] == pytest.approx((20 / 2.354820045) ** 2, rel=0.02)


def test_what_makes_no_scan_is_refused() -> None:
    with pytest.raises(InputError, match="needs 1/cm"):
        simulated_scan(ACTIVITY, ACTIVITY, EXACT)
    elsewhere = MU.with_image(sitk.GetImageFromArray(MU.array))
    with pytest.raises(InputError, match="does not lie on the grid"):
        simulated_scan(ACTIVITY, elsewhere, EXACT)
    with pytest.raises(InputError, match="nothing to count"):
        simulated_scan(ACTIVITY.with_array(0 * ACTIVITY.array), MU, EXACT)
    with pytest.raises(InputError, match="activity has values below 0"):
        simulated_scan(ACTIVITY.with_array(ACTIVITY.array - 1), MU, EXACT)
    with pytest.raises(InputError, match="µ-map has values below 0"):
        simulated_scan(ACTIVITY, MU.with_array(MU.array * np.float32("nan")), EXACT)
    with pytest.raises(InputError, match="7 equal subsets"):
        reconstructed(simulated_scan(ACTIVITY, MU, EXACT), MU, ReconstructionOptions(1, 7))
    with pytest.raises(InputError, match="reconstruct nothing"):
        ReconstructionOptions(0, 1)
    with pytest.raises(InputError, match="smoothed by -1 mm"):
        ReconstructionOptions(smoothing_fwhm_mm=-1.0)
    with pytest.raises(InputError, match="0 events"):
        ScanOptions(events_per_slice=0.0)
    with pytest.raises(InputError, match="0 angles"):
        ScanOptions(angles=0)

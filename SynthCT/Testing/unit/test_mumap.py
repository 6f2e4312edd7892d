"""HU to µ at 511 keV: published values, units, and the way to a PET grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import ImplausibleResult, InputError
from SynthCTLib.physics.mumap import (
    CONVENTIONS,
    DEFAULT_CONVENTION,
    DISTINCT_CONVENTIONS,
    Convention,
    add_hardware,
    check_mu_map,
    convention_named,
    hu_to_mu,
    mean_mu_by_tissue,
    to_pet_grid,
)
from SynthCTLib.synthesis.registry import find_card
from SynthCTLib.volume import Grid, Role, Unit, Volume
from SynthCTLib.workflow.outcome import Outcome
from SynthCTLib.workflow.run import add_mu_map

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# Published curves at 1000 and 1500 HU, 1/cm, computed by hand from the printed lines
PUBLISHED = {
    "carney-80": (0.1354, 0.1536),
    "carney-100": (0.1430, 0.16515),
    "carney-110": (0.1472, 0.1718),
    "carney-120": (0.1491, 0.1746),
    "carney-130": (0.1526, 0.18015),
    "carney-140": (0.1536, 0.1818),
    "paper-1": (0.1536, 0.1818),
    "stir-ge-80": (0.1373, 0.1565),
    "stir-ge-100": (0.1441, 0.1669),
    "stir-ge-120": (0.1493, 0.17485),
    "stir-ge-140": (0.1540, 0.1820),
    "stir-generic-120": (0.1533, 0.18195),
}


def volume(
    array: npt.NDArray[np.generic],
    role: Role = Role.CT,
    unit: Unit = Unit.HU,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = IDENTITY,
) -> Volume:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return Volume(image, role, unit)


def mu_map(array: npt.NDArray[np.generic], **grid: tuple[float, ...]) -> Volume:
    return volume(array.astype(np.float32), Role.MU_MAP, Unit.PER_CM, **grid)


def rotation(axis: tuple[float, float, float], degrees: float) -> tuple[float, ...]:
    return sitk.VersorTransform(axis, math.radians(degrees)).GetMatrix()


def head_hu() -> npt.NDArray[np.float32]:
    """A ball of brain in a shell of bone, with an air cavity, in air; 1 voxel = 1 unit."""
    z, y, x = np.ogrid[-20:20, -20:20, -20:20]
    radius = np.sqrt(z**2 + y**2 + x**2)
    hu = np.full(radius.shape, -1000.0, np.float32)
    hu[radius < 17] = 40
    hu[(radius < 15) & (radius >= 13)] = 1200
    hu[np.sqrt(z**2 + y**2 + (x - 5) ** 2) < 3] = -1000
    return hu


@pytest.mark.parametrize("name", CONVENTIONS)
def test_published_values_at_air_water_and_bone(name: str) -> None:
    hu = np.array([[[-1000.0, 0.0, 1000.0, 1500.0]]], np.float32)
    mu = hu_to_mu(volume(hu), name).array[0, 0]
    assert mu[0] == 0.0
    assert mu[1:] == pytest.approx([0.0960, *PUBLISHED[name]], abs=1e-7)


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_curve_is_continuous_and_rises(convention: Convention) -> None:
    around = np.array([np.nextafter(convention.break_hu, -2000.0), convention.break_hu])
    below, at = convention.mu_per_cm(around)
    assert abs(at - below) < 5e-5
    assert at - below == pytest.approx(convention.jump_per_cm, abs=1e-12)
    assert (np.diff(convention.mu_per_cm(np.arange(-1000, 3072))) > 0).all()


@pytest.mark.parametrize(
    "misreading",
    [
        {"break_hu": 1030.0},  # the printed break taken as HU
        {"break_hu": 1030.0, "bone_offset_per_cm": 4.08e-2 - 5.64e-2},  # a * HU + b, break in HU
        {"break_hu": 30.0, "bone_offset_per_cm": 4.08e-2 - 5.64e-2},  # a * HU + b, break in H
        {"break_hu": math.nan},
    ],
)
def test_misread_break_is_refused(misreading: dict[str, float]) -> None:
    with pytest.raises(InputError, match="jumps by"):
        dataclasses.replace(CONVENTIONS["carney-140"], **misreading)


def test_paper_1_is_carney_at_140_kvp() -> None:
    hu = np.arange(-1100, 3072)
    paper, carney = CONVENTIONS["paper-1"], CONVENTIONS["carney-140"]
    assert (paper.mu_per_cm(hu) == carney.mu_per_cm(hu)).all()
    assert paper.kvp == 140
    assert "paper-1" not in DISTINCT_CONVENTIONS


def test_stir_agrees_with_its_own_form_in_true_hu() -> None:
    # STIR: a1 + b1 HU below the break, a2 + b2 HU above, HU not shifted
    hu = np.linspace(-1000, 3000, 4001)
    stir = np.where(hu < 50, 0.096 + 9.6e-5 * hu, 0.0982 + 5.11e-5 * hu)
    assert CONVENTIONS["stir-ge-120"].mu_per_cm(hu) == pytest.approx(stir, abs=1e-12)


def test_nothing_is_negative_and_the_input_is_left_alone() -> None:
    ct = volume(np.array([[[-1024, -3024, 0]]], np.int16))
    mu = hu_to_mu(ct)
    assert mu.array.tolist() == [[[0.0, 0.0, pytest.approx(0.096)]]]
    assert mu.array.dtype == np.float32
    assert ct.array.tolist() == [[[-1024, -3024, 0]]]


def test_result_is_a_mu_map_on_the_same_grid_and_says_how_it_was_made() -> None:
    ct = volume(head_hu(), spacing=(1.0, 2.0, 3.0), direction=rotation((1, 2, 3), 20))
    mu = hu_to_mu(ct, "carney-120")
    assert (mu.role, mu.unit) == (Role.MU_MAP, Unit.PER_CM)
    assert mu.grid == ct.grid
    step = mu.provenance.steps[-1]
    assert step.name == "hu_to_mu"
    assert step.settings["name"] == "carney-120"
    assert step.settings["break_hu"] == 47


def test_integer_and_float_ct_give_the_same() -> None:
    hu = np.arange(-1100, 3000, dtype=np.int16).reshape(1, 1, -1)
    assert (hu_to_mu(volume(hu)).array == hu_to_mu(volume(hu.astype(np.float32))).array).all()


def test_unknown_convention_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'carney-90'.*carney-80, carney-100.*stir-generic-120"):
        convention_named("carney-90")
    with pytest.raises(InputError, match="carney-90"):
        hu_to_mu(volume(head_hu()), "carney-90")


@pytest.mark.parametrize(
    ("role", "unit"),
    [
        (Role.CT, Unit.ARBITRARY),
        (Role.MU_MAP, Unit.PER_CM),
        (Role.MR, Unit.ARBITRARY),
        (Role.UNCERTAINTY, Unit.HU),
    ],
)
def test_only_a_ct_in_hu_is_converted(role: Role, unit: Unit) -> None:
    with pytest.raises(InputError):
        hu_to_mu(volume(head_hu(), role, unit))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ct_that_is_not_finite_is_refused(bad: float) -> None:
    hu = head_hu()
    hu[3, 4, 5] = bad
    with pytest.raises(InputError, match="not numbers"):
        hu_to_mu(volume(hu))


# The way to a PET grid


def test_same_grid_without_smoothing_is_the_same_map() -> None:
    mu = hu_to_mu(volume(head_hu(), spacing=(1.2, 0.9, 2.0), direction=rotation((0, 1, 1), 30)))
    on_pet = to_pet_grid(mu, mu.grid)
    assert on_pet.mu.array == pytest.approx(mu.array, abs=1e-6)
    assert on_pet.uncovered_share == 0.0
    assert on_pet.covered.array.all()
    assert on_pet.covered.role == Role.MASK


@pytest.mark.parametrize(("spacing", "fwhm"), [(1.0, 6.0), (0.5, 4.5), (1.2, 4.0)])
def test_a_point_becomes_a_gaussian_of_the_given_width(spacing: float, fwhm: float) -> None:
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1.0
    mu = mu_map(point, spacing=(spacing, spacing, 2.0 * spacing), direction=rotation((1, 1, 0), 40))
    blurred = to_pet_grid(mu, mu.grid, fwhm).mu.array.astype(np.float64)
    assert blurred.sum() == pytest.approx(1.0, abs=1e-5)
    for axis, step_mm in ((2, spacing), (1, spacing), (0, 2.0 * spacing)):
        profile = blurred.sum(axis=tuple({0, 1, 2} - {axis}))
        offset_mm = (np.arange(41) - 20) * step_mm
        sigma_mm = math.sqrt((profile * offset_mm**2).sum())
        assert sigma_mm * math.sqrt(8 * math.log(2)) == pytest.approx(fwhm, rel=0.005)
        gaussian = np.exp(-4 * math.log(2) * (offset_mm / fwhm) ** 2)  # 1/2 at fwhm / 2
        assert profile / profile.max() == pytest.approx(gaussian, abs=1e-3)


def test_smoothing_conserves_attenuation_inside_the_field() -> None:
    hu = np.pad(head_hu(), 12, constant_values=-1000.0)
    mu = hu_to_mu(volume(hu))
    smooth = to_pet_grid(mu, mu.grid, 5.0).mu
    assert smooth.array.sum(dtype=float) == pytest.approx(mu.array.sum(dtype=float), rel=1e-5)
    assert smooth.array.max() < mu.array.max()


def test_a_uniform_map_stays_uniform_up_to_the_end_of_its_field() -> None:
    mu = mu_map(np.full((12, 12, 12), 0.096), spacing=(2.0, 2.0, 2.0))
    assert to_pet_grid(mu, mu.grid, 6.0).mu.array == pytest.approx(0.096, abs=1e-6)


def test_nothing_is_claimed_outside_the_field_and_its_share_is_reported() -> None:
    mu = mu_map(np.full((10, 10, 10), 0.096))
    pet = Grid((20, 10, 10), (1.0, 1.0, 1.0), (-10.0, 0.0, 0.0), IDENTITY)
    on_pet = to_pet_grid(mu, pet, 4.0)
    assert on_pet.uncovered_share == pytest.approx(0.5)
    assert (on_pet.mu.array[..., :10] == 0).all()
    assert on_pet.mu.array[..., 10:] == pytest.approx(0.096, abs=1e-6)
    assert (on_pet.covered.array == (on_pet.mu.array > 0)).all()
    assert on_pet.mu.provenance.steps[-1].settings == {"fwhm_mm": 4.0, "uncovered_share": 0.5}


def test_a_pet_elsewhere_is_refused() -> None:
    mu = mu_map(np.full((10, 10, 10), 0.096))
    with pytest.raises(InputError, match="no voxel in common"):
        to_pet_grid(mu, Grid((5, 5, 5), (1.0, 1.0, 1.0), (100.0, 0.0, 0.0), IDENTITY))


@pytest.mark.parametrize("fwhm", [0.0, -4.0, 300.0, math.nan])
def test_impossible_resolution_is_refused(fwhm: float) -> None:
    mu = mu_map(np.full((10, 10, 10), 0.096))
    with pytest.raises(InputError, match="mm cannot be"):
        to_pet_grid(mu, mu.grid, fwhm)


def test_only_a_mu_map_goes_to_the_pet_grid() -> None:
    ct = volume(head_hu())
    with pytest.raises(InputError, match="HU"):
        to_pet_grid(ct, ct.grid)


def test_oblique_pet_grid_samples_the_right_places() -> None:
    # µ is linear in LPS position, so linear sampling is exact on any grid
    gradient = np.array([2e-4, -1e-4, 3e-4])
    direction = np.reshape(rotation((3, 1, 2), 25), (3, 3))
    spacing = np.array([1.1, 0.8, 1.7])
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1)  # x, y, z
    world = index * spacing @ direction.T
    values = (0.096 + world @ gradient).transpose(2, 1, 0)
    mu = mu_map(values, spacing=tuple(spacing), direction=tuple(direction.ravel()))
    pet = Grid(
        (5, 6, 7), (2.1, 2.1, 2.0), tuple(direction @ (spacing * 15)), rotation((1, 0, 2), -15)
    )
    on_pet = to_pet_grid(mu, pet)
    corners = np.stack(np.meshgrid(*map(np.arange, pet.size), indexing="ij"), -1)
    points = corners @ pet.index_to_world[:3, :3].T + pet.origin_mm
    expected = (0.096 + points @ gradient).transpose(2, 1, 0)
    assert on_pet.uncovered_share == 0.0
    assert on_pet.mu.array == pytest.approx(expected, abs=1e-6)
    assert on_pet.mu.grid.matches(pet)


def test_fine_structure_is_smoothed_before_it_is_sampled() -> None:
    # A grid of bone and air, 1 mm wide: sampled every 2 mm it would look like solid bone
    stripes = np.zeros((8, 8, 40), np.float32)
    stripes[..., ::2] = 0.18
    mu = mu_map(stripes)
    pet = Grid((12, 4, 4), (2.0, 2.0, 2.0), (8.0, 0.0, 0.0), IDENTITY)
    assert to_pet_grid(mu, pet).mu.array == pytest.approx(0.18, abs=1e-6)
    assert to_pet_grid(mu, pet, 5.0).mu.array == pytest.approx(0.09, abs=1e-4)


def test_order_matters_at_the_edge_of_bone() -> None:
    from SynthCTLib.imaging.grids import resample

    hu = np.full((4, 4, 12), -1000.0, np.float32)
    hu[..., 6:] = 1500.0
    ct = volume(hu)
    pet = Grid((5, 3, 3), (2.0, 1.0, 1.0), (1.5, 0.0, 0.0), IDENTITY)
    right = to_pet_grid(hu_to_mu(ct), pet).mu.array
    wrong = hu_to_mu(resample(ct, pet)).array
    assert right[0, 0, 2] == pytest.approx(0.1818 / 2)  # half bone, half air
    assert wrong[0, 0, 2] == pytest.approx(5.64e-5 * 1250 + 4.08e-2)  # the µ of 250 HU
    assert right[..., [0, 1, 3, 4]] == pytest.approx(wrong[..., [0, 1, 3, 4]], abs=1e-6)


# Plausibility


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_converted_head_is_plausible_before_and_after_the_pet_grid(name: str) -> None:
    mu = hu_to_mu(volume(head_hu(), spacing=(4.0, 4.0, 4.0)), name)
    check_mu_map(mu)
    pet = Grid((40, 40, 40), (4.2, 4.2, 4.2), (-4.0, -4.0, -4.0), IDENTITY)
    check_mu_map(to_pet_grid(mu, pet, 4.5).mu)


def test_a_metal_filling_is_no_reason_to_refuse() -> None:
    hu = head_hu()
    hu[20, 20, 20:23] = 12000.0
    check_mu_map(hu_to_mu(volume(hu)))


def head_mu() -> npt.NDArray[np.float32]:
    mu: npt.NDArray[np.float32] = hu_to_mu(volume(head_hu())).array.copy()
    return mu


def with_nan() -> npt.NDArray[np.float32]:
    mu = head_mu()
    mu[20, 20, 20] = np.nan
    return mu


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (head_mu() * 0.1, "1/mm; multiply them by 10"),
        (np.round(head_mu() * 1e4), "divide them by 10000"),
        (head_hu(), "a CT in HU"),
        (head_hu() + 1000, "raw CT numbers"),
        (head_mu() - 0.01, "cannot be negative"),
        (with_nan(), "not numbers"),
        (np.zeros((4, 4, 4)), "zero everywhere"),
        (head_mu() * 1.4, "belongs near 0.096"),  # 140 keV and not 511
        (np.where(head_mu() > 0.15, 0.3, head_mu()), "densest tissue"),
    ],
    ids=[
        "1/mm",
        "integers",
        "HU",
        "raw",
        "negative",
        "nan",
        "zero",
        "140 keV",
        "steel",
    ],
)
def test_implausible_maps_are_refused_with_what_to_do(
    values: npt.NDArray[np.generic], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        check_mu_map(mu_map(values))


@pytest.mark.parametrize("hu", [-900.0, float("nan"), 2500.0], ids=["air", "nan", "steel"])
def test_an_implausible_map_is_laid_to_who_made_the_ct(hu: float) -> None:
    """To the model of the run where there is one, else to the file that was given."""
    ct = volume(np.full(head_hu().shape, hu))
    region = ct.mask(np.ones(ct.array.shape, bool))
    made = Outcome(card=find_card("uniform-body"))
    with pytest.raises(ImplausibleResult, match=r"^Model uniform-body made .* model is at fault"):
        add_mu_map(made, ct, region, DEFAULT_CONVENTION)
    given = Outcome()
    with pytest.raises(InputError, match=r"check its unit and its rescale|replace them"):
        add_mu_map(given, ct, region, DEFAULT_CONVENTION)
    assert not made.volumes
    assert not given.volumes
    sound = Outcome(card=made.card)
    add_mu_map(sound, volume(head_hu()), region, DEFAULT_CONVENTION)
    assert "mumap" in sound.volumes


def test_a_ct_is_no_mu_map() -> None:
    with pytest.raises(InputError, match="HU"):
        check_mu_map(volume(head_hu()))


# The table of tissues


def test_mean_mu_of_each_tissue_under_each_convention() -> None:
    hu = np.array([[[-1000, -900, 0, 100, 1000, 1500]]], np.int16)
    ct = volume(hu)

    def mask(*voxels: int) -> Volume:
        array = np.zeros(hu.shape, bool)
        array[0, 0, list(voxels)] = True
        return ct.mask(array)

    masks = {"air": mask(0, 1), "soft tissue": mask(2), "bone": mask(4, 5), "nothing": mask()}
    rows = {(row.tissue, row.convention): row for row in mean_mu_by_tissue(ct, masks)}
    assert len(rows) == 4 * len(DISTINCT_CONVENTIONS)
    for name in DISTINCT_CONVENTIONS:
        assert rows["air", name].mean_per_cm == pytest.approx(0.0048)
        assert rows["soft tissue", name].mean_per_cm == pytest.approx(0.096)
        assert rows["bone", name].mean_per_cm == pytest.approx(np.mean(PUBLISHED[name]))
        assert rows["bone", name].voxels == 2
        assert math.isnan(rows["nothing", name].mean_per_cm)
    carney = [rows["bone", f"carney-{kvp}"].mean_per_cm for kvp in (80, 100, 110, 120, 130, 140)]
    assert all(low < high for low, high in pairwise(carney))


def test_mean_mu_agrees_with_the_mean_of_the_map() -> None:
    ct = volume(head_hu())
    mask = ct.mask(head_hu() > 300)
    (row,) = mean_mu_by_tissue(ct, {"bone": mask}, ["stir-ge-100"])
    mean = hu_to_mu(ct, "stir-ge-100").array[mask.array > 0].mean()
    assert row.mean_per_cm == pytest.approx(mean, rel=1e-5)


def test_table_refuses_what_it_cannot_use() -> None:
    ct = volume(head_hu())
    mask = ct.mask(head_hu() > 300)
    with pytest.raises(InputError, match="carney-90"):
        mean_mu_by_tissue(ct, {"bone": mask}, ["carney-90"])
    elsewhere = volume(mask.array, Role.MASK, Unit.ARBITRARY, origin=(1.0, 0.0, 0.0))
    with pytest.raises(InputError, match="grid"):
        mean_mu_by_tissue(ct, {"bone": elsewhere})
    with pytest.raises(InputError, match="needs HU"):
        mean_mu_by_tissue(volume(head_hu(), unit=Unit.ARBITRARY), {"bone": mask})
    holed = head_hu()
    holed[mask.array > 0] = np.nan
    with pytest.raises(InputError, match="bone mask"):
        mean_mu_by_tissue(volume(holed), {"bone": mask})


def test_a_map_without_bone_is_accepted() -> None:
    check_mu_map(mu_map(np.minimum(head_mu(), 0.096)))


# Padding and hardware


def test_tissue_that_ends_with_the_ct_is_measured_and_said() -> None:
    """A slab of water, 100 x 80 mm, cut at the top of the CT's field; the PET goes on."""
    hu = np.full((10, 30, 40), -1000.0, np.float32)
    hu[:, 5:25, 5:30] = 0.0  # 20 x 4 mm by 25 x 4 mm
    mu = hu_to_mu(volume(hu, spacing=(4.0, 4.0, 5.0)))
    taller = Grid((40, 30, 14), (4.0, 4.0, 5.0), (0.0, 0.0, 0.0), IDENTITY)
    placed = to_pet_grid(mu, taller)
    assert placed.cut_tissue_cm2 == pytest.approx(10.0 * 8.0)
    assert "29% of the PET grid" in placed.warnings[0]
    assert "80 cm2 of tissue" in placed.warnings[1]
    assert placed.mu.array[10:].max() == 0


def test_air_around_the_patient_is_no_cut_and_a_grid_inside_needs_no_word() -> None:
    mu = hu_to_mu(volume(head_hu(), spacing=(4.0, 4.0, 4.0)))
    wider = Grid((50, 50, 50), (4.0, 4.0, 4.0), (-20.0, -20.0, -20.0), IDENTITY)
    placed = to_pet_grid(mu, wider)
    assert placed.cut_tissue_cm2 == 0
    assert len(placed.warnings) == 1
    assert to_pet_grid(mu, mu.grid).warnings == ()


def table_mu() -> npt.NDArray[np.float32]:
    table = np.zeros(head_hu().shape, np.float32)
    table[:, -3:, :] = 0.004  # foam
    table[:, -1, :] = 0.13  # carbon fibre
    return table


def test_hardware_is_added_voxel_by_voxel() -> None:
    head, table = mu_map(head_mu()), mu_map(table_mu())
    both = add_hardware(head, [table, table])
    np.testing.assert_allclose(both.mu.array, head.array + 2 * table.array, rtol=1e-6)
    assert both.shared_voxels == 0
    assert both.warnings == ()
    assert both.mu.provenance.steps[-1].name == "add_hardware"


def test_hardware_inside_the_patient_is_said() -> None:
    head = mu_map(head_mu())
    inside = np.zeros(head.array.shape, np.float32)
    z, y, x = np.argwhere(head.array > 0.05)[0]
    inside[z, y, x] = 0.13
    both = add_hardware(head, [mu_map(inside)])
    assert both.shared_voxels == 1
    assert "1 voxels hold both" in both.warnings[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t * 0.1, "1/mm must be multiplied"),
        (lambda t: np.round(t * 1e4), "divided by 10000"),
        (lambda t: t / 9.6e-5 - 1000, "in HU"),
        (lambda t: t - 0.01, "negative values"),
        (lambda t: np.where(t > 0, np.nan, t), "not numbers"),
        (lambda t: t * 0, "no table or coil"),
    ],
    ids=["1/mm", "integers", "HU", "negative", "nan", "empty"],
)
def test_implausible_hardware_is_refused(
    change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        add_hardware(mu_map(head_mu()), [mu_map(change(table_mu()))])


def test_hardware_on_another_grid_or_in_hu_is_refused() -> None:
    head = mu_map(head_mu())
    shifted = volume(table_mu(), Role.MU_MAP, Unit.PER_CM, origin=(1.0, 0.0, 0.0))
    with pytest.raises(InputError, match="resample one onto the other"):
        add_hardware(head, [shifted])
    with pytest.raises(InputError, match="needs 1/cm"):
        add_hardware(head, [volume(table_mu(), Role.CT, Unit.HU)])
    with pytest.raises(InputError, match="needs 1/cm"):
        add_hardware(volume(head_hu()), [mu_map(table_mu())])

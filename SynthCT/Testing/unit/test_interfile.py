"""Interfile: STIR's and the mMR's conventions on an asymmetric object, and unsound headers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.export.interfile import (
    MMR_SIZE,
    MMR_SPACING_MM,
    on_mmr_grid,
    upright,
    write_mmr,
    write_stir,
)
from SynthCTLib.imaging.files import read_volume, reading_notes, write_volume
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.volume import Grid, Role, Unit, Volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Signs of x, y, z by which STIR 6 turns its physical coordinates into LPS (DiscretisedDensity.inl).
LPS_OF_STIR = {
    "HFS": (1, 1, -1),
    "HFP": (-1, -1, -1),
    "FFS": (-1, 1, 1),
    "FFP": (1, -1, 1),
}


@pytest.fixture(scope="module")
def mu(finished_job: ModuleType) -> Volume:
    made: Volume = hu_to_mu(finished_job.synthetic_ct(), "carney-120")
    return made


def fields(header: Path) -> dict[str, str]:
    """The header by a parser of its own: keys as written, without marks and spaces."""
    found = re.findall(r"^[!%]?([^;:\n]+?) *:= *(.*)$", header.read_text(), re.MULTILINE)
    return {re.sub(r"\s", "", key): value for key, value in found}


def raw(header: Path) -> npt.NDArray[np.float32]:
    """The data file indexed (x, y, z): x runs fastest."""
    said = fields(header)
    size = [int(said[f"matrixsize[{i}]"]) for i in (1, 2, 3)]
    flat = np.fromfile(header.parent / said["nameofdatafile"], "<f4")
    values: npt.NDArray[np.float32] = flat.reshape(size, order="F")
    return values


def at(volume: Volume, lps_mm: npt.NDArray[np.float64]) -> float:
    """The voxel at a place in the patient. Fails unless the place is a voxel's centre."""
    index = volume.image.TransformPhysicalPointToContinuousIndex(lps_mm.tolist())
    nearest = np.rint(index)
    assert np.abs(nearest - index).max() < 1e-3
    x, y, z = (int(i) for i in nearest)
    return float(volume.array[z, y, x])


def same(one: Volume, other: Volume) -> None:
    a, b = to_lps(one).volume, to_lps(other).volume
    assert a.grid.matches(b.grid, 1e-3)
    np.testing.assert_array_equal(a.array, b.array)


# --- STIR ----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", LPS_OF_STIR)
def test_stir_places_every_voxel_where_it_was(position: str, mu: Volume, tmp_path: Path) -> None:
    """By STIR's own rule: first pixel offset plus index times spacing, then the signs to LPS."""
    header, _ = write_stir(mu, tmp_path, "mumap", position=position)
    said, values = fields(header), raw(header)
    first = np.array([float(said[f"firstpixeloffset(mm)[{i}]"]) for i in (1, 2, 3)])
    spacing = np.array([float(said[f"scalingfactor(mm/pixel)[{i}]"]) for i in (1, 2, 3)])
    rng = np.random.default_rng(0)
    for index in rng.integers(0, values.shape, (200, 3)):
        lps = (first + index * spacing) * LPS_OF_STIR[position]
        assert at(mu, lps) == values[tuple(index)]


def test_stir_begins_at_the_top_of_a_head_first_supine_patient(mu: Volume, tmp_path: Path) -> None:
    header, _ = write_stir(mu, tmp_path, "mumap")
    values = raw(header)
    np.testing.assert_array_equal(values[:, :, 0], mu.array[-1].T)
    marked = np.argwhere(values > 0.165)  # the block of dense bone at the left, front, top
    middle = (np.asarray(values.shape) - 1) / 2
    left, posterior, inferior = marked.mean(axis=0) - middle
    assert left > 0
    assert posterior < 0
    assert inferior < 0
    assert fields(header)["patientorientation"] == "head_in"


def test_stirs_header_has_no_unit_where_stir_expects_a_factor(mu: Volume, tmp_path: Path) -> None:
    said = fields(write_stir(mu, tmp_path, "mumap")[0])
    assert "quantificationunits" not in said
    assert said["imagedatabyteorder"] == "LITTLEENDIAN"
    assert said["versionofkeys"] == "STIR6.0"


def test_centred_puts_the_middle_of_the_matrix_on_the_scanners_axis(
    mu: Volume, tmp_path: Path
) -> None:
    said = fields(write_stir(mu, tmp_path, "mumap", centred=True)[0])
    first = [float(said[f"firstpixeloffset(mm)[{i}]"]) for i in (1, 2, 3)]
    size, spacing = mu.grid.size, mu.grid.spacing_mm
    assert first[:2] == pytest.approx([-(size[i] - 1) / 2 * spacing[i] for i in (0, 1)])
    assert first[2] == 0


@pytest.mark.parametrize("position", LPS_OF_STIR)
def test_stir_there_and_back(position: str, mu: Volume, tmp_path: Path) -> None:
    header, _ = write_stir(mu, tmp_path, "mumap", position=position)
    again = read_volume(header, Role.MU_MAP)
    same(again, mu)
    assert again.unit == Unit.PER_CM
    assert again.provenance.is_synthetic
    assert len(again.provenance.sources) == 2


def test_an_image_that_no_model_made_is_not_marked(mu: Volume, tmp_path: Path) -> None:
    scanned = Volume(mu.image, Role.MU_MAP, Unit.PER_CM)
    for header, _ in (write_stir(scanned, tmp_path, "a"), write_mmr(scanned, tmp_path, "b")):
        assert not read_volume(header, Role.MU_MAP).provenance.is_synthetic


# --- Siemens mMR ---------------------------------------------------------------------------


def test_mmr_runs_left_posterior_superior_around_the_middle(mu: Volume, tmp_path: Path) -> None:
    header, _ = write_mmr(mu, tmp_path, "mumap")
    np.testing.assert_array_equal(raw(header), mu.array.T)
    said = fields(header)
    assert said["quantificationunits"] == "1/cm"
    assert said["patientorientation"] == "HFS"
    assert header.name == "mumap.v.hdr"


def test_mmr_there_and_back_is_centred(mu: Volume, tmp_path: Path) -> None:
    header, _ = write_mmr(mu, tmp_path, "mumap")
    again = read_volume(header, Role.MU_MAP)
    assert again.grid.centre_mm == pytest.approx(np.zeros(3), abs=1e-6)
    assert "centred" in reading_notes(again)[0]
    np.testing.assert_array_equal(again.array, mu.array)
    assert again.unit == Unit.PER_CM


def test_a_map_goes_onto_the_mmr_matrix_without_moving(mu: Volume) -> None:
    placed = on_mmr_grid(mu)
    grid = placed.mu.grid
    assert grid.size == MMR_SIZE
    assert grid.spacing_mm == pytest.approx(MMR_SPACING_MM)
    assert grid.centre_mm == pytest.approx(mu.grid.centre_mm)
    assert "lies outside the µ-map" in placed.notes[0]
    probe = mu.grid.centre_mm + np.array([3.1, -4.2, 5.3])
    expected = sitk.Resample(mu.image, placed.mu.image, sitk.Transform(), sitk.sitkLinear)
    np.testing.assert_allclose(placed.mu.array, sitk.GetArrayViewFromImage(expected), atol=1e-6)
    inside = placed.mu.image.TransformPhysicalPointToIndex(probe.tolist())
    assert placed.mu.image[inside] > 0.05
    assert on_mmr_grid(placed.mu).notes == ()


# --- any geometry --------------------------------------------------------------------------


def grid_from(seed: int, direction: npt.NDArray[np.float64]) -> Grid:
    rng = np.random.default_rng(seed)
    size, (x, y, z) = rng.integers(6, 14, 3), rng.uniform(-900, 900, 3)
    spacing = rng.uniform(150, 300, 3) / size
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(x), float(y), float(z)),
        tuple(float(v) for v in direction.ravel()),
    )


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**31),
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    position=st.sampled_from(list(LPS_OF_STIR)),
)
def test_any_axis_order_is_kept_exactly(
    seed: int,
    order: list[int],
    signs: tuple[float, float, float],
    position: str,
    tmp_path_factory: pytest.TempPathFactory,
    finished_job: ModuleType,
) -> None:
    grid = grid_from(seed, np.eye(3)[:, order] * signs)
    folder = tmp_path_factory.mktemp("interfile")
    mu = hu_to_mu(finished_job.synthetic_ct(grid))
    placed = upright(mu)
    assert placed.notes == ()
    same(placed.mu, mu)
    same(read_volume(write_stir(mu, folder, "a", position=position)[0], Role.MU_MAP), mu)
    mmr = read_volume(write_mmr(mu, folder, "b")[0], Role.MU_MAP)
    np.testing.assert_array_equal(mmr.array, to_lps(mu).volume.array)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31))
def test_oblique_maps_are_put_upright_in_place(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Linear interpolation of a linear ramp is exact: each voxel must have the ramp's value."""
    grid = grid_from(seed, Rotation.random(random_state=seed).as_matrix())
    slope = np.random.default_rng(seed).uniform(-1, 1, 3) * 4e-5
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    world = np.stack([x, y, z, np.ones_like(x)], -1) @ grid.index_to_world.T
    ramp = 0.096 + (world[..., :3] - grid.centre_mm) @ slope
    mu = Volume(grid.blank(), Role.MU_MAP, Unit.PER_CM).with_array(ramp.astype(np.float32))
    placed = upright(mu)
    assert "obliquely" in placed.notes[0]
    header, _ = write_stir(placed.mu, tmp_path_factory.mktemp("oblique"), "mumap")
    again = read_volume(header, Role.MU_MAP)
    inside = 0
    for index in np.ndindex(again.grid.size):
        place = again.image.TransformIndexToPhysicalPoint(index)
        there = np.array(mu.image.TransformPhysicalPointToContinuousIndex(place))
        if (there > 0.01).all() and (there < np.asarray(grid.size) - 1.01).all():
            expected = 0.096 + (np.asarray(place) - grid.centre_mm) @ slope
            assert again.image[index] == pytest.approx(expected, abs=1e-6)
            inside += 1
    assert inside > 50


# --- another reader ------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_stir, write_mmr])
def test_medcon_reads_the_same_values_and_voxel_sizes(
    write: Callable[..., tuple[Path, ...]],
    mu: Volume,
    tmp_path: Path,
    program: Callable[[str], str],
) -> None:
    """(X)MedCon ignores the place: values, their order and the spacings are what it confirms."""
    medcon = program("medcon")
    header, _ = write(mu, tmp_path, "mumap")
    subprocess.run(
        [medcon, "-f", header.name, "-c", "nifti", "-o", "again", "-w"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    image = nibabel.load(tmp_path / "again.nii")
    assert isinstance(image, nibabel.Nifti1Image)
    np.testing.assert_array_equal(np.asarray(image.dataobj), raw(header))
    assert image.header.get_zooms() == pytest.approx(mu.grid.spacing_mm, rel=1e-6)


# --- what cannot be written ----------------------------------------------------------------


def spoilt(mu: Volume, how: str) -> Volume:
    values = mu.array
    return {
        "1/mm": mu.with_array(values * np.float32(0.1)),
        "integers": mu.with_array(np.round(values * 1e4)),
        "HU": mu.with_array(values, unit=Unit.HU),
        "HU as 1/cm": mu.with_array(values / np.float32(9.6e-5) - 1000),
    }[how]


@pytest.mark.parametrize("write", [write_stir, write_mmr])
@pytest.mark.parametrize("how", ["1/mm", "integers", "HU", "HU as 1/cm"])
def test_other_units_are_refused(
    how: str, write: Callable[..., object], mu: Volume, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        write(spoilt(mu, how), tmp_path, "mumap")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_stir, write_mmr])
def test_an_oblique_map_is_refused_by_the_writers(
    write: Callable[..., object], tmp_path: Path, finished_job: ModuleType
) -> None:
    grid = grid_from(1, Rotation.from_euler("x", 5, degrees=True).as_matrix())
    with pytest.raises(InputError, match="obliquely"):
        write(hu_to_mu(finished_job.synthetic_ct(grid)), tmp_path, "mumap")


def test_a_position_without_axes_and_a_folder_that_is_not_there(mu: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HFDL"):
        write_stir(mu, tmp_path, "mumap", position="HFDL")
    with pytest.raises(OutputError, match="cannot be written"):
        write_stir(mu, tmp_path / "nowhere", "mumap")


# --- what cannot be read -------------------------------------------------------------------


@pytest.fixture
def header(mu: Volume, tmp_path: Path) -> Path:
    return write_stir(mu, tmp_path, "mumap")[0]


def edit(header: Path, old: str, new: str) -> None:
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("mumap.v", "elsewhere.v", "missing"),
        ("!matrix size [3] := 16", "!matrix size [3] := 17", "bytes and its header asks"),
        ("!matrix size [3] := 16", "!matrix size [3] := many", "'many' for 'matrix size"),
        ("!matrix size [3] := 16", "", "no 'matrix size"),
        ("!matrix size [3] := 16", "!matrix size [3] := 16.5", "whole number"),
        ("scaling factor (mm/pixel) [1] := 8", "scaling factor (mm/pixel) [1] := 0", "size of its"),
        ("!number format := float", "!number format := bit", "format 'bit'"),
        ("pixel := 4", "pixel := 3", "with 3 bytes"),
        ("LITTLEENDIAN", "PDPENDIAN", "PDPENDIAN"),
        ("number of time frames := 1", "number of time frames := 3", "time frames"),
        ("rotation := supine", "rotation := right", "no axes"),
        ("first pixel offset (mm) [1] := -70", "first pixel offset (mm) [1] := left", "'left'"),
    ],
)
def test_unsound_headers_are_refused(old: str, new: str, says: str, header: Path) -> None:
    edit(header, old, new)
    with pytest.raises(InputError, match=re.escape(says)) as refusal:
        read_volume(header, Role.MU_MAP)
    assert "\n" not in str(refusal.value)


def test_integers_of_either_byte_order_are_read_and_scaled(header: Path) -> None:
    stored = np.arange(20 * 24 * 16, dtype=">i2").reshape(16, 24, 20)
    stored.tofile(header.parent / "mumap.v")
    edit(header, "LITTLEENDIAN", "BIGENDIAN")
    edit(header, "!number format := float", "!number format := signed integer")
    edit(header, "pixel := 4", "pixel := 2")
    plain = read_volume(header, Role.MU_MAP)
    assert plain.array.dtype == np.int16
    np.testing.assert_array_equal(plain.array, stored)
    edit(header, "number of time frames", "quantification units := 0.5\nnumber of time frames")
    scaled = read_volume(header, Role.MU_MAP)
    np.testing.assert_allclose(scaled.array, stored * 0.5)


def test_without_offset_the_image_lies_where_stir_puts_it(header: Path) -> None:
    """STIR counts x and y from minus half the (whole) number of voxels, and z from 0."""
    text = header.read_text()
    header.write_text("".join(x for x in text.splitlines(True) if "offset" not in x))
    again = read_volume(header, Role.MU_MAP)
    assert again.grid.origin_mm == (-10 * 8.0, -12 * 7.0, 0.0)
    assert "as STIR does" in reading_notes(again)[0]


def test_medcons_flat_headers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.i33").write_bytes(bytes(40))
    (tmp_path / "a.h33").write_text(
        "!INTERFILE :=\n!name of data file := a.i33\n!matrix size [1] := 5\n!matrix size [2] := 4\n"
        "!number of slices := 1\n!number format := signed integer\n"
        "!number of bytes per pixel := 2\n"
    )
    with pytest.raises(InputError, match="three-dimensional"):
        read_volume(tmp_path / "a.h33", Role.MU_MAP)


def test_an_analyze_header_is_still_no_interfile(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_bytes(b"\x5c\x01\x00\x00" + bytes(344))
    with pytest.raises(InputError, match="Analyze"):
        read_volume(tmp_path / "a.hdr", Role.MR)


def test_a_series_cannot_be_chosen_in_an_interfile(header: Path) -> None:
    with pytest.raises(InputError, match="no DICOM folder"):
        read_volume(header, Role.MU_MAP, series="1.2.3")


# --- the command ---------------------------------------------------------------------------


def export(job: Path, form: str, folder: Path, *more: object) -> int:
    return run_command([str(a) for a in ("export", job, "--format", form, "-o", folder, *more)])


def test_command_writes_the_map_on_the_grid_of_a_pet_that_is_interfile_too(
    finished_job: ModuleType, mu: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished_job.make_job(tmp_path / "job")
    pet_grid = Grid((30, 30, 20), (6.0, 6.0, 6.0), (-90.0, -100.0, 300.0), AXIAL)
    activity = np.random.default_rng(0).uniform(0.5, 5, (20, 30, 30)).astype(np.float32)
    pet = Volume(pet_grid.blank(), Role.PET, Unit.SUV).with_array(activity)
    write_volume(pet, tmp_path / "pet.nrrd")
    folder = tmp_path / "out"
    assert export(job, "interfile", folder, "--grid", tmp_path / "pet.nrrd", "--fwhm", "6") == 0
    said = capsys.readouterr().err
    assert "lies outside the CT: µ is 0 there" in said
    assert "head first supine was taken for it" in said
    again = read_volume(folder / "mumap.hv", Role.MU_MAP)
    assert to_lps(again).volume.grid.matches(pet_grid)
    sidecar = json.loads((folder / "mumap.json").read_text())
    assert any("outside the CT" in note for note in sidecar["notes"])
    assert sidecar["patient_position"] == "HFS"
    # and that map serves as the grid of the next
    second = tmp_path / "second"
    assert export(job, "interfile-mmr", second, "--grid", folder / "mumap.hv", "--quiet") == 0
    assert raw(second / "mumap.v.hdr").shape == MMR_SIZE


def test_centred_means_nothing_elsewhere(
    finished_job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished_job.make_job(tmp_path / "job")
    assert export(job, "nifti", tmp_path / "out", "--centred") == 2
    assert "leave it out" in capsys.readouterr().err


def test_the_patients_position_comes_from_the_scan(
    finished_job: ModuleType, tmp_path: Path
) -> None:
    job = finished_job.make_job(tmp_path / "job", tags={"PatientPosition": "FFS"})
    assert export(job, "interfile", tmp_path / "out", "--quiet") == 0
    assert fields(tmp_path / "out" / "mumap.hv")["patientorientation"] == "feet_in"
    again = read_volume(tmp_path / "out" / "mumap.hv", Role.MU_MAP)
    same(replace(again, unit=Unit.PER_CM), read_volume(job / "mumap.nii.gz", Role.MU_MAP))

"""Image files: what is written reads back, nibabel agrees, and everything unsound is refused."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.imaging.files import read_label_map, read_volume, reading_notes, write_volume
from SynthCTLib.imaging.itk_warnings import without_itk_warnings
from SynthCTLib.volume import Grid, Role, Unit, Volume

LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha")
AFFINE = np.array([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])


def random_grid(seed: int) -> Grid:
    """An oblique, anisotropic, off-centre grid of head size; every other one is left-handed."""
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix()[:, rng.permutation(3)]
    direction[:, 2] *= 1 if seed % 2 == 0 else -1
    size = rng.integers(10, 40, 3)
    spacing = rng.uniform(200, 400, 3) / size
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        tuple(float(v) for v in rng.uniform(-800, 800, 3)),  # type: ignore[arg-type]
        tuple(float(v) for v in direction.ravel()),
    )


def volume_on(grid: Grid, array: npt.NDArray[Any] | None = None, role: Role = Role.MR) -> Volume:
    if array is None:
        array = np.random.default_rng(0).normal(size=grid.size[::-1]).astype(np.float32)
    return Volume(grid.blank(), role, Unit.ARBITRARY).with_array(array)


def small(dtype: type = np.float32) -> npt.NDArray[Any]:
    """Voxels (x, y, z) for nibabel."""
    return (1 + np.arange(6 * 5 * 4)).reshape(6, 5, 4).astype(dtype)


def assert_refused(path: Path, match: str, role: Role = Role.MR) -> None:
    with pytest.raises(InputError, match=match) as refusal:
        read_volume(path, role)
    message = str(refusal.value)
    assert path.name in message
    assert "\n" not in message
    assert message.endswith(".")
    assert "itk" not in message.replace(str(path), "").lower()


@pytest.fixture(autouse=True)
def _nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


# --- there and back ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("seed", range(8))
def test_what_is_written_reads_back(tmp_path: Path, suffix: str, seed: int) -> None:
    volume = volume_on(random_grid(seed))
    write_volume(volume, tmp_path / f"volume{suffix}")
    back = read_volume(tmp_path / f"volume{suffix}", Role.MR)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.grid.matches(volume.grid)
    assert [p.name for p in tmp_path.iterdir()] == [f"volume{suffix}"]


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize(
    ("dtype", "role", "expected"),
    [
        (np.int16, Role.CT, np.int16),
        (np.uint8, Role.MR, np.int16),
        (np.uint16, Role.MR, np.int16),
        (np.float64, Role.CT, np.float32),
        (bool, Role.MASK, np.uint8),
        (np.int32, Role.MR, np.float32),
    ],
)
def test_types_of_values(
    tmp_path: Path, suffix: str, dtype: type, role: Role, expected: type
) -> None:
    grid = random_grid(3)
    array = (np.indices(grid.size[::-1]).sum(axis=0) % 2).astype(dtype)
    write_volume(volume_on(grid, array, role), tmp_path / f"volume{suffix}")
    back = read_volume(tmp_path / f"volume{suffix}", role)
    assert back.array.dtype == expected
    np.testing.assert_array_equal(back.array, array.astype(expected))


def test_unsigned_values_beyond_int16_become_float(tmp_path: Path) -> None:
    array = small(np.uint16)
    array[0, 0, 0] = 40000
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / "mr.nii")
    volume = read_volume(tmp_path / "mr.nii", Role.MR)
    assert volume.array.dtype == np.float32
    assert volume.array[0, 0, 0] == 40000


@pytest.mark.parametrize("suffix", WRITTEN)
def test_role_and_unit_are_in_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pet{suffix}"
    write_volume(Volume(volume_on(random_grid(1)).image, Role.PET, Unit.BQ_PER_ML), path)
    assert read_volume(path, Role.PET).unit == Unit.BQ_PER_ML
    assert read_volume(path, Role.PET, Unit.BQ_PER_ML).unit == Unit.BQ_PER_ML
    assert read_volume(path, Role.NAC_PET).unit == Unit.BQ_PER_ML
    with pytest.raises(InputError, match="are in Bq/ml, and they were asked for in SUV"):
        read_volume(path, Role.PET, Unit.SUV)
    assert read_volume(path, Role.MR).unit == Unit.ARBITRARY  # the note is for another role
    if suffix.startswith(".nii"):
        assert nibabel.load(path).header["descrip"] == b"SynthCT role=pet unit=Bq/ml"


def test_unit_is_the_default_of_the_role_where_nothing_says_it(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(small(), AFFINE), tmp_path / "volume.nii")
    assert read_volume(tmp_path / "volume.nii", Role.CT).unit == Unit.HU
    assert read_volume(tmp_path / "volume.nii", Role.MU_MAP).unit == Unit.PER_CM


def test_source_is_the_file_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(small(), AFFINE), path)
    (source,) = read_volume(path, Role.MR).provenance.sources
    assert source.path == str(path)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_header_keys_of_a_file_do_not_travel(tmp_path: Path) -> None:
    image = volume_on(random_grid(2)).image
    image.SetMetaData("PatientName", "Secret^Name")
    sitk.WriteImage(image, tmp_path / "in.nrrd")
    volume = read_volume(tmp_path / "in.nrrd", Role.MR)
    assert volume.image.GetMetaDataKeys() == ()
    write_volume(Volume(image, Role.MR, Unit.ARBITRARY), tmp_path / "out.nrrd")
    assert b"Secret" not in (tmp_path / "out.nrrd").read_bytes()
    assert image.GetMetaData("PatientName") == "Secret^Name"  # the caller's image is as it was


# --- NIfTI against nibabel -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_nibabel_reads_our_grid(tmp_path: Path, seed: int) -> None:
    volume = volume_on(random_grid(seed))
    write_volume(volume, tmp_path / "volume.nii.gz")
    image = nibabel.load(tmp_path / "volume.nii.gz")
    np.testing.assert_allclose(
        image.affine, LPS_OF_RAS @ volume.grid.index_to_world, rtol=0, atol=1e-4
    )
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, volume.array)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("form", ["sform", "qform", "both"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_we_read_the_grid_of_nibabel(tmp_path: Path, seed: int, form: str, order: str) -> None:
    grid = random_grid(seed)
    affine = LPS_OF_RAS @ grid.index_to_world
    array = np.random.default_rng(seed).normal(size=grid.size).astype(np.float32)
    image = nibabel.Nifti1Image(array, affine, nibabel.Nifti1Header(endianness=order))
    image.set_sform(affine, 0 if form == "qform" else 1)
    image.set_qform(affine, 0 if form == "sform" else 1)
    nibabel.save(image, tmp_path / "volume.nii.gz")
    volume = read_volume(tmp_path / "volume.nii.gz", Role.MR)
    assert volume.grid.matches(grid)
    np.testing.assert_array_equal(volume.array, array.T)
    assert volume.provenance.steps == ()


def save(
    path: Path,
    sform: npt.NDArray[np.float64] | None,
    qform: npt.NDArray[np.float64] | None,
    array: npt.NDArray[Any] | None = None,
    **header: Any,
) -> Path:
    """A NIfTI with exactly these forms; forms that are None are switched off."""
    image = nibabel.Nifti1Image(small() if array is None else array, None)
    image.set_qform(np.eye(4) if qform is None else qform, 0 if qform is None else 1)
    image.set_sform(np.eye(4) if sform is None else sform, 0 if sform is None else 1)
    nibabel.save(image, path)
    if header:  # nibabel would mend these
        content = bytearray(path.read_bytes())
        fields = np.frombuffer(content, nibabel.nifti1.header_dtype, count=1)
        for key, value in header.items():
            fields[key] = value
        path.write_bytes(content)
    return path


def test_voxel_size_comes_from_the_form_that_is_used(tmp_path: Path) -> None:
    """ITK alone takes pixdim, here 1 mm, where the sform says 2 x 3 x 4."""
    path = save(tmp_path / "volume.nii", AFFINE, None)
    assert nibabel.load(path).header.get_zooms() == (1, 1, 1)
    volume = read_volume(path, Role.MR)
    assert volume.grid.spacing_mm == (2, 3, 4)
    assert volume.grid.origin_mm == (-10, -20, 30)
    assert volume.grid.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def test_two_places_in_one_header_are_told(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] += [30, 0, 40]
    volume = read_volume(save(tmp_path / "volume.nii", AFFINE, moved), Role.MR)
    assert volume.grid.origin_mm == (-10, -20, 30)
    (note,) = reading_notes(volume)
    assert "50.0 mm apart" in note


def test_a_sheared_sform_gives_way_to_the_qform_and_is_told(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.5
    volume = read_volume(save(tmp_path / "volume.nii", sheared, AFFINE), Role.MR)
    assert volume.grid.spacing_mm == (2, 3, 4)
    assert "sheared" in reading_notes(volume)[0]


def test_a_useless_qform_is_not_missed(tmp_path: Path) -> None:
    path = save(tmp_path / "volume.nii", AFFINE, AFFINE, pixdim=[1, 0, 0, 0, 1, 1, 1, 1])
    volume = read_volume(path, Role.MR)
    assert volume.grid.spacing_mm == (2, 3, 4)


def _sheared() -> npt.NDArray[np.float64]:
    affine = AFFINE.copy()
    affine[0, 1] = 0.5
    return affine


@pytest.mark.parametrize(
    ("sform", "qform", "header", "said"),
    [
        (None, None, {}, "left and right are unknown"),
        (_sheared(), None, {}, "not perpendicular"),
        (AFFINE @ np.diag([0, 1, 1, 1]), None, {}, "size of its voxels"),
        (None, AFFINE, {"pixdim": [1, 2, 0, 4, 1, 1, 1, 1]}, "size of its voxels"),
        (AFFINE @ np.diag([-1, 1, 1, 1]), AFFINE, {}, "which side is left"),
        (AFFINE @ np.diag([2, 1, 1, 1]), AFFINE, {}, "two voxel sizes"),
        (AFFINE, None, {"srow_x": np.nan}, "damaged"),
    ],
)
def test_an_unclear_place_is_refused(
    tmp_path: Path, sform: Any, qform: Any, header: dict[str, Any], said: str
) -> None:
    assert_refused(save(tmp_path / "volume.nii", sform, qform, **header), said)


def test_units_of_length(tmp_path: Path) -> None:
    path = save(tmp_path / "volume.nii", AFFINE * [[1e-3], [1e-3], [1e-3], [1]], None)
    image = nibabel.load(path)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "metres.nii")
    volume = read_volume(tmp_path / "metres.nii", Role.MR)
    np.testing.assert_allclose(volume.grid.spacing_mm, (2, 3, 4), rtol=1e-6)
    np.testing.assert_allclose(volume.grid.origin_mm, (-10, -20, 30), rtol=1e-6)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(small(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, -1000)
    nibabel.save(image, tmp_path / "ct.nii")
    volume = read_volume(tmp_path / "ct.nii", Role.CT)
    np.testing.assert_array_equal(volume.array, small().T * 0.5 - 1000)


def test_a_fourth_dimension_of_one_is_dropped(tmp_path: Path) -> None:
    for shape in ((6, 5, 4, 1), (6, 5, 4, 1, 1)):
        path = save(tmp_path / "volume.nii", AFFINE, AFFINE, small().reshape(shape))
        np.testing.assert_array_equal(read_volume(path, Role.MR).array, small().T)
    stack = sitk.JoinSeries([volume_on(random_grid(4)).image])
    sitk.WriteImage(stack, tmp_path / "volume.mha")
    assert read_volume(tmp_path / "volume.mha", Role.MR).grid.matches(random_grid(4))


def test_a_neighbour_of_nearly_the_same_name_is_not_read(tmp_path: Path) -> None:
    """ITK alone reads the voxels of head.nii when asked for head.nii.gz."""
    save(tmp_path / "head.nii.gz", AFFINE, AFFINE, small())
    save(tmp_path / "head.nii", AFFINE, AFFINE, small() * 0 + 7)
    np.testing.assert_array_equal(read_volume(tmp_path / "head.nii.gz", Role.MR).array, small().T)
    assert np.unique(read_volume(tmp_path / "head.nii", Role.MR).array) == [7]


def test_a_damaged_nifti_is_refused(tmp_path: Path) -> None:
    """ITK alone reads what is missing as zeros."""
    array = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    packed = save(tmp_path / "packed.nii.gz", AFFINE, AFFINE, array)
    plain = save(tmp_path / "plain.nii", AFFINE, AFFINE, array)
    for path in (packed, plain):
        whole = path.read_bytes()
        for length in (1, 100, 400, len(whole) // 2, len(whole) - 10):
            path.write_bytes(whole[:length])
            assert_refused(path, "damaged")
    whole = gzip.compress(plain.read_bytes())
    garbled = bytearray(packed.stat().st_size and whole)
    garbled[len(whole) // 2 : len(whole) // 2 + 20] = b"\x55" * 20
    packed.write_bytes(bytes(garbled))
    assert_refused(packed, "damaged")
    plain.write_bytes(b"\0" * 1000)
    assert_refused(plain, "not a NIfTI-1 file")
    save(plain, AFFINE, AFFINE, dim=[9, 1, 1, 1, 1, 1, 1, 1])
    assert_refused(plain, "damaged")


def test_what_is_not_one_scalar_volume_is_refused(tmp_path: Path) -> None:
    colour = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    shapes = {
        "time.nii": (small(), (6, 5, 2, 2), "4 dimensions"),
        "vector.nii": (small(), (3, 2, 5, 1, 4), "5 dimensions"),
        "flat.nii": (small(), (12, 10), "two-dimensional"),
        "slice.nii": (small(), (12, 10, 1), "only one slice"),
        "complex.nii": (small(np.complex64), (6, 5, 4), "magnitude"),
        "colour.nii": (colour, (6, 5, 4), "3 components"),
    }
    for name, (array, shape, said) in shapes.items():
        path = save(tmp_path / name, AFFINE, AFFINE, array.reshape(shape))
        assert_refused(path, said)
    nibabel.save(nibabel.Nifti2Image(small(), AFFINE), tmp_path / "two.nii")
    assert_refused(tmp_path / "two.nii", "NIfTI-2")
    nibabel.save(nibabel.Nifti1Pair(small(), AFFINE), tmp_path / "pair.img")
    assert_refused(tmp_path / "pair.img", "half of an Analyze or NIfTI pair")
    assert_refused(tmp_path / "pair.hdr", "half of an Analyze or NIfTI pair")


# --- NRRD and MetaImage --------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> Path:
    """Change the text header of a file."""
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    return path


def plain_image() -> sitk.Image:
    image = sitk.GetImageFromArray(small().T)
    image.SetOrigin((10, 20, 30))
    return image


@pytest.mark.parametrize(
    ("space", "signs"),
    [("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1)), ("LPS", (1, 1, 1))],
)
def test_nrrd_spaces_are_brought_to_lps(
    tmp_path: Path, space: str, signs: tuple[int, int, int]
) -> None:
    sitk.WriteImage(plain_image(), tmp_path / "volume.nrrd")
    edit(tmp_path / "volume.nrrd", "left-posterior-superior", space)
    grid = read_volume(tmp_path / "volume.nrrd", Role.MR).grid
    np.testing.assert_allclose(grid.origin_mm, np.multiply(signs, (10, 20, 30)))
    np.testing.assert_allclose(np.reshape(grid.direction, (3, 3)), np.diag(signs))


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("packed", [True, False])
def test_detached_voxels_are_read_and_hashed(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = tmp_path / f"volume{suffix}"
    sitk.WriteImage(plain_image(), path, packed)
    volume = read_volume(path, Role.MR)
    np.testing.assert_array_equal(volume.array, small().T)
    header, data = volume.provenance.sources
    assert Path(header.path) == path
    assert data.sha256 == hashlib.sha256(Path(data.path).read_bytes()).hexdigest()
    whole = Path(data.path).read_bytes()
    Path(data.path).write_bytes(whole[: len(whole) // 2])
    assert_refused(path, "damaged")
    Path(data.path).unlink()
    assert_refused(path, "which is missing")
    name = Path(data.path).name
    edit(path, name, "LIST")
    assert_refused(path, "over several files")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_nrrd_or_metaimage_is_refused(tmp_path: Path, suffix: str, packed: bool) -> None:
    array = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = tmp_path / f"volume{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array), path, packed)
    whole = path.read_bytes()
    for length in (1, 10, 60, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        assert_refused(path, r"damaged|not an NRRD|not tell how it lies")
    if packed:
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + b"\x55" * 20 + whole[middle + 20 :])
        assert_refused(path, "damaged")


@pytest.mark.parametrize(
    ("suffix", "old", "new", "said"),
    [
        (".nrrd", "space: left-posterior-superior", "space dimension: 3", "left and right"),
        (".nrrd", "space: left-posterior-superior", "space: scanner-xyz", "left and right"),
        (".nrrd", "(1,0,0) (0,1,0)", "(1,0,0) (0.3,1,0)", "not perpendicular"),
        (".nrrd", "(1,0,0) (0,1,0)", "(0,0,0) (0,1,0)", "damaged|size of its voxels"),
        (".nrrd", "NRRD0004", "NOTHING!", "not an NRRD file"),
        (".mha", "1 0 0 0 1 0 0 0 1", "1 0 0 .3 1 0 0 0 1", "not perpendicular"),
        (".mha", "ElementSpacing = 1 1 1", "ElementSpacing = 0 1 1", "damaged|size of its voxels"),
        (".mha", "DimSize = 6 5 4", "DimSize = 6 5 9", "damaged"),
        (".mha", "DimSize = 6 5 4", "DimSize = 6 x 4", "damaged"),
        (".mha", "ElementDataFile", "SomethingElse", "damaged"),
        (".mha", "ElementSpacing = 1 1 1", "ElementSpacing = 1 1 1 1", "damaged"),
        (".mha", "1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0", "damaged"),
        (".mha", "NDims = 3", "NDims = 4", "damaged"),
        (".mha", "BinaryData = True", "BinaryData = Truth", "damaged"),
        (".mha", "Offset = 10 20 30", "Offset = nan 20 30", "damaged"),
        (".nrrd", "space origin: (10,20,30)", "space origin: (nan,20,30)", "damaged|no number"),
    ],
)
def test_a_bad_text_header_is_refused(
    tmp_path: Path, suffix: str, old: str, new: str, said: str
) -> None:
    sitk.WriteImage(plain_image(), tmp_path / f"volume{suffix}")
    assert_refused(edit(tmp_path / f"volume{suffix}", old, new), said)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_vectors_and_series_are_refused_in_every_format(tmp_path: Path, suffix: str) -> None:
    image = plain_image()
    sitk.WriteImage(sitk.Compose(image, image), tmp_path / f"vector{suffix}")
    assert_refused(tmp_path / f"vector{suffix}", "components|dimensions")
    sitk.WriteImage(sitk.JoinSeries([image, image]), tmp_path / f"time{suffix}")
    assert_refused(tmp_path / f"time{suffix}", "4 dimensions")


# --- values --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_values_that_are_no_numbers_are_counted(tmp_path: Path, bad: float, dtype: str) -> None:
    """ITK alone reads them as zeros from a NIfTI."""
    array = small(np.dtype(dtype))
    array[0, :3, 0] = bad
    image = nibabel.Nifti1Image(array, AFFINE, nibabel.Nifti1Header(endianness=dtype[0]))
    image.set_data_dtype(dtype)
    nibabel.save(image, tmp_path / "volume.nii.gz")
    assert_refused(tmp_path / "volume.nii.gz", "has 3 voxels that are NaN or infinite")
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(
            sitk.GetImageFromArray(array.T.astype(dtype[1:])), tmp_path / f"volume{suffix}"
        )
        assert_refused(tmp_path / f"volume{suffix}", "has 3 voxels that are NaN or infinite")


def test_doubles_beyond_float_are_refused(tmp_path: Path) -> None:
    array = small(np.float64)
    array[0, 0, 0] = 1e300
    assert_refused(save(tmp_path / "volume.nii", AFFINE, AFFINE, array), "has 1 voxels")


def test_an_empty_image_is_refused(tmp_path: Path) -> None:
    assert_refused(save(tmp_path / "volume.nii", AFFINE, AFFINE, small() * 0), "every voxel is 0")


def test_masks_are_zero_and_one(tmp_path: Path) -> None:
    inside = small() > 50
    for values in (inside.astype(np.float32), (255 * inside).astype(np.int16)):
        path = save(tmp_path / "mask.nii", AFFINE, AFFINE, values)
        mask = read_volume(path, Role.MASK)
        assert mask.array.dtype == np.uint8
        np.testing.assert_array_equal(mask.array, inside.T)
    assert mask.provenance.steps[0].settings == {"from": 255}
    path = save(tmp_path / "labels.nii", AFFINE, AFFINE, small(np.int16))
    assert_refused(path, "several structures", Role.MASK)
    path = save(tmp_path / "probability.nii", AFFINE, AFFINE, small() / 120)
    assert_refused(path, "no mask or label map", Role.MASK)


def test_label_maps_keep_their_labels(tmp_path: Path) -> None:
    for factor, expected in ((1, np.int16), (1000, np.int32)):
        path = save(tmp_path / "labels.nii", AFFINE, AFFINE, small() * factor)
        labels = read_label_map(path)
        assert (labels.role, labels.array.dtype) == (Role.MASK, expected)
        np.testing.assert_array_equal(labels.array, small().T * factor)
    with pytest.raises(InputError, match="no mask or label map"):
        read_label_map(save(tmp_path / "halves.nii", AFFINE, AFFINE, small() / 2))
    with pytest.raises(InputError, match="PNG"):
        read_label_map(picture(tmp_path / "labels.png"))
    with pytest.raises(InputError, match="is DICOM"):
        read_label_map(tmp_path)


# --- other files ---------------------------------------------------------------------------


def picture(path: Path) -> Path:
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), path)
    return path


def test_other_types_are_refused_by_name(tmp_path: Path) -> None:
    assert_refused(picture(tmp_path / "photo.png"), "a PNG picture")
    assert_refused(picture(tmp_path / "photo.jpg"), "a JPEG picture")
    (tmp_path / "notes.txt").write_text("hello")
    assert_refused(tmp_path / "notes.txt", r"of the type \.txt")
    (tmp_path / "IM0001").write_text("hello")
    assert_refused(tmp_path / "IM0001", "of an unknown type")
    (tmp_path / "slice.dcm").write_text("hello")
    assert_refused(tmp_path / "slice.dcm", "named as DICOM and is not")
    shutil.copy(tmp_path / "photo.png", tmp_path / "volume.nii")
    assert_refused(tmp_path / "volume.nii", "damaged|not a NIfTI-1 file")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere.nii.gz", "There is no file")
    (tmp_path / "empty.nii").touch()
    assert_refused(tmp_path / "empty.nii", "0 bytes")
    assert_refused(tmp_path, "holds no DICOM files")


def test_a_series_is_for_dicom_only(tmp_path: Path) -> None:
    path = save(tmp_path / "volume.nii", AFFINE, AFFINE)
    with pytest.raises(InputError, match="no DICOM folder"):
        read_volume(path, Role.MR, series="CT")


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """Permissions apply: without the powers of root where the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_without_permission_is_refused(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = save(tmp_path / "volume.nii", AFFINE, AFFINE)
    path.chmod(0)
    request.getfixturevalue("as_nobody")
    assert_refused(path, "Permission denied")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_without_permission_is_told(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tmp_path.chmod(0o555)
    request.getfixturevalue("as_nobody")
    with pytest.raises(OutputError, match="Permission denied: choose a folder"):
        write_volume(volume_on(random_grid(0)), tmp_path / "volume.nii.gz")


# --- writing that fails --------------------------------------------------------------------


def test_a_name_of_no_known_type_is_refused(tmp_path: Path) -> None:
    for name in ("volume.png", "volume", "volume.nhdr", "volume.gz"):
        with pytest.raises(OutputError, match=r"must end in \.nii\.gz"):
            write_volume(volume_on(random_grid(0)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_folder_as_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create its folder first"):
        write_volume(volume_on(random_grid(0)), tmp_path / "no" / "volume.nii")
    (tmp_path / "volume.nii").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        write_volume(volume_on(random_grid(0)), tmp_path / "volume.nii")
    assert [p.name for p in tmp_path.iterdir()] == ["volume.nii"]


def test_values_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    array = small().T
    array[1, 2, 3] = np.nan
    with pytest.raises(OutputError, match="1 voxels are NaN"):
        write_volume(
            Volume(sitk.GetImageFromArray(array), Role.CT, Unit.HU), tmp_path / "ct.nii.gz"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_full_disk_is_told_and_leaves_what_was_there(tiny_disk: Path, suffix: str) -> None:
    path = tiny_disk / f"volume{suffix}"
    path.write_bytes(b"the result of yesterday")
    noise = np.random.default_rng(0).normal(size=(60, 60, 60)).astype(np.float32)
    volume = Volume(sitk.GetImageFromArray(noise), Role.CT, Unit.HU)
    with pytest.raises(OutputError, match="free some space"):
        write_volume(volume, path)
    assert [p.name for p in tiny_disk.iterdir()] == [path.name]
    assert path.read_bytes() == b"the result of yesterday"


SHORT_WRITE = """
import resource, sys
from pathlib import Path
import numpy as np, SimpleITK as sitk
from SynthCTLib.errors import OutputError
from SynthCTLib.imaging.files import write_volume
from SynthCTLib.volume import Role, Unit, Volume
noise = np.random.default_rng(0).normal(size=(60, 60, 60)).astype(np.float32)
volume = Volume(sitk.GetImageFromArray(noise), Role.CT, Unit.HU)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_volume(volume, Path(sys.argv[1]))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_write_that_is_cut_short_is_noticed(tmp_path: Path, suffix: str) -> None:
    """The disk has room when asked and none when written to; ITK's NIfTI writer says nothing."""
    library = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", SHORT_WRITE, str(tmp_path / f"volume{suffix}")],
        env={**os.environ, "PYTHONPATH": library},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be written: the file came out incomplete" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_stopping_while_writing_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose processor time alone makes the timer go."""
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "stopped", done.stderr
    assert list(tmp_path.iterdir()) == []


_STOPPED = """
import signal, sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk
from SynthCTLib.errors import Cancelled
from SynthCTLib.imaging.files import write_volume
from SynthCTLib.volume import Role, Unit, Volume

noise = np.random.default_rng(0).normal(size=(128, 128, 128)).astype(np.float32)
volume = Volume(sitk.GetImageFromArray(noise), Role.CT, Unit.HU)

def stop(number, frame):
    raise Cancelled

signal.signal(signal.SIGVTALRM, stop)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)
try:
    write_volume(volume, Path(sys.argv[1]) / "volume.nii.gz")
except Cancelled:
    print("stopped")
"""


def test_the_switch_for_warnings_is_put_back() -> None:
    switch: Callable[[], bool] = sitk.ProcessObject.GetGlobalWarningDisplay
    before = switch()
    with without_itk_warnings():
        with without_itk_warnings():
            assert not switch()
        assert not switch()
    assert switch() == before


@pytest.mark.pack
def test_every_head_and_label_map_of_the_pack_lies_where_nibabel_has_it(data_pack: Path) -> None:
    heads = sorted((data_pack / "heads").glob("*.nii.gz"))
    labels = sorted((data_pack / "labels").glob("*.nii.gz"))
    assert heads
    assert labels
    for path in (*heads, labels[0]):
        volume = read_label_map(path) if path in labels else read_volume(path, Role.MR)
        image = nibabel.load(path)
        ours = LPS_OF_RAS @ volume.grid.index_to_world
        np.testing.assert_allclose(ours, image.affine, rtol=0, atol=1e-3)
        np.testing.assert_allclose(volume.array, np.asanyarray(image.dataobj).T, rtol=1e-6)

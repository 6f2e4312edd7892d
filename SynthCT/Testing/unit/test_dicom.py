"""DICOM series: closed forms in patient coordinates, and every reason to refuse one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1, RLELossless
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.dicom import list_series, read_series
from SynthCTLib.imaging.files import read_volume, reading_notes
from SynthCTLib.imaging.grids import scanned_field
from SynthCTLib.volume import Grid, Role, Unit, Volume

# A field that is linear in LPS mm: linear interpolation must give it back exactly.
FIELD = np.array([2.0, -3.0, 5.0])
OBLIQUE = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "prone": ((-1, 0, 0), (0, -1, 0)),
    "oblique": (tuple(OBLIQUE[:, 0]), tuple(OBLIQUE[:, 1])),
}


def field_at(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The linear field at LPS points (..., 3)."""
    return points @ FIELD + 700.0


def points_of_planes(layout: Any, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """LPS mm of every pixel, from the DICOM equation (PS3.3 C.7.6.2.1.1)."""
    r, c = np.mgrid[:rows, :columns]
    in_plane = c[..., None] * layout.spacing[0] * np.asarray(layout.row) + r[
        ..., None
    ] * layout.spacing[1] * np.asarray(layout.column)
    return layout.positions[:, None, None, :] + in_plane


def points_of_voxels(volume: Volume) -> npt.NDArray[np.float64]:
    """LPS mm of every voxel, shape (z, y, x, 3)."""
    z, y, x = np.mgrid[tuple(slice(n) for n in volume.array.shape)]
    index = np.stack([x, y, z, np.ones_like(x)], axis=-1)
    return (index @ volume.grid.index_to_world.T)[..., :3]


def stored_field(layout: Any, rows: int = 8, columns: int = 6) -> npt.NDArray[np.int16]:
    """The linear field in hundredths, rounded, as stored values of the slices."""
    return np.rint(10 * field_at(points_of_planes(layout, rows, columns))).astype(np.int16)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("gap", [2.5, -2.5])
def test_every_voxel_lies_where_it_was_scanned(
    dicom_series: ModuleType, tmp_path: Path, orientation: str, gap: float
) -> None:
    row, column = ORIENTATIONS[orientation]
    layout = dicom_series.Layout.regular(
        5, gap, (-40, 30, 100), row=row, column=column, spacing=(0.7, 1.3), slopes=0.1
    )
    dicom_series.write_series(tmp_path, stored_field(layout), layout, "MR")
    volume = read_volume(tmp_path, Role.MR)
    np.testing.assert_allclose(volume.grid.spacing_mm, (0.7, 1.3, 2.5), atol=1e-6)
    np.testing.assert_allclose(volume.array, field_at(points_of_voxels(volume)), atol=0.051)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    assert volume.grid.matches(Grid.of(reader.Execute()), 1e-4)


def test_slices_need_no_order_by_name_or_number(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(12, 1.0)
    stored = np.arange(12, dtype=np.int16)[:, None, None] + np.zeros((12, 4, 4), np.int16)
    paths = dicom_series.write_series(tmp_path, stored, layout)
    assert [p.name for p in paths] != sorted(p.name for p in paths)
    assert read_volume(tmp_path, Role.CT).array[:, 0, 0].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("dtype", "values", "intercept", "expected"),
    [
        (np.int16, (-1000, 3000), 0.0, np.int16),
        (np.uint16, (24, 4095), -1024.0, np.int16),
        (np.uint16, (24, 40000), -1024.0, np.float32),
        (np.uint8, (3, 255), 0.0, np.int16),
        (np.int16, (0, 100), 0.5, np.float32),
    ],
)
def test_signed_and_unsigned_pixels_are_rescaled(
    dicom_series: ModuleType,
    tmp_path: Path,
    dtype: type,
    values: tuple[int, int],
    intercept: float,
    expected: type,
) -> None:
    stored = np.full((3, 4, 4), values[0], dtype)
    stored[1] = values[1]
    layout = dicom_series.Layout.regular(3, 1.0, intercepts=intercept)
    dicom_series.write_series(tmp_path, stored, layout)
    array = read_volume(tmp_path, Role.CT).array
    assert array.dtype == expected
    assert {float(v) for v in np.unique(array)} == {v + intercept for v in values}


def test_each_slice_has_its_own_slope(dicom_series: ModuleType, tmp_path: Path) -> None:
    slopes = [0.5, 0.25, 2.0, 1.25]
    layout = dicom_series.Layout.regular(
        4, 3.0, slopes=slopes, tags={"Units": "BQML", "CorrectedImage": ["DECY", "ATTN"]}
    )
    dicom_series.write_series(tmp_path, np.full((4, 5, 5), 1000, np.int16), layout, "PT")
    volume = read_volume(tmp_path, Role.PET)
    assert volume.array[:, 2, 2].tolist() == [1000 * s for s in slopes]
    assert volume.unit == Unit.BQ_PER_ML


# --- air, padding, units, roles ------------------------------------------------------------


def test_padding_becomes_air_and_nothing_lies_below_12_bit_ct(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    stored = np.full((3, 4, 4), 1040, np.int16)
    stored[:, 0, 0] = -2000
    stored[:, 1, 1] = -100
    layout = dicom_series.Layout.regular(3, 1.0, intercepts=-1024)
    dicom_series.write_series(
        tmp_path,
        stored,
        layout,
        change=lambda _, ds: ds.add_new(0x00280120, "US", 65536 - 2000),
    )
    volume = read_volume(tmp_path, Role.CT)
    assert volume.array[:, 0, 0].tolist() == [-1000] * 3
    assert volume.array[:, 1, 1].tolist() == [-1024] * 3
    assert volume.array[2, 3, 3] == 16
    assert [s.name for s in volume.provenance.steps] == ["set_padding_to_air", "raise_to_lowest_hu"]
    assert [s.settings["voxels"] for s in volume.provenance.steps] == [3, 3]


def test_padding_that_is_tissue_is_left_and_said(dicom_series: ModuleType, tmp_path: Path) -> None:
    stored = np.tile(np.arange(-8, 8, dtype=np.int16).reshape(4, 4), (3, 1, 1))
    dicom_series.write_series(
        tmp_path,
        stored,
        dicom_series.Layout.regular(3, 1.0),
        change=lambda _, ds: ds.add_new(0x00280120, "SS", 0),
    )
    volume = read_volume(tmp_path, Role.CT)
    np.testing.assert_array_equal(volume.array, stored)
    assert "0 HU as padding" in reading_notes(volume)[0]


@pytest.mark.parametrize(
    ("tags", "unit", "noted"),
    [
        ({"Units": "GML"}, Unit.SUV, False),
        ({"Units": "GML", "SUVType": "BW"}, Unit.SUV, False),
        ({"Units": "GML", "SUVType": "LBM"}, Unit.ARBITRARY, True),
        ({"Units": "BQML"}, Unit.BQ_PER_ML, False),
        ({"Units": "CNTS"}, Unit.ARBITRARY, True),
        ({}, Unit.ARBITRARY, True),
    ],
)
def test_unit_of_a_pet(
    dicom_series: ModuleType, tmp_path: Path, tags: dict[str, str], unit: Unit, noted: bool
) -> None:
    layout = dicom_series.Layout.regular(3, 1.0, tags=tags)
    dicom_series.write_series(tmp_path, np.ones((3, 4, 4), np.int16), layout, "PT")
    volume = read_volume(tmp_path, Role.PET)
    assert volume.unit == unit
    assert bool(reading_notes(volume)) == noted


@pytest.mark.parametrize(
    ("modality", "tags", "role"),
    [
        ("MR", {}, Role.MR),
        ("CT", {}, Role.CT),
        ("PT", {}, Role.PET),
        ("PT", {"CorrectedImage": ["DECY", "ATTN"]}, Role.PET),
        ("PT", {"CorrectedImage": ["DECY", "NORM"]}, Role.NAC_PET),
    ],
)
def test_role_from_the_tags(
    dicom_series: ModuleType, tmp_path: Path, modality: str, tags: dict[str, Any], role: Role
) -> None:
    layout = dicom_series.Layout.regular(3, 1.0, tags=tags)
    dicom_series.write_series(tmp_path, np.ones((3, 4, 4), np.int16), layout, modality)
    (series,) = list_series(tmp_path)
    assert series.role == role
    assert read_series(series).role == role


def test_a_role_that_the_tags_deny_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(3, 1.0, tags={"CorrectedImage": ["DECY", "ATTN"]})
    dicom_series.write_series(tmp_path / "ct", np.ones((3, 4, 4), np.int16), layout)
    dicom_series.write_series(tmp_path / "pet", np.ones((3, 4, 4), np.int16), layout, "PT")
    with pytest.raises(InputError, match="given as mr and is a CT image"):
        read_volume(tmp_path / "ct", Role.MR)
    with pytest.raises(InputError, match="is attenuation corrected"):
        read_volume(tmp_path / "pet", Role.NAC_PET)
    assert read_volume(tmp_path / "ct", Role.MU_MAP).role == Role.MU_MAP


def test_unstated_correction_leaves_the_role_to_the_user(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    layout = dicom_series.Layout.regular(3, 1.0)
    dicom_series.write_series(tmp_path, np.ones((3, 4, 4), np.int16), layout, "PT")
    assert read_volume(tmp_path, Role.NAC_PET).role == Role.NAC_PET


def test_a_ct_that_is_not_in_hu_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(3, 1.0, tags={"RescaleType": "MGML"})
    dicom_series.write_series(tmp_path, np.ones((3, 4, 4), np.int16), layout)
    with pytest.raises(InputError, match="in MGML"):
        read_volume(tmp_path, Role.CT)


# --- doubled, missing, uneven slices -------------------------------------------------------


def ramp(count: int = 8) -> npt.NDArray[np.int16]:
    return (10 * np.arange(1, count + 1, dtype=np.int16))[:, None, None] + np.zeros(
        (count, 4, 4), np.int16
    )


def test_identical_copies_are_dropped_and_said(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(8, 2.0)
    paths = dicom_series.write_series(tmp_path, ramp(), layout)
    shutil.copy(paths[3], tmp_path / "again.dcm")
    shutil.copy(paths[0], tmp_path / "and_again.dcm")
    volume = read_volume(tmp_path, Role.CT)
    np.testing.assert_array_equal(volume.array, ramp())
    (step,) = volume.provenance.steps
    assert (step.name, step.settings["count"]) == ("drop_copied_slices", 2)
    assert "2 slices" in reading_notes(volume)[0]


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"EchoTime": 4.6, "AcquisitionTime": "120000"}, r"EchoTime \(2.3 and 4.6\)"),
        ({"DiffusionBValue": 1000.0}, r"DiffusionBValue \(none and 1000"),
        ({"TemporalPositionIdentifier": 2}, r"TemporalPositionIdentifier \(none and 2\)"),
        ({"AcquisitionTime": "120000"}, r"AcquisitionTime \(none and 120000\)"),
        ({}, "no known tag tells apart"),
    ],
)
def test_different_images_at_one_place_are_refused(
    dicom_series: ModuleType, tmp_path: Path, tags: dict[str, Any], named: str
) -> None:
    layout = dicom_series.Layout.regular(8, 2.0, tags={"EchoTime": 2.3})
    dicom_series.write_series(tmp_path, ramp(), layout, "MR", prefix="a")
    layout = dicom_series.Layout.regular(8, 2.0, tags={"EchoTime": 2.3} | tags)
    dicom_series.write_series(tmp_path, ramp() + 1, layout, "MR", prefix="b")
    with pytest.raises(InputError, match=named):
        read_volume(tmp_path, Role.MR)


def test_same_pixels_under_another_slope_are_no_copy(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    dicom_series.write_series(tmp_path, ramp(), dicom_series.Layout.regular(8, 2.0), prefix="a")
    layout = dicom_series.Layout.regular(8, 2.0, slopes=2.0)
    dicom_series.write_series(tmp_path, ramp(), layout, prefix="b")
    with pytest.raises(InputError, match="different images at one position"):
        read_volume(tmp_path, Role.CT)


@pytest.mark.parametrize(
    ("lost", "said"),
    [([4], r"1 of 8 slices .* \(0.0, 0.0, 8.0\)"), ([2, 3, 6], r"3 of 8 slices .* 0.0, 4.0\)")],
)
def test_missing_slices_are_refused_with_their_place(
    dicom_series: ModuleType, tmp_path: Path, lost: list[int], said: str
) -> None:
    paths = dicom_series.write_series(tmp_path, ramp(), dicom_series.Layout.regular(8, 2.0))
    for index in lost:
        paths[index].unlink()
    with pytest.raises(InputError, match=said):
        read_volume(tmp_path, Role.CT)


def uneven(dicom_series: ModuleType, heights: list[float], **more: Any) -> Any:
    positions = np.add(np.outer(heights, [0.0, 0.0, 1.0]), [5.0, -7.0, 11.0])
    return dicom_series.Layout(positions, slopes=0.1, **more)


def test_uneven_slices_are_interpolated_and_said(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = uneven(dicom_series, [0.0, 3.0, 5.5, 9.0, 12.0, 16.0])
    dicom_series.write_series(tmp_path, stored_field(layout), layout, "MR")
    volume = read_volume(tmp_path, Role.MR)
    assert volume.grid.spacing_mm[2] == pytest.approx(3.2)
    assert volume.grid.size[2] == 6
    np.testing.assert_allclose(volume.array, field_at(points_of_voxels(volume)), atol=0.051)
    assert "2.50 to 4.00 mm apart" in reading_notes(volume)[0]


def test_thick_slices_of_an_old_head_ct_are_no_missing_ones(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    """5 mm through the skull base, 10 mm above: refused unless the thickness says so."""
    heights = [0.0, 5.0, 10.0, 15.0, 22.5, 32.5, 42.5]
    thickness = [5, 5, 5, 5, 10, 10, 10]
    layout = uneven(dicom_series, heights)
    dicom_series.write_series(
        tmp_path,
        stored_field(layout),
        layout,
        change=lambda i, ds: setattr(ds, "SliceThickness", thickness[i]),
    )
    volume = read_volume(tmp_path, Role.CT)
    np.testing.assert_allclose(volume.array, field_at(points_of_voxels(volume)), atol=0.051)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.SliceThickness
        dataset.save_as(path)
    with pytest.raises(InputError, match="missing"):
        read_volume(tmp_path, Role.CT)


def test_a_gap_too_wide_to_bridge_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = uneven(dicom_series, [0.0, 3.0, 6.0, 16.5, 19.5], tags={"SliceThickness": 10.5})
    dicom_series.write_series(tmp_path, stored_field(layout), layout)
    with pytest.raises(InputError, match=r"10\.5 mm apart where 3\.0 mm is usual"):
        read_volume(tmp_path, Role.CT)


def test_positions_rounded_by_the_scanner_are_forgiven(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    layout = uneven(dicom_series, [round(0.625 * i, 1) for i in range(9)])
    dicom_series.write_series(tmp_path, stored_field(layout), layout)
    volume = read_volume(tmp_path, Role.CT)
    assert volume.provenance.steps == ()
    assert volume.grid.spacing_mm[2] == pytest.approx(0.625)


# --- gantry tilt ---------------------------------------------------------------------------


def tilted(dicom_series: ModuleType, degrees: float, count: int = 20, **more: Any) -> Any:
    """Slices tilted about the patient's left-right axis while the table moves along z."""
    angle = np.radians(degrees)
    column = (0.0, float(np.cos(angle)), float(np.sin(angle)))
    positions = np.add(np.outer(np.arange(count), [0.0, 0.0, 4.0]), [-30.0, -40.0, -10.0])
    return dicom_series.Layout(positions, column=column, spacing=(2.0, 1.5), **more)


@pytest.mark.parametrize("degrees", [-20.0, 15.0])
def test_a_tilted_field_comes_out_where_it_was(
    dicom_series: ModuleType, tmp_path: Path, degrees: float
) -> None:
    layout = tilted(dicom_series, degrees, slopes=0.1)
    dicom_series.write_series(tmp_path, stored_field(layout, 40, 30), layout)
    volume = read_volume(tmp_path, Role.CT)
    direction = np.reshape(volume.grid.direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    points = points_of_voxels(volume)
    # Where slice k of the upright grid was scanned: rows from its own position on.
    along = (points - layout.positions[:, None, None, :]) @ np.asarray(layout.column)
    scanned = (along > -1e-6) & (along < 39 * 1.5 + 1e-6)
    np.testing.assert_allclose(volume.array[scanned], field_at(points[scanned]), atol=0.06)
    far = (along < -1.0) | (along > 40 * 1.5)
    assert far.any()
    assert set(np.unique(volume.array[far])) == {-1000.0}
    # What no slice reached does not count as scanned, on the volume's own grid and on another.
    field = scanned_field(volume, volume.grid).array > 0
    assert field[scanned].all()
    assert not field[far].any()
    shift = sitk.TranslationTransform(3, (5.0, -7.0, 3.0))
    origin = np.asarray(volume.grid.origin_mm) - shift.GetOffset()
    beside = replace(volume.grid, origin_mm=tuple(origin.tolist()))
    np.testing.assert_array_equal(scanned_field(volume, beside, shift).array > 0, field)
    assert f"{abs(degrees):.1f} degrees" in reading_notes(volume)[0]


def test_a_tilted_box_keeps_its_walls(dicom_series: ModuleType, tmp_path: Path) -> None:
    """An upright box scanned with a tilt: the walls come out within half a pixel."""
    layout = tilted(dicom_series, 18.0, count=24)
    points = points_of_planes(layout, 50, 30)
    low, high = np.array([-14.0, -20.0, 15.0]), np.array([12.0, 9.0, 62.0])
    box = ((points > low) & (points < high)).all(axis=-1)
    dicom_series.write_series(tmp_path, np.where(box, 60, -1000).astype(np.int16), layout)
    volume = read_volume(tmp_path, Role.CT)
    points = points_of_voxels(volume)
    # The pixel is 2 x 1.5 mm; between slices nothing is interpolated.
    inside = ((points > low + 2.0) & (points < high - 2.0)).all(axis=-1)
    outside = ((points < low - 2.0) | (points > high + 2.0)).any(axis=-1)
    assert inside.sum() > 1000
    assert set(np.unique(volume.array[inside])) == {60.0}
    assert set(np.unique(volume.array[outside])) == {-1000.0}


def test_slices_on_a_bent_line_are_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = tilted(dicom_series, 0.0)
    layout.positions[10:, 0] += 3.0
    dicom_series.write_series(tmp_path, np.ones((20, 4, 4), np.int16), layout)
    with pytest.raises(InputError, match="do not lie on a straight line"):
        read_volume(tmp_path, Role.CT)


# --- what is no regular stack --------------------------------------------------------------


def _turn(index: int, dataset: pydicom.Dataset) -> None:
    if index == 2:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def _shrink(index: int, dataset: pydicom.Dataset) -> None:
    if index == 2:
        dataset.Rows, dataset.PixelData = 3, dataset.PixelData[: 3 * 4 * 2]


def _zoom(index: int, dataset: pydicom.Dataset) -> None:
    if index == 2:
        dataset.PixelSpacing = [1.1, 1.1]


def _skew(index: int, dataset: pydicom.Dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0.5, 1, 0]


def _no_spacing(index: int, dataset: pydicom.Dataset) -> None:
    del dataset.PixelSpacing


def _zero_spacing(index: int, dataset: pydicom.Dataset) -> None:
    dataset.PixelSpacing = [0, 1]


def _colour(index: int, dataset: pydicom.Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


def _aside(index: int, dataset: pydicom.Dataset) -> None:
    dataset.ImagePositionPatient = [50 * (index % 2), 0, index // 2]


def _no_position(index: int, dataset: pydicom.Dataset) -> None:
    del dataset.ImagePositionPatient


def _frames(index: int, dataset: pydicom.Dataset) -> None:
    dataset.NumberOfFrames = 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_turn, "different orientations"),
        (_shrink, r"4 x 4 at 1 x 1 mm|3 x 4 at 1 x 1 mm"),
        (_zoom, "differ in size or pixel spacing"),
        (_skew, "perpendicular"),
        (_no_spacing, "lacks a usable PixelSpacing"),
        (_zero_spacing, "not positive"),
        (_colour, "colour image"),
        (_aside, "side by side"),
        (_no_position, "CT images without a position in the patient"),
        (_frames, "does not say where each frame lies"),
    ],
)
def test_what_is_no_stack_is_refused(
    dicom_series: ModuleType,
    tmp_path: Path,
    change: Callable[[int, pydicom.Dataset], None],
    said: str,
) -> None:
    layout = dicom_series.Layout.regular(6, 1.0)
    stored = np.ones((6, 4, 4), np.int16)
    dicom_series.write_series(tmp_path, stored, layout, change=change)
    with pytest.raises(InputError, match=said):
        read_volume(tmp_path, Role.CT)


def test_a_slope_that_is_no_number_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    paths = dicom_series.write_series(tmp_path, ramp(), dicom_series.Layout.regular(8, 2.0))
    content = paths[2].read_bytes()
    slope = b"\x28\x00\x53\x10DS\x02\x00"
    assert slope in content
    paths[2].write_bytes(content.replace(slope + b"1 ", slope + b"x "))
    with pytest.raises(InputError, match=r"RescaleSlope of .* is not a number"):
        read_volume(tmp_path, Role.CT)
    paths[2].write_bytes(content.replace(b"\x28\x00\x10\x00US\x02", b"\x28\x00\x10\x00US\x03"))
    with pytest.raises(InputError, match=r"damaged|cut off|not a number|lacks"):
        read_volume(tmp_path, Role.CT)


def test_one_slice_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(1, 1.0)
    (path,) = dicom_series.write_series(tmp_path, np.ones((1, 4, 4), np.int16), layout)
    with pytest.raises(InputError, match="one slice"):
        read_volume(path, Role.CT)


def test_an_empty_series_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(3, 1.0)
    dicom_series.write_series(tmp_path, np.zeros((3, 4, 4), np.int16), layout)
    with pytest.raises(InputError, match="every voxel is 0"):
        read_volume(tmp_path, Role.CT)


# --- folders -------------------------------------------------------------------------------


@pytest.fixture
def mixed(dicom_series: ModuleType, tmp_path: Path) -> Path:
    """A CT, two MR series in a folder below, a scout, a structure set and other files."""
    stored = ramp()
    layout = dicom_series.Layout.regular(8, 2.0, tags={"SeriesDescription": "Head"})
    dicom_series.write_series(tmp_path, stored, layout, "CT", uid="1.1")
    for uid, name in (("1.2", "T1"), ("1.3", "T2")):
        layout = dicom_series.Layout.regular(8, 2.0, tags={"SeriesDescription": name})
        dicom_series.write_series(tmp_path / "mr" / name, stored, layout, "MR", uid=uid)
    scout = dicom_series.Layout.regular(
        1, 1.0, row=(0, 1, 0), column=(0, 0, -1), tags={"ImageType": ["ORIGINAL", "LOCALIZER"]}
    )
    dicom_series.write_series(tmp_path, ramp(1), scout, "CT", uid="1.1", prefix="scout")
    structures = dicom_series.base("RTSTRUCT", "1.4")
    structures.save_as(tmp_path / "RS.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "._00013.dcm").write_bytes(b"a resource fork")
    (tmp_path / "empty").touch()
    return tmp_path


def test_listing_tells_the_series_apart(mixed: Path) -> None:
    listed = list_series(mixed)
    assert [(s.modality, s.description, len(s.files), s.uid) for s in listed] == [
        ("CT", "Head", 8, "1.1"),
        ("MR", "T1", 8, "1.2"),
        ("MR", "T2", 8, "1.3"),
    ]
    assert listed[0].date == "2024-01-31"
    assert listed[1].folder == mixed / "mr" / "T1"
    assert [s.uid for s in list_series(mixed, recursive=False)] == ["1.1"]


def test_one_of_several_series_is_chosen_by_role_and_said(mixed: Path) -> None:
    volume = read_volume(mixed, Role.CT)
    assert volume.provenance.tags["SeriesInstanceUID"] == "1.1"
    assert volume.provenance.steps[0].settings["of"] == 3
    assert 'CT "Head"' in reading_notes(volume)[0]


def test_series_are_never_guessed(mixed: Path) -> None:
    with pytest.raises(InputError, match="holds 3 DICOM series and more than one fits") as refusal:
        read_volume(mixed, Role.MR)
    assert "1.2" in str(refusal.value)
    assert '"T2"' in str(refusal.value)
    with pytest.raises(InputError, match="none is a pet image"):
        read_volume(mixed, Role.PET)
    with pytest.raises(InputError, match=r"none is '9\.9'"):
        read_volume(mixed, Role.MR, series="9.9")
    with pytest.raises(InputError, match="more than one fits"):
        read_volume(mixed, Role.MR, series="MR")


@pytest.mark.parametrize("wanted", ["1.3", "ct"])
def test_a_series_is_chosen_by_uid_or_modality(mixed: Path, wanted: str) -> None:
    role = Role.CT if wanted == "ct" else Role.MR
    uid = read_volume(mixed, role, series=wanted).provenance.tags["SeriesInstanceUID"]
    assert uid == ("1.1" if wanted == "ct" else "1.3")


def test_a_file_stands_for_its_series_in_its_folder(mixed: Path) -> None:
    (mixed / "mr" / "T1" / "00013.dcm").rename(mixed / "mr" / "T1" / "slice")
    volume = read_volume(mixed / "mr" / "T1" / "slice", Role.MR)
    assert volume.grid.size == (4, 4, 8)
    assert volume.provenance.tags["SeriesInstanceUID"] == "1.2"
    with pytest.raises(InputError, match="RTSTRUCT objects, not a slice"):
        read_volume(mixed / "RS.dcm", Role.CT)
    with pytest.raises(InputError, match="is a scout"):
        read_volume(mixed / "scout00013.dcm", Role.CT)


def test_a_long_list_is_cut(dicom_series: ModuleType, tmp_path: Path) -> None:
    for uid in range(11):
        layout = dicom_series.Layout.regular(2, 2.0)
        dicom_series.write_series(tmp_path / str(uid), ramp(2), layout, "MR", uid=f"1.{uid + 1}")
    with pytest.raises(InputError, match=r"holds 11 DICOM series .* and 3 more"):
        read_volume(tmp_path, Role.MR)


def test_a_modality_that_is_no_role_needs_one(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(8, 2.0, tags={"Modality": "OT"})
    dicom_series.write_series(tmp_path, ramp(), layout)
    (series,) = list_series(tmp_path)
    with pytest.raises(InputError, match="neither MR, CT nor PET"):
        read_series(series)
    assert read_series(series, Role.MU_MAP).unit == Unit.PER_CM


def test_a_slice_without_a_series_is_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(8, 2.0)
    paths = dicom_series.write_series(
        tmp_path, ramp(), layout, change=lambda _, ds: delattr(ds, "SeriesInstanceUID")
    )
    with pytest.raises(InputError, match="no Series Instance UID"):
        read_volume(paths[0], Role.CT)


def test_two_patients_in_a_folder_are_never_mixed(dicom_series: ModuleType, tmp_path: Path) -> None:
    for patient, modality, uid in (("a", "CT", "1.1"), ("b", "MR", "1.2")):
        layout = dicom_series.Layout.regular(8, 2.0, tags={"PatientID": patient})
        dicom_series.write_series(tmp_path, ramp(), layout, modality, uid=uid, prefix=patient)
    with pytest.raises(InputError, match="2 DICOM series of 2 patients"):
        read_volume(tmp_path, Role.MR)
    assert read_volume(tmp_path, Role.MR, series="1.2").role == Role.MR


@pytest.mark.parametrize(
    ("kept", "said"),
    [([], "no DICOM files"), (["RS.dcm"], "RTSTRUCT"), (["scout00013.dcm", "notes.txt"], "scouts")],
)
def test_a_folder_without_series_is_refused(mixed: Path, kept: list[str], said: str) -> None:
    shutil.rmtree(mixed / "mr")
    for path in mixed.iterdir():
        if path.name not in kept:
            path.unlink()
    with pytest.raises(InputError, match=said):
        read_volume(mixed, Role.CT)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        list_series(tmp_path / "nowhere")


def test_damaged_files_are_refused_not_skipped(dicom_series: ModuleType, tmp_path: Path) -> None:
    paths = dicom_series.write_series(tmp_path, ramp(), dicom_series.Layout.regular(8, 2.0))
    whole = paths[-1].read_bytes()
    paths[-1].write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"pixels of the DICOM file .* are damaged"):
        read_volume(tmp_path, Role.CT)
    paths[-1].write_bytes(whole[:200])
    with pytest.raises(InputError, match="cut off"):
        read_volume(tmp_path, Role.CT)
    paths[-1].write_bytes(b"nothing of DICOM" * 20)
    with pytest.raises(InputError, match="named as DICOM and is not"):
        read_volume(tmp_path, Role.CT)


def test_a_listed_file_that_vanished_is_told(dicom_series: ModuleType, tmp_path: Path) -> None:
    paths = dicom_series.write_series(tmp_path, ramp(), dicom_series.Layout.regular(8, 2.0))
    (series,) = list_series(tmp_path)
    paths[2].unlink()
    with pytest.raises(InputError, match="is gone"):
        read_series(series)


# --- enhanced and compressed objects -------------------------------------------------------


def test_an_enhanced_object_reads_as_its_slices_would(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    row, column = ORIENTATIONS["oblique"]
    layout = dicom_series.Layout.regular(
        6, 2.5, (4, 5, 6), row=row, column=column, spacing=(0.7, 1.3), slopes=[0.1] * 3 + [0.2] * 3
    )
    stored = stored_field(layout)
    stored[3:] //= 2
    order = [3, 0, 5, 1, 4, 2]
    shuffled = dicom_series.Layout(
        layout.positions[order], row, column, layout.spacing, np.asarray(layout.slopes)[order]
    )
    dicom_series.write_enhanced(tmp_path / "frames.dcm", stored[order], shuffled)
    volume = read_volume(tmp_path / "frames.dcm", Role.MR)
    np.testing.assert_allclose(volume.array, field_at(points_of_voxels(volume)), atol=0.25)


def test_frames_at_one_place_are_refused(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout(
        np.repeat(dicom_series.Layout.regular(4, 2.0).positions, 2, axis=0)
    )

    def echo(index: int, group: pydicom.Dataset) -> None:
        times = pydicom.Dataset()
        times.EffectiveEchoTime = 2.5 * (1 + index % 2)
        group.MREchoSequence = pydicom.Sequence([times])

    dicom_series.write_enhanced(tmp_path / "echoes.dcm", ramp(8), layout, change=echo)
    with pytest.raises(InputError, match=r"EffectiveEchoTime \(2.5 and 5.0\)"):
        read_volume(tmp_path, Role.MR)


def test_run_length_compression_is_read(dicom_series: ModuleType, tmp_path: Path) -> None:
    layout = dicom_series.Layout.regular(5, 2.0, slopes=0.1)
    stored = stored_field(layout)
    dicom_series.write_series(
        tmp_path, stored, layout, change=lambda _, ds: ds.compress(RLELossless)
    )
    volume = read_volume(tmp_path, Role.CT)
    np.testing.assert_allclose(volume.array, stored * 0.1, atol=1e-3)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_compressed_slices_are_read(
    dicom_series: ModuleType, tmp_path: Path, compressor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """pydicom decodes these only with plug-ins; where they are absent GDCM does."""
    layout = dicom_series.Layout.regular(5, 2.0, slopes=2, intercepts=-1000)
    stored = np.random.default_rng(1).integers(0, 2000, (5, 16, 12)).astype(np.int16)
    for path, values in zip(
        dicom_series.write_series(tmp_path / "series", stored, layout), stored, strict=True
    ):
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(tmp_path / "compressed.dcm"))
        writer.Execute(sitk.GetImageFromArray(values[np.newaxis]))
        dataset, compressed = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "compressed.dcm")
        dataset["PixelData"] = compressed["PixelData"]
        syntax = compressed.file_meta.TransferSyntaxUID
        assert syntax.is_compressed
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    volume = read_volume(tmp_path / "series", Role.CT)
    np.testing.assert_array_equal(volume.array, 2 * stored - 1000)
    assert volume.grid.spacing_mm == (1.0, 1.0, 2.0)
    assert capfd.readouterr() == ("", "")


def _call_it_jpeg(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([b"no JPEG "])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)


def test_compression_that_nothing_decodes_is_refused(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    paths = dicom_series.write_series(tmp_path, ramp(), dicom_series.Layout.regular(8, 2.0))
    _call_it_jpeg(paths[3])
    with pytest.raises(InputError, match=r"compressed as JPEG Lossless.* cannot be decoded here"):
        read_volume(tmp_path, Role.CT)


def test_compressed_frames_that_pydicom_cannot_decode_are_refused(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "frames.dcm"
    dicom_series.write_enhanced(path, ramp(), dicom_series.Layout.regular(8, 2.0))
    _call_it_jpeg(path)
    with pytest.raises(InputError, match="several frames compressed"):
        read_volume(path, Role.MR)


# --- provenance ----------------------------------------------------------------------------


def test_provenance_names_the_scan_and_not_the_patient(
    dicom_series: ModuleType, tmp_path: Path
) -> None:
    tags = {
        "PatientID": "SECRET-1",
        "PatientName": "Secret^Name",
        "PatientBirthDate": "19700101",
        "PatientAge": "044Y",
        "KVP": 120,
        "ScanningSequence": ["GR", "IR"],
        "GantryDetectorTilt": 0.0,
    }
    layout = dicom_series.Layout.regular(8, 2.0, tags=tags)
    paths = dicom_series.write_series(tmp_path, ramp(), layout)
    first = read_volume(tmp_path, Role.CT).provenance
    assert first.tags["KVP"] == 120
    assert first.tags["PatientAge"] == "044Y"
    assert first.tags["ScanningSequence"] == ["GR", "IR"]
    assert first.tags["FrameOfReferenceUID"] == "1.2.3.4"
    assert first.tags["SourceFolder"] == str(tmp_path)
    assert first.sources[0].path == f"{tmp_path}#1.2.3.5"
    for secret in ("SECRET-1", "Secret", "19700101"):
        assert secret not in repr(first)
    paths[0].rename(tmp_path / "renamed.dcm")
    assert read_volume(tmp_path, Role.CT).provenance.sources == first.sources
    dataset = pydicom.dcmread(paths[1])
    dataset.PixelData = dataset.PixelData[::-1]
    dataset.save_as(paths[1])
    assert read_volume(tmp_path, Role.CT).provenance.sources != first.sources


def test_values_too_long_for_their_tag_are_read_without_a_warning(
    dicom_series: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = dicom_series.Layout.regular(3, 1.0, tags={"BodyPartExamined": "HEAD" * 9})
    with pytest.warns(UserWarning, match="value length"):
        dicom_series.write_series(tmp_path, ramp(3), layout)
    assert read_volume(tmp_path, Role.CT).provenance.tags["BodyPartExamined"] == "HEAD" * 9
    assert capfd.readouterr() == ("", "")


# --- real series ---------------------------------------------------------------------------


@pytest.mark.pack
@pytest.mark.parametrize(
    ("name", "role", "unit", "rounding"),
    [
        ("CT", Role.CT, Unit.HU, 1.01),
        ("MR_T1", Role.MR, Unit.ARBITRARY, 1.01),
        ("PET", Role.PET, Unit.SUV, 0.0011),
    ],
)
def test_a_real_series_agrees_with_itk_and_with_its_nifti(
    data_pack: Path, name: str, role: Role, unit: Unit, rounding: float
) -> None:
    folder = data_pack / "dicom" / "STS_014" / name
    volume = read_volume(folder, role)
    assert volume.unit == unit
    assert volume.provenance.steps == ()
    nifti = read_volume(data_pack / "sts" / "STS_014" / f"{role}.nii.gz", role)
    assert volume.grid.matches(nifti.grid)
    difference = volume.array.astype(np.float64) - nifti.array
    assert np.abs(difference).max() <= rounding  # the pack is rounded to even numbers, PET to 0.002
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "image")))
    itk = reader.Execute()
    assert volume.grid.matches(Grid.of(itk))
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(itk), atol=1e-5)


@pytest.mark.pack
def test_a_patient_folder_lists_its_three_series(data_pack: Path) -> None:
    listed = list_series(data_pack / "dicom" / "STS_014")
    assert [(s.modality, s.role, len(s.files)) for s in listed] == [
        ("CT", Role.CT, 65),
        ("MR", Role.MR, 65),
        ("PT", Role.PET, 65),
    ]

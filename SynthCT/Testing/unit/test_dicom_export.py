"""DICOM objects: valid, in place and with the right values for readers that are not ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.export.dicom_parametric import write_parametric_mu
from SynthCTLib.export.dicom_slices import write_ct_series, write_integer_mu
from SynthCTLib.export.dicom_study import placeholder_study, uid_of
from SynthCTLib.export.origin import Origin
from SynthCTLib.imaging.files import read_volume, reading_notes
from SynthCTLib.imaging.gate import inspect
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.volume import Grid, Role, Unit, Volume

FORMS = ("dicom", "dicom-pm", "dicom-int")
STUDY = placeholder_study("phantom", "key")
ORIGIN = Origin("phantom", "mr-to-ct", "uniform-body", "1")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
HALF_HU, HALF_INTEGER = 0.5, 0.5e-4
PATIENT = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller^Änne",
    "PatientID": "4711",
    "PatientBirthDate": "19700203",
    "PatientSex": "F",
    "PatientAge": "054Y",
    "PatientWeight": "61",
    "StudyDate": "20240131",
    "StudyTime": "101112",
    "StudyID": "77",
    "StudyDescription": "PET/MR head",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Who^Doctor",
    "SeriesDescription": "T1 MPRAGE",
    "BodyPartExamined": "HEAD",
    "PatientPosition": "HFS",
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "Biograph_mMR",
    "InstitutionName": "St. Elsewhere",
}


Program = Callable[[str], str]


def export(job: Path, form: str, folder: Path, *more: object) -> int:
    arguments = ["export", job, "--format", form, "-o", folder, "--quiet", *more]
    return run_command([str(a) for a in arguments])


def datasets(folder: Path) -> list[Dataset]:
    read = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    assert read
    return read


def elements(dataset: Dataset) -> Iterator[pydicom.DataElement]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item)


@pytest.fixture(scope="module")
def job(finished_job: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = finished_job.make_job(tmp_path_factory.mktemp("nifti") / "job")
    return made


@pytest.fixture(scope="module")
def source(dicom_series: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MR series that a job was made from."""
    folder: Path = tmp_path_factory.mktemp("source") / "T1"
    stored = np.random.default_rng(0).integers(0, 900, (16, 24, 20)).astype(np.int16)
    layout = dicom_series.Layout.regular(16, 9.0, (-70, -90, 310), spacing=(8.0, 7.0), tags=PATIENT)
    dicom_series.write_series(folder, stored, layout, "MR", uid="1.2.3.77")
    return folder


@pytest.fixture(scope="module")
def dicom_job(
    source: Path, finished_job: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    tags = read_volume(source, Role.MR).provenance.tags
    made: Path = finished_job.make_job(tmp_path_factory.mktemp("dicom") / "job", tags=tags)
    return made


# --- the validators ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["job", "dicom_job"])
def test_every_file_passes_the_validators_without_errors(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, program: Program
) -> None:
    """dciodvfy for each object, dcentvfy for all of them beside each other."""
    validator, entities = program("dciodvfy"), program("dcentvfy")
    for form in FORMS:
        assert export(request.getfixturevalue(which), form, tmp_path / form) == 0
    files = sorted(tmp_path.glob("*/*.dcm"))
    assert len(files) == 16 + 1 + 16
    for file in files:
        said = subprocess.run(
            [validator, "-new", file], capture_output=True, text=True, check=False
        )
        assert "Error" not in said.stdout + said.stderr, f"{file.name}: {said.stderr}"
    said = subprocess.run([entities, *files], capture_output=True, text=True, check=False)
    assert said.stdout + said.stderr == ""


@pytest.mark.parametrize(
    ("body_part", "laterality"), [("HEAD", ""), ("EXTREMITY", ""), ("LEG", "R"), ("", "")]
)
def test_sides_are_told_of_paired_parts_only(
    body_part: str, laterality: str, tmp_path: Path, finished_job: ModuleType, program: Program
) -> None:
    validator = program("dciodvfy")
    study = replace(STUDY, body_part=body_part, laterality=laterality)
    ct = finished_job.synthetic_ct(Grid((5, 6, 4), (30.0, 30.0, 40.0), (0, 0, 0), AXIAL))
    file = write_ct_series(ct, tmp_path, study, ORIGIN)[0]
    (map_file,) = write_parametric_mu(hu_to_mu(ct), tmp_path, study, ORIGIN)
    for path in (file, map_file):
        said = subprocess.run([validator, path], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr


def test_what_the_source_has_too_long_is_cut_aloud(
    job: Path, source: Path, tmp_path: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    validator = program("dciodvfy")
    changed = tmp_path / "source"
    changed.mkdir()
    for path in source.iterdir():
        dataset = pydicom.dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.StudyID = "A_STUDY_ID_OF_TWENTY"
            dataset.PatientName = "ONE_WORD"
            dataset.save_as(changed / path.name)
    for form in FORMS:
        arguments = ["export", job, "--format", form, "-o", tmp_path / form]
        assert run_command([str(a) for a in (*arguments, "--patient-from", changed)]) == 0
        assert "StudyID of the source has 20 characters" in capsys.readouterr().err
        file = next((tmp_path / form).glob("*.dcm"))
        assert pydicom.dcmread(file).StudyID == "A_STUDY_ID_OF_TW"
        said = subprocess.run([validator, file], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr


def test_the_validators_do_say_no(job: Path, tmp_path: Path, program: Program) -> None:
    validator, entities = program("dciodvfy"), program("dcentvfy")
    assert export(job, "dicom", tmp_path / "out") == 0
    files = sorted((tmp_path / "out").glob("*.dcm"))
    broken = pydicom.dcmread(files[0])
    del broken.PixelSpacing
    broken.PatientName = "Somebody^Else"
    broken.save_as(files[0])
    said = subprocess.run([validator, files[0]], capture_output=True, text=True, check=False)
    assert "Error" in said.stdout + said.stderr
    said = subprocess.run([entities, *files], capture_output=True, text=True, check=False)
    assert "PatientName" in said.stdout + said.stderr


# --- values and places, any geometry -------------------------------------------------------


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Any orientation, anisotropy and place, right- and left-handed; half of them not oblique."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turned = Rotation.random(random_state=rng).as_matrix() if draw(st.booleans()) else np.eye(3)
    direction = turned[:, rng.permutation(3)]
    if draw(st.booleans()):
        direction[:, draw(st.integers(0, 2))] *= -1
    size, (x, y, z) = rng.integers(5, 12, 3), rng.uniform(-900, 900, 3)
    spacing = rng.uniform(150, 300, 3) / size
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(x), float(y), float(z)),
        tuple(float(v) for v in direction.ravel()),
    )


def read_by_gdcm(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_same_place_and_values(
    image: sitk.Image, volume: Volume, scale: float, tolerance: float
) -> None:
    """Each voxel of the image lies on a voxel of the volume and has its value."""
    canonical = to_lps(volume).volume
    assert Grid.of(image).matches(canonical.grid, 1e-3)
    off = np.abs(sitk.GetArrayViewFromImage(image) * scale - canonical.array)
    assert off.max() <= tolerance


EXAMPLES = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@EXAMPLES
@given(grid=grids())
def test_ct_series_of_any_geometry(
    grid: Grid, tmp_path_factory: pytest.TempPathFactory, finished_job: ModuleType
) -> None:
    folder, ct = tmp_path_factory.mktemp("ct"), finished_job.synthetic_ct(grid)
    write_ct_series(ct, folder, STUDY, ORIGIN)
    assert_same_place_and_values(read_by_gdcm(folder), ct, 1.0, HALF_HU + 1e-3)
    ours = read_volume(folder, Role.CT)
    assert_same_place_and_values(ours.image, ct, 1.0, HALF_HU + 1e-3)
    assert ours.unit == Unit.HU


@EXAMPLES
@given(grid=grids())
def test_integer_mu_of_any_geometry(
    grid: Grid, tmp_path_factory: pytest.TempPathFactory, finished_job: ModuleType
) -> None:
    folder, mu = tmp_path_factory.mktemp("int"), hu_to_mu(finished_job.synthetic_ct(grid))
    write_integer_mu(mu, folder, STUDY, ORIGIN)
    # another reader shows the integers, ours applies the mapping
    assert_same_place_and_values(read_by_gdcm(folder), mu, 1e-4, HALF_INTEGER + 1e-7)
    ours = read_volume(folder, Role.MU_MAP)
    assert ours.unit == Unit.PER_CM
    assert_same_place_and_values(ours.image, mu, 1.0, HALF_INTEGER + 1e-7)


@EXAMPLES
@given(grid=grids())
def test_parametric_map_of_any_geometry(
    grid: Grid, tmp_path_factory: pytest.TempPathFactory, finished_job: ModuleType
) -> None:
    """By pydicom, frame by frame from the functional groups; then by our own reader."""
    folder, mu = tmp_path_factory.mktemp("pm"), hu_to_mu(finished_job.synthetic_ct(grid))
    write_parametric_mu(mu, folder, STUDY, ORIGIN)
    (dataset,) = datasets(folder)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = np.array(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, float
    ).reshape(2, 3)
    down, right = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    pixels = dataset.pixel_array
    for frame, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        first = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.ndindex(dataset.Rows, dataset.Columns):
            place = first + orientation[0] * column * right + orientation[1] * row * down
            index = mu.image.TransformPhysicalPointToIndex(place.tolist())
            assert pixels[frame, row, column] == mu.image[index]
    ours = read_volume(folder, Role.MU_MAP)
    assert_same_place_and_values(ours.image, mu, 1.0, 0.0)


@pytest.mark.parametrize("angle", [0.0, 17.0])
def test_dcmqi_and_simpleitk_read_the_parametric_map(
    angle: float, tmp_path: Path, finished_job: ModuleType, program: Program
) -> None:
    """ITK knows no parametric maps; dcmqi, the reader of 3D Slicer, hands them to it."""
    reader = program("paramap2itkimage")
    direction = Rotation.from_euler("xyz", [angle, angle / 2, -angle], degrees=True).as_matrix()
    grid = Grid((9, 10, 11), (8.0, 7.0, 9.0), (-70.0, -90.0, 310.0), tuple(direction.ravel()))
    mu = hu_to_mu(finished_job.synthetic_ct(grid))
    write_parametric_mu(mu, tmp_path, STUDY, ORIGIN)
    subprocess.run(
        [reader, "--inputDICOM", tmp_path / "mumap.dcm", "--outputDirectory", tmp_path, "-n", "x"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    image = sitk.ReadImage(str(tmp_path / "x-pmap.nrrd"))
    assert_same_place_and_values(image, mu, 1.0, 1e-7)


def test_slices_of_a_sagittal_acquisition_are_axial_and_not_interpolated(
    tmp_path: Path, finished_job: ModuleType
) -> None:
    """What planning systems ask for: rows to the left, columns to posterior, upward."""
    sagittal = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    ct = finished_job.synthetic_ct(Grid((24, 16, 20), (7.0, 9.0, 8.0), (-70, -90, 400), sagittal))
    write_ct_series(ct, tmp_path, STUDY, ORIGIN)
    read = datasets(tmp_path)
    assert {tuple(d.ImageOrientationPatient) for d in read} == {(1, 0, 0, 0, 1, 0)}
    heights = [float(d.ImagePositionPatient[2]) for d in read]
    assert heights == sorted(heights)
    assert [int(d.InstanceNumber) for d in read] == list(range(1, len(read) + 1))
    stored = np.stack([d.pixel_array for d in read])
    assert sorted(stored.ravel()) == sorted(np.rint(ct.array).ravel())


@pytest.mark.parametrize("form", FORMS)
def test_dcmtk_reads_the_same(form: str, job: Path, tmp_path: Path, program: Program) -> None:
    """dcmdump writes the raw pixels, dcm2xml the place."""
    dump, to_xml = program("dcmdump"), program("dcm2xml")
    assert export(job, form, tmp_path / "out") == 0
    file = max((tmp_path / "out").glob("*.dcm"))
    name, scale = ("ct", 1.0) if form == "dicom" else ("mumap", 1e-4)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(job / f"{name}.nii.gz")))
    if form == "dicom-pm":
        printed = subprocess.run([dump, "+L", file], check=True, capture_output=True, text=True)
        (line,) = re.findall(r"\(7fe0,0008\) OF (\S+)", printed.stdout)
        values = np.array(line.split("\\"), np.float32).reshape(16, 24, 20)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    else:
        raw = tmp_path / "raw"
        raw.mkdir()
        subprocess.run([dump, "+W", raw, file], check=True, capture_output=True)
        (pixels,) = raw.iterdir()
        stored = np.fromfile(pixels, "<i2" if form == "dicom" else "<u2").reshape(24, 20)
        assert np.abs(stored * scale - expected[-1]).max() <= 0.501 * scale
    text = subprocess.run([to_xml, file], check=True, capture_output=True, text=True).stdout
    assert 'name="ImagePositionPatient">-70.0\\-90.0\\445.0<' in text
    assert 'name="PixelSpacing">7.0\\8.0<' in text


def test_the_parametric_map_names_unit_and_quantity(job: Path, tmp_path: Path) -> None:
    assert export(job, "dicom-pm", tmp_path / "out") == 0
    (dataset,) = datasets(tmp_path / "out")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    mapping = shared.RealWorldValueMappingSequence[0]
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("/cm", "UCUM")
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator) == ("112031", "DCM")
    assert shared.FrameVOILUTSequence[0].VOILUTFunction == "LINEAR_EXACT"
    assert dataset.FloatPixelData


def test_the_integer_form_states_its_scale(job: Path, tmp_path: Path) -> None:
    assert export(job, "dicom-int", tmp_path / "out") == 0
    for dataset in datasets(tmp_path / "out"):
        assert "RescaleSlope" not in dataset  # tools that divide by 10000 would do it twice
        assert "divide by 10000" in dataset.ImageComments
        mapping = dataset.RealWorldValueMappingSequence[0]
        assert mapping.RealWorldValueSlope == 1e-4
        assert mapping.RealWorldValueLastValueMapped >= dataset.pixel_array.max()
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/cm"


def test_a_mapping_to_another_unit_is_no_mu_map(job: Path, tmp_path: Path) -> None:
    assert export(job, "dicom-int", tmp_path / "out") == 0
    for path in (tmp_path / "out").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "/mm"
        dataset.save_as(path)
    with pytest.raises(InputError, match="'/mm'"):
        read_volume(tmp_path / "out", Role.MU_MAP)


@pytest.mark.parametrize(("form", "role"), [("dicom", Role.CT), ("dicom-int", Role.MR)])
def test_the_gate_knows_them_as_synthetic(form: str, role: Role, job: Path, tmp_path: Path) -> None:
    assert export(job, form, tmp_path / "out") == 0
    assert "image.synthetic" in {f.rule for f in inspect(read_volume(tmp_path / "out", role))}


def test_a_ct_that_no_model_made_is_not_called_synthetic(
    tmp_path: Path, finished_job: ModuleType
) -> None:
    scanned = Volume(finished_job.synthetic_ct().image, Role.CT, Unit.HU)
    write_ct_series(scanned, tmp_path, STUDY, Origin())
    assert {d.SeriesDescription for d in datasets(tmp_path)} == {"SynthCT CT"}


# --- whose they are ------------------------------------------------------------------------


def test_patient_study_and_frame_are_those_of_the_source(
    dicom_job: Path, source: Path, tmp_path: Path
) -> None:
    original = datasets(source)[0]
    uids = set()
    for form in FORMS:
        assert export(dicom_job, form, tmp_path / form) == 0
        for dataset in datasets(tmp_path / form):
            for keyword in PATIENT.keys() - {
                "SeriesDescription",
                "Manufacturer",
                "ManufacturerModelName",
                "InstitutionName",
            }:
                assert dataset[keyword].value == original[keyword].value, keyword
            assert dataset.StudyInstanceUID == original.StudyInstanceUID
            assert dataset.FrameOfReferenceUID == original.FrameOfReferenceUID
            assert dataset.SeriesInstanceUID != original.SeriesInstanceUID
            assert "InstitutionName" not in dataset
            uids.add(dataset.SeriesInstanceUID)
    assert len(uids) == len(FORMS)


def test_scanner_and_source_images_are_told_and_not_taken_on(
    dicom_job: Path, source: Path, tmp_path: Path
) -> None:
    instances = {d.SOPInstanceUID for d in datasets(source)}
    for form in FORMS:
        assert export(dicom_job, form, tmp_path / form) == 0
        dataset = datasets(tmp_path / form)[0]
        assert dataset.Manufacturer == "SynthCT"
        made, scanned = dataset.ContributingEquipmentSequence
        assert made.ManufacturerModelName == "SynthCT"
        assert "uniform-body" in made.ContributionDescription
        assert "not for diagnosis" in made.ContributionDescription
        assert (scanned.Manufacturer, scanned.ManufacturerModelName) == ("SIEMENS", "Biograph_mMR")
        (series,) = dataset.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == "1.2.3.77"
        assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == instances
        holder = dataset
        if form == "dicom-pm":
            holder = dataset.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0]
        assert len(holder.SourceImageSequence) == 16
        assert "carney-120" in dataset.ContributingEquipmentSequence[0].ContributionDescription or (
            form == "dicom"
        )


def test_a_multi_frame_source_is_one_reference(
    finished_job: ModuleType, dicom_series: ModuleType, tmp_path: Path
) -> None:
    stored = np.random.default_rng(0).integers(0, 900, (16, 24, 20)).astype(np.int16)
    tags = {**PATIENT, "SOPInstanceUID": "1.2.3.80"}
    layout = dicom_series.Layout.regular(16, 9.0, (-70, -90, 310), spacing=(8.0, 7.0), tags=tags)
    (tmp_path / "mr").mkdir()
    dicom_series.write_enhanced(tmp_path / "mr" / "1.dcm", stored, layout)
    read = read_volume(tmp_path / "mr", Role.MR).provenance.tags
    folder = finished_job.make_job(tmp_path / "job", tags=read)
    assert export(folder, "dicom", tmp_path / "out") == 0
    dataset = datasets(tmp_path / "out")[0]
    assert dataset.PatientID == "4711"
    (reference,) = dataset.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.3.80"
    assert pydicom.uid.UID(reference.ReferencedSOPClassUID).name == "Enhanced MR Image Storage"


def test_without_dicom_they_are_nobodys_and_say_so(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(job), "--format", "dicom", "-o", str(tmp_path / "dicom")]
    assert run_command(arguments) == 0
    assert "research placeholders" in capsys.readouterr().err
    assert export(job, "dicom-pm", tmp_path / "pm") == 0
    ct, pm = datasets(tmp_path / "dicom")[0], datasets(tmp_path / "pm")[0]
    assert str(ct.PatientName) == "RESEARCH PLACEHOLDER^phantom"
    assert ct.PatientID == "RESEARCH-phantom"
    assert ct.PatientBirthDate == ct.PatientSex == ""
    assert ct.PatientIdentityRemoved == "YES"
    # and still one study in one frame, so that viewers overlay them
    assert ct.StudyInstanceUID == pm.StudyInstanceUID
    assert ct.FrameOfReferenceUID == pm.FrameOfReferenceUID
    assert "ReferencedSeriesSequence" not in pm


def test_placeholders_on_request_name_neither_patient_nor_study(
    dicom_job: Path, source: Path, tmp_path: Path
) -> None:
    original = datasets(source)[0]
    for form in FORMS:
        assert export(dicom_job, form, tmp_path / form, "--placeholders") == 0
        for path in (tmp_path / form).glob("*.dcm"):
            content = path.read_bytes()
            for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate"):
                value = str(original[keyword].value).encode()
                assert value not in content.replace(b"2.25", b"") or len(value) < 6, keyword
            assert b"ller" not in content
            assert pydicom.dcmread(path).FrameOfReferenceUID != original.FrameOfReferenceUID


@pytest.mark.parametrize("which", ["job", "dicom_job"])
def test_uids_are_the_standards_the_sources_or_uuids(
    which: str, request: pytest.FixtureRequest, source: Path, tmp_path: Path
) -> None:
    known = {str(e.value) for d in datasets(source) for e in elements(d) if e.VR == "UI"}
    made = []
    for form in FORMS:
        assert export(request.getfixturevalue(which), form, tmp_path / form) == 0
        for dataset in datasets(tmp_path / form):
            for element in (*elements(dataset), *elements(dataset.file_meta)):
                uid = str(element.value)
                if element.VR == "UI" and not uid.startswith("1.2.840.10008.") and uid not in known:
                    assert uid.startswith("2.25."), element.keyword
                    assert int(uid[5:]) < 2**128
                    made.append(uid)
            assert pydicom.uid.UID(dataset.SOPInstanceUID).is_valid
    assert len(made) > 100


def test_names_give_the_same_uid_again() -> None:
    assert uid_of("study", "a") == uid_of("study", "a") != uid_of("study", "b")


def test_a_source_that_is_gone_is_no_reason_to_guess(
    finished_job: ModuleType, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    tags = read_volume(moved, Role.MR).provenance.tags
    folder = finished_job.make_job(tmp_path / "job", tags=tags)
    elsewhere = moved.rename(tmp_path / "elsewhere")
    assert export(folder, "dicom", tmp_path / "out") == 2
    assert "--patient-from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    moved.mkdir()
    shutil.copy(next(elsewhere.iterdir()), moved)
    change = pydicom.dcmread(next(moved.iterdir()))
    change.SeriesInstanceUID = "1.2.3.78"
    change.save_as(next(moved.iterdir()))
    assert export(folder, "dicom", tmp_path / "out") == 2
    assert "not in" in capsys.readouterr().err
    assert export(folder, "dicom", tmp_path / "out", "--patient-from", elsewhere) == 0
    assert datasets(tmp_path / "out")[0].PatientID == "4711"


def test_the_patient_of_a_nifti_can_be_named_by_a_series(
    job: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", job, "--format", "dicom", "-o", tmp_path / "out"]
    assert run_command([str(a) for a in (*arguments, "--patient-from", source)]) == 0
    assert "taken for granted" in capsys.readouterr().err
    assert str(datasets(tmp_path / "out")[0].PatientName) == "Müller^Änne"
    two = tmp_path / "two"
    shutil.copytree(source, two / "a")
    other = pydicom.dcmread(next(source.iterdir()))
    other.SeriesInstanceUID, other.SOPInstanceUID = "1.2.3.79", "1.2.3.79.1"
    (two / "b").mkdir()
    other.save_as(two / "b" / "1.dcm")
    assert export(job, "dicom", tmp_path / "two_out", "--patient-from", two) == 2
    assert "2 DICOM series" in capsys.readouterr().err


def test_a_source_without_frame_of_reference_is_refused(
    job: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in source.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(tmp_path / path.name)
    assert export(job, "dicom", tmp_path / "out", "--patient-from", tmp_path) == 2
    assert "FrameOfReferenceUID" in capsys.readouterr().err


# --- what is refused -----------------------------------------------------------------------


def test_each_writer_takes_its_own_kind_only(tmp_path: Path, finished_job: ModuleType) -> None:
    ct = finished_job.synthetic_ct()
    mu = hu_to_mu(ct)
    with pytest.raises(InputError, match="from a CT"):
        write_ct_series(mu, tmp_path, STUDY, ORIGIN)
    with pytest.raises(InputError, match="needs HU"):
        write_ct_series(Volume(ct.image, Role.CT, Unit.ARBITRARY), tmp_path, STUDY, ORIGIN)
    with pytest.raises(InputError, match="16 bits"):
        write_ct_series(ct.with_array(ct.array * 100), tmp_path, STUDY, ORIGIN)
    writers: tuple[Callable[..., object], ...] = (write_parametric_mu, write_integer_mu)
    for write in writers:
        with pytest.raises(InputError, match="needs 1/cm"):
            write(ct, tmp_path, STUDY, ORIGIN)
        with pytest.raises(InputError, match="1/mm"):
            write(mu.with_array(mu.array * np.float32(0.1)), tmp_path, STUDY, ORIGIN)
        with pytest.raises(InputError, match="CT in HU"):
            write(Volume(ct.image, Role.MU_MAP, Unit.PER_CM), tmp_path, STUDY, ORIGIN)
        with pytest.raises(OutputError, match="cannot be written"):
            write(mu, tmp_path / "nowhere", STUDY, ORIGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "options", "says"),
    [
        ("nifti", ["--placeholders"], "for DICOM"),
        ("dicom", ["--placeholders", "--patient-from", "x"], "exclude each other"),
        ("dicom", ["--fwhm", "5"], "dicom-pm or dicom-int"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    form: str,
    options: list[str],
    says: str,
    job: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(job, form, tmp_path / "out", *options) == 2
    assert says in capsys.readouterr().err


def test_reading_a_parametric_map_needs_no_assumption(job: Path, tmp_path: Path) -> None:
    assert export(job, "dicom-pm", tmp_path / "out") == 0
    assert reading_notes(read_volume(tmp_path / "out", Role.MU_MAP)) == ()

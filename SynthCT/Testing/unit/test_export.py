"""Export: what is written opens elsewhere with the same values in the same place, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from small_models import write_model

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.export.formats import Format
from SynthCTLib.export.images import write_images
from SynthCTLib.export.origin import Origin
from SynthCTLib.export.parcel import is_untouched, packing
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.gate import inspect
from SynthCTLib.resources import resource
from SynthCTLib.volume import Grid, Role, Unit, Volume, sha256_of
from SynthCTLib.workflow.finished import FinishedJob

IMAGE_FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd", "metaimage": ".mha"}
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def export(job: Path, form: str, folder: Path, *more: object) -> int:
    arguments = ["export", job, "--format", form, "-o", folder, "--quiet", *more]
    return run_command([str(a) for a in arguments])


@st.composite
def oblique_grids(draw: st.DrawFn) -> Grid:
    """Head-sized grids of any orientation, anisotropy and place, right- and left-handed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    direction = Rotation.random(random_state=rng).as_matrix()[:, rng.permutation(3)]
    if draw(st.booleans()):
        direction[:, draw(st.integers(0, 2))] *= -1
    size = rng.integers(5, 14, 3)
    spacing = rng.uniform(150, 300, 3) / size
    x, y, z = (float(v) for v in rng.uniform(-900, 900, 3))
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (x, y, z),
        tuple(float(v) for v in direction.ravel()),
    )


@pytest.fixture(scope="module")
def job(finished_job: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = finished_job.make_job(tmp_path_factory.mktemp("job") / "job")
    return made


# --- NIfTI, NRRD, MetaImage ----------------------------------------------------------------


@pytest.mark.parametrize(("form", "suffix"), IMAGE_FORMATS.items())
def test_image_formats_hold_float32_with_unit_and_synthetic_in_header_and_sidecar(
    form: str, suffix: str, job: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert export(job, form, folder) == 0
    names = {"ct", "ct_coverage", "mumap"}
    assert {p.name for p in folder.iterdir()} == (
        {f"{n}{suffix}" for n in names} | {f"{n}.json" for n in names} | {"export.json"}
    )
    for name, unit in (("ct", "HU"), ("mumap", "1/cm")):
        image = sitk.ReadImage(str(folder / f"{name}{suffix}"))
        assert image.GetPixelID() == sitk.sitkFloat32
        assert f"unit={unit} synthetic" in image.GetMetaData("ITK_FileNotes")
        sidecar = json.loads((folder / f"{name}.json").read_text())
        assert sidecar["unit"] == unit
        assert sidecar["synthetic"] is True
        assert sidecar["grid"]["size"] == list(image.GetSize())
    assert is_untouched(folder)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(grid=oblique_grids())
@pytest.mark.parametrize("suffix", IMAGE_FORMATS.values())
def test_image_formats_keep_values_and_places_of_any_geometry(
    suffix: str, grid: Grid, tmp_path_factory: pytest.TempPathFactory, finished_job: ModuleType
) -> None:
    folder = tmp_path_factory.mktemp("images")
    ct = finished_job.synthetic_ct(grid)
    write_images({"ct": ct}, suffix, folder, Origin())
    again = read_volume(folder / f"ct{suffix}", Role.CT)
    assert again.grid.matches(grid, 1e-3)
    np.testing.assert_array_equal(again.array, ct.array)
    if suffix == ".nii.gz":  # an independent reader
        image = nibabel.load(folder / "ct.nii.gz")
        assert isinstance(image, nibabel.Nifti1Image)
        np.testing.assert_allclose(LPS_OF_RAS @ image.affine, grid.index_to_world, atol=1e-3)
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, ct.array)


def test_sidecar_tells_the_convention_the_model_and_the_source_but_not_the_patient(
    job: Path, tmp_path: Path
) -> None:
    assert export(job, "nifti", tmp_path / "out") == 0
    text = (tmp_path / "out" / "mumap.json").read_text()
    sidecar = json.loads(text)
    assert sidecar["convention"]["name"] == "carney-120"
    assert sidecar["convention"]["kvp"] == 120
    assert sidecar["energy_kev"] == 511
    assert sidecar["model"] == "uniform-body"
    assert sidecar["sources_sha256"] == ["ab" * 32]
    assert [s["name"] for s in sidecar["steps"]] == ["choose_series", "synthesize", "hu_to_mu"]
    assert "Miller" not in text
    assert "/home" not in text


def test_export_names_the_weights_of_a_model_of_the_users_own(tmp_path: Path) -> None:
    """They are those that the run used, whatever lies in the folder of models afterwards."""
    models = tmp_path / "models"
    mine = write_model(models, "mine", output={"scale": 10.0, "offset": 40.0, "high": 100.0})
    weights = sha256_of(mine / "weights.safetensors")
    head = resource("SampleData", "adult_t1_1.6mm_neck.nii.gz")
    run = [
        "run",
        "--mr",
        str(head),
        "--model",
        "mine",
        "--models",
        str(models),
        "--no-bias-correction",
    ]
    assert run_command([*run, "-o", str(tmp_path / "job"), "--quiet"]) == 0
    shutil.rmtree(models)
    assert export(tmp_path / "job", "nifti", tmp_path / "out") == 0
    sidecar = json.loads((tmp_path / "out" / "ct.json").read_text())
    assert sidecar["model_files_sha256"] == {"weights.safetensors": weights}


def test_exported_images_are_recognised_as_synthetic_by_the_gate(job: Path, tmp_path: Path) -> None:
    assert export(job, "nrrd", tmp_path / "out") == 0
    ct = read_volume(tmp_path / "out" / "ct.nrrd", Role.CT)
    assert "image.synthetic" in {finding.rule for finding in inspect(ct)}


def test_an_image_that_no_model_made_is_not_marked(
    tmp_path: Path, finished_job: ModuleType
) -> None:
    ct = finished_job.synthetic_ct()
    scanned = Volume(ct.image, Role.CT, Unit.HU)
    write_images({"ct": scanned}, ".nrrd", tmp_path, Origin())
    again = read_volume(tmp_path / "ct.nrrd", Role.CT)
    assert not again.provenance.is_synthetic
    assert "image.synthetic" not in {finding.rule for finding in inspect(again)}


def test_the_image_put_to_the_test_in_an_evaluation_is_exported_as_synthetic(
    tmp_path: Path, finished_job: ModuleType
) -> None:
    folder = finished_job.make_job(tmp_path / "job", task=None)
    job = FinishedJob.open(folder)
    assert job.volume("ct").provenance.is_synthetic
    assert not job.volume("ct_coverage").provenance.tags


# --- the folder ----------------------------------------------------------------------------


def test_a_second_export_needs_overwrite_and_leaves_nothing_of_the_first(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert export(job, "nifti", folder) == 0
    assert export(job, "nrrd", folder) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "ct.nii.gz").is_file()
    assert export(job, "nrrd", folder, "--overwrite") == 0
    assert not list(folder.glob("*.nii.gz"))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_files_is_never_replaced(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert export(job, "nifti", folder) == 0
    (folder / "thesis.docx").write_text("three years of work")
    assert export(job, "nifti", folder, "--overwrite") == 2
    assert "other files" in capsys.readouterr().err
    assert (folder / "thesis.docx").read_text() == "three years of work"


@pytest.mark.parametrize("place", ["", "/.."])
def test_the_job_itself_is_not_written_over(place: str, job: Path) -> None:
    before = sorted(p.name for p in job.iterdir())
    assert export(job, "nifti", Path(f"{job}{place}").resolve()) == 2
    assert sorted(p.name for p in job.iterdir()) == before


def test_a_failure_while_packing_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with packing(tmp_path / "out", {}) as staged:
            (staged / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"), packing(tmp_path / "file/out", {}):
        pytest.fail("nothing can be packed there")
    with pytest.raises(InputError, match="is a file"), packing(tmp_path / "file", {}):
        pytest.fail("nothing can be packed there")


@pytest.mark.parametrize("form", list(Format))
def test_a_full_disk_is_said_in_one_sentence_and_leaves_nothing(
    form: Format,
    job: Path,
    disk: Callable[[str], AbstractContextManager[Path]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with disk("size=16k") as small:
        assert export(job, form, small / "out") == 2
        said = capfd.readouterr().err
        assert len(said.splitlines()) == 1
        assert "free some space or choose another disk" in said
        assert f" {small}/out" in said  # and not where it is written before it gets its name
        assert list(small.iterdir()) == []


def test_an_altered_export_is_noticed(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert export(job, "nifti", folder) == 0
    (folder / "ct.json").write_text("{}")
    assert not is_untouched(folder)


# --- jobs that cannot be exported ----------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda job: (job / "result.json").unlink(), "no finished job"),
        (lambda job: (job / "result.json").write_text("{}"), "run the job again"),
        (lambda job: (job / "mumap.nii.gz").unlink(), "gone or not the one"),
        (lambda job: (job / "ct.nii.gz").write_bytes(b"altered"), "gone or not the one"),
    ],
    ids=["unfinished", "foreign", "missing", "altered"],
)
def test_unsound_jobs_are_refused_and_nothing_is_left(
    spoil: object,
    says: str,
    tmp_path: Path,
    finished_job: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = finished_job.make_job(tmp_path / "job")
    assert callable(spoil)
    spoil(folder)
    assert export(folder, "nifti", tmp_path / "out") == 2
    assert says in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["job"]

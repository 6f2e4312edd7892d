"""The command line on real images and on everything that is not one."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import Cancelled, OutputError
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.imaging.grids import isotropic_grid, resample
from SynthCTLib.progress import ProgressEvent
from SynthCTLib.registration import read_transform, write_transform
from SynthCTLib.resources import resource
from SynthCTLib.volume import Role
from SynthCTLib.workflow.folder import JobFolder
from SynthCTLib.workflow.request import JobRequest
from SynthCTLib.workflow.run import run_job

HEAD = resource("SampleData", "adult_t1_1.6mm_neck.nii.gz")
LIMB_MR = resource("SampleData", "STS_014", "mr.nii.gz")
LIMB_CT = resource("SampleData", "STS_014", "ct.nii.gz")
Disk = Callable[[str], contextlib.AbstractContextManager[Path]]


def synthct(*arguments: object) -> int:
    return run_command([str(a) for a in arguments])


@pytest.fixture(scope="module")
def limb_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limb") / "job"
    code = synthct(
        "run", "--mr", LIMB_MR, "--reference-ct", LIMB_CT, "--model", "uniform-body", "-o", folder
    )
    assert code == 0
    return folder


def test_run_with_a_reference_makes_everything_it_promises(limb_job: Path) -> None:
    result = json.loads((limb_job / "result.json").read_text())
    for name in ("ct", "ct_coverage", "mumap", "reference_ct", "difference", "masks/body"):
        assert (limb_job / result["outputs"][name]["path"]).is_file()
    assert result["registration"]["converged"]
    fit = result["registration"]["fit"]
    assert 0 <= fit["repeat_mm"] < 2.0
    assert fit["places"] > 5
    assert fit["near_bone"]
    assert (limb_job / "transforms" / "mr_to_reference.h5").is_file()
    assert not (limb_job / "work").exists()
    mr, ct = sitk.ReadImage(str(LIMB_MR)), sitk.ReadImage(str(limb_job / "ct.nii.gz"))
    assert ct.GetSize() == mr.GetSize()
    np.testing.assert_allclose(ct.GetOrigin(), mr.GetOrigin(), atol=1e-4)


def test_effect_on_pet_is_told_by_default_with_a_usual_activity(limb_job: Path) -> None:
    """Bone is missing from the synthetic CT, so that a PET is too low there."""
    pet = json.loads((limb_job / "metrics.json").read_text())["pet"]
    assert pet["kind"] == "difference"
    assert "not a PET of this patient" in pet["activity"]
    rows = {row["mask"]: row for row in pet["masks"]}
    assert rows["bone"]["mean_percent"] < -10
    assert abs(rows["soft_tissue"]["mean_percent"]) < 5
    assert 0 <= rows["body"]["beyond"]["15"] <= rows["body"]["beyond"]["5"] <= 1
    image = sitk.ReadImage(str(limb_job / "pet_difference.nii.gz"))
    values = sitk.GetArrayFromImage(image)
    assert np.abs(values[values != 0]).mean() == pytest.approx(rows["body"]["mae_percent"], rel=0.1)
    assert "Effect on a PET" in (limb_job / "report.html").read_text(encoding="utf-8")


def test_effect_on_the_pet_given(limb_job: Path, tmp_path: Path) -> None:
    ct = limb_job / "reference_ct.nii.gz"
    pair = ("--reference", ct, "--synthetic", limb_job / "ct.nii.gz", "--anatomy", "body")
    quick = ("--registration", "none", "--quiet")
    body = sitk.ReadImage(str(limb_job / "masks" / "body.nii.gz"), sitk.sitkFloat32)
    pet = sitk.SmoothingRecursiveGaussian(sitk.BinShrink(body, [4, 4, 1]), 6.0)
    sitk.WriteImage(pet, str(tmp_path / "pet.nii.gz"))
    given = ("--pet", tmp_path / "pet.nii.gz")
    assert synthct("evaluate", *pair, *quick, *given, "-o", tmp_path / "given") == 0
    found = json.loads((tmp_path / "given" / "metrics.json").read_text())["pet"]
    assert found["activity"] == "the PET given"


def test_a_pet_in_bq_per_ml_is_taken_where_that_is_said(
    limb_job: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ct = limb_job / "reference_ct.nii.gz"
    body = sitk.ReadImage(str(limb_job / "masks" / "body.nii.gz"), sitk.sitkFloat32)
    pet = sitk.SmoothingRecursiveGaussian(sitk.BinShrink(body, [4, 4, 1]), 6.0) * 3000.0
    sitk.WriteImage(pet, str(tmp_path / "pet.nii.gz"))
    asked = (
        *("evaluate", "--reference", ct, "--synthetic", limb_job / "ct.nii.gz"),
        *("--anatomy", "body", "--registration", "none", "--quiet"),
        *("--pet", tmp_path / "pet.nii.gz", "-o", tmp_path / "e"),
    )
    assert "it is in Bq/ml or no PET" in refused(capfd, *asked)
    assert "'HU' is not one of" in refused(capfd, *asked, "--pet-unit", "HU")
    assert synthct(*asked, "--pet-unit", "Bq/ml") == 0
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())["pet"]
    assert found["activity"] == "the PET given"


def test_one_of_several_series_of_the_reference_is_chosen(
    tmp_path: Path, dicom_series: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    made = _of_the_sample(tmp_path, "ct")
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(made))).round().astype(np.int16)
    x, y, z = sitk.ReadImage(str(made)).GetOrigin()
    layout = dicom_series.Layout.regular(len(stored), 6.0, (x, y, z), spacing=(6.0, 6.0))
    for uid in ("1.2", "1.3"):
        dicom_series.write_series(tmp_path / "study" / uid, stored, layout, "CT", uid=uid)
    asked = (
        *("evaluate", "--reference", tmp_path / "study", "--synthetic", made),
        *("--anatomy", "body", "--registration", "none", "--no-pet-effect", "--quiet"),
        *("-o", tmp_path / "e"),
    )
    said = refused(capfd, *asked)
    assert "more than one fits" in said
    assert "or give a file of it" in said
    assert "none is '9.9'" in refused(capfd, *asked, "--reference-series", "9.9")
    assert synthct(*asked, "--reference-series", "1.3") == 0
    sources = json.loads((tmp_path / "e" / "result.json").read_text())["provenance"]
    assert sources["reference_ct"]["tags"]["SeriesInstanceUID"] == "1.3"


def _bent_limb(folder: Path) -> tuple[Path, Path, Path]:
    """MR, CT of the same limb bent by 10 mm, and the CT that lies on the MR."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in (32, 56, 56)), indexing="ij")
    thick = 1 + 0.3 * np.cos(z / 31 * 2.6 * np.pi)

    def limb(shift: np.ndarray) -> np.ndarray:
        r = np.hypot(y - 28, 0.9 * (x - 28 - shift)) / thick
        kinds = np.select([r < 2.5, r < 6, r < 14, r < 18], [4, 3, 2, 1], 0)
        return np.where((np.abs(y - 40) < 2) & (kinds == 2), 1, kinds)

    straight, bent = limb(np.zeros(z.shape)), limb(5 * np.sin(z / 31 * np.pi))
    noise = np.random.default_rng(1).normal(0, 5, z.shape)
    hu = np.float32([-1000, -100, 50, 1200, 100])
    paths = []
    for name, values in (
        ("mr", np.maximum(0, np.float32([0, 800, 300, 50, 750])[straight] + noise)),
        ("ct", hu[bent] + noise),
        ("made", hu[straight] + noise),
    ):
        image = sitk.GetImageFromArray(values.astype(np.float32))
        image.SetSpacing((2.0, 2.0, 4.0))
        image.SetOrigin((3.0, -2.0, 5.0) if name == "ct" else (0.0, 0.0, 0.0))
        paths.append(folder / f"{name}.nii.gz")
        sitk.WriteImage(image, str(paths[-1]))
    return paths[0], paths[1], paths[2]


def test_what_bent_between_the_scans_is_followed_where_that_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The synthetic CT is the true one: what a rigid registration leaves is no error of its."""
    mr, ct, made = _bent_limb(tmp_path)
    pair = ("evaluate", "--reference", ct, "--synthetic", made, "--anatomy", "body")
    quick = ("--no-pet-effect", "--no-remove-table", "--threads", 1, "--quiet")
    deformable = ("--registration", "deformable")
    said = refused(capfd, *pair, *quick, *deformable, "-o", tmp_path / "no")
    assert "needs the mr" in said
    assert not (tmp_path / "no").exists()
    pair += ("--mr", mr)
    assert synthct(*pair, *quick, "-o", tmp_path / "rigid") == 0
    folder = tmp_path / "deformable"
    assert synthct(*pair, *quick, *deformable, "-o", folder) == 0
    rigid, found = (_result(tmp_path / name)["registration"] for name in ("rigid", "deformable"))
    assert (rigid["kind"], rigid["bending"]) == ("rigid", None)
    assert rigid["fit"]["misfit_share"] > 0.2
    assert "one rigid movement does not fit" in rigid["suspicions"][0]
    assert (found["kind"], found["bending"]["control_mm"]) == ("deformable", 15)
    assert 2 < found["bending"]["moved_mm"] < found["bending"]["most_moved_mm"] < 10
    assert found["fit"]["repeat_mm"] == rigid["fit"]["repeat_mm"]
    assert found["fit"]["misfit_share"] < 0.1
    assert found["suspicions"] == []
    assert any("was deformed onto the MR" in note for note in _result(folder)["notes"])
    assert "by a deformable transform" in (folder / "report.html").read_text(encoding="utf-8")
    assert body_mae(folder) < 0.5 * body_mae(tmp_path / "rigid")


def _result(job: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job / "result.json").read_text())
    return content


def test_a_pet_of_elsewhere_is_refused(
    limb_job: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ct = limb_job / "reference_ct.nii.gz"
    pet = sitk.Cast(sitk.ReadImage(str(limb_job / "masks" / "body.nii.gz")), sitk.sitkFloat32)
    pet.SetOrigin([5000.0, 0.0, 0.0])
    sitk.WriteImage(sitk.SmoothingRecursiveGaussian(pet, 6.0), str(tmp_path / "pet.nii.gz"))
    pair = ("--reference", ct, "--synthetic", ct, "--anatomy", "body", "--registration", "none")
    said = refused(
        capfd,
        *("evaluate", *pair, "--pet", tmp_path / "pet.nii.gz", "-o", tmp_path / "e", "--quiet"),
    )
    assert "do not meet" in said
    assert_nothing_made(tmp_path / "e")


def test_figures_are_those_of_the_files(limb_job: Path) -> None:
    """MAE and mean error anew, by plain numpy, from the images that were written."""
    figures = json.loads((limb_job / "metrics.json").read_text())["evaluation"]
    body = next(row for row in figures["masks"] if row["mask"] == "body")

    def values(name: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(limb_job / f"{name}.nii.gz")))

    inside = (values("masks/body") > 0) & (values("masks/scanned") > 0)
    error = (values("ct") - values("reference_ct"))[inside]
    assert body["voxels"] == inside.sum()
    assert body["mae_hu"] == pytest.approx(np.abs(error).mean(), abs=0.01)
    assert body["mean_error_hu"] == pytest.approx(error.mean(), abs=0.01)


def test_mu_map_holds_water_where_there_is_tissue(limb_job: Path) -> None:
    mu = sitk.GetArrayFromImage(sitk.ReadImage(str(limb_job / "mumap.nii.gz")))
    assert mu.max() == pytest.approx(0.0408 + 5.64e-5 * 1040, abs=1e-5)  # 40 HU, Carney 140 kVp
    assert mu.min() == 0


def test_evaluating_a_ct_against_itself_finds_no_error(limb_job: Path, tmp_path: Path) -> None:
    ct = limb_job / "reference_ct.nii.gz"
    code = synthct(
        "evaluate", "--reference", ct, "--synthetic", ct, "--anatomy", "body", "-o", tmp_path / "e"
    )
    assert code == 0
    rows = json.loads((tmp_path / "e" / "metrics.json").read_text())["evaluation"]["masks"]
    assert next(r for r in rows if r["mask"] == "body")["dice_bone"] > 0.99


def test_a_reference_on_another_grid_is_resampled_and_this_is_said_and_recorded(
    limb_job: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made, ct = limb_job / "ct.nii.gz", limb_job / "reference_ct.nii.gz"
    coarse = sitk.Shrink(sitk.ReadImage(str(ct)), [2, 2, 1])
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nii.gz"))
    common = ("--synthetic", made, "--anatomy", "body", "--registration", "none", "--no-pet-effect")
    for name, reference, expected in (
        ("same", ct, []),
        ("other", tmp_path / "coarse.nii.gz", ["reference_ct"]),
    ):
        folder = tmp_path / name
        assert synthct("evaluate", "--reference", reference, *common, "-o", folder) == 0
        figures = json.loads((folder / "metrics.json").read_text())
        assert (figures["resampled"], figures["pet"]) == (expected, None)  # --no-pet-effect
        assert not (folder / "pet_difference.nii.gz").exists()
        told = "was resampled onto the grid of the synthetic CT"
        assert (told in capfd.readouterr().err) == bool(expected)
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert ("interpolated onto the grid of the synthetic CT" in page) == bool(expected)
    kept, given = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in (tmp_path / "same" / "reference_ct.nii.gz", ct)
    )
    # Removing the table sets what lies outside the body to -1000 HU; the body is left alone.
    body = kept > -900
    assert body.mean() > 0.1
    np.testing.assert_array_equal(kept[body], given[body])


def test_a_given_mask_gets_a_row(limb_job: Path, tmp_path: Path) -> None:
    ct = limb_job / "reference_ct.nii.gz"
    pair = ("--reference", ct, "--synthetic", limb_job / "ct.nii.gz", "--anatomy", "body")
    lesion = limb_job / "masks" / "bone.nii.gz"
    code = synthct(
        "evaluate", *pair, "--registration", "none", "--mask", f"lesion={lesion}",
        "-o", tmp_path / "e",
    )  # fmt: skip
    assert code == 0
    rows = json.loads((tmp_path / "e" / "metrics.json").read_text())["evaluation"]["masks"]
    figures = {row["mask"]: row for row in rows}
    assert list(figures) == ["body", "bone", "soft_tissue", "air", "lesion"]
    assert figures["lesion"]["voxels"] > 0


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ("lesion", "is not NAME=FILE"),
        ("lesion=/nowhere.nii.gz", "There is no file /nowhere.nii.gz (mask lesion)"),
        ("skull=/nowhere.nii.gz", "the mask skull is made by SynthCT"),
        ("My Mask=/nowhere.nii.gz", "options.masks"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(
    mask: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ("--reference", LIMB_CT, "--synthetic", LIMB_CT, "--anatomy", "body")
    assert synthct("evaluate", *pair, "--mask", mask, "-o", tmp_path / "e") == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_worker_does_the_same_as_the_command_line(limb_job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copy(limb_job / "job.json", folder)
    done = subprocess.run(
        [sys.executable, "-m", "SynthCTLib.worker", str(folder)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert body_mae(folder) == pytest.approx(body_mae(limb_job), abs=0.5)


def body_mae(job: Path) -> float:
    rows = json.loads((job / "metrics.json").read_text())["evaluation"]["masks"]
    return float(next(row for row in rows if row["mask"] == "body")["mae_hu"])


def test_mumap_and_register_write_files(tmp_path: Path) -> None:
    assert synthct("mumap", "--ct", LIMB_CT, "-o", tmp_path / "mu.nii.gz", "--fwhm", "5") == 0
    mu = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mu.nii.gz")))
    assert 0.09 < np.median(mu[mu > 0.05]) < 0.105
    assert synthct("register", "--fixed", LIMB_MR, "--moving", LIMB_CT, "-o", tmp_path / "r") == 0
    moved = sitk.ReadImage(str(tmp_path / "r" / "moved.nii.gz"))
    assert moved.GetSize() == sitk.ReadImage(str(LIMB_MR)).GetSize()


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    assert synthct("models", "list", "--json") == 0
    names = [card["name"] for card in json.loads(capsys.readouterr().out)]
    assert names[0] == "head-unet"  # the default first
    assert synthct("models", "show", "atlas-fusion") == 0
    assert "simulated" in capsys.readouterr().out
    assert synthct("models", "verify") == 0
    assert synthct("doctor", "--json") == 0
    assert "ready" in capsys.readouterr().out


# Bad input: each ends with exit code 2 and one sentence, and nothing half-written.

Maker = Callable[[Path], Path]


def _image(path: Path, change: Callable[[sitk.Image], sitk.Image]) -> Path:
    sitk.WriteImage(change(sitk.ReadImage(str(LIMB_MR))), str(path))
    return path


def _missing(folder: Path) -> Path:
    return folder / "absent.nii.gz"


def _no_dicom(folder: Path) -> Path:
    (folder / "series").mkdir()
    (folder / "series" / "readme.txt").write_text("nothing here")
    return folder / "series"


def _truncated(folder: Path) -> Path:
    path = folder / "cut.nii.gz"
    path.write_bytes(LIMB_MR.read_bytes()[:100_000])
    return path


def _png(folder: Path) -> Path:
    sitk.WriteImage(sitk.Image(32, 32, sitk.sitkUInt8) + 7, str(folder / "photo.png"))
    return folder / "photo.png"


def _flat(folder: Path) -> Path:
    return _image(folder / "flat.nii.gz", lambda i: i[:, :, 20])


def _series(folder: Path) -> Path:
    return _image(folder / "many.nii.gz", lambda i: sitk.JoinSeries([i, i]))


def _zero(folder: Path) -> Path:
    return _image(folder / "zero.nii.gz", lambda i: i * 0)


def _with(value: float) -> Maker:
    def make(folder: Path) -> Path:
        def change(image: sitk.Image) -> sitk.Image:
            image = sitk.Cast(image, sitk.sitkFloat32)
            image[90, 70, 30] = value
            return image

        return _image(folder / "odd.nii.gz", change)

    return make


def _one_slice(folder: Path) -> Path:
    return _image(folder / "slice.nii.gz", lambda i: i[:, :, 20:21])


def _vector(folder: Path) -> Path:
    return _image(folder / "vector.nii.gz", lambda i: sitk.Compose(i, i, i))


def _ct(folder: Path) -> Path:
    del folder
    return LIMB_CT


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing, "no file"),
        (_no_dicom, "DICOM"),
        (_truncated, "cut.nii.gz"),
        (_png, "photo.png"),
        (_flat, "flat.nii.gz"),
        (_series, "many.nii.gz"),
        (_zero, "zero"),
        (_with(float("nan")), "NaN"),
        (_with(float("inf")), "odd.nii.gz"),
        (_one_slice, "slice"),
        (_vector, "component"),
        (_ct, "CT"),
    ],
)
def test_bad_mr_is_refused_in_one_sentence(
    make: Maker, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make(tmp_path)
    out = tmp_path / "out"
    code = synthct("run", "--mr", source, "--model", "uniform-body", "-o", out, "--quiet")
    said = capfd.readouterr().err.strip()
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    assert words.lower() in said.lower()
    assert_nothing_made(out)


@pytest.mark.parametrize(
    "make", [_missing, _truncated, _png, _zero, _with(float("nan")), _one_slice, _vector]
)
@pytest.mark.parametrize("command", ["mumap", "register", "evaluate", "run"])
def test_every_command_refuses_a_bad_ct_in_one_sentence(
    command: str, make: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = make(tmp_path), tmp_path / "out"
    arguments = {
        "mumap": ("--ct", source, "-o", out / "mu.nii.gz"),
        "register": ("--fixed", LIMB_MR, "--moving", source, "-o", out),
        "evaluate": ("--reference", source, "--synthetic", LIMB_CT, "--anatomy", "body", "-o", out),
        "run": (
            *("--mr", LIMB_MR, "--reference-ct", source, "--model", "uniform-body"),
            *("-o", out),
        ),
    }[command]
    refused(capfd, command, *arguments, "--quiet")
    assert_nothing_made(out)


def _of_the_sample(folder: Path, name: str, away_mm: float = 0.0) -> Path:
    """An image of the sample, with voxels of 6 mm, so far from its place."""
    role = Role.MR if name == "mr" else Role.CT
    volume = read_volume(resource("SampleData", "STS_014", f"{name}.nii.gz"), role)
    image = sitk.Image(resample(volume, isotropic_grid(volume.grid, 6.0)).image)
    image.SetOrigin([x + away_mm for x in image.GetOrigin()])
    write_volume(volume.with_image(image), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def test_images_that_do_not_meet_are_refused_where_they_are_not_registered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mr, ct = _of_the_sample(tmp_path, "mr"), _of_the_sample(tmp_path, "ct", away_mm=2000.0)
    said = refused(
        capfd,
        *("run", "--mr", mr, "--reference-ct", ct, "--model", "uniform-body"),
        *("--registration", "none", "-o", tmp_path / "out", "--quiet"),
    )
    assert "overlap" in said or "meet" in said
    assert_nothing_made(tmp_path / "out")


@pytest.mark.parametrize(
    "stage",
    [
        *("Reading", "Checking the inputs", "Synthesising with uniform-body", "Masks"),
        *("Removing the table", "Keeping the reference where it is", "Resampling the reference"),
        *("Computing the figures", "Effect on PET", "Writing the results", "Writing the report"),
    ],
)
def test_a_run_can_be_stopped_at_every_stage(stage: str, tmp_path: Path) -> None:
    """Asked to stop as the stage begins; the stages of a registration have tests of their own."""
    inputs = {"mr": ("mr", 0.0), "reference_ct": ("ct", 0.0)}
    request = JobRequest.model_validate(
        {
            "task": "mr-to-ct",
            "model": "uniform-body",
            "inputs": {k: {"path": _of_the_sample(tmp_path, *v)} for k, v in inputs.items()},
            "options": {"threads": 1, "registration": "none", "bias_correction": False},
        }
    )
    job = JobFolder.create(tmp_path / "out", request)
    begun = False

    def listen(event: ProgressEvent) -> None:
        nonlocal begun
        begun = begun or event.stage == stage

    with pytest.raises(Cancelled) as stopped:
        run_job(job, listen, lambda: begun)
    assert stopped.value.exit_code == 3
    assert_nothing_made(job.path)


def assert_nothing_made(folder: Path) -> None:
    left = {p.name for p in folder.rglob("*")} if folder.exists() else set()
    assert left <= {"job.json", "log.txt", "progress.jsonl"}


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = synthct(*arguments)
    said = capfd.readouterr().err.strip()
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    return said


def test_reference_of_another_body_part_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refused(
        capfd,
        *("run", "--mr", HEAD, "--reference-ct", LIMB_CT, "--model", "uniform-body"),
        *("-o", out, "--quiet"),
    )
    assert_nothing_made(out)


def _elsewhere(image: sitk.Image) -> sitk.Image:
    image.SetOrigin([5000.0, 0.0, 0.0])
    return image


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_elsewhere, "do not meet"),
        (lambda ct: sitk.Clamp((ct + 1000.0) * 9.6e-5, lowerBound=0.0), "looks like a µ-map"),
        (lambda ct: ct + 1024.0, "1024"),  # raw numbers: the rescale intercept was lost
        (lambda ct: (sitk.Clamp(ct, upperBound=1000.0) + 1024.0) / 2024.0, "scaled"),
    ],
)
def test_a_reference_that_is_no_ct_of_the_same_place_is_refused(
    change: Callable[[sitk.Image], sitk.Image],
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / "wrong.nii.gz"
    sitk.WriteImage(change(sitk.ReadImage(str(LIMB_CT), sitk.sitkFloat32)), str(wrong))
    out = tmp_path / "out"
    for pair in (("--reference", wrong, "--synthetic", LIMB_CT),
                 ("--reference", LIMB_CT, "--synthetic", wrong)):  # fmt: skip
        said = refused(
            capfd, "evaluate", *pair, "--anatomy", "body", "--registration", "none", "-o", out,
            "--quiet",
        )  # fmt: skip
        assert words in said.lower()
        assert_nothing_made(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "no-such-model"), "no-such-model"),
        (("--model", "../atlas-fusion"), "is no name"),
        (("--subject", "../../x"), "subject"),
        (("--convention", "carney-7"), "carney-7"),
        (("--device", "cuda:7"), "cuda:7"),
        (("--device", "tpu"), "device"),
        (("--registration", "magic"), "registration"),
        (("--ct", str(LIMB_CT)), "exactly one"),
        (("--sharpness", "9"), "--sharpness"),
        (("--transform", "/no/such.h5", "--reference-ct", str(LIMB_CT)), "such.h5"),
    ],
)
def test_bad_request_is_refused_in_one_sentence(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = () if "--model" in arguments else ("--model", "uniform-body")
    out = tmp_path / "out"
    said = refused(capfd, "run", "--mr", LIMB_MR, *model, "-o", out, "--quiet", *arguments)
    assert words in said
    assert_nothing_made(out)


def test_output_that_is_a_file_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    said = refused(capfd, "run", "--mr", LIMB_MR, "-o", tmp_path / "out", "--quiet")
    assert "cannot be written" in said
    assert (tmp_path / "out").read_text() == "mine"


def test_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    with disk("ro") as small:
        said = refused(capfd, "run", "--mr", LIMB_MR, "-o", small / "out", "--quiet")
        assert "cannot be written" in said


def test_full_disk_leaves_no_part_of_a_registration(
    tmp_path: Path, disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is room for the transform, and none for the image."""
    mr, ct = _of_the_sample(tmp_path, "mr"), _of_the_sample(tmp_path, "ct")
    with disk("size=100k") as small:
        (small / "mine.txt").write_text("mine")
        out = small / "out"
        said = refused(capfd, "register", "--fixed", mr, "--moving", ct, "-o", out, "--quiet")
        assert f"{out}/moved.nii.gz cannot be written" in said
        assert not out.exists()
        assert (small / "mine.txt").read_text() == "mine"


def test_full_disk_is_said_of_a_transform_and_hdf5_is_silent(
    tmp_path: Path, disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    transform = sitk.Euler3DTransform()
    with disk("size=16k") as small:
        with pytest.raises(OutputError, match="has room"):
            write_transform(transform, small / "transform.h5")
        assert list(small.iterdir()) == []
    with disk("size=64k") as small:
        write_transform(transform, small / "transform.h5")
        assert read_transform(small / "transform.h5").IsLinear()
    assert capfd.readouterr().err == ""


def test_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    with disk("size=300k") as small:
        out = small / "out"
        said = refused(
            capfd, "run", "--mr", LIMB_MR, "--model", "uniform-body", "-o", out, "--quiet"
        )
        assert "full" in said
        assert_nothing_made(out)


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGTERM, "Reading"),
        (signal.SIGINT, "Correcting the bias field"),
        (signal.SIGTERM, "Registering the reference"),
        (signal.SIGTERM, "Writing the report"),
    ],
)
def test_interrupted_run_leaves_no_result(number: int, stage: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "import sys; from SynthCTLib.cli.main import run_command; "
    program += "sys.exit(run_command(sys.argv[1:]))"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", program, "run", "--mr", str(LIMB_MR)),
            *("--reference-ct", str(LIMB_CT), "--model", "uniform-body", "-o", str(out), "--quiet"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_stage(process, out / "progress.jsonl", stage)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert len(said.strip().splitlines()) == 1
    assert_nothing_made(out)


STOPPED_WHILE_LOADING = """
import os, signal, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            exec("os.kill(os.getpid(), NUMBER)")  # as dataclasses do while modules are loaded

NUMBER, MODULE = int(sys.argv.pop(1)), sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
sys.meta_path.insert(0, Stop())
from SynthCTLib.cli.start import main
main()
"""


@pytest.mark.parametrize("module", ["SynthCTLib.cli.main", "scipy", "SynthCTLib.workflow.run"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_library_is_loaded_ends_as_any_other(
    number: int, module: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_LOADING, str(int(number)), module, "run", "--mr",
         str(LIMB_MR), "--model", "uniform-body", "-o", str(out), "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert_nothing_made(out)


def wait_for_stage(process: subprocess.Popen[str], events: Path, stage: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if events.exists() and f'"{stage}"' in events.read_text():
            return
        time.sleep(0.01)
    pytest.fail(f"The stage {stage!r} never came.")


def test_mumap_adds_the_table_and_refuses_it_on_another_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, table, both = (tmp_path / f"{name}.nrrd" for name in ("alone", "table", "both"))
    assert synthct("mumap", "--ct", LIMB_CT, "-o", alone, "--quiet") == 0
    image = sitk.ReadImage(str(alone))
    plate = sitk.Image(image) * 0
    plate[:, -2:, :] = 0.13
    sitk.WriteImage(plate, str(table))
    assert synthct("mumap", "--ct", LIMB_CT, "--add", table, "-o", both, "--quiet") == 0
    added = sitk.GetArrayFromImage(sitk.ReadImage(str(both))) - sitk.GetArrayFromImage(image)
    np.testing.assert_allclose(added, sitk.GetArrayFromImage(plate), atol=1e-6)
    plate.SetOrigin([x + 1 for x in plate.GetOrigin()])
    sitk.WriteImage(plate, str(table))
    refused = tmp_path / "refused.nrrd"
    assert synthct("mumap", "--ct", LIMB_CT, "--add", table, "-o", refused, "--quiet") == 2
    assert "resample one onto the other" in capsys.readouterr().err
    assert not refused.exists()

"""Slice-wise models and virtual PET: geometry, fusion, memory, and whole runs by name."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from dicom_series import Layout, write_series
from pydantic import TypeAdapter
from safetensors.torch import save_file

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import Cancelled, InputError, MissingModel
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.imaging.grids import isotropic_grid, resample
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.resources import resource
from SynthCTLib.synthesis import triplanar
from SynthCTLib.synthesis.blending import blended
from SynthCTLib.synthesis.codebook_use import codebook_use
from SynthCTLib.synthesis.engines import OutOfMemory
from SynthCTLib.synthesis.fusion import Fusion
from SynthCTLib.synthesis.own_models import import_model
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.synthesis.synthesizer import ModelCard, Synthesis
from SynthCTLib.synthesis.triplanar import SliceModel, TriplanarSettings, TriplanarSynthesizer
from SynthCTLib.synthesis.virtual_pet import VirtualPetSettings, VirtualPetSynthesizer, mixed
from SynthCTLib.volume import Role, Unit, Volume, sha256_of
from SynthCTLib.workflow.finished import FinishedJob

MACHINE = Machine(threads=1)
SUV = {"scale": 10.0, "offset": 10.0, "low": 0.0, "high": 20.0}
WINDOW = {"method": "fixed", "limits": [-160, 240], "centred": True}


@pytest.fixture(scope="module")
def patient() -> dict[Role, Volume]:
    """The shipped thigh, real MR and CT, at 5 mm, and a PET made up on the CT's grid."""
    images = {}
    for role in (Role.MR, Role.CT):
        image = read_volume(resource("SampleData", "STS_014", f"{role}.nii.gz"), role)
        images[role] = resample(image, isotropic_grid(image.grid, 5.0))
    hu = images[Role.CT].array
    suv = np.where(hu > -300, 0.6, 0.0).astype("f4")
    z, y, x = (n // 2 for n in suv.shape)
    suv[z - 2 : z + 3, y - 3 : y + 3, x - 3 : x + 3] = 6.0
    suv += 0.02 * np.abs(np.random.default_rng(0).normal(size=suv.shape)).astype("f4")
    pet = images[Role.CT].with_array(suv, role=Role.PET, unit=Unit.SUV)
    image = sitk.SmoothingRecursiveGaussian(pet.image, 5.0)
    images[Role.PET] = Volume(image, Role.PET, Unit.SUV)
    images[Role.NAC_PET] = Volume(image * 0.3, Role.NAC_PET, Unit.ARBITRARY)
    return images


def card(task: str, family: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "own",
        "title": "For tests",
        "version": "1",
        "task": task,
        "licence": "none",
        "architecture": {"family": family, "settings": settings},
        "preprocessing": [],
        "training_data": [],
        "measured_accuracy": [],
        "limits": ["Knows nothing of uptake."],
        "tested": {"anatomy": "body"},
        "citation": [],
    }


class Function(torch.nn.Module):
    """A network that is a function of slices (n, channels, 1, rows, columns)."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], multiple: int = 1) -> None:
        super().__init__()
        self.function, self.side_multiple = function, multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class InMemory(SliceModel):
    """A slice model with networks made in the test."""

    networks: dict[str, torch.nn.Module]

    def open_network(self, weights: str) -> torch.nn.Module:
        return self.networks[weights]


def model(*networks: torch.nn.Module, task: str = "ct-to-pet", **changes: Any) -> Any:
    names = [f"fold{n}.safetensors" for n in range(len(networks))]
    settings = {
        "network": "none",
        "weights": names,
        "preparation": WINDOW,
        "output": SUV,
        "working_mm": 5.0,
    } | changes
    made = TriplanarSynthesizer(
        ModelCard.model_validate(card(task, "triplanar", settings)),
        TypeAdapter(TriplanarSettings).validate_python(settings),
        MACHINE,
    )
    inner = InMemory(made.card, made.settings, MACHINE)
    inner.networks = dict(zip(names, networks, strict=True))
    made.models = (inner,)
    return made


def made(synthesizer: Any, source: Volume, progress: Progress | None = None) -> Synthesis:
    answer: Synthesis = synthesizer.synthesize({source.role: source}, progress or Progress())
    return answer


IDENTITY = Function(lambda x: x)


def test_a_network_that_changes_nothing_gives_the_prepared_input(
    patient: dict[Role, Volume],
) -> None:
    ct = patient[Role.CT]
    answer = made(model(IDENTITY), ct)
    assert answer.volume.role == Role.PET
    assert answer.volume.unit == Unit.SUV
    assert answer.volume.grid.matches(ct.grid)
    # -160..240 HU became -1..1 and so 0..20 SUV, on the CT's own voxels.
    expected = (ct.array.clip(-160, 240) + 160) / 20
    inside = answer.volume.array > 1e-3
    assert inside.mean() > 0.3
    np.testing.assert_allclose(answer.volume.array[inside], expected[inside], atol=2e-3)
    assert (answer.volume.array[ct.array < -900] == 0).all()
    assert answer.coverage.array.all()
    # All three planes say the same.
    assert answer.uncertainty is not None
    assert answer.uncertainty.unit == Unit.SUV
    assert answer.uncertainty.array.max() < 1e-5


@pytest.mark.parametrize("code", ["RAS", "SLP", "PIR", "ARI"])
def test_the_order_of_axes_changes_nothing(patient: dict[Role, Volume], code: str) -> None:
    ct = patient[Role.CT]
    # A network that is not symmetric, so that a wrong turn would show.
    slanted = Function(lambda x: x + torch.linspace(0, 0.2, x.shape[-1]) - 0.1)
    turned = ct.with_image(sitk.DICOMOrient(ct.image, code))
    one = made(model(slanted), ct).volume
    two = made(model(slanted), turned).volume
    assert two.grid.matches(turned.grid)
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(two.image, "LPS"))
    np.testing.assert_allclose(
        back, sitk.GetArrayFromImage(sitk.DICOMOrient(one.image, "LPS")), atol=1e-4
    )


def test_each_axis_answers_its_own_slices(patient: dict[Role, Volume]) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        seen.setdefault("shapes", set()).add(tuple(x.shape[2:]))
        return x

    answer = made(model(Function(note)), patient[Role.CT])
    z, y, x = answer.facts["canvas"]
    assert seen["shapes"] == {(1, y, x), (1, z, x), (1, z, y)}


def test_planes_are_fused_as_the_card_says(patient: dict[Role, Volume]) -> None:
    """A network whose answer depends on the plane alone: 2, 4 and 12 SUV."""
    ct = patient[Role.CT]
    z, y, x = made(model(IDENTITY), ct).facts["canvas"]
    levels = {(y, x): -0.8, (z, x): -0.6, (z, y): 0.2}
    network = Function(lambda v: torch.full_like(v, levels[tuple(v.shape[-2:])]))
    for fusion, suv in ((Fusion.MEDIAN, 4.0), (Fusion.MEAN, 6.0), (Fusion.AGREEING, 3.0)):
        answer = made(model(network, fusion=fusion), ct)
        inside = answer.volume.array > 1e-3
        np.testing.assert_allclose(answer.volume.array[inside], suv, rtol=1e-4)
    assert answer.uncertainty is not None
    spread = np.std([2, 4, 12])
    np.testing.assert_allclose(answer.uncertainty.array.max(), spread, rtol=1e-4)


def test_folds_are_answers_too(patient: dict[Role, Volume]) -> None:
    low, high = (Function(lambda x, v=v: torch.full_like(x, v)) for v in (-0.9, -0.5))
    answer = made(model(low, high, axes=["z"], fusion="mean"), patient[Role.CT])
    inside = answer.volume.array > 1e-3
    np.testing.assert_allclose(answer.volume.array[inside], 3.0, rtol=1e-4)


def test_slices_are_padded_to_what_the_network_takes_and_cut_again(
    patient: dict[Role, Volume],
) -> None:
    def check(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] % 64 == x.shape[-2] % 64 == 0
        return x

    one = made(model(Function(check, 64)), patient[Role.CT]).volume.array
    np.testing.assert_allclose(one, made(model(IDENTITY), patient[Role.CT]).volume.array, atol=1e-5)


def test_the_range_of_the_card_is_kept(patient: dict[Role, Volume]) -> None:
    wild = Function(lambda x: x * 50)
    values = made(model(wild), patient[Role.CT]).volume.array
    assert values.min() == 0
    assert values.max() == 20


def test_less_memory_means_fewer_slices_at_once_and_is_said(
    patient: dict[Role, Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class Narrow:
        def predict(self, patches: np.ndarray, corners: object) -> np.ndarray:
            sizes.append(len(patches))
            if len(patches) > 2:
                raise OutOfMemory
            return patches

    monkeypatch.setattr(triplanar, "open_engine", lambda *a: Narrow())
    told: list[ProgressEvent] = []
    answer = made(model(IDENTITY, axes=["z"]), patient[Role.CT], Progress(told.append))
    assert sizes[:4] == [8, 4, 2, 2]
    assert [e.message for e in told if e.note] == list(answer.facts["fallbacks"])
    assert len(answer.facts["fallbacks"]) == 2

    class Full:
        def predict(self, patches: np.ndarray, corners: object) -> np.ndarray:
            raise OutOfMemory

    monkeypatch.setattr(triplanar, "open_engine", lambda *a: Full())
    with pytest.raises(InputError, match="not even for one slice"):
        made(model(IDENTITY), patient[Role.CT])


def test_a_request_to_stop_is_obeyed(patient: dict[Role, Volume]) -> None:
    with pytest.raises(Cancelled):
        made(model(IDENTITY), patient[Role.CT], Progress(is_cancelled=lambda: True))


def test_a_missing_input_is_named(patient: dict[Role, Volume]) -> None:
    with pytest.raises(InputError, match="role ct"):
        model(IDENTITY).synthesize({Role.MR: patient[Role.MR]}, Progress())


# Codebook


def test_the_perplexity_is_how_many_codes_are_used_evenly() -> None:
    assert codebook_use(np.array([5, 5, 5, 5])).perplexity == pytest.approx(4)
    one = codebook_use(np.array([9, 0, 0, 0]))
    assert (one.used, one.codes) == (1, 4)
    assert one.perplexity == pytest.approx(1)
    assert one.collapsed
    uneven = codebook_use(np.array([3, 1]))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert uneven.perplexity == pytest.approx(np.exp(entropy))
    broad = np.zeros(8192, int)
    broad[:17] = 1
    assert not codebook_use(broad).collapsed
    broad[15:] = 0
    assert codebook_use(broad).collapsed
    assert "collapsed" in codebook_use(broad).sentence


def test_the_use_of_the_codebook_is_told(patient: dict[Role, Volume]) -> None:
    torch.manual_seed(0)
    network = build_network("vq_model", {"channels": [4, 4], "groups": 2, "codes": 8})
    told: list[ProgressEvent] = []
    answer = made(model(network, axes=["z"]), patient[Role.CT], Progress(told.append))
    (use,) = answer.facts["codebook"]
    assert use["codes"] == 8
    assert 1 <= use["used"] <= 8
    assert any("of its 8 codes" in event.message for event in told)
    network.quantize.embedding.weight.data[1:] = 1e6  # one code is nearest to everything
    collapsed: list[ProgressEvent] = []
    answer = made(model(network, axes=["z"]), patient[Role.CT], Progress(collapsed.append))
    assert answer.facts["codebook"][0]["used"] == 1
    assert any("collapsed" in event.message for event in collapsed)


# Virtual PET


def virtual_pet(fcn: torch.nn.Module, gan: torch.nn.Module, **changes: Any) -> Any:
    part = {"network": "none", "preparation": WINDOW, "output": SUV, "axes": ["z"]}
    settings = {
        "fcn": {**part, "weights": ["fcn.safetensors"]},
        "gan": {**part, "weights": ["gan.safetensors"]},
        "place": {"working_mm": 5.0},
    } | changes
    synthesizer = VirtualPetSynthesizer(
        ModelCard.model_validate(card("ct-to-pet", "virtual_pet", settings)),
        TypeAdapter(VirtualPetSettings).validate_python(settings),
        MACHINE,
    )
    for inner, network in zip(synthesizer.models, (fcn, gan), strict=True):
        inner.open_network = lambda weights, n=network: n  # type: ignore[method-assign]
    return synthesizer


def test_the_fcn_is_taken_where_it_is_hot_and_the_gan_elsewhere(
    patient: dict[Role, Volume],
) -> None:
    ct = patient[Role.CT]
    # Bone at 240 HU and more becomes 20 SUV, the rest at most 1; the GAN says 2 SUV everywhere.
    fcn = Function(lambda x: torch.where(x > 0.98, x, torch.full_like(x, -0.9)))
    gan = Function(lambda x: torch.full_like(x, -0.8))
    synthesizer = virtual_pet(fcn, gan)
    answer = made(synthesizer, ct)
    assert answer.facts["mask_ml"] > 10
    assert answer.uncertainty is None
    work = synthesizer.settings.place.view(ct)
    lesions, looks = (
        np.where(work.region, m.answer(work, Progress()).values, 0).astype("f4")
        for m in synthesizer.models
    )
    expected = np.where(work.kept, blended(lesions, looks, lesions > 2.5).clip(0, 20), 0)
    np.testing.assert_allclose(
        answer.volume.array, work.onto_input(expected.astype("f4"), 0.0, cubic=True), atol=1e-5
    )
    assert answer.volume.array.max() > 10


def test_what_a_network_says_outside_the_body_does_not_reach_inside() -> None:
    body = np.zeros((2, 64, 64), bool)
    body[:, 16:48, 16:48] = True
    hot, looks = np.full(body.shape, 1.0, "f4"), np.full(body.shape, 0.5, "f4")
    hot[:, 28:36, 28:36] = 6.0
    settings = TypeAdapter(VirtualPetSettings).validate_python(
        {part: {"network": "none", "weights": ["w"], "output": SUV} for part in ("fcn", "gan")}
    )
    clean, mask = mixed(np.where(body, hot, 0), np.where(body, looks, 0), body, settings)
    wild, again = mixed(np.where(body, hot, 20), np.where(body, looks, 20), body, settings)
    np.testing.assert_array_equal(wild, clean)
    np.testing.assert_array_equal(again, mask)
    assert mask.sum() == 2 * 8 * 8


def test_without_anything_hot_the_gan_alone_is_seen(patient: dict[Role, Volume]) -> None:
    cold = Function(lambda x: torch.full_like(x, -0.8))  # 2 SUV: below 2.5
    gan = Function(lambda x: torch.full_like(x, 0.5))
    answer = made(virtual_pet(cold, gan), patient[Role.CT])
    inside = answer.volume.array > 1e-3
    np.testing.assert_allclose(answer.volume.array[inside], 15.0, rtol=1e-4)
    assert answer.facts["mask_ml"] == 0


# Whole runs by name, with models of random weights in a folder of the user's own


PIX2PIX = {"channels": [4, 8, 8], "bounded": False}


def write_weights(folder: Path, file: str, network: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(4)
    made = build_network(network, settings)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / file)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    vq = {"channels": [4, 4], "groups": 2, "codes": 16}
    fcn = {"channels": [2, 2, 2, 2, 2], "hidden": 4}
    pix2pix = {
        "network": "pix2pix_unet",
        "network_settings": PIX2PIX,
        "preparation": {"method": "robust", "centred": True},
        "output": SUV,
        "axes": ["z"],
    }
    hu = {"scale": 1000.0, "offset": 0.0, "low": -1000.0, "high": 2000.0}
    contents = {
        "my-mr2pet": (
            "mr-to-pet",
            "triplanar",
            {**pix2pix, "weights": ["gan.safetensors"], "working_mm": 5.0},
        ),
        "my-vq": (
            "nac-pet-to-ct",
            "triplanar",
            {
                "network": "vq_model",
                "network_settings": vq,
                "weights": ["vq.safetensors"],
                "preparation": {"method": "robust", "power": 0.5, "centred": True},
                "output": hu,
                "working_mm": 5.0,
            },
        ),
        "my-virtual-pet": (
            "ct-to-pet",
            "virtual_pet",
            {
                "fcn": {
                    "network": "fcn4s",
                    "network_settings": fcn,
                    "weights": ["fcn.safetensors"],
                    "preparation": WINDOW,
                    "output": SUV,
                    "axes": ["z"],
                },
                "gan": {**pix2pix, "weights": ["gan.safetensors"], "preparation": WINDOW},
                "place": {"working_mm": 5.0},
            },
        ),
    }
    for name, (task, family, settings) in contents.items():
        place = folder / name
        place.mkdir()
        if name == "my-vq":
            write_weights(place, "vq.safetensors", "vq_model", vq)
        else:
            write_weights(place, "gan.safetensors", "pix2pix_unet", PIX2PIX)
        if name == "my-virtual-pet":
            write_weights(place, "fcn.safetensors", "fcn4s", fcn)
        files = {p.name: sha256_of(p) for p in sorted(place.iterdir())}
        content = card(task, family, settings) | {"name": name, "files": files}
        (place / "card.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def files(patient: dict[Role, Volume], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("patient")
    for role, image in patient.items():
        write_volume(image, folder / f"{role}.nii.gz")
    return {str(role): folder / f"{role}.nii.gz" for role in patient}


def run(*arguments: object) -> int:
    return run_command([str(a) for a in ("run", *arguments)])


@pytest.mark.parametrize(
    ("option", "role", "name"), [("--mr", "mr", "my-mr2pet"), ("--ct", "ct", "my-virtual-pet")]
)
def test_a_pet_is_made_by_the_name_of_the_model(
    option: str,
    role: str,
    name: str,
    files: dict[str, Path],
    models_dir: Path,
    tmp_path: Path,
) -> None:
    code = run(
        option, files[role], "--model", name, "--models", models_dir, "--reference-pet",
        files["pet"], "--no-bias-correction", "--no-remove-table",
        "-o", tmp_path / "job", "--quiet",
    )  # fmt: skip
    assert code == 0
    job = FinishedJob.open(tmp_path / "job")
    pet = job.volume("pet")
    assert (pet.role, pet.unit) == (Role.PET, Unit.SUV)
    assert pet.grid.matches(read_volume(files[role], Role(role)).grid)
    assert job.result.model == name
    assert not job.has("mumap")
    assert not (tmp_path / "job" / f"{role}.nii.gz").exists()
    uptake = json.loads((tmp_path / "job/metrics.json").read_text())["uptake"]
    assert uptake["mae_suv"] > 0
    assert uptake["lesions"]["lesions"] == 1
    page = (tmp_path / "job/report.html").read_text()
    assert "Neither MR nor CT determines" in page
    assert "Knows nothing of uptake." in page
    assert f"{uptake['mae_suv']:.3f}" in page


def test_a_cohort_of_synthetic_pets_has_its_tables(
    files: dict[str, Path], models_dir: Path, tmp_path: Path
) -> None:
    lines = ["subject,mr,reference_pet,fold"]
    lines += [f"{name},{files['mr']},{files['pet']},{name}" for name in ("1", "2")]
    (tmp_path / "pets.csv").write_text("\n".join(lines) + "\n")
    folders = []
    for name in ("first", "second"):
        code = run(
            "--manifest", tmp_path / "pets.csv", "--model", "my-mr2pet", "--models", models_dir,
            "--no-bias-correction", "--no-reports", "--processes", 1, "-o", tmp_path / name,
            "--quiet",
        )  # fmt: skip
        assert code == 0
        folders.append(tmp_path / name)
    job = json.loads((folders[0] / "subjects/1/my-mr2pet/metrics.json").read_text())["uptake"]
    with (folders[0] / "figures.csv").open(newline="") as stream:
        row, _ = csv.DictReader(stream)
    for name in ("mae_suv", "rmse_suv", "mean_error_suv", "psnr_db", "ssim"):
        assert float(row[f"uptake.{name}"]) == job[name]
    lesions = job["lesions"]
    assert float(row["uptake.lesions_found"]) == lesions["detected"] / lesions["lesions"]
    assert float(row["uptake.false_lesions"]) == lesions["false_positives"]
    held = json.loads((folders[0] / "figures.json").read_text())
    assert set(held["definitions"]) == set(held["records"][0]["figures"])
    page = (folders[0] / "cohort.html").read_text()
    assert "MAE, SUV" in page
    assert "Neither MR nor CT determines" in page
    assert run_command(["compare", *map(str, folders), "-o", str(tmp_path / "both")]) == 0
    with (tmp_path / "both/comparisons.csv").open(newline="") as stream:
        found = {r["figure"]: float(r["mean"] or "nan") for r in csv.DictReader(stream)}
    assert found["uptake.mae_suv"] == 0.0  # the same images twice


def test_a_ct_is_made_of_a_nac_pet_with_its_mu_map(
    files: dict[str, Path], models_dir: Path, tmp_path: Path
) -> None:
    code = run(
        "--pet-nac", files["nac_pet"], "--model", "my-vq", "--models", models_dir,
        "-o", tmp_path / "job", "--quiet",
    )  # fmt: skip
    assert code == 0
    job = FinishedJob.open(tmp_path / "job")
    assert job.volume("ct").unit == Unit.HU
    assert job.has("mumap")
    assert job.result.facts["codebook"][0]["codes"] == 16
    assert any("of its 16 codes" in note for note in job.result.notes)


def refused(capsys: pytest.CaptureFixture[str], output: Path, *arguments: object) -> str:
    code = run(*arguments, "-o", output, "--quiet")
    told = capsys.readouterr().err
    assert code == 2
    assert not (output / "result.json").exists()
    assert not list(output.glob("*.nii.gz"))
    return " ".join(told.split())


def test_a_pet_in_bq_per_ml_given_as_suv_is_refused(
    patient: dict[Role, Volume],
    files: dict[str, Path],
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pet = patient[Role.PET]
    plain = sitk.Image(pet.image) * 5000.0
    sitk.WriteImage(plain, str(tmp_path / "bq.nii.gz"))
    given = ("--ct", files["ct"], "--model", "my-virtual-pet", "--models", models_dir)
    told = refused(capsys, tmp_path / "a", *given, "--reference-pet", tmp_path / "bq.nii.gz")
    assert "Bq/ml" in told
    write_volume(pet.with_image(plain, unit=Unit.BQ_PER_ML), tmp_path / "said.nii.gz")
    told = refused(capsys, tmp_path / "b", *given, "--reference-pet", tmp_path / "said.nii.gz")
    assert "Bq/ml" in told


def test_a_pet_series_without_what_suv_needs_is_refused_by_the_tag(
    files: dict[str, Path],
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored = np.random.default_rng(0).integers(0, 3000, (6, 20, 20)).astype("u2")
    centre = read_volume(files["ct"], Role.CT).grid.centre_mm
    layout = Layout.regular(6, 4.0, centre, spacing=(4.0, 4.0), tags={"Units": "BQML"})
    write_series(tmp_path / "series", stored, layout, "PT")
    told = refused(
        capsys, tmp_path / "job", "--ct", files["ct"], "--model", "my-virtual-pet", "--models",
        models_dir, "--reference-pet", tmp_path / "series",
    )  # fmt: skip
    assert "SUV" in told


def test_a_pet_that_lies_elsewhere_is_refused(
    patient: dict[Role, Volume],
    files: dict[str, Path],
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = sitk.Image(patient[Role.PET].image)
    image.SetOrigin((1500.0, 0.0, 0.0))
    write_volume(patient[Role.PET].with_image(image), tmp_path / "far.nii.gz")
    told = refused(
        capsys, tmp_path / "job", "--ct", files["ct"], "--model", "my-virtual-pet", "--models",
        models_dir, "--reference-pet", tmp_path / "far.nii.gz",
    )  # fmt: skip
    assert "do not meet" in told


def test_a_reference_of_the_wrong_kind_is_refused(
    files: dict[str, Path],
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(
        capsys, tmp_path / "a", "--mr", files["mr"], "--model", "my-mr2pet", "--models", models_dir,
        "--reference-ct", files["ct"],
    )  # fmt: skip
    assert "no reference" in told
    told = refused(
        capsys, tmp_path / "b", "--mr", files["mr"], "--model", "uniform-body",
        "--reference-pet", files["pet"],
    )  # fmt: skip
    assert "no reference" in told


def test_a_model_of_another_task_is_refused(
    files: dict[str, Path],
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(
        capsys, tmp_path / "a", "--ct", files["ct"], "--model", "my-mr2pet", "--models", models_dir
    )
    assert "my-mr2pet does mr-to-pet" in told


@pytest.mark.parametrize("name", ["my-mr2pet", "my-virtual-pet", "my-vq"])
def test_such_models_are_imported_with_all_their_weights(
    name: str, models_dir: Path, tmp_path: Path
) -> None:
    card = import_model(models_dir / name, "mine", tmp_path)
    assert set(card.files) == {p.name for p in (models_dir / name).glob("*.safetensors")}
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (models_dir / name).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    content = yaml.safe_load((broken / "card.yaml").read_text())
    place = content["architecture"]["settings"]
    place = place.get("gan", place)
    place["network_settings"] = {"channels": [4, 8]} if name != "my-vq" else {"codes": 9}
    (broken / "card.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(MissingModel):
        import_model(broken, "other", tmp_path)
    assert not (tmp_path / "other").exists()


def test_two_trained_networks_are_joined_to_a_virtual_pet(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(kind: str, name: str, place: dict[str, Any], task: str = "ct-to-pet") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        both = yaml.safe_load((models_dir / "my-virtual-pet/card.yaml").read_text())
        settings = both["architecture"]["settings"][kind] | place
        (file,) = settings["weights"]
        (folder / "weights.safetensors").write_bytes(
            (models_dir / "my-virtual-pet" / file).read_bytes()
        )
        settings["weights"] = ["weights.safetensors"]
        files = {"weights.safetensors": sha256_of(folder / "weights.safetensors")}
        content = card(task, "triplanar", settings) | {"files": files}
        (folder / "card.yaml").write_text(yaml.safe_dump(content))
        return folder

    fcn = trained("fcn", "a", {"working_mm": 5.0})
    gan = trained("gan", "b", {"working_mm": 5.0})
    own = tmp_path / "own"
    given = ["models", "virtual-pet", "--models", own, "--name"]
    code = run_command([str(a) for a in (*given, "joined", "--fcn", fcn, "--gan", gan)])
    assert code == 0
    joined = yaml.safe_load((own / "joined/card.yaml").read_text())
    assert joined["architecture"]["settings"]["place"] == {"working_mm": 5.0}
    assert set(joined["files"]) == {"fcn1.safetensors", "gan1.safetensors"}
    assert joined["measured_accuracy"] == []
    other = trained("gan", "c", {"working_mm": 4.0})
    code = run_command([str(a) for a in (*given, "x", "--fcn", fcn, "--gan", other)])
    assert code == 2
    assert "different parts or voxels" in capsys.readouterr().err
    wrong = trained("gan", "d", {"working_mm": 5.0}, task="mr-to-pet")
    code = run_command([str(a) for a in (*given, "x", "--fcn", fcn, "--gan", wrong)])
    assert code == 2
    assert "no network from CT to PET" in capsys.readouterr().err
    assert not (own / "x").exists()


def test_a_network_of_volumes_is_refused(models_dir: Path, tmp_path: Path) -> None:
    settings = {"network": "shuffle_unet", "weights": ["w.safetensors"]}
    inner = SliceModel(
        ModelCard.model_validate(card("ct-to-pet", "triplanar", settings)),
        TypeAdapter(TriplanarSettings).validate_python(settings),
        MACHINE,
    )
    with pytest.raises(MissingModel, match="no network of slices"):
        inner.open_network("w.safetensors")

"""Importing models: checkpoints of MONAI's ShuffleUNet, trained folders, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from monai.networks.nets import BasicUNet
from monai.transforms import HistogramNormalize, ScaleIntensity
from monai_shuffle_unet import MonaiShuffleUNet, monai_shuffle_unet
from small_models import write_model

from SynthCTLib.cli.main import run_command
from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import isotropic_grid, resample
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.monai_checkpoint import read_checkpoint, settings_from, translated
from SynthCTLib.synthesis.own_models import import_model
from SynthCTLib.synthesis.patchwise import PatchwiseSynthesizer
from SynthCTLib.synthesis.registry import Machine, find_card, list_models, open_model
from SynthCTLib.synthesis.working_view import Region, view_of
from SynthCTLib.volume import Role

CHANNELS = (2, 3, 4, 5)


def random_net(residual_units: int = 0, channels: tuple[int, ...] = CHANNELS) -> MonaiShuffleUNet:
    torch.manual_seed(7)
    return monai_shuffle_unet(channels, residual_units).eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A state dict of the shape that was released: no residual units."""
    path = tmp_path / "pretrained_net.pth"
    torch.save(random_net().state_dict(), path)
    return path


# Translation


@pytest.mark.parametrize("residual_units", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [CHANNELS, (4, 8)])
def test_the_translated_network_gives_what_monai_gives(
    residual_units: int, channels: tuple[int, ...]
) -> None:
    theirs = random_net(residual_units, channels)
    settings = settings_from(theirs.state_dict())
    assert settings == {
        "in_channels": 1,
        "out_channels": 1,
        "channels": list(channels),
        "residual_units": residual_units,
    }
    ours = build_network("shuffle_unet", settings).eval()
    ours.load_state_dict(translated(theirs.state_dict(), settings))
    patch = torch.randn(2, 1, 32, 16, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(patch), theirs(patch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {key: value.half() for key, value in state.items()},
    ],
)
def test_the_state_is_found_where_training_programs_put_it(
    tmp_path: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    state = random_net().state_dict()
    torch.save(wrap(state), tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")
    assert found.keys() == state.keys()
    assert all(torch.allclose(found[k], state[k], atol=1e-3) for k in state)


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: BasicUNet(3, 1, 1, (4, 4, 4, 4, 4, 4)).state_dict(), "nested"),
        (without("model.2.shuffle.conv_block.weight"), "shuffle"),
        (without("model.0.conv.weight"), "model.0"),
        (lambda s: s | {"model.0.adn.N.weight": torch.ones(2)}, "normalisation"),
        (lambda s: s | {"model.0.gate.weight": torch.ones(2)}, "also has model.0.gate"),
        (
            lambda s: s | {"model.2.shuffle.conv_block.weight": torch.ones(9, 5, 3, 3, 3)},
            "pixel shuffle of 2",
        ),
        (without("model.1.submodule.0.conv.bias"), "do not fit"),
    ],
)
def test_another_network_is_refused_and_leaves_nothing(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    torch.save(change(random_net().state_dict()), tmp_path / "net.pth")
    with pytest.raises(InputError, match=words):
        import_model(tmp_path / "net.pth", "mine", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


class Evil:
    """Runs code where a pickle is trusted."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("evil").mkdir, ())


@pytest.mark.parametrize("kind", ["whole module", "code", "text", "number"])
def test_what_is_no_plain_state_dict_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    if kind == "text":
        path.write_text("not a checkpoint")
    else:
        torch.save({"whole module": random_net(), "code": Evil(), "number": {"a": 3}}[kind], path)
    with pytest.raises(InputError, match="weights"):
        read_checkpoint(path)
    assert not (tmp_path / "evil").exists()


# Models


def test_an_imported_checkpoint_carries_the_preprocessing_of_its_release(
    tmp_path: Path, checkpoint: Path
) -> None:
    models = tmp_path / "models"
    card = import_model(checkpoint, "planning", models)
    model = open_model("planning", Machine(models_dir=models))
    assert isinstance(model, PatchwiseSynthesizer)
    settings = model.settings
    assert settings.window.patch == (256, 256, 32)
    assert settings.axes == "ras-xyz"
    assert (settings.preparation.method, settings.preparation.masked) == ("histogram", True)
    assert (settings.working_mm, settings.output.scale, settings.output.offset) == (1.0, 1.0, 0.0)
    assert "planning" in [c.name for c in list_models(models_dir=models)]
    assert find_card("planning", models) == card
    assert not card.default
    assert [p.name for p in models.iterdir()] == ["planning"]
    with pytest.raises(MissingModel):
        find_card("planning")


def test_an_imported_checkpoint_answers_as_its_release_does(
    tmp_path: Path, checkpoint: Path
) -> None:
    """MONAI's transforms and network on the array in RAS order, against the whole of ours."""
    mr = read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)
    head = resample(mr, isotropic_grid(mr.grid, 5.0))
    import_model(checkpoint, "planning", tmp_path / "models")
    path = tmp_path / "models" / "planning" / "card.yaml"
    card = yaml.safe_load(path.read_text())
    sides = [48, 64, 64]
    card["architecture"]["settings"] |= {
        "working_mm": 5.0,
        "window": {"patch": sides, "overlap": 0.0},
        "output": {"scale": 500.0, "low": -3000.0},
        "keep_margin_mm": 0.0,
    }
    path.write_text(yaml.safe_dump(card))
    machine = Machine(threads=1, models_dir=tmp_path / "models", engine="torch", precision="fp32")
    made = open_model("planning", machine).synthesize({Role.MR: head}, Progress())
    assert made.facts["patches"] == 1

    view = view_of(head, Region.HEAD, 5.0, 12.0, 0.0, (64, 64, 48))
    assert view.mr.shape == (64, 64, 48)
    masked = np.where(view.region, view.mr, 0).astype(np.float32)
    image = sitk.GetImageFromArray(masked)
    ras = np.transpose(sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS")), (2, 1, 0)).copy()
    prepared = ScaleIntensity(-1.0, 1.0)(HistogramNormalize(num_bins=256, min=0, max=255)(ras))
    with torch.inference_mode():
        answer = random_net()(torch.as_tensor(np.asarray(prepared))[None, None])[0, 0].numpy()
    back = sitk.GetImageFromArray(np.transpose(answer, (2, 1, 0)))
    back.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    lps = sitk.GetArrayFromImage(sitk.DICOMOrient(back, "LPS"))
    expected = view.onto_input(np.where(view.region, 500 * lps, -1000), -1000.0, cubic=False)
    inside = view.onto_input(view.region.astype(np.float32), 0.0, cubic=False) > 0.999
    assert inside.sum() > 10000
    assert expected[inside].std() > 20
    np.testing.assert_allclose(made.volume.array[inside], expected[inside], atol=0.5)


def test_a_trained_folder_is_imported_under_another_name(tmp_path: Path) -> None:
    trained = write_model(tmp_path / "runs", "run-7", weights=["a.safetensors", "b.safetensors"])
    (trained / "log.csv").write_text("not part of the model")
    content = yaml.safe_load((trained / "card.yaml").read_text())
    (trained / "card.yaml").write_text(yaml.safe_dump(content | {"default": True, "files": {}}))
    trained = trained.rename(trained.with_name("renamed by hand"))
    card = import_model(trained, "mine", tmp_path / "models")
    assert (card.name, card.default) == ("mine", False)
    assert set(card.files) == {"a.safetensors", "b.safetensors"}
    assert sorted(p.name for p in (tmp_path / "models" / "mine").iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "card.yaml",
    ]
    assert open_model("mine", Machine(models_dir=tmp_path / "models")).card == card


def test_a_folder_that_is_not_sound_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    models = tmp_path / "models"
    trained = write_model(tmp_path / "runs", "run-7")
    weights = trained / "weights.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original + b"x")
    with pytest.raises(InputError, match="SHA-256"):
        import_model(trained, "mine", models)
    weights.unlink()
    with pytest.raises(InputError, match="not there"):
        import_model(trained, "mine", models)
    (trained / "card.yaml").unlink()
    with pytest.raises(InputError, match=r"card\.yaml"):
        import_model(trained, "mine", models)
    with pytest.raises(InputError, match="no file or folder"):
        import_model(tmp_path / "nowhere", "mine", models)
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("name", ["Mine", "a b", "../up", "", "-x"])
def test_a_name_that_no_model_can_have_is_refused(
    tmp_path: Path, checkpoint: Path, name: str
) -> None:
    with pytest.raises(InputError, match="cannot be named"):
        import_model(checkpoint, name, tmp_path / "models")


def test_names_that_are_taken_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    models = tmp_path / "models"
    with pytest.raises(InputError, match="ships with SynthCT"):
        import_model(checkpoint, "atlas-fusion", models)
    import_model(checkpoint, "mine", models)
    with pytest.raises(InputError, match="already"):
        import_model(checkpoint, "mine", models)


def test_an_own_folder_with_a_shipped_name_is_refused_and_the_shipped_model_wins(
    tmp_path: Path,
) -> None:
    write_model(tmp_path, "atlas-fusion")
    assert find_card("atlas-fusion", tmp_path).architecture.family == "atlas"
    with pytest.raises(MissingModel, match="name of one that ships"):
        list_models(models_dir=tmp_path)


def test_an_own_model_cannot_make_itself_the_default(tmp_path: Path) -> None:
    path = write_model(tmp_path, "mine") / "card.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"default": True}))
    with pytest.raises(MissingModel, match="default"):
        list_models(models_dir=tmp_path)


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/../../b", ".hidden", ""])
def test_a_card_cannot_name_files_outside_its_folder(tmp_path: Path, file: str) -> None:
    path = write_model(tmp_path, "mine") / "card.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"files": {file: "0"}}))
    with pytest.raises(MissingModel, match="files"):
        find_card("mine", tmp_path)


def test_the_command_imports_lists_shows_and_verifies(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--models", str(tmp_path / "models")]
    assert run_command(["models", "import", str(checkpoint), "--name", "planning", *own]) == 0
    assert "synthct run --model planning" in capsys.readouterr().out
    assert run_command(["models", "list", *own]) == 0
    assert "planning" in capsys.readouterr().out
    assert run_command(["models", "verify", "planning", *own]) == 0
    assert run_command(["models", "show", "planning", *own]) == 0
    assert run_command(["models", "import", str(checkpoint), "--name", "planning", *own]) == 2
    assert "already" in capsys.readouterr().err

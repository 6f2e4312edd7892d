"""``synthct train`` as a user calls it: every shipped recipe on tiny data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from SynthCTLib.cli.main import run_command
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.own_models import import_model
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.training.recipe import list_recipes, recipes_folder
from SynthCTLib.volume import Role, Unit, Volume

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# What makes a recipe tiny; everything else in it is as it ships.
TINY_NETWORK: dict[str, dict[str, Any]] = {
    "two_view_unet": {"fine": [4, 4, 4], "wide": [4, 4, 4, 4]},
    "shuffle_unet": {"channels": [4, 4, 4]},
    "deep_unet": {"channels": [4, 4, 4, 4]},
    "pix2pix_unet": {"channels": [4, 4, 4]},
    "fcn4s": {"channels": [2, 2, 2, 2, 2], "hidden": 4},
    "vq_model": {"channels": [4, 4], "groups": 2, "codes": 8},
}
TINY_SOURCE: dict[str, dict[str, Any]] = {
    "heads": {
        "anatomies": ["ball"],
        "held_back": ["ball"],
        "canvas": [96, 64, 64],
        "patch": 32,
        "first_heads": 1,
        "steps_per_head": 100,
    },
    "pairs": {
        "patch": [16, 16, 16],
        "batch": 2,
        "spacing_mm": 4.0,
        "register": "none",
        "remove_table": False,
        "folds": 2,
    },
    "slices": {
        "size": [32, 32],
        "batch": 2,
        "spacing_mm": 4.0,
        "register": "none",
        "remove_table": False,
        "folds": 2,
    },
}
# A ball has no brain and cannot be matched with a template: see test_template for heads that can.
OWN_SPACE: dict[str, Any] = {"space": "own"}


def ball() -> np.ndarray:
    z, y, x = np.ogrid[:64, :64, :64]
    r = np.sqrt((z - 31.5) ** 2 + (y - 31.5) ** 2 + (x - 31.5) ** 2)
    labels = np.zeros((64,) * 3, np.int16)
    for radius, label in ((27, 511), (25, 507), (23, 515), (17, 24), (15, 2)):
        labels[r < radius] = label
    return labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "heads").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(ball()), folder / "heads/ball.nii.gz")
    rng = np.random.default_rng(1)
    for name in ("sub-1", "sub-2"):
        place = folder / "pairs" / name
        place.mkdir(parents=True)
        signal = np.where(ball() > 0, 300 + 500 * rng.random((64,) * 3), 0).astype(np.float32)
        image = sitk.GetImageFromArray(signal)
        image.SetSpacing((3.5,) * 3)
        mr = Volume(image, Role.MR, Unit.ARBITRARY)
        hu = np.where(ball() == 515, 900, np.where(ball() > 0, 30, -1000)).astype(np.float32)
        write_volume(mr, place / "mr.nii.gz")
        write_volume(mr.with_array(hu, role=Role.CT, unit=Unit.HU), place / "ct.nii.gz")
        suv = np.where(ball() == 2, 8, np.where(ball() > 0, 1, 0)).astype(np.float32)
        write_volume(mr.with_array(suv, role=Role.PET, unit=Unit.SUV), place / "pet.nii.gz")
    return {"heads": folder / "heads", "pairs": folder / "pairs", "slices": folder / "pairs"}


def tiny(name: str, folder: Path) -> tuple[Path, str]:
    """A shipped recipe made tiny, as a file; and the kind of its source."""
    recipe = yaml.safe_load((recipes_folder() / f"{name}.yaml").read_text())
    kept = {k: v for k, v in recipe["network"].get("settings", {}).items() if k == "dimensions"}
    recipe["network"]["settings"] = {**kept, **TINY_NETWORK[recipe["network"]["name"]]}
    kind = recipe["source"]["kind"]
    recipe["source"]["settings"].update(TINY_SOURCE[kind])
    recipe["model"]["window"]["patch"] = [32, 32, 32]
    recipe["model"].setdefault("synthesis", {})["working_mm"] = 4.0
    if recipe["preparation"]["method"] == "brain":
        recipe["preparation"]["method"] = "robust"
        recipe["source"]["settings"].update(OWN_SPACE)
        recipe["model"]["synthesis"].update(OWN_SPACE)
    if "prior" in recipe:
        recipe["prior"]["model"] = "uniform-body"
    if "adversary" in recipe:
        recipe["adversary"]["network"].setdefault("settings", {})["channels"] = [4, 4]
    recipe["validation"]["every_epochs"] = 1
    recipe.update(steps=2, epoch_steps=2)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path, kind


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_trains_on_tiny_data_and_its_model_runs(
    name: str, data: dict[str, Path], tmp_path: Path
) -> None:
    recipe, kind = tiny(name, tmp_path)
    out = tmp_path / "out"
    command = ["train", str(recipe), "--data", str(data[kind]), "-o", str(out), "--device", "cpu"]
    assert run_command([*command, "--threads", "1", "--quiet"]) == 0
    if kind != "heads":
        split = json.loads((out / "split.json").read_text())
        assert sorted(split["train"] + split["test"]) == ["sub-1", "sub-2"]
    import_model(out / name, "mine", tmp_path / "models")
    machine = Machine(threads=1, engine="torch", models_dir=tmp_path / "models")
    model = open_model("mine", machine)
    role = model.card.task.input_role
    file = "pet" if role == Role.NAC_PET else str(role)  # any PET will do for an untrained model
    source = read_volume(data["pairs"] / f"sub-1/{file}.nii.gz", role)
    made = model.synthesize({role: source}, Progress())
    assert made.volume.grid.matches(source.grid)
    assert made.volume.role == model.card.task.output_role
    assert np.isfinite(made.volume.array).all()
    assert (out / "log.csv").read_text().count("\n") >= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": "no-such"}, "no recipe named"),
        ({"data": "absent"}, "no folder"),
        ({"init": "absent.safetensors"}, "no weights"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"fold": "9"}, "no fold 9"),
        ({"resume": None}, "no checkpoint"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    change: dict[str, str | None],
    words: str,
    data: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe, _ = tiny("paper1-small", tmp_path)
    given: dict[str, str | None] = {"data": str(data["pairs"]), "output": str(tmp_path / "out")}
    name = change.pop("recipe", str(recipe)) if "recipe" in change else str(recipe)
    arguments = ["train", str(name), "--quiet"]
    for option, value in {**given, **change}.items():
        arguments += [f"--{option}"] if value is None else [f"--{option}", value]
    assert run_command(arguments) == 2
    said = capfd.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
    assert not (tmp_path / "out" / "checkpoint.pt").exists()

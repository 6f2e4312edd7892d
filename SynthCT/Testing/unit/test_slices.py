"""Slices of pairs as examples: what they hold, that they repeat, that they train and stop."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.imaging.files import write_volume
from SynthCTLib.imaging.masks import body_contour
from SynthCTLib.networks import build_network
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.physics.nac import NacOptions, nac_pet
from SynthCTLib.physics.reconstruction import ReconstructionOptions, ScanOptions
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.synthesis.preparation import Preparation, prepare
from SynthCTLib.synthesis.task import Task
from SynthCTLib.synthesis.working_view import Region
from SynthCTLib.training.engine import TrainingOptions, load_initial, train
from SynthCTLib.training.journal import CSV_FILE
from SynthCTLib.training.losses import loss_named
from SynthCTLib.training.objective import Objective
from SynthCTLib.training.pairs import Split
from SynthCTLib.training.recipe import Recipe, list_recipes, read_recipe
from SynthCTLib.training.slices import (
    SliceSettings,
    SliceSource,
    find_slice_subjects,
    needed_roles,
    prepared_subject,
)
from SynthCTLib.volume import DEFAULT_UNIT, Role, Volume

SHAPE = (20, 40, 48)  # z, y, x of 3 mm: a thigh of 5 cm radius
HOT = (slice(8, 12), slice(16, 22), slice(18, 24))
WINDOW = Preparation("fixed", limits=(-160.0, 240.0), centred=True)


def volume(array: np.ndarray, role: Role) -> Volume:
    image = sitk.GetImageFromArray(array.astype("f4"))
    image.SetSpacing((3.0, 3.0, 3.0))
    return Volume(image, role, DEFAULT_UNIT[role])


def body() -> np.ndarray:
    _, y, x = np.indices(SHAPE)
    return (y - 19.5) ** 2 + (x - 23.5) ** 2 < 16**2


def images(hot: float = 8.0) -> dict[Role, Volume]:
    inside = body()
    pet = np.where(inside, 0.5, 0.0)
    pet[HOT] = hot
    return {
        Role.CT: volume(np.where(inside, 40.0, -1000.0), Role.CT),
        Role.PET: volume(pet, Role.PET),
        Role.MR: volume(np.where(inside, 100 + 10 * np.indices(SHAPE)[2], 0.0), Role.MR),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subjects")
    for number in range(3):
        place = folder / f"S{number}"
        place.mkdir()
        for role, image in images(4.0 + number).items():
            write_volume(image, place / f"{role}.nii.gz")
    return folder


def source(data: Path, folder: Path, task: Task = Task.CT_TO_PET, **changes: Any) -> SliceSource:
    settings = SliceSettings(
        **{"size": (48, 48), "batch": 4, "register": "none", "remove_table": False} | changes
    )
    subjects = find_slice_subjects(data, needed_roles(task, settings.register))
    split = Split(("S0", "S1"), ("S2",), ("S2",))
    return SliceSource(task, settings, subjects, split, WINDOW, folder, 1, "cpu", Progress())


def test_a_slice_holds_input_and_target_of_one_place(data: Path, tmp_path: Path) -> None:
    made = source(data, tmp_path, mirror=False)
    assert {axis for _, axis, _ in made.slices} == {"z"}
    assert len(made.slices) == 2 * SHAPE[0]
    batch = made.batch(0)
    assert batch.images.shape == batch.targets.shape == (4, 1, 1, 48, 48)
    inside = batch.weights > 0
    assert inside.any()
    assert (batch.images[inside] == 0).all()  # 40 HU is the middle of -160..240
    assert (batch.targets[inside] >= 0.5).all()
    image, target, weight = made.slice_of("S1", "z", 15, np.random.default_rng(0))
    assert target.max() == 5.0
    assert (target == 5).sum() == 36
    assert weight[target == 5].all()
    assert image[0, 0][weight[0, 0] == 0].max() == -1.0


def test_three_axes_augment_one(data: Path, tmp_path: Path) -> None:
    made = source(data, tmp_path, axes=("z", "y", "x"))
    axes = [axis for name, axis, _ in made.slices if name == "S0"]
    # Body of 32 voxels across, 20 slices high; the outermost show too little of it.
    assert axes.count("z") == 20
    assert 26 <= axes.count("y") <= 32
    assert 26 <= axes.count("x") <= 32
    _, target, _ = made.slice_of("S0", "y", 14, np.random.default_rng(0))
    rows, columns = np.nonzero(target[0, 0] == 4)
    assert len(set(rows)) == 4  # z
    assert len(set(columns)) == 6  # x


def test_every_slice_comes_once_an_epoch_and_a_step_repeats(data: Path, tmp_path: Path) -> None:
    made = source(data, tmp_path)
    seen: list[tuple[str, str, int]] = []
    made.slice_of = lambda *a: seen.append(a[:3]) or (np.zeros((1, 1, 2, 2), "f4"),) * 3  # type: ignore[method-assign]
    for step in range(made.epoch_steps):
        made.batch(step)
    assert sorted(seen) == sorted(made.slices)
    again, other = source(data, tmp_path), source(data, tmp_path)
    assert torch.equal(again.batch(7).images, other.batch(7).images)
    assert not torch.equal(again.batch(7).targets, other.batch(8).targets)


def test_half_of_the_slices_are_mirrored_left_to_right_and_no_sagittal_one(
    data: Path, tmp_path: Path
) -> None:
    made = source(data, tmp_path, axes=("z", "x"))
    kept = made._prepared["S0"]
    marked = np.array(kept.target)
    marked[:, :, :10] = 19.0
    made._prepared["S0"] = type(kept)(kept.image, marked, kept.weight)
    sides = []
    for number in range(40):
        _, target, _ = made.slice_of("S0", "z", 10, np.random.default_rng(number))
        columns = np.flatnonzero((target[0, 0] == 19).any(axis=0))
        sides.append(columns.mean() < 24)
    assert 10 < sum(sides) < 30
    one = made.slice_of("S0", "x", 20, np.random.default_rng(1))[1]
    two = made.slice_of("S0", "x", 20, np.random.default_rng(2))[1]
    np.testing.assert_array_equal(np.sort(one, axis=None), np.sort(two, axis=None))


def test_a_slice_larger_than_the_size_is_cut(data: Path, tmp_path: Path) -> None:
    made = source(data, tmp_path, size=(16, 32))
    image, target, weight = made.slice_of("S0", "z", 10, np.random.default_rng(3))
    assert image.shape == target.shape == weight.shape == (1, 1, 16, 32)


def test_subjects_are_prepared_once(data: Path, tmp_path: Path) -> None:
    source(data, tmp_path)
    kept = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(kept) == 3
    source(data, tmp_path, size=(32, 32), axes=("x",))  # changes no prepared subject
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == kept
    source(data, tmp_path, spacing_mm=4.0)
    assert len(list(tmp_path.iterdir())) == 6


def test_missing_images_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        find_slice_subjects(tmp_path / "none", (Role.CT,))
    with pytest.raises(InputError, match=r"pet\.nii\.gz"):
        find_slice_subjects(tmp_path, (Role.CT, Role.PET))
    (tmp_path / "A").mkdir()
    write_volume(images()[Role.CT], tmp_path / "A/ct.nii.gz")
    with pytest.raises(InputError, match=r"A in .* lack"):
        find_slice_subjects(tmp_path, (Role.CT, Role.PET))


@pytest.mark.parametrize(
    ("task", "register", "roles"),
    [
        (Task.MR_TO_PET, "rigid", {Role.MR, Role.PET, Role.CT}),
        (Task.MR_TO_PET, "none", {Role.MR, Role.PET}),
        (Task.CT_TO_PET, "rigid", {Role.CT, Role.PET}),
        (Task.NAC_PET_TO_CT, "none", {Role.PET, Role.CT}),
    ],
)
def test_each_task_needs_its_images(task: Task, register: str, roles: set[Role]) -> None:
    assert set(needed_roles(task, register)) == roles


def test_images_that_do_not_meet_are_refused_by_the_subjects_name(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    write_volume(images()[Role.CT], tmp_path / "far/ct.nii.gz")
    pet = images()[Role.PET]
    image = sitk.Image(pet.image)
    image.SetOrigin((900.0, 0.0, 0.0))
    write_volume(pet.with_image(image), tmp_path / "far/pet.nii.gz")
    (subject,) = find_slice_subjects(tmp_path, (Role.CT, Role.PET))
    settings = SliceSettings(register="none", remove_table=False)
    with pytest.raises(InputError, match="No slice"):
        SliceSource(
            Task.CT_TO_PET,
            settings,
            (subject,),
            Split(("far",), (), ()),
            WINDOW,
            tmp_path / "kept",
            1,
            "cpu",
            Progress(),
        )
    with pytest.raises(InputError, match=r"Subject far: .*no voxel in common"):
        prepared_subject(Task.NAC_PET_TO_CT, settings, subject, WINDOW)


# NAC PET


NOISELESS = NacOptions(ScanOptions(angles=60, events_per_slice=None), ReconstructionOptions(8, 4))


def test_a_simulated_nac_pet_is_dark_in_the_middle_by_the_attenuation() -> None:
    ct, pet = images(0.5)[Role.CT], images(0.5)[Role.PET]
    nac = nac_pet(pet, ct, NOISELESS)
    assert nac.role == Role.NAC_PET
    middle = nac.array[10, 19, 23]
    edge = nac.array[10, 19, 9]
    assert middle < 0.9 * edge  # cupping
    # Of all events those come through that the chords of a disc of 4.8 cm let through.
    chords = 2 * np.sqrt(4.8**2 - np.linspace(0, 4.8, 1000) ** 2)
    mu = hu_to_mu(ct).array.max()
    survive = (chords * np.exp(-mu * chords)).sum() / chords.sum()
    assert nac.array.sum() / pet.array.sum() == pytest.approx(survive, rel=0.03)


def test_without_a_body_nothing_is_attenuated() -> None:
    ct, pet = images(2.0)[Role.CT], images(2.0)[Role.PET]
    nothing = ct.with_array(np.full(SHAPE, -1000.0, "f4"))
    nac = nac_pet(pet, nothing, NOISELESS)
    np.testing.assert_allclose(nac.array.sum(), pet.array.sum(), rtol=0.02)


def test_negative_activity_counts_as_none() -> None:
    ct, pet = images()[Role.CT], images()[Role.PET]
    array = pet.array.copy()
    array[0, 0, 0] = -3
    one, two = nac_pet(pet.with_array(array), ct, NOISELESS), nac_pet(pet, ct, NOISELESS)
    np.testing.assert_array_equal(one.array, two.array)


def test_the_contour_of_a_pet_is_the_body_and_not_its_tumour() -> None:
    pet = images(10.0)[Role.PET]
    blurred = pet.with_array(
        np.asarray(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(pet.image, 2.5)))
    )
    for role in (Role.PET, Role.NAC_PET):
        found = body_contour(blurred.with_array(blurred.array, role=role)).array > 0
        dice = 2 * (found & body()).sum() / (found.sum() + body().sum())
        assert dice > 0.85  # a voxel of 3 mm around a disc of 48 mm is 0.94 of it
    # Where the tumour is large an MR's rule takes it for the body.
    pet = images()[Role.PET].array.copy()
    pet[2:18, 10:30, 14:34] = 20
    large = volume(pet, Role.PET)
    as_mr = body_contour(large.with_array(pet, role=Role.MR)).array > 0
    assert as_mr.sum() < 0.6 * body().sum()
    assert (body_contour(large).array > 0).sum() > 0.9 * body().sum()


def test_the_nac_of_a_subject_is_simulated_where_it_is_not_given(data: Path) -> None:
    subject = find_slice_subjects(data, (Role.PET, Role.CT))[0]
    settings = SliceSettings(
        register="none", remove_table=False, target_range=(-1000, 2000), region=Region.FIELD
    )
    made = prepared_subject(Task.NAC_PET_TO_CT, settings, subject, Preparation(centred=True))
    assert made.target.min() == -1000
    assert made.image.min() == -1.0
    assert made.image.max() == 1.0


# Preparation


def test_fixed_limits_become_one_and_minus_one() -> None:
    hu = np.array([[[-1000, -160, 40, 240, 3000]]], "f4")
    everywhere = np.ones(hu.shape, bool)
    assert prepare(hu, everywhere, everywhere, WINDOW).ravel().tolist() == [-1, -1, 0, 1, 1]
    plain = Preparation("fixed", limits=(0.0, 20.0))
    suv = np.array([[[0, 5, 40]]], "f4")
    assert prepare(suv, suv > -1, suv > -1, plain).ravel().tolist() == [0, 0.25, 1]
    root = Preparation("fixed", limits=(0.0, 20.0), power=0.5, centred=True)
    assert prepare(suv, suv > -1, suv > -1, root).ravel().tolist() == [-1, 0, 1]
    assert prepare(suv, suv > 50, suv > -1, root).ravel().tolist() == [-1, -1, -1]


def test_robust_and_centred_is_between_minus_one_and_one() -> None:
    mr = np.linspace(0, 300, 1000, dtype="f4").reshape(10, 10, 10)
    made = prepare(mr, mr > -1, mr > -1, Preparation(ceiling=1.5, power=0.5, centred=True))
    assert made.min() == -1
    # The largest is 1 / 0.995 of the scale, a root of 1.5 would be 1.
    assert made.max() == pytest.approx(2 * (1 / 0.995 / 1.5) ** 0.5 - 1, abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "fixed"},
        {"limits": (0, 1)},
        {"method": "fixed", "limits": (1, 1)},
        {"method": "histogram", "centred": True},
    ],
)
def test_preparations_that_contradict_themselves_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"limits|centred"):
        Preparation(**wrong)


# Losses


def test_losses_in_suv_by_hand() -> None:
    p = torch.tensor([0.0, 4.0, 10.0]).reshape(1, 1, 1, 1, 3)
    t = torch.tensor([1.0, 5.0, 0.0]).reshape(1, 1, 1, 1, 3)
    w = torch.ones_like(t)
    # Weights 1, 5, 0; squares 1, 1, 100.
    assert loss_named("suv-weighted-l2", {"unit": 1.0})(p, t, w).item() == pytest.approx(1.0)
    least = loss_named("suv-weighted-l2", {"unit": 1.0, "least_suv": 1.0})
    assert least(p, t, w).item() == pytest.approx((1 + 5 + 100) / 7)
    assert loss_named("suv-weighted-l2", {})(p, t, 0 * w).item() == 0
    assert loss_named("l1", {"unit": 10.0})(p, t, w).item() == pytest.approx(1.2 / 3)
    assert loss_named("l2", {"unit": 10.0})(p, t, w).item() == pytest.approx(1.02 / 3)
    # Steps of 4 and 6 in the one, of 4 and 5 in the other.
    gradient = loss_named("gradient-difference", {"unit": 10.0})
    assert gradient(p, t, w).item() == pytest.approx(0.01 / 2)


# Training


def recipe(**changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "toy-pet",
        "task": "ct-to-pet",
        "network": {
            "name": "pix2pix_unet",
            "settings": {"channels": [4, 8, 8], "bounded": False, "dropouts": 0},
        },
        "source": {"kind": "slices"},
        "preparation": {"method": "fixed", "limits": [-160, 240], "centred": True},
        "losses": [{"name": "l1", "weight": 10.0, "settings": {"unit": 10.0}}],
        "adversary": {
            "network": {"name": "patchgan", "settings": {"in_channels": 2, "channels": [4, 8]}},
            "loss": "cross-entropy",
            "conditional": True,
        },
        "optimiser": {"learning_rate": 0.03},
        "schedule": {"warmup_steps": 0},
        "validation": {"every_epochs": 1},
        "steps": 20,
        "output": {"scale": 10.0, "offset": 10.0, "low": 0.0, "high": 20.0},
        "model": {
            "family": "triplanar",
            "title": "Toy",
            "window": {"patch": [16, 48, 48]},
            "synthesis": {"axes": ["z"], "working_mm": 3.0},
        },
    }
    return Recipe.model_validate({**content, **changes})


def test_a_pix2pix_learns_the_level_of_a_body_and_says_so_in_suv(
    data: Path, tmp_path: Path
) -> None:
    told: list[ProgressEvent] = []
    result = train(
        recipe(), source(data, tmp_path / "kept"), TrainingOptions(tmp_path), Progress(told.append)
    )
    assert result.complete
    assert result.history[-1][1] < 0.7 * result.history[0][1]
    assert any("best validation MAE" in e.message and "SUV" in e.message for e in told)
    with (tmp_path / CSV_FILE).open(newline="", encoding="utf-8") as stream:
        logged = [row["validation_mae"] for row in csv.DictReader(stream)]
    errors = [float(text) for text in logged if text]
    assert errors == pytest.approx([mae for _, mae in result.history], rel=1e-4)  # SUV are small


VQ = {
    "network": {"name": "vq_model", "settings": {"channels": [4, 8], "groups": 2, "codes": 16}},
    "adversary": None,
    "steps": 3,
    "validation": {"every_epochs": 50},
}


def test_a_frozen_encoder_stays_as_it_begins_and_the_rest_does_not(
    data: Path, tmp_path: Path
) -> None:
    part = {**VQ["network"], "frozen": ["encoder.", "quant_conv."]}
    frozen = recipe(**VQ | {"network": part})
    torch.manual_seed(frozen.seed)
    begun = build_network("vq_model", frozen.network.settings).state_dict()
    made = train(frozen, source(data, tmp_path / "k"), TrainingOptions(tmp_path), Progress())
    for name, value in made.weights.items():
        stays = name.startswith(("encoder.", "quant_conv.", "quantize."))
        assert torch.equal(value, begun[name]) == stays, name
    wrong = recipe(**VQ | {"network": {**VQ["network"], "frozen": ["encodr."]}})
    with pytest.raises(InputError, match="encodr"):
        train(wrong, source(data, tmp_path / "k"), TrainingOptions(tmp_path / "b"), Progress())


def test_a_network_adds_its_own_terms(data: Path, tmp_path: Path) -> None:
    settings = VQ["network"]["settings"] | {"commitment": 0.25}
    with_codes = recipe(**VQ | {"network": {"name": "vq_model", "settings": settings}})
    network = build_network("vq_model", settings).train()
    batch = source(data, tmp_path).batch(0)
    asked = Objective(with_codes).ask(network, batch, torch.autocast("cpu", enabled=False))
    l1, codes = asked.parts["l1"], asked.parts["codebook"]
    torch.testing.assert_close(asked.loss.detach(), 10 * l1 + codes)


def test_without_weights_to_begin_from_it_is_said(data: Path, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    progress = Progress(told.append)
    train(recipe(**VQ), source(data, tmp_path / "k"), TrainingOptions(tmp_path), progress)
    assert any("begins at random" in event.message for event in told)


def test_a_torch_checkpoint_is_adopted_or_refused(tmp_path: Path) -> None:
    network = build_network("vq_model", VQ["network"]["settings"])
    other = build_network("vq_model", VQ["network"]["settings"])
    torch.save({"state_dict": {**other.state_dict(), "loss.x": torch.ones(1)}}, tmp_path / "a.ckpt")
    assert "LDM-f4" in load_initial(network, tmp_path / "a.ckpt")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in network.state_dict().items())
    with pytest.raises(InputError, match="cannot begin"):
        load_initial(build_network("pix2pix_unet", {"channels": [2, 2]}), tmp_path / "a.ckpt")
    (tmp_path / "b.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="cannot be read"):
        load_initial(network, tmp_path / "b.pth")
    torch.save({"x": torch.ones(2)}, tmp_path / "c.pt")
    with pytest.raises(MissingModel, match="LDM-f4"):
        load_initial(network, tmp_path / "c.pt")


@pytest.mark.parametrize("name", [n for n in list_recipes() if "pet" in n or "vq" in n])
def test_recipes_of_slices_fit_their_networks(name: str) -> None:
    shipped = read_recipe(name)
    with torch.device("meta"):
        network = build_network(shipped.network.name, shipped.network.settings)
    settings = SliceSettings(**shipped.source.settings)
    assert all(side % network.side_multiple == 0 for side in settings.size)
    assert shipped.model.family == "triplanar"
    for begin in shipped.network.frozen:
        assert any(k.startswith(begin) for k, _ in network.named_parameters())
    assert isinstance(network, nn.Module)

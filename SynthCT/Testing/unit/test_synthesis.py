"""Models: cards, registry, and the laws that every synthesis obeys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from SynthCTLib.errors import Cancelled, InputError, MissingModel
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import isotropic_grid, resample
from SynthCTLib.phantom.known import known_region
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis import registry
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer, LocalCorrelation
from SynthCTLib.synthesis.card import Measurement, read_card
from SynthCTLib.synthesis.registry import Machine, find_card, list_models, open_model, verify
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Synthesis
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import Role, Unit, Volume


def volume(array: np.ndarray, role: Role = Role.MR, spacing: float = 2.0) -> Volume:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((spacing,) * 3)
    return Volume(image, role, Unit.ARBITRARY)


@pytest.fixture(scope="module")
def head() -> Volume:
    """A real head, coarse: 3 mm."""
    mr = read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)
    return resample(mr, isotropic_grid(mr.grid, 3.0))


# Cards and registry


def test_every_shipped_model_is_sound_and_one_of_each_task_is_its_default() -> None:
    cards = list_models()
    assert {c.name for c in cards} >= {"atlas-fusion", "atlas-affine", "uniform-body"}
    for card in cards:
        verify(card)
    assert [(c.task, c.name) for c in cards if c.default] == [
        (Task.MR_TO_CT, "head-unet"),
        (Task.NAC_PET_TO_CT, "vq-triplanar"),
        (Task.CT_TO_PET, "virtual-pet"),
        (Task.MR_TO_PET, "mr2pet"),
    ]
    assert list_models(Task.MR_TO_CT)[0].default


@pytest.mark.parametrize("name", ["no-such-model", "../atlas-fusion", "", "Atlas-Fusion"])
def test_unknown_models_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(MissingModel, match="atlas-fusion"):
        find_card(name)


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Resources folder of the test's own with a copy of one model's card."""
    folder = tmp_path / "Models" / "uniform-body"
    folder.mkdir(parents=True)
    original = resource("Models", "uniform-body", "card.yaml").read_text()
    (folder / "card.yaml").write_text(original)
    monkeypatch.setattr(registry, "resource", tmp_path.joinpath)
    return folder


def change_card(folder: Path, **changes: object) -> None:
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump(card | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"task": "mr-to-gold"}, "task"),
        ({"name": "other"}, "names itself"),
        ({"tested": {"anatomy": "head", "weight": 3}}, "weight"),
    ],
)
def test_a_wrong_card_is_refused(own_models: Path, changes: dict[str, object], words: str) -> None:
    read_card(own_models)
    change_card(own_models, **changes)
    with pytest.raises(MissingModel, match=words):
        read_card(own_models)


def test_a_model_of_a_new_folder_is_found_and_opened(own_models: Path) -> None:
    other = own_models.parent / "uniform-fat"
    other.mkdir()
    (other / "card.yaml").write_text((own_models / "card.yaml").read_text())
    settings = {"family": "uniform", "settings": {"tissue_hu": -100.0}}
    change_card(other, name="uniform-fat", architecture=settings)
    assert [c.name for c in list_models()] == ["uniform-body", "uniform-fat"]
    assert open_model("uniform-fat", Machine()).card.title


def test_unknown_settings_and_families_are_refused(own_models: Path) -> None:
    change_card(own_models, architecture={"family": "uniform", "settings": {"hu": 1}})
    with pytest.raises(MissingModel, match="hu"):
        open_model("uniform-body", Machine())
    change_card(own_models, architecture={"family": "sorcery", "settings": {}})
    with pytest.raises(MissingModel, match="sorcery"):
        open_model("uniform-body", Machine())


def test_altered_and_absent_files_are_refused(own_models: Path) -> None:
    weights = own_models.parent.parent / "w.bin"
    weights.write_bytes(b"as published")
    digest = registry.sha256_of(weights)
    change_card(own_models, files={"w.bin": digest})
    assert verify(find_card("uniform-body")) == (weights,)
    weights.write_bytes(b"as publisheD")
    with pytest.raises(MissingModel, match="SHA-256"):
        verify(find_card("uniform-body"))
    weights.unlink()
    with pytest.raises(MissingModel, match="not installed"):
        verify(find_card("uniform-body"))


# The laws of a synthesis


def test_uniform_body_is_tissue_in_air_on_the_grid_of_the_input(head: Volume) -> None:
    before = sitk.GetArrayFromImage(head.image)
    made = open_model("uniform-body", Machine()).synthesize({Role.MR: head}, Progress())
    assert made.volume.grid == head.grid
    assert (made.volume.role, made.volume.unit) == (Role.CT, Unit.HU)
    assert set(np.unique(made.volume.array)) == {-1000.0, 40.0}
    assert made.volume.array[head.array > 100].mean() > 30
    np.testing.assert_array_equal(sitk.GetArrayFromImage(head.image), before)


def test_missing_input_is_named(head: Volume) -> None:
    with pytest.raises(InputError, match="role mr"):
        open_model("uniform-body", Machine()).synthesize({Role.CT: head}, Progress())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def small_atlas_model(cache: Path) -> AtlasSynthesizer:
    """The default model with one atlas, affine, on a coarse grid: the same code in seconds."""
    card = find_card("atlas-fusion")
    first = settings_of(card, AtlasSettings).atlases[:1]
    settings = AtlasSettings(first, "affine", "fusion", working_mm=3.0, minimum_atlases=1)
    return AtlasSynthesizer(card, settings, Machine("cpu", 2, cache))


@pytest.fixture(scope="module")
def straight(head: Volume, cache: Path) -> Synthesis:
    """The answer to the head as it is stored."""
    return small_atlas_model(cache).synthesize({Role.MR: head}, Progress())


def assert_answers_alike(stored: Volume, head: Volume, cache: Path, straight: Synthesis) -> None:
    """Each part lies on the grid it came in, and once the axis order is undone it is the same."""
    made = small_atlas_model(cache).synthesize({Role.MR: stored}, Progress())
    assert made.uncertainty is not None
    for part in (made.volume, made.coverage, made.uncertainty):
        assert part.grid == stored.grid
    original = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
        head.image.GetDirection()
    )
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(made.volume.image, original))
    assert np.abs(back - straight.volume.array).mean() < 1.0


@pytest.mark.parametrize("code", ["RAS", "PIL", "SLP"])
def test_atlas_answer_does_not_depend_on_the_axis_order(
    head: Volume, cache: Path, straight: Synthesis, code: str
) -> None:
    stored = head.with_image(sitk.DICOMOrient(head.image, code))
    assert_answers_alike(stored, head, cache, straight)


def test_atlas_answer_turns_with_the_head(head: Volume, cache: Path, straight: Synthesis) -> None:
    """The patient lies turned and far away, the slices alike, and the axes are in another order."""
    image = sitk.Image(head.image)
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.4).GetMatrix(), (3, 3))
    image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    image.SetOrigin((turn @ image.GetOrigin() + [300, -80, 900]).tolist())
    image = sitk.DICOMOrient(image, "SAR")
    assert_answers_alike(head.with_image(image), head, cache, straight)


def test_atlas_puts_bone_around_the_brain_and_air_around_the_head(
    head: Volume, straight: Synthesis
) -> None:
    made = straight
    hu = made.volume.array
    x, y, z = (n // 2 for n in head.grid.size)
    column = hu[z:, y, x]  # from the middle of the brain to the vertex and beyond
    assert -20 < column[0] < 80
    assert column.max() > 300
    assert column[-1] == -1000
    assert (hu[made.coverage.array == 0] == -1000).all()
    assert set(made.facts["atlases"][0]) >= {"name", "mutual_information"}


def test_stopping_an_atlas_synthesis_raises(head: Volume, cache: Path) -> None:
    asked = False

    def listener(event: object) -> None:
        nonlocal asked
        asked = getattr(event, "stage", "") == "Registering the atlases" or asked

    with pytest.raises(Cancelled):
        small_atlas_model(cache).synthesize(
            {Role.MR: head}, Progress(listener, is_cancelled=lambda: asked)
        )


def test_unwritable_cache_is_said_and_costs_only_time(head: Volume, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    progress = Progress()
    model = small_atlas_model(tmp_path / "file")
    made = model.synthesize({Role.MR: head}, progress)
    assert made.volume.grid == head.grid
    assert any("could not be kept" in note for note in progress.notes)


# The parts of the atlas family


def test_local_correlation_is_one_with_a_linear_copy_and_small_with_noise() -> None:
    rng = np.random.default_rng(0)
    smooth = sitk.SmoothingRecursiveGaussian(
        sitk.GetImageFromArray(rng.normal(size=(40, 40, 40)).astype(np.float32)), 3.0
    )
    mr = volume(1000 * sitk.GetArrayFromImage(smooth) + 100)
    inside = mr.mask(np.ones((40, 40, 40), bool))
    local = LocalCorrelation(mr, inside, 6.0)
    core = (slice(8, -8),) * 3
    assert np.median(local.to(mr.with_array(3 * mr.array + 50))[core]) > 0.98
    assert np.median(local.to(mr.with_array(-mr.array))[core]) < -0.98
    noise = volume(rng.normal(size=(40, 40, 40)).astype(np.float32))
    assert abs(np.median(local.to(noise)[core])) < 0.3


def test_below_a_cut_nothing_is_known_but_below_skin_there_is_air() -> None:
    labels = np.zeros((10, 6, 12), np.int16)
    labels[4:8, 1:5, 1:5] = 507  # a chin: muscle
    labels[4, 1:5, 1:5] = 511  # with skin below
    labels[2:8, 1:5, 6:11] = 507  # a neck, cut: muscle down to the end
    known = known_region(volume(labels, Role.MASK)).array
    assert known[3, 2, 2] == 1  # air below the chin
    assert known[1, 2, 2] == 0  # below the lowest tissue of all
    assert known[1, 2, 8] == 0  # below the cut
    assert known[5, 2, 8] == 1
    assert known[9, 2, 8] == 1  # air above the head


def test_measured_figures_are_told_in_words_with_their_units() -> None:
    figures = {"head_mae_hu": 100.0, "mu_rmae_percent": 6.7, "bone_dice": 0.859, "psnr_db": 31.2}
    measured = Measurement(data="d", subjects=3, simulated=True, figures=figures, command="c")
    assert measured.text == "head MAE 100 HU, µ rMAE 6.7 %, bone Dice 0.859, PSNR 31.2 dB"
    body = measured.model_copy(update={"figures": {"mae_suv": 0.5, "false_lesions_per_scan": 2.25}})
    assert body.text == "MAE 0.5 SUV, false lesions per scan 2.25"

"""Paper 2's residual learning: equations 5 to 7 by hand, in a model and in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from small_models import small_settings, write_model
from test_examples import PAIRS, write_pair
from test_training import recipe

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis import atlas_prior
from SynthCTLib.synthesis.atlas_prior import (
    AtlasPrior,
    AtlasPriorSettings,
    AtlasPriorSynthesizer,
    difference_settings,
    saturated,
    weights_of,
)
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.patchwise import PatchwiseSettings
from SynthCTLib.synthesis.preparation import Preparation
from SynthCTLib.synthesis.registry import Machine, build_model
from SynthCTLib.synthesis.synthesizer import ModelCard, Synthesis
from SynthCTLib.training.engine import TrainingResult
from SynthCTLib.training.examples import Residue
from SynthCTLib.training.objective import Objective
from SynthCTLib.training.pairs import PairSource, find_subjects, split_of
from SynthCTLib.training.publication import card_of
from SynthCTLib.volume import AIR_HU, Role, Unit, Volume


def volume(array: np.ndarray, role: Role = Role.CT) -> Volume:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.0))
    return Volume(image, role, Unit.HU if role == Role.CT else Unit.ARBITRARY)


class Fixed:
    """Stands in for an atlas model or a network: gives one volume."""

    def __init__(self, made: Volume, coverage: np.ndarray | None = None) -> None:
        self.made = made
        seen = np.ones(made.array.shape, bool) if coverage is None else coverage
        self.coverage = made.mask(seen)

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        spread = self.made.with_array(np.full_like(self.made.array, 8), role=Role.UNCERTAINTY)
        return Synthesis(self.made, self.coverage, spread)


def test_equation_6_by_hand() -> None:
    smooth = np.array([0.0, 0.1, 0.4, 0.41, 1.0])
    assert saturated(smooth, 0.4) == pytest.approx([0, 0.25, 1, 1, 1])


def test_weights_are_one_on_bone_and_linear_in_the_smoothed_mask() -> None:
    hu = np.full((24, 24, 24), 40.0)
    hu[:, :, 12:] = 800
    hu[0, 0, 12] = 300
    prior = AtlasPrior(sigma_mm=3.0, threshold=0.5, alpha=(0.8, -0.5), beta=(0.1, 1.0))
    weights = weights_of(volume(hu), prior)
    # Half a plane smoothed is the normal distribution function of the distance over sigma.
    distance = 2.0 * (np.arange(24) - 11.5)
    smooth = 0.5 * (1 + np.vectorize(__import__("math").erf)(distance / 3 / np.sqrt(2)))
    roughly = np.minimum(smooth / 0.5, 1)
    middle = (12, 12)
    assert weights.network[middle] == pytest.approx(0.8 * roughly + 0.1, abs=0.02)
    assert weights.atlas[middle] == pytest.approx(1 - 0.5 * roughly, abs=0.02)


def test_a_prior_without_bone_leaves_the_network_no_say() -> None:
    weights = weights_of(volume(np.full((8, 8, 8), 40.0)), AtlasPrior())
    assert not weights.network.any()
    assert (weights.atlas == 1).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": [1.0, 0.5]},
        {"beta": [0.1, 1.0]},
        {"threshold": 0},
        {"sigma_mm": 0},
        {"models": "atlas-affine"},
    ],
)
def test_weights_that_leave_0_to_1_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AtlasPrior).validate_python(wrong)


def test_equation_5_in_a_model(tmp_path: Path) -> None:
    """S = W1 S_DNN + W2 S_atlas, kept in the range of a CT, and air where no atlas reaches."""
    hu = np.full((16, 16, 16), 40.0)
    hu[:, :, 8:] = 2900
    reached = np.ones(hu.shape, bool)
    reached[0] = False
    card = read_card(write_prior_model(tmp_path, "prior"))
    settings = TypeAdapter(AtlasPriorSettings).validate_python(card.architecture.settings)
    model = AtlasPriorSynthesizer(
        card, settings, Fixed(volume(hu), reached), Fixed(volume(np.full(hu.shape, 200.0)))
    )
    mr = volume(hu, Role.MR)
    made = model.synthesize({Role.MR: mr}, Progress())
    weights = weights_of(volume(hu), settings.prior)
    expected = np.clip(200 * weights.network + weights.atlas * hu, -1000, 3000)
    assert made.volume.array[1:] == pytest.approx(expected[1:], abs=1e-3)
    assert (made.volume.array[0] == AIR_HU).all()
    assert float(made.volume.array.max()) == 3000
    assert made.volume.grid == mr.grid
    assert made.uncertainty is not None
    assert made.uncertainty.array == pytest.approx(8 * weights.atlas)


def write_prior_model(models_dir: Path, name: str, prior: str = "uniform-body") -> Path:
    folder = write_model(models_dir, name)
    content = yaml.safe_load((folder / "card.yaml").read_text())
    content["architecture"] = {
        "family": "atlas_prior",
        "settings": {"prior": {"model": prior}, "network": small_settings()},
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(content))
    return folder


def built(folder: Path) -> tuple[ModelCard, AtlasPriorSynthesizer]:
    card = read_card(folder, folder)
    made = build_model(card, Machine(threads=1))
    assert isinstance(made, AtlasPriorSynthesizer)
    return card, made


def test_a_card_opens_prior_and_network_and_bounds_neither_to_a_ct(tmp_path: Path) -> None:
    _, model = built(write_prior_model(tmp_path, "mine"))
    assert model.atlas.card.name == "uniform-body"
    output = model.network.settings.output
    assert (output.low, output.high, output.outside) == (-4000, 4000, 0)
    assert model.settings.network.output.low == -1000
    with pytest.raises(MissingModel, match="its own prior"):
        built(write_prior_model(tmp_path, "itself", prior="itself"))
    with pytest.raises(MissingModel, match="no model named"):
        built(write_prior_model(tmp_path, "orphan", prior="atlas-of-nothing"))


def test_a_difference_is_zero_outside_the_head() -> None:
    plain = TypeAdapter(PatchwiseSettings).validate_python(small_settings())
    assert plain.output.outside == AIR_HU
    assert difference_settings(plain).output.outside == 0
    assert replace(difference_settings(plain), output=plain.output) == plain


# Training


def test_the_loss_is_of_the_sum_and_the_network_hears_of_it_by_its_weight() -> None:
    plain = recipe(objective="patch")
    objective = Objective(plain)
    network = torch.nn.Conv3d(2, 1, 1, bias=False)
    from test_training import Toy

    batch = Toy().batch(0)
    gain = torch.zeros_like(batch.targets)
    gain[..., 8:] = 0.5
    base = batch.targets + 7
    residue = Residue(gain, base)
    asked = objective.ask(
        network, replace(batch, residue=residue), torch.autocast("cpu", enabled=False)
    )
    own = 1000 * network(batch.images)
    assert torch.allclose(asked.predicted, gain * own + base)
    asked.loss.backward()
    assert network.weight.grad is not None
    assert float(network.weight.grad.abs().sum()) > 0
    silent = replace(batch, residue=Residue(torch.zeros_like(gain), base))
    asked = objective.ask(network, silent, torch.autocast("cpu", enabled=False))
    assert float(asked.loss.detach()) == pytest.approx(0.007)
    network.zero_grad()
    asked.loss.backward()
    assert float(network.weight.grad.abs().sum()) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("overviews", [False, True])
def test_pairs_carry_the_prior_of_their_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overviews: bool
) -> None:
    """The prior stands for the CT itself here: so it must be in every patch and case."""
    for number in range(3):
        write_pair(tmp_path / f"data/sub-{number}", number)
    subjects = find_subjects(tmp_path / "data")
    split = split_of(tuple(s.name for s in subjects), 3, 1, 0)

    class Oracle:
        def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
            mr = inputs[Role.MR]
            hu = np.where(mr.array > 0, mr.array - 500, -1000)
            return Synthesis(mr.with_array(hu, role=Role.CT, unit=Unit.HU), mr.mask(hu > -9999))

    caches = []

    def opened(name: str, machine: Machine) -> Oracle:
        assert name == "oracle"
        caches.append(machine.cache_dir)
        return Oracle()

    monkeypatch.setattr("SynthCTLib.training.pairs.open_model", opened)
    source = PairSource(
        PAIRS,
        subjects,
        split,
        Preparation(),
        tmp_path / "cache",
        1,
        "cpu",
        Progress(),
        overviews=overviews,
        prior=AtlasPrior(model="oracle"),
    )
    assert set(caches) == {tmp_path / "cache"}  # atlases are made once, not for each subject
    batch = source.batch(0)
    assert batch.residue is not None
    known = batch.weights > 0
    off = (batch.residue.base - batch.targets).abs()[known & (batch.targets > -900)]
    assert float(off.max()) <= 1.0
    assert 0 <= float(batch.residue.gain.min()) < float(batch.residue.gain.max()) <= 1
    (case,) = source.cases()
    assert case.residue is not None
    assert case.residue.base.shape == case.target.shape
    # The prior is another pair: it is not read from what was kept without it.
    plain = PairSource(
        PAIRS, subjects, split, Preparation(), tmp_path / "cache", 1, "cpu", Progress()
    )
    assert plain.batch(0).residue is None
    from SynthCTLib.training.pair_variation import PairVariation

    with pytest.raises(InputError, match="not varied"):
        PairSource(
            replace(PAIRS, variation=PairVariation(noise=0.1)),
            subjects,
            split,
            Preparation(),
            tmp_path / "cache",
            1,
            "cpu",
            Progress(),
            prior=AtlasPrior(),
        )


def test_the_card_of_a_trained_residual_model_names_prior_and_network(tmp_path: Path) -> None:
    trained = recipe(prior={"model": "atlas-deformable", "sigma_mm": 5.0})
    card = card_of(trained, TrainingResult(1, True, {}, None), "0" * 64, "mine")
    settings = TypeAdapter(AtlasPriorSettings).validate_python(card["architecture"]["settings"])
    assert card["architecture"]["family"] == "atlas_prior"
    assert settings.prior == trained.prior
    assert settings.network.network == "two_view_unet"
    assert atlas_prior.__doc__ is not None

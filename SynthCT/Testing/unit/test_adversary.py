"""The adversary: its losses by hand, who learns from what, and that a resume is exact."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import StopAt, Toy, recipe, same

from SynthCTLib.errors import Cancelled, InputError
from SynthCTLib.progress import Progress
from SynthCTLib.training.adversary import adversary_of, distance, own_numbers
from SynthCTLib.training.engine import TrainingOptions, train
from SynthCTLib.training.examples import Batch
from SynthCTLib.training.processes import ALONE
from SynthCTLib.training.recipe import OutputPart, Recipe

JUDGE = {"name": "patchgan", "settings": {"channels": [4, 8], "dimensions": 3}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adversarial(steps: int = 6, **part: Any) -> Recipe:
    return recipe(steps=steps, adversary={"network": JUDGE, **part})


def test_least_squares_and_cross_entropy_by_hand() -> None:
    judged = torch.tensor([0.0, 3.0])
    assert float(distance(judged, True, "least-squares")) == (1 + 4) / 2 / 2  # halves: eqs. 3, 4
    assert float(distance(judged, False, "least-squares")) == (0 + 9) / 2 / 2
    entropy = (math.log(2) + math.log(1 + math.exp(-3))) / 2
    assert float(distance(judged, True, "cross-entropy")) == pytest.approx(entropy)


def test_the_discriminator_sees_the_networks_numbers_and_nothing_unknown() -> None:
    hu = torch.tensor([500.0, 5000.0]).reshape(1, 1, 1, 1, 2)
    known = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2)
    seen = own_numbers(hu, known, OutputPart(scale=1000, offset=-500, low=-1000))
    assert seen.flatten().tolist() == [1.0, -0.5]


@pytest.mark.parametrize("loss", ["least-squares", "cross-entropy"])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_discriminator_alone_learns_to_tell(loss: str, conditional: bool) -> None:
    torch.manual_seed(0)
    channels = 3 if conditional else 1
    network = {**JUDGE, "settings": {**JUDGE["settings"], "in_channels": channels}}
    wanted = adversarial(
        loss=loss,
        conditional=conditional,
        network=network,
        optimiser={"learning_rate": 0.01},
    ).model_copy(update={"preparation": _two_channels()})
    judge = adversary_of(wanted, "cpu")
    assert judge is not None
    batch = Toy().batch(0)
    blurred = torch.full_like(batch.targets, float(batch.targets.mean())).requires_grad_()
    told = [float(judge.learn(batch, blurred, 1.0, ALONE)) for _ in range(40)]
    assert told[-1] < 0.5 * told[0]
    synthetic = float(judge.fool(batch, blurred).detach())
    assert synthetic > 2 * float(judge.fool(batch, batch.targets))  # it is not fooled
    assert blurred.grad is None  # learning teaches the discriminator alone
    judge.fool(batch, blurred).backward()
    assert blurred.grad is not None
    assert float(blurred.grad.abs().sum()) > 0
    assert all(p.grad is None for p in judge.network.parameters())  # and fooling the network


def _two_channels() -> Any:
    from SynthCTLib.synthesis.preparation import Preparation

    return Preparation(scanned_channel=True)


def test_a_step_in_which_nothing_is_finite_leaves_the_discriminator() -> None:
    judge = adversary_of(adversarial(), "cpu")
    assert judge is not None
    batch = Toy().batch(0)
    before = {k: v.clone() for k, v in judge.network.state_dict().items()}
    judge.learn(batch, torch.full_like(batch.targets, math.nan), 1.0, ALONE)
    assert same(before, dict(judge.network.state_dict()))


def test_what_has_no_weight_is_judged_alike(tmp_path: Path) -> None:
    judge = adversary_of(adversarial(), "cpu")
    assert judge is not None
    plain = Toy().batch(0)
    weights = plain.weights.clone()
    weights[..., 8:] = 0
    spoiled = plain.targets.clone()
    spoiled[..., 8:] = 1e5
    batch = Batch(plain.images, plain.targets, weights)
    assert float(judge.fool(batch, spoiled)) == float(judge.fool(batch, plain.targets))


def test_an_adversarial_training_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(adversarial(), Toy(), TrainingOptions(tmp_path / "whole"), Progress())
    with pytest.raises(Cancelled):
        train(
            adversarial(),
            Toy(),
            TrainingOptions(tmp_path / "parts"),
            Progress(is_cancelled=StopAt(3)),
        )
    rest = TrainingOptions(tmp_path / "parts", resume=True)
    assert same(whole.weights, train(adversarial(), Toy(), rest, Progress()).weights)
    with (tmp_path / "whole/log.csv").open(newline="") as stream:
        parts = next(csv.DictReader(stream))["parts"]
    assert "fool=" in parts
    assert "discriminator=" in parts


def test_the_network_hears_from_the_adversary(tmp_path: Path) -> None:
    plain = train(recipe(steps=6), Toy(), TrainingOptions(tmp_path / "plain"), Progress())
    told = train(adversarial(), Toy(), TrainingOptions(tmp_path / "told"), Progress())
    assert not same(plain.weights, told.weights)


def test_a_discriminator_with_the_wrong_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in_channels to 2"):
        train(adversarial(conditional=True), Toy(), TrainingOptions(tmp_path), Progress())

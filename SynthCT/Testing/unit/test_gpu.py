"""What a CUDA device computes is what the CPU computes; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from SynthCTLib.imaging.files import read_volume
from SynthCTLib.networks import build_network
from SynthCTLib.physics.projector import Projector, TimeOfFlight
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.training.engine import TrainingOptions, train
from SynthCTLib.training.examples import Batch, Case
from SynthCTLib.training.recipe import Recipe, read_recipe
from SynthCTLib.volume import Role

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = "cuda:0"
SETTINGS = {"channels": [4, 8, 8]}


class Ramps:
    """Batches that follow from the step, and no cases."""

    epoch_steps = 4

    def __init__(self, device: str) -> None:
        self.device = device

    def batch(self, step: int, rank: int = 0) -> Batch:
        """Noise, and a target that can be learned from it."""
        generator = torch.Generator().manual_seed(step)
        images = torch.rand((2, 1, 16, 32, 32), generator=generator)
        hu = 1000 * images - 500
        return Batch(*(t.to(self.device) for t in (images, hu, torch.ones_like(hu))))

    def cases(self) -> Iterator[Case]:
        """None."""
        return iter(())


def recipe(steps: int, precision: str = "fp32") -> Recipe:
    made = read_recipe("paper1-small")
    network = made.network.model_copy(update={"settings": SETTINGS})
    return made.model_copy(update={"steps": steps, "precision": precision, "network": network})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_head_model_answers_as_on_the_cpu(precision: str) -> None:
    mr = read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)
    cpu, gpu = (
        open_model("head-unet", Machine(device, 2, engine="torch", precision=used)).synthesize(
            {Role.MR: mr}, Progress()
        )
        for device, used in (("cpu", "fp32"), (GPU, precision))
    )
    assert gpu.facts["device"] == GPU
    inside = cpu.volume.array > -1000
    change = np.abs(cpu.volume.array - gpu.volume.array)[inside]
    assert change.mean() < 2
    assert cpu.volume.array.std() > 100


@pytest.mark.parametrize("timing", [None, TimeOfFlight()])
def test_the_projector_counts_as_on_the_cpu(timing: TimeOfFlight | None) -> None:
    image = torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(0))
    cpu, gpu = (Projector((32, 32), (4.0, 4.0), 24, timing, d) for d in ("cpu", GPU))
    seen, there = cpu.forward(image), gpu.forward(image)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), seen, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gpu.adjoint(there).cpu(), cpu.adjoint(seen), rtol=1e-4, atol=1e-2)


def answer(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    network = build_network("shuffle_unet", SETTINGS)
    network.load_state_dict({name: value.cpu() for name, value in weights.items()})
    with torch.inference_mode():
        made: torch.Tensor = network.eval()(Ramps("cpu").batch(99).images)
    return made


def test_a_network_learns_the_same_as_on_the_cpu(tmp_path: Path) -> None:
    # What it answers is compared: a bias before an instance norm has no gradient but rounding.
    cpu, gpu = (
        train(recipe(6), Ramps(d), TrainingOptions(tmp_path / d[:4], d), Progress()).weights
        for d in ("cpu", GPU)
    )
    torch.manual_seed(recipe(6).seed)
    learned = (answer(cpu) - answer(build_network("shuffle_unet", SETTINGS).state_dict())).abs()
    assert (answer(cpu) - answer(gpu)).abs().mean() < 0.02 * learned.mean()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_training_ends_as_one_that_was_not_stopped(
    tmp_path: Path, precision: str
) -> None:
    source = Ramps(GPU)
    torch.backends.cudnn.deterministic = True
    try:
        whole = train(
            recipe(8, precision), source, TrainingOptions(tmp_path / "w", GPU), Progress()
        )
        train(recipe(4, precision), source, TrainingOptions(tmp_path / "s", GPU), Progress())
        again = TrainingOptions(tmp_path / "s", GPU, resume=True)
        parts = train(recipe(8, precision), source, again, Progress())
    finally:
        torch.backends.cudnn.deterministic = False
    torch.manual_seed(recipe(8).seed)
    start = build_network("shuffle_unet", SETTINGS).state_dict()
    for name, value in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], value, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(whole.weights[n].cpu(), start[n]) for n in start)

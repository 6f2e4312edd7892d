"""Training: the engine's laws, losses, schedules, recipes and the model folder it leaves."""

from __future__ import annotations

import csv
import errno
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from SynthCTLib.errors import Cancelled, InputError, MissingModel, OutputError
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress
from SynthCTLib.training import losses
from SynthCTLib.training.checkpoint import FILE, read_checkpoint
from SynthCTLib.training.engine import BAD_STEPS, Diverged, TrainingOptions, train
from SynthCTLib.training.examples import Batch, Case, Overviews
from SynthCTLib.training.precision import keep_small_images_whole
from SynthCTLib.training.publication import WEIGHTS_FILE, publish
from SynthCTLib.training.recipe import Recipe, list_recipes, read_recipe
from SynthCTLib.training.schedule import Schedule

SIDE = 16
VOLUME = (64, 16, 16)  # the wide view needs two voxels at a thirty-second


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same weights to the last bit need the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Toy:
    """Random patches whose HU is a smooth function of the image: learnable in a few steps."""

    epoch_steps = 4

    def __init__(self, poison_from: int | None = None) -> None:
        self.poison_from = poison_from

    def batch(self, step: int, rank: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(1000 * step + rank)
        volumes = [self._smooth(generator) for _ in range(2)]
        answers = [1000 * (v[:, :1] - v[:, 1:]) for v in volumes]
        if self.poison_from is not None and step >= self.poison_from:
            answers = [a * math.nan for a in answers]
        corners = ((16, 0, 0), (32, 0, 0))
        cut = [slice(z, z + SIDE) for z, _, _ in corners]
        image = torch.cat([v[:, :, c] for v, c in zip(volumes, cut, strict=True)])
        hu = torch.cat([a[:, :, c] for a, c in zip(answers, cut, strict=True)])
        coarse = tuple(nn.functional.avg_pool3d(a, 4) for a in answers)
        overviews = Overviews(
            tuple(self._pooled(v) for v in volumes),
            coarse,
            tuple(torch.ones_like(c) for c in coarse),
            (0, 1),
            corners,
        )
        return Batch(image, hu, torch.ones_like(hu), overviews)

    def cases(self) -> Iterator[Case]:
        volume = self._smooth(torch.Generator().manual_seed(5))[0]
        yield Case("toy", volume, 1000 * (volume[0] - volume[1]), torch.ones(VOLUME))

    @staticmethod
    def _smooth(generator: torch.Generator) -> torch.Tensor:
        coarse = torch.rand((1, 2, *(n // 8 for n in VOLUME)), generator=generator)
        return nn.functional.interpolate(coarse, VOLUME, mode="trilinear")

    @staticmethod
    def _pooled(image: torch.Tensor) -> torch.Tensor:
        network = build_network("two_view_unet", {"fine": [4, 4, 4], "wide": [4, 4, 4, 4]})
        pooled: torch.Tensor = network.pool(image)
        return pooled


def recipe(**changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "toy",
        "task": "mr-to-ct",
        "network": {
            "name": "two_view_unet",
            "settings": {"fine": [4, 4, 4], "wide": [4, 4, 4, 4]},
        },
        "objective": "two-view",
        "source": {"kind": "heads"},
        "losses": [{"name": "l1"}],
        "optimiser": {"learning_rate": 0.01},
        "schedule": {"warmup_steps": 2},
        "validation": {"every_epochs": 1},
        "steps": 12,
        "average": 0.9,
        "seed": 3,
        "model": {"title": "Toy", "window": {"patch": [16, 16, 16]}},
    }
    return Recipe.model_validate({**content, **changes})


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class StopAt:
    """A progress that is asked to stop at a step."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_loss_falls_and_validation_is_kept(tmp_path: Path) -> None:
    result = train(recipe(steps=60), Toy(), TrainingOptions(tmp_path), Progress())
    assert result.complete
    assert result.step == 60
    first, last = result.history[0][1], result.history[-1][1]
    assert last < 0.7 * first
    assert result.best_mae == min(mae for _, mae in result.history)
    assert "validation_mae" in (tmp_path / "log.csv").read_text()


@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_a_stopped_training_resumed_ends_with_the_same_weights(
    tmp_path: Path, stop_after: int
) -> None:
    whole = train(recipe(), Toy(), TrainingOptions(tmp_path / "whole"), Progress())
    parts = TrainingOptions(tmp_path / "parts")
    with pytest.raises(Cancelled):
        train(recipe(), Toy(), parts, Progress(is_cancelled=StopAt(stop_after)))
    kept = read_checkpoint(tmp_path / "parts")
    assert kept is not None
    assert 0 < kept.step < 12
    resumed = train(recipe(), Toy(), TrainingOptions(tmp_path / "parts", resume=True), Progress())
    assert same(whole.weights, resumed.weights)
    assert whole.history == resumed.history
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "parts/log.csv").read_text()


def test_a_training_stopped_by_time_says_so_and_goes_on(tmp_path: Path) -> None:
    short = TrainingOptions(tmp_path, max_minutes=0.0)
    first = train(recipe(), Toy(), short, Progress())
    assert not first.complete
    assert first.step == 1
    rest = train(recipe(), Toy(), TrainingOptions(tmp_path, resume=True), Progress())
    assert rest.complete
    whole = train(recipe(), Toy(), TrainingOptions(tmp_path / "whole"), Progress())
    assert same(whole.weights, rest.weights)


def test_a_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Killed by SIGKILL while it writes a checkpoint every step: the last whole one is used."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_training as t; "
        "t.torch.set_num_threads(1); "
        "from pathlib import Path; from SynthCTLib.progress import Progress; "
        "from SynthCTLib.training.engine import TrainingOptions, train; "
        "train(t.recipe(steps=400), t.Toy(), "
        "TrainingOptions(Path(sys.argv[2]), checkpoint_minutes=0.0), Progress())"
    )
    here, folder = Path(__file__).parent, tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", script, str(here), str(folder)])
    deadline = time.monotonic() + 60
    while not (folder / FILE).is_file():
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = read_checkpoint(folder)
    assert kept is not None
    stop = kept.step + 3
    longer = recipe(steps=400)
    resumed = _until(stop, longer, TrainingOptions(folder, resume=True))
    straight = _until(stop, longer, TrainingOptions(tmp_path / "straight"))
    assert resumed == straight


def _until(step: int, wanted: Recipe, options: TrainingOptions) -> list[bytes]:
    """The bytes of the weights in the checkpoint once a step is done."""
    begun = read_checkpoint(options.folder)
    # One check at the beginning of the stage, then one each step.
    calls = step - (begun.step if begun else 0)
    with pytest.raises(Cancelled):
        train(wanted, Toy(), options, Progress(is_cancelled=StopAt(calls)))
    kept = read_checkpoint(options.folder)
    assert kept is not None
    assert kept.step == step
    return [value.numpy().tobytes() for value in kept.content["network"].values()]


def test_numbers_that_are_not_finite_change_no_weight_and_end_the_training(tmp_path: Path) -> None:
    healthy = _until(4, recipe(steps=100), TrainingOptions(tmp_path / "healthy"))
    poisoned = TrainingOptions(tmp_path / "poisoned", checkpoint_minutes=0.0)
    with pytest.raises(Diverged, match="step"):
        train(recipe(steps=100), Toy(poison_from=4), poisoned, Progress())
    kept = read_checkpoint(tmp_path / "poisoned")
    assert kept is not None
    assert kept.step < 4 + BAD_STEPS
    for name, value in kept.content["network"].items():
        if "running" not in name and "num_batches" not in name:
            assert torch.isfinite(value).all()
    parameters = build_network("two_view_unet", recipe().network.settings).named_parameters()
    names = [name for name, _ in parameters]
    order = list(kept.content["network"])
    assert all(
        kept.content["network"][n].numpy().tobytes() == healthy[order.index(n)] for n in names
    )


def test_a_second_training_is_not_begun_over_a_first(tmp_path: Path) -> None:
    train(recipe(steps=2), Toy(), TrainingOptions(tmp_path), Progress())
    with pytest.raises(InputError, match="--resume"):
        train(recipe(steps=2), Toy(), TrainingOptions(tmp_path), Progress())
    other = recipe(optimiser={"learning_rate": 0.5})
    with pytest.raises(InputError, match="optimiser"):
        train(other, Toy(), TrainingOptions(tmp_path, resume=True), Progress())
    with pytest.raises(InputError, match="no checkpoint"):
        train(recipe(), Toy(), TrainingOptions(tmp_path / "new", resume=True), Progress())
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(InputError, match="cannot be read"):
        train(recipe(), Toy(), TrainingOptions(tmp_path, resume=True), Progress())


def test_half_precision_on_the_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bf16"):
        train(recipe(precision="fp16"), Toy(), TrainingOptions(tmp_path), Progress())


def test_bf16_begins_where_fp32_does(tmp_path: Path) -> None:
    """Rounding to 8 bits changes a loss by about a percent; later steps drift apart."""
    losses_of = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        train(recipe(steps=1, precision=precision), Toy(), TrainingOptions(folder), Progress())
        with (folder / "log.csv").open(newline="") as stream:
            losses_of[precision] = [float(row["loss"]) for row in csv.DictReader(stream)]
    assert losses_of["bf16"][0] != losses_of["fp32"][0]
    assert losses_of["bf16"][0] == pytest.approx(losses_of["fp32"][0], rel=0.03)


@pytest.mark.parametrize(
    ("kind", "kernel", "side"),
    [(nn.Conv3d, 3, 2), (nn.Conv2d, 7, 2), (nn.ConvTranspose3d, 3, 2)],
)
def test_bf16_learns_on_small_images_whatever_the_memory_holds(
    kind: type[nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d], kernel: int, side: int
) -> None:
    torch.manual_seed(1)
    network = kind(64, 64, kernel, padding=kernel // 2)
    image = torch.randn(1, 64, *[side] * (network.weight.ndim - 2))
    network(image).square().sum().backward()
    assert network.weight.grad is not None
    wanted = network.weight.grad.clone()
    keep_small_images_whole(network)
    for _ in range(4):
        network.zero_grad()
        for size in (1, 2):  # freed at once: what is next takes its place
            torch.full((size * network.weight.numel(),), float("nan"))
        with torch.autocast("cpu", torch.bfloat16):
            made = network(image)
        made.square().sum().backward()
        assert torch.equal(network.weight.grad, wanted)


def test_bf16_stays_bf16_on_wide_images() -> None:
    network = nn.Conv2d(4, 4, 3, padding=1)
    keep_small_images_whole(network)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.zeros(1, 4, 8, 8)).dtype == torch.bfloat16
        assert network(torch.zeros(1, 4, 8, 3)).dtype == torch.float32
    assert network(torch.zeros(1, 4, 8, 8)).dtype == torch.float32


def test_the_objective_of_two_views_needs_overviews(tmp_path: Path) -> None:
    plain = recipe(network={"name": "shuffle_unet", "settings": {"channels": [4, 8]}})
    with pytest.raises(InputError, match="wide view"):
        train(plain, Toy(), TrainingOptions(tmp_path), Progress())


# Losses


def grids(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    p, t = (torch.from_numpy(rng.uniform(-1000, 1500, (2, 1, 5, 6, 7))) for _ in range(2))
    return p, t, torch.from_numpy(rng.uniform(0, 1, p.shape))


def test_l1_and_l2_by_numpy() -> None:
    p, t, w = grids()
    v = w.numpy() * (1 + 2 * (t.numpy() > 250))
    expected = np.average(np.abs(p.numpy() - t.numpy()), weights=v) / 1000
    assert float(losses.l1(p, t, w, bone_weight=2)) == pytest.approx(expected)
    squared = np.average((p.numpy() - t.numpy()) ** 2, weights=w.numpy()) / 1e6
    assert float(losses.l2(p, t, w)) == pytest.approx(squared)


def test_a_stated_error_is_best_where_it_is_the_error_and_leaves_the_answer_alone() -> None:
    t = torch.zeros(1, 1, 4, 4, 4)
    p = torch.full_like(t, 150.0, requires_grad=True)
    w = torch.ones_like(t)
    log_b = torch.full_like(t, math.log(0.15), requires_grad=True)
    loss = losses.stated_error(log_b, p, t, w)
    assert float(loss.detach()) == pytest.approx(1 + math.log(0.15))  # e / b = 1
    loss.backward()
    assert log_b.grad is not None
    assert log_b.grad.abs().max() == pytest.approx(0, abs=1e-6)
    assert p.grad is None
    with torch.no_grad():
        for other in (0.1, 0.2):
            assert losses.stated_error(torch.full_like(t, math.log(other)), p, t, w) > loss
        assert float(losses.stated_error(log_b, p, t, 0 * w)) == 0


def test_gradient_difference_by_hand() -> None:
    """A step of 100 HU along x in the target, none in the prediction: one of two pairs."""
    t = torch.tensor([0.0, 100.0, 100.0]).reshape(1, 1, 1, 1, 3).repeat(1, 1, 2, 2, 1)
    p = torch.zeros_like(t)
    expected = (0 + 0 + 100**2 / 2) / 3 / 1e6
    assert float(losses.gradient_difference(p, t, torch.ones_like(t))) == pytest.approx(expected)
    # The magnitude counts, not the sign.
    assert float(losses.gradient_difference(-t, t, torch.ones_like(t))) == 0


def test_gradient_difference_of_a_slice_is_over_the_axes_it_has() -> None:
    t = torch.tensor([0.0, 100.0, 100.0]).reshape(1, 1, 1, 1, 3).repeat(1, 1, 1, 2, 1)
    found = losses.gradient_difference(torch.zeros_like(t), t, torch.ones_like(t))
    assert float(found) == pytest.approx((0 + 100**2 / 2) / 2 / 1e6)


def test_bone_cross_entropy_by_hand() -> None:
    """A bone voxel of logit 2 with weight 5 and a soft one of logit -1, half of it counted."""
    p = torch.tensor([500.0, 200.0]).reshape(1, 1, 1, 1, 2)
    t = torch.tensor([300.0, 299.0]).reshape(1, 1, 1, 1, 2)
    w = torch.tensor([1.0, 0.5]).reshape(1, 1, 1, 1, 2)
    expected = (5 * math.log(1 + math.exp(-2)) + 0.5 * math.log(1 + math.exp(-1))) / 5.5
    found = losses.bone_cross_entropy(p, t, 2 * w, bone_weight=5.0)
    assert float(found) == pytest.approx(expected)


def test_bone_dice_of_sure_answers_is_that_of_masks() -> None:
    t = torch.full((1, 1, 4, 4, 4), 0.0)
    t[..., :2] = 1000
    p = torch.zeros_like(t)
    p[..., 1:3] = 1000
    w = torch.ones_like(t)
    sharp = losses.bone_dice(p, t, w, width_hu=1.0)
    assert float(sharp) == pytest.approx(1 - (2 * 16 + 1) / (64 + 1), abs=1e-6)
    assert float(losses.bone_dice(t, t, w, width_hu=1.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_no_loss_counts_what_has_no_weight(name: str) -> None:
    p, t, w = grids(1)
    w[..., 3:] = 0
    spoiled = p.clone()
    spoiled[..., 3:] = 1e5
    loss = losses.loss_named(name, {})
    assert float(loss(p, t, w)) == pytest.approx(float(loss(spoiled, t, w)))
    assert float(loss(p, t, w)) > 0
    assert float(loss(t, t, w)) < float(loss(p, t, w))


def test_unknown_losses_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no loss named"):
        losses.loss_named("l3", {})
    with pytest.raises(InputError, match="no setting"):
        losses.loss_named("l2", {"bone_weight": 1.0})


# Schedule


def test_stable_decay_rises_stays_and_falls() -> None:
    part = {"warmup_steps": 10, "decay_share": 0.5}
    schedule = Schedule(recipe(steps=100, schedule=part, optimiser={"learning_rate": 1.0}))
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(9) == schedule.rate(49) == 1.0
    assert schedule.rate(75) == pytest.approx(0.5)
    assert schedule.rate(99) == pytest.approx(0.02)


def test_plateau_rule_of_paper_1() -> None:
    """3e-3 until no epoch of 100 was 1 HU better, then 3e-4 from the best weights, then the end."""
    part = {"kind": "plateau", "warmup_steps": 0, "patience_epochs": 100, "rates": [3e-4]}
    schedule = Schedule(recipe(schedule=part, optimiser={"learning_rate": 3e-3}))
    assert not schedule.validated(5, 200.0)
    assert not schedule.validated(10, 150.0)
    assert not schedule.validated(105, 149.5)  # half a HU is no improvement
    assert schedule.rate(10**6) == 3e-3
    assert schedule.validated(110, 149.5)
    assert schedule.rate(10**6) == 3e-4
    assert not schedule.validated(150, 120.0)
    assert not schedule.validated(249, 119.5)
    assert not schedule.finished
    assert not schedule.validated(250, 119.5)
    assert schedule.finished


def test_plateau_rule_ends_a_training_with_the_best_weights(tmp_path: Path) -> None:
    part = {"kind": "plateau", "warmup_steps": 0, "patience_epochs": 2, "improvement": 1e6}
    result = train(recipe(steps=10**6, schedule=part), Toy(), TrainingOptions(tmp_path), Progress())
    assert result.complete
    assert result.step < 100
    network = build_network("two_view_unet", recipe().network.settings)
    network.load_state_dict(result.weights)
    network.eval()
    case = next(Toy().cases())
    with torch.inference_mode():
        mae = float((1000 * network(case.image[None])[0, 0] - case.target).abs().mean())
    assert mae == pytest.approx(result.best_mae, rel=1e-3)


# Recipes and the model folder


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_valid_and_its_network_builds(name: str) -> None:
    shipped = read_recipe(name)
    assert shipped.name == name
    assert sum(
        p.numel()
        for p in build_network(shipped.network.name, shipped.network.settings).parameters()
    )


def test_recipes_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe named"):
        read_recipe("no-such-recipe")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(str(tmp_path / "absent.yaml"))
    content = recipe().model_dump(mode="json")
    for change in ({"stepps": 3}, {"steps": 0}, {"precision": "fp8"}, {"losses": []}):
        path = tmp_path / "wrong.yaml"
        path.write_text(yaml.safe_dump({**content, **change}))
        with pytest.raises(InputError, match="not valid"):
            read_recipe(str(path))


def test_a_checkpoint_whose_recipe_has_other_keys_is_refused_by_what_it_is(tmp_path: Path) -> None:
    train(recipe(steps=1), Toy(), TrainingOptions(tmp_path), Progress())
    content = torch.load(tmp_path / FILE, weights_only=True)
    content["recipe"] = content["recipe"].replace('"low":', '"lowest":')
    torch.save(content, tmp_path / FILE)
    with pytest.raises(InputError, match=r"not one of this version .*begin again in another"):
        train(recipe(), Toy(), TrainingOptions(tmp_path, resume=True), Progress())


def test_the_model_folder_holds_the_weights_in_half_precision(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from SynthCTLib.synthesis.card import read_card
    from SynthCTLib.volume import sha256_of

    result = train(recipe(steps=2), Toy(), TrainingOptions(tmp_path), Progress())
    folder = publish(recipe(steps=2), result, tmp_path / "toy")
    card = read_card(folder)
    assert card.files == {WEIGHTS_FILE: sha256_of(folder / WEIGHTS_FILE)}
    assert "all of 2 steps" in " ".join(card.limits)
    state = load_file(folder / WEIGHTS_FILE)
    assert state.keys() == result.weights.keys()
    for name, value in state.items():
        wanted = result.weights[name].detach()
        if wanted.is_floating_point():
            assert value.dtype == torch.float16
            assert torch.allclose(value.float(), wanted, rtol=1e-3, atol=1e-6)
    assert (folder / "training-log.csv").is_file()
    assert not list(tmp_path.glob(".*.part"))


def test_fine_tuning_starts_from_the_weights_given(tmp_path: Path) -> None:
    first = train(recipe(steps=30), Toy(), TrainingOptions(tmp_path / "a"), Progress())
    publish(recipe(), first, tmp_path / "a/toy")
    weights = tmp_path / "a/toy" / WEIGHTS_FILE
    still = recipe(steps=1, optimiser={"learning_rate": 1e-12}, average=0)
    tuned = train(still, Toy(), TrainingOptions(tmp_path / "b", init=weights), Progress())
    for name, _ in build_network("two_view_unet", recipe().network.settings).named_parameters():
        assert torch.allclose(tuned.weights[name], first.weights[name], rtol=1e-3, atol=1e-6)
    other = recipe(network={"name": "two_view_unet", "settings": {"fine": [8, 4, 4]}})
    with pytest.raises(MissingModel):
        train(other, Toy(), TrainingOptions(tmp_path / "c", init=weights), Progress())


def test_a_model_folder_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    result = train(recipe(steps=1), Toy(), TrainingOptions(tmp_path), Progress())
    publish(recipe(steps=1), result, tmp_path / "toy")
    before = (tmp_path / "toy" / WEIGHTS_FILE).read_bytes()
    (tmp_path / ".toy.part").write_text("a file in the way")
    with pytest.raises(OutputError):
        publish(recipe(steps=1), result, tmp_path / "toy")
    assert (tmp_path / "toy" / WEIGHTS_FILE).read_bytes() == before


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Each sees other examples; the gradients are averaged, so both end with the same weights."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_training as t; "
        "from pathlib import Path; import torch; from SynthCTLib.progress import Progress; "
        "from SynthCTLib.training.engine import TrainingOptions, train; "
        "from SynthCTLib.training.processes import join; p = join(os.environ, 'cpu'); "
        "r = train(t.recipe(steps=3, average=0), t.Toy(), "
        "TrainingOptions(Path(sys.argv[2]), processes=p), Progress()); "
        "torch.save(r.weights, sys.argv[2] + f'/rank{p.rank}.pt')"
    )
    base = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    children = [
        subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1", **base, "RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    one, two = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2))
    names = [
        n for n, _ in build_network("two_view_unet", recipe().network.settings).named_parameters()
    ]
    assert all(torch.equal(one[n], two[n]) for n in names)
    alone = train(
        recipe(steps=3, average=0), Toy(), TrainingOptions(tmp_path / "alone"), Progress()
    )
    assert not all(torch.equal(one[n], alone.weights[n]) for n in names)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(steps=2), Toy(), TrainingOptions(tmp_path), Progress())
    before = (tmp_path / FILE).read_bytes()

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="space"):
        train(recipe(steps=4), Toy(), TrainingOptions(tmp_path, resume=True), Progress())
    assert (tmp_path / FILE).read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

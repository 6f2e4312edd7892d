"""The engine: one loop for every recipe, stoppable at any step and resumable to the exact step.

A checkpoint holds all that the next step depends on; what a step sees follows from its number. A
training that was stopped and resumed therefore ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from SynthCTLib.errors import Cancelled, InputError, SynthCTError
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress
from SynthCTLib.training.adversary import Adversary, adversary_of
from SynthCTLib.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from SynthCTLib.training.examples import Source
from SynthCTLib.training.journal import Journal
from SynthCTLib.training.objective import Objective
from SynthCTLib.training.precision import autocast, keep_small_images_whole
from SynthCTLib.training.processes import ALONE, Processes
from SynthCTLib.training.recipe import Recipe
from SynthCTLib.training.schedule import Schedule

FOREIGN_SUFFIXES = (".ckpt", ".pt", ".pth")
BAD_STEPS = 10  # so many in a row without a finite gradient end the training


class Diverged(SynthCTError):
    """The training came to numbers that are not finite, again and again."""


@dataclass(frozen=True)
class TrainingOptions:
    """Where and how long to train.

    ``folder`` takes checkpoint and logs. ``resume`` goes on from its checkpoint, ``init`` starts
    from the weights of a file. ``max_minutes`` stops after that time with a checkpoint, which is
    also written every ``checkpoint_minutes``.
    """

    folder: Path
    device: str = "cpu"
    resume: bool = False
    init: Path | None = None
    max_minutes: float | None = None
    checkpoint_minutes: float = 5.0
    processes: Processes = ALONE


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended. ``weights`` are those to keep: averaged, or best where validated.

    ``best_mae`` and the errors of ``history`` are in HU, or in SUV where a PET is made.
    """

    step: int
    complete: bool
    weights: dict[str, Tensor]
    best_mae: float | None
    history: tuple[tuple[int, float], ...] = ()


@dataclass
class _State:
    """What changes while training."""

    network: nn.Module
    average: nn.Module | None
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    adversary: Adversary | None = None
    step: int = 0
    begun: int = 0  # the step at which this process began
    bad_steps: int = 0
    best_mae: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)


def train(
    recipe: Recipe, source: Source, options: TrainingOptions, progress: Progress
) -> TrainingResult:
    """Train until the recipe's steps are done, the time is up, or the plateau rule ends it.

    Raises InputError when there is a checkpoint and neither ``resume`` nor an empty folder was
    meant, or when the checkpoint is of another recipe; Diverged; Cancelled, after writing a
    checkpoint.
    """
    objective = Objective(recipe)
    state = _begin(recipe, options, progress)
    journal = Journal(options.folder, state.step, writes=options.processes.is_first)
    progress.stage("Training", 1.0)
    clock = _Clock(options)
    epoch_steps = recipe.epoch_steps or source.epoch_steps
    try:
        while state.step < recipe.steps and not state.schedule.finished:
            _step(recipe, source, objective, options, state, journal)
            if state.step % epoch_steps == 0:
                epoch = state.step // epoch_steps
                _epoch(epoch, recipe, source, objective, options, state, journal)
            _tell(recipe, state, journal, progress)
            if options.processes.any(clock.time_is_up()):
                break
            if clock.checkpoint_is_due():
                _keep(recipe, options, state)
    except Cancelled:
        _keep(recipe, options, state)
        raise
    finally:
        journal.close()
    _keep(recipe, options, state)
    complete = state.step >= recipe.steps or state.schedule.finished
    return TrainingResult(
        state.step, complete, _weights(state), state.best_mae, tuple(state.history)
    )


def _begin(recipe: Recipe, options: TrainingOptions, progress: Progress) -> _State:
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network.name, recipe.network.settings)
    layout = torch.channels_last_3d if _is_volumetric(network) else torch.channels_last
    network = network.to(options.device, memory_format=layout)
    part = recipe.optimiser
    optimiser = torch.optim.AdamW(
        network.parameters(), part.learning_rate, part.betas, weight_decay=part.weight_decay
    )
    kept = read_checkpoint(options.folder)
    if kept and not options.resume:
        raise InputError(
            f"The folder {options.folder} holds a training of {kept.step} steps: "
            "add --resume to go on with it, or choose another folder."
        )
    if options.resume and not kept:
        raise InputError(
            f"There is no checkpoint in {options.folder} to resume: leave out --resume to begin."
        )
    if options.init and not kept:
        told = load_initial(network, options.init)
        if told:
            progress.note(told)
    elif not kept and isinstance(network, Adopts):
        progress.note(
            f"No weights to begin from were given (--init): {recipe.network.name} begins at random."
        )
    _freeze(network, recipe)
    average = None
    if recipe.average:
        average = build_network(recipe.network.name, recipe.network.settings)
        average = average.to(options.device, memory_format=layout)
        average.load_state_dict(network.state_dict())
        average.requires_grad_(False)
    scaler = torch.amp.GradScaler(
        torch.device(options.device).type, enabled=recipe.precision == "fp16"
    )
    adversary = adversary_of(recipe, options.device)
    if recipe.precision == "bf16" and torch.device(options.device).type == "cpu":
        for trained in (network, *([adversary.network] if adversary else [])):
            keep_small_images_whole(trained)
    state = _State(network, average, optimiser, scaler, Schedule(recipe), adversary)
    if kept:
        _restore(recipe, state, kept)
    options.processes.share(network)
    if adversary is not None:
        options.processes.share(adversary.network)
    return state


def _step(
    recipe: Recipe,
    source: Source,
    objective: Objective,
    options: TrainingOptions,
    state: _State,
    journal: Journal,
) -> None:
    batch = source.batch(state.step, options.processes.rank)
    rate = state.schedule.rate(state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    # Chance inside the network (dropout) follows from the step too.
    torch.manual_seed(hash((recipe.seed, state.step, options.processes.rank)) % 2**63)
    state.network.train()
    asked = objective.ask(state.network, batch, autocast(recipe, options.device))
    loss, parts = asked.loss, dict(asked.parts)
    if state.adversary is not None:
        fooling = state.adversary.fool(batch, asked.predicted)
        loss = loss + state.adversary.part.weight * fooling
        parts["fool"] = fooling.detach()
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimiser)
    options.processes.average_gradients(state.network)
    norm = nn.utils.clip_grad_norm_(
        state.network.parameters(), recipe.optimiser.clip_norm or math.inf
    )
    sound = bool(torch.isfinite(norm)) and bool(torch.isfinite(loss.detach()))
    if sound or state.scaler.is_enabled():
        state.scaler.step(state.optimiser)  # leaves out a step whose gradient is not finite
    state.scaler.update()
    state.optimiser.zero_grad(set_to_none=True)
    state.bad_steps = 0 if sound else state.bad_steps + 1
    if state.bad_steps >= BAD_STEPS:
        raise Diverged(
            f"The training left finite numbers at step {state.step} and did not come back in "
            f"{BAD_STEPS} steps: lower the learning rate, or use fp32."
        )
    if state.adversary is not None and sound:
        share = rate / recipe.optimiser.learning_rate
        parts["discriminator"] = state.adversary.learn(
            batch, asked.predicted, share, options.processes
        )
    state.step += 1
    if sound and state.average is not None:
        _follow(state.average, state.network, recipe.average, state.step)
    if journal.is_due(state.step):
        journal.add(
            state.step, float(loss.detach()), {k: float(v) for k, v in parts.items()}, rate, sound
        )


def _epoch(
    epoch: int,
    recipe: Recipe,
    source: Source,
    objective: Objective,
    options: TrainingOptions,
    state: _State,
    journal: Journal,
) -> None:
    if epoch % recipe.validation.every_epochs:
        return
    network = state.average or state.network
    network.eval()
    errors = [
        objective.case_mae(network, case, autocast(recipe, options.device))
        for case in source.cases()
    ]
    if not errors:
        return
    mae = sum(errors) / len(errors)
    state.history.append((state.step, mae))
    journal.validated(state.step, mae)
    if state.best_mae is None or mae < state.best_mae:
        state.best_mae = mae
        state.best = {k: v.detach().clone() for k, v in network.state_dict().items()}
    if state.schedule.validated(epoch, mae) and state.best:
        state.network.load_state_dict(state.best)
        if state.average is not None:
            state.average.load_state_dict(state.best)


def _tell(recipe: Recipe, state: _State, journal: Journal, progress: Progress) -> None:
    loss = "" if math.isnan(journal.recent) else f", loss {journal.recent:.3f}"
    error = "" if state.best_mae is None else f", best validation MAE {_error_text(recipe, state)}"
    # Of what is left since this process began: a resumed training knows its own pace only.
    done = (state.step - state.begun) / max(1, recipe.steps - state.begun)
    progress.update(done, f"step {state.step} of {recipe.steps}{loss}{error}")


def _error_text(recipe: Recipe, state: _State) -> str:
    """The best error in the unit of the task."""
    return f"{state.best_mae:.4g} {recipe.task.output_unit}"


def _follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the network; early on it follows faster."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, new in zip(average.parameters(), network.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - decay)
        for kept, new in zip(average.buffers(), network.buffers(), strict=True):
            kept.copy_(new)


def _weights(state: _State) -> dict[str, Tensor]:
    if state.best and state.schedule.keeps_best:
        return state.best
    return dict((state.average or state.network).state_dict())


def _keep(recipe: Recipe, options: TrainingOptions, state: _State) -> None:
    if not options.processes.is_first:
        return
    content: dict[str, Any] = {
        "network": state.network.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "schedule": state.schedule.state(),
        "average": state.average.state_dict() if state.average is not None else {},
        "best": state.best,
        "best_mae": state.best_mae,
        "history": state.history,
        "bad_steps": state.bad_steps,
        "adversary": state.adversary.state() if state.adversary is not None else {},
    }
    write_checkpoint(options.folder, Checkpoint(recipe, state.step, content))


def _restore(recipe: Recipe, state: _State, kept: Checkpoint) -> None:
    kept.require(recipe)
    content = kept.content
    state.network.load_state_dict(content["network"])
    state.optimiser.load_state_dict(content["optimiser"])
    state.scaler.load_state_dict(content["scaler"])
    state.schedule.restore(content["schedule"])
    if state.average is not None:
        state.average.load_state_dict(content["average"])
    if state.adversary is not None:
        state.adversary.restore(content["adversary"])
    state.best, state.best_mae = content["best"], content["best_mae"]
    state.history = [tuple(entry) for entry in content["history"]]
    state.step = state.begun = kept.step
    state.bad_steps = content["bad_steps"]


@runtime_checkable
class Adopts(Protocol):
    """A network that can begin from a public checkpoint of another layout."""

    def adopt(self, state: Mapping[str, Tensor]) -> str:
        """Take the weights, and say what was taken. Raises MissingModel when they do not fit."""
        ...


def load_initial(network: nn.Module, path: Path) -> str:
    """Load weights to start from; what a network took from another's checkpoint is told.

    ``path``: safetensors of this network, or a torch checkpoint that the network can adopt. Raises
    MissingModel when they are of another network, InputError when the file cannot be read.
    """
    from SynthCTLib.synthesis.weights import load_weights

    if path.suffix not in FOREIGN_SUFFIXES:
        load_weights(network, path, path.parent.name)
        return ""
    if not isinstance(network, Adopts):
        raise InputError(
            f"{path.name} is a torch checkpoint, which this network cannot begin from: give "
            "weights.safetensors of a trained model."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The checkpoint {path} cannot be read as plain tensors ({type(error).__name__}): "
            "save its state dict alone with torch.save."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return network.adopt({k: v for k, v in state.items() if isinstance(v, Tensor)})


def _freeze(network: nn.Module, recipe: Recipe) -> None:
    """Parts that stay as they begin. Raises InputError for a name that begins none."""
    for begin in recipe.network.frozen:
        parts = [p for name, p in network.named_parameters() if name.startswith(begin)]
        if not parts:
            raise InputError(
                f"The recipe {recipe.name} freezes {begin}, which the network "
                f"{recipe.network.name} does not have: correct network.frozen."
            )
        for parameter in parts:
            parameter.requires_grad_(False)


def _is_volumetric(network: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv3d) for module in network.modules())


class _Clock:
    """When to write a checkpoint, and when to stop."""

    def __init__(self, options: TrainingOptions, now: Callable[[], float] = time.monotonic) -> None:
        self.options, self.now = options, now
        self.begun = self.kept = now()

    def time_is_up(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and self.now() - self.begun > 60 * limit

    def checkpoint_is_due(self) -> bool:
        due = self.now() - self.kept > 60 * self.options.checkpoint_minutes
        if due:
            self.kept = self.now()
        return due

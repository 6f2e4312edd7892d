"""Train a recipe: find the examples, train, and write the model folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from SynthCTLib.errors import Cancelled, InputError, MissingPackage, OutputError
from SynthCTLib.progress import Progress
from SynthCTLib.training.recipe import Recipe
from SynthCTLib.workflow.device import choose_device

if TYPE_CHECKING:
    from SynthCTLib.training.engine import TrainingResult
    from SynthCTLib.training.examples import Source
    from SynthCTLib.training.pairs import Split
    from SynthCTLib.training.processes import Processes

T = TypeVar("T")
SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class TrainingRequest:
    """What to train, from what, into where.

    ``data``: the folder of label maps (source ``heads``) or of pairs. ``fold``: which of the
    recipe's folds, for pairs. ``init``: weights to start from, a model folder or a file.
    ``examples``: folder of the prepared examples, which folds may share; None: in ``output``.
    """

    recipe: Recipe
    data: Path
    output: Path
    fold: int = 1
    init: Path | None = None
    resume: bool = False
    max_minutes: float | None = None
    device: str = "auto"
    threads: int | None = None
    examples: Path | None = None


@dataclass(frozen=True)
class Trained:
    """Where the model is, and how the training ended."""

    model: Path
    result: TrainingResult


def train_recipe(
    request: TrainingRequest, progress: Progress, environment: Mapping[str, str] | None = None
) -> Trained:
    """Train, and write ``output/<recipe's name>``, a model folder that can be imported.

    Checkpoint and logs are in ``output``. Raises InputError, OutputError, Diverged, and Cancelled
    after writing a checkpoint.
    """
    try:
        import torch

        from SynthCTLib.training import engine, processes, publication
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"Training needs the package {error.name}: install SynthCT with the extra 'train'."
        ) from error
    device = choose_device(request.device, progress)
    device = processes.device_of(environment or {}, device)
    together = processes.join(environment or {}, device)
    if request.threads:
        torch.set_num_threads(request.threads)
    _writable(request.output)
    # Pairs are registered and prepared first; heads are made as they are needed.
    share = 0.001 if request.recipe.source.kind == "heads" else 0.05
    source = open_source(request, device, progress.within("Opening the examples", share), together)
    options = engine.TrainingOptions(
        request.output,
        device,
        request.resume,
        _weights_of(request.init),
        request.max_minutes,
        processes=together,
    )
    try:
        result = engine.train(
            request.recipe, source, options, progress.within("Training", 0.99 - share)
        )
    except Cancelled as error:
        raise Cancelled(
            f"Stopped on request: the checkpoint in {request.output} goes on with --resume."
        ) from error
    progress.stage("Writing the model", 0.01)
    model = request.output / request.recipe.name
    if together.is_first:
        publication.publish(request.recipe, result, model)
    progress.update(1.0)
    return Trained(model, result)


def open_source(
    request: TrainingRequest, device: str, progress: Progress, together: Processes
) -> Source:
    """The examples that the recipe's source gives. Raises InputError."""
    recipe, folder = request.recipe, request.examples or request.output / "examples"
    if recipe.source.kind == "heads":
        from SynthCTLib.training.heads import HeadSettings, HeadSource

        if recipe.prior is not None:
            raise InputError(
                f"Recipe {recipe.name} has an atlas prior, which needs the source pairs: "
                "change the source, or leave out the prior."
            )
        settings = _checked(HeadSettings, recipe.source.settings, recipe.name)
        return HeadSource(settings, request.data, folder, recipe.seed, device)
    if recipe.source.kind == "slices":
        return _open_slices(request, device, progress, together)
    from SynthCTLib.training.pairs import PairSettings, PairSource, find_subjects, split_of

    pairs = _checked(PairSettings, recipe.source.settings, recipe.name)
    subjects = find_subjects(request.data)
    split = split_of(tuple(s.name for s in subjects), pairs.folds, request.fold, recipe.seed)
    if together.is_first:
        _write_split(request, pairs.folds, split)
    return PairSource(
        pairs,
        subjects,
        split,
        recipe.preparation,
        folder,
        recipe.seed,
        device,
        progress,
        overviews=recipe.objective == "two-view",
        prior=recipe.prior,
    )


def _open_slices(
    request: TrainingRequest, device: str, progress: Progress, together: Processes
) -> Source:
    from SynthCTLib.training.pairs import split_of
    from SynthCTLib.training.slices import (
        SliceSettings,
        SliceSource,
        find_slice_subjects,
        needed_roles,
    )

    recipe = request.recipe
    settings = _checked(SliceSettings, recipe.source.settings, recipe.name)
    subjects = find_slice_subjects(request.data, needed_roles(recipe.task, settings.register))
    split = split_of(tuple(s.name for s in subjects), settings.folds, request.fold, recipe.seed)
    if together.is_first:
        _write_split(request, settings.folds, split)
    return SliceSource(
        recipe.task,
        settings,
        subjects,
        split,
        recipe.preparation,
        request.examples or request.output / "examples",
        recipe.seed,
        device,
        progress,
    )


def _write_split(request: TrainingRequest, folds: int, split: Split) -> None:
    """Which subjects were left out: for whoever measures the model."""
    record = {"fold": request.fold, "folds": folds, **vars(split)}
    (request.output / SPLIT_FILE).write_text(json.dumps(record, indent=2) + "\n")


def _checked(kind: type[T], settings: Mapping[str, Any], recipe: str) -> T:
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        reason = "; ".join(
            f"{'.'.join(str(p) for p in item['loc'])}: {item['msg']}" for item in error.errors()
        )
        raise InputError(
            f"The source settings of recipe {recipe} are not valid ({reason}): correct them."
        ) from error


def _weights_of(init: Path | None) -> Path | None:
    """The weights file of a model folder, or the file itself."""
    if init is None:
        return None
    path = init / "weights.safetensors" if init.is_dir() else init
    if not path.is_file():
        raise InputError(f"There are no weights {path}: give a model folder or a weights file.")
    return path


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written ({error.strerror}): choose another folder."
        ) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"The folder {folder} cannot be written: choose another folder.")

"""From a finished training to a model folder: the card, the weights, the log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from SynthCTLib.errors import OutputError
from SynthCTLib.training.engine import TrainingResult
from SynthCTLib.training.journal import CSV_FILE
from SynthCTLib.training.recipe import Recipe
from SynthCTLib.volume import sha256_of

WEIGHTS_FILE = "weights.safetensors"


def publish(recipe: Recipe, result: TrainingResult, folder: Path) -> Path:
    """Write the model folder ``folder``: card.yaml, weights (float16) and training log.

    An earlier model there is replaced as a whole. Raises OutputError when it cannot be written,
    leaving the earlier one.
    """
    aside = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(_halved(result.weights), aside / WEIGHTS_FILE)
        log = folder.parent / CSV_FILE
        if log.is_file():
            shutil.copy(log, aside / "training-log.csv")
        card = card_of(recipe, result, sha256_of(aside / WEIGHTS_FILE), folder.name)
        text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100)
        (aside / "card.yaml").write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OutputError(
            f"The model folder {folder} cannot be written ({error.strerror or error}): "
            "free some space or choose another folder."
        ) from error
    return folder


def card_of(recipe: Recipe, result: TrainingResult, sha256: str, name: str) -> dict[str, Any]:
    """The card of a trained model; what was not measured is not claimed."""
    output, model = recipe.output, recipe.model
    settings = {
        "network": recipe.network.name,
        "network_settings": json.loads(json.dumps(recipe.network.settings)),
        "weights": [WEIGHTS_FILE],
        "preparation": json.loads(json.dumps(asdict(recipe.preparation))),
        "output": {
            "scale": output.scale,
            "offset": output.offset,
            "low": output.low,
            "high": output.high,
            **({"stated_error": True} if recipe.network.settings.get("out_channels") == 2 else {}),
        },
    }
    if model.family == "patchwise":
        settings["window"] = json.loads(json.dumps(asdict(model.window)))
    validation = (
        ""
        if result.best_mae is None
        else (
            f" Error on the validation cases, by which the training was steered: "
            f"{result.best_mae:.4g} {recipe.task.output_unit} (no measure of accuracy)."
        )
    )
    architecture: dict[str, Any] = {
        "family": model.family,
        "settings": {**settings, **model.synthesis},
    }
    if recipe.prior is not None:
        prior = json.loads(json.dumps(asdict(recipe.prior)))
        architecture = {
            "family": "atlas_prior",
            "settings": {"prior": prior, "network": architecture["settings"]},
        }
    done = "all" if result.complete else f"stopped after {result.step}"
    return {
        "name": name,
        "title": model.title,
        "version": "1",
        "task": str(recipe.task),
        "licence": model.licence,
        "architecture": architecture,
        "preprocessing": list(model.preprocessing),
        "training_data": [data.model_dump() for data in model.training_data],
        "measured_accuracy": [],
        "limits": [
            *model.limits,
            f"Trained by recipe {recipe.name}, {done} of {recipe.steps} steps.{validation}",
        ],
        "tested": json.loads(json.dumps(model.tested)),
        "files": {WEIGHTS_FILE: sha256},
        "citation": list(model.citation),
    }


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float16 where the values are floating; counters stay whole."""
    return {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in weights.items()
    }

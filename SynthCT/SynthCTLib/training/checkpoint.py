"""Checkpoints: everything the next step depends on, written aside and renamed."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.training.recipe import Recipe
from SynthCTLib.whole_file import whole_file

FILE = "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """The recipe, the number of steps done, and the state after them."""

    recipe: Recipe
    step: int
    content: dict[str, Any]

    def require(self, recipe: Recipe) -> None:
        """Raise InputError unless the checkpoint is of this recipe; its length may differ."""
        mine = self.recipe.model_dump(mode="json", exclude={"steps", "model"})
        other = recipe.model_dump(mode="json", exclude={"steps", "model"})
        changed = sorted(key for key in mine if mine[key] != other[key])
        if changed:
            raise InputError(
                f"The checkpoint is of another recipe (different: {', '.join(changed)}): "
                "give the recipe it was begun with, or another folder."
            )


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the one before. Raises OutputError."""
    path = folder / FILE
    recipe = checkpoint.recipe.model_dump_json()
    content = {"recipe": recipe, "step": checkpoint.step, "content": checkpoint.content}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            torch.save(content, part)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OutputError(
            f"The checkpoint {path} cannot be written ({error}): free some space or choose "
            "another folder."
        ) from error


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint of a folder, or None. Raises InputError when it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe = Recipe.model_validate_json(content["recipe"])
        return Checkpoint(recipe, content["step"], content["content"])
    except ValidationError as error:
        raise InputError(
            f"The recipe in the checkpoint {path} is not one of this version of SynthCT "
            f"({error.error_count()} keys): go on with the version that wrote it, or begin again "
            "in another folder."
        ) from error
    except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}): "
            "remove it and begin again."
        ) from error

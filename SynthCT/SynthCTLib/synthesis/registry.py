"""Which models there are, and how one is opened.

A model is a folder with a ``card.yaml`` under ``Resources/Models``. Its card names the family, a
module of this package with a function ``build(card, folder, resources) -> Synthesizer``, imported
only when the model is opened. A new model needs one new folder and no change here.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

from SynthCTLib.errors import MissingModel, MissingPackage
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.card import CARD_FILE, MODEL_NAME, ModelCard, read_card
from SynthCTLib.synthesis.synthesizer import Synthesizer
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import sha256_of


@dataclass(frozen=True)
class Machine:
    """What a model may use: torch device, threads, and a folder that outlives the run (or None)."""

    device: str = "cpu"
    threads: int = 2
    cache_dir: Path | None = None


def models_folder() -> Path:
    """The folder of the models that ship with SynthCT."""
    return resource("Models")


def list_models(task: Task | None = None) -> tuple[ModelCard, ...]:
    """The cards of all models, or of one task, the task's default first, then by name."""
    folders = sorted(p.parent for p in models_folder().glob(f"*/{CARD_FILE}"))
    cards = [read_card(folder) for folder in folders]
    chosen = [c for c in cards if task is None or c.task == task]
    return tuple(sorted(chosen, key=lambda c: (c.task, not c.default, c.name)))


def find_card(name: str) -> ModelCard:
    """The card of a model by name. Raises MissingModel, naming those there are."""
    folder = models_folder() / name
    if not re.match(MODEL_NAME, name) or not (folder / CARD_FILE).is_file():
        known = ", ".join(c.name for c in list_models())
        raise MissingModel(f"There is no model named {name!r}: choose one of {known}.")
    return read_card(folder)


def default_card(task: Task) -> ModelCard:
    """The card of the task's default model. Raises MissingModel when there is none."""
    cards = list_models(task)
    if not cards:
        raise MissingModel(f"No installed model does {task}: choose another task.")
    return cards[0]


def verify(card: ModelCard) -> tuple[Path, ...]:
    """Check that every file the card names is there, unaltered, and return the files.

    Raises MissingModel naming the first that is not. Paths on the card are relative to Resources.
    """
    files = []
    for name, expected in card.files.items():
        path = resource(*name.split("/"))
        if not path.is_file():
            raise MissingModel(
                f"Model {card.name} needs {name}, which is not installed: reinstall SynthCT."
            )
        if sha256_of(path) != expected:
            raise MissingModel(
                f"The file {name} of model {card.name} is not the published one (SHA-256 differs): "
                "reinstall SynthCT."
            )
        files.append(path)
    return tuple(files)


def open_model(name: str, machine: Machine) -> Synthesizer:
    """Verify a model's files and build its synthesizer.

    Raises MissingModel, or MissingPackage when its family needs a package that is not installed.
    """
    card = find_card(name)
    verify(card)
    module = f"SynthCTLib.synthesis.{card.architecture.family}"
    try:
        family = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("SynthCTLib"):
            raise MissingPackage(
                f"Model {name} needs the package {error.name}, which is not installed: install it"
                f"{' (in Slicer: the extension PyTorch)' if error.name == 'torch' else ''}, or "
                "choose another model."
            ) from error
        if error.name != module:
            raise
        raise MissingModel(
            f"Model {name} is of family {card.architecture.family}, which this version of SynthCT "
            "does not have: update SynthCT."
        ) from error
    synthesizer: Synthesizer = family.build(card, machine)
    return synthesizer

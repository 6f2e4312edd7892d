"""Which models there are, and how one is opened.

A model is a folder with a ``card.yaml`` under ``Resources/Models``, or under the user's own models
folder. Its card names the family, a module of this package with a function
``build(card, machine) -> Synthesizer``, imported only when the model is opened. A new model needs
one new folder and no change here. A user's model cannot take the name of a shipped one.
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
    """What a model may use: torch device, threads, and folders.

    ``cache_dir`` outlives the run (None for none); ``models_dir`` holds the user's own models.
    ``engine`` and ``precision`` are names of :mod:`SynthCTLib.synthesis.engines`.
    """

    device: str = "cpu"
    threads: int = 2
    cache_dir: Path | None = None
    models_dir: Path | None = None
    engine: str = "auto"
    precision: str = "auto"


def models_folder() -> Path:
    """The folder of the models that ship with SynthCT."""
    return resource("Models")


def list_models(task: Task | None = None, models_dir: Path | None = None) -> tuple[ModelCard, ...]:
    """The cards of all models, or of one task: by task, its default first, then by name.

    ``models_dir``: the user's own models, or None. Raises MissingModel when one of them has the
    name of a shipped model, or a card is wrong.
    """
    cards = [_shipped(name) for name in _names(models_folder())]
    shipped = {card.name for card in cards}
    for name in _names(models_dir):
        card = _own(name, models_dir)
        if name in shipped:
            raise MissingModel(
                f"Your model {name} has the name of one that ships with SynthCT: "
                f"rename or remove the folder {models_dir}/{name}."
            )
        cards.append(card)
    chosen = [c for c in cards if task is None or c.task == task]
    tasks = tuple(Task)
    return tuple(sorted(chosen, key=lambda c: (tasks.index(c.task), not c.default, c.name)))


def find_card(name: str, models_dir: Path | None = None) -> ModelCard:
    """The card of a model by name. Raises MissingModel, naming those there are.

    A shipped model wins over a user's own of the same name.
    """
    if re.match(MODEL_NAME, name):
        if name in _names(models_folder()):
            return _shipped(name)
        if name in _names(models_dir):
            return _own(name, models_dir)
    known = ", ".join([*_names(models_folder()), *_names(models_dir)])
    raise MissingModel(f"There is no model named {name!r}: choose one of {known}.")


def default_card(task: Task) -> ModelCard:
    """The card of the task's default model. Raises MissingModel when there is none."""
    cards = list_models(task)
    if not cards:
        raise MissingModel(f"No installed model does {task}: choose another task.")
    return cards[0]


def verify(card: ModelCard) -> tuple[Path, ...]:
    """Check that every file the card names is there, unaltered, and return the files.

    Raises MissingModel naming the first that is not.
    """
    files = []
    for name, expected in card.files.items():
        path = card.file(name)
        if not path.is_file():
            raise MissingModel(
                f"Model {card.name} needs {name}, which is not installed: reinstall it."
            )
        if sha256_of(path) != expected:
            raise MissingModel(
                f"The file {name} of model {card.name} is not the published one (SHA-256 differs): "
                "reinstall it."
            )
        files.append(path)
    return tuple(files)


def open_model(name: str, machine: Machine) -> Synthesizer:
    """Verify a model's files and build its synthesizer.

    Raises MissingModel, or MissingPackage when its family needs a package that is not installed.
    """
    return build_model(find_card(name, machine.models_dir), machine)


def build_model(card: ModelCard, machine: Machine) -> Synthesizer:
    """The synthesizer of a card, its files verified. Raises as :func:`open_model` does."""
    verify(card)
    name = card.name
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


class Models:
    """Models that are opened once and kept, for a process that does many subjects."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, Machine], Synthesizer] = {}

    def open(self, name: str, machine: Machine) -> Synthesizer:
        """The synthesizer of that name on that machine; :func:`open_model` the first time."""
        key = (name, machine)
        if key not in self._opened:
            self._opened[key] = open_model(name, machine)
        return self._opened[key]


def _names(folder: Path | None) -> list[str]:
    """The names of the models in a folder."""
    return [] if folder is None else sorted(p.parent.name for p in folder.glob(f"*/{CARD_FILE}"))


def _shipped(name: str) -> ModelCard:
    return read_card(models_folder() / name, resource())


def _own(name: str, models_dir: Path | None) -> ModelCard:
    """A user's own model: it is never the default, and its files lie in its folder."""
    assert models_dir is not None
    card = read_card(models_dir / name, models_dir / name)
    if card.default:
        raise MissingModel(
            f"Your model {name} calls itself a default on its card: set default to false, and "
            "choose it with --model."
        )
    return card

"""The model card: what a model is, what it was made from, how good it is and where it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.imaging.gate import TestedRange
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.task import Task

CARD_FILE = "card.yaml"
MODEL_NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
# Names joined by "/", none of them beginning with a dot: it cannot lead out of its folder.
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Part):
    """The family (module of ``synthesis/``) that builds the model, and its settings."""

    family: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    settings: dict[str, Any] = {}


class DataSet(_Part):
    """A data set the model was made from."""

    name: str
    licence: str
    subjects: int
    simulated: bool
    citation: str


class Measurement(_Part):
    """A measured accuracy: figures with unit in the key, data set, number of subjects."""

    data: str
    subjects: int
    simulated: bool
    figures: dict[str, float]
    command: str

    @property
    def text(self) -> str:
        """The figures for people: head_mae_hu 100 is "head MAE 100 HU"."""
        return ", ".join(_figure_text(key, value) for key, value in self.figures.items())


_UNITS = {"hu": " HU", "percent": " %", "suv": " SUV", "db": " dB", "mm": " mm"}
_WORDS = {
    **{word: word.upper() for word in ("mae", "rmse", "me", "ssim", "psnr", "dsc", "fcn", "gan")},
    "mu": "µ",
    "rmae": "rMAE",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "kmeans": "k-means",
    "pearson": "Pearson",
}


def _figure_text(key: str, value: float) -> str:
    words = key.split("_")
    unit = _UNITS.get(words[-1], "")
    words = words[:-1] if unit else words
    return f"{' '.join(_WORDS.get(w, w) for w in words)} {value:g}{unit}"


class ModelCard(_Part):
    """The card beside a model's weights (``card.yaml``). An unknown key is an error."""

    name: Annotated[str, Field(pattern=MODEL_NAME)]
    title: str
    version: str
    task: Task
    default: bool = False
    licence: str
    architecture: Architecture
    preprocessing: tuple[str, ...]
    training_data: tuple[DataSet, ...]
    measured_accuracy: tuple[Measurement, ...]
    limits: tuple[str, ...]
    tested: TestedRange
    files: dict[Annotated[str, Field(pattern=FILE_NAME)], str] = {}
    citation: tuple[str, ...]
    _root: Path = PrivateAttr(default_factory=resource)

    def file(self, name: str) -> Path:
        """Where a file that the card names lies: under Resources, or in a user's model folder."""
        return self._root.joinpath(*name.split("/"))


def check_model_name(name: str) -> None:
    """Raise InputError unless a model can have the name."""
    if not re.match(MODEL_NAME, name):
        raise InputError(
            f"A model cannot be named {name!r}: use small letters and digits, words joined by '-'."
        )


def read_card(folder: Path, root: Path | None = None, *, named: bool = True) -> ModelCard:
    """Read and check the card of a model folder. Raises MissingModel with the reason.

    ``root``: the folder that the file names on the card start from; Resources if absent.
    ``named``: whether the folder must have the name on the card.
    """
    path = folder / CARD_FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        card = ModelCard.model_validate(content)
    except OSError as error:
        raise MissingModel(
            f"The model folder {folder} has no readable {CARD_FILE}: reinstall the model."
        ) from error
    except (yaml.YAMLError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise MissingModel(f"The model card {path} is not valid ({reason}): correct it.") from error
    if named and card.name != folder.name:
        raise MissingModel(
            f"The model card {path} names itself {card.name}: rename the folder or the model."
        )
    if root is not None:
        card._root = root
    return card

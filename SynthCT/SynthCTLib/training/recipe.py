"""The recipe: everything that decides what a training makes, in one YAML file.

A recipe that ships is a file under ``Resources/Recipes``; a user's own is any path. An unknown key
is an error. A further recipe needs one YAML file and, where it needs one, one network file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from SynthCTLib.errors import InputError
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.atlas_prior import AtlasPrior
from SynthCTLib.synthesis.card import MODEL_NAME, DataSet
from SynthCTLib.synthesis.preparation import Preparation
from SynthCTLib.synthesis.task import Task
from SynthCTLib.synthesis.window import Window

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkPart(_Part):
    """A network of ``SynthCTLib.networks`` by name, with its settings.

    ``frozen``: beginnings of the names of parts that stay as they begin, such as ``encoder.``.
    """

    name: str
    settings: dict[str, Any] = {}
    frozen: tuple[str, ...] = ()


class SourcePart(_Part):
    """Where examples come from: a module of ``SynthCTLib.training`` and its settings."""

    kind: Literal["heads", "pairs", "slices"]
    settings: dict[str, Any] = {}


class LossPart(_Part):
    """One term of the loss: a function of ``losses``, its weight in the sum, its settings."""

    name: str
    weight: Positive = 1.0
    settings: dict[str, Any] = {}


class OptimiserPart(_Part):
    """AdamW (Loshchilov and Hutter 2019), gradients clipped to a norm; None clips nothing."""

    learning_rate: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Positive | None = 1.0


class AdversaryPart(_Part):
    """A discriminator trained against the network, see ``adversary``.

    ``network`` is one of ``SynthCTLib.networks``, usually ``patchgan``. ``weight`` of its term in
    the network's loss, whose errors are in the ``unit`` of its settings (1000 HU unless told
    otherwise). ``conditional``: it sees the input beside the image it judges (pix2pix). Its
    learning rate follows the network's schedule.
    """

    network: NetworkPart
    loss: Literal["least-squares", "cross-entropy"] = "least-squares"
    weight: Positive = 1.0
    conditional: bool = False
    optimiser: OptimiserPart = OptimiserPart(learning_rate=1e-4, betas=(0.5, 0.999), weight_decay=0)


class SchedulePart(_Part):
    """How the learning rate changes.

    ``stable-decay``: rises over ``warmup_steps``, stays, and falls linearly to zero over the last
    ``decay_share`` of the steps. ``plateau`` (Paper 1, section 3.3): when the validation error has
    not fallen by ``improvement`` (HU, or SUV of a PET) within ``patience_epochs``, training goes on
    with the next of ``rates`` from the best weights, and ends after the last.
    """

    kind: Literal["stable-decay", "plateau"] = "stable-decay"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay_share: Share = 0.25
    patience_epochs: Count = 100
    improvement: Positive = 1.0
    rates: tuple[Positive, ...] = (3e-4,)


class ValidationPart(_Part):
    """How often the error on the validation cases is measured, in epochs of the source."""

    every_epochs: Count = 5


class OutputPart(_Part):
    """HU = scale * y + offset, kept between low and high; SUV where the task makes a PET."""

    scale: float = 1000.0
    offset: float = 0.0
    low: float = -1000.0
    high: float = 3000.0


class ModelPart(_Part):
    """What the card of the trained model says beyond what the training knows.

    ``family`` of ``synthesis`` that uses the network, ``synthesis`` settings of it. ``window``: how
    volumes are cut to validate, and a setting of the family ``patchwise``.
    """

    family: Literal["patchwise", "triplanar"] = "patchwise"
    title: str
    licence: str = "Apache-2.0"
    preprocessing: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    citation: tuple[str, ...] = ()
    tested: dict[str, Any] = {}
    training_data: tuple[DataSet, ...] = ()
    window: Window
    synthesis: dict[str, Any] = {}


class Recipe(_Part):
    """See the module.

    ``steps`` is the length of the whole training, ``epoch_steps`` that of an epoch (None: as long
    as the source says).
    ``objective``: ``patch`` trains on patches; ``two-view`` a network with a wide view of the whole
    volume as well. ``precision`` is that of the forward pass: ``bf16`` anywhere, ``fp16`` on CUDA.
    ``average`` is the decay of the moving average of the weights, which is what is kept; 0 keeps
    the last.
    """

    name: Annotated[str, Field(pattern=MODEL_NAME)]
    task: Task
    network: NetworkPart
    objective: Literal["patch", "two-view"] = "patch"
    source: SourcePart
    preparation: Preparation = Preparation()
    prior: AtlasPrior | None = None
    losses: Annotated[tuple[LossPart, ...], Field(min_length=1)]
    adversary: AdversaryPart | None = None
    optimiser: OptimiserPart = OptimiserPart()
    schedule: SchedulePart = SchedulePart()
    validation: ValidationPart = ValidationPart()
    steps: Count
    epoch_steps: Count | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    output: OutputPart = OutputPart()
    model: ModelPart


def recipes_folder() -> Path:
    """The folder of the recipes that ship with SynthCT."""
    return resource("Recipes")


def list_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship, sorted."""
    return tuple(sorted(path.stem for path in recipes_folder().glob("*.yaml")))


def read_recipe(name: str) -> Recipe:
    """A recipe that ships, by name, or one in a YAML file. Raises InputError with the reason."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in list_recipes():
            known = ", ".join(list_recipes())
            raise InputError(
                f"There is no recipe named {name!r}: choose one of {known}, or give a YAML file."
            )
        path = recipes_folder() / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The recipe {path} cannot be read: check its name.") from error
    except (yaml.YAMLError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The recipe {path} is not valid ({reason}): correct it.") from error

"""What every synthesis has in common: the task, the protocol and its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from SynthCTLib.errors import InputError
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.card import ModelCard
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import Role, Volume

__all__ = [
    "Anatomy",
    "ModelCard",
    "Spread",
    "Synthesis",
    "Synthesizer",
    "Task",
    "input_of",
]


class Anatomy(StrEnum):
    """The part of the body an image shows."""

    HEAD = "head"
    BODY = "body"


class Spread(StrEnum):
    """What an uncertainty, a standard deviation, is that of."""

    STATED_ERROR = "stated error"  # a network's own statement: a Laplace density of its error
    ANSWERS = "answers"  # of several: atlases, folds, mirrored passes

    @property
    def error_per_sd(self) -> float:
        """The mean absolute error to be expected, in standard deviations.

        Of a Laplace density of scale b it is b, the standard deviation the root of 2 b^2. Of
        answers it assumes that the error is spread as they are, and normally: the root of 2 / pi.
        """
        return math.sqrt(1 / 2) if self is Spread.STATED_ERROR else math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Synthesis:
    """The answer of a synthesizer, on exactly the grid of its input.

    ``coverage`` (mask) is where the answer is founded on data: outside it nothing is claimed and a
    CT holds -1000 HU. ``uncertainty`` is a standard deviation in the unit of ``volume``, or None;
    ``spread`` says of what. ``facts`` are plain JSON values on how the answer came about. ``found``
    holds the mask of the head or of the body where the model had to find it in the very voxels of
    its input: the same as ``imaging.masks`` finds there, to spare doing it twice.
    """

    volume: Volume
    coverage: Volume
    uncertainty: Volume | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[Anatomy, Volume] = field(default_factory=dict)
    spread: Spread = Spread.ANSWERS


class Synthesizer(Protocol):
    """A model that turns the images of its task's input roles into the output role.

    The contract, tested for every model and orientation: the output has the size, spacing, origin
    and direction of its input; permuting or flipping the input's axes changes nothing but the order
    of the voxels; the inputs are not changed; ``progress`` is updated, and its request to stop
    obeyed; what is outside ``coverage`` is not invented.
    """

    card: ModelCard

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Make the output role. Raises InputError when an input is missing or unusable."""
        ...


def input_of(inputs: Mapping[Role, Volume], role: Role, card: ModelCard) -> Volume:
    """The input of a role. Raises InputError when it is not among the inputs."""
    if role not in inputs:
        raise InputError(f"Model {card.name} needs an input of role {role}: give one.")
    return inputs[role]

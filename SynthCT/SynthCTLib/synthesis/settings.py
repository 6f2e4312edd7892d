"""Settings of a family, read strictly from a model card."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from SynthCTLib.errors import MissingModel
from SynthCTLib.synthesis.card import ModelCard

T = TypeVar("T")


def settings_of(card: ModelCard, kind: type[T]) -> T:
    """The card's architecture settings as ``kind``. Raises MissingModel on an unknown key."""
    strict = checked(kind, config=ConfigDict(extra="forbid"))
    try:
        made = TypeAdapter(strict).validate_python(card.architecture.settings)
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise MissingModel(
            f"The settings on the card of model {card.name} are not valid ({reason}): correct them."
        ) from error
    return made

"""Settings of a family, read strictly from a model card."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from SynthCTLib.errors import MissingModel
from SynthCTLib.synthesis.card import ModelCard

T = TypeVar("T")


def settings_of(card: ModelCard, kind: type[T]) -> T:
    """The card's architecture settings as the dataclass ``kind``.

    ``kind`` carries ``__pydantic_config__`` with ``extra`` forbidden. Raises MissingModel for a
    wrong value or an unknown key.
    """
    try:
        return TypeAdapter(kind).validate_python(card.architecture.settings)
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise MissingModel(
            f"The settings on the card of model {card.name} are not valid ({reason}): correct them."
        ) from error

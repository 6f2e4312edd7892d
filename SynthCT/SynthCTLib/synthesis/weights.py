"""The network of a model, and reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthCTLib.errors import InputError, MissingModel
from SynthCTLib.networks import build_network

if TYPE_CHECKING:
    import torch


def network_of(model: str, name: str, settings: Mapping[str, Any]) -> torch.nn.Module:
    """The network that a model's card names, with random weights, float32 on the CPU.

    Raises MissingModel when there is none of that name or its settings are wrong.
    """
    try:
        return build_network(name, settings)
    except InputError as error:
        raise MissingModel(f"Model {model} cannot be built: {error}") from error


def load_weights(network: torch.nn.Module, path: Path, model: str) -> None:
    """Fill a network with the weights of a safetensors file (float16 or 32; float32 inside).

    Raises MissingModel when the file is absent or damaged, does not fit the network, or holds
    something that is not a number.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MissingModel(
            f"The weights {path.name} of model {model} cannot be read ({error}): reinstall it."
        ) from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise MissingModel(
            f"The weights {path.name} of model {model} do not fit its network ({reason[:200]}): "
            "correct the network's settings on the card."
        ) from error
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise MissingModel(
            f"The weights {path.name} of model {model} hold values that are not numbers: "
            "take another checkpoint."
        )

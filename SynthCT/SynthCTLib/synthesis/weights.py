"""Reading the weights of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from SynthCTLib.errors import MissingModel

if TYPE_CHECKING:
    import torch


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

"""ShuffleUNet checkpoints of MONAI, as the author of Paper 1 released one for ultrasound planning.

Keys and shapes tell the configuration. MONAI (0.7 to 1.6) nests levels: level i lies under
``model.`` and i times ``1.submodule.``; there ``0`` is the encoder and ``2`` the decoder, and what
is left at the bottom has no number. A block is ``conv`` and ``adn.A`` (the slope of the PReLU); its
convolutions in the decoder are transposed with stride 1, which is a convolution with the kernel
turned round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthCTLib.errors import InputError

if TYPE_CHECKING:
    import torch

NEST = "1.submodule."
OCTANTS = 8
# Keys under which training programs keep the network's state in a larger checkpoint.
STATE_KEYS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The state of the network in a checkpoint of torch. No code in the file is run.

    Raises InputError when it is not a checkpoint, or would need code of its own to be read.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, runtime and key errors, by what the file holds
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is not a checkpoint of plain weights ({reason}): give the state dict that "
            "torch.save wrote."
        ) from error
    for key in STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dict of a network: give the weights alone.")
    state = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise InputError(f"{path} holds no state dict of a network: give the weights alone.")
        state[key.removeprefix("module.")] = value.float()
    return state


def settings_from(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Settings of the ShuffleUNet that a state dict of MONAI's layout fits.

    Raises InputError when it is another network.
    """
    deepest = max((key.count(NEST) for key in state), default=0)
    if deepest < 1 or not all(key.startswith("model.") for key in state):
        raise _another("its keys are not nested as MONAI's U-Net nests them")
    if any(".adn.N." in key for key in state):
        raise _another("its normalisation has weights of its own")
    units = 0
    while f"model.0.conv.unit{units}.conv.weight" in state:
        units += 1
    first = "conv.unit0.conv.weight" if units else "conv.weight"
    convolutions = [f"{_level(i)}0.{first}" for i in range(deepest)]
    convolutions.append(f"{_level(deepest)}{first}")
    top = "model.2.shuffle.conv_block.weight"
    absent = [key for key in (*convolutions, top) if key not in state]
    if absent:
        raise _another(f"it has no {absent[0]}")
    if state[top].ndim != 5 or state[top].shape[0] % OCTANTS:
        raise _another("it does not upsample three dimensions by a pixel shuffle of 2")
    return {
        "in_channels": int(state[convolutions[0]].shape[1]),
        "out_channels": int(state[top].shape[0]) // OCTANTS,
        "channels": [int(state[key].shape[0]) for key in convolutions],
        "residual_units": units,
    }


def translated(
    state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The state dict with the keys of ``networks.shuffle_unet``. Raises InputError for a rest."""
    levels, units = len(settings["channels"]), int(settings["residual_units"])
    made = {}
    left = set(state)
    for theirs, ours in _pairs(levels, units):
        for key in [k for k in left if k.startswith(f"{theirs}.")]:
            value = state[key]
            if re.fullmatch(r"model.*\.2\.conv(\.0)?\.conv", theirs) and value.ndim == 5:
                value = value.transpose(0, 1).flip(2, 3, 4)
            made[ours + key.removeprefix(theirs)] = value.contiguous()
            left.discard(key)
    if left:
        raise _another(f"it also has {min(left)}")
    return made


def _pairs(levels: int, units: int) -> Iterator[tuple[str, str]]:
    """Prefixes of MONAI and ours."""

    def block(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
        yield f"{theirs}conv", f"{ours}conv"
        yield f"{theirs}adn.A", f"{ours}act"

    def encoder(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
        if not units:
            yield from block(theirs, ours)
        for unit in range(units):
            yield from block(f"{theirs}conv.unit{unit}.", f"{ours}steps.{unit}.")
        yield f"{theirs}residual", f"{ours}shortcut"

    for level in range(levels - 1):
        theirs, ours = _level(level), f"up.{level}."
        yield from encoder(f"{theirs}0.", f"down.{level}.")
        yield f"{theirs}2.shuffle.conv_block", f"{ours}shuffle.conv"
        bare = level == 0
        if units:
            yield from block(f"{theirs}2.conv.0.", f"{ours}conv.")
            unit = f"{theirs}2.conv.1.conv.unit0."
            end = f"{ours}residual.steps.0"
            yield from [(f"{unit}conv", end)] if bare else block(unit, f"{end}.")
        else:
            yield from (
                [(f"{theirs}2.conv.conv", f"{ours}conv")]
                if bare
                else block(f"{theirs}2.conv.", f"{ours}conv.")
            )
    yield from encoder(_level(levels - 1), "bottom.")


def _level(index: int) -> str:
    return "model." + NEST * index


def _another(reason: str) -> InputError:
    return InputError(
        f"The checkpoint is not of a ShuffleUNet ({reason}): SynthCT imports that network, and "
        "folders made by 'synthct train'."
    )

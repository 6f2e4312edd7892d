"""The networks: torch modules only, one network a file, no data, no training.

A network ``name`` is the module ``SynthCTLib.networks.name`` with a frozen dataclass ``Settings``
and a function ``build(settings) -> torch.nn.Module``, imported only when it is asked for. A new
network needs one new file and no change here.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from SynthCTLib.errors import InputError, MissingModel

if TYPE_CHECKING:
    import torch

NETWORK_NAME = r"[a-z][a-z0-9_]*"


def list_networks() -> tuple[str, ...]:
    """The names of all networks, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def build_network(name: str, settings: Mapping[str, Any]) -> torch.nn.Module:
    """The network of that name with fresh random weights, on the CPU, in float32.

    ``settings`` are the fields of the network's ``Settings``; those left out take its defaults.
    Raises MissingModel for an unknown name, InputError for a wrong value or an unknown key.
    """
    if not re.fullmatch(NETWORK_NAME, name) or name not in list_networks():
        known = ", ".join(list_networks())
        raise MissingModel(f"There is no network named {name!r}: choose one of {known}.")
    module = importlib.import_module(f"{__name__}.{name}")
    try:
        checked = TypeAdapter(module.Settings).validate_python(dict(settings))
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(place) for place in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise InputError(
            f"The settings of network {name} are not valid ({reasons}): correct them."
        ) from error
    network: torch.nn.Module = module.build(checked)
    return network

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
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from SynthCTLib.errors import InputError, MissingModel

if TYPE_CHECKING:
    import torch

NETWORK_NAME = r"[a-z][a-z0-9_]*"


def list_networks() -> tuple[str, ...]:
    """The names of all networks, sorted. A module with a leading underscore is none."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if not name.startswith("_")))


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


class ContextNetwork(Protocol):
    """What a network may offer besides ``forward(patch)``: a view of the whole, taken once.

    ``context`` takes the whole volume (N, C, z, y, x) and gives features at a resolution lower by
    ``context_pooling``. ``fine`` takes a patch and the features cropped to where the patch lies.
    Corners of patches are multiples of 8 voxels, sides of the volume and of patches multiples of
    16, so that nothing is interpolated.
    """

    context_pooling: int

    def context(self, volume: torch.Tensor) -> torch.Tensor:
        """Features of the whole."""
        ...

    def fine(self, patch: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The answer for a patch, given the features around it."""
        ...


def has_context(network: object) -> bool:
    """Whether a network looks at the whole first: :class:`ContextNetwork`."""
    return all(hasattr(network, name) for name in ("context", "fine", "context_pooling"))

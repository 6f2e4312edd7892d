"""What computes a network: the protocol, and the choice among what is installed.

``torch`` runs everywhere; ``openvino`` (optional) is faster on a CPU. Both give the same answer to
rounding: a test compares them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError, MissingPackage
from SynthCTLib.synthesis.window import Corner

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]


class EngineName(StrEnum):
    """The software that computes; ``AUTO`` takes OpenVINO on a CPU where it is installed."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Floating-point numbers inside the network; ``AUTO`` takes bf16 where it is fast and exact."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class OutOfMemory(Exception):
    """The device has not enough memory for these patches: take fewer, or smaller ones."""


class NotConvertible(Exception):
    """The engine cannot compute this network."""


class Engine(Protocol):
    """A network ready to compute. Both methods raise OutOfMemory when the device cannot hold it."""

    name: EngineName
    device: str
    precision: Precision

    def at(self, precision: Precision) -> Engine:
        """The same network at another precision."""
        ...

    def begin(self, canvas: Array) -> None:
        """Look at a whole volume (C, z, y, x), before its patches."""
        ...

    def predict(self, patches: Array, corners: Sequence[Corner]) -> Array:
        """Answers (N, channels, z, y, x) for patches (N, C, z, y, x) that lie at these corners."""
        ...


def choose_engine(wanted: EngineName, device: str) -> EngineName:
    """The engine for a device. Raises InputError or MissingPackage when the named one cannot be."""
    installed = importlib.util.find_spec("openvino") is not None
    if wanted == EngineName.AUTO:
        return EngineName.OPENVINO if installed and device == "cpu" else EngineName.TORCH
    if wanted == EngineName.OPENVINO:
        if device != "cpu":
            raise InputError(
                f"OpenVINO computes on the CPU and the device is {device}: "
                "choose the device cpu, or the engine torch."
            )
        if not installed:
            raise MissingPackage(
                "The engine openvino is not installed: pip install 'SynthCT[fast]', "
                "or choose the engine torch."
            )
    return wanted


def choose_precision(wanted: Precision, device: str) -> Precision:
    """The precision to try on a device: bf16 only where its arithmetic is in the hardware."""
    if wanted != Precision.AUTO:
        return wanted
    import torch

    if device == "cpu":
        facts = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = facts.get("avx512_bf16") or facts.get("amx_bf16")
    else:
        fast = device.startswith("cuda") and torch.cuda.is_bf16_supported(False)
    return Precision.BF16 if fast else Precision.FP32


def open_engine(
    name: EngineName, network: torch.nn.Module, device: str, precision: Precision, threads: int
) -> Engine:
    """The network on an engine."""
    if name == EngineName.OPENVINO:
        from SynthCTLib.synthesis.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(network, precision, threads)
    from SynthCTLib.synthesis.torch_engine import TorchEngine

    return TorchEngine(network, device, precision, threads)


def cropped(corner: Corner, sides: Sequence[int], cube: int) -> tuple[slice, ...]:
    """Where a patch lies in features whose resolution is lower by ``cube``."""
    return tuple(
        slice(begin // cube, (begin + side) // cube)
        for begin, side in zip(corner, sides, strict=True)
    )

"""Networks computed by OpenVINO on the CPU: two to four times as fast as torch there.

The network is traced and read by OpenVINO's own frontend for torch. Its converter
(``openvino.convert_model``) would do the same, but reports its use over the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from SynthCTLib.networks import has_context
from SynthCTLib.synthesis.engines import (
    Array,
    EngineName,
    NotConvertible,
    OutOfMemory,
    Precision,
    cropped,
)
from SynthCTLib.synthesis.window import Corner

EXAMPLE_SIDE = 64  # of an excerpt to trace: more than one voxel five levels down
HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.FP16: "f16"}
MEMORY_WORDS = ("bad allocation", "bad_alloc", "not enough memory", "failed to allocate")

Key = tuple[str, tuple[tuple[int, ...], ...]]  # the method, and the shapes of its inputs


class OpenVinoEngine:
    """A network, compiled for each shape of patch when it is first met."""

    name = EngineName.OPENVINO
    device = "cpu"

    def __init__(self, network: torch.nn.Module, precision: Precision, threads: int) -> None:
        self.network = network.eval().to("cpu")
        self.precision = precision
        self.models: dict[Key, openvino.Model] = {}
        self.compiled: dict[Key, Any] = {}
        self.features: Array | None = None
        self.core = openvino.Core()
        self.settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def at(self, precision: Precision) -> OpenVinoEngine:
        """The same network at another precision; what was traced is shared."""
        other = OpenVinoEngine(self.network, precision, self.settings["INFERENCE_NUM_THREADS"])
        other.models = self.models
        return other

    def begin(self, canvas: Array) -> None:
        """Compute the features of the whole, where the network looks at it."""
        self.features = None
        if has_context(self.network):
            self.features = self._run("context", np.ascontiguousarray(canvas[np.newaxis]))

    def predict(self, patches: Array, corners: Sequence[Corner]) -> Array:
        """Compute patch by patch: a batch gains nothing on a CPU."""
        made = []
        for patch, corner in zip(patches, corners, strict=True):
            x = np.ascontiguousarray(patch[np.newaxis])
            if self.features is None:
                made.append(self._run("forward", x))
            else:
                cube = self.network.context_pooling
                crop = self.features[
                    (slice(None), slice(None), *cropped(corner, patch.shape[1:], cube))
                ]
                made.append(self._run("fine", x, np.ascontiguousarray(crop)))
        return np.concatenate(made)

    def _run(self, part: str, *inputs: Array) -> Array:
        key = (part, tuple(x.shape for x in inputs))
        try:
            if key not in self.compiled:
                if key not in self.models:
                    self.models[key] = self._model(part, inputs)
                self.compiled[key] = self.core.compile_model(self.models[key], "CPU", self.settings)
            # The request's own buffer is written again by the next patch.
            values: Array = np.array(self.compiled[key](list(inputs))[0], np.float32)
        except MemoryError as error:
            raise OutOfMemory("the allocator refused") from error
        except RuntimeError as error:
            if any(words in str(error).lower() for words in MEMORY_WORDS):
                raise OutOfMemory(str(error)) from error
            raise
        return values

    def _model(self, part: str, inputs: Sequence[Array]) -> openvino.Model:
        """One method of the network as an OpenVINO model with the shapes of these inputs."""
        model = self._traced(part, _excerpts(inputs))
        shapes = {
            port: openvino.PartialShape(x.shape)
            for port, x in zip(model.inputs, inputs, strict=True)
        }
        try:
            model.reshape(shapes)
        except RuntimeError:  # a size of the excerpt has become a constant of the graph
            model = self._traced(part, inputs)
        return model

    def _traced(self, part: str, inputs: Sequence[Array]) -> openvino.Model:
        examples = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs)
        with warnings.catch_warnings(), torch.inference_mode():
            # Tracing is deprecated in favour of torch.export, whose programs OpenVINO 2026.4
            # cannot read with torch 2.13.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(_Part(self.network, part), examples, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced, example_input=examples)
        frontend = FrontEndManager().load_by_framework("pytorch")
        try:
            return frontend.convert(frontend.load(decoder))
        except openvino.frontend.OpConversionFailure as error:
            raise NotConvertible("OpenVINO lacks an operation of the network") from error


def _excerpts(inputs: Sequence[Array]) -> list[Array]:
    """A corner of the inputs, the same part of each: tracing computes the network once in torch."""
    sides = inputs[0].shape[2:]
    parts = [min(side, EXAMPLE_SIDE) / side for side in sides]
    small = []
    for x in inputs:
        z, y, x_size = (round(n * part) for n, part in zip(x.shape[2:], parts, strict=True))
        small.append(x[:, :, :z, :y, :x_size])
    return small


class _Part(torch.nn.Module):
    """One method of a network, as a module that can be traced."""

    def __init__(self, network: torch.nn.Module, part: str) -> None:
        super().__init__()
        self.network, self.part = network, part

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self.network, self.part)(*inputs)

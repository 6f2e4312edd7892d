"""Networks computed by torch, on the CPU, CUDA or Apple's MPS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from SynthCTLib.networks import has_context
from SynthCTLib.synthesis.engines import (
    Array,
    EngineName,
    OutOfMemory,
    Precision,
    cropped,
)
from SynthCTLib.synthesis.window import Corner

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
# How allocators other than CUDA's say it (torch 2.13): they raise a bare RuntimeError.
MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


class TorchEngine:
    """A network on a torch device, with autocast where the precision is not fp32."""

    name = EngineName.TORCH

    def __init__(
        self, network: torch.nn.Module, device: str, precision: Precision, threads: int
    ) -> None:
        self.device = device
        self.precision = precision
        self.threads = threads
        self.features: torch.Tensor | None = None
        with _memory():
            self.network = network.eval().to(device)

    def at(self, precision: Precision) -> TorchEngine:
        """The same network at another precision."""
        return TorchEngine(self.network, self.device, precision, self.threads)

    def begin(self, canvas: Array) -> None:
        """Compute the features of the whole, where the network looks at it."""
        self.features = None
        if has_context(self.network):
            with self._computing():
                self.features = self.network.context(self._tensor(canvas[np.newaxis]))

    def predict(self, patches: Array, corners: Sequence[Corner]) -> Array:
        """Compute one batch."""
        with self._computing():
            x = self._tensor(patches)
            if self.features is None:
                made = self.network(x)
            else:
                cube, sides = self.network.context_pooling, patches.shape[2:]
                crops = [
                    self.features[(slice(None), slice(None), *cropped(c, sides, cube))]
                    for c in corners
                ]
                made = self.network.fine(x, torch.cat(crops))
            values: Array = made.float().cpu().numpy()
        return values

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        kind = torch.device(self.device).type
        low = self.precision != Precision.FP32
        try:
            with (
                _memory(),
                torch.inference_mode(),
                torch.autocast(kind, DTYPES.get(self.precision, torch.bfloat16), enabled=low),
            ):
                yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _memory() -> Iterator[None]:
    """Translate the ways in which torch says that memory is exhausted."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error)) from error
    except RuntimeError as error:
        if any(words in str(error).lower() for words in MEMORY_WORDS):
            raise OutOfMemory(str(error)) from error
        raise
    except MemoryError as error:
        raise OutOfMemory("the allocator refused") from error

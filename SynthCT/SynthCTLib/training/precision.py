"""The precision of the forward pass, and where a CPU's bf16 is not to be trusted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from SynthCTLib.errors import InputError
from SynthCTLib.training.recipe import Recipe


def autocast(recipe: Recipe, device: str) -> torch.autocast:
    """The precision of a recipe on a device. Raises InputError for fp16 without CUDA."""
    kind = torch.device(device).type
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16
    if recipe.precision == "fp16" and kind != "cuda":
        raise InputError("Half precision (fp16) trains on CUDA only: use bf16 or fp32.")
    return torch.autocast(kind, dtype, enabled=recipe.precision != "fp32")


def keep_small_images_whole(network: nn.Module) -> None:
    """Let convolutions compute in fp32 where an image is no wider than their kernel.

    Parts of a kernel then never meet the image. On a CPU in bf16, torch 2.13 leaves the gradient
    of those parts as it finds it in memory, and writes beyond it: weights become NaN, or the
    process ends. It happens at the bottom of deep networks, and costs next to no time there.
    """
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            module.forward = _Guarded(module)


_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Guarded:
    """The pass of one convolution."""

    def __init__(self, module: nn.Module) -> None:
        assert isinstance(module, _CONVOLUTIONS)
        self.own = module.forward
        self.widest = max(module.kernel_size)

    def __call__(self, x: Tensor) -> Any:
        if min(x.shape[2:]) > self.widest or not torch.is_autocast_enabled(x.device.type):
            return self.own(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.own(x.float())

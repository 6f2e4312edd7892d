"""Two-dimensional networks on volumes: slice by slice, the depth folded into the batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class SliceNetwork(nn.Module, ABC):
    """(N, channels, D, H, W) to (N, channels, D, H, W), each of the D slices by itself.

    ``side_multiple``: what H and W are multiples of.
    """

    side_multiple: int

    def forward(self, x: Tensor) -> Tensor:
        """The answer for every slice."""
        n, c, d, h, w = x.shape
        made = self.answer(x.transpose(1, 2).reshape(n * d, c, h, w))
        return made.reshape(n, d, -1, h, w).transpose(1, 2)

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor:
        """The images (N, channels, H, W) that the network makes of images."""

"""What a training learns from: batches, cases to validate on, and the protocol of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Overviews:
    """Whole volumes at a quarter of the resolution, for networks with a wide view.

    ``images`` (1, channels, z, y, x) as the network pools them, ``targets`` and ``weights``
    (1, 1, z, y, x) likewise, one for each volume, whose sizes may differ. ``volume`` and
    ``corners``: for each patch of the batch, which volume it is from and its corner (z, y, x) there
    in voxels of the full resolution.
    """

    images: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    volume: tuple[int, ...]
    corners: tuple[Corner, ...]


@dataclass(frozen=True)
class Residue:
    """An answer is ``gain`` times the network's plus ``base`` (HU or SUV), shaped as targets."""

    gain: Tensor
    base: Tensor

    def answer(self, given: Tensor) -> Tensor:
        """From what the network gives to the image wanted (both in HU, or in SUV)."""
        return self.gain * given + self.base


@dataclass(frozen=True)
class Batch:
    """Patches: ``images`` (n, channels, z, y, x), ``targets`` and ``weights`` (n, 1, z, y, x).

    Targets are in HU of a CT and in SUV of a PET.
    ``overviews`` is there for networks of two views, ``residue`` for those that learn what a prior
    lacks.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    overviews: Overviews | None = None
    residue: Residue | None = None


@dataclass(frozen=True)
class Case:
    """A whole volume to validate on: (channels, z, y, x), target (HU or SUV), weights (z, y, x)."""

    name: str
    image: Tensor
    target: Tensor
    weight: Tensor
    residue: Residue | None = None


class Source(Protocol):
    """Where examples come from.

    ``batch(step, rank)`` depends on nothing but the source's settings, the step and the rank of the
    process, so that a training that was stopped goes on exactly as if it had not been.
    ``epoch_steps``: in how many steps everything was seen about once.
    """

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch."""
        ...

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The examples of a step, on the training device."""
        ...

    def cases(self) -> Iterator[Case]:
        """The volumes to validate on, on the training device."""
        ...

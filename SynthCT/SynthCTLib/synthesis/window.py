"""The sliding window: where patches lie, how they are weighted, and their sum in bounded memory.

Patches overlap and count by a Gaussian of the distance from their centre (Paper 1, section 3.3).
Corners are all combinations of starts along the three axes and the Gaussian is separable, so the
sum of weights is the product of three profiles: no volume of weights is kept. Patches are visited
layer by layer along the first axis, and only one layer of sums is held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Shape = tuple[int, int, int]
Corner = tuple[int, int, int]

SIDE_MULTIPLE = 16  # of the sides of canvas and patch: four levels of halving
START_MULTIPLE = 8  # of the corners of patches: features of a coarse view are cropped with them
SMALLEST_SIDE = 32  # instance normalisation four levels down needs more than one voxel
# Standard deviation of the Gaussian as a share of the side; MONAI's sliding window has the same.
SIGMA_SHARE = 0.125
# At the edge of a patch the Gaussian would be 3e-4 of its middle; never less than this.
LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class Window:
    """How a volume is cut: sides of a patch (voxels, array order of the network), least overlap.

    ``overlap``: the share of a patch's side that neighbours have in common at least. ``batch``:
    how many patches an accelerator computes at once. ``fit``: sides may be smaller where as many
    patches still cover the volume; for a network whose answer does not depend on the size of the
    patch (batch normalisation; instance normalisation does).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    patch: Shape
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    batch: Annotated[int, Field(ge=1)] = 1
    fit: bool = False

    @property
    def least_canvas(self) -> Shape:
        """Sides that a canvas has at least."""
        if not self.fit:
            return self.patch
        z, y, x = (min(side, SMALLEST_SIDE) for side in self.patch)
        return z, y, x

    def __post_init__(self) -> None:
        if any(side < SIDE_MULTIPLE or side % SIDE_MULTIPLE for side in self.patch):
            raise ValueError(f"the sides of the patch {self.patch} are not multiples of 16 voxels")


def canvas_sides(content: Sequence[int], patch: Shape) -> Shape:
    """Sides of the smallest canvas for content of a size: multiples of 16, a patch at least."""
    z, y, x = (
        max(side, -(-size // SIDE_MULTIPLE) * SIDE_MULTIPLE)
        for size, side in zip(content, patch, strict=True)
    )
    return z, y, x


def starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """Where patches begin along an axis: multiples of 8, the last at the end.

    ``length`` and ``side`` are multiples of 16, ``side`` not longer than ``length``. The fewest
    patches with the overlap, spread evenly.
    """
    stride = max(START_MULTIPLE, int(side * (1 - overlap)) // START_MULTIPLE * START_MULTIPLE)
    count = -(-(length - side) // stride) + 1
    eighths = np.linspace(0, (length - side) // START_MULTIPLE, count)
    return tuple(int(e) * START_MULTIPLE for e in np.floor(eighths + 0.5))


def fitted(length: int, side: int, overlap: float) -> int:
    """The smallest side up to ``side`` with which as few patches cover an axis."""
    count = len(starts(length, min(side, length), overlap))
    sides = range(min(SMALLEST_SIDE, side, length), min(side, length) + 1, SIDE_MULTIPLE)
    return next(s for s in sides if len(starts(length, s, overlap)) <= count)


def profile(side: int) -> Array:
    """Gaussian weights along one side of a patch, 1 in the middle."""
    distance = np.arange(side) - (side - 1) / 2
    gaussian = np.exp(-0.5 * (distance / (SIGMA_SHARE * side)) ** 2)
    return np.asarray(np.maximum(gaussian, LEAST_WEIGHT), np.float32)


@dataclass(frozen=True)
class Tiling:
    """All patches of a canvas."""

    canvas: Shape
    patch: Shape
    overlap: float

    @cached_property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """Starts along each axis."""
        return tuple(
            starts(length, side, self.overlap)
            for length, side in zip(self.canvas, self.patch, strict=True)
        )

    @cached_property
    def weights(self) -> tuple[Array, ...]:
        """Weights of one patch along each axis."""
        return tuple(profile(side) for side in self.patch)

    @cached_property
    def totals(self) -> tuple[Array, ...]:
        """Sum of the weights of all patches along each axis of the canvas."""
        sums = []
        for length, begins, weight in zip(self.canvas, self.axes, self.weights, strict=True):
            total = np.zeros(length, np.float32)
            for begin in begins:
                total[begin : begin + weight.size] += weight
            sums.append(total)
        return tuple(sums)

    def block(self, corner: Corner) -> tuple[slice, slice, slice]:
        """Where a patch lies in the canvas."""
        z, y, x = (slice(c, c + side) for c, side in zip(corner, self.patch, strict=True))
        return z, y, x

    def layers(self, wanted: Mask) -> Iterator[tuple[int, list[Corner]]]:
        """For each start along the first axis, the corners of the patches with a wanted voxel."""
        for first in self.axes[0]:
            layer = [(first, y, x) for y, x in itertools.product(*self.axes[1:])]
            yield first, [c for c in layer if wanted[self.block(c)].any()]

    def count(self, wanted: Mask) -> int:
        """How many patches have a wanted voxel."""
        return sum(len(corners) for _, corners in self.layers(wanted))

    def fullest(self, wanted: Mask) -> Corner:
        """The patch with the most wanted voxels."""
        corners = list(itertools.product(*self.axes))
        z, y, x = max(
            corners, key=lambda c: np.count_nonzero(wanted[self.block((c[0], c[1], c[2]))])
        )
        return z, y, x


def slide(
    tiling: Tiling,
    wanted: Mask,
    batch: int,
    predict: Callable[[Sequence[Corner]], Array],
    take: Callable[[int, Array], None],
    channels: int = 1,
) -> None:
    """Weighted mean of overlapping patches, handed over layer by layer.

    ``wanted`` (canvas): patches without a wanted voxel are left out, and what is not wanted may
    hold anything. ``predict`` gives (N, ``channels``, z, y, x) for at most ``batch`` corners.
    ``take`` gets the first index of a layer of planes and the planes (channels, n, y, x), in order,
    each plane once; they are its own.
    """
    depth = tiling.patch[0]
    sums = np.zeros((channels, depth, *tiling.canvas[1:]), np.float32)
    along_z, along_y, along_x = tiling.weights
    weight = along_z[:, None, None] * along_y[:, None] * along_x
    total_z, total_y, total_x = tiling.totals
    plane_total = total_y[:, None] * total_x
    begins = [*tiling.axes[0][1:], tiling.canvas[0]]
    for (first, corners), following in zip(tiling.layers(wanted), begins, strict=True):
        for index in range(0, len(corners), batch):
            some = corners[index : index + batch]
            for corner, values in zip(some, predict(some), strict=True):
                _, y, x = tiling.block(corner)
                sums[:, :, y, x] += values * weight
        done = following - first
        total = total_z[first:following, None, None] * plane_total
        take(first, np.divide(sums[:, :done], total, dtype=np.float32))
        if done < depth:
            sums[:, : depth - done] = sums[:, done:].copy()
        sums[:, max(0, depth - done) :] = 0

"""What the rules look at: the input in anatomical axes, and a shrunken copy of what was scanned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.volume import Role, Volume

# Anatomy is judged on a copy no coarser than this (unless the input is): a skull is 5 to 8 mm
# thick, and 1.6 mm is a common spacing of fast scans.
SMALL_SPACING_MM = 3.2
# Statistics of values rest on at most about this many voxels, taken at even steps.
SAMPLE_VOXELS = 2_000_000

NAMES: Mapping[Role, str] = {
    Role.MR: "MR",
    Role.CT: "CT",
    Role.PET: "PET",
    Role.NAC_PET: "NAC PET",
    Role.MU_MAP: "µ-map",
    Role.MASK: "mask",
    Role.UNCERTAINTY: "uncertainty map",
}


class Face(Enum):
    """A face of the field of view: array axis (z, y, x) of an LPS volume, and index at it."""

    INFERIOR = (0, 0)
    SUPERIOR = (0, -1)
    ANTERIOR = (1, 0)
    POSTERIOR = (1, -1)
    RIGHT = (2, 0)
    LEFT = (2, -1)

    @property
    def axis(self) -> int:
        """Array axis that leaves the field through this face."""
        return self.value[0]

    @property
    def word(self) -> str:
        """How sentences call it."""
        return _WORDS[self]


_WORDS = {
    Face.INFERIOR: "bottom",
    Face.SUPERIOR: "top",
    Face.ANTERIOR: "front",
    Face.POSTERIOR: "back",
    Face.RIGHT: "right side",
    Face.LEFT: "left side",
}


@dataclass(frozen=True)
class Scan:
    """The shrunken part of an input that holds values, LPS order, float32.

    ``padding_mm`` is how far the field goes on beyond it with one single value a slice.
    """

    volume: Volume
    padding_mm: Mapping[Face, float]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of the voxels along the array axes (z, y, x)."""
        x, y, z = self.volume.grid.spacing_mm
        return z, y, x


class View:
    """An input as the rules see it; the costly parts are made when first asked for."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.role = volume.role
        self.name = NAMES[volume.role]
        self.tags = volume.provenance.tags

    @cached_property
    def canonical(self) -> Volume:
        """The input in LPS order, at full resolution."""
        return to_lps(self.volume).volume

    @cached_property
    def sample(self) -> npt.NDArray[np.float32]:
        """Values at even steps through the volume, flat."""
        values = self.canonical.array
        step = max(1, int(np.ceil((values.size / SAMPLE_VOXELS) ** (1 / 3))))
        return values[::step, ::step, ::step].astype(np.float32).ravel()

    @cached_property
    def is_integer(self) -> bool:
        """Whether all sampled values are whole numbers."""
        return bool(np.all(self.sample == np.rint(self.sample)))

    @cached_property
    def low(self) -> float:
        """The least value."""
        return float(self.volume.array.min())

    @cached_property
    def high(self) -> float:
        """The largest value."""
        return float(self.volume.array.max())

    @cached_property
    def scan(self) -> Scan:
        """The shrunken copy without its padding."""
        image = self.canonical.image
        spacing, size = image.GetSpacing(), image.GetSize()
        factors = [
            min(max(1, int(SMALL_SPACING_MM / s + 1e-6)), n)
            for s, n in zip(spacing, size, strict=True)
        ]
        small = sitk.Cast(sitk.BinShrink(image, factors), sitk.sitkFloat32)
        box = _scanned_box(sitk.GetArrayViewFromImage(small))
        padding = {}
        for face in Face:
            kept = box[face.axis]
            length = sitk.GetArrayViewFromImage(small).shape[face.axis]
            slices = kept.start if face.value[1] == 0 else length - kept.stop
            padding[face] = slices * small.GetSpacing()[2 - face.axis]
        z, y, x = box
        return Scan(self.canonical.with_image(small[x, y, z]), padding)


def _scanned_box(values: npt.NDArray[Any]) -> tuple[slice, slice, slice]:
    """Without the outer slices that hold one single value."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        live = np.flatnonzero(values.max(axis=others) > values.min(axis=others))
        box.append(slice(int(live[0]), int(live[-1]) + 1) if live.size else slice(0, 1))
    return box[0], box[1], box[2]


def commonest(values: npt.NDArray[Any], low: float, high: float, bins: int) -> float:
    """Centre of the fullest of ``bins`` equal bins between ``low`` and ``high``; NaN when empty.

    The counts are smoothed over three bins, so that rounding of the values does not matter.
    """
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    if not counts.any():
        return float("nan")
    smooth = np.convolve(counts, np.ones(3), mode="same")
    fullest = int(np.argmax(smooth))
    return float(edges[fullest] + edges[fullest + 1]) / 2

"""The voxels a figure is computed from: those of a mask, checked once at the door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.volume import Role, Unit, Volume


@dataclass(frozen=True, eq=False)
class MaskedPair:
    """The values of two volumes at the voxels of a mask: one-dimensional, float64, same order."""

    reference: npt.NDArray[np.float64]
    synthetic: npt.NDArray[np.float64]


def masked_pair(reference: Volume, synthetic: Volume, mask: Volume) -> MaskedPair:
    """The HU of two volumes where the mask is above 0.

    Raises InputError unless both are in HU, all three lie on one grid, the mask is a mask with at
    least one voxel, and the values in it are finite. Outside the mask nothing is read.
    """
    where = voxels_of(mask, reference, synthetic)
    return MaskedPair(
        hu_values(reference, where, "reference"), hu_values(synthetic, where, "synthetic")
    )


def voxels_of(mask: Volume, *volumes: Volume) -> npt.NDArray[np.bool_]:
    """The voxels where a mask is above 0, shape (z, y, x), a new array.

    Raises InputError for anything but a mask, and for volumes on other grids.
    """
    if mask.role != Role.MASK:
        raise InputError(
            f"A {mask.role} volume was given where a mask is needed: give a volume of zeros and "
            "ones with the role of a mask."
        )
    for volume in volumes:
        volume.require_grid_of(mask)
    where: npt.NDArray[np.bool_] = mask.array > 0
    return where


def hu_values(volume: Volume, where: npt.NDArray[np.bool_], name: str) -> npt.NDArray[np.float64]:
    """The HU of a volume (``name`` it in the message) at the chosen voxels, one-dimensional.

    Raises InputError when there is no such voxel, the volume is not in HU, or not finite there.
    """
    volume.require_unit(Unit.HU)
    values: npt.NDArray[Any] = volume.array[where]
    if not values.size:
        raise InputError("The mask holds no voxel: choose one that overlaps the images.")
    if not np.isfinite(values).all():
        raise InputError(
            f"The {name} volume holds values inside the mask that are not numbers (NaN or "
            "infinite): leave out of the mask what was not scanned."
        )
    return values.astype(np.float64)


def bounding_box(where: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds every true voxel of an array with at least one."""
    box = []
    for axis in range(where.ndim):
        others = tuple(a for a in range(where.ndim) if a != axis)
        at = np.flatnonzero(where.any(axis=others))
        box.append(slice(int(at[0]), int(at[-1]) + 1))
    return tuple(box)

"""How far the surface of the synthetic bone lies from that of the reference, in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from SynthCTLib.metrics.masked import bounding_box, hu_values, voxels_of
from SynthCTLib.metrics.overlap import BONE_HU
from SynthCTLib.volume import Volume

_PERCENTILE = 95.0


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances between two surfaces, mm; NaN where one of the images has no bone.

    ``hd95_mm`` is the greater of the two 95th percentiles, ``mean_mm`` the mean over the voxels
    of both surfaces, ``largest_mm`` the Hausdorff distance.
    """

    hd95_mm: float
    mean_mm: float
    largest_mm: float


def bone_surface_distance(
    reference: Volume, synthetic: Volume, mask: Volume, threshold_hu: float = BONE_HU
) -> SurfaceDistance:
    """Distances between the surfaces of bone (HU >= threshold) of two CTs inside a mask.

    The surface of an object is its voxels with a face on something else (or on the border of the
    image); from each, the distance to the nearest voxel of the other surface is taken, centre to
    centre. HD95 = max(P95(a to b), P95(b to a)); mean = mean over both sets together. This is how
    MONAI defines them and SynthRAD 2025 uses them. Raises InputError for other units or grids, an
    empty mask, and values in it that are not finite.
    """
    where = voxels_of(mask, reference, synthetic)
    for volume, name in ((reference, "reference"), (synthetic, "synthetic")):
        hu_values(volume, where, name)  # refuses what cannot be compared
    objects = [where & (v.array >= threshold_hu) for v in (reference, synthetic)]
    return surface_distance(objects[0], objects[1], mask.grid.spacing_mm)


def surface_distance(
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistance:
    """Distances between the surfaces of two objects, arrays (z, y, x), spacing (x, y, z)."""
    if not (first.any() and second.any()):
        return SurfaceDistance(float("nan"), float("nan"), float("nan"))
    ours, theirs = (_surface(a, spacing_mm) for a in (first, second))
    forth, _ = cKDTree(theirs).query(ours)
    back, _ = cKDTree(ours).query(theirs)
    return SurfaceDistance(
        float(max(np.percentile(forth, _PERCENTILE), np.percentile(back, _PERCENTILE))),
        float((forth.sum() + back.sum()) / (forth.size + back.size)),
        float(max(forth.max(), back.max())),
    )


def _surface(
    where: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Positions (mm, from the array's corner) of the voxels with a face on something else."""
    box = bounding_box(where)
    part = np.pad(where[box], 1)
    inner = part.copy()
    for axis in range(3):
        inner &= np.roll(part, 1, axis) & np.roll(part, -1, axis)
    index = np.argwhere(part & ~inner) - 1 + [side.start for side in box]
    return np.asarray(index * np.asarray(spacing_mm[::-1]), np.float64)

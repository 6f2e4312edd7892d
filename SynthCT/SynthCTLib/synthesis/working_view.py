"""The part of an input that a network sees, on a grid of its own, and the way back.

The grid is in LPS axis order with cubic voxels and the orientation of the input; an input that has
such a grid already is not interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.imaging.grids import isotropic_grid, resample, scanned_field, to_lps
from SynthCTLib.imaging.masks import body_contour, head_mask
from SynthCTLib.synthesis.window import Shape, canvas_sides
from SynthCTLib.volume import Grid, Volume

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Triple = tuple[int, int, int]

SLAB_VOXELS = 2**23  # of the input's grid that are resampled at once: 32 MiB
SAME_SPACING = 1e-3  # relative: two spacings that differ by less are the same


class Region(StrEnum):
    """What is cut out of the input and kept in the answer."""

    HEAD = "head"
    BODY = "body"
    FIELD = "field"


@dataclass(frozen=True)
class WorkingView:
    """Arrays (z, y, x) on one canvas: MR (0 where not scanned), masks, and their grid.

    ``region``: the head or body; ``kept``: the same with a margin, where the answer is kept.
    ``original`` is the grid of the input, ``canonical`` the same voxels in LPS axis order.
    """

    mr: Array
    scanned: Mask
    region: Mask
    kept: Mask
    grid: Grid
    canonical: Grid
    original: Grid

    @property
    def spacing_mm(self) -> float:
        """Voxel of the canvas."""
        return self.grid.spacing_mm[0]

    def onto_input(self, values: Array, outside: float, *, cubic: bool) -> Array:
        """Values on the canvas, on the grid and in the axis order of the input (z, y, x).

        Between voxels by cubic B-splines, kept within the range of ``values``, or linearly; on
        axes that are coarser, means over the voxel. ``outside`` is written beyond the canvas and
        where no voxel nearby is kept. Done in slabs: one copy at a time of a large input.
        """
        averaged = self._averaged(values)
        image = self._image(averaged)
        same = np.allclose(self.grid.spacing_mm, self.canonical.spacing_mm, rtol=SAME_SPACING)
        interpolator = sitk.sitkLinear
        if cubic and not same:
            image = sitk.BSplineDecomposition(image, 3)
            interpolator = sitk.sitkBSplineResamplerOrder3
        low, high = float(values.min()), float(values.max())
        kept = self._image(self.kept.astype(np.float32))
        answer = np.empty(self.original.size[::-1], np.float32)
        canonical = in_lps(answer, self.original)
        planes = max(1, SLAB_VOXELS // int(np.prod(self.canonical.size[:2])))
        for first in range(0, self.canonical.size[2], planes):
            slab = _planes(self.canonical, first, planes)
            block = _sampled(image, slab, interpolator, outside)
            near = _sampled(kept, slab, sitk.sitkLinear, 0.0) > 0
            canonical[first : first + len(block)] = np.where(
                near, np.clip(block, low, high), np.float32(outside)
            )
        return answer

    def _image(self, values: Array) -> sitk.Image:
        image = sitk.GetImageFromArray(values)
        image.SetOrigin(self.grid.origin_mm)
        image.SetSpacing(self.grid.spacing_mm)
        image.SetDirection(self.grid.direction)
        return image

    def _averaged(self, values: Array) -> Array:
        """Means along the axes on which the input is coarser than the canvas."""
        for axis, spacing in enumerate(reversed(self.canonical.spacing_mm)):
            wide = round(spacing / self.spacing_mm)
            if wide > 1:
                values = ndimage.uniform_filter1d(values, wide, axis=axis, mode="nearest")
        return values


def view_of(
    source: Volume,
    region: Region,
    spacing_mm: float,
    crop_margin_mm: float,
    keep_margin_mm: float,
    patch: Shape,
) -> WorkingView:
    """The region of an input with a margin, on a canvas that holds a patch (z, y, x) at least.

    Raises InputError when no head or body is found.
    """
    canonical = to_lps(source).volume
    fine = _means(canonical, spacing_mm)
    work = isotropic_grid(canonical.grid, spacing_mm)
    if np.allclose(fine.grid.spacing_mm, spacing_mm, rtol=SAME_SPACING):
        whole, scanned = fine, np.ones(fine.array.shape, bool)
    else:
        whole, scanned = resample(fine, work), scanned_field(fine, work).array > 0
    if region == Region.FIELD:
        inside = scanned
    else:
        find = head_mask if region == Region.HEAD else body_contour
        inside = find(whole).array > 0
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    margin = round(crop_margin_mm / spacing_mm)
    sides = canvas_sides([s.stop - s.start + 2 * margin for s in box], patch)
    corner = [(s.start + s.stop - side) // 2 for s, side in zip(box, sides, strict=True)]

    def cut(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return placed(values, corner, sides)

    region_mask = np.asarray(cut(inside), bool)
    kept = region_mask
    if keep_margin_mm > 0:
        radius = round(keep_margin_mm / spacing_mm)
        ball = sitk.BinaryDilate(
            sitk.GetImageFromArray(region_mask.astype(np.uint8)), [radius] * 3, sitk.sitkBall
        )
        kept = sitk.GetArrayFromImage(ball) > 0
    matrix = whole.grid.index_to_world
    origin = (matrix @ [*corner[::-1], 1.0])[:3]
    grid = Grid(
        (sides[2], sides[1], sides[0]),
        whole.grid.spacing_mm,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        whole.grid.direction,
    )
    return WorkingView(
        np.asarray(cut(whole.array), np.float32),
        np.asarray(cut(scanned), bool),
        region_mask,
        kept,
        grid,
        canonical.grid,
        source.grid,
    )


def placed(
    values: npt.NDArray[np.generic], corner: Sequence[int], sides: Sequence[int]
) -> npt.NDArray[np.generic]:
    """A block of an array that may reach beyond it; 0 beyond. Corner and sides in array order."""
    block = np.zeros(tuple(sides), values.dtype)
    here, there = [], []
    for begin, side, size in zip(corner, sides, values.shape, strict=True):
        low, high = max(0, begin), min(size, begin + side)
        here.append(slice(low, high))
        there.append(slice(low - begin, high - begin))
    block[tuple(there)] = values[tuple(here)]
    return block


def in_lps(array: npt.NDArray[np.generic], grid: Grid) -> npt.NDArray[np.generic]:
    """A view of an array (z, y, x) on a grid, in LPS axis order, as ``grids.to_lps`` orders it."""
    still = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    still.SetDirection(grid.direction)
    orient = sitk.DICOMOrientImageFilter()
    orient.SetDesiredCoordinateOrientation("LPS")
    orient.Execute(still)
    order = [2 - axis for axis in reversed(orient.GetPermuteOrder())]
    flips = tuple(reversed(orient.GetFlipAxes()))
    view = array.transpose(order)
    return view[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def _means(volume: Volume, spacing_mm: float) -> Volume:
    """The volume, float32, with axes at least twice as fine averaged over whole voxels."""
    factors = [max(1, int(spacing_mm / s + 1e-6)) for s in volume.grid.spacing_mm]
    factors = [min(f, n) for f, n in zip(factors, volume.grid.size, strict=True)]
    image = volume.image
    if image.GetPixelID() != sitk.sitkFloat32:
        image = sitk.Cast(image, sitk.sitkFloat32)
    return volume.with_image(image if max(factors) == 1 else sitk.BinShrink(image, factors))


def _planes(grid: Grid, first: int, count: int) -> Grid:
    """Planes of a grid along z, from an index on."""
    x, y, z = grid.size
    origin = (grid.index_to_world @ [0, 0, first, 1])[:3]
    return Grid(
        (x, y, min(count, z - first)),
        grid.spacing_mm,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        grid.direction,
    )


def _sampled(image: sitk.Image, grid: Grid, interpolator: int, outside: float) -> Array:
    made = sitk.Resample(
        image,
        grid.size,
        sitk.Transform(3, sitk.sitkIdentity),
        interpolator,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        outside,
        sitk.sitkFloat32,
    )
    values: Array = sitk.GetArrayFromImage(made)
    return values

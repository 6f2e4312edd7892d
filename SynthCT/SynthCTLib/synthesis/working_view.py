"""The part of an input that a network sees, on a grid of its own, and the way back.

The grid is in LPS axis order with cubic voxels and the orientation of the input; an input that has
such a grid already is not interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.imaging.grids import in_lps, isotropic_grid, resample, scanned_field, to_lps
from SynthCTLib.imaging.masks import body_contour, head_mask, refine
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
    ``to_canvas`` takes points of the input to points of the canvas where they differ (template
    space); then ``reach`` is what of it an answer can be given for, and ``brain`` where that is.
    ``found`` is the mask of the region on the input, None where it was found on other voxels.
    """

    mr: Array
    scanned: Mask
    region: Mask
    kept: Mask
    grid: Grid
    canonical: Grid
    original: Grid
    to_canvas: sitk.Transform | None = None
    reach: Mask | None = None
    brain: Mask | None = None
    found: Volume | None = None

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
        image = self._image(self._averaged(values))
        same = self.to_canvas is None and np.allclose(
            self.grid.spacing_mm, self.canonical.spacing_mm, rtol=SAME_SPACING
        )
        interpolator = sitk.sitkLinear
        if cubic and not same:
            image = sitk.BSplineDecomposition(image, 3)
            interpolator = sitk.sitkBSplineResamplerOrder3
        low, high = float(values.min()), float(values.max())
        around = ndimage.maximum_filter(self.kept.astype(np.uint8), 3)
        near = self._image(around)
        answer = np.full(self.original.size[::-1], outside, np.float32)
        canonical = in_lps(answer, self.original)
        z, y, x = self._box(around)
        planes = max(1, SLAB_VOXELS // max(1, (y.stop - y.start) * (x.stop - x.start)))
        for first in range(z.start, z.stop, planes):
            slab = slice(first, min(first + planes, z.stop))
            grid = _part(self.canonical, (slab, y, x))
            block = np.clip(_sampled(image, grid, interpolator, outside, self.to_canvas), low, high)
            close = _sampled(near, grid, sitk.sitkNearestNeighbor, 0, self.to_canvas) > 0
            canonical[slab, y, x] = np.where(close, block, np.float32(outside))
        return answer

    def covers(self) -> Mask | None:
        """``reach`` on the grid of the input; None for everywhere.

        A canvas cut out of the input holds its whole region; the template's is cut below.
        """
        if self.reach is None:
            return None
        answer = np.zeros(self.original.size[::-1], np.uint8)
        image = self._image(self.reach.astype(np.uint8))
        in_lps(answer, self.original)[...] = _sampled(
            image, self.canonical, sitk.sitkNearestNeighbor, 0, self.to_canvas
        )
        return answer > 0

    def _box(self, mask: npt.NDArray[np.uint8]) -> tuple[slice, slice, slice]:
        """The voxels of the input, in LPS axis order, among which a mask on the canvas lies."""
        if self.to_canvas is not None:
            x_size, y_size, z_size = self.canonical.size
            return slice(0, z_size), slice(0, y_size), slice(0, x_size)
        axes = np.reshape(self.canonical.direction, (3, 3))
        offset = axes.T @ np.subtract(self.grid.origin_mm, self.canonical.origin_mm)
        box = []
        for axis, found in enumerate(reversed(ndimage.find_objects(mask)[0])):
            mm, size = self.canonical.spacing_mm[axis], self.canonical.size[axis]
            begin = int(np.floor((offset[axis] + (found.start - 1) * self.spacing_mm) / mm))
            end = int(np.ceil((offset[axis] + found.stop * self.spacing_mm) / mm)) + 1
            box.append(slice(min(max(0, begin), size), min(max(0, end), size)))
        x, y, z = box
        return z, y, x

    def _image(self, values: npt.NDArray[Any]) -> sitk.Image:
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

    The head is found in the voxels of the input where they are finer than the canvas's: once for
    the network and for the figures. In coarser ones its outline would have steps. Raises
    InputError when no head or body is found.
    """
    reoriented = to_lps(source)
    canonical = reoriented.volume
    fine = averaged(canonical, spacing_mm)
    work = isotropic_grid(canonical.grid, spacing_mm)
    if np.allclose(fine.grid.spacing_mm, spacing_mm, rtol=SAME_SPACING):
        whole = fine
    else:
        whole = resample(fine, work)
    scanned = scanned_field(fine, whole.grid).array > 0
    found = None
    if region == Region.FIELD:
        inside = scanned
    elif region == Region.HEAD and max(canonical.grid.spacing_mm) < spacing_mm:
        outline = head_mask(canonical)
        inside = scanned & refine(outline.array > 0, canonical.image, whole.image)
        found = reoriented.restore(outline)
    else:
        outline = (head_mask if region == Region.HEAD else body_contour)(whole)
        inside = outline.array > 0
        if whole.grid == canonical.grid:
            found = reoriented.restore(outline)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    margin = round(crop_margin_mm / spacing_mm)
    sides = canvas_sides([s.stop - s.start + 2 * margin for s in box], patch)
    corner = [(s.start + s.stop - side) // 2 for s, side in zip(box, sides, strict=True)]

    def cut(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return placed(values, corner, sides)

    region_mask = np.asarray(cut(inside), bool)
    kept = widened(region_mask, keep_margin_mm / spacing_mm)
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
        found=found,
    )


def widened(mask: Mask, voxels: float) -> Mask:
    """A mask grown by a ball."""
    if voxels <= 0:
        return mask
    ball = sitk.BinaryDilate(
        sitk.GetImageFromArray(mask.astype(np.uint8)), [round(voxels)] * 3, sitk.sitkBall
    )
    grown: Mask = sitk.GetArrayFromImage(ball) > 0
    return grown


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


def averaged(volume: Volume, spacing_mm: float) -> Volume:
    """The volume, float32, with axes at least twice as fine averaged over whole voxels."""
    factors = [max(1, int(spacing_mm / s + 1e-6)) for s in volume.grid.spacing_mm]
    factors = [min(f, n) for f, n in zip(factors, volume.grid.size, strict=True)]
    image = volume.image
    if image.GetPixelID() != sitk.sitkFloat32:
        image = sitk.Cast(image, sitk.sitkFloat32)
    return volume.with_image(image if max(factors) == 1 else sitk.BinShrink(image, factors))


def _part(grid: Grid, block: tuple[slice, slice, slice]) -> Grid:
    """A block (z, y, x) of a grid."""
    z, y, x = block
    origin = (grid.index_to_world @ [x.start, y.start, z.start, 1])[:3]
    return Grid(
        (x.stop - x.start, y.stop - y.start, z.stop - z.start),
        grid.spacing_mm,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        grid.direction,
    )


def _sampled(
    image: sitk.Image,
    grid: Grid,
    interpolator: int,
    outside: float,
    transform: sitk.Transform | None,
) -> Array:
    made = sitk.Resample(
        image,
        grid.size,
        transform or sitk.Transform(3, sitk.sitkIdentity),
        interpolator,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        outside,
        sitk.sitkFloat32 if interpolator != sitk.sitkNearestNeighbor else sitk.sitkUInt8,
    )
    values: Array = sitk.GetArrayFromImage(made)
    return values

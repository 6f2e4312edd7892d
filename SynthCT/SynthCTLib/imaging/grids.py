"""Bringing volumes onto other grids, and into a canonical orientation and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.volume import AIR_HU, Grid, Role, Step, Volume


class Interpolator(IntEnum):
    """How values between voxels are found. Masks and labels need ``NEAREST``."""

    NEAREST = sitk.sitkNearestNeighbor
    LINEAR = sitk.sitkLinear
    BSPLINE = sitk.sitkBSpline


def outside_value(volume: Volume) -> float:
    """The value that stands for "nothing was scanned here": air for a CT, zero otherwise."""
    return AIR_HU if volume.role == Role.CT else 0.0


def resample(
    volume: Volume,
    grid: Grid,
    *,
    transform: sitk.Transform | None = None,
    interpolator: Interpolator | None = None,
    outside: float | None = None,
) -> Volume:
    """The volume on another grid, float32 (masks keep their type).

    ``transform`` takes LPS mm points of ``grid`` to LPS mm points of ``volume`` (ITK's resampling
    direction). Default interpolator: nearest for masks, linear otherwise. Outside the volume
    ``outside`` is written, by default -1000 for CT and 0 otherwise; cubic B-splines overshoot at
    edges, so their result is kept within the range of the volume.
    """
    if interpolator is None:
        interpolator = Interpolator.NEAREST if volume.role == Role.MASK else Interpolator.LINEAR
    if outside is None:
        outside = outside_value(volume)
    image = volume.image
    if volume.role != Role.MASK and image.GetPixelID() != sitk.sitkFloat32:
        image = sitk.Cast(image, sitk.sitkFloat32)
    moved = sitk.Resample(
        image,
        grid.size,
        transform or sitk.Transform(3, sitk.sitkIdentity),
        int(interpolator),
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        outside,
        image.GetPixelID(),
    )
    if interpolator == Interpolator.BSPLINE:
        low, high = float(volume.array.min()), float(volume.array.max())
        moved = sitk.Clamp(moved, sitk.sitkFloat32, min(low, outside), max(high, outside))
    step = Step("resample", {"interpolator": interpolator.name.lower(), "outside": outside})
    return volume.with_image(moved, step=step)


def scanned_field(volume: Volume, grid: Grid, transform: sitk.Transform | None = None) -> Volume:
    """Mask on ``grid`` of the voxels whose centre lies inside the volume's field of view.

    Of a DICOM series with a tilted gantry that is where its slices were, not the upright block
    that it was resampled into.
    """
    scanned = _inside(volume.grid.blank(sitk.sitkUInt8) + 1, grid, transform)
    for step in volume.provenance.steps:
        if "scanned_index_to_world" in step.settings:
            to_index = sitk.AffineTransform(3)
            inverse = np.linalg.inv(step.settings["scanned_index_to_world"])
            to_index.SetMatrix(inverse[:3, :3].ravel().tolist())
            to_index.SetTranslation(inverse[:3, 3].tolist())
            chain = [to_index, transform] if transform is not None else [to_index]
            slices = sitk.Image(step.settings["scanned_size"], sitk.sitkUInt8) + 1
            scanned = scanned & _inside(slices, grid, sitk.CompositeTransform(chain))
    return volume.with_image(scanned, role=Role.MASK, step=Step("scanned_field"))


def _inside(ones: sitk.Image, grid: Grid, transform: sitk.Transform | None) -> sitk.Image:
    """1 at the voxels of a grid whose centres a transform takes into an image of ones."""
    return sitk.Resample(
        ones,
        grid.size,
        transform or sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkNearestNeighbor,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        0,
        sitk.sitkUInt8,
    )


def isotropic_grid(grid: Grid, spacing_mm: float) -> Grid:
    """A grid with cubic voxels that covers the same block of space with the same orientation."""
    size = [max(1, int(np.ceil(e / spacing_mm - 1e-6))) for e in grid.extent_mm]
    half = spacing_mm * (np.asarray(size) - 1) / 2
    origin = grid.centre_mm - np.reshape(grid.direction, (3, 3)) @ half
    return Grid(
        (size[0], size[1], size[2]),
        (spacing_mm,) * 3,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        grid.direction,
    )


@dataclass(frozen=True)
class Reoriented:
    """A volume in LPS axis order (x to left, y to posterior, z to superior), and the way back.

    Only axes are permuted and flipped: no value is interpolated. On an oblique grid each axis is
    the one nearest to its anatomical direction.
    """

    volume: Volume
    original: Grid

    def restore(self, volume: Volume) -> Volume:
        """A volume on the canonical grid, back on exactly the original grid."""
        array = np.empty(self.original.size[::-1], volume.array.dtype)
        in_lps(array, self.original)[...] = volume.array
        return volume.with_image(_placed(array, self.original))


def to_lps(volume: Volume) -> Reoriented:
    """Permute and flip the axes so that x runs to the left, y to posterior, z to superior."""
    grid = volume.grid
    order, flips = _lps_axes(grid)
    corner = [
        n - 1 if flip else 0 for n, flip in zip(grid.size, _unordered(flips, order), strict=True)
    ]
    # Flipping an axis moves the origin to the far corner and rounds it: undone, so that every
    # axis order of one image gives the same volume to the last bit.
    x, y, z = (round(float(v), 6) for v in (grid.index_to_world @ [*corner, 1.0])[:3])
    axes = np.reshape(grid.direction, (3, 3))[:, order] * np.where(flips, -1.0, 1.0)
    i, j, k = order
    canonical = Grid(
        (grid.size[i], grid.size[j], grid.size[k]),
        (grid.spacing_mm[i], grid.spacing_mm[j], grid.spacing_mm[k]),
        (x, y, z),
        tuple(float(v) for v in axes.ravel()),
    )
    image = _placed(np.ascontiguousarray(in_lps(volume.array, grid)), canonical)
    return Reoriented(volume.with_image(image), grid)


def own_frame(volume: Volume) -> Volume:
    """The same voxels with the axes of the grid along x, y and z, and its middle at 0.

    What is computed from it depends on the voxels alone, not on how the scanner held its slices.
    """
    image = sitk.Image(volume.image)
    image.SetDirection(np.eye(3).ravel().tolist())
    half = np.asarray(image.GetSpacing()) * (np.asarray(image.GetSize()) - 1) / 2
    image.SetOrigin((-half).tolist())
    return volume.with_image(image)


def in_lps(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """A view of an array (z, y, x) on a grid, in LPS axis order, as ``to_lps`` orders it."""
    order, flips = _lps_axes(grid)
    view = array.transpose([2 - axis for axis in reversed(order)])
    return view[tuple(slice(None, None, -1) if flip else slice(None) for flip in reversed(flips))]


def _lps_axes(grid: Grid) -> tuple[list[int], list[bool]]:
    """Which index axis (0: x) runs along left, posterior and superior, and which run backwards.

    As ITK decides it; ITK itself takes ten times as long to turn the voxels round.
    """
    still = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    still.SetDirection(grid.direction)
    orient = sitk.DICOMOrientImageFilter()
    orient.SetDesiredCoordinateOrientation("LPS")
    orient.Execute(still)
    return list(orient.GetPermuteOrder()), [bool(flip) for flip in orient.GetFlipAxes()]


def _unordered(flips: list[bool], order: list[int]) -> list[bool]:
    """Flips of the LPS axes, by the index axes that they are."""
    return [flips[order.index(axis)] for axis in range(3)]


def _placed(array: npt.NDArray[Any], grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image

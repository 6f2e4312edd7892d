"""Cutting a volume into the three planes a reader expects, with the letters and millimetres.

Radiological convention: the patient's right is on the image's left, anterior on top of an axial
and on the left of a sagittal slice, superior on top of the other two. The planes follow the
image's own axes, each named after the anatomical direction it is nearest to: nothing is
interpolated, so a slice shows the voxels that the file holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.imaging.masks import BODY_EDGE_HU
from SynthCTLib.volume import Grid, Triple, Volume

_OPPOSITE = ("LR", "PA", "SI")  # canonical direction of x, y, z, then its opposite


class Plane(Enum):
    """A viewing plane: its name, and the letters at the left, right, top and bottom of a slice."""

    AXIAL = ("Axial", "R", "L", "A", "P")
    CORONAL = ("Coronal", "R", "L", "S", "I")
    SAGITTAL = ("Sagittal", "A", "P", "S", "I")

    @property
    def title(self) -> str:
        """The name, such as "Axial"."""
        return self.value[0]

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Anatomical directions at the left, right, top and bottom edge."""
        return self.value[1:]


def _canonical_axes(grid: Grid) -> tuple[list[int], list[bool]]:
    """Index axis (0 = x) nearest to left, posterior and superior, and whether it runs against."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction)
    axes = [next(i for i, c in enumerate(code) if c in pair) for pair in _OPPOSITE]
    return axes, [code[axis] == pair[1] for axis, pair in zip(axes, _OPPOSITE, strict=True)]


def canonical(voxels: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """An array on a grid, indexed (z, y, x) with x to the left, y to posterior, z to superior.

    The same order as ``to_lps`` gives, but a view: a report cuts a dozen volumes, and a
    reoriented copy of each would double the memory of a 0.4 mm head.
    """
    axes, against = _canonical_axes(grid)
    view = voxels.transpose([2 - axis for axis in reversed(axes)])
    return view[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(against))]


@dataclass(frozen=True)
class View:
    """Where volumes on one grid are cut, and how much of them is shown.

    ``point`` is the voxel (x, y, z) in canonical order that all three planes pass through; ``box``
    holds the first and last + 1 voxel shown along canonical x, y and z.
    """

    grid: Grid
    point: tuple[int, int, int]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

    @property
    def spacing_mm(self) -> Triple:
        """Voxel size along canonical x, y and z, mm."""
        x, y, z = (self.grid.spacing_mm[axis] for axis in _canonical_axes(self.grid)[0])
        return x, y, z

    @property
    def position_mm(self) -> npt.NDArray[np.float64]:
        """LPS mm of the point."""
        axes, against = _canonical_axes(self.grid)
        index = np.ones(4)
        for axis, flip, at in zip(axes, against, self.point, strict=True):
            index[axis] = self.grid.size[axis] - 1 - at if flip else at
        position: npt.NDArray[np.float64] = (self.grid.index_to_world @ index)[:3]
        return position

    @property
    def tilt_degrees(self) -> float:
        """Largest angle between an axis of the image and the anatomical direction it stands for."""
        nearest = np.abs(np.reshape(self.grid.direction, (3, 3))).max(axis=0)
        return float(np.degrees(np.arccos(np.clip(nearest, 0.0, 1.0))).max())

    def slice_of(self, voxels: npt.NDArray[Any], plane: Plane) -> npt.NDArray[Any]:
        """The slice of an array on this grid as it is displayed, first row on top.

        ``voxels`` is in the order of the file, as ``Volume.array`` is.
        """
        voxels = canonical(voxels, self.grid)
        (x0, x1), (y0, y1), (z0, z1) = self.box
        x, y, z = self.point
        if plane is Plane.AXIAL:
            return voxels[z, y0:y1, x0:x1]
        if plane is Plane.CORONAL:
            return voxels[z0:z1, y, x0:x1][::-1]
        return voxels[z0:z1, y0:y1, x][::-1]

    def extent_mm(self, plane: Plane) -> tuple[float, float]:
        """Width and height of a slice, mm."""
        x, y, z = (
            (end - begin) * step
            for (begin, end), step in zip(self.box, self.spacing_mm, strict=True)
        )
        return {Plane.AXIAL: (x, y), Plane.CORONAL: (x, z), Plane.SAGITTAL: (y, z)}[plane]

    def where(self, plane: Plane) -> str:
        """Position of a slice as radiologists write it, such as "S 34 mm"."""
        axis = {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}[plane]
        at = round(float(self.position_mm[axis]))
        return f"{_OPPOSITE[axis][at < 0]} {abs(at)} mm" if at else "0 mm"

    def around(self, point: tuple[int, int, int], field_mm: float) -> View:
        """A view of a cube with sides of ``field_mm``, as far as the box reaches, about a point."""
        sides = []
        for at, step, (begin, end) in zip(point, self.spacing_mm, self.box, strict=True):
            count = min(end - begin, max(1, round(field_mm / step)))
            first = min(max(begin, at - count // 2), end - count)
            sides.append((first, first + count))
        return View(self.grid, point, (sides[0], sides[1], sides[2]))


def view_of(ct: Volume, mask: Volume | None, margin_mm: float = 8.0) -> View:
    """A view through the middle of the mask that shows everything the CT claims to be dense.

    Without a mask the middle is that of what is denser than -500 HU. Nothing outside the mask is
    hidden by the choice: a stray piece in the air widens the picture.
    """
    dense = canonical(ct.array > BODY_EDGE_HU, ct.grid)
    inside = dense if mask is None else canonical(mask.array > 0, ct.grid)
    if not inside.any():
        inside = np.ones(dense.shape, dtype=bool)
    point, box = [], []
    spacing = View(ct.grid, (0, 0, 0), ((0, 1), (0, 1), (0, 1))).spacing_mm
    for axis in range(3):
        others = tuple(2 - a for a in range(3) if a != axis)
        weight = np.count_nonzero(inside, axis=others)
        shown = np.flatnonzero((weight > 0) | dense.any(axis=others))
        margin = round(margin_mm / spacing[axis])
        point.append(round(float(np.average(np.arange(weight.size), weights=weight))))
        box.append((max(0, int(shown[0]) - margin), min(weight.size, int(shown[-1]) + 1 + margin)))
    return View(ct.grid, (point[0], point[1], point[2]), (box[0], box[1], box[2]))

"""The score of a free-form deformation, and its derivative by the control points.

On a grid, cubic B-splines are a product of three small matrices: the score is differentiated by all
control points at once, however many there are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.registration.likeness import Array, Likeness, Reals, cubic
from SynthCTLib.registration.options import Metric
from SynthCTLib.volume import Grid


class FreeForm:
    """One level: how alike two images are under displacements of control points."""

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        inside: npt.NDArray[np.bool_],
        start: Reals,
        spline: sitk.BSplineTransform,
        metric: Metric,
        bins: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        """Compare ``fixed`` at the voxels ``inside`` (z, y, x).

        ``start``: 4x4, fixed to moving LPS mm. ``spline``: along the axes of ``fixed``; where its
        control points are is used, not how far they are displaced.
        """
        grid = Grid.of(fixed)
        self._inside = inside
        self._weights = _weights(grid, spline)
        self.shape = (3, *(w.shape[1] for w in self._weights))
        to_moving = np.linalg.inv(Grid.of(moving).index_to_world) @ start
        there = to_moving @ grid.index_to_world
        index = np.argwhere(inside)[:, ::-1].T
        self._at = (there[:3, :3] @ index + there[:3, 3:]).astype(np.float32)
        self._turn = to_moving[:3, :3].astype(np.float32)
        values = sitk.GetArrayViewFromImage(fixed)[inside]
        self._likeness = Likeness(values, moving, metric, bins, pool)

    def score(self, coefficients: Reals) -> tuple[float, Reals]:
        """The metric (larger is better) and its derivative by the coefficients, flat.

        ``coefficients``: displacements in LPS mm, shape (3, z, y, x) or flat, as ITK orders them.
        """
        wz, wy, wx = self._weights
        given = coefficients.reshape(self.shape).astype(np.float32)
        displaced = np.tensordot(wz, wy @ (given @ wx.T), (1, 1))  # (z, 3, y, x)
        moved = np.stack([displaced[:, axis][self._inside] for axis in range(3)])
        value, pull = self._likeness.at(self._at + self._turn @ moved)
        pull = self._turn.T @ pull
        force = np.zeros(displaced.shape, np.float32)
        for axis in range(3):
            force[:, axis][self._inside] = pull[axis]
        by_coefficient = np.tensordot(wz.T, wy.T @ (force @ wx), (1, 0)).swapaxes(0, 1)
        return value, by_coefficient.astype(np.float64).ravel()


def bending(coefficients: Reals, control_mm: float) -> tuple[float, Reals]:
    """Mean squared change of strain from a control point to the next, and its derivative.

    ``coefficients``: (3, z, y, x), mm. Rigid and affine displacements have none.
    """
    value, slope = 0.0, np.zeros_like(coefficients)
    share = 1 / (control_mm**2 * coefficients.size)
    for axis in (1, 2, 3):
        bend = np.diff(coefficients, 2, axis=axis)
        value += share * float((bend * bend).sum())
        for place, weight in enumerate((1, -2, 1)):
            part = [slice(None)] * 4
            part[axis] = slice(place, place + bend.shape[axis])
            slope[tuple(part)] += 2 * share * weight * bend
    return value, slope


def _weights(grid: Grid, spline: sitk.BSplineTransform) -> tuple[Array, Array, Array]:
    """For z, y, x: (voxels, control points), the spline's weights along that axis of the grid."""
    mesh = np.asarray(spline.GetTransformDomainMeshSize())
    spacing = np.asarray(spline.GetTransformDomainPhysicalDimensions()) / mesh
    direction = np.reshape(grid.direction, (3, 3))
    offset = direction.T @ (np.asarray(grid.origin_mm) - spline.GetTransformDomainOrigin())
    weights = []
    for axis in (2, 1, 0):
        place = (offset[axis] + grid.spacing_mm[axis] * np.arange(grid.size[axis])) / spacing[axis]
        cell = np.clip(np.floor(place).astype(np.intp), 0, mesh[axis] - 1)
        along = np.zeros((len(place), mesh[axis] + 3), np.float32)
        for k, weight in enumerate(cubic((place - cell).astype(np.float32))):
            along[np.arange(len(place)), cell + k] = weight
        weights.append(along)
    return weights[0], weights[1], weights[2]

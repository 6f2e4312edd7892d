"""Line integrals of a µ-map along parallel lines of response, and the attenuation they mean.

A PET corrects each line of response by the factor exp(integral of µ along the line). What a PET
sees of a µ-map is these integrals, not its voxels: an error that cancels along a line does no harm.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import sparse

from SynthCTLib.errors import InputError
from SynthCTLib.volume import Unit, Volume

ANGLES = 60  # over 180 degrees
_MM_PER_CM = 10.0
# PET detectors are 4 mm wide: a µ-map averaged to about this loses nothing that a line shows.
LINE_SPACING_MM = 4.0


def averaged(
    mu_per_cm: npt.NDArray[np.floating], spacing_mm: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], tuple[float, float, float]]:
    """A map (z, y, x) averaged over blocks to at most 4 mm, and its new spacing (x, y, z).

    Incomplete blocks at the ends are filled up with 0 (air), which leaves every integral as it is.
    """
    factors = [max(1, int(LINE_SPACING_MM / s + 1e-6)) for s in reversed(spacing_mm)]
    missing = [(0, -n % f) for n, f in zip(mu_per_cm.shape, factors, strict=True)]
    whole = np.pad(mu_per_cm, missing)
    mean: npt.NDArray[np.floating] = whole
    for axis, factor in enumerate(factors):  # a sum over whole slices first is the fastest
        parts = np.moveaxis(mean, axis, 0)
        total = parts[::factor].astype(np.float64)
        for k in range(1, factor):
            total += parts[k::factor]
        mean = np.moveaxis(total / factor, 0, axis)
    x, y, z = (s * f for s, f in zip(spacing_mm, reversed(factors), strict=True))
    return np.ascontiguousarray(mean, np.float64), (x, y, z)


def line_angles(count: int) -> npt.NDArray[np.float64]:
    """Evenly spaced angles (radians) over 180 degrees, from 0.

    Lines at an angle t run along (x, y) = (-sin t, cos t). Raises InputError for less than one.
    """
    if count < 1:
        raise InputError(f"Lines at {count} angles cannot be followed: give at least one.")
    return np.asarray(np.arange(count) * math.pi / count, np.float64)


def line_matrix(
    size: tuple[int, int], spacing_mm: tuple[float, float], angles: int = ANGLES
) -> sparse.csr_matrix:
    """Integrals (cm) along parallel lines through a slice of (rows, columns), spacing (x, y).

    Row ``a * n + k`` is line k of angle a: the lines of an angle lie one x-spacing apart about
    the centre of the slice and reach over its diagonal. Each line is followed by the method of
    Joseph (IEEE Trans Med Imaging 1 (1982) 192): row by row, or column by column where it is
    nearer to the rows' direction, with linear interpolation between the two nearest voxels.
    """
    rows, columns = size
    dx, dy = spacing_mm
    x = np.asarray((np.arange(columns) - (columns - 1) / 2) * dx, np.float64)
    y = np.asarray((np.arange(rows) - (rows - 1) / 2) * dy, np.float64)
    reach = math.ceil(math.hypot(columns * dx, rows * dy) / dx / 2)
    offsets = np.arange(-reach, reach + 1) * dx
    parts = []
    for angle in line_angles(angles):
        # Lines run along (-sin, cos) and cross the axis (cos, sin) at their offset.
        c, s = math.cos(angle), math.sin(angle)
        if abs(c) >= abs(s):  # steep: one sample a row
            at = (offsets[:, None] - y[None, :] * s) / c
            parts.append(_interpolated(at, x, dx, columns, dy / abs(c), rowwise=True, count=rows))
        else:
            at = (offsets[:, None] - x[None, :] * c) / s
            parts.append(_interpolated(at, y, dy, rows, dx / abs(s), rowwise=False, count=columns))
    return sparse.vstack(parts, format="csr")


def _interpolated(
    at: npt.NDArray[np.float64],
    axis: npt.NDArray[np.float64],
    step: float,
    size: int,
    length_mm: float,
    *,
    rowwise: bool,
    count: int,
) -> sparse.csr_matrix:
    """Weights of the two voxels about each place ``at`` (line, sample) along an axis."""
    position = (at - axis[0]) / step
    below = np.floor(position).astype(np.int64)
    upper = position - below
    lines, samples = np.broadcast_arrays(*np.ogrid[: at.shape[0], : at.shape[1]])
    entries = []
    for index, weight in ((below, 1.0 - upper), (below + 1, upper)):
        inside = (index >= 0) & (index < size) & (weight > 0)
        voxel = samples * size + index if rowwise else index * count + samples
        entries.append((weight[inside], lines[inside], voxel[inside]))
    weights, row, column = (np.concatenate(e) for e in zip(*entries, strict=True))
    shape = (at.shape[0], size * count)
    return sparse.csr_matrix((weights * length_mm / _MM_PER_CM, (row, column)), shape=shape)


def line_integrals(mu: Volume, angles: int = ANGLES) -> npt.NDArray[np.float64]:
    """Integral of µ along parallel lines in each slice of a µ-map: shape (slice, angle, line).

    ``mu`` in 1/cm; the integrals have no unit. Slices are those of the array's first axis, after
    averaging to at most 4 mm along every axis: give a volume whose first axis runs along the
    patient (``imaging.grids.to_lps``). Raises InputError for another unit or values that are not
    finite.
    """
    mu.require_unit(Unit.PER_CM)
    if not np.isfinite(mu.array).all():
        raise InputError(
            "The µ-map holds values that are not numbers (NaN or infinite): "
            "replace them, by 0 where nothing is known."
        )
    values, (dx, dy, _) = averaged(mu.array, mu.grid.spacing_mm)
    return integrals_of(values, (dx, dy), angles)


def integrals_of(
    mu_per_cm: npt.NDArray[np.float64], spacing_mm: tuple[float, float], angles: int = ANGLES
) -> npt.NDArray[np.float64]:
    """:func:`line_integrals` of an array (slice, y, x) as it is, spacing (x, y)."""
    slices, rows, columns = mu_per_cm.shape
    matrix = line_matrix((rows, columns), spacing_mm, angles)
    flat = matrix @ mu_per_cm.reshape(slices, -1).T
    return np.asarray(flat.T.reshape(slices, angles, -1))


def attenuation_factors(integrals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What the counts of a line are multiplied by to correct for attenuation: exp(integral)."""
    return np.exp(integrals)

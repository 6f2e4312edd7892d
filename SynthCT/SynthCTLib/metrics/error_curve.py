"""The error as a function of the true HU: which tissue is too soft, and which too dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.masked import MaskedPair

ERROR_CURVE_HU = tuple(float(edge) for edge in range(-1000, 2001, 50))


@dataclass(frozen=True)
class ErrorCurve:
    """Errors (synthetic - reference, HU) of the voxels whose reference lies between two edges.

    One value for each bin, the last holding its end; NaN in an empty bin. ``voxels_outside``
    lie beyond the edges.
    """

    edges_hu: tuple[float, ...]
    voxels: tuple[int, ...]
    mean_hu: tuple[float, ...]
    mae_hu: tuple[float, ...]
    sd_hu: tuple[float, ...]
    voxels_outside: int


def error_curve(pair: MaskedPair, edges_hu: Sequence[float] = ERROR_CURVE_HU) -> ErrorCurve:
    """Mean, mean absolute and standard deviation (of the population) of the error by reference HU.

    Raises InputError for edges that do not rise.
    """
    edges = np.asarray(edges_hu, np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise InputError("The edges of an error curve must be two or more HU values that rise.")
    inside = (pair.reference >= edges[0]) & (pair.reference <= edges[-1])
    reference = pair.reference[inside]
    error = pair.synthetic[inside] - reference
    index = np.minimum(np.searchsorted(edges, reference, side="right") - 1, edges.size - 2)
    voxels = np.bincount(index, minlength=edges.size - 1)
    sums = [
        np.bincount(index, weights=w, minlength=edges.size - 1)
        for w in (error, np.abs(error), error * error)
    ]
    with np.errstate(invalid="ignore"):
        mean, mae, square = (s / np.where(voxels > 0, voxels, np.nan) for s in sums)
    spread = np.sqrt(np.maximum(square - mean * mean, 0.0))
    return ErrorCurve(
        tuple(edges.tolist()),
        tuple(int(n) for n in voxels),
        tuple(mean.tolist()),
        tuple(mae.tolist()),
        tuple(spread.tolist()),
        int(inside.size - reference.size),
    )

"""The change of a PET over the voxels of a region, in figures; no torch is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LIMITS_PERCENT = (5.0, 10.0, 15.0)


@dataclass(frozen=True)
class EffectFigures:
    """The relative change of a PET over the counted voxels of a region, percent.

    ``beyond`` is the share of the voxels (0 to 1) that changes by more than so many percent in
    either direction. The standard deviation is that of the voxels. NaN where they are too few.
    """

    voxels: int
    mean_percent: float
    sd_percent: float
    mae_percent: float
    beyond: Mapping[float, float]


def effect_figures(percent: npt.NDArray[np.floating], least_voxels: int = 1) -> EffectFigures:
    """Of the change of each counted voxel, in percent; NaN of fewer than ``least_voxels``."""
    values = percent.astype(np.float64)
    size = np.abs(values)
    enough = values.size >= least_voxels
    return EffectFigures(
        voxels=int(values.size),
        mean_percent=float(values.mean()) if enough else math.nan,
        sd_percent=float(values.std()) if enough else math.nan,
        mae_percent=float(size.mean()) if enough else math.nan,
        beyond={
            limit: float((size > limit).mean()) if enough else math.nan for limit in LIMITS_PERCENT
        },
    )

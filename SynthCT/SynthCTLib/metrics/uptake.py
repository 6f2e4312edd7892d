"""How well a synthetic PET agrees with a real one: errors in SUV, likeness, lesions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.lesions import LESION_SUV, LesionDetection, detect_lesions
from SynthCTLib.metrics.masked import bounding_box, voxels_of
from SynthCTLib.volume import Unit, Volume

SUV_RANGE = (0.0, 20.0)  # Paper 3, section 2.1
LEAST_LESION_ML = 0.5  # a sphere of 10 mm: less than two of the resolution of a PET


@dataclass(frozen=True)
class UptakeFigures:
    """Over the voxels of a region, SUV.

    ``psnr_db`` and ``ssim`` with the range 0 to 20 SUV, values clipped to it; ``psnr_db`` is
    infinite where nothing differs. ``lesions``: paper 3's count, in parts of 0.5 ml and more.
    """

    voxels: int
    mae_suv: float
    rmse_suv: float
    mean_error_suv: float
    psnr_db: float
    ssim: float
    lesions: LesionDetection

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is no number is None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def uptake_figures(reference: Volume, synthetic: Volume, region: Volume) -> UptakeFigures:
    """Compare two PETs (SUV) on one grid inside a region.

    SSIM is that of Wang et al. (IEEE Trans Image Process 13 (2004) 600) with a uniform window of 7
    voxels, averaged over the region; values outside it are set to 0 in both. Raises InputError
    unless both are in SUV, all lie on one grid, and the region holds finite values.
    """
    where = voxels_of(region, reference, synthetic)
    if not where.any():
        raise InputError(
            "The region to compare PET in holds no voxel: choose one that both images show."
        )
    lesions = detect_lesions(
        reference, synthetic, region, threshold_suv=LESION_SUV, least_ml=LEAST_LESION_ML
    )
    for volume in (reference, synthetic):
        volume.require_unit(Unit.SUV)
    low, high = SUV_RANGE
    real, made = (v.array[where].astype(np.float64) for v in (reference, synthetic))
    error = made - real
    clipped = made.clip(low, high) - real.clip(low, high)
    mean_square = float(np.square(clipped).mean())
    psnr = math.inf if not mean_square else 10 * math.log10((high - low) ** 2 / mean_square)
    return UptakeFigures(
        int(real.size),
        float(np.abs(error).mean()),
        float(np.sqrt(np.square(error).mean())),
        float(error.mean()),
        psnr,
        _ssim(reference, synthetic, where),
        lesions,
    )


def _ssim(reference: Volume, synthetic: Volume, where: np.ndarray) -> float:
    """NaN where the region is thinner than the window."""
    box = bounding_box(where)
    inside = where[box]
    if min(inside.shape) < 7:
        return math.nan
    real, made = (
        np.where(inside, v.array[box].astype(np.float64).clip(*SUV_RANGE), 0.0)
        for v in (reference, synthetic)
    )
    _, likeness = structural_similarity(
        real, made, data_range=SUV_RANGE[1] - SUV_RANGE[0], full=True
    )
    return float(likeness[inside].mean())

"""How far a synthetic image is from its reference, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SynthCTLib.metrics.masked import MaskedPair, masked_pair
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, convention_named
from SynthCTLib.volume import Role, Step, Unit, Volume


@dataclass(frozen=True)
class VoxelErrors:
    """Errors over the voxels of a mask, synthetic minus reference, in HU and HU², not clipped."""

    mae_hu: float
    rmse_hu: float
    mse_hu2: float
    mean_error_hu: float


def errors_of(pair: MaskedPair) -> VoxelErrors:
    """Every voxel error at once.

    With e = synthetic - reference over the N voxels of the mask:

    MAE = sum|e| / N, MSE = sum(e²) / N, RMSE = sqrt(MSE), ME = sum(e) / N.
    """
    error = pair.synthetic - pair.reference
    mean = float(error.mean())
    mean_square = float(np.square(error).mean())  # not a dot product: its bits vary with threads
    np.abs(error, out=error)
    return VoxelErrors(float(error.mean()), float(np.sqrt(mean_square)), mean_square, mean)


def mean_error_hu(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean error (bias) in HU: sum(synthetic - reference) / N over the mask.

    Positive where the synthetic CT is too dense. Raises as :func:`masked_pair`.
    """
    return errors_of(masked_pair(reference, synthetic, mask)).mean_error_hu


def mae_hu(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean absolute error in HU: sum|synthetic - reference| / N over the mask, nothing clipped.

    Paper 1 section 3.4, paper 2 eq. 10, SynthRAD 2023. Raises as :func:`masked_pair`.
    """
    return errors_of(masked_pair(reference, synthetic, mask)).mae_hu


def mse_hu2(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean square error in HU²: sum((synthetic - reference)^2) / N over the mask, not clipped.

    Paper 5 section 2.5 (there on PET). Raises as :func:`masked_pair`.
    """
    return errors_of(masked_pair(reference, synthetic, mask)).mse_hu2


def rmse_hu(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Root mean square error in HU: sqrt(sum((synthetic - reference)^2) / N) over the mask.

    Raises as :func:`masked_pair`.
    """
    return errors_of(masked_pair(reference, synthetic, mask)).rmse_hu


def mu_rmae_percent(
    reference: Volume, synthetic: Volume, mask: Volume, convention: str = DEFAULT_CONVENTION
) -> float:
    """Relative mean absolute error of the µ-map, percent: 100 sum|µ_syn - µ_ref| / sum(µ_ref).

    Paper 1 section 3.5. Both volumes are in HU and both are converted to µ at 511 keV by the same
    convention, voxel by voxel. NaN where the reference attenuates nothing inside the mask. Raises
    as :func:`masked_pair`, and InputError for an unknown convention.
    """
    return mu_rmae_of(masked_pair(reference, synthetic, mask), convention)


def mu_rmae_of(pair: MaskedPair, convention: str = DEFAULT_CONVENTION) -> float:
    """:func:`mu_rmae_percent` of values that are at hand."""
    curve = convention_named(convention)
    mu = curve.mu_per_cm(pair.reference)
    total = float(mu.sum())
    if total == 0.0:
        return float("nan")
    return 100.0 * float(np.abs(curve.mu_per_cm(pair.synthetic) - mu).sum()) / total


def difference(reference: Volume, synthetic: Volume) -> Volume:
    """Synthetic minus reference in HU, float32: positive where the synthetic CT is too dense.

    (Paper 1 shows the opposite sign.) Raises InputError unless both are in HU on one grid.
    """
    for volume in (reference, synthetic):
        volume.require_unit(Unit.HU)
    synthetic.require_grid_of(reference)
    values = synthetic.array.astype(np.float32)
    values -= reference.array
    step = Step("difference", {"sign": "synthetic - reference"})
    return synthetic.with_array(values, role=Role.CT, unit=Unit.HU, step=step)

"""How far a synthetic image is from its reference, voxel by voxel."""

from __future__ import annotations

import numpy as np

from SynthCTLib.metrics.masked import masked_pair
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, convention_named
from SynthCTLib.volume import Role, Step, Unit, Volume


def mean_error_hu(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean error (bias) in HU: sum(synthetic - reference) / N over the mask.

    Positive where the synthetic CT is too dense. Raises as :func:`masked_pair`.
    """
    pair = masked_pair(reference, synthetic, mask)
    return float(np.mean(pair.synthetic - pair.reference))


def mae_hu(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean absolute error in HU: sum|synthetic - reference| / N over the mask, nothing clipped.

    Paper 1 section 3.4, paper 2 eq. 10, SynthRAD 2023. Raises as :func:`masked_pair`.
    """
    pair = masked_pair(reference, synthetic, mask)
    return float(np.mean(np.abs(pair.synthetic - pair.reference)))


def rmse_hu(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Root mean square error in HU: sqrt(sum((synthetic - reference)^2) / N) over the mask.

    Raises as :func:`masked_pair`.
    """
    pair = masked_pair(reference, synthetic, mask)
    return float(np.sqrt(np.mean((pair.synthetic - pair.reference) ** 2)))


def mu_rmae_percent(
    reference: Volume, synthetic: Volume, mask: Volume, convention: str = DEFAULT_CONVENTION
) -> float:
    """Relative mean absolute error of the µ-map, percent: 100 sum|µ_syn - µ_ref| / sum(µ_ref).

    Paper 1 section 3.5. Both volumes are in HU and both are converted to µ at 511 keV by the same
    convention, voxel by voxel. NaN where the reference attenuates nothing inside the mask. Raises
    as :func:`masked_pair`, and InputError for an unknown convention.
    """
    curve = convention_named(convention)
    pair = masked_pair(reference, synthetic, mask)
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

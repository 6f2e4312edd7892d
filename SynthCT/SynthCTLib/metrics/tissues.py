"""Which tissue the error sits in: volumes, HU and attenuation, tissue by tissue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from SynthCTLib.metrics.masked import MaskedPair
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, convention_named

_MM3_PER_ML = 1000.0

# From the lower to below the upper HU of the reference; together they hold every voxel. Air and
# soft tissue as the masks of ``imaging.masks``, bone from paper 1's 300 HU; bone from 850 HU on is
# dense (Misch's classes D1 and D2; Norton and Gamble, Clin Oral Implants Res 12 (2001) 79).
TISSUES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "air cavities": (-np.inf, float(np.nextafter(-500.0, np.inf))),
        "edges of air": (float(np.nextafter(-500.0, np.inf)), -200.0),
        "soft tissue": (-200.0, 300.0),
        "spongy bone": (300.0, 850.0),
        "cortical bone": (850.0, np.inf),
    }
)


@dataclass(frozen=True)
class TissueError:
    """The error of one tissue; errors are synthetic minus reference, NaN where there is no tissue.

    ``reference_ml`` and ``synthetic_ml`` are the volumes that lie in the tissue's HU in either
    image, ``volume_error_percent`` their relative difference. The other figures are over the
    voxels that are the tissue in the reference. ``hu_share`` and ``mu_share`` (0 to 1) are the
    tissue's part of the sum of all absolute errors of HU and µ: over all tissues they make 1.
    """

    tissue: str
    low_hu: float
    below_hu: float
    reference_ml: float
    synthetic_ml: float
    volume_error_percent: float
    mean_error_hu: float
    mae_hu: float
    reference_mu_per_cm: float
    mu_error_per_cm: float
    mu_error_percent: float
    hu_share: float
    mu_share: float


def tissue_errors(
    pair: MaskedPair, voxel_mm3: float, convention: str = DEFAULT_CONVENTION
) -> tuple[TissueError, ...]:
    """The error budget of a region by tissue (``TISSUES``), µ at 511 keV by the convention.

    Raises InputError for an unknown convention.
    """
    curve = convention_named(convention)
    error = pair.synthetic - pair.reference
    mu = curve.mu_per_cm(pair.reference)
    mu_error = curve.mu_per_cm(pair.synthetic) - mu
    hu_total, mu_total = float(np.abs(error).sum()), float(np.abs(mu_error).sum())
    ml = voxel_mm3 / _MM3_PER_ML
    rows = []
    for tissue, (low, below) in TISSUES.items():
        here = (pair.reference >= low) & (pair.reference < below)
        count = int(np.count_nonzero(here))
        made = int(np.count_nonzero((pair.synthetic >= low) & (pair.synthetic < below)))
        e, m, me = error[here], float(mu[here].sum()), mu_error[here]
        rows.append(
            TissueError(
                tissue=tissue,
                low_hu=low,
                below_hu=below,
                reference_ml=count * ml,
                synthetic_ml=made * ml,
                volume_error_percent=_ratio(100.0 * (made - count), count),
                mean_error_hu=_ratio(float(e.sum()), count),
                mae_hu=_ratio(float(np.abs(e).sum()), count),
                reference_mu_per_cm=_ratio(m, count),
                mu_error_per_cm=_ratio(float(me.sum()), count),
                mu_error_percent=_ratio(100.0 * float(me.sum()), m),
                hu_share=_ratio(float(np.abs(e).sum()), hu_total),
                mu_share=_ratio(float(np.abs(me).sum()), mu_total),
            )
        )
    return tuple(rows)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")

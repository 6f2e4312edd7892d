"""The error that a PET sees: of the attenuation along its lines of response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.metrics.masked import bounding_box, masked_pair, voxels_of
from SynthCTLib.physics.lines import ANGLES, averaged, integrals_of
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, convention_named
from SynthCTLib.volume import Volume

LEAST_CHORD_CM = 2.0  # shorter ways through the region say nothing and would dilute the mean


@dataclass(frozen=True)
class LineErrors:
    """Relative errors of attenuation correction factors, percent, over lines of response.

    Positive: the synthetic map corrects too much. ``lines`` are those that run through at least
    2 cm of the region; NaN where there is none.
    """

    lines: int
    mean_percent: float
    sd_percent: float
    mae_percent: float
    p95_percent: float
    largest_percent: float


def line_errors(
    reference: Volume,
    synthetic: Volume,
    mask: Volume,
    convention: str = DEFAULT_CONVENTION,
    angles: int = ANGLES,
) -> LineErrors:
    """Relative error of exp(integral of µ) along parallel lines: 100 (exp(I_syn - I_ref) - 1).

    CTs in HU, converted to µ at 511 keV by the convention inside the mask; outside it µ is 0 in
    both. Lines lie in the axial slices (of the axes of the image nearest to the patient's), about
    4 mm apart, at ``angles`` angles over 180 degrees. ``p95`` is the 95th percentile of
    the absolute error. Raises as :func:`masked_pair`, and InputError for an unknown convention.
    """
    curve = convention_named(convention)
    pair = masked_pair(reference, synthetic, mask)
    where = voxels_of(mask)
    values = np.zeros(where.shape, np.float32)
    values[where] = curve.mu_per_cm(pair.synthetic) - curve.mu_per_cm(pair.reference)
    apart, inner = (to_lps(v).volume for v in (mask.with_array(values), mask))
    where, spacing = inner.array > 0, inner.grid.spacing_mm
    box = bounding_box(where)
    difference, (dx, dy, _) = averaged(apart.array[box], spacing)
    inside, _ = averaged(where[box].astype(np.float32), spacing)
    # One projection of the difference is the difference of two.
    chord = integrals_of(inside, (dx, dy), angles)
    error = 100.0 * np.expm1(integrals_of(difference, (dx, dy), angles)[chord >= LEAST_CHORD_CM])
    if not error.size:
        nan = float("nan")
        return LineErrors(0, nan, nan, nan, nan, nan)
    absolute = np.abs(error)
    return LineErrors(
        int(error.size),
        float(error.mean()),
        float(error.std()),
        float(absolute.mean()),
        float(np.percentile(absolute, 95.0)),
        float(absolute.max()),
    )

"""Rules for CT, and the question whether values are HU at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from SynthCTLib.imaging.gate.findings import Finding, error, note, warning
from SynthCTLib.imaging.gate.view import View, commonest

Values = npt.NDArray[Any]

# Air is -1000 HU; scanners write -1024 where nothing was reconstructed, and 850 leaves room for
# noise, clothes and the low-density foam of a table.
AIR_HU = (-1060.0, -850.0)
AIR_SHARE = 0.005
# The commonest tissue of any body part is fat (-120 to -80 HU), water, brain or muscle (to 80).
TISSUE_HU = (-150.0, 150.0)
ABOVE_AIR_HU = -300.0
HU_BIN, MOST_HU = 10.0, 32767.0
# Share of what is not air or lung that lies among the tissues: 0.77 to 0.97 in 55 CTs; at most
# 0.53 in 112 MRs, even when scaled so that their commonest tissue is put at 0 HU.
TISSUE_SHARE = 0.65
# Between air and tissue a CT has lung and partial volume (at most 0.17), an MR whose fat is put at
# 0 HU has its muscle.
BETWEEN_HU, BETWEEN_SHARE = (-800.0, -200.0), 0.25

LOST_INTERCEPTS = (1024, 8192, 32768)

# 12 bits end at 3071 HU; scans that end at 1023 HU or so lack the cortical bone above.
DENSE_BONE_HU, TOP_OF_12_BITS_HU = 1600.0, 3071.0
PILE_VOXELS = 20
METAL_HU, METAL_ML = 3000.0, 0.2
LEAST_HU = -1024.0

MU_WATER_PER_CM = 0.096  # at 511 keV; NIST XCOM


def looks_like_hu(values: Values) -> bool:
    """Whether the values can be HU: air near -1000, and the commonest tissue near 0."""
    air = np.mean((values >= AIR_HU[0]) & (values <= AIR_HU[1]))
    return bool(air >= AIR_SHARE) and _tissue_is_near_zero(values)


def _tissue_is_near_zero(values: Values) -> bool:
    # Up to the largest value: the few values of something else near 0 HU prove nothing.
    high = min(max(float(values.max()), TISSUE_HU[1]), MOST_HU)
    commonest_hu = commonest(values, ABOVE_AIR_HU, high, round((high - ABOVE_AIR_HU) / HU_BIN))
    return TISSUE_HU[0] <= commonest_hu <= TISSUE_HU[1]


def _is_surely_hu(values: Values) -> bool:
    """A stricter test for values that were converted to HU by a guess."""
    if not looks_like_hu(values) or np.mean(values < AIR_HU[0]) > AIR_SHARE:
        return False
    body = values[values > ABOVE_AIR_HU]
    tissue = np.mean((body >= TISSUE_HU[0]) & (body <= TISSUE_HU[1]))
    between = np.mean(values[values > BETWEEN_HU[0]] < BETWEEN_HU[1])
    return bool(tissue >= TISSUE_SHARE and between <= BETWEEN_SHARE)


def lost_intercept(values: Values) -> int | None:
    """About what was added to HU and never taken away again, None when the values are no such.

    1024 stands for 1000 too: the air around a patient is not known so well.
    """
    return next((n for n in LOST_INTERCEPTS if _is_surely_hu(values - n)), None)


_MU_UNITS: dict[str, Callable[[Values], Values]] = {
    "1/cm": lambda v: v,
    "1/mm": lambda v: v * 10.0,
}


def check_ct(view: View) -> Iterator[Finding]:
    """HU or not, their range, and metal."""
    if not looks_like_hu(view.sample):
        yield _not_hu(view)
        return
    values = view.volume.array
    if view.low < LEAST_HU - 1:
        share = float(np.mean(view.sample < LEAST_HU - 1))
        yield note(
            "ct.padding",
            view.name,
            f"{share:.1%} of the CT holds values down to {view.low:g} HU, which mark what lies "
            "outside the scanned circle: nothing to do, they count as air.",
        )
    at_top = int(np.count_nonzero(values == view.high))
    if at_top >= PILE_VOXELS and view.high < DENSE_BONE_HU:
        yield warning(
            "ct.clipped-high",
            view.name,
            f"The CT is cut off at {view.high:g} HU ({at_top} voxels lie there), so that dense "
            "bone is missing from it: export it again with its full range.",
        )
    elif at_top >= PILE_VOXELS and view.high <= TOP_OF_12_BITS_HU + 1:
        yield note(
            "ct.clipped-high",
            view.name,
            f"The CT ends at {view.high:g} HU ({at_top} voxels lie there): nothing to do, but "
            "teeth and metal may be denser than it tells.",
        )
    metal_ml = np.count_nonzero(values >= METAL_HU) * view.volume.grid.voxel_mm3 / 1000
    if metal_ml >= METAL_ML:
        yield warning(
            "ct.metal",
            view.name,
            f"The CT holds {metal_ml:.1f} ml above {METAL_HU:g} HU, which is metal: do not rely on "
            "values and figures near it and in its streaks.",
        )


def _not_hu(view: View) -> Finding:
    """Which mistake explains the values best."""
    values, name = view.sample, view.name
    intercept = lost_intercept(values)
    if intercept is not None:
        return error(
            "ct.shifted",
            name,
            f"The CT looks like HU with about {intercept} added (values from {view.low:g} to "
            f"{view.high:g}), as raw numbers without their rescale intercept: convert it again "
            "from DICOM.",
        )
    for unit, to_per_cm in _MU_UNITS.items():
        if _is_surely_hu((to_per_cm(values) / MU_WATER_PER_CM - 1) * 1000):
            return error(
                "ct.looks-like-mu",
                name,
                f"The CT looks like a µ-map in {unit} (values up to {view.high:.3g}): "
                "give the CT from which it was made.",
            )
    if view.low >= -1 and view.high <= 1:
        return _rescaled(view, "scaled to the range of a network")
    if view.low >= 0 and view.high <= 255 and view.is_integer:
        return _rescaled(view, "scaled to 8 bits for display")
    if -900 < view.low < 0 and _tissue_is_near_zero(values[values > view.low]):
        if view.low > -200:
            return error(
                "ct.windowed",
                name,
                f"The CT ends at {view.low:g} and {view.high:g} HU, as cut to a display window "
                "without air: export it again with its full range.",
            )
        return warning(
            "ct.clipped-low",
            name,
            f"The CT is cut off at {view.low:g} HU, so that air and lung look alike: "
            "export it again with its full range.",
        )
    return error(
        "ct.not-hu",
        name,
        f"The CT has values from {view.low:g} to {view.high:g} with no air near -1000 HU, so it is "
        "no CT in HU (an MR, or raw numbers): choose the CT or convert it again.",
    )


def _rescaled(view: View, how: str) -> Finding:
    return error(
        "ct.rescaled",
        view.name,
        f"The CT has values from {view.low:g} to {view.high:g}, {how}, and HU cannot be told from "
        "them: give the CT in HU as the scanner made it.",
    )

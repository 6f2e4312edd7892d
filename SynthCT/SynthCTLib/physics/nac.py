"""A NAC PET simulated from a real PET and the CT of the same patient.

The activity is scanned in silico through the CT's µ-map and reconstructed without correction: what
a scanner gives before it knows the attenuation. A NAC PET that is made by dividing out attenuation
voxel by voxel would know the CT; this one knows only the events. It is a simulation: scatter,
randoms and the detectors' resolution are left out, the activity is a reconstruction itself, and
what lies outside the CT attenuates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, hu_to_mu, to_pet_grid
from SynthCTLib.physics.projector import TimeOfFlight
from SynthCTLib.physics.reconstruction import (
    ReconstructionOptions,
    ScanOptions,
    reconstructed,
    simulated_scan,
)
from SynthCTLib.volume import Volume


@dataclass(frozen=True)
class NacOptions:
    """How the NAC PET is measured and reconstructed, and how HU become µ."""

    scan: ScanOptions = field(
        default_factory=lambda: ScanOptions(angles=96, time_of_flight=TimeOfFlight())
    )
    reconstruction: ReconstructionOptions = field(
        default_factory=lambda: ReconstructionOptions(2, 12, smoothing_fwhm_mm=5.0)
    )
    convention: str = DEFAULT_CONVENTION


def nac_pet(activity: Volume, ct: Volume, options: NacOptions | None = None) -> Volume:
    """The NAC PET (role NAC_PET) of an activity in the body of a CT (HU), on the activity's grid.

    Values below 0 in the activity, which a reconstruction may have, count as 0. Planes are those of
    the array's first axis: give an activity whose first axis runs along the patient
    (``imaging.grids.to_lps``). Raises InputError where the two do not overlap, or as
    ``simulated_scan`` does.
    """
    options = options or NacOptions()
    fwhm = options.reconstruction.smoothing_fwhm_mm or None
    mu = to_pet_grid(hu_to_mu(ct, options.convention), activity.grid, fwhm).mu
    plain = activity.with_array(np.clip(activity.array, 0, None).astype(np.float32))
    return reconstructed(simulated_scan(plain, mu, options.scan), None, options.reconstruction)

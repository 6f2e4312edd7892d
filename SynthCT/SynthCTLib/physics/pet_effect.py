"""What the errors of a µ-map do to a PET: where a synthetic CT matters, and by how much.

An activity is scanned in silico through the reference µ-map and reconstructed twice, with the
reference and with the µ-map that is judged. Nothing else differs, so the relative difference of
the two images is the work of the µ-map alone. It is a simulation in both its halves: the activity
may be a real PET, the events are not.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.physics.effect_figures import EffectFigures, effect_figures
from SynthCTLib.physics.reconstruction import (
    ReconstructionOptions,
    ScanOptions,
    reconstructed,
    simulated_scan,
)
from SynthCTLib.progress import Progress
from SynthCTLib.volume import Step, Unit, Volume

SMOOTHING_FWHM_MM = 6.0


@dataclass(frozen=True)
class PetEffectOptions:
    """How the PET is made, and which voxels count.

    A voxel counts where the reference PET has at least ``least_activity`` (0 to 1) of its 99th
    percentile over the voxels with activity: elsewhere a relative difference compares noise. The
    scan is free of noise unless its events are given, so that nothing hides the difference. The
    images are smoothed as a scanner's are: without, a wrong µ-map also makes a checkerboard of
    the voxels, which no PET shows.
    """

    scan: ScanOptions = field(default_factory=lambda: ScanOptions(events_per_slice=None))
    reconstruction: ReconstructionOptions = field(
        default_factory=lambda: ReconstructionOptions(smoothing_fwhm_mm=SMOOTHING_FWHM_MM)
    )
    least_activity: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.least_activity < 1:
            raise InputError(
                f"The least activity to count is {self.least_activity:g} of the highest: "
                "give a share between 0 and 1."
            )


@dataclass(frozen=True, eq=False)
class PetEffect:
    """The effect of a µ-map on PET.

    ``difference`` is 100 (PET - reference PET) / reference PET in percent, 0 where no voxel
    counts; ``counted`` (a mask) tells which do. ``pet`` and ``reference`` are the two images.
    """

    difference: Volume
    counted: Volume
    pet: Volume
    reference: Volume

    def figures(self, region: Volume | None = None) -> EffectFigures:
        """Over all counted voxels, or those in a region (a mask on the same grid).

        Raises InputError when the region lies on another grid or no voxel in it counts.
        """
        where = self.counted.array > 0
        if region is not None:
            region.require_grid_of(self.counted)
            where = where & (region.array > 0)
        values = self.difference.array[where]
        if not values.size:
            raise InputError(
                "The region has no voxel with enough activity to compare PET in: give another "
                "region or a lower least activity."
            )
        return effect_figures(values)


def pet_effect(
    mu: Volume,
    reference_mu: Volume,
    activity: Volume,
    options: PetEffectOptions | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> PetEffect:
    """The relative difference that a µ-map makes to a PET, against its reference (both 1/cm).

    ``activity`` (any unit, none below 0) is what the patient holds, such as a real PET. The three
    lie on one grid whose first axis runs along the patient (``imaging.grids.to_lps``) and that
    holds the whole body in each plane: attenuation outside it is in neither image. Raises
    InputError as ``simulated_scan`` and ``reconstructed``.
    """
    options = options or PetEffectOptions()
    progress = progress or Progress()
    mu.require_unit(Unit.PER_CM)
    mu.require_grid_of(reference_mu)
    progress.stage("Scanning in silico", 0.3)
    scan = simulated_scan(activity, reference_mu, options.scan, device)
    progress.stage("Reconstructing with the reference", 0.35)
    reference = reconstructed(scan, reference_mu, options.reconstruction)
    progress.stage("Reconstructing with the µ-map", 0.35)
    pet = reconstructed(scan, mu, options.reconstruction)
    progress.update(1.0)
    counted = _counted(reference.array, options.least_activity)
    difference = np.zeros(counted.shape, np.float32)
    base = reference.array[counted].astype(np.float64)
    difference[counted] = 100.0 * (pet.array[counted] - base) / base
    note = "The effect on PET is a simulation: scatter, randoms and resolution are left out."
    step = Step("pet_effect", asdict(options) | {"note": note})
    return PetEffect(
        difference=reference.with_array(difference, unit=Unit.PERCENT, step=step),
        counted=reference.mask(counted, step),
        pet=pet,
        reference=reference,
    )


def _counted(reference: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    active = reference[reference > 0]
    highest = float(np.percentile(active, 99.0)) if active.size else math.inf
    return np.asarray(reference >= least * highest)

"""Whether the lesions of a real PET are found again in a synthetic one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.masked import voxels_of
from SynthCTLib.volume import Unit, Volume

LESION_SUV = 2.5  # paper 3, section 3.2: a tumour is detected where SUVmax is greater
_MM3_PER_ML = 1000.0
_TOUCHING = np.ones((3, 3, 3))  # voxels that share a corner belong together


@dataclass(frozen=True)
class LesionDetection:
    """Lesions of one scan: how many there are, how many were found, and what was found besides."""

    lesions: int
    detected: int
    false_positives: int

    @property
    def true_positive_rate(self) -> float:
        """Detected lesions by lesions, 0 to 1; NaN in a scan without lesions."""
        return self.detected / self.lesions if self.lesions else float("nan")


@dataclass(frozen=True)
class DetectionRates:
    """Over several scans: lesions found of all lesions (NaN: there are none), false ones a scan."""

    true_positive_rate: float
    false_positives_per_scan: float


def detect_lesions(
    reference: Volume,
    synthetic: Volume,
    region: Volume,
    *,
    lesions: Volume | None = None,
    threshold_suv: float = LESION_SUV,
    least_ml: float = 0.0,
) -> LesionDetection:
    """Lesions of a real PET (SUV) that a synthetic PET shows, inside a region (such as the liver).

    A lesion is a connected part (26 neighbours) of ``lesions``, or, where that is not given, of the
    region where the real PET exceeds the threshold. It is detected where the synthetic PET exceeds
    the threshold anywhere in it. A false positive is a connected part of the region where the
    synthetic PET exceeds the threshold that touches no lesion. Parts smaller than ``least_ml`` are
    left out on both sides. Paper 3, section 3.2. Raises InputError unless both are in SUV, all
    on one grid and finite in the region.
    """
    where = voxels_of(region, reference, synthetic)
    hot = []
    for volume in (reference, synthetic):
        volume.require_unit(Unit.SUV)
        if not np.isfinite(volume.array[where]).all():
            raise InputError(
                f"The {volume.role} volume holds values in the region that are not numbers: leave "
                "out of the region what was not scanned."
            )
        hot.append(where & (volume.array > threshold_suv))
    true = hot[0] if lesions is None else where & voxels_of(lesions, reference)
    least = least_ml * _MM3_PER_ML / region.grid.voxel_mm3
    labels, count = _parts(true, least)
    seen = np.unique(labels[hot[1]])
    made, number = _parts(hot[1], least)
    touching = np.unique(made[ndimage.binary_dilation(labels > 0, _TOUCHING)])
    return LesionDetection(
        count, int(np.count_nonzero(seen)), number - int(np.count_nonzero(touching))
    )


def detection_rates(scans: Sequence[LesionDetection]) -> DetectionRates:
    """The rates of paper 3 over scans. Raises InputError when there is none."""
    if not scans:
        raise InputError("There is no scan to count lesions in: give at least one.")
    lesions = sum(scan.lesions for scan in scans)
    found = sum(scan.detected for scan in scans)
    false = sum(scan.false_positives for scan in scans)
    return DetectionRates(found / lesions if lesions else float("nan"), false / len(scans))


def _parts(where: npt.NDArray[np.bool_], least: float) -> tuple[npt.NDArray[np.int32], int]:
    """Connected parts of at least that many voxels, numbered from 1."""
    labels, count = ndimage.label(where, _TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = np.flatnonzero((sizes >= least) & (np.arange(count + 1) > 0))
    number = np.zeros(count + 1, np.int32)
    number[kept] = np.arange(1, kept.size + 1)
    return number[labels], int(kept.size)

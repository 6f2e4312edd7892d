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


@dataclass(frozen=True)
class LesionUptake:
    """Uptake of one lesion in the real and in the synthetic PET, SUV."""

    volume_ml: float
    real_max_suv: float
    synthetic_max_suv: float
    real_mean_suv: float
    synthetic_mean_suv: float


@dataclass(frozen=True, eq=False)
class LesionScan:
    """One scan to count lesions in, as :func:`detect_lesions` takes it."""

    reference: Volume
    synthetic: Volume
    region: Volume
    lesions: Volume | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """The rates over scans when the synthetic PET is called hot above a threshold."""

    called_above_suv: float
    rates: DetectionRates


def detect_lesions(
    reference: Volume,
    synthetic: Volume,
    region: Volume,
    *,
    lesions: Volume | None = None,
    threshold_suv: float = LESION_SUV,
    called_above_suv: float | None = None,
    least_ml: float = 0.0,
) -> LesionDetection:
    """Lesions of a real PET (SUV) that a synthetic PET shows, inside a region (such as the liver).

    A lesion is a connected part (26 neighbours) of ``lesions``, or, where that is not given, of the
    region where the real PET exceeds the threshold. It is detected where the synthetic PET exceeds
    the threshold anywhere in it. A false positive is a connected part of the region where the
    synthetic PET exceeds the threshold that touches no lesion. Parts smaller than ``least_ml`` are
    left out on both sides. ``called_above_suv``: another threshold for the synthetic PET. Paper 3,
    section 3.2. Raises InputError unless both are in SUV, all on one grid and finite in the region.
    """
    where = voxels_of(region, reference, synthetic)
    called = threshold_suv if called_above_suv is None else called_above_suv
    hot = []
    for volume, above in ((reference, threshold_suv), (synthetic, called)):
        volume.require_unit(Unit.SUV)
        if not np.isfinite(volume.array[where]).all():
            raise InputError(
                f"The {volume.role} volume holds values in the region that are not numbers: leave "
                "out of the region what was not scanned."
            )
        hot.append(where & (volume.array > above))
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


def free_response(
    scans: Sequence[LesionScan],
    thresholds_suv: Sequence[float],
    *,
    lesion_suv: float = LESION_SUV,
    least_ml: float = 0.0,
) -> tuple[OperatingPoint, ...]:
    """The free-response (FROC) curve: the rates of paper 3 at several thresholds, in their order.

    What is a lesion stays as it is; what the synthetic PET is taken to show varies. Unlike a ROC
    curve it counts false positives a scan, as there is no number of places without a lesion
    (Bunch et al., Proc SPIE 127 (1977) 124). Raises InputError when there is no scan, and as
    :func:`detect_lesions`.
    """
    points = []
    for threshold in thresholds_suv:
        counted = [
            detect_lesions(
                scan.reference,
                scan.synthetic,
                scan.region,
                lesions=scan.lesions,
                threshold_suv=lesion_suv,
                called_above_suv=threshold,
                least_ml=least_ml,
            )
            for scan in scans
        ]
        points.append(OperatingPoint(threshold, detection_rates(counted)))
    return tuple(points)


def lesion_uptake(
    scan: LesionScan, *, threshold_suv: float = LESION_SUV, least_ml: float = 0.0
) -> tuple[LesionUptake, ...]:
    """The uptake of each lesion in both PETs, the largest lesion first.

    Lesions are those of :func:`detect_lesions`. Raises InputError as that does.
    """
    where = voxels_of(scan.region, scan.reference, scan.synthetic)
    for volume in (scan.reference, scan.synthetic):
        volume.require_unit(Unit.SUV)
    if scan.lesions is None:
        true = where & (scan.reference.array > threshold_suv)
    else:
        true = where & voxels_of(scan.lesions, scan.reference)
    voxel_ml = scan.region.grid.voxel_mm3 / _MM3_PER_ML
    labels, count = _parts(true, least_ml / voxel_ml)
    found = []
    for number in range(1, count + 1):
        inside = labels == number
        real, made = (v.array[inside].astype(float) for v in (scan.reference, scan.synthetic))
        found.append(
            LesionUptake(
                round(real.size * voxel_ml, 6),
                float(real.max()),
                float(made.max()),
                float(real.mean()),
                float(made.mean()),
            )
        )
    return tuple(sorted(found, key=lambda lesion: -lesion.volume_ml))


def _parts(where: npt.NDArray[np.bool_], least: float) -> tuple[npt.NDArray[np.int32], int]:
    """Connected parts of at least that many voxels, numbered from 1."""
    labels, count = ndimage.label(where, _TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = np.flatnonzero((sizes >= least) & (np.arange(count + 1) > 0))
    number = np.zeros(count + 1, np.int32)
    number[kept] = np.arange(1, kept.size + 1)
    return number[labels], int(kept.size)

"""How well the tissues of a synthetic CT lie where those of the reference lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.masked import MaskedPair, masked_pair
from SynthCTLib.volume import Volume

BONE_HU = 300.0  # paper 1, section 3.4: bone is all from here on

# From the lower to below the upper HU. Adipose tissue is -190 to -30 HU: Kvist et al., Am J Clin
# Nutr 48 (1988) 1351; bone as paper 1; air as the air mask (half way between air and water).
# Between air and fat lies what is blurred of both, in no class.
HU_CLASSES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "air": (-np.inf, float(np.nextafter(-500.0, np.inf))),
        "fat": (-190.0, -30.0),
        "soft": (-30.0, BONE_HU),
        "bone": (BONE_HU, np.inf),
    }
)

DICE_CURVE_HU = tuple(float(t) for t in range(100, 1501, 50))


@dataclass(frozen=True)
class DiceCurve:
    """Dice coefficient of HU >= threshold for rising thresholds; NaN where neither has any."""

    thresholds_hu: tuple[float, ...]
    dice: tuple[float, ...]


def jaccard_bone(
    reference: Volume, synthetic: Volume, mask: Volume, threshold_hu: float = BONE_HU
) -> float:
    """Jaccard coefficient |A and B| / |A or B| of bone (HU >= threshold) inside the mask.

    Paper 1 section 3.4. NaN where neither image has bone in the mask. The mask must reach beyond
    the bone: in a mask made from the reference's own bone, no false bone is ever counted. Raises
    as :func:`masked_pair`.
    """
    return jaccard_of(masked_pair(reference, synthetic, mask), threshold_hu)


def jaccard_of(pair: MaskedPair, threshold_hu: float = BONE_HU) -> float:
    """:func:`jaccard_bone` of values that are at hand."""
    first, second = pair.reference >= threshold_hu, pair.synthetic >= threshold_hu
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / either if either else float("nan")


def dice_bone(
    reference: Volume, synthetic: Volume, mask: Volume, threshold_hu: float = BONE_HU
) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of bone; otherwise as :func:`jaccard_bone`."""
    return dice_of(masked_pair(reference, synthetic, mask), threshold_hu)


def dice_of(pair: MaskedPair, threshold_hu: float = BONE_HU) -> float:
    """:func:`dice_bone` of values that are at hand."""
    return _dice(pair.reference >= threshold_hu, pair.synthetic >= threshold_hu)


def dice_by_class(pair: MaskedPair) -> dict[str, float]:
    """Dice coefficient of each class of ``HU_CLASSES``; NaN where neither image has any of it."""
    return {
        name: _dice(
            (pair.reference >= low) & (pair.reference < below),
            (pair.synthetic >= low) & (pair.synthetic < below),
        )
        for name, (low, below) in HU_CLASSES.items()
    }


def dice_curve(pair: MaskedPair, thresholds_hu: Sequence[float] = DICE_CURVE_HU) -> DiceCurve:
    """Dice coefficient of HU >= t for each threshold t: bone from blurred to dense.

    A voxel is in both where the lesser of its two values reaches t, so that three counts give
    each point. Raises InputError for thresholds that do not rise.
    """
    thresholds = np.asarray(thresholds_hu, np.float64)
    if thresholds.ndim != 1 or not thresholds.size or not (np.diff(thresholds) > 0).all():
        raise InputError("The thresholds of a Dice curve must be HU values that rise.")
    both = _counts_from(np.minimum(pair.reference, pair.synthetic), thresholds)
    total = _counts_from(pair.reference, thresholds) + _counts_from(pair.synthetic, thresholds)
    dice = (2 * b / t if t else float("nan") for b, t in zip(both, total, strict=True))
    return DiceCurve(tuple(thresholds.tolist()), tuple(float(d) for d in dice))


def _dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else float("nan")


def _counts_from(
    values: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """How many values reach each threshold."""
    values = np.sort(values[values >= thresholds[0]])
    return np.asarray(values.size - np.searchsorted(values, thresholds, side="left"), np.int64)

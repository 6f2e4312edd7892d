"""Air, soft tissue and bone told apart by the image's own values: k-means, as paper 2 does.

A synthetic image need not be on the scale of Hounsfield, and a fixed threshold would then not
apply (paper 2, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from SynthCTLib.metrics.masked import MaskedPair, masked_pair
from SynthCTLib.volume import Volume

BINS = 1024  # paper 2, section 3.2
_CLASSES = 3  # air, soft tissue, bone
_ROUNDS = 100


@dataclass(frozen=True)
class Clusters:
    """Centres of air, soft tissue and bone, rising, and the two values that part them."""

    centres: tuple[float, float, float]
    parts: tuple[float, float]


def clusters_of(values: npt.NDArray[np.float64]) -> Clusters | None:
    """k-means with three classes on a histogram of 1024 bins from the least to the greatest value.

    Lloyd's rounds on the centres of the bins, weighted by their counts, from the quantiles 1/6,
    3/6 and 5/6 of the bins' range that is occupied, until nothing changes (100 rounds at most):
    the paper does not state how it starts, and this start is the same in every run. None where
    the values do not fall into three classes (a constant image, two values).
    """
    low, high = float(values.min()), float(values.max())
    if high == low:
        return None
    index = ((values - low) * (BINS / (high - low))).astype(np.int64)
    counts = np.bincount(np.minimum(index, BINS - 1), minlength=BINS).astype(np.float64)
    at = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
    occupied = at[counts > 0]
    if occupied.size < _CLASSES:
        return None
    centres = np.quantile(occupied, [1 / 6, 3 / 6, 5 / 6])
    mass, moment = (np.concatenate([[0.0], np.cumsum(v)]) for v in (counts, counts * at))
    for _ in range(_ROUNDS):
        cuts = np.searchsorted(at, (centres[1:] + centres[:-1]) / 2, side="right")
        edges = np.array([0, *cuts, BINS])
        weight = np.diff(mass[edges])
        moved = np.where(
            weight > 0, np.diff(moment[edges]) / np.where(weight > 0, weight, 1.0), centres
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    air, soft, bone = (float(c) for c in centres)
    return Clusters((air, soft, bone), ((air + soft) / 2, (soft + bone) / 2))


def kmeans_dice_bone(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Dice coefficient (paper 2 eq. 12) of bone, each image's own highest of three k-means classes.

    NaN where one of the images does not fall into three classes. Raises as :func:`masked_pair`.
    """
    return kmeans_dice_of(masked_pair(reference, synthetic, mask))


def kmeans_dice_of(pair: MaskedPair) -> float:
    """:func:`kmeans_dice_bone` of values that are at hand."""
    bones = []
    for values in (pair.reference, pair.synthetic):
        clusters = clusters_of(values)
        if clusters is None:
            return float("nan")
        bones.append(values > clusters.parts[1])
    total = int(np.count_nonzero(bones[0])) + int(np.count_nonzero(bones[1]))
    return 2 * int(np.count_nonzero(bones[0] & bones[1])) / total if total else float("nan")

"""How alike two images are, voxel against voxel: peak signal to noise, correlation, information."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from SynthCTLib.metrics.intensities import PAPER_2, IntensityRange
from SynthCTLib.metrics.masked import MaskedPair, masked_pair
from SynthCTLib.volume import Volume

MUTUAL_INFORMATION_BINS = 100  # of each image; scikit-image's default


def psnr_db(
    reference: Volume, synthetic: Volume, mask: Volume, intensities: IntensityRange = PAPER_2
) -> float:
    """Peak signal to noise ratio in dB: 20 log10(data_range / RMSE) over the mask.

    Both volumes in HU, clipped to the range first. Paper 2 eq. 8; SynthRAD 2023 and 2025 with
    their own ranges (``metrics.intensities``). Infinite where the images agree in every voxel.
    Raises as :func:`masked_pair`.
    """
    return psnr_of(masked_pair(reference, synthetic, mask), intensities)


def psnr_of(pair: MaskedPair, intensities: IntensityRange = PAPER_2) -> float:
    """:func:`psnr_db` of values that are at hand."""
    low, high = intensities.low_hu, intensities.high_hu
    error = pair.synthetic.clip(low, high)
    error -= pair.reference.clip(low, high)
    mean_square = float(np.square(error).mean())
    if mean_square == 0.0:
        return float("inf")
    return float(20.0 * np.log10(intensities.data_range) - 10.0 * np.log10(mean_square))


def pearson(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Pearson correlation of the values in the mask, -1 to 1.

    Paper 2 eq. 11, HU not clipped. NaN where one of the images is constant in the mask. Raises
    as :func:`masked_pair`.
    """
    return pearson_of(masked_pair(reference, synthetic, mask))


def pearson_of(pair: MaskedPair) -> float:
    """:func:`pearson` of values that are at hand."""
    if np.ptp(pair.reference) == 0.0 or np.ptp(pair.synthetic) == 0.0:
        return float("nan")
    first = pair.reference - pair.reference.mean()
    second = pair.synthetic - pair.synthetic.mean()
    # Sums, not dot products: the bits of those vary with the number of threads.
    product, mine, yours = (
        (a * b).sum() for a, b in ((first, second), (first,) * 2, (second,) * 2)
    )
    return float(np.clip(product / np.sqrt(mine * yours), -1.0, 1.0))


def normalised_mutual_information(
    reference: Volume, synthetic: Volume, mask: Volume, bins: int = MUTUAL_INFORMATION_BINS
) -> float:
    """Normalised mutual information (H(A) + H(B)) / H(A, B), 1 (independent) to 2 (one tells all).

    Studholme, Hill and Hawkes, Pattern Recognition 32 (1999) 71. H are the entropies of the
    values in the mask, each image in ``bins`` equal bins from its least to its greatest value
    there. Of one constant image it is 1; NaN where both are constant. Raises as
    :func:`masked_pair`.
    """
    return mutual_information_of(masked_pair(reference, synthetic, mask), bins)


def mutual_information_of(pair: MaskedPair, bins: int = MUTUAL_INFORMATION_BINS) -> float:
    """:func:`normalised_mutual_information` of values that are at hand."""
    joint = np.bincount(
        _binned(pair.reference, bins) * bins + _binned(pair.synthetic, bins), minlength=bins * bins
    ).reshape(bins, bins)
    together = _entropy(joint.ravel())
    if together == 0.0:
        return float("nan")
    return (_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / together


def _binned(values: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.int64]:
    low, high = float(values.min()), float(values.max())
    if high == low:
        return np.zeros(values.size, np.int64)
    index = ((values - low) * (bins / (high - low))).astype(np.int64)
    return np.minimum(index, bins - 1, out=index)  # the last bin holds its end


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return max(0.0, -float((share * np.log(share)).sum()))

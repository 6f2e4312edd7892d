"""How alike two images are: peak signal to noise, structural similarity, correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.metrics import structural_similarity

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.masked import masked_pair
from SynthCTLib.volume import Volume


@dataclass(frozen=True)
class IntensityRange:
    """The window that images are clipped to (HU), and the dynamic range that a figure divides by.

    Figures made with different ranges cannot be compared.
    """

    name: str
    low_hu: float
    high_hu: float
    data_range: float
    source: str

    def __post_init__(self) -> None:
        if not (self.low_hu < self.high_hu and self.data_range > 0.0):
            raise InputError(
                f"The intensity range {self.name} is empty: low must be below high and the "
                "dynamic range above 0."
            )


PAPER_2 = IntensityRange(
    "paper-2", -1024.0, 3071.0, 4096.0, "paper 2 eq. 8: CT in 0..4095 (HU + 1024), vmax = 4096"
)
SYNTHRAD_2023 = IntensityRange(
    "synthrad-2023", -1024.0, 3000.0, 4024.0, "SynthRAD2023/metrics, commit 3200007"
)


def psnr_db(
    reference: Volume, synthetic: Volume, mask: Volume, intensities: IntensityRange = PAPER_2
) -> float:
    """Peak signal to noise ratio in dB: 20 log10(data_range / RMSE) over the mask.

    Both volumes in HU, clipped to the range first. Paper 2 eq. 8; SynthRAD 2023 with its own
    range. Infinite where the images agree in every voxel. Raises as :func:`masked_pair`.
    """
    pair = masked_pair(reference, synthetic, mask)
    low, high = intensities.low_hu, intensities.high_hu
    error = pair.synthetic.clip(low, high) - pair.reference.clip(low, high)
    mean_square = float(np.mean(error**2))
    if mean_square == 0.0:
        return float("inf")
    return float(20.0 * np.log10(intensities.data_range) - 10.0 * np.log10(mean_square))


def pearson(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Pearson correlation of the values in the mask, -1 to 1.

    Paper 2 eq. 11, HU not clipped. NaN where one of the images is constant in the mask. Raises
    as :func:`masked_pair`.
    """
    pair = masked_pair(reference, synthetic, mask)
    if np.ptp(pair.reference) == 0.0 or np.ptp(pair.synthetic) == 0.0:
        return float("nan")
    return float(np.corrcoef(pair.reference, pair.synthetic)[0, 1])


_WINDOW = 7  # voxels along each axis; SynthRAD 2023 uses scikit-image's default
_MARGIN = _WINDOW // 2
_SLAB_VOXELS = 2_000_000  # about 0.3 GB at a time, and fast: the working set stays near the cache


def ssim(
    reference: Volume,
    synthetic: Volume,
    mask: Volume,
    intensities: IntensityRange = SYNTHRAD_2023,
) -> float:
    """Mean structural similarity over the mask, as SynthRAD 2023 computes it.

    Both volumes in HU are clipped to the range; all outside the mask becomes the range's low
    end, so that only the mask counts; a cubic window of 7 voxels, uniform, sample covariance,
    K1 = 0.01 and K2 = 0.03 (scikit-image's defaults); the map is averaged over the voxels of the
    mask that are at least 3 voxels away from the border of the image. NaN where there is no such
    voxel. Raises as :func:`masked_pair`.

    Only the bounding box of those voxels and the 3 voxels around it enter the windows, so that
    only this part is computed, slab by slab; the result is that of the whole volume.
    """
    masked_pair(reference, synthetic, mask)  # refuses what cannot be compared
    where = mask.array > 0
    inner = where[(slice(_MARGIN, -_MARGIN),) * 3]
    if not inner.any():
        return float("nan")
    (box,) = ndimage.find_objects(inner.view(np.uint8))
    # In the coordinates of the whole, inner begins at 3: its box, 3 wider, is (start, stop + 6).
    wide = tuple(slice(side.start, side.stop + 2 * _MARGIN) for side in box)
    where = where[wide]
    first, second = reference.array[wide], synthetic.array[wide]

    thickness = max(1, _SLAB_VOXELS // where[0].size)
    total, count = 0.0, 0
    for start in range(0, len(where) - 2 * _MARGIN, thickness):
        slab = slice(start, start + thickness + 2 * _MARGIN)
        counted = where[slab][(slice(_MARGIN, -_MARGIN),) * 3]
        _, similarity = structural_similarity(
            _windowed(first[slab], where[slab], intensities),
            _windowed(second[slab], where[slab], intensities),
            win_size=_WINDOW,
            data_range=intensities.data_range,
            full=True,
        )
        total += float(similarity[(slice(_MARGIN, -_MARGIN),) * 3][counted].sum())
        count += int(counted.sum())
    return total / count


def _windowed(
    hu: npt.NDArray[np.generic], where: npt.NDArray[np.bool_], intensities: IntensityRange
) -> npt.NDArray[np.float64]:
    """HU above the low end of the range, 0 outside the mask (whatever was there)."""
    values = np.zeros(hu.shape)
    values[where] = hu[where]
    values[where] = values[where].clip(intensities.low_hu, intensities.high_hu) - intensities.low_hu
    return values

"""How alike the local patterns of two images are: the family of structural similarity.

Local means, variances and covariance are taken in cubes of 7 voxels, uniform, with the sample
covariance (divided by 342), as scikit-image does by default and SynthRAD after it:

    l  = (2 m_x m_y + c1) / (m_x² + m_y² + c1)
    cs = (2 s_xy + c2) / (s_x² + s_y² + c2)        SSIM = l cs

with c1 = (0.01 R)² and c2 = (0.03 R)², R the dynamic range (Wang et al., IEEE Trans Image Process
13 (2004) 600). All outside the mask counts as the low end of the window, so that nothing there
enters.

Computed block by block, where there is something to count. The images are kept in single precision,
the windows are summed in double precision, about the value of soft tissue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from SynthCTLib.metrics.intensities import PAPER_2, SYNTHRAD_2023, SYNTHRAD_2025, IntensityRange
from SynthCTLib.metrics.masked import bounding_box, masked_pair
from SynthCTLib.volume import Volume

Image = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Where = npt.NDArray[np.bool_]

_WINDOW = 7  # voxels along each axis; SynthRAD uses scikit-image's default
_MARGIN = _WINDOW // 2
_INNER = (slice(_MARGIN, -_MARGIN),) * 3
_VOXELS = _WINDOW**3
_SAMPLE = _VOXELS / (_VOXELS - 1)
_K1, _K2 = 0.01, 0.03
_PAPER_2_RANGE = 2.0**12 - 2.0  # paper 2 eq. 9: c1 = (0.01 (2^12 - 2))²

# Wang, Simoncelli and Bovik, Asilomar 2003; SynthRAD 2025.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_COARSEST = 2 ** (len(_SCALE_WEIGHTS) - 1)
_LEAST_SIZE = 97  # 7 voxels at the coarsest of five scales: 6 * 16 + 1; smaller axes are padded

_SOFT_TISSUE_HU = 40.0  # values are kept as distance from it
_BLOCK = (16, 16, 256)


@dataclass(frozen=True)
class Structure:
    """The family of one pair in one mask; NaN where undefined.

    ``ssim`` by SynthRAD 2023, ``ms_ssim`` by SynthRAD 2025, ``mssim_paper_2`` by paper 2.
    """

    ssim: float
    ms_ssim: float
    mssim_paper_2: float


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
    """
    masked_pair(reference, synthetic, mask)  # refuses what cannot be compared
    return _over_mask(reference, synthetic, mask, intensities, scales=1)[0]


def ms_ssim(
    reference: Volume,
    synthetic: Volume,
    mask: Volume,
    intensities: IntensityRange = SYNTHRAD_2025,
) -> float:
    """Structural similarity over five scales in the mask, as SynthRAD 2025 computes it.

    Images as for :func:`ssim`. Axes shorter than 97 voxels are padded to 97 by their edge values,
    half of it on each side, the mask too. On each scale the mean over the mask, 3 voxels at the
    border left out, of (l max(cs, 0))^w is taken, w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333; the
    answer is the product of the five, each cut to 0..1. From scale to scale the images are
    averaged over 2x2x2 voxels (each with its predecessors, zero beyond the first) and every second
    voxel is kept; of the mask every second voxel is kept. Luminance enters at every scale, not
    only at the last as in Wang 2003: so does the challenge. NaN where a scale holds no voxel of
    the mask. Raises as :func:`masked_pair`.
    """
    masked_pair(reference, synthetic, mask)  # refuses what cannot be compared
    return _over_mask(reference, synthetic, mask, intensities, len(_SCALE_WEIGHTS))[1]


def mssim_paper_2(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean structural similarity of paper 2 eq. 9, over the whole image.

    HU + 1024 in 0..4095, multiplied by the mask (section 3.2), c1 = (0.01 (2^12 - 2))², c2 =
    (0.03 (2^12 - 2))²; the window, which the paper does not state, is scikit-image's, 3 voxels at
    the border of the image left out. The mean runs over all of the image, as its equation says, so
    that empty surroundings raise it: compare only images of one field of view. NaN for an image
    thinner than 7 voxels. Raises as :func:`masked_pair`.
    """
    masked_pair(reference, synthetic, mask)  # refuses what cannot be compared
    return _over_image(reference, synthetic, mask)


def structure(reference: Volume, synthetic: Volume, mask: Volume) -> Structure:
    """The family at once, with the ranges of its sources; the images were checked before."""
    scales = len(_SCALE_WEIGHTS)
    single, multi = _over_mask(reference, synthetic, mask, SYNTHRAD_2025, scales)
    return Structure(single, multi, _over_image(reference, synthetic, mask))


def _over_mask(
    reference: Volume, synthetic: Volume, mask: Volume, intensities: IntensityRange, scales: int
) -> tuple[float, float]:
    """SSIM over the mask, and the product over the scales; NaN where nothing is counted."""
    where = mask.array > 0
    inner = np.zeros(where.shape, bool)
    inner[_INNER] = where[_INNER]
    arrays = [reference.array, synthetic.array]
    widths = [_padding(n) for n in where.shape]
    if any(sum(width) for width in widths):
        arrays = [np.pad(a, widths, mode="edge") for a in arrays]
        where, inner = np.pad(where, widths, mode="edge"), np.pad(inner, widths)
    # Wide enough that the border of the box is no border of what counts, on any scale, and from a
    # multiple of the coarsest voxel, so that the same voxels are averaged.
    reach = _COARSEST * _MARGIN
    box = tuple(
        slice(max(0, side.start - reach) // _COARSEST * _COARSEST, min(n, side.stop + reach))
        for side, n in zip(bounding_box(where), where.shape, strict=True)
    )
    where, inner = where[box], inner[box][_INNER]
    first, second = (_windowed(a[box], where, intensities) for a in arrays)
    outside = intensities.low_hu - _SOFT_TISSUE_HU

    single, answer = float("nan"), 1.0
    for scale, weight in enumerate(_SCALE_WEIGHTS[:scales]):
        if scale:
            first, second = _halved(first, outside), _halved(second, outside)
            where = np.ascontiguousarray(where[::2, ::2, ::2])
        counted = where[_INNER]
        total, plain = 0.0, 0.0
        for core in _blocks(where):
            luminance, contrast = _maps(first, second, core, outside, intensities.data_range)
            if scale == 0:
                plain += float((luminance * contrast)[inner[core]].sum())
            if scales > 1:
                inside = counted[core]
                values = luminance[inside] * np.maximum(contrast[inside], 0.0)
                total += float((values**weight).sum())
        if scale == 0 and inner.any():
            single = plain / int(np.count_nonzero(inner))
        voxels = int(np.count_nonzero(counted))
        answer *= min(max(total / voxels, 0.0), 1.0) if voxels else float("nan")
    return single, answer


def _over_image(reference: Volume, synthetic: Volume, mask: Volume) -> float:
    """Mean over all of the image, 3 voxels at its border left out."""
    where = mask.array > 0
    inner = [n - 2 * _MARGIN for n in where.shape]
    if min(inner) < 1:
        return float("nan")
    box = tuple(
        slice(max(0, side.start - 2 * _MARGIN), min(n, side.stop + 2 * _MARGIN))
        for side, n in zip(bounding_box(where), where.shape, strict=True)
    )
    where = where[box]
    first, second = (_windowed(v.array[box], where, PAPER_2) for v in (reference, synthetic))
    outside = PAPER_2.low_hu - _SOFT_TISSUE_HU
    # Windows that do not touch the mask see two equal images: their similarity is 1.
    lost = 0.0
    for core in _blocks(where):
        luminance, contrast = _maps(first, second, core, outside, _PAPER_2_RANGE)
        lost += float((1.0 - luminance * contrast).sum())
    return 1.0 - lost / float(inner[0] * inner[1] * inner[2])


def _padding(size: int) -> tuple[int, int]:
    missing = max(0, _LEAST_SIZE - size)
    return missing // 2, missing - missing // 2


def _windowed(hu: npt.NDArray[np.generic], where: Where, intensities: IntensityRange) -> Image:
    """HU in the window, its low end outside the mask (whatever was there), about soft tissue."""
    values = np.full(hu.shape, intensities.low_hu, np.float32)
    np.copyto(values, hu, where=where, casting="same_kind")
    np.clip(values, intensities.low_hu, intensities.high_hu, out=values)
    values -= _SOFT_TISSUE_HU
    return values


def _blocks(where: Where) -> Iterator[tuple[slice, ...]]:
    """Blocks of inner voxels (counted from 3) with a window that touches the mask, in order."""
    sizes = [n - 2 * _MARGIN for n in where.shape]
    starts = (range(0, n, size) for n, size in zip(sizes, _BLOCK, strict=True))
    for corner in product(*starts):
        core = tuple(
            slice(at, min(at + size, n)) for at, size, n in zip(corner, _BLOCK, sizes, strict=True)
        )
        if where[_wide(core)].any():
            yield core


def _wide(core: tuple[slice, ...]) -> tuple[slice, ...]:
    """All voxels that the windows of a block reach."""
    return tuple(slice(side.start, side.stop + 2 * _MARGIN) for side in core)


def _maps(
    first: Image, second: Image, core: tuple[slice, ...], zero: float, data_range: float
) -> tuple[Values, Values]:
    """Luminance, and contrast times structure, at the inner voxels of a block.

    ``zero`` is the value that stands for 0 in the luminance.
    """
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    x, y = (a[_wide(core)].astype(np.float64) for a in (first, second))
    mean_x, mean_y = _box_mean(x), _box_mean(y)
    variances = _box_mean(x * x + y * y)
    variances -= mean_x * mean_x + mean_y * mean_y
    variances *= _SAMPLE
    variances += c2
    contrast = _box_mean(x * y)
    contrast -= mean_x * mean_y
    contrast *= 2.0 * _SAMPLE
    contrast += c2
    contrast /= variances
    mean_x -= zero
    mean_y -= zero
    luminance = mean_x * mean_y
    luminance *= 2.0
    luminance += c1
    luminance /= mean_x * mean_x + mean_y * mean_y + c1
    return luminance, contrast


def _box_mean(values: Values) -> Values:
    """Mean over cubes of 7 voxels; each axis is shorter by 6."""
    for axis in range(3):
        v = np.moveaxis(values, axis, 0)
        two = v[:-1] + v[1:]
        seven = two[:-2] + two[2:]  # four of them
        seven = seven[:-3]
        seven += two[4:-1]
        seven += v[6:]
        values = np.moveaxis(seven, 0, axis)
    values *= 1.0 / _VOXELS
    return values


def _halved(values: Image, outside: float) -> Image:
    """Mean of each second voxel and its predecessors along every axis, zero before the first."""
    for axis in range(3):
        v = np.moveaxis(values, axis, 0)
        half = v[::2].copy()
        half[1:] += v[1 : 2 * len(half) - 2 : 2]
        half[0] += outside
        half *= 0.5
        values = np.moveaxis(half, 0, axis)
    return np.ascontiguousarray(values, np.float32)

"""The small copies of a volume that a registration works on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError, RegistrationFailed
from SynthCTLib.volume import Grid, Role, Unit, Volume

# Dense bone is above, metal and teeth far above: beyond it a histogram bin would be wasted.
CT_RANGE_HU = (-1000.0, 1500.0)
# Above the brightest vessel or fat of most MR and below a spike of noise.
TOP_PERCENTILE = 99.5
BODY_HU = -300.0
# Ridler's intermeans threshold of a head MR lies between scalp and white matter.
BODY_SHARE_OF_THRESHOLD = 0.4
_FEWEST_VOXELS = 6


def intensity_range(volume: Volume) -> tuple[float, float]:
    """Lowest and highest value that the metric tells apart.

    Raises RegistrationFailed for a volume without contrast, InputError for NaN or infinity.
    """
    values = volume.array[::2, ::2, ::2].astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"The {volume.role} volume holds NaN or infinite values: replace them before "
            "registration."
        )
    if volume.unit == Unit.HU:
        low, high = CT_RANGE_HU
        empty = values.max() <= low or values.min() >= high or np.ptp(values) == 0
    else:
        low = float(values.min())
        high = float(np.percentile(values[values > low], TOP_PERCENTILE)) if np.ptp(values) else low
        empty = high <= low
    if empty:
        raise RegistrationFailed(
            f"The {volume.role} volume shows no contrast to register by: choose another volume."
        )
    return low, high


def shrunk(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Block means whose voxels are as near to ``spacing_mm`` as whole factors allow."""
    factors = [
        max(1, min(round(spacing_mm / s - 0.1), n // _FEWEST_VOXELS))
        for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    return image if max(factors) == 1 else sitk.BinShrink(image, factors)


def levels(volume: Volume, spacings_mm: Sequence[float]) -> tuple[sitk.Image, ...]:
    """Float32 copies clipped to :func:`intensity_range`, one for each spacing, as asked."""
    low, high = intensity_range(volume)
    finest = sitk.Clamp(volume.image, sitk.sitkFloat32, low, high)
    by_spacing: dict[float, sitk.Image] = {}
    for spacing in sorted(set(spacings_mm)):
        finest = by_spacing[spacing] = shrunk(finest, spacing)
    return tuple(by_spacing[s] for s in spacings_mm)


def body(image: sitk.Image, unit: Unit) -> npt.NDArray[np.bool_]:
    """Voxels (z, y, x) of a coarse level that are not air: a rough mask, holes and all."""
    values = sitk.GetArrayViewFromImage(image)
    if unit == Unit.HU:
        return np.asarray(values > BODY_HU)
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(image)
    low = float(values.min())
    return np.asarray(values > low + BODY_SHARE_OF_THRESHOLD * (threshold.GetThreshold() - low))


def cropped(
    image: sitk.Image, mask: npt.NDArray[np.bool_], grid: Grid, margin_mm: float
) -> sitk.Image:
    """The part of an image around a mask that lies on another grid of the same orientation."""
    where = np.argwhere(mask)[:, ::-1]
    low, high = where.min(axis=0) - 0.5, where.max(axis=0) + 0.5
    corners = np.array([grid.index_to_world @ [*c, 1.0] for c in (low, high)])[:, :3]
    index = np.sort([image.TransformPhysicalPointToContinuousIndex(c.tolist()) for c in corners], 0)
    margin = margin_mm / np.asarray(image.GetSpacing())
    first = np.clip(np.floor(index[0] - margin), 0, np.asarray(image.GetSize()) - 1).astype(int)
    last = np.clip(np.ceil(index[1] + margin), 0, np.asarray(image.GetSize()) - 1).astype(int)
    return sitk.RegionOfInterest(image, (last - first + 1).tolist(), first.tolist())


def mask_on(grid_of: sitk.Image, mask: Volume) -> sitk.Image:
    """A mask, nearest neighbour, on the voxels of a level."""
    if mask.role != Role.MASK:
        raise InputError(f"The fixed mask is a {mask.role} volume: give a mask.")
    return sitk.Resample(
        mask.image,
        grid_of,
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkNearestNeighbor,
        0,
        sitk.sitkUInt8,
    )

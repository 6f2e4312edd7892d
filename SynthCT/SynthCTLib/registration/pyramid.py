"""The small copies of a volume that a registration works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.errors import InputError, RegistrationFailed
from SynthCTLib.volume import Grid, Role, Unit, Volume

# Dense bone is above, metal and teeth far above: beyond it a histogram bin would be wasted.
CT_RANGE_HU = (-1000.0, 1500.0)
# Above the brightest vessel or fat of most MR and below a spike of noise.
TOP_PERCENTILE = 99.5
BODY_HU = -300.0
# Otsu's threshold of an MR divides dark from bright tissue, not tissue from air.
BODY_SHARE_OF_OTSU = 0.4
MARGIN_MM = 8.0
COARSE_MM = 8.0
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


def near_body(image: sitk.Image, unit: Unit) -> npt.NDArray[np.bool_]:
    """Tissue of a level and ``MARGIN_MM`` of the air around it (z, y, x): skin is an edge too."""
    values = sitk.GetArrayViewFromImage(image)
    if unit == Unit.HU:
        tissue = values > BODY_HU
    else:
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(image)
        low = float(values.min())
        tissue = values > low + BODY_SHARE_OF_OTSU * (otsu.GetThreshold() - low)
    if not tissue.any():
        return np.asarray(tissue)
    away = ndimage.distance_transform_edt(~tissue, sampling=image.GetSpacing()[::-1])
    return np.asarray(away <= MARGIN_MM)


@dataclass(frozen=True)
class Views:
    """Two volumes as a registration sees them.

    ``fixed`` (cropped to its body) and ``moving``: one image for each level. ``near`` and
    ``near_moving``: :func:`near_body` on the coarse images; ``mask``, an image: where the fixed
    one is compared, which is ``near``.
    """

    fixed: tuple[sitk.Image, ...]
    moving: tuple[sitk.Image, ...]
    coarse_fixed: sitk.Image
    coarse_moving: sitk.Image
    near: npt.NDArray[np.bool_]
    near_moving: npt.NDArray[np.bool_]
    mask: sitk.Image

    @staticmethod
    def of(
        fixed: Volume,
        moving: Volume,
        spacings_mm: Sequence[float],
        fixed_mask: Volume | None,
        margin_mm: float = 0.0,
        coarse_mm: float = COARSE_MM,
    ) -> Views:
        """``margin_mm``: how much is left around the body when the fixed levels are cropped.

        Raises RegistrationFailed when a volume shows nothing to register by.
        """
        coarse_fixed, *fixed_levels = levels(fixed, (coarse_mm, *spacings_mm))
        coarse_moving, *moving_levels = levels(moving, (coarse_mm, *spacings_mm))
        body = near_body(coarse_fixed, fixed.unit)
        near_moving = near_body(coarse_moving, moving.unit)
        near = body
        if fixed_mask is not None:
            if fixed_mask.role != Role.MASK:
                raise InputError(f"The fixed mask is a {fixed_mask.role} volume: give a mask.")
            allowed = nearest_on(coarse_fixed, fixed_mask.image)
            near = body & (sitk.GetArrayViewFromImage(allowed) > 0)
        for role, found in ((fixed.role, near), (moving.role, near_moving)):
            if not found.any():
                inside = " inside the mask" if found is near and fixed_mask is not None else ""
                raise RegistrationFailed(
                    f"The {role} volume shows no body to register by{inside}: choose another."
                )
        mask = sitk.GetImageFromArray(near.astype(np.uint8))
        mask.CopyInformation(coarse_fixed)
        return Views(
            tuple(_cropped(image, body, coarse_fixed, margin_mm) for image in fixed_levels),
            tuple(moving_levels),
            coarse_fixed,
            coarse_moving,
            near,
            near_moving,
            mask,
        )

    @property
    def centre_mm(self) -> npt.NDArray[np.float64]:
        """LPS mm of the middle of what is compared."""
        matrix = Grid.of(self.coarse_fixed).index_to_world
        middle = np.argwhere(self.near).mean(axis=0)[::-1]
        centre: npt.NDArray[np.float64] = matrix[:3, :3] @ middle + matrix[:3, 3]
        return centre

    @property
    def overlap_possible(self) -> float:
        """Share of the compared part of the fixed body that the moving body is large enough for."""
        size = self.near.sum() * np.prod(self.coarse_fixed.GetSpacing())
        other = self.near_moving.sum() * np.prod(self.coarse_moving.GetSpacing())
        return min(1.0, float(other / size))


def _cropped(
    image: sitk.Image, mask: npt.NDArray[np.bool_], mask_on: sitk.Image, margin_mm: float
) -> sitk.Image:
    """The part of an image around a mask (z, y, x) on another grid of the same orientation."""
    where = np.argwhere(mask)[:, ::-1]
    corners = [where.min(axis=0) - 0.5, where.max(axis=0) + 0.5]
    index = np.array(
        [
            image.TransformPhysicalPointToContinuousIndex(
                mask_on.TransformContinuousIndexToPhysicalPoint(c.tolist())
            )
            for c in corners
        ]
    )
    margin = margin_mm / np.asarray(image.GetSpacing())
    last = np.asarray(image.GetSize()) - 1
    first = np.clip(np.floor(index[0] - margin), 0, last).astype(int)
    final = np.clip(np.ceil(index[1] + margin), 0, last).astype(int)
    return sitk.RegionOfInterest(image, (final - first + 1).tolist(), first.tolist())


def nearest_on(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """A mask, nearest neighbour, on the voxels of an image."""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    return sitk.Resample(mask, image, identity, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)

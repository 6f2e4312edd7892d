"""Linear attenuation at 511 keV from CT: the µ-map that corrects a PET for attenuation.

A CT is taken with photons of 30 to 140 keV and a PET with 511 keV. Water and soft tissue keep
their ratio between the two energies; bone, rich in calcium, does not, and how much it differs
depends on the tube voltage. The published answer is a line in two pieces over H = HU + 1000:

    µ = 9.6e-5 H              below the break
    µ = slope H + offset      from the break on                    (1/cm)

Each pair of slope and offset, with its break, is a :class:`Convention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.volume import Grid, Role, Step, Unit, Volume

MU_WATER_PER_CM = 0.096  # at 511 keV; NIST XCOM
_SOFT_SLOPE_PER_CM = MU_WATER_PER_CM / 1000.0  # per HU: air (-1000 HU) gives 0, water 0.096
_LARGEST_JUMP_PER_CM = 5e-5  # the published, rounded lines miss each other by at most 4.5e-5


@dataclass(frozen=True)
class Convention:
    """One published bilinear conversion from HU to µ at 511 keV.

    ``bone_slope_per_cm`` is per HU; ``bone_offset_per_cm`` is the value of the bone line at
    -1000 HU (not at 0 HU); ``break_hu`` is in HU of water = 0 (not in HU + 1000). Raises
    InputError when the two lines miss each other by more than 5e-5 1/cm at the break, which is
    what confusing the two scales does: Carney's 140 kVp break is printed as 1030 and means
    HU + 1000 = 1030; read as 1030 HU it tears a gap of 0.04 1/cm into the curve.
    """

    name: str
    kvp: int
    break_hu: float
    bone_slope_per_cm: float
    bone_offset_per_cm: float
    source: str

    def __post_init__(self) -> None:
        if not abs(self.jump_per_cm) <= _LARGEST_JUMP_PER_CM:
            raise InputError(
                f"The HU to µ convention {self.name} jumps by {self.jump_per_cm:+.4f} 1/cm at its "
                f"break of {self.break_hu:g} HU: state the break in HU (not HU + 1000) and the "
                "offset at -1000 HU."
            )

    @property
    def jump_per_cm(self) -> float:
        """Bone line minus soft tissue line at the break, 1/cm."""
        shifted = self.break_hu + 1000.0
        bone = self.bone_slope_per_cm * shifted + self.bone_offset_per_cm
        return bone - _SOFT_SLOPE_PER_CM * shifted

    def mu_per_cm(self, hu: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """µ in 1/cm of an array of HU, never negative, float32 or finer."""
        shifted = hu.astype(np.promote_types(np.float32, hu.dtype)) + 1000.0
        soft = _SOFT_SLOPE_PER_CM * shifted
        bone = self.bone_slope_per_cm * shifted + self.bone_offset_per_cm
        mu: npt.NDArray[np.floating[Any]] = np.where(hu >= self.break_hu, bone, soft)
        np.maximum(mu, 0.0, out=mu)
        return mu


_CARNEY = (
    "Carney et al., Med Phys 33:976 (2006), doi 10.1118/1.2174132; "
    "coefficients as carried by two public codes that cite it"
)
_STIR = "STIR, src/config/ct_slopes.json (commit 9a59610)"


def _carney(kvp: int, slope: float, offset: float, break_hu: float) -> Convention:
    return Convention(f"carney-{kvp}", kvp, break_hu, slope, offset, _CARNEY)


def _stir(name: str, kvp: int, at_water: float, slope: float, break_hu: float) -> Convention:
    """STIR states its bone line in true HU, by its value at 0 HU."""
    source = f"{_STIR}, {name.split('-')[0].upper()} {kvp} kVp"
    return Convention(f"stir-{name}", kvp, break_hu, slope, at_water - 1000.0 * slope, source)


# "Paper 1" is the MR to pseudo-CT paper with the 3D residual U-Net; its equation is Carney's for
# 140 kVp, with the break printed as 1030 "HU" (see Convention).
_PAPER_1 = Convention(
    "paper-1",
    140,
    30.0,
    5.64e-5,
    4.08e-2,
    f"paper 1, section 3.5, the same as carney-140: {_CARNEY}",
)

CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            _carney(80, 3.64e-5, 6.26e-2, 50.0),
            _carney(100, 4.43e-5, 5.44e-2, 52.0),
            _carney(110, 4.92e-5, 4.88e-2, 43.0),
            _carney(120, 5.10e-5, 4.71e-2, 47.0),
            _carney(130, 5.51e-5, 4.24e-2, 37.0),
            _carney(140, 5.64e-5, 4.08e-2, 30.0),
            _PAPER_1,
            _stir("ge-80", 80, 0.0989, 3.84e-5, 50.0),
            _stir("ge-100", 100, 0.0985, 4.56e-5, 50.0),
            _stir("ge-120", 120, 0.0982, 5.11e-5, 50.0),
            _stir("ge-140", 140, 0.0980, 5.60e-5, 50.0),
            # NiftyPET's nimpa.ct2mu has the same line (after Burger 2002, from water and bone)
            _stir("generic-120", 120, 0.0960, 5.73e-5, 0.0),
        )
    }
)
"""Every known conversion by name. ``paper-1`` and ``carney-140`` are the same curve."""

DEFAULT_CONVENTION = "carney-140"


def convention_named(name: str) -> Convention:
    """The convention of that name. Raises InputError, listing the names, when there is none."""
    try:
        return CONVENTIONS[name]
    except KeyError:
        raise InputError(
            f"There is no HU to µ convention '{name}': choose one of {', '.join(CONVENTIONS)}."
        ) from None


def hu_to_mu(ct: Volume, convention: str = DEFAULT_CONVENTION) -> Volume:
    """The µ-map of a CT at 511 keV, 1/cm, float32, on the CT's own grid.

    Convert before resampling: the conversion bends at the break, so that the mean of two µ is not
    the µ of the mean HU wherever bone meets air. Values below -1000 HU give 0.

    Raises InputError for anything but a CT in HU, for values that are not finite, and for an
    unknown convention.
    """
    curve = convention_named(convention)
    _require_ct(ct)
    mu = np.empty(ct.array.shape, np.float32)
    for hu_slice, mu_slice in zip(ct.array, mu, strict=True):  # a slice fits the processor's cache
        if not np.isfinite(hu_slice).all():
            raise InputError(
                "The CT holds values that are not numbers (NaN or infinite): "
                "replace them, by -1000 HU where nothing was scanned."
            )
        mu_slice[...] = curve.mu_per_cm(hu_slice)
    return ct.with_array(
        mu, role=Role.MU_MAP, unit=Unit.PER_CM, step=Step("hu_to_mu", asdict(curve))
    )


_SIGMA_OF_FWHM = float(1.0 / np.sqrt(8.0 * np.log(2.0)))
_WIDEST_FWHM_MM = 30.0  # no PET is this blurred: a wider one is a mistake of unit
_TISSUE_PER_CM = 0.05  # between lung (0.025) and fat (0.086)
_CUT_CM2 = 5.0  # a tip of the nose is not worth a word
_FOAM_PER_CM = 0.02


@dataclass(frozen=True)
class MuOnPetGrid:
    """A µ-map on the grid of a PET.

    ``covered`` is 1 where the voxel's centre lies in the field of the original µ-map;
    ``uncovered_share`` (0 to 1) is the part of the PET grid where it does not, and µ is 0 there.
    ``cut_tissue_cm2`` is the area on which tissue (above 0.05 1/cm) ends at such voxels: the body
    goes on there and its attenuation is missing.
    """

    mu: Volume
    covered: Volume
    uncovered_share: float
    cut_tissue_cm2: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must know of the padding, in sentences."""
        said = []
        if self.uncovered_share > 0:
            said.append(
                f"{self.uncovered_share:.0%} of the PET grid lies outside the CT: µ is 0 there."
            )
        if self.cut_tissue_cm2 > _CUT_CM2:
            said.append(
                f"The body goes on beyond the CT's field ({self.cut_tissue_cm2:.0f} cm2 of tissue "
                "end there): the PET will lack the attenuation of the rest."
            )
        return tuple(said)


def to_pet_grid(mu: Volume, pet_grid: Grid, fwhm_mm: float | None = None) -> MuOnPetGrid:
    """A µ-map (1/cm) at the resolution of a PET and on its grid, float32.

    ``fwhm_mm`` is the resolution of the reconstructed PET; the µ-map is taken to be sharp, so it
    is convolved with a Gaussian of that full width at half maximum, isotropic in mm. This comes
    before the sampling (linear) on the PET grid, where finer structure would alias. With None it
    is only sampled. At the end of the µ-map's field the kernel sees the last voxel repeated;
    beyond it nothing is extrapolated: µ is 0, and the result says how much of the grid that is.
    Where a voxel is thicker than 0.6 of the width, the sampled Gaussian blurs less than stated
    along that axis (2 % less at 0.75); such slices are blurred already.

    Raises InputError when the volume is not a µ-map in 1/cm, the width is not in (0, 30] mm, or
    no voxel of the PET lies in the µ-map's field.
    """
    mu.require_unit(Unit.PER_CM)
    image = sitk.Cast(mu.image, sitk.sitkFloat32) if fwhm_mm is None else _smoothed(mu, fwhm_mm)
    ones = mu.grid.blank(sitk.sitkUInt8) + 1
    covered = mu.with_image(
        _sampled(ones, pet_grid, sitk.sitkNearestNeighbor),
        role=Role.MASK,
        step=Step("scanned_field"),
    )
    uncovered_share = 1.0 - float(covered.array.mean())
    if uncovered_share == 1.0:
        raise InputError(
            "The µ-map and the PET grid have no voxel in common: check that both belong to the "
            "same patient and frame, or register the CT to the PET first."
        )
    settings = {"fwhm_mm": fwhm_mm, "uncovered_share": uncovered_share}
    on_pet = mu.with_image(
        _sampled(image, pet_grid, sitk.sitkLinear), step=Step("to_pet_grid", settings)
    )
    return MuOnPetGrid(on_pet, covered, uncovered_share, _cut_tissue_cm2(on_pet, covered))


def _cut_tissue_cm2(mu: Volume, covered: Volume) -> float:
    """Area of the faces between covered voxels of tissue and voxels that are not covered."""
    inside = covered.array > 0
    tissue = inside & (mu.array > _TISSUE_PER_CM)
    spacing = mu.grid.spacing_mm[::-1]
    area_mm2 = 0.0
    for axis in range(3):
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        faces = (tissue[low] & ~inside[high]).sum() + (tissue[high] & ~inside[low]).sum()
        area_mm2 += float(faces) * mu.grid.voxel_mm3 / spacing[axis]
    return area_mm2 / 100.0


_HARDWARE_PER_CM = (0.03, 0.7)  # the densest part: carbon fibre is near 0.13, steel near 0.6


def check_hardware_map(hardware: Volume) -> None:
    """Raise InputError unless the volume can be the µ-map of a table or coil, in 1/cm at 511 keV.

    Checked are the unit, that values are finite and none below 0, and that the densest voxels (all
    but the top 0.1 % of those above 0) lie in 0.03 to 0.7: below are maps in 1/mm, above integers
    and HU.
    """
    hardware.require_unit(Unit.PER_CM)
    values = hardware.array
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InputError(
            "The µ-map of the hardware holds values that are not numbers (NaN or infinite): "
            "replace them by 0."
        )
    if low < -_NEGATIVE_TOLERANCE_PER_CM:
        what = "is in HU" if low < _AIR_HU_LIMIT else "has negative values"
        raise InputError(
            f"The µ-map of the hardware {what} (down to {low:g}) and must be attenuation in 1/cm: "
            "convert it first."
        )
    present = values[values > 0]
    densest = float(np.quantile(present, 1.0 - _METAL_SHARE)) if present.size else 0.0
    least, most = _HARDWARE_PER_CM
    if densest < least:
        raise InputError(
            f"The densest hardware is at {densest:.4g} and no table or coil is below {least:g} "
            "1/cm: values in 1/mm must be multiplied by 10."
        )
    if densest > most:
        raise InputError(
            f"The densest hardware is at {densest:.4g} 1/cm and steel is at 0.6: integers of "
            "0.0001 1/cm must be divided by 10000, a CT must be converted first."
        )


@dataclass(frozen=True)
class WithHardware:
    """A µ-map of patient and hardware; ``shared_voxels`` hold more than foam of both."""

    mu: Volume
    shared_voxels: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must know, in sentences."""
        if not self.shared_voxels:
            return ()
        return (
            f"{self.shared_voxels} voxels hold both patient and hardware: check that the hardware "
            "lies where it was during the scan.",
        )


def add_hardware(mu: Volume, hardware: Sequence[Volume]) -> WithHardware:
    """The µ-map of a patient plus those of table and coils on the same grid, 1/cm.

    The patient's map is taken to have been checked. Hardware is neither moved nor smoothed. Raises
    InputError for hardware on another grid or that is no µ-map in 1/cm (see
    :func:`check_hardware_map`).
    """
    mu.require_unit(Unit.PER_CM)
    total = mu.array.astype(np.float32)
    shared = np.zeros(total.shape, bool)
    hashes = []
    for part in hardware:
        part.require_grid_of(mu)
        check_hardware_map(part)
        shared |= (mu.array > _FOAM_PER_CM) & (part.array > _FOAM_PER_CM)
        total += part.array
        hashes += [source.sha256 for source in part.provenance.sources]
    step = Step("add_hardware", {"parts": len(hardware), "sources_sha256": hashes})
    return WithHardware(mu.with_array(total, step=step), int(shared.sum()))


def _smoothed(mu: Volume, fwhm_mm: float) -> sitk.Image:
    if not 0.0 < fwhm_mm <= _WIDEST_FWHM_MM:
        raise InputError(
            f"A PET resolution of {fwhm_mm:g} mm cannot be: give the full width at half maximum "
            f"in mm, above 0 and up to {_WIDEST_FWHM_MM:g}, usually 4 to 7."
        )
    sigma_voxels = [fwhm_mm * _SIGMA_OF_FWHM / s for s in reversed(mu.grid.spacing_mm)]
    values = mu.array.astype(np.float32)
    ndimage.gaussian_filter(values, sigma_voxels, output=values, mode="nearest")
    return mu.with_array(values).image


def _sampled(image: sitk.Image, grid: Grid, interpolator: int) -> sitk.Image:
    return sitk.Resample(
        image,
        grid.size,
        sitk.Transform(3, sitk.sitkIdentity),
        interpolator,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
        0.0,
        image.GetPixelID(),
    )


# What a µ-map of a head or a body at 511 keV looks like, 1/cm. Fat 0.086 to 0.091, brain and
# muscle 0.096 to 0.101; dense cortical bone 0.17 (ICRU 44 compositions), enamel and the petrous
# bone, by the steepest convention, up to 0.25.
_SOFT_TISSUE_PER_CM = (0.080, 0.110)
_DENSEST_PER_CM = 0.25
_METAL_SHARE = 1e-3  # of the voxels above 0: fillings and implants may exceed the densest bone
_NEGATIVE_TOLERANCE_PER_CM = 1e-4  # the undershoot of an interpolation
_AIR_HU_LIMIT = -100.0  # nothing but a CT number is this negative
_PER_MM, _INTEGERS = 0.1, 1e4  # what 1/mm, and integers of 1e-4/cm, multiply the values by


@dataclass(frozen=True)
class MuFault:
    """Why a volume is no µ-map of a patient, and what to do who gave it as one."""

    what: str
    advice: str


def check_mu_map(mu: Volume) -> None:
    """Raise InputError unless the volume can be a µ-map of a patient at 511 keV in 1/cm."""
    mu.require_unit(Unit.PER_CM)
    fault = mu_fault(mu)
    if fault is not None:
        raise InputError(f"{fault.what}: {fault.advice}.")


def mu_fault(mu: Volume) -> MuFault | None:
    """What shows that a volume in 1/cm is no µ-map of a patient at 511 keV; None where nothing.

    Checked are that values are finite and none below 0, that the commonest value of
    soft tissue lies in 0.080 to 0.110 and the densest voxels (all but the top 0.1 %, for metal)
    stay below 0.25. A map without bone is accepted: segmented MR correction makes such. A µ-map in
    1/mm, one stored as integers, and a CT given as a µ-map are recognised and named.
    """
    values = mu.array
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return MuFault(
            "The µ-map holds values that are not numbers (NaN or infinite)",
            "replace them, by 0 where nothing is known",
        )
    if low < _AIR_HU_LIMIT:
        return MuFault(
            f"The µ-map holds values down to {low:g}",
            "this is a CT in HU, not attenuation; convert it first",
        )
    if low < -_NEGATIVE_TOLERANCE_PER_CM:
        return MuFault(
            f"The µ-map holds negative values (down to {low:g} 1/cm) and attenuation cannot be "
            "negative",
            "set them to 0, or convert it anew from the CT",
        )
    if high <= 0.0:
        return MuFault("The µ-map is zero everywhere", "give the µ-map of a patient")

    present = values[values > 0]
    densest = float(np.quantile(present, 1.0 - _METAL_SHARE))
    soft = _commonest(present, densest / 4.0, densest)  # above air and lung, below metal
    if _within(soft / _PER_MM, _SOFT_TISSUE_PER_CM):
        return MuFault(
            f"The soft tissue of the µ-map is at {soft:.4f}, a tenth of what it is in 1/cm",
            "these are values in 1/mm; multiply them by 10",
        )
    if _within(soft / _INTEGERS, _SOFT_TISSUE_PER_CM):
        return MuFault(
            f"The soft tissue of the µ-map is at {soft:.0f}",
            "these are integers of 0.0001 1/cm (divide them by 10000) or raw CT numbers (convert "
            "them first)",
        )
    if not _within(soft, _SOFT_TISSUE_PER_CM):
        return MuFault(
            f"The soft tissue of the µ-map is at {soft:.4g} 1/cm and belongs near "
            f"{MU_WATER_PER_CM:g}",
            "give attenuation at 511 keV in 1/cm",
        )
    if densest > _DENSEST_PER_CM:
        return MuFault(
            f"The densest tissue of the µ-map is at {densest:.4f} 1/cm and bone stays below "
            f"{_DENSEST_PER_CM:g}",
            "give the µ-map of a patient at 511 keV",
        )
    return None


def _commonest(values: npt.NDArray[Any], low: float, high: float) -> float:
    """Centre of the fullest of 100 bins between two values."""
    counts, edges = np.histogram(values, bins=100, range=(low, high))
    fullest = int(counts.argmax())
    return float(edges[fullest] + edges[fullest + 1]) / 2.0


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


@dataclass(frozen=True)
class TissueMu:
    """Mean µ (1/cm) of a tissue under one convention; NaN when the mask holds no voxel."""

    tissue: str
    convention: str
    mean_per_cm: float
    voxels: int


DISTINCT_CONVENTIONS = tuple(name for name in CONVENTIONS if name != _PAPER_1.name)


def mean_mu_by_tissue(
    ct: Volume,
    masks: Mapping[str, Volume],
    conventions: Sequence[str] = DISTINCT_CONVENTIONS,
) -> tuple[TissueMu, ...]:
    """Mean µ in each mask under each convention: how much the choice of convention matters.

    ``ct`` in HU; masks by the name of their tissue, on the CT's grid. Rows in the order of the
    masks, then of the conventions. Raises InputError as :func:`hu_to_mu` does, and for a mask on
    another grid.
    """
    _require_ct(ct)
    curves = [convention_named(name) for name in conventions]
    rows = []
    for tissue, mask in masks.items():
        mask.require_grid_of(ct)
        hu = ct.array[mask.array > 0].astype(np.float64)
        if not np.isfinite(hu).all():
            raise InputError(
                f"The CT holds values that are not numbers in the {tissue} mask: "
                "leave those voxels out of the mask."
            )
        rows += [
            TissueMu(
                tissue,
                curve.name,
                float(curve.mu_per_cm(hu).mean()) if hu.size else float("nan"),
                int(hu.size),
            )
            for curve in curves
        ]
    return tuple(rows)


def _require_ct(ct: Volume) -> None:
    if ct.role != Role.CT:
        raise InputError(f"Attenuation is computed from a CT and this is a {ct.role} volume.")
    ct.require_unit(Unit.HU)

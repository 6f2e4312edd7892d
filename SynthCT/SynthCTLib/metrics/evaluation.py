"""Every figure of a synthetic CT against its reference, in every mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.errors import mae_hu, mean_error_hu, mu_rmae_percent, rmse_hu
from SynthCTLib.metrics.masked import masked_pair, voxels_of
from SynthCTLib.metrics.overlap import BONE_HU, dice_bone, jaccard_bone
from SynthCTLib.metrics.similarity import PAPER_2, SYNTHRAD_2023, pearson, psnr_db, ssim
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, convention_named
from SynthCTLib.volume import Volume

SCHEMA = "synthct-evaluation/1"
_MM3_PER_ML = 1000.0

DEFINITIONS: Mapping[str, str] = MappingProxyType(
    {
        "mae_hu": "mean of |synthetic - reference|, HU, not clipped (papers 1 and 2)",
        "rmse_hu": "root of the mean of (synthetic - reference)^2, HU, not clipped",
        "mean_error_hu": "mean of synthetic - reference, HU, not clipped",
        "psnr_db": (
            f"20 log10({PAPER_2.data_range:g} / RMSE), HU clipped to "
            f"[{PAPER_2.low_hu:g}, {PAPER_2.high_hu:g}] (paper 2 eq. 8)"
        ),
        "ssim": (
            "mean structural similarity, 7^3 uniform window, HU clipped to "
            f"[{SYNTHRAD_2023.low_hu:g}, {SYNTHRAD_2023.high_hu:g}], its low end outside the "
            "mask, 3 voxels at the image border left out (SynthRAD 2023)"
        ),
        "pearson": "Pearson correlation of HU (paper 2 eq. 11)",
        "jaccard_bone": f"Jaccard coefficient of HU >= {BONE_HU:g} (paper 1, section 3.4)",
        "dice_bone": f"Dice coefficient of HU >= {BONE_HU:g}",
        "mu_rmae_percent": (
            "100 sum|µ synthetic - µ reference| / sum(µ reference), µ at 511 keV by the convention "
            "named here (paper 1, section 3.5)"
        ),
    }
)
"""What each figure is: the names of the fields of :class:`MaskFigures` that hold figures."""

_WHY_UNDEFINED: Mapping[str, str] = MappingProxyType(
    {
        "psnr_db": "the images agree in every voxel of the mask, so that the ratio is infinite",
        "ssim": "no voxel of the mask lies 3 voxels inside the border of the image",
        "pearson": "one of the images is constant in the mask",
        "jaccard_bone": "neither image holds bone in the mask",
        "dice_bone": "neither image holds bone in the mask",
        "mu_rmae_percent": "the reference attenuates nothing in the mask",
    }
)
_WHY_EMPTY = "the mask holds no voxel that was scanned"


@dataclass(frozen=True)
class MaskFigures:
    """The figures in one mask (definitions: ``DEFINITIONS``), over its scanned voxels.

    ``unscanned_voxels`` of the mask lie outside the scanned field and are not counted anywhere
    else. A figure that is not defined is NaN (the PSNR of equal images: infinite), and
    ``undefined`` says why.
    """

    mask: str
    voxels: int
    volume_ml: float
    unscanned_voxels: int
    mae_hu: float
    rmse_hu: float
    mean_error_hu: float
    psnr_db: float
    ssim: float
    pearson: float
    jaccard_bone: float
    dice_bone: float
    mu_rmae_percent: float

    @property
    def undefined(self) -> dict[str, str]:
        """The reason for each figure that is not a finite number."""
        names = [name for name in DEFINITIONS if not math.isfinite(getattr(self, name))]
        return {name: _WHY_UNDEFINED[name] if self.voxels else _WHY_EMPTY for name in names}


@dataclass(frozen=True)
class BoneOverlap:
    """Bone (HU >= 300) of both images in the union of all masks, over scanned voxels.

    ``jaccard`` and ``dice`` are NaN where neither image holds bone.
    """

    jaccard: float
    dice: float
    reference_ml: float
    synthetic_ml: float


@dataclass(frozen=True)
class Evaluation:
    """Figures of a synthetic CT against its reference: a row per mask, and bone over all of them.

    ``scanned_only`` tells whether the masks were cut to a scanned field.
    """

    rows: tuple[MaskFigures, ...]
    bone: BoneOverlap
    convention: str
    scanned_only: bool

    def row(self, mask: str) -> MaskFigures:
        """The figures of the mask of that name. Raises KeyError when there is none."""
        return {row.mask: row for row in self.rows}[mask]

    def to_json(self) -> dict[str, Any]:
        """A dict that ``json.dumps(..., allow_nan=False)`` takes, and the schema of metrics.json.

        schema          "synthct-evaluation/1"
        convention      name of the HU to µ convention
        scanned_only    true when nothing outside the scanned field was counted
        bone_hu         threshold of bone, HU
        bone            jaccard, dice (0 to 1 or null), reference_ml, synthetic_ml
        masks           list, in the order given; each an object of
                        mask, voxels, volume_ml, unscanned_voxels,
                        mae_hu, rmse_hu, mean_error_hu, psnr_db, ssim, pearson,
                        jaccard_bone, dice_bone, mu_rmae_percent (number, or null where not
                        finite) and undefined: the reason for each null, by figure
        definitions     one sentence for each figure, by figure
        """
        return {
            "schema": SCHEMA,
            "convention": self.convention,
            "scanned_only": self.scanned_only,
            "bone_hu": BONE_HU,
            "bone": _finite_or_null(asdict(self.bone)),
            "masks": [{**_finite_or_null(asdict(r)), "undefined": r.undefined} for r in self.rows],
            "definitions": dict(DEFINITIONS),
        }


def evaluate(
    reference: Volume,
    synthetic: Volume,
    masks: Mapping[str, Volume],
    *,
    scanned: Volume | None = None,
    convention: str = DEFAULT_CONVENTION,
) -> Evaluation:
    """Compare a synthetic CT with its reference in each mask.

    Both volumes in HU, all on one grid; errors are synthetic minus reference. ``scanned`` is 1
    where the reference was really scanned (``imaging.grids.scanned_field``): every mask is cut to
    it, so that the filling of a resampled CT is never counted. A mask that is then empty keeps
    its row, with 0 voxels and no figures.

    Raises InputError when there is no mask or all are empty, for other grids or units, for values
    inside a mask that are not finite, and for an unknown convention.
    """
    convention_named(convention)
    field = True if scanned is None else voxels_of(scanned, reference)
    counted = {
        name: mask.mask(voxels_of(mask, reference, synthetic) & field)
        for name, mask in masks.items()
    }
    anywhere = reference.mask(_union([mask.array for mask in counted.values()]))
    rows = tuple(
        _figures(name, reference, synthetic, counted[name], masks[name], convention)
        for name in masks
    )
    return Evaluation(
        rows, _bone_overlap(reference, synthetic, anywhere), convention, scanned is not None
    )


def _union(masks: list[npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    if not any(mask.any() for mask in masks):
        raise InputError(
            "There is no voxel to evaluate in: give at least one mask that overlaps the scanned "
            "field of the reference."
        )
    union = np.zeros(masks[0].shape, bool)
    for mask in masks:
        union |= mask > 0
    return union


def _figures(
    name: str,
    reference: Volume,
    synthetic: Volume,
    mask: Volume,
    uncut: Volume,
    convention: str,
) -> MaskFigures:
    voxels = int(np.count_nonzero(mask.array))
    images = (reference, synthetic, mask)
    if voxels:
        figures = {
            "mae_hu": mae_hu(*images),
            "rmse_hu": rmse_hu(*images),
            "mean_error_hu": mean_error_hu(*images),
            "psnr_db": psnr_db(*images),
            "ssim": ssim(*images),
            "pearson": pearson(*images),
            "jaccard_bone": jaccard_bone(*images),
            "dice_bone": dice_bone(*images),
            "mu_rmae_percent": mu_rmae_percent(*images, convention),
        }
    else:
        figures = dict.fromkeys(DEFINITIONS, math.nan)
    return MaskFigures(
        mask=name,
        voxels=voxels,
        volume_ml=voxels * mask.grid.voxel_mm3 / _MM3_PER_ML,
        unscanned_voxels=int(np.count_nonzero(uncut.array > 0)) - voxels,
        **figures,
    )


def _bone_overlap(reference: Volume, synthetic: Volume, mask: Volume) -> BoneOverlap:
    pair = masked_pair(reference, synthetic, mask)
    voxel_ml = mask.grid.voxel_mm3 / _MM3_PER_ML
    return BoneOverlap(
        jaccard_bone(reference, synthetic, mask),
        dice_bone(reference, synthetic, mask),
        float(np.count_nonzero(pair.reference >= BONE_HU)) * voxel_ml,
        float(np.count_nonzero(pair.synthetic >= BONE_HU)) * voxel_ml,
    )


def _finite_or_null(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }

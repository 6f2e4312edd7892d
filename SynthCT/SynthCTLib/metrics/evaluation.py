"""Every figure of a synthetic CT against its reference, in every mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.clusters import kmeans_dice_of
from SynthCTLib.metrics.definitions import MASK_FIGURES, REGION_FIGURES, sentence
from SynthCTLib.metrics.error_curve import ErrorCurve, error_curve
from SynthCTLib.metrics.errors import errors_of, mu_rmae_of
from SynthCTLib.metrics.intensities import PAPER_2, SYNTHRAD_2025
from SynthCTLib.metrics.lines import LineErrors, line_errors
from SynthCTLib.metrics.masked import MaskedPair, masked_pair, voxels_of
from SynthCTLib.metrics.overlap import (
    BONE_HU,
    DiceCurve,
    dice_by_class,
    dice_curve,
    dice_of,
    jaccard_of,
)
from SynthCTLib.metrics.similarity import mutual_information_of, pearson_of, psnr_of
from SynthCTLib.metrics.structure import structure
from SynthCTLib.metrics.surfaces import bone_surface_distance
from SynthCTLib.metrics.tissues import TissueError, tissue_errors
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, convention_named
from SynthCTLib.volume import Volume

SCHEMA = "synthct-evaluation/2"
_MM3_PER_ML = 1000.0
_WHY_EMPTY = "the mask holds no voxel that was scanned"

DEFINITIONS: Mapping[str, str] = MappingProxyType(
    {name: sentence(figure) for name, figure in {**MASK_FIGURES, **REGION_FIGURES}.items()}
)
"""What each figure is, in one sentence with its source, by its key."""


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
    mse_hu2: float
    mean_error_hu: float
    psnr_db: float
    psnr_synthrad_db: float
    ssim: float
    ms_ssim: float
    mssim_paper_2: float
    pearson: float
    normalised_mutual_information: float
    jaccard_bone: float
    dice_bone: float
    mu_rmae_percent: float

    @property
    def undefined(self) -> dict[str, str]:
        """The reason for each figure that is not a finite number."""
        names = [name for name in MASK_FIGURES if not math.isfinite(getattr(self, name))]
        return {name: MASK_FIGURES[name].undefined if self.voxels else _WHY_EMPTY for name in names}


@dataclass(frozen=True)
class BoneFigures:
    """Bone (HU >= 300) of both images in the union of all masks, over scanned voxels.

    The overlaps are NaN where neither image holds bone, the distances (mm) where one of them
    does not. ``kmeans_dice`` is of the bone that k-means finds in each image.
    """

    jaccard: float
    dice: float
    reference_ml: float
    synthetic_ml: float
    hd95_mm: float
    mean_surface_mm: float
    kmeans_dice: float
    dice_curve: DiceCurve


@dataclass(frozen=True)
class Evaluation:
    """Figures of a synthetic CT against its reference: a row per mask, and the union of the masks.

    ``scanned_only`` tells whether the masks were cut to a scanned field.
    """

    rows: tuple[MaskFigures, ...]
    bone: BoneFigures
    classes: Mapping[str, float]
    tissues: tuple[TissueError, ...]
    error_curve: ErrorCurve
    lines: LineErrors
    convention: str
    scanned_only: bool

    def row(self, mask: str) -> MaskFigures:
        """The figures of the mask of that name. Raises KeyError when there is none."""
        return {row.mask: row for row in self.rows}[mask]

    def flat(self) -> dict[str, float]:
        """Every figure by its key: ``<mask>.<figure>``, ``bone.*``, ``classes.*``, ``lines.*``."""
        figures = {
            f"{row.mask}.{name}": float(getattr(row, name))
            for row in self.rows
            for name in MASK_FIGURES
        }
        parts = {"bone": self.bone, "lines": self.lines}
        for key in REGION_FIGURES:
            part, _, name = key.partition(".")
            whole = self.classes[name] if part == "classes" else getattr(parts[part], name)
            figures[key] = float(whole)
        return figures

    def to_json(self) -> dict[str, Any]:
        """A dict that ``json.dumps(..., allow_nan=False)`` takes: see docs/metrics-json.md."""
        return {
            "schema": SCHEMA,
            "convention": self.convention,
            "scanned_only": self.scanned_only,
            "bone_hu": BONE_HU,
            "bone": _finite_or_null(asdict(self.bone)),
            "classes": _finite_or_null(dict(self.classes)),
            "tissues": [_finite_or_null(asdict(t)) for t in self.tissues],
            "error_curve": _finite_or_null(asdict(self.error_curve)),
            "lines": _finite_or_null(asdict(self.lines)),
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
    threads: int = 1,
) -> Evaluation:
    """Compare a synthetic CT with its reference in each mask.

    Both volumes in HU, all on one grid; errors are synthetic minus reference. ``scanned`` is 1
    where the reference was really scanned (``imaging.grids.scanned_field``): every mask is cut to
    it, so that the filling of a resampled CT is never counted. A mask that is then empty keeps
    its row, with 0 voxels and no figures. The figures are the same to the last bit with any number
    of threads.

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
    pair = masked_pair(reference, synthetic, anywhere)
    with ThreadPoolExecutor(threads) as pool:  # numpy works without the interpreter
        bone = pool.submit(_bone, reference, synthetic, anywhere, pair)
        rows = [
            pool.submit(
                _figures, name, reference, synthetic, counted[name], masks[name], convention
            )
            for name in masks
        ]
        lines = pool.submit(line_errors, reference, synthetic, anywhere, convention)
        classes = pool.submit(dice_by_class, pair)
        tissues = pool.submit(tissue_errors, pair, reference.grid.voxel_mm3, convention)
        curve = pool.submit(error_curve, pair)
    return Evaluation(
        rows=tuple(row.result() for row in rows),
        bone=bone.result(),
        classes=MappingProxyType(classes.result()),
        tissues=tissues.result(),
        error_curve=curve.result(),
        lines=lines.result(),
        convention=convention,
        scanned_only=scanned is not None,
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
    figures = dict.fromkeys(MASK_FIGURES, math.nan)
    if voxels:
        pair = masked_pair(reference, synthetic, mask)
        figures = {
            **asdict(errors_of(pair)),
            "psnr_db": psnr_of(pair, PAPER_2),
            "psnr_synthrad_db": psnr_of(pair, SYNTHRAD_2025),
            **asdict(structure(reference, synthetic, mask)),
            "pearson": pearson_of(pair),
            "normalised_mutual_information": mutual_information_of(pair),
            "jaccard_bone": jaccard_of(pair),
            "dice_bone": dice_of(pair),
            "mu_rmae_percent": mu_rmae_of(pair, convention),
        }
    return MaskFigures(
        mask=name,
        voxels=voxels,
        volume_ml=voxels * mask.grid.voxel_mm3 / _MM3_PER_ML,
        unscanned_voxels=int(np.count_nonzero(uncut.array > 0)) - voxels,
        **figures,
    )


def _bone(reference: Volume, synthetic: Volume, mask: Volume, pair: MaskedPair) -> BoneFigures:
    voxel_ml = mask.grid.voxel_mm3 / _MM3_PER_ML
    distance = bone_surface_distance(reference, synthetic, mask)
    return BoneFigures(
        jaccard_of(pair),
        dice_of(pair),
        float(np.count_nonzero(pair.reference >= BONE_HU)) * voxel_ml,
        float(np.count_nonzero(pair.synthetic >= BONE_HU)) * voxel_ml,
        distance.hd95_mm,
        distance.mean_mm,
        kmeans_dice_of(pair),
        dice_curve(pair),
    )


def _finite_or_null(value: Any) -> Any:
    """The same with null in place of numbers that are not finite, lists in place of tuples."""
    if isinstance(value, dict):
        return {key: _finite_or_null(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite_or_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

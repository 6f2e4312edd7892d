"""Every figure by its key: definition, unit, source, which way is better, when undefined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from SynthCTLib.metrics.intensities import PAPER_2, SYNTHRAD_2023
from SynthCTLib.metrics.overlap import BONE_HU, HU_CLASSES


class Better(StrEnum):
    """Which values of a figure are good."""

    LESS = "less"
    MORE = "more"
    ZERO = "nearer 0"
    NEITHER = "neither"


@dataclass(frozen=True)
class Figure:
    """A figure: a short title, its unit ("" where it has none), its definition and source.

    ``undefined`` says why it may be missing, in a mask that holds voxels.
    """

    title: str
    unit: str
    better: Better
    definition: str
    source: str
    undefined: str


_NO_BONE = "neither image holds bone in the mask"
_ONE_WITHOUT_BONE = "one of the images holds no bone"
_WINDOW = (
    f"7^3 uniform window, HU clipped to [{SYNTHRAD_2023.low_hu:g}, {SYNTHRAD_2023.high_hu:g}], its "
    "low end outside the mask, 3 voxels at the image border left out"
)
_ALWAYS = "the mask holds no voxel that was scanned"

MASK_FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        "mae_hu": Figure(
            "MAE", "HU", Better.LESS, "mean of |synthetic - reference|, HU, not clipped",
            "papers 1 and 2", _ALWAYS,
        ),
        "rmse_hu": Figure(
            "RMSE", "HU", Better.LESS,
            "root of the mean of (synthetic - reference)^2, HU, not clipped", "", _ALWAYS,
        ),
        "mse_hu2": Figure(
            "MSE", "HU²", Better.LESS, "mean of (synthetic - reference)^2, HU², not clipped",
            "paper 5", _ALWAYS,
        ),
        "mean_error_hu": Figure(
            "Mean error", "HU", Better.ZERO, "mean of synthetic - reference, HU, not clipped", "",
            _ALWAYS,
        ),
        "psnr_db": Figure(
            "PSNR", "dB", Better.MORE,
            f"20 log10({PAPER_2.data_range:g} / RMSE), HU clipped to "
            f"[{PAPER_2.low_hu:g}, {PAPER_2.high_hu:g}]",
            "paper 2 eq. 8",
            "the images agree in every voxel of the mask, so that the ratio is infinite",
        ),
        "psnr_synthrad_db": Figure(
            "PSNR (SynthRAD)", "dB", Better.MORE,
            f"20 log10({SYNTHRAD_2023.data_range:g} / RMSE), HU clipped to "
            f"[{SYNTHRAD_2023.low_hu:g}, {SYNTHRAD_2023.high_hu:g}]",
            "SynthRAD 2023 and 2025",
            "the images agree in every voxel of the mask, so that the ratio is infinite",
        ),
        "ssim": Figure(
            "SSIM", "", Better.MORE, f"mean structural similarity over the mask, {_WINDOW}",
            "SynthRAD 2023", "no voxel of the mask lies 3 voxels inside the border of the image",
        ),
        "ms_ssim": Figure(
            "MS-SSIM", "", Better.MORE,
            f"product over five scales of the mean structural similarity, weighted; {_WINDOW}",
            "SynthRAD 2025",
            "on the coarsest scale no voxel of the mask lies 3 voxels inside the border",
        ),
        "mssim_paper_2": Figure(
            "MSSIM (paper 2)", "", Better.MORE,
            "mean structural similarity over the whole image, HU + 1024 in 0..4095 times the mask, "
            "c1 = (0.01 (2^12 - 2))^2, c2 = (0.03 (2^12 - 2))^2",
            "paper 2 eq. 9", "the image is thinner than 7 voxels",
        ),
        "pearson": Figure(
            "Correlation", "", Better.MORE, "Pearson correlation of HU", "paper 2 eq. 11",
            "one of the images is constant in the mask",
        ),
        "normalised_mutual_information": Figure(
            "NMI", "", Better.MORE,
            "(H(A) + H(B)) / H(A, B), 100 bins an image over its range in the mask; 1 to 2",
            "Studholme 1999", "both images are constant in the mask",
        ),
        "jaccard_bone": Figure(
            "Bone Jaccard", "", Better.MORE, f"Jaccard coefficient of HU >= {BONE_HU:g}",
            "paper 1, section 3.4", _NO_BONE,
        ),
        "dice_bone": Figure(
            "Bone Dice", "", Better.MORE, f"Dice coefficient of HU >= {BONE_HU:g}", "", _NO_BONE,
        ),
        "mu_rmae_percent": Figure(
            "µ relative MAE", "%", Better.LESS,
            "100 sum|µ synthetic - µ reference| / sum(µ reference), µ at 511 keV by the convention "
            "named here",
            "paper 1, section 3.5", "the reference attenuates nothing in the mask",
        ),
    }
)  # fmt: skip
"""The figures of one mask: the names of the fields of ``MaskFigures`` that hold figures."""

REGION_FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        "bone.hd95_mm": Figure(
            "Bone HD95", "mm", Better.LESS,
            "greater of the 95th percentiles of the distances between the surfaces of bone",
            "SynthRAD 2025 (MONAI)", _ONE_WITHOUT_BONE,
        ),
        "bone.mean_surface_mm": Figure(
            "Bone surface distance", "mm", Better.LESS,
            "mean distance between the surfaces of bone, both ways", "MONAI", _ONE_WITHOUT_BONE,
        ),
        "bone.kmeans_dice": Figure(
            "Bone Dice (k-means)", "", Better.MORE,
            "Dice of each image's own highest of three k-means classes, 1024 bins",
            "paper 2 eq. 12", "one of the images does not fall into three classes",
        ),
        **{
            f"classes.{name}": Figure(
                f"Dice of {name}", "", Better.MORE,
                f"Dice coefficient of {low:g} <= HU < {below:g}", "ours; limits in metrics.overlap",
                f"neither image holds {name}",
            )
            for name, (low, below) in HU_CLASSES.items()
        },
        "lines.mean_percent": Figure(
            "ACF error", "%", Better.ZERO,
            "mean of 100 (exp(I_syn - I_ref) - 1), I the integral of µ at 511 keV along lines of "
            "response in axial planes, 60 angles, ways of 2 cm or more through the region",
            "ours", "no line runs through 2 cm of the region",
        ),
        "lines.mae_percent": Figure(
            "ACF absolute error", "%", Better.LESS, "mean of the absolute error of lines", "ours",
            "no line runs through 2 cm of the region",
        ),
        "lines.p95_percent": Figure(
            "ACF error, 95th percentile", "%", Better.LESS,
            "95th percentile of the absolute error of lines", "ours",
            "no line runs through 2 cm of the region",
        ),
    }
)  # fmt: skip
"""The figures of the union of all masks, by their key in the flat table of an evaluation."""


_NOT_COUNTED = "fewer than eight voxels of the simulated PET count in the mask"
PET_FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        "pet_mean_percent": Figure(
            "PET error", "%", Better.ZERO,
            "mean of 100 (PET - reference PET) / reference PET, reconstructed with the µ-maps of "
            "the synthetic and of the reference CT (simulated)",
            "ours", _NOT_COUNTED,
        ),
        "pet_sd_percent": Figure(
            "PET error, SD", "%", Better.LESS, "its standard deviation over the voxels", "ours",
            _NOT_COUNTED,
        ),
        "pet_mae_percent": Figure(
            "PET absolute error", "%", Better.LESS, "mean of its absolute value", "ours",
            _NOT_COUNTED,
        ),
        **{
            f"pet_beyond_{limit}": Figure(
                f"PET beyond {limit} %", "", Better.LESS,
                f"share of the voxels whose PET changes by more than {limit} %", "ours",
                _NOT_COUNTED,
            )
            for limit in (5, 10, 15)
        },
    }
)  # fmt: skip
"""The effect on a PET in one mask, where it was asked for: by their name after the mask."""


_LESION = "parts of 0.5 ml or more above 2.5 SUV"
_SUV_WINDOW = "values clipped to 0..20 SUV"
UPTAKE_FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        "uptake.mae_suv": Figure(
            "MAE", "SUV", Better.LESS, "mean of |synthetic PET - real PET|, SUV", "", _ALWAYS
        ),
        "uptake.rmse_suv": Figure(
            "RMSE", "SUV", Better.LESS,
            "root of the mean of (synthetic PET - real PET)^2, SUV", "", _ALWAYS,
        ),
        "uptake.mean_error_suv": Figure(
            "Mean error", "SUV", Better.ZERO, "mean of synthetic PET - real PET, SUV", "", _ALWAYS
        ),
        "uptake.psnr_db": Figure(
            "PSNR", "dB", Better.MORE, f"20 log10(20 / RMSE), {_SUV_WINDOW}",
            "ours; range of paper 3, section 2.1",
            "the PETs agree in every voxel, so that the ratio is infinite",
        ),
        "uptake.ssim": Figure(
            "SSIM", "", Better.MORE,
            f"mean structural similarity, 7^3 uniform window, {_SUV_WINDOW}", "Wang 2004",
            "the region is thinner than the window",
        ),
        "uptake.lesions_found": Figure(
            "Lesions found", "", Better.MORE,
            f"share of the real PET's lesions that the synthetic PET shows; lesions are {_LESION}",
            "paper 3", "the real PET shows no lesion",
        ),
        "uptake.false_lesions": Figure(
            "False lesions", "per scan", Better.LESS,
            f"lesions of the synthetic PET alone; lesions are {_LESION}", "paper 3", _ALWAYS,
        ),
    }
)  # fmt: skip
"""A synthetic PET against a real one, in the body where both were scanned."""


def figure_of(key: str) -> Figure:
    """The figure of a flat key such as ``head.mae_hu`` or ``bone.hd95_mm``. Raises KeyError."""
    for figures in (REGION_FIGURES, UPTAKE_FIGURES):
        if key in figures:
            return figures[key]
    mask, _, name = key.rpartition(".")
    if not mask:
        raise KeyError(key)
    return PET_FIGURES[name] if name in PET_FIGURES else MASK_FIGURES[name]


def sentence(figure: Figure) -> str:
    """Definition with its source."""
    return f"{figure.definition} ({figure.source})" if figure.source else figure.definition

"""Rules for the values of MR and PET: what else they could be, and how they were stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from SynthCTLib.imaging.gate.ct import looks_like_hu, lost_intercept
from SynthCTLib.imaging.gate.findings import Finding, error, warning
from SynthCTLib.imaging.gate.view import View
from SynthCTLib.volume import Role, Unit

# Foreground: above this share of the bright end of the values.
FOREGROUND_SHARE, BRIGHT_PERCENTILE = 0.1, 99.5

# The sharpest steps between neighbours (99.5th percentile), as a share of the range of values, per
# mm: 0.035 to 0.148 in 36 FDG-PET (0.108 in nine of ten); in their MR and 40 heads 0.177 to 0.58,
# still 0.128 when averaged to 3 mm. An edge seen at 5 mm resolution cannot exceed 0.19.
PET_STEP_PER_MM, MR_STEP_PER_MM = 0.12, 0.25
STEP_PERCENTILE = 99.5
PET_VOXEL_MM = 1.9  # no PET is stored finer, unless it was resampled
SATURATED_SHARE = 0.02
BRIGHT_CORNERS, BRIGHT_CORNER_SHARE = 7, 0.7

# The mean SUV of a body is 1 by definition; the median of the foreground is 0.2 to 2 in the FDG
# scans looked at, and 5 to 10 in a brain.
SUV_MEDIAN, LEAST_SUV_MAX = 30.0, 0.1
BQ_PER_ML_MAX = 100.0
NEGATIVE_SHARE = 0.1


def check_mr(view: View) -> Iterator[Finding]:
    """CT or PET in place of MR, inverted, saturated."""
    intercept = None if looks_like_hu(view.sample) else lost_intercept(view.sample)
    if looks_like_hu(view.sample) or intercept is not None:
        how = "in HU" if intercept is None else f"with about {intercept} added to HU"
        yield error(
            "mr.looks-like-ct",
            view.name,
            f"The MR looks like a CT {how} (values from {view.low:g} to {view.high:g}): "
            "choose the MR, or give this volume as CT.",
        )
        return
    coarse = min(view.volume.grid.spacing_mm) >= PET_VOXEL_MM
    if coarse and sharpest_step_per_mm(view) < PET_STEP_PER_MM:
        yield warning(
            "mr.looks-like-pet",
            view.name,
            "The MR is as smooth as a PET and shows no outlines of tissue: "
            "make sure that it is the MR.",
        )
    if _bright_corners(view) >= BRIGHT_CORNERS:
        yield error(
            "mr.inverted",
            view.name,
            "The air of the MR is brighter than the body, as in an inverted image: "
            "give the MR as acquired, with dark air.",
        )
        return
    foreground = _foreground(view)
    at_top = np.count_nonzero(foreground == view.high) / max(1, foreground.size)
    if at_top >= SATURATED_SHARE:
        yield warning(
            "mr.saturated",
            view.name,
            f"{at_top:.0%} of the tissue in the MR lies at its largest value ({view.high:g}), so "
            "that contrast is lost: export it again without windowing.",
        )


def check_pet(view: View) -> Iterator[Finding]:
    """CT or MR in place of PET, the unit, negative values, attenuation correction."""
    if looks_like_hu(view.sample) or lost_intercept(view.sample) is not None:
        yield error(
            "pet.looks-like-ct",
            view.name,
            f"The {view.name} looks like a CT (values from {view.low:g} to {view.high:g}): "
            "choose the PET.",
        )
        return
    yield from _pet_unit(view)
    if sharpest_step_per_mm(view) > MR_STEP_PER_MM:
        yield warning(
            "pet.looks-like-mr",
            view.name,
            f"The {view.name} shows finer detail than a PET can: make sure that it is the PET.",
        )
    negative = float(-view.sample[view.sample < 0].sum() / np.abs(view.sample).sum())
    if negative > NEGATIVE_SHARE:
        yield warning(
            "pet.negative",
            view.name,
            f"{negative:.0%} of the {view.name} is negative, which activity cannot be: "
            "check its scaling, or reconstruct it by OSEM.",
        )
    yield from _pet_correction(view)


def _pet_unit(view: View) -> Iterator[Finding]:
    foreground = _foreground(view)
    median = float(np.median(foreground)) if foreground.size else 0.0
    if view.volume.unit == Unit.SUV and median > SUV_MEDIAN:
        yield error(
            "pet.not-suv",
            view.name,
            f"The median of the {view.name} is {median:.3g} where SUV has about 1, so it is in "
            "Bq/ml or no PET: state the unit or convert it to SUV.",
        )
    elif view.volume.unit == Unit.SUV and view.high < LEAST_SUV_MAX:
        yield error(
            "pet.not-suv",
            view.name,
            f"The largest value of the {view.name} is {view.high:.3g}, which is no SUV of a "
            "patient: convert it to SUV (body weight and injected activity are needed).",
        )
    elif view.volume.unit == Unit.BQ_PER_ML and view.high < BQ_PER_ML_MAX:
        yield error(
            "pet.not-bq",
            view.name,
            f"The largest value of the {view.name} is {view.high:.3g}, which is no activity in "
            "Bq/ml: state the unit in which it is stored.",
        )


def _pet_correction(view: View) -> Iterator[Finding]:
    corrected = view.tags.get("CorrectedImage")
    if not corrected:
        return
    has_attenuation = "ATTN" in corrected
    if view.role == Role.NAC_PET and has_attenuation:
        yield warning(
            "pet.correction",
            view.name,
            "The NAC PET is attenuation-corrected by its DICOM tags: "
            "choose the reconstruction without attenuation correction.",
        )
    elif view.role == Role.PET and not has_attenuation:
        yield warning(
            "pet.correction",
            view.name,
            "The PET is not attenuation-corrected by its DICOM tags, so its values are no uptake: "
            "choose the corrected reconstruction, or give it as NAC PET.",
        )


def sharpest_step_per_mm(view: View) -> float:
    """How sharp the edges are: large steps along x over the range of values, per mm."""
    array = view.canonical.array
    step = max(1, round((array.size / 4e6) ** 0.5))
    steps = np.abs(np.diff(array[::step, ::step].astype(np.float32), axis=2))
    low, bright = np.percentile(view.sample, (2, BRIGHT_PERCENTILE))
    large = float(np.percentile(steps, STEP_PERCENTILE))
    return large / max(float(bright - low), 1e-9) / view.canonical.grid.spacing_mm[0]


def _threshold(view: View) -> float:
    low, bright = np.percentile(view.sample, (2, BRIGHT_PERCENTILE))
    return float(low + FOREGROUND_SHARE * (bright - low))


def _foreground(view: View) -> np.ndarray:
    return view.sample[view.sample > _threshold(view)]


def _bright_corners(view: View) -> int:
    """How many of the eight corners of the scanned field lie near the bright end."""
    values = view.scan.volume.array
    low, high = np.percentile(view.sample, (1, 99))
    least = low + BRIGHT_CORNER_SHARE * (high - low)
    widths = [max(1, n // 12) for n in values.shape]
    ends = [(slice(0, w), slice(-w, None)) for w in widths]
    corners = [values[z, y, x] for z in ends[0] for y in ends[1] for x in ends[2]]
    return sum(bool(np.median(corner) > least) for corner in corners)

"""The contrast of an MR, from its DICOM tags or from the order of the tissues in the brain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from SynthCTLib.imaging.gate.head import Head

# Values are compared with their surroundings of about this size, which takes the bias field away.
SURROUNDINGS_MM = 12.0
# Brain: deeper than the skull, in the slices that show hemispheres and ventricles (adult).
BRAIN_DEPTH_MM, HEMISPHERES_MM = 18.0, (25.0, 95.0)
CORTEX_DEPTH_MM, WHITE_DEPTH_MM = 26.0, 38.0
LEAST_VOXELS = 2000

# Tails of the local values: (bright tail - dark tail) / their sum between the 5th and the 95th
# percentile. Fluid is the tail: dark in T1 (-0.5 to 0.0 in four real and 18 simulated heads),
# bright in T2 (0.6 to 0.7).
T1_TAIL, T2_TAIL = 0.1, 0.4
# White matter (deep) over cortex (shallow): 1.14 to 1.24 in real T1 heads, 0.6 to 0.95 in T2 and
# PD. FLAIR has the dark tail of T1 and lies between, where nothing is said.
T1_WHITE_OVER_CORTEX = 1.08

LONG_ECHO_MS, SHORT_ECHO_MS, ULTRASHORT_ECHO_MS = 60.0, 30.0, 0.5
LONG_REPETITION_MS, SHORT_REPETITION_MS = 1800.0, 1000.0
FLUID_NULLING_MS = 1600.0  # inversion times above null the fluid, below (MPRAGE) they weight by T1
T1_FLIP_DEGREES = 6.0


@dataclass(frozen=True)
class Brain:
    """What the brain shows. ``contrast`` is t1, t2 or None; NaN figures when it is not in view.

    ``brightness_ratio``: 95th over 5th percentile of the smoothed signal, a measure of the bias.
    """

    contrast: str | None
    tail: float
    white_over_cortex: float
    brightness_ratio: float


def contrast_of_tags(tags: Mapping[str, Any]) -> str | None:
    """The contrast by sequence timing (ms, degrees), None when the tags do not settle it."""
    echo, repetition = _number(tags, "EchoTime"), _number(tags, "RepetitionTime")
    inversion, flip = _number(tags, "InversionTime"), _number(tags, "FlipAngle")
    sequence = str(tags.get("ScanningSequence", "")).upper()
    if echo is None or repetition is None:
        return None
    if echo < ULTRASHORT_ECHO_MS:
        return "ute"
    if inversion is not None and inversion > FLUID_NULLING_MS and echo > LONG_ECHO_MS:
        return "flair"
    if inversion is not None and 0 < inversion <= FLUID_NULLING_MS and echo < SHORT_ECHO_MS:
        return "t1"
    if echo > LONG_ECHO_MS and repetition > LONG_REPETITION_MS:
        return "t2"
    if "GR" in sequence:
        spoiled = echo < SHORT_ECHO_MS / 2 and repetition < 100
        return "t1" if spoiled and flip is not None and flip >= T1_FLIP_DEGREES else None
    if echo < SHORT_ECHO_MS and repetition < SHORT_REPETITION_MS:
        return "t1"
    if echo < SHORT_ECHO_MS and repetition > LONG_REPETITION_MS and not inversion:
        return "pd"
    return None


def _number(tags: Mapping[str, Any], name: str) -> float | None:
    try:
        return float(tags[name])
    except (KeyError, TypeError, ValueError):
        return None


def brain_of(head: Head) -> Brain:
    """Look at the signal of the brain within its surroundings."""
    below = head.depth_below_vertex_mm / head.growth
    slices = (below >= HEMISPHERES_MM[0]) & (below < HEMISPHERES_MM[1])
    inside = head.mask & (head.depth_mm > BRAIN_DEPTH_MM * head.growth) & slices[:, None, None]
    nothing = Brain(None, float("nan"), float("nan"), float("nan"))
    if np.count_nonzero(inside) < LEAST_VOXELS:
        return nothing
    sigma = [SURROUNDINGS_MM / s for s in head.spacing_mm]
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    summed = ndimage.gaussian_filter(np.where(inside, head.values, 0).astype(np.float32), sigma)
    around = summed[inside] / np.maximum(weight[inside], 1e-6)
    if around.min() <= 0:
        return nothing
    signal, depth = head.values[inside], head.depth_mm[inside]
    dark, middle, bright = np.percentile(signal / around, (5, 50, 95))
    tail = float((bright + dark - 2 * middle) / max(bright - dark, 1e-6))
    white, cortex = signal[depth > WHITE_DEPTH_MM], signal[depth < CORTEX_DEPTH_MM]
    if not white.size or not cortex.size:
        return nothing
    ratio = float(np.median(white) / max(float(np.median(cortex)), 1e-6))
    least, most = np.percentile(around, (5, 95))
    contrast = None
    if tail > T2_TAIL and ratio < 1:
        contrast = "t2"
    elif tail < T1_TAIL and ratio > T1_WHITE_OVER_CORTEX:
        contrast = "t1"
    return Brain(contrast, tail, ratio, float(most / least))

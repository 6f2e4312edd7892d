"""One volume from the answers for its axial, coronal and sagittal slices."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError

Array = npt.NDArray[np.float32]


class Fusion(StrEnum):
    """How several answers for one voxel become one.

    ``median``: Paper 4. ``mean``. ``agreeing``: the mean of the two that are nearest to each other,
    so that one plane that is wrong does not count, and two that agree are averaged.
    """

    MEDIAN = "median"
    MEAN = "mean"
    AGREEING = "agreeing"


def fused(answers: Sequence[Array], how: Fusion) -> Array:
    """One array from answers of one shape. Raises InputError without any, or of two shapes."""
    if not answers or any(a.shape != answers[0].shape for a in answers):
        raise InputError("Answers of one shape are needed to make one of them.")
    stack = np.stack(answers)
    if how == Fusion.MEDIAN:
        return np.asarray(np.median(stack, axis=0), np.float32)
    if how == Fusion.MEAN or len(answers) < 3:
        return np.asarray(stack.mean(axis=0), np.float32)
    stack.sort(axis=0)
    nearest = np.diff(stack, axis=0).argmin(axis=0)[np.newaxis]
    low = np.take_along_axis(stack, nearest, axis=0)[0]
    high = np.take_along_axis(stack, nearest + 1, axis=0)[0]
    return np.asarray((low + high) / 2, np.float32)

"""Normalised mutual information of two images over points, as cheap as a search needs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.volume import Grid

Points = npt.NDArray[np.float64]
BINS = 24


def voxel_centres(image: sitk.Image, mask: npt.NDArray[np.bool_], most: int, seed: int) -> Points:
    """LPS mm of at most ``most`` voxel centres inside the mask (z, y, x), shape (n, 3)."""
    index = np.argwhere(mask)[:, ::-1].astype(float)
    if len(index) > most:
        index = index[np.random.default_rng(seed).choice(len(index), most, replace=False)]
    matrix = Grid.of(image).index_to_world
    points: Points = index @ matrix[:3, :3].T + matrix[:3, 3]
    return points


@dataclass(frozen=True)
class Agreement:
    """How well one image predicts another.

    ``value``: normalised mutual information, 0 none, 1 one determines the other; ``overlap``:
    share of the points that fell into the second image.
    """

    value: float
    overlap: float


class Sampled:
    """An image that can be looked up at points, binned over its range."""

    def __init__(self, image: sitk.Image) -> None:
        self._values = sitk.GetArrayFromImage(image).astype(np.float32)
        self._to_index = np.linalg.inv(Grid.of(image).index_to_world)
        low, high = float(self._values.min()), float(self._values.max())
        self._values -= low
        self._values *= (BINS - 1) / max(high - low, 1e-6)
        self._size = np.asarray(image.GetSize())

    def bins_at(self, points: Points) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Bin number at each point (linear interpolation), and which points lie inside."""
        index = points @ self._to_index[:3, :3].T + self._to_index[:3, 3]
        inside = np.all((index >= -0.5) & (index <= self._size - 0.5), axis=1)
        values = ndimage.map_coordinates(
            self._values, index[inside, ::-1].T, order=1, mode="nearest", prefilter=False
        )
        return np.rint(values).astype(np.int64), inside


def agreement(fixed_bins: npt.NDArray[np.int64], moving: Sampled, points: Points) -> Agreement:
    """How well ``fixed_bins``, found at some points, predict ``moving`` at where they went."""
    bins, inside = moving.bins_at(points)
    if len(bins) < BINS:
        return Agreement(0.0, len(bins) / len(points))
    joint = np.bincount(fixed_bins[inside] * BINS + bins, minlength=BINS * BINS) / len(bins)
    joint = joint.reshape(BINS, BINS)
    both = _entropy(joint.ravel())
    alone = _entropy(joint.sum(0)) + _entropy(joint.sum(1))
    value = 2.0 * (alone - both) / alone if alone > 0 else 0.0
    return Agreement(max(0.0, value), len(bins) / len(points))


def _entropy(share: npt.NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())

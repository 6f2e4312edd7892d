"""Normalised mutual information of two images over points, as cheap as a search needs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.special import entr

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
        self._binned = np.rint(self._values).astype(np.intp)
        self._size = np.asarray(image.GetSize())

    def bins_at(self, points: Points) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Bin number at each point inside (linear interpolation), and which points are inside."""
        index = points @ self._to_index[:3, :3].T + self._to_index[:3, 3]
        inside = np.all((index >= -0.5) & (index <= self._size - 0.5), axis=1)
        values = ndimage.map_coordinates(
            self._values, index[inside, ::-1].T, order=1, mode="nearest", prefilter=False
        )
        return np.rint(values).astype(np.intp), inside

    def nearest_bins(self, points: Points, shifts: Points) -> npt.NDArray[np.intp]:
        """Bin number of the nearest voxel, shape (shifts, points); ``BINS`` outside the image."""
        index = points @ self._to_index[:3, :3].T + self._to_index[:3, 3]
        places = index + (shifts @ self._to_index[:3, :3].T)[:, None, :]
        nearest = np.rint(places).astype(np.intp)
        inside = np.all((nearest >= 0) & (nearest < self._size), axis=2)
        x, y, z = np.where(inside[..., None], nearest, 0).transpose(2, 0, 1)
        return np.where(inside, self._binned[z, y, x], BINS)


def agreement(fixed_bins: npt.NDArray[np.intp], moving: Sampled, points: Points) -> Agreement:
    """How well ``fixed_bins``, found at some points, predict ``moving`` at where they went."""
    bins, inside = moving.bins_at(points)
    joint = np.bincount(fixed_bins[inside] * BINS + bins, minlength=BINS * BINS)
    value = _normalised_information(joint.reshape(1, BINS, BINS))[0]
    return Agreement(float(value), len(bins) / len(points))


def agreements(
    fixed_bins: npt.NDArray[np.intp], moving: Sampled, points: Points, shifts: Points
) -> list[Agreement]:
    """The same for each of some shifts (n, 3), mm, of the points, without interpolation."""
    bins = moving.nearest_bins(points, shifts)
    cells = BINS * (BINS + 1)
    first = np.arange(len(shifts))[:, None] * cells
    joint = np.bincount(
        (first + fixed_bins * (BINS + 1) + bins).ravel(), minlength=len(shifts) * cells
    ).reshape(len(shifts), BINS, BINS + 1)[:, :, :BINS]
    values = _normalised_information(joint)
    overlaps = joint.sum(axis=(1, 2)) / len(points)
    return [Agreement(float(v), float(o)) for v, o in zip(values, overlaps, strict=True)]


def _normalised_information(joint: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Of each joint histogram, shape (n, BINS, BINS); 0 where it holds less than BINS points."""
    count = joint.sum(axis=(1, 2))
    share = joint / np.maximum(count, 1)[:, None, None]
    both = entr(share).sum(axis=(1, 2))
    alone = entr(share.sum(axis=1)).sum(axis=1) + entr(share.sum(axis=2)).sum(axis=1)
    enough = (count >= BINS) & (alone > 0)
    return np.where(enough, np.maximum(0.0, 2 * (alone - both) / np.maximum(alone, 1e-12)), 0.0)

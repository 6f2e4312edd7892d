"""The worst places of an image of errors or of uncertainty: where a reader should look first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.masked import bounding_box, voxels_of
from SynthCTLib.volume import Volume

_TRUNCATE = 4.0  # of the Gaussian, standard deviations


@dataclass(frozen=True)
class Place:
    """A cluster: its worst point (LPS mm), mean value there (of the image's unit), and size."""

    position_lps_mm: tuple[float, float, float]
    mean: float
    volume_ml: float


def worst_places(
    image: Volume,
    mask: Volume,
    *,
    count: int = 10,
    sigma_mm: float = 3.0,
    least_ml: float = 0.05,
) -> tuple[Place, ...]:
    """The clusters in a mask where the magnitude of an image is largest, the worst first.

    The magnitude is smoothed inside the mask with a Gaussian of ``sigma_mm``; clusters are the
    connected regions of at least ``least_ml`` above its mean plus two standard deviations, ranked
    by the sum of what is above. ``mean`` is the signed mean of the image in the cluster. An image
    that is even everywhere has none.

    Raises InputError for another grid, an empty mask and values that are not finite in the mask.
    """
    inside = voxels_of(mask, image)
    if not inside.any():
        raise InputError("The mask is empty: give one that holds voxels.")
    sigma = [sigma_mm / s for s in reversed(image.grid.spacing_mm)]
    # Beyond the reach of the filter from the mask there is nothing to smooth.
    box = tuple(
        slice(max(0, side.start - reach), side.stop + reach)
        for side, reach in zip(
            bounding_box(inside), (int(_TRUNCATE * s + 0.5) for s in sigma), strict=True
        )
    )
    corner = [side.start for side in box]
    values, inside = np.asarray(image.array[box], np.float32), inside[box]
    if not np.isfinite(values[inside]).all():
        raise InputError("The image has values in the mask that are not finite: correct them.")
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, truncate=_TRUNCATE)
    masked = np.where(inside, np.abs(values), np.float32(0))
    smooth = ndimage.gaussian_filter(masked, sigma, truncate=_TRUNCATE)
    smooth = np.divide(smooth, weight, out=np.zeros_like(smooth), where=inside & (weight > 1e-3))
    level = float(smooth[inside].mean() + 2 * smooth[inside].std())
    above = inside & (smooth > level)
    labels, found = ndimage.label(above)
    if not found:
        return ()
    sizes_ml = np.bincount(labels.ravel())[1:] * image.grid.voxel_mm3 / 1000
    index = np.flatnonzero(sizes_ml >= least_ml) + 1
    if not index.size:
        return ()
    excess = np.bincount(labels.ravel(), weights=(smooth - level).ravel())[index]
    order = index[np.argsort(excess)[::-1][:count]]
    around = ndimage.find_objects(labels)
    to_world = image.grid.index_to_world
    places = []
    for label in order:
        part = around[label - 1]
        cluster = labels[part] == label
        peak = np.unravel_index(
            int(np.where(cluster, smooth[part], -np.inf).argmax()), cluster.shape
        )
        z, y, x = (int(i) + side.start + at for i, side, at in zip(peak, part, corner, strict=True))
        world = (to_world @ [x, y, z, 1.0])[:3]
        position = (float(world[0]), float(world[1]), float(world[2]))
        mean = float(values[part][cluster].mean(dtype=np.float64))
        places.append(Place(position, mean, float(sizes_ml[label - 1])))
    return tuple(places)

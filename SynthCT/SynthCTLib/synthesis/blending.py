"""Two images as one: seamless where a mask changes from the one to the other.

Paper 3, section 2.5, after Burt and Adelson (ACM Trans Graph 2 (1983) 217): Laplacian pyramids of
both images are mixed, level by level, with the Gaussian pyramid of the mask as weights, and the
mixed pyramid is collapsed. Coarse structure is thereby mixed over a wide border and fine structure
over a narrow one. Images are (..., y, x); pyramids run over the last two axes alone, slice by
slice as in the paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from SynthCTLib.errors import InputError

Array = npt.NDArray[np.float32]

# Burt and Adelson's generating kernel with a = 3/8: the binomial one.
KERNEL = np.array([1, 4, 6, 4, 1], np.float64) / 16
SMALLEST_SIDE = 4  # a level with a shorter side says nothing of structure


def blended(inner: Array, outer: Array, mask: npt.NDArray[np.bool_], levels: int = 6) -> Array:
    """``inner`` where the mask is, ``outer`` elsewhere, without a seam; float32, the same shape.

    ``levels``: of the pyramids at most; fewer where an image becomes smaller than 4 pixels. Raises
    InputError when the shapes differ or there are less than one level.
    """
    if not inner.shape == outer.shape == mask.shape:
        raise InputError(
            f"Images of shapes {inner.shape} and {outer.shape} cannot be blended by a mask of "
            f"shape {mask.shape}: give three of one shape."
        )
    if levels < 1:
        raise InputError(f"A pyramid of {levels} levels holds no image: give at least 1.")
    weights = gaussian_pyramid(mask.astype(np.float32), levels)
    parts = zip(
        laplacian_pyramid(inner, levels), laplacian_pyramid(outer, levels), weights, strict=True
    )
    return collapsed([w * a + (1 - w) * b for a, b, w in parts])


def gaussian_pyramid(image: Array, levels: int) -> list[Array]:
    """The image and its reductions, the finest first."""
    pyramid = [np.asarray(image, np.float32)]
    while len(pyramid) < levels and min(pyramid[-1].shape[-2:]) >= 2 * SMALLEST_SIDE:
        pyramid.append(reduced(pyramid[-1]))
    return pyramid


def laplacian_pyramid(image: Array, levels: int) -> list[Array]:
    """What each reduction loses, the finest first, and at last the coarsest reduction."""
    gaussian = gaussian_pyramid(image, levels)
    lost = [
        fine - expanded(coarse, fine.shape[-2:]) for fine, coarse in itertools.pairwise(gaussian)
    ]
    return [*lost, gaussian[-1]]


def collapsed(pyramid: Sequence[Array]) -> Array:
    """The image of a Laplacian pyramid."""
    image = pyramid[-1]
    for lost in reversed(pyramid[:-1]):
        image = lost + expanded(image, lost.shape[-2:])
    return image


def reduced(image: Array) -> Array:
    """Smoothed, and every other pixel of both axes, from the first."""
    return _smoothed(image)[..., ::2, ::2]


def expanded(image: Array, sides: tuple[int, ...]) -> Array:
    """Enlarged twofold onto the sides (y, x) that the image was reduced from."""
    wide = np.zeros((*image.shape[:-2], *sides), np.float32)
    wide[..., ::2, ::2] = image
    return 4 * _smoothed(wide)


def _smoothed(image: Array) -> Array:
    """By the kernel along both axes; the image goes on mirrored beyond its border."""
    for axis in (-1, -2):
        image = ndimage.correlate1d(image, KERNEL, axis, mode="mirror")
    return image

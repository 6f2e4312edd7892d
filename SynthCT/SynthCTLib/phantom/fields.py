"""Separable Gaussian operations on tensors: blurring, and smooth random fields.

Each axis is one product with a matrix that holds the kernel, so that the cost does not depend on
the width of the kernel and the edge of the grid is treated exactly. Tensors are (..., z, y, x),
spacings (x, y, z) in mm as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from SynthCTLib.volume import Triple

FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
_REACH = 3.5  # sigmas after which a kernel is cut off: less than 5e-4 of its mass is lost


def stream(seed: int, purpose: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A random generator for one purpose; other purposes with the same seed do not disturb it.

    ``seed`` is not negative. Torch's global generator is neither read nor changed.
    """
    state = np.random.SeedSequence((seed, purpose)).generate_state(1, np.uint64)
    return torch.Generator(device=device).manual_seed(int(state[0] >> np.uint64(1)))


def blur(image: Tensor, fwhm_mm: float | Triple, spacing_mm: Triple) -> Tensor:
    """Convolve (..., z, y, x) float32 with a Gaussian; the edge value goes on beyond the grid.

    One width for all axes, or one each for x, y and z.
    """
    widths = fwhm_mm if isinstance(fwhm_mm, tuple) else (fwhm_mm,) * 3
    if not any(widths):
        return image
    matrices = [
        _blur_matrix(n, width / FWHM_PER_SIGMA / step, image.device)
        for n, width, step in zip(
            image.shape[-3:], reversed(widths), reversed(spacing_mm), strict=True
        )
    ]
    return _along_axes(image, matrices)


def smooth_field(
    shape: Sequence[int], fwhm_mm: float, spacing_mm: Triple, generator: torch.Generator
) -> Tensor:
    """Gaussian random field of mean 0 and variance 1: white noise under a Gaussian kernel.

    ``shape`` is (..., z, y, x); leading axes are independent. Its autocorrelation is a Gaussian of
    sqrt(2) times the kernel's width. The noise is drawn on a coarse grid and carried to the fine
    one by the kernel itself, each row scaled to unit length: the variance is 1 in every voxel.
    """
    sigma_mm = fwhm_mm / FWHM_PER_SIGMA
    matrices = [
        _field_matrix(n, sigma_mm / step, generator.device)
        for n, step in zip(shape[-3:], reversed(spacing_mm), strict=True)
    ]
    coarse = (*shape[:-3], *(int(m.shape[1]) for m in matrices))
    return _along_axes(torch.randn(coarse, generator=generator, device=generator.device), matrices)


def _blur_matrix(n: int, sigma: float, device: torch.device) -> Tensor:
    """Square (n, n), sigma in voxels: row i is the kernel around i, rows sum to 1."""
    if sigma == 0:
        return torch.eye(n, device=device)
    reach = max(1, math.ceil(_REACH * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((n, n), np.float32)
    rows = np.arange(n)
    for offset, weight in zip(offsets, kernel, strict=True):
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, n - 1)), weight)
    return torch.from_numpy(matrix).to(device)


def _field_matrix(n: int, sigma: float, device: torch.device) -> Tensor:
    """Shape (n, coarse nodes), sigma in voxels: each voxel's kernel at the nodes, of length 1."""
    # Nodes one sigma apart: by Poisson's sum the covariance is off by 2 exp(-pi^2) = 1e-4 at most.
    step = max(1.0, sigma)
    margin = math.ceil(_REACH * sigma / step)
    nodes = step * np.arange(-margin, math.ceil((n - 1) / step) + margin + 1)
    matrix = np.exp(-0.5 * ((np.arange(n)[:, None] - nodes[None, :]) / sigma) ** 2)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return torch.from_numpy(matrix.astype(np.float32)).to(device)


def _along_axes(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix along each of the axes z, y, x of (..., z, y, x)."""
    along_z, along_y, along_x = matrices
    *batch, depth, height, width = image.shape
    image = torch.matmul(along_z, image.reshape(*batch, depth, height * width))
    image = image.reshape(*batch, along_z.shape[0], height, width)
    return torch.matmul(torch.matmul(along_y, image), along_x.T)

"""A PET's view of an image: integrals along parallel lines in direct planes, and their adjoint.

    y = A x        expected events of each line of response (and time-of-flight bin)

A is a sparse matrix (Joseph's method, ``physics.lines``) that is applied to all slices at once. Its
transpose is stored as well, so that the adjoint is exact; that matters, as an iterative
reconstruction with a mere approximation of it drifts. Only direct planes are modelled: no oblique
lines, no scatter, no randoms, no resolution of the detectors.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.special import ndtr

from SynthCTLib.errors import InputError
from SynthCTLib.physics.lines import line_angles, line_matrix

MM_PER_PS = 0.299792458  # light, in vacuum
FWHM_IN_SIGMAS = 2 * math.sqrt(2 * math.log(2))
# Parts of the timing kernel below this are left out: a float32 sum does not show them.
_LEAST_PART = 1e-7


@dataclass(frozen=True)
class TimeOfFlight:
    """How well and how finely the difference of the two arrival times is measured.

    ``fwhm_ps`` is the resolution in time (400 ps in many scanners in use, 210 ps in the best); a
    difference dt places the event at c dt / 2 along its line. ``bin_ps`` is the width of a bin.
    """

    fwhm_ps: float = 400.0
    bin_ps: float = 200.0

    def __post_init__(self) -> None:
        for name, value in (("resolution", self.fwhm_ps), ("bin width", self.bin_ps)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"A time-of-flight {name} of {value:g} ps is impossible: give one above 0."
                )

    @property
    def sigma_mm(self) -> float:
        """Standard deviation of the place along the line, mm."""
        return self.fwhm_ps * MM_PER_PS / 2 / FWHM_IN_SIGMAS

    def edges_mm(self, length_mm: float) -> npt.NDArray[np.float64]:
        """Edges of an odd number of bins about the middle of a line of that length.

        The outer bins go on without end, so that every event is in one.
        """
        width = self.bin_ps * MM_PER_PS / 2
        beside = max(0, math.ceil((length_mm / width - 1) / 2))
        edges = (np.arange(2 * beside + 2) - beside - 0.5) * width
        edges[0], edges[-1] = -np.inf, np.inf
        return np.asarray(edges, np.float64)


class _Apply(torch.autograd.Function):
    """matrix @ values, whose gradient is the stored transpose (and the other way round)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, matrix: Any, transpose: Any) -> torch.Tensor:
        ctx.matrices = (matrix, transpose)
        return matrix @ values

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        matrix, transpose = ctx.matrices
        return _Apply.apply(gradient.contiguous(), transpose, matrix), None, None


class Projector:
    """Projects images (slice, y, x) to sinograms (slice, angle, line[, time-of-flight bin]).

    Values are float32 on ``device``. ``forward`` and ``adjoint`` can be differentiated.
    """

    def __init__(
        self,
        size: tuple[int, int],
        spacing_mm: tuple[float, float],
        angles: int = 180,
        time_of_flight: TimeOfFlight | None = None,
        device: str = "cpu",
    ) -> None:
        """For slices of ``size`` (rows, columns) with the spacing (x, y) in mm."""
        lines = line_matrix(size, spacing_mm, angles).astype(np.float32)
        bins = 1
        matrix = lines
        if time_of_flight is not None:
            edges = time_of_flight.edges_mm(
                math.hypot(size[1] * spacing_mm[0], size[0] * spacing_mm[1])
            )
            bins = len(edges) - 1
            sigma = time_of_flight.sigma_mm
            matrix = _timed(lines, _along(size, spacing_mm, angles), edges, sigma)
        self._size = size
        self._angles = angles
        self._bins = None if time_of_flight is None else bins
        self._device = device
        self._lines = lines
        self._matrix = matrix

    @property
    def angles(self) -> int:
        """Number of angles over 180 degrees."""
        return self._angles

    @property
    def bins(self) -> int | None:
        """Number of time-of-flight bins, None without."""
        return self._bins

    @property
    def entries(self) -> int:
        """Non-zero entries of the matrix; it and its transpose take 8 bytes for each."""
        return int(self._matrix.nnz)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Integrals (values times cm) of an image (slice, y, x) along each line."""
        return self._projected(image, self._pair, self._bins)

    def line_integrals(self, image: torch.Tensor) -> torch.Tensor:
        """As ``forward`` without time of flight: shape (slice, angle, line)."""
        return self._projected(image, self._line_pair, None)

    def attenuation(self, mu_per_cm: torch.Tensor) -> torch.Tensor:
        """The share of events of each line that leaves the body: exp(-integral of µ).

        ``mu_per_cm`` has the shape (slice, y, x), the result (slice, angle, line), with a last
        axis of 1 where there are time-of-flight bins (all of them are attenuated alike).
        """
        share = torch.exp(-self.line_integrals(mu_per_cm))
        return share if self._bins is None else share[..., None]

    def adjoint(self, sinogram: torch.Tensor) -> torch.Tensor:
        """The transpose of ``forward``: an image (slice, y, x)."""
        values = self._on_device(sinogram)
        expected = self._shape_of(self._matrix.shape[0], self._bins)
        if tuple(values.shape[1:]) != expected:
            raise InputError(
                f"A sinogram of shape {tuple(values.shape)} does not fit a projector whose slices "
                f"have the shape {expected}."
            )
        matrix, transpose = self._pair
        image = _Apply.apply(values.flatten(1).T.contiguous(), transpose, matrix)
        return image.T.reshape(-1, *self._size)

    def subset(self, index: int, count: int) -> Projector:
        """The projector of every count-th angle from ``index``, as ordered subsets need it.

        Raises InputError unless the angles divide into ``count`` equal subsets.
        """
        if count < 1 or self._angles % count or not 0 <= index < count:
            raise InputError(
                f"{self._angles} angles cannot be divided into {count} equal subsets: "
                "give a number that divides them."
            )
        part = Projector.__new__(Projector)
        part._size, part._bins, part._device = self._size, self._bins, self._device
        part._angles = self._angles // count
        part._lines = _every(self._lines, self._angles, index, count)
        part._matrix = _every(self._matrix, self._angles, index, count)
        return part

    @cached_property
    def _pair(self) -> tuple[Any, Any]:
        return _in_torch(self._matrix, self._device)

    @cached_property
    def _line_pair(self) -> tuple[Any, Any]:
        return self._pair if self._bins is None else _in_torch(self._lines, self._device)

    def _projected(
        self, image: torch.Tensor, pair: tuple[Any, Any], bins: int | None
    ) -> torch.Tensor:
        values = self._on_device(image)
        if values.ndim != 3 or tuple(values.shape[1:]) != self._size:
            raise InputError(
                f"An image of shape {tuple(values.shape)} does not fit a projector of slices of "
                f"{self._size[0]} x {self._size[1]}."
            )
        flat = _Apply.apply(values.flatten(1).T.contiguous(), *pair)
        return flat.T.reshape(len(values), *self._shape_of(flat.shape[0], bins))

    def _shape_of(self, rows: int, bins: int | None) -> tuple[int, ...]:
        """Shape of a slice's sinogram of so many values."""
        if bins is None:
            return (self._angles, rows // self._angles)
        return (self._angles, rows // self._angles // bins, bins)

    def _on_device(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device, torch.float32)


def _along(
    size: tuple[int, int], spacing_mm: tuple[float, float], angles: int
) -> npt.NDArray[np.float64]:
    """Where each voxel of a slice lies along the lines of each angle: mm, (angle, voxel)."""
    rows, columns = size
    x = (np.arange(columns) - (columns - 1) / 2) * spacing_mm[0]
    y = (np.arange(rows) - (rows - 1) / 2) * spacing_mm[1]
    angle = line_angles(angles)[:, None, None]
    along = -x[None, None, :] * np.sin(angle) + y[None, :, None] * np.cos(angle)
    return np.asarray(along.reshape(angles, -1), np.float64)


def _timed(
    lines: sparse.csr_matrix,
    along_mm: npt.NDArray[np.float64],
    edges_mm: npt.NDArray[np.float64],
    sigma_mm: float,
) -> sparse.csr_matrix:
    """Each row shared among the time-of-flight bins: row ``line * bins + bin``.

    The share of a voxel in a bin is the part of the Gaussian about its place that lies in it.
    """
    angles, bins = len(along_mm), len(edges_mm) - 1
    count = lines.shape[0] // angles
    parts = []
    for k in range(angles):
        block = lines[k * count : (k + 1) * count].tocoo()
        place = along_mm[k, block.col]
        shares = np.diff(ndtr((edges_mm - place[:, None]) / sigma_mm), axis=1)
        entry, bin_ = np.nonzero(shares > _LEAST_PART)
        weights = (block.data[entry] * shares[entry, bin_]).astype(np.float32)
        row = block.row[entry].astype(np.int64) * bins + bin_
        shape = (count * bins, lines.shape[1])
        parts.append(sparse.csr_matrix((weights, (row, block.col[entry])), shape=shape))
    return sparse.vstack(parts, format="csr")


def _every(matrix: sparse.csr_matrix, angles: int, index: int, count: int) -> sparse.csr_matrix:
    rows = np.arange(matrix.shape[0]).reshape(angles, -1)[index::count].ravel()
    return matrix[rows]


def _in_torch(matrix: sparse.csr_matrix, device: str) -> tuple[Any, Any]:
    """The matrix and its transpose as sparse tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        pair = [
            torch.sparse_csr_tensor(
                torch.from_numpy(m.indptr),
                torch.from_numpy(m.indices),
                torch.from_numpy(m.data),
                size=m.shape,
                check_invariants=False,
            ).to(device)
            for m in (matrix, matrix.T.tocsr())
        ]
    return pair[0], pair[1]

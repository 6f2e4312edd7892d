"""Transforms: reading, writing, and what a transform does to space.

Direction, everywhere: LPS mm points of the fixed image go to LPS mm points of the moving image,
which is what ITK resamples by.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.volume import Grid
from SynthCTLib.whole_file import whole_file

HDF5_BYTES = 8352  # of a rigid transform
SUFFIXES = (".h5", ".tfm", ".txt", ".mat")
_SUFFIXES = ".h5, .tfm or .txt"


def read_transform(path: Path) -> sitk.Transform:
    """Read an ITK transform in three dimensions (.h5, .tfm, .txt).

    Raises InputError when the file is missing, is no transform, or has another dimension.
    """
    if not path.is_file():
        raise InputError(f"There is no transform file {path}: check the path.")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be read as an ITK transform: give a file ending in {_SUFFIXES}."
        ) from error
    if transform.GetDimension() != 3:
        raise InputError(
            f"{path} holds a transform in {transform.GetDimension()} dimensions and SynthCT needs "
            "three: give another one."
        )
    return transform.Downcast()


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write an ITK transform (.h5, .tfm, .txt); the file appears complete or not at all.

    Raises OutputError when the suffix is unknown or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise OutputError(f"{path.name} is no transform file name: let it end in {_SUFFIXES}.")
    try:
        with whole_file(path) as part:
            # HDF5 says on stderr, at length, that a disk is full, and again when the process ends.
            needed = 2 * HDF5_BYTES + 8 * len(transform.GetParameters())
            if shutil.disk_usage(path.parent).free < needed:
                raise OSError(errno.ENOSPC, "no room")
            sitk.WriteTransform(transform, str(part))
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"The transform cannot be written to {path}: check that the folder exists, may be "
            "written to and has room."
        ) from error


def matrix_of(transform: sitk.Transform) -> npt.NDArray[np.float64]:
    """The 4x4 matrix of a linear transform (LPS mm). Raises InputError for any other."""
    if not transform.IsLinear():
        raise InputError(
            f"A {transform.GetName()} is not linear: start a registration from a rigid or affine "
            "transform."
        )
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis, unit in enumerate(np.eye(3)):
        matrix[:3, axis] = np.asarray(transform.TransformPoint(unit.tolist())) - origin
    return matrix


@dataclass(frozen=True)
class LinearParts:
    """A matrix A = R S: the angle of the rotation R, and the three stretches of S."""

    rotation_degrees: float
    scales: tuple[float, float, float]
    mirrored: bool

    @staticmethod
    def of(matrix: npt.NDArray[np.float64]) -> LinearParts:
        """Polar decomposition of the 3x3 part."""
        left, scales, right = np.linalg.svd(matrix[:3, :3])
        rotation = left @ right
        cosine = (np.trace(rotation) - 1) / 2
        return LinearParts(
            float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
            (float(scales[0]), float(scales[1]), float(scales[2])),
            bool(np.linalg.det(matrix[:3, :3]) <= 0),
        )


def jacobian_determinants(transform: sitk.Transform, grid: Grid) -> npt.NDArray[np.float64]:
    """Local volume change of a transform at the voxels (z, y, x); zero or less is a fold.

    Central differences over the voxels. (ITK's filter for it takes no account of the direction of
    the grid.)
    """
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        grid.size,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
    )
    displacement = sitk.GetArrayViewFromImage(field)
    by_index = np.stack(
        [np.gradient(displacement, s, axis=2 - i) for i, s in enumerate(grid.spacing_mm)], axis=-1
    )
    by_world = by_index @ np.reshape(grid.direction, (3, 3)).T
    determinants: npt.NDArray[np.float64] = np.linalg.det(np.eye(3) + by_world)
    return determinants

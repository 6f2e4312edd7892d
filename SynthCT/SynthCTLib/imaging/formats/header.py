"""What a header says of a file, and the sentences about files that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.volume import Step, Triple

Matrix = npt.NDArray[np.float64]

# Cosines between axes above this are a shear; below it, six-digit rounding (0.1 mm over a head).
SHEAR = 1e-3
BLOCK = 1 << 20


@dataclass(frozen=True)
class Inspected:
    """What the header of a sound file says beyond what ITK tells.

    ``data`` is the file with the voxels where that is another one; ``has_orientation`` tells
    whether left and right are known; ``place`` is the spacing, origin and direction to use
    instead of ITK's; ``steps`` tell what was assumed.
    """

    data: Path | None = None
    has_orientation: bool = True
    place: tuple[Triple, Triple, tuple[float, ...]] | None = None
    steps: tuple[Step, ...] = ()


def data_file(path: Path, named: str | None) -> Path | None:
    """The one file with the voxels that a header names."""
    if named is None:
        return None
    if named.upper().startswith("LIST") or "%" in named:
        raise InputError(
            f"{path} spreads its voxels over several files: save it as one .nrrd or .mha."
        )
    data = path.parent / named
    if not data.is_file():
        raise InputError(f"{path} names {named} as the file with its voxels, which is missing.")
    return data


def shear_of(direction: Matrix) -> float:
    """The largest cosine between axes, or what their lengths are off 1; 0 of a rotation."""
    return float(np.abs(direction.T @ direction - np.eye(3)).max())


def damaged(path: Path) -> InputError:
    """A file that is cut off or garbled."""
    return InputError(f"{path} is damaged or incomplete: copy or export it again.")


def sheared(path: Path) -> InputError:
    """A file whose axes are not perpendicular."""
    return InputError(
        f"{path} lies on axes that are not perpendicular (as an affine registration leaves them): "
        "resample it onto an ordinary grid first."
    )


def no_voxel_size(path: Path) -> InputError:
    """A file without the spacing of its voxels."""
    return InputError(f"{path} does not tell the size of its voxels: set the spacing in mm.")


def no_orientation(path: Path) -> InputError:
    """A file that does not tell left from right."""
    return InputError(
        f"{path} does not tell how it lies in the patient, so left and right are unknown: "
        "convert it again from the original with orientation."
    )


def no_numbers(path: Path, count: int) -> InputError:
    """A file with so many voxels that are NaN or infinite."""
    return InputError(
        f"{path} has {count} voxels that are NaN or infinite: replace them by the value of the "
        "background."
    )

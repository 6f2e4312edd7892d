"""The one image type of SynthCT: a frozen volume with its grid, role, unit and provenance.

Frame: LPS millimetres, as in ITK and DICOM. Arrays are indexed (z, y, x), the reverse of the
(x, y, z) in which sizes, spacings and origins are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError

Triple = tuple[float, float, float]
AIR_HU = -1000.0
SYNTHESIS_STEP = "synthesize"
SYNTHETIC_TAG = "SyntheticData"  # DICOM (0008,001C)


class Role(StrEnum):
    """What an image is to the workflow."""

    MR = "mr"
    CT = "ct"
    PET = "pet"
    NAC_PET = "nac_pet"
    MU_MAP = "mu_map"
    MASK = "mask"
    UNCERTAINTY = "uncertainty"


class Unit(StrEnum):
    """What a voxel value means. Masks and MR carry ``ARBITRARY``."""

    ARBITRARY = "arbitrary"
    HU = "HU"
    SUV = "SUV"
    BQ_PER_ML = "Bq/ml"
    PER_CM = "1/cm"
    PERCENT = "%"


DEFAULT_UNIT: Mapping[Role, Unit] = {
    Role.MR: Unit.ARBITRARY,
    Role.CT: Unit.HU,
    Role.PET: Unit.SUV,
    Role.NAC_PET: Unit.ARBITRARY,
    Role.MU_MAP: Unit.PER_CM,
    Role.MASK: Unit.ARBITRARY,
    Role.UNCERTAINTY: Unit.HU,
}


@dataclass(frozen=True)
class Grid:
    """Where the voxels are: size, spacing (mm), origin (LPS mm), row-major 3x3 direction.

    Column i of the direction is the LPS unit vector along index axis i (x, y, z), as in ITK.
    """

    size: tuple[int, int, int]
    spacing_mm: Triple
    origin_mm: Triple
    direction: tuple[float, ...]

    @staticmethod
    def of(image: sitk.Image) -> Grid:
        """The grid of a three-dimensional ITK image."""
        return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def index_to_world(self) -> npt.NDArray[np.float64]:
        """4x4 matrix from voxel index (x, y, z, 1) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def centre_mm(self) -> npt.NDArray[np.float64]:
        """LPS mm of the centre of the voxel block."""
        centre: npt.NDArray[np.float64] = (
            self.index_to_world @ [*((np.asarray(self.size) - 1) / 2), 1.0]
        )[:3]
        return centre

    @property
    def extent_mm(self) -> Triple:
        """Edge-to-edge length along each index axis, mm."""
        x, y, z = (n * s for n, s in zip(self.size, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel, mm^3."""
        return float(np.prod(self.spacing_mm))

    def matches(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether the sizes agree and no corner voxel lies further off than the tolerance."""
        if self.size != other.size:
            return False
        corners = np.array(
            [[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float
        )
        corners[:, :3] *= np.asarray(self.size) - 1
        off = corners @ (self.index_to_world - other.index_to_world).T
        return bool(np.abs(off).max() <= tolerance_mm)

    def blank(self, pixel_type: int = sitk.sitkFloat32) -> sitk.Image:
        """A zero-filled ITK image on this grid."""
        image = sitk.Image(self.size, pixel_type)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Source:
    """A file (or, for a DICOM series, the folder and series UID) that an image came from.

    ``sha256`` of a series is the hash of the file hashes in slice order.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Step:
    """One processing step and the settings it was done with (plain JSON values)."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """Where an image came from and what was done to it, in order.

    ``tags`` are facts of the acquisition that later steps need (plain JSON values), such as
    ``Modality``, ``KVP``, ``PatientAge`` and the UIDs of a DICOM series.
    """

    sources: tuple[Source, ...] = ()
    steps: tuple[Step, ...] = ()
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_synthetic(self) -> bool:
        """Whether a model made the image, here or (as its file says) elsewhere."""
        made_here = any(step.name == SYNTHESIS_STEP for step in self.steps)
        return made_here or self.tags.get(SYNTHETIC_TAG) == "YES"

    def with_step(self, step: Step) -> Provenance:
        """The same with one more step at the end."""
        return replace(self, steps=(*self.steps, step))


class _PixelBuffer:
    """Keeps an ITK image alive for as long as a numpy view of its pixels lives.

    ``sitk.GetArrayViewFromImage(f())`` alone reads freed memory once the image is collected.
    """

    def __init__(self, image: sitk.Image) -> None:
        self.image = image
        self.view = sitk.GetArrayViewFromImage(image)
        self.__array_interface__ = self.view.__array_interface__


@dataclass(frozen=True, eq=False)
class Volume:
    """An image with what its numbers mean. Never changed in place: derive with ``with_array``."""

    image: sitk.Image
    role: Role
    unit: Unit
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.image.GetDimension() != 3:
            raise InputError(
                f"The image has {self.image.GetDimension()} dimensions and SynthCT needs three: "
                "choose one three-dimensional volume."
            )
        if self.image.GetNumberOfComponentsPerPixel() != 1:
            raise InputError(
                f"The image has {self.image.GetNumberOfComponentsPerPixel()} components a voxel "
                "(a colour or vector image) and SynthCT needs one: choose a scalar volume."
            )

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """Read-only view of the voxels, indexed (z, y, x)."""
        view = np.asarray(_PixelBuffer(self.image))
        view.flags.writeable = False
        return view

    @cached_property
    def grid(self) -> Grid:
        """Where the voxels are."""
        return Grid.of(self.image)

    def with_array(
        self,
        array: npt.NDArray[Any],
        *,
        role: Role | None = None,
        unit: Unit | None = None,
        step: Step | None = None,
    ) -> Volume:
        """A volume on the same grid with other values, shape (z, y, x).

        Booleans become uint8. Raises InputError when the shape is not this grid's.
        """
        if array.shape != self.array.shape:
            raise InputError(
                f"Values of shape {array.shape} do not fit a grid of shape {self.array.shape}."
            )
        image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
        image.CopyInformation(self.image)
        return self.with_image(image, role=role, unit=unit, step=step)

    def with_image(
        self,
        image: sitk.Image,
        *,
        role: Role | None = None,
        unit: Unit | None = None,
        step: Step | None = None,
    ) -> Volume:
        """A volume with another image (and grid) and this one's provenance."""
        role = role or self.role
        if unit is None:
            unit = self.unit if role == self.role else DEFAULT_UNIT[role]
        provenance = self.provenance.with_step(step) if step else self.provenance
        return Volume(image, role, unit, provenance)

    def mask(self, array: npt.NDArray[np.bool_], step: Step | None = None) -> Volume:
        """A mask on this grid."""
        return self.with_array(array, role=Role.MASK, unit=Unit.ARBITRARY, step=step)

    def require_unit(self, *units: Unit) -> None:
        """Raise InputError unless the unit is one of those given."""
        if self.unit not in units:
            wanted = " or ".join(units)
            raise InputError(
                f"The {self.role} volume is in {self.unit} and this step needs {wanted}: "
                "give the right volume or state its unit."
            )

    def require_grid_of(self, other: Volume) -> None:
        """Raise InputError unless both volumes have the same voxels in the same places."""
        if not self.grid.matches(other.grid):
            raise InputError(
                f"The {self.role} volume (size {self.grid.size}, "
                f"origin {_short(self.grid.origin_mm)}) does not lie on the grid of the "
                f"{other.role} volume (size {other.grid.size}, "
                f"origin {_short(other.grid.origin_mm)}): resample one onto the other first."
            )


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in values) + ")"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

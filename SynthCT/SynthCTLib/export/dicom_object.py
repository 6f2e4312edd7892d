"""What the exported DICOM objects have in common: equipment, derivation, and writing."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from SynthCTLib import __version__
from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.export.dicom_study import Study, new_uid, uid_of
from SynthCTLib.export.origin import INTENDED_USE, Origin
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.volume import Volume
from SynthCTLib.whole_file import reason_of

SOFTWARE = "SynthCT"
IMPLEMENTATION_UID = uid_of("SynthCT", "implementation")
# CID 7203 has no code for a synthetic image; the scheme is our own, as PS3.16 allows (99...).
SYNTHETIC_CT = Code("synthetic-ct", "99SYNTHCT", "Synthetic CT made by a model")
MU_OF_CT = Code("mu-511", "99SYNTHCT", "Attenuation at 511 keV converted from CT")
# Parts of the body without a side (PS3.16 Annex L): Laterality must be absent there, and present,
# empty if need be, everywhere else.
# fmt: off
_UNPAIRED = (
    "HEAD", "BRAIN", "SKULL", "FACE", "JAW", "NOSE", "NECK", "HEADNECK", "HEADNECKCHEST",
    "NECKCHEST", "CHEST", "MEDIASTINUM", "HEART", "CHESTABDOMEN", "CHESTABDPELVIS",
    "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "ABDOMEN", "ABDOMENPELVIS", "LIVER", "PANCREAS",
    "SPLEEN", "PELVIS", "BLADDER", "PROSTATE", "UTERUS", "SPINE", "CSPINE", "TSPINE", "LSPINE",
    "SSPINE", "CTSPINE", "TLSPINE", "LSSPINE", "WHOLEBODY",
)
# fmt: on


@dataclass(frozen=True)
class Describing:
    """One series of one export: its UID, its time, and how its images came to be."""

    study: Study
    origin: Origin
    number: int
    description: str
    derivation: Code
    derivation_text: str
    series_uid: str = field(default_factory=new_uid)
    made_at: datetime.datetime = field(default_factory=lambda: datetime.datetime.now())

    def __post_init__(self) -> None:
        if len(self.description) > 64:  # the length of a DICOM LO
            object.__setattr__(self, "description", self.description[:64].rstrip())

    @property
    def date(self) -> str:
        """DICOM DA of the export."""
        return self.made_at.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """DICOM TM of the export."""
        return self.made_at.strftime("%H%M%S")

    def put_on(self, dataset: Dataset) -> None:
        """Set what every image of the series has, apart from pixels and place."""
        self.study.put_on(dataset)
        dataset.SeriesInstanceUID = self.series_uid
        dataset.SeriesNumber = self.number
        dataset.SeriesDescription = self.description
        dataset.SeriesDate = dataset.ContentDate = dataset.InstanceCreationDate = self.date
        dataset.SeriesTime = dataset.ContentTime = dataset.InstanceCreationTime = self.time
        dataset.PatientPosition = self.study.patient_position
        if self.study.body_part:
            dataset.BodyPartExamined = self.study.body_part
        if self.study.body_part not in _UNPAIRED:
            dataset.Laterality = self.study.laterality
        dataset.Manufacturer = dataset.ManufacturerModelName = SOFTWARE
        dataset.SoftwareVersions = dataset.DeviceSerialNumber = __version__
        dataset.ContributingEquipmentSequence = self._equipment()
        # Synthetic Data (0008,001C), in the standard since 2023, is an error to the validator of
        # 2022 that Debian has: the series description and the derivation tell it instead.
        if self.study.references:
            dataset.ReferencedSeriesSequence = Items([self._referenced_series()])

    def derivation_items(self) -> Items:
        """The code of the derivation."""
        return Items([coded(self.derivation)])

    def source_images(self) -> Items:
        """The images that the series was derived from."""
        items = []
        for reference in self.study.references:
            item = _reference(reference.sop_class, reference.instance)
            item.PurposeOfReferenceCodeSequence = Items(
                [coded(codes.DCM.SourceImageForImageProcessingOperation)]
            )
            items.append(item)
        return Items(items)

    def _referenced_series(self) -> Dataset:
        series = Dataset()
        series.SeriesInstanceUID = self.study.source_series
        series.ReferencedInstanceSequence = Items(
            [_reference(r.sop_class, r.instance) for r in self.study.references]
        )
        return series

    def _equipment(self) -> Items:
        made = Dataset()
        made.PurposeOfReferenceCodeSequence = Items([coded(codes.DCM.ProcessingEquipment)])
        made.Manufacturer = made.ManufacturerModelName = SOFTWARE
        made.SoftwareVersions = __version__
        made.ContributionDateTime = f"{self.date}{self.time}"
        made.ContributionDescription = self.derivation_text
        items = [made]
        if any(self.study.scanner):
            scanned = Dataset()
            scanned.PurposeOfReferenceCodeSequence = Items([coded(codes.DCM.AcquisitionEquipment)])
            scanned.Manufacturer, scanned.ManufacturerModelName = self.study.scanner
            items.append(scanned)
        return Items(items)


def derivation_text(origin: Origin, what: str) -> str:
    """One sentence on how the image came to be, and what it is not for."""
    return f"{what}, by {SOFTWARE} {__version__} with {origin.made_by}. {INTENDED_USE}"


@dataclass(frozen=True)
class Slices:
    """A volume as DICOM has it: rows to the patient's left, columns to posterior, slices upward.

    The axes are permuted and flipped, nothing is interpolated. ``array`` is (slice, row, column);
    spacings are mm, the place of a slice is that of its first voxel's centre, LPS mm.
    """

    array: npt.NDArray[Any]
    orientation: tuple[float, ...]
    row_spacing_mm: float
    column_spacing_mm: float
    slice_spacing_mm: float
    positions: npt.NDArray[np.float64]

    @staticmethod
    def of(volume: Volume) -> Slices:
        """The slices of a volume on any grid."""
        canonical = to_lps(volume).volume
        grid = canonical.grid
        direction = np.reshape(grid.direction, (3, 3))
        x, y, z = grid.spacing_mm
        steps = np.arange(grid.size[2])[:, np.newaxis] * (z * direction[:, 2])
        return Slices(
            canonical.array,
            tuple(float(v) for v in (*direction[:, 0], *direction[:, 1])),
            row_spacing_mm=y,
            column_spacing_mm=x,
            slice_spacing_mm=z,
            positions=np.asarray(grid.origin_mm) + steps,
        )

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """4x4 matrix from (slice, row, column, 1) to LPS mm."""
        row, column = np.asarray(self.orientation[:3]), np.asarray(self.orientation[3:])
        matrix = np.eye(4)
        matrix[:3, 0] = np.cross(row, column) * self.slice_spacing_mm
        matrix[:3, 1] = column * self.row_spacing_mm
        matrix[:3, 2] = row * self.column_spacing_mm
        matrix[:3, 3] = self.positions[0]
        return matrix

    def put_on(self, dataset: Dataset, index: int) -> None:
        """Set the place of one slice."""
        dataset.ImagePositionPatient = [as_ds(v) for v in self.positions[index]]
        dataset.ImageOrientationPatient = [as_ds(v) for v in self.orientation]
        dataset.PixelSpacing = [as_ds(self.row_spacing_mm), as_ds(self.column_spacing_mm)]
        dataset.SliceThickness = as_ds(self.slice_spacing_mm)
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        dataset.SliceLocation = as_ds(float(self.positions[index] @ normal))
        dataset.InstanceNumber = index + 1


def as_ds(value: float) -> str:
    """A decimal string of at most 16 characters; a distance of a metre keeps 1e-11 mm."""
    text: str = format_number_as_ds(float(value))
    return text


def whole_numbers(
    values: npt.NDArray[Any], dtype: type[np.int16] | type[np.uint16], what: str
) -> npt.NDArray[Any]:
    """Values rounded to integers of 16 bits. Raises InputError when they do not fit."""
    limits = np.iinfo(dtype)
    rounded = np.rint(values)
    low, high = float(rounded.min()), float(rounded.max())
    if not (limits.min <= low and high <= limits.max):  # so written, NaN is refused too
        raise InputError(
            f"The {what} would be stored as {low:g} to {high:g}, beyond integers of 16 bits: check "
            "the image for wrong units."
        )
    stored: npt.NDArray[Any] = rounded.astype(dtype)
    return stored


def coded(code: Code) -> Dataset:
    """A code sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def save(datasets: Sequence[Dataset], paths: Sequence[Path]) -> tuple[Path, ...]:
    """Write DICOM files. Raises OutputError when the disk or the folder does not take them."""
    for dataset, path in zip(datasets, paths, strict=True):
        dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
        dataset.file_meta.ImplementationVersionName = f"{SOFTWARE}_{__version__}"[:16]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that the source had already
                dataset.save_as(path, enforce_file_format=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({reason_of(error)}).") from error
    return tuple(paths)


def _reference(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item

"""The header of a DICOM file: values by keyword, of the file and of each of its frames."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.slices import Header

_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_LISTED = ("PatientID", "SeriesDate", "StudyDate", "ImageType", "SOPClassUID")
_LAYOUT = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SliceThickness",
)
# What may tell apart two images of one series at one place, the likeliest cause first.
TRAITS = (
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "NominalPercentageOfCardiacPhase",
    "FrameReferenceTime",
    "ImageType",
    "ComplexImageComponent",
    "KVP",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
)
# Facts of the acquisition that go into the provenance. Patients are not named there: an export
# that needs the patient module reads it from ``SourceFolder``.
KEPT = (
    "Modality",
    "SOPClassUID",
    "SyntheticData",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "PatientAge",
    "PatientSex",
    "PatientSize",
    "PatientWeight",
    "PatientPosition",
    "BodyPartExamined",
    "GantryDetectorTilt",
    "KVP",
    "ConvolutionKernel",
    "RescaleType",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "ContrastBolusAgent",
    "Units",
    "SUVType",
    "CorrectedImage",
    "DecayCorrection",
)
# What pydicom raises on damaged files.
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    BytesLengthException,
)
_MAPPING = "RealWorldValueMappingSequence"
_READ = sorted({*_FUNCTIONAL_GROUPS, _MAPPING, *_LISTED, *_LAYOUT, *TRAITS, *KEPT})


@dataclass(frozen=True)
class DicomFile:
    """The header of one DICOM file: values by keyword, of the file and of each of its frames."""

    path: Path
    top: Header
    frames: tuple[Header, ...]

    @staticmethod
    def read(path: Path) -> DicomFile | None:
        """The header, or None when the file is no DICOM."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom warns of every value too long for its VR
                dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_READ)
                top = _flat([dataset], sequences=False)
                top |= _mapping_of(dataset.get(_MAPPING))
                groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
                shared = _flat(dataset.get("SharedFunctionalGroupsSequence") or [], sequences=True)
                frames: list[Header] = [
                    ChainMap(_flat([group], sequences=True), shared, top) for group in groups
                ]
                stored_as = pydicom.uid.UID(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        except InvalidDicomError:
            if path.suffix.lower() in (".dcm", ".dicom"):
                raise InputError(
                    f"{path} is named as DICOM and is not: copy it again or remove it."
                ) from None
            return None
        except PermissionError as error:
            raise InputError(f"{path} cannot be read: check its permissions.") from error
        except UNREADABLE as error:
            raise InputError(
                f"The DICOM file {path} is damaged: copy it again or remove it."
            ) from error
        if not stored_as or (stored_as.name.endswith("Image Storage") and "Rows" not in top):
            raise InputError(f"The DICOM file {path} is cut off: copy it again or remove it.")
        return DicomFile(path, top, tuple(frames) or (top,))

    @property
    def is_image_in_space(self) -> bool:
        """Whether it holds pixels with a place in the patient."""
        return "Rows" in self.top and "ImagePositionPatient" in self.frames[0]

    @property
    def is_scout(self) -> bool:
        """Whether it is a localizer, from which slices are planned."""
        return "LOCALIZER" in words(self.top.get("ImageType"))

    @property
    def kind(self) -> str:
        """What the file holds, in words, when it is not an image in space."""
        modality = str(self.top.get("Modality") or "other")
        if "Rows" in self.top:
            return f"{modality} images without a position in the patient"
        return f"{modality} objects"


def require_file(path: Path) -> DicomFile:
    """The header of a file that was listed. Raises InputError when it is gone or no DICOM now."""
    file = DicomFile.read(path) if path.is_file() else None
    if file is None:
        raise InputError(f"The DICOM file {path} is gone or was altered: list the folder again.")
    return file


def _flat(datasets: Sequence[Any], *, sequences: bool) -> dict[str, Any]:
    """Filled elements by keyword: of the datasets, or of the first item of their sequences."""
    flat: dict[str, Any] = {}
    for dataset in datasets:
        for element in dataset:
            if element.VR == "SQ":
                if sequences and element.value:
                    flat |= _flat([element.value[0]], sequences=False)
                    if element.keyword == _MAPPING:
                        flat |= _mapping_of(element.value)
            elif element.value not in (None, ""):
                flat[element.keyword] = element.value
    return flat


def _mapping_of(items: Sequence[Any] | None) -> dict[str, Any]:
    """Slope and intercept of the first real world value mapping, and its unit's code."""
    if not items or "RealWorldValueSlope" not in items[0]:
        return {}
    flat = _flat([items[0]], sequences=False)
    units = items[0].get("MeasurementUnitsCodeSequence")
    return flat | {"MappedUnit": str(units[0].get("CodeValue", "none")) if units else "none"}


def words(value: Any) -> tuple[str, ...]:
    """A value of one or of several words, or none, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def plain(value: Any) -> Any:
    """A DICOM value as plain JSON."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    try:
        return [plain(v) for v in value]
    except TypeError:
        return float(value)

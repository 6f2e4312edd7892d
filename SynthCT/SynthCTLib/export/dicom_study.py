"""Whose images the exported DICOM objects are: patient, study, frame of reference, source images.

They are copied from the series that the job was made from, or they are placeholders that nobody
can take for a patient. UIDs that are made here are UUIDs under the root 2.25 (ISO/IEC 9834-8).
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.dicom import DicomSeries, list_series
from SynthCTLib.volume import Volume

# The Patient, Patient Study and General Study modules, as far as readers match objects by them.
_OF_PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# Type 2: there, and empty where it is not known.
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_IN_SPACE = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "BodyPartExamined",
    "Laterality",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "SeriesInstanceUID",
    "SOPClassUID",
    "SOPInstanceUID",
)
# Free text that scanners and anonymisers write longer than the standard allows. What identifies the
# patient and the order is never changed.
_LONGEST = {"StudyID": 16, "StudyDescription": 64}
PLACEHOLDER_NAME = "RESEARCH PLACEHOLDER"


@dataclass(frozen=True)
class Reference:
    """A source image by its class and instance UID."""

    sop_class: str
    instance: str


@dataclass(frozen=True)
class Study:
    """What every exported object of a job has in common.

    ``attributes`` holds the patient and study modules; ``source_series`` and ``references`` are
    empty for placeholders; ``scanner`` is the maker and model of the source's scanner, empty where
    not told; ``notes`` are sentences on what of the source could not be copied as it is.
    """

    attributes: Dataset
    frame_of_reference: str
    position_reference: str = ""
    patient_position: str = ""
    body_part: str = ""
    laterality: str = ""
    source_series: str = ""
    references: tuple[Reference, ...] = ()
    scanner: tuple[str, str] = ("", "")
    notes: tuple[str, ...] = ()

    def put_on(self, dataset: Dataset) -> None:
        """Set the patient and study modules and the frame of reference of an object."""
        dataset.update(self.attributes)
        dataset.FrameOfReferenceUID = self.frame_of_reference
        dataset.PositionReferenceIndicator = self.position_reference


def new_uid() -> str:
    """A UID of its own: 2.25 and a random UUID."""
    return f"2.25.{uuid.uuid4().int}"


def uid_of(*parts: str) -> str:
    """The UID that always belongs to these parts: 2.25 and a name-based UUID."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(parts)).int}"


def placeholder_study(subject: str, key: str) -> Study:
    """A study of nobody. The same ``key`` gives the same study and frame of reference again."""
    attributes = Dataset()
    attributes.PatientName = f"{PLACEHOLDER_NAME}^{subject}"
    attributes.PatientID = f"RESEARCH-{subject}"
    attributes.PatientIdentityRemoved = "YES"
    attributes.DeidentificationMethod = "SynthCT wrote placeholders: no attributes of a patient"
    attributes.StudyInstanceUID = uid_of("study", key)
    attributes.StudyDescription = "Research, no patient attributes"
    for keyword in _MAY_BE_EMPTY:
        if keyword not in attributes:
            setattr(attributes, keyword, "")
    return Study(attributes, uid_of("frame of reference", key))


def came_from_dicom(volume: Volume) -> bool:
    """Whether the volume's provenance names a DICOM series."""
    tags = volume.provenance.tags
    return bool(tags.get("SourceFolder")) and bool(tags.get("SeriesInstanceUID"))


def study_of_source(volume: Volume) -> Study:
    """The study of the DICOM series that the volume was made from, read anew from its folder.

    Raises InputError when that series is not there any more: a guess at a patient is never made.
    """
    tags = volume.provenance.tags
    folder, uid = Path(str(tags["SourceFolder"])), str(tags["SeriesInstanceUID"])
    advice = "put it back, name its folder with --patient-from, or export with --placeholders"
    try:
        listed = list_series(folder)
    except InputError as error:
        raise InputError(
            f"The DICOM series that the job was made from cannot be read in {folder}: {advice}."
        ) from error
    series = [s for s in listed if s.uid == uid]
    if len(series) != 1:
        raise InputError(
            f"The DICOM series that the job was made from is not in {folder} any more: {advice}."
        )
    return _study_of(series[0])


def study_of_folder(folder: Path) -> Study:
    """The study of the one DICOM series in a folder, on whose frame of reference the job lies.

    That it does is the user's word. Raises InputError unless there is exactly one series.
    """
    listed = list_series(folder)
    if len(listed) != 1:
        shown = "; ".join(s.entry for s in listed[:8])
        raise InputError(
            f"{folder} holds {len(listed)} DICOM series and the patient is taken from one: give a "
            f"folder with the series that the images lie on; there are {shown}."
        )
    return _study_of(listed[0])


def _study_of(series: DicomSeries) -> Study:
    first = _header(series.files[0], (*_OF_PATIENT_AND_STUDY, *_IN_SPACE))
    attributes = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above: the values are the source's
        for keyword in _OF_PATIENT_AND_STUDY:
            if keyword in first:
                attributes[keyword] = first[keyword]
    for keyword in _MAY_BE_EMPTY:
        if keyword not in attributes:
            setattr(attributes, keyword, "")
    notes = []
    for keyword, longest in _LONGEST.items():
        value = str(attributes.get(keyword) or "")
        if len(value) > longest:
            setattr(attributes, keyword, value[:longest].rstrip())
            notes.append(
                f"{keyword} of the source has {len(value)} characters and DICOM allows {longest}: "
                "it was cut."
            )
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not first.get(keyword):
            raise InputError(
                f"The {series.title} has no {keyword}, so nothing can be placed beside it: export "
                "with --placeholders."
            )
    return Study(
        attributes=attributes,
        frame_of_reference=str(first.FrameOfReferenceUID),
        position_reference=_text(first, "PositionReferenceIndicator"),
        patient_position=_text(first, "PatientPosition"),
        body_part=_text(first, "BodyPartExamined").upper(),
        laterality=_text(first, "Laterality"),
        source_series=series.uid,
        references=_references(series.files),
        scanner=(_text(first, "Manufacturer"), _text(first, "ManufacturerModelName")),
        notes=tuple(notes),
    )


def _references(files: Sequence[Path]) -> tuple[Reference, ...]:
    headers = (_header(path, ("SOPClassUID", "SOPInstanceUID")) for path in files)
    return tuple(Reference(str(h.SOPClassUID), str(h.SOPInstanceUID)) for h in headers)


def _header(path: Path, keywords: Sequence[str]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every value too long for its VR
        return dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))


def _text(header: Any, keyword: str) -> str:
    return str(header.get(keyword) or "")

"""DICOM: the image series of a folder, and one series as a volume in its true geometry.

Slices are placed by Image Position and Orientation (Patient) alone, never by file name or
instance number. Rounding of the positions is forgiven; anything else that would make a plain
stack lie (doubled, missing or uneven slices, gantry tilt) is undone and recorded, or refused.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import warnings
import zlib
from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.errors import BytesLengthException, InvalidDicomError

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.slices import Header, Plane, SliceStack, evened, stack_planes, untilted
from SynthCTLib.imaging.suv_tags import suv_tags_of
from SynthCTLib.physics.suv import SuvTags, suv_scale
from SynthCTLib.volume import (
    AIR_HU,
    DEFAULT_UNIT,
    Provenance,
    Role,
    Source,
    Step,
    Unit,
    Volume,
    sha256_of,
)

Array = npt.NDArray[Any]

# 12-bit CT ends at -1024 HU; what lies below is a scanner's mark for "not reconstructed".
LOWEST_HU = -1024.0

_ROLES_OF_MODALITY = {
    "MR": (Role.MR,),
    "CT": (Role.CT,),
    "PT": (Role.PET, Role.NAC_PET),
}
_SCANNED_ROLES = (Role.MR, Role.CT, Role.PET, Role.NAC_PET)

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
_TRAITS = (
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
_KEPT = (
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
_UNREADABLE = (
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
_READ = sorted({*_FUNCTIONAL_GROUPS, _MAPPING, *_LISTED, *_LAYOUT, *_TRAITS, *_KEPT})


@dataclass(frozen=True)
class DicomSeries:
    """An image series found in a folder.

    ``role`` is what Modality says (for PET together with Corrected Image), None where that is
    no role of SynthCT. ``date`` is YYYY-MM-DD or empty. ``patient_id`` is for telling patients
    apart in a list and goes into no result. Scouts are not among the files.
    """

    uid: str
    modality: str
    description: str
    patient_id: str
    date: str
    role: Role | None
    folder: Path
    files: tuple[Path, ...]

    @property
    def title(self) -> str:
        """How messages name the series."""
        described = f' "{self.description}"' if self.description else ""
        return f"{self.modality} series{described} in {self.folder}"

    @property
    def entry(self) -> str:
        """The series in a list to choose from."""
        described = f' "{self.description}"' if self.description else ""
        facts = [f"{len(self.files)} files", *filter(None, [self.date]), self.uid]
        return f"{self.modality}{described} ({', '.join(facts)})"


def list_series(folder: Path, *, recursive: bool = True) -> tuple[DicomSeries, ...]:
    """The image series in a folder (and the folders below it), by modality and description.

    Other files, DICOM objects that are no images in space (structure sets, reports, screen
    captures) and scouts are left out. Raises InputError when no series remains, or when a DICOM
    file is damaged: left out silently, it would be a missing slice.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: check the path.")
    found: dict[tuple[str, str], list[_File]] = {}
    others: set[str] = set()
    for path in sorted(_walk(folder, recursive=recursive)):
        file = _File.read(path)
        if file is None:
            continue
        if file.is_image_in_space and not file.is_scout:
            key = (str(file.top.get("PatientID", "")), str(file.top.get("SeriesInstanceUID", "")))
            found.setdefault(key, []).append(file)
        else:
            others.add("scouts" if file.is_scout else file.kind)
    if not found:
        held = f"DICOM files but only {', '.join(sorted(others))}" if others else "no DICOM files"
        raise InputError(
            f"The folder {folder} holds {held}: give a folder that holds an MR, CT or PET series."
        )
    series = [_series_of(files, folder) for files in found.values()]
    return tuple(sorted(series, key=lambda s: (s.patient_id, s.modality, s.description, s.uid)))


def series_of_file(path: Path) -> DicomSeries:
    """The whole series that a DICOM file belongs to, from the files in the same folder.

    Raises InputError when the file is no image slice.
    """
    file = _File.read(path)
    if file is None or not file.is_image_in_space or file.is_scout:
        kind = "not a DICOM file" if file is None else "a scout" if file.is_scout else file.kind
        raise InputError(f"{path} is {kind}, not a slice of an image series: give such a slice.")
    uid, patient = file.top.get("SeriesInstanceUID"), file.top.get("PatientID", "")
    for series in list_series(path.parent, recursive=False):
        if (series.uid, series.patient_id) == (uid, patient):
            return series
    raise InputError(f"{path} has no Series Instance UID: export the series again.")


def read_dicom(
    path: Path, role: Role, unit: Unit | None = None, wanted: str | None = None
) -> Volume:
    """The series of a folder that fits (see ``choose_series``), or the series of a DICOM file.

    A choice among several is recorded as a step. Raises InputError as ``list_series``,
    ``choose_series`` and ``read_series`` do.
    """
    listed = list_series(path) if path.is_dir() else (series_of_file(path),)
    series = choose_series(listed, role, wanted, path)
    volume = read_series(series, role, unit)
    if len(listed) == 1:
        return volume
    step = Step(
        "choose_series",
        {
            "of": len(listed),
            "by": "role" if wanted is None else "name",
            "note": f"Of {len(listed)} DICOM series in {path} the {series.entry} was taken.",
        },
    )
    provenance = volume.provenance
    return replace(volume, provenance=replace(provenance, steps=(step, *provenance.steps)))


def choose_series(
    listed: Sequence[DicomSeries], role: Role, wanted: str | None, folder: Path
) -> DicomSeries:
    """The series to read: by ``wanted`` (a Series Instance UID or a modality), or the only one.

    Without ``wanted``, one of several is taken only if they are of one patient and exactly one
    has the role. Raises InputError, with the list to choose from, whenever more than one fits.
    """
    if wanted is not None:
        fitting = [s for s in listed if s.uid == wanted]
        fitting = fitting or [s for s in listed if s.modality.lower() == wanted.lower()]
    elif len(listed) == 1:
        fitting = list(listed)
    else:
        fitting = [s for s in listed if s.role == role]
    patients = {s.patient_id for s in listed}
    if len(fitting) == 1 and (wanted is not None or len(patients) == 1):
        return fitting[0]
    shown = "; ".join(s.entry for s in listed[:8])
    if len(listed) > 8:
        shown += f"; and {len(listed) - 8} more"
    of_patients = f" of {len(patients)} patients" if len(patients) > 1 else ""
    fit = f"none is {wanted!r}" if wanted and not fitting else "more than one fits"
    if wanted is None and not fitting:
        fit = f"none is a {role} image"
    elif wanted is None and len(fitting) == 1:
        fit = "the patient is not named"
    raise InputError(
        f"{folder} holds {len(listed)} DICOM series{of_patients} and {fit}: "
        f"name one by its Series Instance UID; there are {shown}."
    )


def read_series(series: DicomSeries, role: Role | None = None, unit: Unit | None = None) -> Volume:
    """A series as a volume: values rescaled slice by slice, slices where they were scanned.

    Role and unit come from the tags unless given. A PET asked for in SUV is converted to it by
    ``physics.suv.suv_scale``, unless it is stored so. A CT lies in HU at or above -1024, with -1000
    where the scanner marks voxels as not reconstructed. Integers that fit stay int16, everything
    else is float32. The slice axis runs along the slice normal (row x column).

    Done and recorded as steps with a ``note``: identical copies of a slice are dropped, uneven
    slices are interpolated linearly onto even ones, a tilted stack is resampled onto an upright
    grid. Raises InputError when the series is not one regular stack of slices (different
    orientations, sizes or spacings; different images at one place; missing slices) or when it
    does not have the role, or when SUV is asked for and a tag that it needs is missing or wrong.
    """
    files = [_require_file(path) for path in series.files]
    top = files[0].top
    role = _checked_role(series, role, top)
    unit, steps = _unit_of(series, role, unit, top)
    to_suv, scaled = _to_suv(series, top) if _is_pet(role) and unit == Unit.SUV else (1.0, [])
    pixels = _Pixels()
    planes = [plane for file in files for plane in _planes_of(file, series)]
    if role == Role.MU_MAP:
        planes = [_mapped(plane, series) for plane in planes]
    stack, dropped = stack_planes(planes, series.title, pixels.difference)
    array, scaling = _values(stack, series, pixels)
    if to_suv != 1.0:
        array = np.multiply(array, to_suv, dtype=np.float64).astype(np.float32)
    steps = [*steps, *dropped, *scaling, *scaled]
    if stack.is_uneven:
        array, stack, step = evened(array, stack, series.title)
        steps.append(step)
    image = sitk.GetImageFromArray(array)
    del array
    grid = stack.upright_grid
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    volume = Volume(image, role, unit, Provenance(_sources(series, files, stack), tuple(steps)))
    if stack.is_tilted:
        outside = AIR_HU if series.modality == "CT" else 0.0
        volume = untilted(volume, stack, series.title, outside)
    tags = {k: _plain(top[k]) for k in _KEPT if k in top} | {"SourceFolder": str(series.folder)}
    return replace(volume, provenance=replace(volume.provenance, tags=tags))


class _Silence:
    """ITK's switch for warnings is one for the process: off while anyone reads or writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._before = sitk.ProcessObject.GetGlobalWarningDisplay()
                sitk.ProcessObject.SetGlobalWarningDisplay(False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    sitk.ProcessObject.SetGlobalWarningDisplay(self._before)


without_itk_warnings = _Silence()
"""ITK and GDCM print no warnings inside ``with without_itk_warnings()``; failures are raised."""


# --- files and their headers ---------------------------------------------------------------


def _walk(folder: Path, *, recursive: bool) -> Iterator[Path]:
    try:
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                yield entry
            elif recursive and entry.is_dir() and not entry.is_symlink():
                yield from _walk(entry, recursive=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be read ({error.strerror}): check its permissions."
        ) from error


@dataclass(frozen=True)
class _File:
    """The header of one DICOM file: values by keyword, of the file and of each of its frames."""

    path: Path
    top: Header
    frames: tuple[Header, ...]

    @staticmethod
    def read(path: Path) -> _File | None:
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
        except _UNREADABLE as error:
            raise InputError(
                f"The DICOM file {path} is damaged: copy it again or remove it."
            ) from error
        if not stored_as or (stored_as.name.endswith("Image Storage") and "Rows" not in top):
            raise InputError(f"The DICOM file {path} is cut off: copy it again or remove it.")
        return _File(path, top, tuple(frames) or (top,))

    @property
    def is_image_in_space(self) -> bool:
        return "Rows" in self.top and "ImagePositionPatient" in self.frames[0]

    @property
    def is_scout(self) -> bool:
        return "LOCALIZER" in _words(self.top.get("ImageType"))

    @property
    def kind(self) -> str:
        """What the file holds, in words, when it is not an image in space."""
        modality = str(self.top.get("Modality") or "other")
        if "Rows" in self.top:
            return f"{modality} images without a position in the patient"
        return f"{modality} objects"


def _require_file(path: Path) -> _File:
    file = _File.read(path) if path.is_file() else None
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


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def _plain(value: Any) -> Any:
    """A DICOM value as plain JSON."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    try:
        return [_plain(v) for v in value]
    except TypeError:
        return float(value)


def _series_of(files: Sequence[_File], folder: Path) -> DicomSeries:
    top = files[0].top
    parents = {file.path.parent for file in files}
    date = str(top.get("SeriesDate") or top.get("StudyDate") or "")
    return DicomSeries(
        uid=str(top.get("SeriesInstanceUID", "")),
        modality=str(top.get("Modality", "unknown")),
        description=" ".join(str(top.get("SeriesDescription", "")).split()),
        patient_id=str(top.get("PatientID", "")),
        date=f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date,
        role=_role_of(top),
        folder=parents.pop() if len(parents) == 1 else folder,
        files=tuple(file.path for file in files),
    )


# --- role and unit -------------------------------------------------------------------------


def _role_of(top: Header) -> Role | None:
    roles = _ROLES_OF_MODALITY.get(str(top.get("Modality")), (None,))
    corrections = _words(top.get("CorrectedImage"))
    # A PET that does not say what was corrected is taken for the ordinary, corrected one.
    return roles[-1] if corrections and "ATTN" not in corrections else roles[0]


def _checked_role(series: DicomSeries, role: Role | None, top: Header) -> Role:
    if role is None:
        if series.role is None:
            raise InputError(
                f"The {series.title} is neither MR, CT nor PET: say what it is by its role."
            )
        return series.role
    if role not in _SCANNED_ROLES or role == series.role:
        return role
    if {role, series.role} == {Role.PET, Role.NAC_PET}:
        if "CorrectedImage" not in top:
            return role
        done = "is" if series.role == Role.PET else "is not"
        raise InputError(
            f"The {series.title} {done} attenuation corrected (Corrected Image) and was given as "
            f"{role}: choose the other reconstruction or give it as {series.role}."
        )
    raise InputError(
        f"The {series.title} was given as {role} and is a {series.modality} image: "
        "choose the right series."
    )


def _unit_of(
    series: DicomSeries, role: Role, unit: Unit | None, top: Header
) -> tuple[Unit, list[Step]]:
    if unit is not None:
        return unit, []
    if role == Role.CT:
        scale = str(top.get("RescaleType", "HU"))
        if scale not in ("HU", "US"):  # US: unspecified, written by older scanners for HU
            raise InputError(
                f"The {series.title} is in {scale} (Rescale Type) and not in HU: "
                "choose the series in Hounsfield units."
            )
        return Unit.HU, []
    if not _is_pet(role):
        return DEFAULT_UNIT[role], []
    units, weighting = str(top.get("Units", "none")), str(top.get("SUVType", "BW"))
    if units == "BQML":
        return Unit.BQ_PER_ML, []
    if units == "GML" and weighting == "BW":
        return Unit.SUV, []
    said = f"{units} (SUV by {weighting})" if units == "GML" else units
    note = f"The {series.title} has the units {said}: its values are taken as arbitrary."
    return Unit.ARBITRARY, [Step("take_as_arbitrary", {"units": said, "note": note})]


def _is_pet(role: Role) -> bool:
    return role in (Role.PET, Role.NAC_PET)


def _to_suv(series: DicomSeries, top: Header) -> tuple[float, list[Step]]:
    """The factor from the values of a PET to SUV, and the step that tells of it."""
    if top.get("Units") == "GML":  # SUV already: no other tag is needed, or asked
        tags = SuvTags(units="GML", suv_type=top.get("SUVType"))
    else:
        tags = suv_tags_of(series.files)
    try:
        scale = suv_scale(tags)
    except InputError as error:
        raise InputError(f"{series.title}: {error}") from None
    if tags.units == "GML":
        return scale.factor, []
    note = (
        f"The {series.title} was converted to SUV: values times {scale.factor:.4g} ({scale.how})."
    )
    settings = {
        "units": tags.units,
        "factor": scale.factor,
        "decay_correction": tags.decay_correction,
        "decay_s": scale.decay_s,
        "across_midnight": scale.across_midnight,
        "note": note,
    }
    return scale.factor, [Step("convert_to_suv", settings)]


# --- slices -------------------------------------------------------------------------------


def _planes_of(file: _File, series: DicomSeries) -> Iterator[Plane]:
    top = file.top
    if top.get("SamplesPerPixel", 1) != 1 or "PALETTE" in str(top.get("PhotometricInterpretation")):
        raise InputError(
            f"The {series.title} is a colour image: choose a series of single values a voxel."
        )
    if top.get("NumberOfFrames", 1) != len(file.frames):
        raise InputError(
            f"The multi-frame file {file.path} does not say where each frame lies: "
            "export it as single slices or as an enhanced MR, CT or PET object."
        )
    for frame, header in enumerate(file.frames):
        orientation = _numbers(header, "ImageOrientationPatient", 6, file)
        spacing = _numbers(header, "PixelSpacing", 2, file)
        row, column = orientation[:3], orientation[3:]
        if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3):
            raise InputError(
                f"Image Orientation (Patient) of {file.path} is not a pair of perpendicular unit "
                "vectors: export the series again."
            )
        if not (spacing > 0).all():
            raise InputError(f"Pixel Spacing of {file.path} is not positive: export it again.")
        yield Plane(
            path=file.path,
            frame=frame,
            position=_numbers(header, "ImagePositionPatient", 3, file),
            orientation=orientation,
            # Pixel Spacing gives the distance between rows first (PS3.3 10.7.1.3).
            spacing=(float(spacing[1]), float(spacing[0])),
            shape=(int(_number(top, "Rows", 0, file)), int(_number(top, "Columns", 0, file))),
            thickness=_number(header, "SliceThickness", 0, file) or None,
            slope=_number(header, "RescaleSlope", 1, file),
            intercept=_number(header, "RescaleIntercept", 0, file),
            header=header,
        )


def _mapped(plane: Plane, series: DicomSeries) -> Plane:
    """The plane with the scale of its real world value mapping, where it has one.

    Scanners and SynthCT store µ as integers and say so there; a reader of images shows integers.
    """
    if "RealWorldValueSlope" not in plane.header:
        return plane
    unit = plane.header.get("MappedUnit", "none")
    if unit not in ("/cm", "cm-1", "1/cm"):
        raise InputError(
            f"The {series.title} maps its values to the unit {unit!r} and a µ-map is in /cm: "
            "choose the µ-map."
        )
    slope = float(plane.header["RealWorldValueSlope"])
    return replace(plane, slope=slope, intercept=float(plane.header["RealWorldValueIntercept"]))


def _number(header: Header, keyword: str, default: float, file: _File) -> float:
    try:
        return float(header.get(keyword, default))
    except (TypeError, ValueError):
        raise InputError(
            f"{keyword} of {file.path} is not a number: export the series again."
        ) from None


def _numbers(header: Header, keyword: str, count: int, file: _File) -> npt.NDArray[np.float64]:
    try:
        values = np.asarray([float(v) for v in header[keyword]])
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise InputError(
            f"{file.path} lacks a usable {keyword}, so its place in the patient is unknown: "
            "export the series again."
        )
    return values


# --- values --------------------------------------------------------------------------------


class _Pixels:
    """Stored values of planes; the last file read is kept, for files of many frames."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Array = np.empty(0)
        self._is_rescaled = False

    def stored(self, plane: Plane) -> Array:
        """Values as stored, shape (rows, columns); see ``is_rescaled``."""
        self._load(plane.path)
        if self._frames[plane.frame : plane.frame + 1].shape[1:] != plane.shape:
            raise _damaged(plane.path)
        values: Array = self._frames[plane.frame]
        return values

    def difference(self, one: Plane, other: Plane) -> str | None:
        """What tells two images apart, None when their values are equal."""
        same_scale = (one.slope, one.intercept) == (other.slope, other.intercept)
        if same_scale and np.array_equal(self.stored(one), self.stored(other)):
            return None
        for keyword in _TRAITS:
            values = [str(plane.header.get(keyword, "none")) for plane in (one, other)]
            if values[0] != values[1]:
                return f"differ in {keyword} ({values[0]} and {values[1]})"
        return "no known tag tells apart"

    def is_rescaled(self, plane: Plane) -> bool:
        """Whether slope and intercept are already applied (GDCM does so, pydicom does not)."""
        self._load(plane.path)
        return self._is_rescaled

    def _load(self, path: Path) -> None:
        if path == self._path:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(path)
                compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
                frames, rescaled = _decoded(dataset, path, compressed=compressed)
        except (*_UNREADABLE, RuntimeError) as error:
            raise _damaged(path) from error
        self._frames = frames if frames.ndim == 3 else frames[np.newaxis]
        self._path, self._is_rescaled = path, rescaled


def _decoded(dataset: Any, path: Path, *, compressed: bool) -> tuple[Array, bool]:
    """The frames, and whether they are rescaled."""
    try:
        return dataset.pixel_array, False
    except (RuntimeError, NotImplementedError):
        if not compressed:
            raise
    # pydicom decodes JPEG only with plug-ins; ITK's GDCM brings its own.
    name = dataset.file_meta.TransferSyntaxUID.name
    if int(dataset.get("NumberOfFrames", 1)) > 1:
        # GDCM would apply the first frame's slope and intercept to all.
        raise InputError(
            f"{path} has several frames compressed as {name}: export the series uncompressed."
        )
    try:
        with without_itk_warnings():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} is compressed as {name}, which cannot be decoded here: "
            "export the series uncompressed."
        ) from error
    return sitk.GetArrayFromImage(image), True


def _damaged(path: Path) -> InputError:
    return InputError(f"The pixels of the DICOM file {path} are damaged: copy it again.")


def _values(
    stack: SliceStack, series: DicomSeries, pixels: _Pixels
) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.float32], list[Step]]:
    """Real-world values, shape (slices, rows, columns), int16 where exact, else float32."""
    slices: list[Array] = []
    is_ct = series.modality == "CT"
    padded = raised = 0
    tissue_padding: float | None = None
    for plane in stack.planes:
        stored = pixels.stored(plane)
        scale = 1.0 if pixels.is_rescaled(plane) else plane.slope
        shift = 0.0 if pixels.is_rescaled(plane) else plane.intercept
        values = np.multiply(stored, scale, dtype=np.float64) + shift
        padding = _padding_hu(plane) if is_ct else None
        if padding is not None and padding[1] > AIR_HU:
            # Some exports declare 0 HU as padding: that is water, and brain is full of it.
            tissue_padding = padding[1]
        elif padding is not None:
            outside = (values >= padding[0]) & (values <= padding[1])
            padded += int(outside.sum())
            values[outside] = AIR_HU
        if is_ct:
            raised += int((values < LOWEST_HU).sum())
            np.maximum(values, LOWEST_HU, out=values)
        slices.append(values.astype(np.int16 if _is_int16(values) else np.float32))
    steps = []
    if padded:
        settings = {"voxels": padded, "value": AIR_HU}
        steps.append(Step("set_padding_to_air", settings))
    if raised:
        steps.append(Step("raise_to_lowest_hu", {"voxels": raised, "value": LOWEST_HU}))
    if tissue_padding is not None:
        note = (
            f"The {series.title} declares {tissue_padding:g} HU as padding, a value that tissue "
            "has too: it was left as it is."
        )
        steps.append(Step("keep_padding", {"value": tissue_padding, "note": note}))
    return np.stack(slices), steps


def _is_int16(values: npt.NDArray[np.float64]) -> bool:
    limits = np.iinfo(np.int16)
    inside = limits.min <= values.min() and values.max() <= limits.max
    return bool(inside and (np.rint(values) == values).all())


def _padding_hu(plane: Plane) -> tuple[float, float] | None:
    """The range of values that means "not reconstructed", lowest first."""
    if "PixelPaddingValue" not in plane.header:
        return None
    stored = [plane.header["PixelPaddingValue"]]
    stored.append(plane.header.get("PixelPaddingRangeLimit", stored[0]))
    if any(isinstance(v, bytes) for v in stored):
        return None
    values = [int(v) for v in stored]
    if plane.header.get("PixelRepresentation") == 1:
        values = [v - 65536 if v > 32767 else v for v in values]  # -2000 written as US 63536
    low, high = sorted(v * plane.slope + plane.intercept for v in values)
    return low, high


def _sources(series: DicomSeries, files: Sequence[_File], stack: SliceStack) -> tuple[Source, ...]:
    in_order = list(dict.fromkeys(plane.path for plane in stack.planes))
    left_out = [file.path for file in files if file.path not in set(in_order)]
    hashes = "".join(sha256_of(path) for path in (*in_order, *left_out))
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    return (Source(f"{series.folder}#{series.uid}", digest),)

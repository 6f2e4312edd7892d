"""DICOM: the image series of a folder, and one series as a volume in its true geometry.

Slices are placed by Image Position and Orientation (Patient) alone, never by file name or
instance number. Rounding of the positions is forgiven; anything else that would make a plain
stack lie (doubled, missing or uneven slices, gantry tilt) is undone and recorded, or refused.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import Interpolator, resample
from SynthCTLib.volume import (
    AIR_HU,
    DEFAULT_UNIT,
    Grid,
    Provenance,
    Role,
    Source,
    Step,
    Unit,
    Volume,
    sha256_of,
)

Array = npt.NDArray[Any]
Header = Mapping[str, Any]

# Two positions nearer than this are one: the finest slice spacing in use is 0.1 mm, and decimal
# strings of 16 characters are good to 1e-6 mm.
SAME_POSITION_MM = 0.01
# Scanners round positions (0.625 mm steps written as 0.6, 1.3, 1.9): a slice this part of a
# spacing (or 0.1 mm) off the even lattice is on it.
LATTICE_TOLERANCE = 0.05
ROUNDING_MM = 0.1
# Six-digit direction cosines differ by 1e-6; 1e-3 is 0.26 mm over a head.
SAME_DIRECTION = 1e-3
# Gaps up to this multiple of the median are taken for a mere variation of the slice spacing.
WIDEST_GAP = 3.0
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
    "BitsStored",
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
_READ = sorted({*_FUNCTIONAL_GROUPS, *_LISTED, *_LAYOUT, *_TRAITS, *_KEPT})


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

    Role and unit come from the tags unless given. A CT lies in HU at or above -1024, with -1000
    where the scanner marks voxels as not reconstructed. Integers that fit stay int16, everything
    else is float32. The slice axis runs along the slice normal (row x column).

    Done and recorded as steps with a ``note``: identical copies of a slice are dropped, uneven
    slices are interpolated linearly onto even ones, a tilted stack is resampled onto an upright
    grid. Raises InputError when the series is not one regular stack of slices (different
    orientations, sizes or spacings; different images at one place; missing slices) or when it
    does not have the role.
    """
    files = [_require_file(path) for path in series.files]
    top = files[0].top
    role = _checked_role(series, role, top)
    unit, steps = _unit_of(series, role, unit, top)
    pixels = _Pixels()
    planes = [plane for file in files for plane in _planes_of(file, series)]
    stack, dropped = _stack_of(planes, series, pixels)
    steps += dropped
    array, scaling = _values(stack, series, pixels)
    steps += scaling
    if stack.is_uneven:
        array, stack, step = _evened(array, stack, series)
        steps.append(step)
    image = sitk.GetImageFromArray(array)
    del array
    grid = stack.upright_grid
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    volume = Volume(image, role, unit, Provenance(_sources(series, files, stack), tuple(steps)))
    if stack.is_tilted:
        volume = _untilted(volume, stack, series)
    tags = {k: _plain(top[k]) for k in _KEPT if k in top} | {"SourceFolder": str(series.folder)}
    return replace(volume, provenance=replace(volume.provenance, tags=tags))


@contextmanager
def without_itk_warnings() -> Iterator[None]:
    """ITK and GDCM print no warnings inside; what goes wrong is raised."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


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
                groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
                shared = _flat(dataset.get("SharedFunctionalGroupsSequence") or [], sequences=True)
                frames: list[Header] = [
                    ChainMap(_flat([group], sequences=True), shared, top) for group in groups
                ]
        except InvalidDicomError:
            if path.suffix.lower() in (".dcm", ".dicom"):
                raise InputError(
                    f"{path} is named as DICOM and is not: copy it again or remove it."
                ) from None
            return None
        except PermissionError as error:
            raise InputError(f"{path} cannot be read: check its permissions.") from error
        except (ValueError, TypeError, KeyError, EOFError, OSError, struct.error) as error:
            raise InputError(
                f"The DICOM file {path} is damaged: copy it again or remove it."
            ) from error
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
            elif element.value not in (None, ""):
                flat[element.keyword] = element.value
    return flat


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def _plain(value: Any) -> Any:
    """A DICOM value as plain JSON."""
    if isinstance(value, str | bytes):
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
    if role not in (Role.PET, Role.NAC_PET):
        return DEFAULT_UNIT[role], []
    units, weighting = str(top.get("Units", "none")), str(top.get("SUVType", "BW"))
    if units == "BQML":
        return Unit.BQ_PER_ML, []
    if units == "GML" and weighting == "BW":
        return Unit.SUV, []
    said = f"{units} (SUV by {weighting})" if units == "GML" else units
    note = f"The {series.title} has the units {said}: its values are taken as arbitrary."
    return Unit.ARBITRARY, [Step("take_as_arbitrary", {"units": said, "note": note})]


# --- geometry ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plane:
    """One slice: where it lies (LPS mm), how its stored values become real ones."""

    path: Path
    frame: int
    position: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64]  # unit vectors along a row, then along a column
    spacing: tuple[float, float]  # mm along a row, then along a column
    shape: tuple[int, int]  # rows, columns
    slope: float
    intercept: float
    thickness: float | None
    header: Header


def _planes_of(file: _File, series: DicomSeries) -> Iterator[_Plane]:
    top = file.top
    if int(top.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in str(
        top.get("PhotometricInterpretation")
    ):
        raise InputError(
            f"The {series.title} is a colour image: choose a series of single values a voxel."
        )
    if int(top.get("NumberOfFrames", 1)) != len(file.frames):
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
        thickness = header.get("SliceThickness")
        yield _Plane(
            path=file.path,
            frame=frame,
            position=_numbers(header, "ImagePositionPatient", 3, file),
            orientation=orientation,
            # Pixel Spacing gives the distance between rows first (PS3.3 10.7.1.3).
            spacing=(float(spacing[1]), float(spacing[0])),
            shape=(int(top["Rows"]), int(top["Columns"])),
            slope=float(header.get("RescaleSlope", 1.0)),
            intercept=float(header.get("RescaleIntercept", 0.0)),
            thickness=None if thickness is None else float(thickness),
            header=header,
        )


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


@dataclass(frozen=True, eq=False)
class _Stack:
    """Slices in order along their normal, one at each place."""

    planes: tuple[_Plane, ...]
    axes: npt.NDArray[np.float64]  # columns: along a row, along a column, normal
    heights: npt.NDArray[np.float64]  # mm along the normal, from the first slice
    shear: npt.NDArray[np.float64]  # in-plane mm (LPS vector) gained for each mm of height

    @property
    def spacing(self) -> float:
        return float(self.heights[-1] / (len(self.heights) - 1))

    @property
    def is_uneven(self) -> bool:
        even = np.linspace(0.0, self.heights[-1], len(self.heights))
        allowed = max(LATTICE_TOLERANCE * self.spacing, min(ROUNDING_MM, self.spacing / 4))
        return bool(np.abs(self.heights - even).max() > allowed)

    @property
    def shift(self) -> npt.NDArray[np.float64]:
        """LPS mm by which the last slice lies beside the first."""
        shift: npt.NDArray[np.float64] = self.shear * self.heights[-1]
        return shift

    @property
    def is_tilted(self) -> bool:
        return bool(np.linalg.norm(self.shift) > ROUNDING_MM)

    @property
    def upright_grid(self) -> Grid:
        """The grid of the stack if every slice lay straight above the first."""
        first = self.planes[0]
        rows, columns = first.shape
        x, y, z = (float(p) for p in first.position)
        return Grid(
            (columns, rows, len(self.heights)),
            (*first.spacing, self.spacing),
            (x, y, z),
            tuple(float(v) for v in self.axes.ravel()),
        )


def _stack_of(
    planes: list[_Plane], series: DicomSeries, pixels: _Pixels
) -> tuple[_Stack, list[Step]]:
    """Order the slices; drop copies; refuse what is not one straight stack without holes."""
    first = planes[0]
    if any(np.abs(p.orientation - first.orientation).max() > SAME_DIRECTION for p in planes):
        raise InputError(
            f"The slices of the {series.title} have different orientations: "
            "give a series of parallel slices (this one may be a scout)."
        )
    layouts = sorted({(*p.shape, *np.round(p.spacing, 4)) for p in planes})
    if len(layouts) > 1:
        shown = " and ".join(f"{r} x {c} at {x:g} x {y:g} mm" for r, c, x, y in layouts[:2])
        raise InputError(
            f"The slices of the {series.title} differ in size or pixel spacing ({shown}): "
            "export a series of equal slices."
        )
    axes = _axes(first.orientation)
    normal = axes[:, 2]
    planes = sorted(planes, key=lambda p: (float(p.position @ normal), str(p.path), p.frame))
    planes, steps = _without_copies(planes, normal, series, pixels)
    if len(planes) < 2:
        raise InputError(
            f"The {series.title} has one slice and a volume needs several: "
            "give the folder with the whole series."
        )
    offsets = np.array([p.position - planes[0].position for p in planes])
    heights = offsets @ normal
    _require_no_hole(planes, heights, series)
    sideways = offsets - np.outer(heights, normal)
    shear = sideways.T @ heights / (heights @ heights)
    strayed = float(np.abs(sideways - np.outer(heights, shear)).max())
    if strayed > max(ROUNDING_MM, LATTICE_TOLERANCE * min(first.spacing)):
        raise InputError(
            f"The slices of the {series.title} do not lie on a straight line (up to "
            f"{strayed:.1f} mm aside): export a series of slices stacked in one direction."
        )
    return _Stack(tuple(planes), axes, heights, shear), steps


def _axes(orientation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Columns: unit vectors along a row, along a column, and their cross product."""
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    column = orientation[3:] - (orientation[3:] @ row) * row
    column /= np.linalg.norm(column)
    return np.column_stack([row, column, np.cross(row, column)])


def _without_copies(
    planes: list[_Plane], normal: npt.NDArray[np.float64], series: DicomSeries, pixels: _Pixels
) -> tuple[list[_Plane], list[Step]]:
    """One plane a place. Raises InputError where images at one place differ."""
    kept = planes[:1]
    for plane in planes[1:]:
        offset = plane.position - kept[-1].position
        if abs(offset @ normal) > SAME_POSITION_MM:
            kept.append(plane)
            continue
        if np.linalg.norm(offset) > SAME_POSITION_MM:
            raise InputError(
                f"The {series.title} has slices that lie side by side in one plane: "
                "export each stack as its own series."
            )
        if not _same_values(kept[-1], plane, pixels):
            raise InputError(
                f"The {series.title} has several different images at one position, which "
                f"{_difference(kept[-1], plane)}: export one set of them as its own series."
            )
    copies = len(planes) - len(kept)
    if not copies:
        return kept, []
    note = f"{copies} slices of the {series.title} were identical copies of others and left out."
    return kept, [Step("drop_copied_slices", {"count": copies, "note": note})]


def _same_values(a: _Plane, b: _Plane, pixels: _Pixels) -> bool:
    return (a.slope, a.intercept) == (b.slope, b.intercept) and np.array_equal(
        pixels.stored(a), pixels.stored(b)
    )


def _difference(a: _Plane, b: _Plane) -> str:
    for keyword in _TRAITS:
        one, other = (str(p.header.get(keyword, "none")) for p in (a, b))
        if one != other:
            return f"differ in {keyword} ({one} and {other})"
    return "no known tag tells apart"


def _require_no_hole(
    planes: list[_Plane], heights: npt.NDArray[np.float64], series: DicomSeries
) -> None:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    missing, first = 0, None
    for i, gap in enumerate(gaps):
        times = gap / usual
        thick = [t for t in (planes[i].thickness, planes[i + 1].thickness) if t is not None]
        # Old head CTs step 5 mm through the skull base and 10 mm above, with slices as thick:
        # what is covered by the slices' own thickness is not missing.
        covered = len(thick) == 2 and sum(thick) / 2 >= 0.9 * gap
        if round(times) >= 2 and abs(times - round(times)) <= 0.1 * times and not covered:
            missing += round(times) - 1
            if first is None:
                step = (planes[i + 1].position - planes[i].position) / round(times)
                first = planes[i].position + step
    if first is not None:
        at = ", ".join(f"{v:.1f}" for v in first)
        raise InputError(
            f"{missing} of {len(planes) + missing} slices are missing from the {series.title}, "
            f"the first at Image Position ({at}) mm: copy the whole series again."
        )
    if gaps.max() > WIDEST_GAP * usual:
        raise InputError(
            f"The slices of the {series.title} are up to {gaps.max():.1f} mm apart where "
            f"{usual:.1f} mm is usual: give a series with even slices."
        )


def _evened(
    array: Array, stack: _Stack, series: DicomSeries
) -> tuple[npt.NDArray[np.float32], _Stack, Step]:
    """Slices at even heights, interpolated linearly between their two neighbours."""
    gaps = np.diff(stack.heights)
    count = max(2, 1 + round(float(stack.heights[-1] / np.median(gaps))))
    even = np.linspace(0.0, stack.heights[-1], count)
    below = np.clip(np.searchsorted(stack.heights, even, side="right") - 1, 0, len(gaps) - 1)
    weight = ((even - stack.heights[below]) / gaps[below]).astype(np.float32)
    result = np.empty((count, *array.shape[1:]), np.float32)
    for out, i, w in zip(result, below, weight, strict=True):
        np.multiply(array[i], 1 - w, out=out)
        out += w * array[i + 1]
    note = (
        f"The slices of the {series.title} lie {gaps.min():.2f} to {gaps.max():.2f} mm apart: "
        f"{count} slices every {even[1]:.2f} mm were interpolated from them."
    )
    settings = {
        "gaps_mm": [float(gaps.min()), float(gaps.max())],
        "spacing_mm": float(even[1]),
        "interpolator": "linear",
        "note": note,
    }
    return result, replace(stack, heights=even), Step("even_slices", settings)


def _untilted(volume: Volume, stack: _Stack, series: DicomSeries) -> Volume:
    """The sheared stack on an orthogonal grid that holds all of it.

    The slices stay where they are and are only shifted within their planes, so nothing is
    interpolated across them.
    """
    upright = stack.upright_grid
    in_plane = (stack.axes[:, :2].T @ stack.shift) / np.asarray(upright.spacing_mm[:2])
    before = np.floor(np.minimum(in_plane, 0.0) + 1e-6).astype(int)
    after = np.ceil(np.maximum(in_plane, 0.0) - 1e-6).astype(int)
    start = upright.index_to_world @ [*before, 0, 1]
    grid = replace(
        upright,
        size=(
            upright.size[0] + int(after[0] - before[0]),
            upright.size[1] + int(after[1] - before[1]),
            upright.size[2],
        ),
        origin_mm=(float(start[0]), float(start[1]), float(start[2])),
    )
    to_upright = sitk.AffineTransform(3)
    to_upright.SetCenter(upright.origin_mm)
    to_upright.SetMatrix((np.eye(3) - np.outer(stack.shear, stack.axes[:, 2])).ravel().tolist())
    outside = AIR_HU if series.modality == "CT" else 0.0
    moved = resample(
        volume, grid, transform=to_upright, interpolator=Interpolator.LINEAR, outside=outside
    )
    degrees = float(np.degrees(np.arctan(np.linalg.norm(stack.shear))))
    note = (
        f"The slices of the {series.title} are tilted by {degrees:.1f} degrees against their "
        "direction of travel: they were resampled onto an upright grid."
    )
    return replace(
        moved,
        provenance=volume.provenance.with_step(
            Step(
                "untilt",
                {
                    "tilt_degrees": degrees,
                    "interpolator": "linear",
                    "outside": outside,
                    "note": note,
                },
            )
        ),
    )


# --- values --------------------------------------------------------------------------------


class _Pixels:
    """Stored values of planes; the last file read is kept, for files of many frames."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Array = np.empty(0)
        self._is_rescaled = False

    def stored(self, plane: _Plane) -> Array:
        """Values as stored, shape (rows, columns); see ``is_rescaled``."""
        self._load(plane.path)
        if self._frames[plane.frame : plane.frame + 1].shape[1:] != plane.shape:
            raise _damaged(plane.path)
        values: Array = self._frames[plane.frame]
        return values

    def is_rescaled(self, plane: _Plane) -> bool:
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
        except (ValueError, TypeError, KeyError, EOFError, OSError, AttributeError) as error:
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
    try:
        with without_itk_warnings():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} is compressed as {name}, which cannot be decoded here: "
            "export the series uncompressed."
        ) from error
    if int(dataset.get("NumberOfFrames", 1)) > 1:
        raise InputError(
            f"{path} has several frames compressed as {name}: export the series uncompressed."
        )
    return sitk.GetArrayFromImage(image), True


def _damaged(path: Path) -> InputError:
    return InputError(f"The pixels of the DICOM file {path} are damaged: copy it again.")


def _values(
    stack: _Stack, series: DicomSeries, pixels: _Pixels
) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.float32], list[Step]]:
    """Real-world values, shape (slices, rows, columns), int16 where exact, else float32."""
    first = stack.planes[0]
    dtype = np.int16 if all(_fits_int16(p) for p in stack.planes) else np.float32
    result = np.empty((len(stack.planes), *first.shape), dtype)
    is_ct = series.modality == "CT"
    padded = raised = 0
    tissue_padding: float | None = None
    for out, plane in zip(result, stack.planes, strict=True):
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
        out[:] = values
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
    return result, steps


def _fits_int16(plane: _Plane) -> bool:
    if "BitsStored" not in plane.header:  # float pixel data
        return False
    bits, signed = int(plane.header["BitsStored"]), plane.header.get("PixelRepresentation") == 1
    low = -(2 ** (bits - 1)) if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    limits = np.iinfo(np.int16)
    return (
        plane.slope == 1.0
        and plane.intercept.is_integer()
        and low + plane.intercept >= limits.min
        and high + plane.intercept <= limits.max
    )


def _padding_hu(plane: _Plane) -> tuple[float, float] | None:
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


def _sources(series: DicomSeries, files: Sequence[_File], stack: _Stack) -> tuple[Source, ...]:
    in_order = list(dict.fromkeys(plane.path for plane in stack.planes))
    left_out = [file.path for file in files if file.path not in set(in_order)]
    hashes = "".join(sha256_of(path) for path in (*in_order, *left_out))
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    return (Source(f"{series.folder}#{series.uid}", digest),)

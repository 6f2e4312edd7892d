"""The image series in a folder, and the one among them that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.dicom.headers import DicomFile, words
from SynthCTLib.imaging.slices import Header
from SynthCTLib.volume import Role

_ROLES_OF_MODALITY = {
    "MR": (Role.MR,),
    "CT": (Role.CT,),
    "PT": (Role.PET, Role.NAC_PET),
}


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
    found: dict[tuple[str, str], list[DicomFile]] = {}
    others: set[str] = set()
    for path in sorted(_walk(folder, recursive=recursive)):
        file = DicomFile.read(path)
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
    file = DicomFile.read(path)
    if file is None or not file.is_image_in_space or file.is_scout:
        kind = "not a DICOM file" if file is None else "a scout" if file.is_scout else file.kind
        raise InputError(f"{path} is {kind}, not a slice of an image series: give such a slice.")
    uid, patient = file.top.get("SeriesInstanceUID"), file.top.get("PatientID", "")
    for series in list_series(path.parent, recursive=False):
        if (series.uid, series.patient_id) == (uid, patient):
            return series
    raise InputError(f"{path} has no Series Instance UID: export the series again.")


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
        f"name one by its Series Instance UID, or give a file of it; there are {shown}."
    )


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


def _series_of(files: Sequence[DicomFile], folder: Path) -> DicomSeries:
    top = files[0].top
    parents = {file.path.parent for file in files}
    date = str(top.get("SeriesDate") or top.get("StudyDate") or "")
    return DicomSeries(
        uid=str(top.get("SeriesInstanceUID", "")),
        modality=str(top.get("Modality", "unknown")),
        description=" ".join(str(top.get("SeriesDescription", "")).split()),
        patient_id=str(top.get("PatientID", "")),
        date=f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date,
        role=role_of(top),
        folder=parents.pop() if len(parents) == 1 else folder,
        files=tuple(file.path for file in files),
    )


def role_of(top: Header) -> Role | None:
    """The role that Modality and Corrected Image name, None where that is none of SynthCT's."""
    roles = _ROLES_OF_MODALITY.get(str(top.get("Modality")), (None,))
    corrections = words(top.get("CorrectedImage"))
    # A PET that does not say what was corrected is taken for the ordinary, corrected one.
    return roles[-1] if corrections and "ATTN" not in corrections else roles[0]

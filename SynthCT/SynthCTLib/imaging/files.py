"""Image files as volumes and back: NIfTI, NRRD, MetaImage; DICOM and Interfile by their modules.

ITK decodes the voxels. What it does not notice is checked here: it reads the missing half of a
truncated NIfTI, and NaN in it, as zeros; takes the voxel size of a NIfTI from ``pixdim`` where its
``sform`` says otherwise; reads ``a.nii`` for ``a.nii.gz`` where both exist; accepts sheared axes
and garbled compressed MetaImages without a word; and writes half a NIfTI onto a full disk.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.imaging.dicom import read_dicom
from SynthCTLib.imaging.formats.header import (
    SHEAR,
    Inspected,
    damaged,
    no_numbers,
    no_orientation,
    no_voxel_size,
    shear_of,
    sheared,
)
from SynthCTLib.imaging.formats.meta import inspect_meta
from SynthCTLib.imaging.formats.nifti import inspect_nifti
from SynthCTLib.imaging.formats.nrrd import inspect_nrrd
from SynthCTLib.imaging.interfile import is_interfile, read_interfile
from SynthCTLib.imaging.itk_warnings import without_itk_warnings
from SynthCTLib.volume import (
    DEFAULT_UNIT,
    SYNTHETIC_TAG,
    Grid,
    Provenance,
    Role,
    Source,
    Step,
    Unit,
    Volume,
    sha256_of,
)
from SynthCTLib.whole_file import reason_of, whole_file

_FORMATS: dict[str, Callable[[Path], Inspected]] = {
    ".nii": inspect_nifti,
    ".nii.gz": inspect_nifti,
    ".nrrd": inspect_nrrd,
    ".nhdr": inspect_nrrd,
    ".mha": inspect_meta,
    ".mhd": inspect_meta,
}

WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

_OTHER_TYPES = {
    ".png": "a PNG picture",
    ".jpg": "a JPEG picture",
    ".jpeg": "a JPEG picture",
    ".tif": "a TIFF picture",
    ".tiff": "a TIFF picture",
    ".bmp": "a BMP picture",
    ".gif": "a GIF picture",
    ".hdr": "half of an Analyze or NIfTI pair",
    ".img": "half of an Analyze or NIfTI pair",
    ".mgz": "a FreeSurfer volume",
    ".mgh": "a FreeSurfer volume",
    ".mnc": "a MINC volume",
    ".zip": "an archive",
}
_SMALL = (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16)
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
# NIfTI has 79 characters for a description, the other formats any key; ITK maps this one to both.
_NOTES_KEY = "ITK_FileNotes"
_NOTES = re.compile(r"SynthCT role=(\S+) unit=(\S+)( synthetic)?")
_IMAGES = (Role.MR, Role.CT, Role.PET, Role.NAC_PET, Role.MU_MAP)


def read_volume(
    path: str | Path, role: Role, unit: Unit | None = None, *, series: str | None = None
) -> Volume:
    """An image file, a DICOM folder, or the series that a DICOM file belongs to, as a volume.

    NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), Interfile (its header) and
    DICOM. The unit is the one given, else what DICOM tags or SynthCT's own note in the header say,
    else the role's default; one that contradicts the note is refused, because no value is converted
    on reading a file. ``series`` names one of several DICOM series by its UID or modality.
    Values are int16 where the file has small integers, else float32; those of a mask are uint8, 0
    and 1.

    What was done to the image or assumed about it is in the provenance; see ``reading_notes``.
    Raises InputError, in one sentence, for whatever is not one sound, three-dimensional, scalar,
    finite, non-empty image with a known place in the patient.
    """
    path = Path(path)
    interfile = is_interfile(path)
    if not interfile and _is_dicom(path):
        volume = read_dicom(path, role, unit, series)
    else:
        if series is not None:
            raise InputError(
                f"{path} is no DICOM folder, so the series {series!r} cannot be chosen in it: "
                "leave the series out or give the folder."
            )
        read = read_interfile if interfile else _read_file
        volume = read(path, role, unit)
    _require_content(volume, path)
    if role == Role.MASK:
        return _as_mask(volume, path)
    # Unsigned types would wrap round in differences.
    small = volume.image.GetPixelID() in _SMALL and volume.array.max() <= np.iinfo(np.int16).max
    kind = sitk.sitkInt16 if small else sitk.sitkFloat32
    if volume.image.GetPixelID() != kind:
        volume = replace(volume, image=sitk.Cast(volume.image, kind))
        _require_content(volume, path)  # a double beyond the range of float32 is infinite now
    return volume


def read_label_map(path: str | Path) -> Volume:
    """A label map (role MASK) as int16, or int32 where its labels need that.

    Raises InputError as ``read_volume``, and when a value is not a whole number.
    """
    path = Path(path)
    volume = _read_file(path, Role.MASK, Unit.ARBITRARY)
    _require_content(volume, path)
    low, high = _whole_range(volume, path)
    fits = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    return replace(
        volume, image=sitk.Cast(volume.image, sitk.sitkInt16 if fits else sitk.sitkInt32)
    )


def reading_notes(volume: Volume) -> tuple[str, ...]:
    """The sentences that its provenance has for the user: what reading had to do or to assume."""
    return tuple(s.settings["note"] for s in volume.provenance.steps if "note" in s.settings)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume, compressed, as its suffix says: .nii.gz, .nii, .nrrd or .mha.

    Doubles become float32; role, unit and whether a model made it go into the header. The file
    appears under its name only when it is complete and reads back equal. Raises OutputError
    otherwise, leaving nothing.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix not in WRITTEN_SUFFIXES:
        raise OutputError(
            f"{path} cannot be written: its name must end in {', '.join(WRITTEN_SUFFIXES)}."
        )
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a parent may not be entered
        raise OutputError(f"{path} cannot be written: it is a folder; choose another name.")
    wrong = volume.array.size - int(np.isfinite(volume.array).sum())
    if wrong:  # a NIfTI would silently hold zeros instead
        raise OutputError(f"{path} cannot be written: {wrong} voxels are NaN or infinite.")
    image = _to_write(volume)
    try:
        with whole_file(path) as part:
            _require_room(path.parent, volume.array.size * image.GetSizeOfPixelComponent())
            with without_itk_warnings():
                sitk.WriteImage(image, str(part), useCompression=True)
            _require_written(part, image)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({reason_of(error)}).") from error
    except (InputError, RuntimeError) as error:
        raise OutputError(
            f"{path} cannot be written: the file came out incomplete; check that the disk has room."
        ) from error


# --- reading -------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _is_dicom(path: Path) -> bool:
    """Whether to read the path as DICOM. Raises InputError when it is nothing that can be read."""
    try:
        if path.is_dir():
            return True
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes): copy it again.")
        with path.open("rb") as stream:
            start = stream.read(132)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}: check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file.") from error
    suffix = _suffix(path)
    if suffix in _FORMATS:
        return False
    if start[128:] == b"DICM" or suffix == ".dcm":
        return True
    kind = _OTHER_TYPES.get(suffix, f"of the type {suffix}" if suffix else "of an unknown type")
    raise InputError(
        f"{path} is {kind}, which SynthCT does not read: give NIfTI (.nii, .nii.gz), NRRD (.nrrd), "
        "MetaImage (.mha) or DICOM."
    )


def _read_file(path: Path, role: Role, unit: Unit | None) -> Volume:
    if _suffix(path) not in _FORMATS:
        _is_dicom(path)
        raise InputError(f"{path} is DICOM: give NIfTI, NRRD or MetaImage here.")
    image, inspected, notes = _read_image(path)
    _require_place(image, path)
    said = _NOTES.fullmatch(notes)
    noted = _noted_unit(said, role)
    if noted is not None and unit not in (None, noted):
        raise InputError(
            f"{path} notes that its values are in {noted}, and they were asked for in {unit}: "
            "leave the unit out, or convert the values first."
        )
    unit = unit or noted
    files = [path, inspected.data] if inspected.data else [path]
    sources = tuple(Source(str(file), sha256_of(file)) for file in files)
    tags = {SYNTHETIC_TAG: "YES"} if said and said[3] and role in _IMAGES else {}
    provenance = Provenance(sources, inspected.steps, tags)
    return Volume(image, role, unit or DEFAULT_UNIT[role], provenance)


def _noted_unit(said: re.Match[str] | None, role: Role) -> Unit | None:
    """The unit that a file's own note states for a role; a PET may lie in either of its two."""
    if said is None or said[2] not in list(Unit):
        return None
    pet = (Role.PET, Role.NAC_PET)
    return Unit(said[2]) if said[1] == role or (said[1] in pet and role in pet) else None


def _read_image(path: Path) -> tuple[sitk.Image, Inspected, str]:
    """The image without its header keys, what was found in the header, and its note."""
    try:
        inspected = _FORMATS[_suffix(path)](path)
        with _alone(path) as file, without_itk_warnings():
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            _require_scalar_volume(reader, path)
            if not inspected.has_orientation:
                raise no_orientation(path)
            if reader.GetDimension() > 3:
                reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (reader.GetDimension() - 3)])
            image = reader.Execute()
    except FileNotFoundError as error:
        raise InputError(f"There is no file {error.filename}: check the path.") from error
    except (gzip.BadGzipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise damaged(path) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file.") from error
    notes = image.GetMetaData(_NOTES_KEY) if image.HasMetaDataKey(_NOTES_KEY) else ""
    # A cast leaves the header keys behind: names and dates of patients may stand there.
    image = sitk.Cast(image, image.GetPixelID())
    if inspected.place is not None:
        spacing, origin, direction = inspected.place
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
    return image, inspected, notes


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The file under a name beside which ITK finds no other: it prefers a.nii to a.nii.gz."""
    if _suffix(path) != ".nii.gz" or not path.with_suffix("").exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="synthct-") as folder:
        alone = Path(folder) / "image.nii.gz"
        try:
            alone.symlink_to(path.resolve())
        except OSError:  # Windows allows links to administrators only
            shutil.copyfile(path, alone)
        yield alone


def _require_scalar_volume(reader: sitk.ImageFileReader, path: Path) -> None:
    size = reader.GetSize()
    shown = " x ".join(str(n) for n in size)
    if reader.GetPixelID() in _COMPLEX:
        raise InputError(f"{path} has complex values: give its magnitude image.")
    if reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path} has {reader.GetNumberOfComponents()} components a voxel (a colour or vector "
            "image): give an image with one value a voxel."
        )
    if len(size) > 3 and any(n != 1 for n in size[3:]):
        raise InputError(
            f"{path} has {len(size)} dimensions ({shown}), for instance time points or echoes: "
            "save the one volume to use as a file of its own."
        )
    if len(size) < 3:
        raise InputError(f"{path} is a two-dimensional image ({shown}): give a volume.")


def _require_place(image: sitk.Image, path: Path) -> None:
    if min(image.GetSize()) < 2:
        shown = " x ".join(str(n) for n in image.GetSize())
        raise InputError(f"{path} has only one slice ({shown}): give a volume of several slices.")
    spacing = np.asarray(image.GetSpacing())
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise no_voxel_size(path)
    if not np.isfinite(image.GetOrigin()).all():
        raise InputError(f"{path} has an origin that is no number: export it again.")
    if shear_of(np.reshape(image.GetDirection(), (3, 3))) > SHEAR:
        raise sheared(path)


def _require_content(volume: Volume, path: Path) -> None:
    array = volume.array
    if array.dtype.kind == "f":
        wrong = array.size - int(np.isfinite(array).sum())
        if wrong:
            raise no_numbers(path, wrong)
    if not array.any():
        raise InputError(f"{path} is empty (every voxel is 0): give the right image.")


def _whole_range(volume: Volume, path: Path) -> tuple[int, int]:
    """Smallest and largest value. Raises InputError unless all are whole numbers of 32 bits."""
    low, high = float(volume.array.min()), float(volume.array.max())
    limits = np.iinfo(np.int32)
    whole = volume.array.dtype.kind != "f" or bool((np.rint(volume.array) == volume.array).all())
    if not whole or low < limits.min or high > limits.max:
        raise InputError(
            f"{path} is no mask or label map (its values are not whole numbers of 32 bits): "
            "give a segmentation."
        )
    return int(low), int(high)


def _as_mask(volume: Volume, path: Path) -> Volume:
    """The volume with 0 and 1 only, uint8."""
    _whole_range(volume, path)
    inside = volume.array != 0
    value = int(volume.array[inside][0])
    if (volume.array[inside] != value).any():
        raise InputError(
            f"{path} is a label map of several structures and a mask has one: save the structure "
            "to use as a file of its own."
        )
    return volume.mask(inside, Step("binarise", {"from": value}) if value != 1 else None)


# --- writing -------------------------------------------------------------------------------


def _to_write(volume: Volume) -> sitk.Image:
    kind = volume.image.GetPixelID()
    # A cast leaves the header keys behind.
    image = sitk.Cast(volume.image, sitk.sitkFloat32 if kind == sitk.sitkFloat64 else kind)
    synthetic = volume.role in _IMAGES and volume.provenance.is_synthetic
    made = " synthetic" if synthetic else ""
    image.SetMetaData(_NOTES_KEY, f"SynthCT role={volume.role} unit={volume.unit}{made}")
    return image


def _require_room(folder: Path, needed: int) -> None:
    """Raise OSError unless the disk has room for the voxels uncompressed.

    The NIfTI writer of ITK does not report a full disk, it only prints.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"it needs up to {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
        )


def _require_written(path: Path, image: sitk.Image) -> None:
    """Raise InputError unless the file holds the image."""
    written, _, _ = _read_image(path)
    same_type = written.GetPixelID() == image.GetPixelID()
    if not same_type or not Grid.of(written).matches(Grid.of(image)):
        raise damaged(path)
    ours, theirs = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(written)
    if not np.array_equal(ours, theirs):
        raise damaged(path)

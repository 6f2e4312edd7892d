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
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.imaging.dicom import read_dicom
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
    Triple,
    Unit,
    Volume,
    sha256_of,
)
from SynthCTLib.whole_file import whole_file

Matrix = npt.NDArray[np.float64]

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
# Cosines between axes above this are a shear; below it, six-digit rounding (0.1 mm over a head).
_SHEAR = 1e-3
# Beyond this distance the two geometries of a NIfTI header are two, not one rounded twice.
_FORMS_AGREE_MM = 0.1
_SMALL = (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16)
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
# NIfTI has 79 characters for a description, the other formats any key; ITK maps this one to both.
_NOTES_KEY = "ITK_FileNotes"
_NOTES = re.compile(r"SynthCT role=(\S+) unit=(\S+)( synthetic)?")
_IMAGES = (Role.MR, Role.CT, Role.PET, Role.NAC_PET, Role.MU_MAP)
_BLOCK = 1 << 20


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
        raise OutputError(f"{path} cannot be written ({_reason(error)}).") from error
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


@dataclass(frozen=True)
class _Inspected:
    """What the header of a sound file says beyond what ITK tells.

    ``data`` is the file with the voxels where that is another one; ``has_orientation`` tells
    whether left and right are known; ``place`` is the spacing, origin and direction to use
    instead of ITK's; ``steps`` tell what was assumed.
    """

    data: Path | None = None
    has_orientation: bool = True
    place: tuple[Triple, Triple, tuple[float, ...]] | None = None
    steps: tuple[Step, ...] = ()


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


def _read_image(path: Path) -> tuple[sitk.Image, _Inspected, str]:
    """The image without its header keys, what was found in the header, and its note."""
    try:
        inspected = _FORMATS[_suffix(path)](path)
        with _alone(path) as file, without_itk_warnings():
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            _require_scalar_volume(reader, path)
            if not inspected.has_orientation:
                raise _no_orientation(path)
            if reader.GetDimension() > 3:
                reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (reader.GetDimension() - 3)])
            image = reader.Execute()
    except FileNotFoundError as error:
        raise InputError(f"There is no file {error.filename}: check the path.") from error
    except (gzip.BadGzipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(path) from error
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


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged or incomplete: copy or export it again.")


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
        raise _no_voxel_size(path)
    if not np.isfinite(image.GetOrigin()).all():
        raise InputError(f"{path} has an origin that is no number: export it again.")
    if _shear_of(np.reshape(image.GetDirection(), (3, 3))) > _SHEAR:
        raise _sheared(path)


def _shear_of(direction: Matrix) -> float:
    return float(np.abs(direction.T @ direction - np.eye(3)).max())


def _sheared(path: Path) -> InputError:
    return InputError(
        f"{path} lies on axes that are not perpendicular (as an affine registration leaves them): "
        "resample it onto an ordinary grid first."
    )


def _no_voxel_size(path: Path) -> InputError:
    return InputError(f"{path} does not tell the size of its voxels: set the spacing in mm.")


def _no_orientation(path: Path) -> InputError:
    return InputError(
        f"{path} does not tell how it lies in the patient, so left and right are unknown: "
        "convert it again from the original with orientation."
    )


def _no_numbers(path: Path, count: int) -> InputError:
    return InputError(
        f"{path} has {count} voxels that are NaN or infinite: replace them by the value of the "
        "background."
    )


def _require_content(volume: Volume, path: Path) -> None:
    array = volume.array
    if array.dtype.kind == "f":
        wrong = array.size - int(np.isfinite(array).sum())
        if wrong:
            raise _no_numbers(path, wrong)
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


# --- NIfTI-1 -------------------------------------------------------------------------------

# nifti1.h (R. W. Cox, NIMH, 2003); only the fields that are needed.
_NIFTI_FIELDS = {
    "sizeof_hdr": ("i4", 0),
    "dim": ("8i2", 40),
    "datatype": ("i2", 70),
    "bitpix": ("i2", 72),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "xyzt_units": ("u1", 123),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
    "magic": ("S4", 344),
}
_NIFTI = np.dtype(
    {
        "names": list(_NIFTI_FIELDS),
        "formats": [kind for kind, _ in _NIFTI_FIELDS.values()],
        "offsets": [offset for _, offset in _NIFTI_FIELDS.values()],
        "itemsize": 348,
    }
)
_NIFTI_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32}
_NIFTI_BITS |= {1024: 64, 1280: 64, 1792: 128, 2304: 32}
_NIFTI_FLOATS = {16: "f4", 64: "f8"}
_MM_OF_UNIT = {1: 1000.0, 3: 1e-3}  # metres, micrometres; else mm
_LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _inspect_nifti(path: Path) -> _Inspected:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        header = _nifti_header(stream.read(_NIFTI.itemsize), path)
        stream.seek(max(_NIFTI.itemsize, int(header["vox_offset"])))
        _require_nifti_voxels(stream, header, path)
    affine, steps = _nifti_affine(header, path)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    scale = _MM_OF_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    nominal = np.abs(header["pixdim"][1:4].astype(float))
    # 0.9375 comes out of an oblique float32 matrix as 0.93750003; the header has it exactly.
    spacing = np.where(np.isclose(spacing, nominal, rtol=1e-5), nominal, spacing)
    if _shear_of(direction) > 1e-12:
        u, _, vt = np.linalg.svd(direction)
        direction = u @ vt
    affine = _LPS_OF_RAS @ affine
    direction = _LPS_OF_RAS[:3, :3] @ direction
    return _Inspected(
        place=(
            _triple(spacing * scale),
            _triple(affine[:3, 3] * scale),
            tuple(float(v) + 0.0 for v in direction.ravel()),  # no -0
        ),
        steps=steps,
    )


def _nifti_header(start: bytes, path: Path) -> Any:
    """The header fields in the byte order of this machine."""
    if len(start) < _NIFTI.itemsize:
        raise _damaged(path)
    header = np.frombuffer(start, _NIFTI)[0]
    if header["sizeof_hdr"] not in (_NIFTI.itemsize, 540):
        header = np.frombuffer(start, _NIFTI.newbyteorder())[0]
    if header["sizeof_hdr"] == 540:
        raise InputError(f"{path} is NIfTI-2: save it as NIfTI-1.")
    if header["sizeof_hdr"] != _NIFTI.itemsize or header["magic"] != b"n+1":
        raise InputError(f"{path} is not a NIfTI-1 file despite its name: convert it again.")
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7 or (header["dim"][1 : dimensions + 1] < 1).any():
        raise _damaged(path)
    if _NIFTI_BITS.get(int(header["datatype"])) != header["bitpix"]:
        raise _damaged(path)
    return header


def _require_nifti_voxels(stream: BufferedIOBase, header: Any, path: Path) -> None:
    """Raise InputError unless all voxels are there, and numbers. Also proves a gzip checksum."""
    voxels = int(np.prod(header["dim"][1 : header["dim"][0] + 1], dtype=np.int64))
    missing = voxels * int(header["bitpix"]) // 8
    kind = _NIFTI_FLOATS.get(int(header["datatype"]))
    dtype = (
        None if kind is None else np.dtype(kind).newbyteorder(header.dtype["dim"].base.byteorder)
    )
    wrong = 0
    while missing > 0:
        block = stream.read(min(missing, _BLOCK))
        if not block:
            raise _damaged(path)
        missing -= len(block)
        if dtype is not None:
            wrong += int((~np.isfinite(np.frombuffer(block, dtype))).sum())
    while stream.read(_BLOCK):
        pass
    if wrong:
        raise _no_numbers(path, wrong)


def _triple(values: Matrix) -> Triple:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _nifti_affine(header: Any, path: Path) -> tuple[Matrix, tuple[Step, ...]]:
    """Voxel index to RAS: the sform where it is set and rigid, else the qform.

    Where both are set they must agree on voxel size and handedness; if they place the image
    differently, the sform is taken (as nibabel and FSL do) and that is recorded.
    """
    forms = [form for form in (_sform(header), _qform(header)) if form is not None]
    if not forms:
        raise _no_orientation(path)
    if not np.isfinite(forms).all():
        raise _damaged(path)
    if len(forms) == 1:
        _require_rigid(forms[0], path)
        return forms[0], ()
    sform, qform = forms
    if not _is_rigid(sform):
        _require_rigid(qform, path)
        note = f"The sform of {path} is sheared: its qform was used."
        return qform, (Step("use_qform", {"note": note}),)
    if not _is_rigid(qform):
        return sform, ()
    apart = _apart_mm(sform, qform, header["dim"][1:4])
    if apart <= _FORMS_AGREE_MM:
        return sform, ()
    size_s, size_q = (np.linalg.norm(form[:3, :3], axis=0) for form in forms)
    if not np.allclose(size_s, size_q, rtol=0.01):
        raise InputError(
            f"{path} gives two voxel sizes (sform and qform differ): set both forms alike."
        )
    if np.linalg.det(sform) * np.linalg.det(qform) < 0:
        raise InputError(
            f"{path} contradicts itself on which side is left (sform and qform differ): "
            "set both forms alike."
        )
    note = f"The sform and qform of {path} lie up to {apart:.1f} mm apart: the sform was used."
    return sform, (Step("use_sform", {"apart_mm": apart, "note": note}),)


def _sform(header: Any) -> Matrix | None:
    if header["sform_code"] <= 0:
        return None
    return np.vstack([header["srow"].astype(np.float64), [0, 0, 0, 1]])


def _qform(header: Any) -> Matrix | None:
    if header["qform_code"] <= 0:
        return None
    b, c, d = (float(v) for v in header["quatern"])
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    affine = np.eye(4)
    if np.isfinite([b, c, d]).all():
        affine[:3, :3] = Rotation.from_quat([b, c, d, a]).as_matrix()
    affine[:3, :3] *= np.abs(header["pixdim"][1:4].astype(float))
    if header["pixdim"][0] < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = header["qoffset"]
    return affine


def _is_rigid(affine: Matrix) -> bool:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((spacing > 0).all()) and _shear_of(affine[:3, :3] / spacing) <= _SHEAR


def _require_rigid(affine: Matrix, path: Path) -> None:
    if (np.linalg.norm(affine[:3, :3], axis=0) == 0).any():
        raise _no_voxel_size(path)
    if not _is_rigid(affine):
        raise _sheared(path)


def _apart_mm(one: Matrix, other: Matrix, size: Any) -> float:
    """Largest distance between the places that two affines give a corner voxel."""
    corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= size.astype(float) - 1
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


# --- NRRD and MetaImage --------------------------------------------------------------------

# The spaces that ITK brings to LPS; the others say nothing of the patient.
_NRRD_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")
_NRRD_SHORT = ("lps", "ras", "las")
# Number of values in a list: the dimensions to this power.
_META_LISTS = {
    "DimSize": 1,
    "ElementSpacing": 1,
    "ElementSize": 1,
    "Offset": 1,
    "Position": 1,
    "Origin": 1,
    "CenterOfRotation": 1,
    "TransformMatrix": 2,
    "Orientation": 2,
    "Rotation": 2,
}
_META_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}


def _inspect_nrrd(path: Path) -> _Inspected:
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        if not stream.readline().startswith(b"NRRD"):
            raise InputError(f"{path} is not an NRRD file despite its name: convert it again.")
        while line := stream.readline().strip():
            name, colon, value = line.decode("utf-8", "replace").partition(": ")
            if colon:
                fields[name.lower()] = value.strip()
    space = fields.get("space", "").lower().removesuffix("-time")
    known = space in _NRRD_SPACES or space.removesuffix("t") in _NRRD_SHORT
    named = fields.get("data file", fields.get("datafile"))
    return _Inspected(
        data=_data_file(path, named),
        has_orientation=known and "space directions" in fields,
    )


def _inspect_meta(path: Path) -> _Inspected:
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while "ElementDataFile" not in fields:
            line = stream.readline(_BLOCK)
            if not line:
                raise _damaged(path)
            name, _, value = line.decode("ascii").partition("=")
            fields[name.strip()] = value.strip()
        begin = stream.tell()
    size = [int(n) for n in fields["DimSize"].split()]
    # ITK writes beyond its memory where a list is too long, and reads nan as 0.
    for name in _META_LISTS.keys() & fields:
        values = [float(v) for v in fields[name].split()]
        if len(values) != len(size) ** _META_LISTS[name] or not np.isfinite(values).all():
            raise _damaged(path)
    if int(fields["NDims"]) != len(size) or min(size) < 1:
        raise _damaged(path)
    named = fields["ElementDataFile"]
    data = None if named.upper() == "LOCAL" else _data_file(path, named)
    binary = fields.get("BinaryData", "True").lower()
    if binary not in ("true", "false"):
        raise _damaged(path)
    if binary == "true":
        needed = int(np.prod(size, dtype=np.int64)) * _META_BYTES[fields["ElementType"]]
        needed *= int(fields.get("ElementNumberOfChannels", 1))
        begin = begin if data is None else max(0, int(fields.get("HeaderSize", 0)))
        packed = fields.get("CompressedData", "False").lower() == "true"
        if packed:
            held = _unpacked_length(data or path, begin, int(fields["CompressedDataSize"]))
        else:
            held = min(needed, (data or path).stat().st_size - begin)
        if held != needed:
            raise _damaged(path)
    return _Inspected(data=data)


def _unpacked_length(path: Path, begin: int, packed: int) -> int:
    """Bytes that ``packed`` bytes from ``begin`` on hold. Raises when the packing is hurt."""
    unpacker, length = zlib.decompressobj(wbits=47), 0  # 47: zlib or gzip, as the data say
    with path.open("rb") as stream:
        stream.seek(begin)
        while not unpacker.eof:
            block = stream.read(min(packed, _BLOCK))
            if not block:
                raise EOFError
            packed -= len(block)
            length += len(unpacker.decompress(block))
    return length


def _data_file(path: Path, named: str | None) -> Path | None:
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


_FORMATS: dict[str, Callable[[Path], _Inspected]] = {
    ".nii": _inspect_nifti,
    ".nii.gz": _inspect_nifti,
    ".nrrd": _inspect_nrrd,
    ".nhdr": _inspect_nrrd,
    ".mha": _inspect_meta,
    ".mhd": _inspect_meta,
}


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
        raise _damaged(path)
    ours, theirs = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(written)
    if not np.array_equal(ours, theirs):
        raise _damaged(path)


def _reason(error: OSError) -> str:
    """What is wrong and what to do."""
    advice = {
        errno.ENOSPC: "free some space or choose another disk",
        errno.ENOENT: "create its folder first",
        errno.ENOTDIR: "choose a folder",
        errno.EACCES: "choose a folder that you may write to",
        errno.EPERM: "choose a folder that you may write to",
        errno.EROFS: "choose a folder that you may write to",
    }
    return f"{error.strerror}: {advice.get(error.errno or 0, 'choose another folder')}"

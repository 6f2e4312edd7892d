"""NIfTI-1: whether all voxels are there, and where sform and qform place them."""

from __future__ import annotations

import gzip
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.formats.header import (
    BLOCK,
    SHEAR,
    Inspected,
    Matrix,
    damaged,
    no_numbers,
    no_orientation,
    no_voxel_size,
    shear_of,
    sheared,
)
from SynthCTLib.volume import Step, Triple

# Beyond this distance the two geometries of a NIfTI header are two, not one rounded twice.
_FORMS_AGREE_MM = 0.1
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


def inspect_nifti(path: Path) -> Inspected:
    """What the header of a sound NIfTI-1 file says. Raises InputError or what reading raises."""
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
    if shear_of(direction) > 1e-12:
        u, _, vt = np.linalg.svd(direction)
        direction = u @ vt
    affine = _LPS_OF_RAS @ affine
    direction = _LPS_OF_RAS[:3, :3] @ direction
    return Inspected(
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
        raise damaged(path)
    header = np.frombuffer(start, _NIFTI)[0]
    if header["sizeof_hdr"] not in (_NIFTI.itemsize, 540):
        header = np.frombuffer(start, _NIFTI.newbyteorder())[0]
    if header["sizeof_hdr"] == 540:
        raise InputError(f"{path} is NIfTI-2: save it as NIfTI-1.")
    if header["sizeof_hdr"] != _NIFTI.itemsize or header["magic"] != b"n+1":
        raise InputError(f"{path} is not a NIfTI-1 file despite its name: convert it again.")
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7 or (header["dim"][1 : dimensions + 1] < 1).any():
        raise damaged(path)
    if _NIFTI_BITS.get(int(header["datatype"])) != header["bitpix"]:
        raise damaged(path)
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
        block = stream.read(min(missing, BLOCK))
        if not block:
            raise damaged(path)
        missing -= len(block)
        if dtype is not None:
            wrong += int((~np.isfinite(np.frombuffer(block, dtype))).sum())
    while stream.read(BLOCK):
        pass
    if wrong:
        raise no_numbers(path, wrong)


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
        raise no_orientation(path)
    if not np.isfinite(forms).all():
        raise damaged(path)
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
    return bool((spacing > 0).all()) and shear_of(affine[:3, :3] / spacing) <= SHEAR


def _require_rigid(affine: Matrix, path: Path) -> None:
    if (np.linalg.norm(affine[:3, :3], axis=0) == 0).any():
        raise no_voxel_size(path)
    if not _is_rigid(affine):
        raise sheared(path)


def _apart_mm(one: Matrix, other: Matrix, size: Any) -> float:
    """Largest distance between the places that two affines give a corner voxel."""
    corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= size.astype(float) - 1
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())

"""Voxels to and from files a slab at a time, so that the window lives on beside large volumes.

What is written is NRRD, or NIfTI-1 as SynthCTLib writes it: gzip, one file, no scaling, the place
of the voxels in its sform; that is also what is read. NIfTI and MRML are RAS, the NRRD is LPS.
"""

import gzip
import math
import struct
import sys
import zlib

import vtk
from slicer.i18n import tr as _

from SynthCTSlicer.signals import PanelError

WRITE_BYTES = 8 << 20
READ_BYTES = 2 << 20
PACK_BYTES = 1 << 20
"""A step: 10 to 30 ms on a machine at rest; inflating is slower, and packing slower still."""

# datatype of the NIfTI-1 header (nifti1.h) to VTK's
_NIFTI_TYPES = {
    2: vtk.VTK_UNSIGNED_CHAR,
    4: vtk.VTK_SHORT,
    8: vtk.VTK_INT,
    16: vtk.VTK_FLOAT,
    64: vtk.VTK_DOUBLE,
    256: vtk.VTK_SIGNED_CHAR,
    512: vtk.VTK_UNSIGNED_SHORT,
    768: vtk.VTK_UNSIGNED_INT,
}
_NRRD_TYPES = {kind: vtk.vtkImageScalarTypeNameMacro(kind) for kind in _NIFTI_TYPES.values()}


def write(node, path):
    """Write a scalar volume as its suffix says, .nrrd or .nii.gz; a generator.

    The file has its name only when it is whole. Raises PanelError when the volume changes
    meanwhile, or holds numbers that the format cannot.
    """
    image = node.GetImageData()
    stamp = image.GetMTime()
    packed = path.name.endswith(".nii.gz")
    head = (_nifti_head if packed else _nrrd_header)(node)
    step = PACK_BYTES if packed else WRITE_BYTES
    part = path.with_name(path.name + ".part")
    try:
        with gzip.open(part, "wb", compresslevel=1) if packed else part.open("wb") as stream:
            stream.write(head)
            voxels = _bytes(image)
            for start in range(0, len(voxels), step):
                stream.write(voxels[start : start + step])
                yield
                if node.GetImageData() is not image or image.GetMTime() != stamp:
                    raise PanelError(
                        _("{name} was changed while it was written: start again.").format(
                            name=node.GetName()
                        )
                    )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _bytes(image):
    return memoryview(image.GetPointData().GetScalars()).cast("B")


def _scalars(node, known):
    """VTK's type of the voxels. Raises PanelError when it is not among the known ones."""
    kind = node.GetImageData().GetScalarType()
    if kind not in known:
        raise PanelError(
            _(
                "{name} holds {kind} numbers: convert it to float (module Cast Scalar Volume)."
            ).format(name=node.GetName(), kind=node.GetImageData().GetScalarTypeAsString())
        )
    return kind


def _nrrd_header(node):
    image, matrix = node.GetImageData(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    kind = _scalars(node, _NRRD_TYPES)
    sign = (-1.0, -1.0, 1.0)  # RAS to LPS
    columns = [
        "({})".format(",".join(repr(sign[row] * matrix.GetElement(row, c)) for row in range(3)))
        for c in range(4)
    ]
    lines = (
        "NRRD0004",
        f"type: {_NRRD_TYPES[kind]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: {} {} {}".format(*image.GetDimensions()),
        "space directions: " + " ".join(columns[:3]),
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {columns[3]}",
    )
    return ("\n".join(lines) + "\n\n").encode("ascii")


def _nifti_head(node):
    """The header of NIfTI-1 (nifti1.h) and the four bytes that say that nothing follows it."""
    image, matrix = node.GetImageData(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    types = {kind: number for number, kind in _NIFTI_TYPES.items()}
    number = types[_scalars(node, types)]
    columns = [[matrix.GetElement(r, c) for r in range(3)] for c in range(4)]
    spacing = [math.hypot(*column) for column in columns[:3]]
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *image.GetDimensions(), 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, number, 8 * image.GetScalarSize())
    struct.pack_into("<8f", head, 76, 1.0, *spacing, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<3f", head, 108, 352.0, 1.0, 0.0)
    head[123] = 2  # mm
    struct.pack_into("<2h", head, 252, 0, 1)  # no qform; an sform, of the scanner
    for row in range(3):
        struct.pack_into("<4f", head, 280 + 16 * row, *(column[row] for column in columns))
    head[344:348] = b"n+1\0"
    return bytes(head)


def read(path, image):
    """Read a NIfTI file of the library into an empty image data; a generator.

    Returns IJK to RAS, mm, as a vtkMatrix4x4; ``image`` keeps unit spacing and no origin. Raises
    OSError when the file is damaged, PanelError when it is of another kind.
    """
    try:
        with gzip.open(path) as stream:
            head = stream.read(348)
            shape, kind, begin, matrix = _nifti_header(head, path.name)
            image.SetDimensions(shape)
            image.AllocateScalars(kind, 1)
            stream.read(begin - 348)
            voxels, done = _bytes(image), 0
            while done < len(voxels):
                got = stream.readinto(voxels[done : done + READ_BYTES])
                if not got:
                    raise EOFError("too few voxels")
                done += got
                yield
            if stream.read(1):  # at the end the checksum is compared
                raise EOFError("too many voxels")
    except (EOFError, gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise OSError(f"{path.name} is damaged: {error}") from error
    image.Modified()
    return matrix


def _nifti_header(head, name):
    """Shape, VTK's type, where the voxels begin, and IJK to RAS."""
    size, dims = struct.unpack_from("<i", head)[0], struct.unpack_from("<4h", head, 40)
    kind = struct.unpack_from("<h", head, 70)[0]
    spacing = struct.unpack_from("<3f", head, 80)
    begin, slope, shift = struct.unpack_from("<3f", head, 108)
    sform_code = struct.unpack_from("<h", head, 254)[0]
    plain = slope in (0.0, 1.0) and shift == 0.0
    if size != 348 or dims[0] != 3 or kind not in _NIFTI_TYPES or not plain or sform_code < 1:
        raise PanelError(
            _("{name} is no image that SynthCT has written: run again.").format(name=name)
        )
    rows = struct.unpack_from("<12f", head, 280)
    matrix = vtk.vtkMatrix4x4()
    for c in range(4):
        column = rows[c::4]
        if c < 3:  # the pixel sizes are the lengths: of an oblique sform digits are lost
            length = math.hypot(*column)
            column = [value / length * spacing[c] for value in column]
        for r in range(3):
            matrix.SetElement(r, c, column[r])
    return dims[1:], _NIFTI_TYPES[kind], int(begin), matrix

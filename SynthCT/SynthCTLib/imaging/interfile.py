"""Interfile images (.hv, .v.hdr, .hdr with a separate data file): STIR's and Siemens' dialects.

Sources: STIR's reader and writer (src/IO/interfile.cxx), its patient axes
(DiscretisedDensity.inl), and the headers of UCL/pet-rd-tools for the Siemens mMR.

Neither dialect has an orientation: the axes run along those of the scanner, so that an oblique
image cannot be written. STIR's scanner axes are x to the left as seen from the bed's end, y down
and z out along the bed; ``STIR_AXES`` has them in the patient. Siemens' mMR images run to left,
posterior, superior and are centred on the scanner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.volume import (
    DEFAULT_UNIT,
    SYNTHETIC_TAG,
    Provenance,
    Role,
    Source,
    Step,
    Triple,
    Unit,
    Volume,
    sha256_of,
)

STIR_AXES: Mapping[str, str] = MappingProxyType(
    {"HFS": "LPI", "HFP": "RAI", "FFS": "RPS", "FFP": "LAS"}
)
"""By DICOM's patient position: where in the patient STIR's x, y and z run to."""

SIEMENS_AXES = "LPS"
SYNTHETIC_COMMENT = "; SynthCT synthetic"
POSITION_OF = {
    ("head_in", "supine"): "HFS",
    ("head_in", "prone"): "HFP",
    ("feet_in", "supine"): "FFS",
    ("feet_in", "prone"): "FFP",
}
_START = re.compile(rb"\s*!?\s*interfile\s*:=", re.IGNORECASE)
_BYTE_ORDERS: Mapping[str, Literal["<", ">"]] = {"LITTLEENDIAN": "<", "BIGENDIAN": ">"}
_KINDS = {
    "float": "f",
    "short float": "f",
    "long float": "f",
    "signed integer": "i",
    "unsigned integer": "u",
}
_LONGEST_HEADER = 1 << 20


def is_interfile(path: Path) -> bool:
    """Whether a file begins as an Interfile header does."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return _START.match(stream.read(64)) is not None
    except OSError:
        return False


def direction_of(axes: str) -> npt.NDArray[np.float64]:
    """3x3 LPS direction of axes that run to the named sides of the patient, such as ``LPI``."""
    sides = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    direction = np.zeros((3, 3))
    for column, side in enumerate(axes):
        row, sign = sides[side]
        direction[row, column] = sign
    return direction


def read_interfile(path: Path, role: Role, unit: Unit | None = None) -> Volume:
    """An Interfile image as a volume, float32 (int16 where the file has such).

    STIR's header places the first voxel (``first pixel offset``) on the scanner's axes, which are
    turned into the patient's by patient orientation and rotation, head first supine where they are
    not said. Without an offset, x and y are centred as STIR does, and z begins at 0. An image of
    another dialect is centred on 0 along every axis. What had to be assumed is a step with a note.

    Raises InputError when the header lacks what is needed, contradicts itself or its data file, or
    holds more than one image.
    """
    header = _Header.read(path)
    size = tuple(header.whole(f"matrix size [{i}]") for i in (1, 2, 3))
    spacing = tuple(header.number(f"scaling factor (mm/pixel) [{i}]") for i in (1, 2, 3))
    if min(size) < 1 or not all(s > 0 and np.isfinite(s) for s in spacing):
        raise InputError(f"{path} does not tell the size of its voxels: set matrix and spacing.")
    if header.whole("number of time frames", 1) != 1:
        raise InputError(f"{path} holds several time frames: save the one to use by itself.")
    data, values = _values(header, (size[0], size[1], size[2]))
    direction, origin, steps = _place(header, size, spacing)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction.ravel())
    sources = tuple(Source(str(file), sha256_of(file)) for file in (path, data))
    tags = {SYNTHETIC_TAG: "YES"} if header.is_marked_synthetic else {}
    unit = unit or _unit(header) or DEFAULT_UNIT[role]
    return Volume(image, role, unit, Provenance(sources, steps, tags))


@dataclass(frozen=True)
class _Header:
    path: Path
    fields: Mapping[str, str]
    is_marked_synthetic: bool

    @staticmethod
    def read(path: Path) -> _Header:
        try:
            with path.open("rb") as stream:
                text = stream.read(_LONGEST_HEADER).decode("latin-1")
        except FileNotFoundError as error:
            raise InputError(f"There is no file {path}: check the path.") from error
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): check the file."
            ) from error
        if not _START.match(text[:64].encode("latin-1")):
            raise InputError(f"{path} is no Interfile header: give the .hv or .hdr file.")
        fields: dict[str, str] = {}
        lines = [line.strip() for line in text.splitlines()]
        for line in lines:
            name, assigned, value = line.partition(":=")
            if assigned and not line.startswith(";"):
                fields[_key(name)] = value.strip()
        return _Header(path, fields, SYNTHETIC_COMMENT in lines)

    def text(self, name: str, default: str = "") -> str:
        return self.fields.get(_key(name)) or default

    def number(self, name: str, default: float | None = None) -> float:
        value = self.text(name)
        if not value and default is not None:
            return default
        try:
            return float(value)
        except ValueError:
            said = f"{value!r} for" if value else "no"
            raise InputError(
                f"The Interfile header {self.path} has {said} '{name}': a header of a "
                "three-dimensional image has a number there."
            ) from None

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.number(name, default)
        if not np.isfinite(value) or value != int(value):
            raise InputError(f"'{name}' in {self.path} is not a whole number: correct the header.")
        return int(value)


def _key(name: str) -> str:
    """Keys are compared without case, marks of importance and spaces."""
    return re.sub(r"[\s_!]", "", name).lower()


def _values(
    header: _Header, size: tuple[int, int, int]
) -> tuple[Path, npt.NDArray[np.float32] | npt.NDArray[np.int16]]:
    """The data file, and the scaled values indexed (z, y, x)."""
    named = header.text("name of data file")
    data = header.path.parent / named
    if not named or not data.is_file():
        raise InputError(
            f"{header.path} names {named or 'no file'} as its data file, which is missing: "
            "keep both files in one folder."
        )
    kind, width = header.text("number format").lower(), header.whole("number of bytes per pixel")
    byte_order = header.text("imagedata byte order", "BIGENDIAN").upper()
    try:
        dtype = np.dtype(f"{_KINDS[kind]}{width}").newbyteorder(_BYTE_ORDERS[byte_order])
    except (KeyError, TypeError):
        raise InputError(
            f"{header.path} has numbers of the format '{kind}' with {width} bytes ({byte_order}), "
            "which SynthCT does not read: convert it to float."
        ) from None
    begin = header.whole("data offset in bytes [1]", header.whole("data offset in bytes", 0))
    count = int(np.prod(size, dtype=np.int64))
    if begin < 0 or data.stat().st_size != begin + count * dtype.itemsize:
        raise InputError(
            f"{data} has {data.stat().st_size} bytes and its header asks for "
            f"{begin + count * dtype.itemsize}: copy both files again."
        )
    stored = np.fromfile(data, dtype, count, offset=begin).reshape(size[::-1])
    slope, shift = _scale(header)
    if (slope, shift) == (1.0, 0.0) and dtype.kind == "i" and width <= 2:
        return data, stored.astype(np.int16)
    return data, (stored.astype(np.float64) * slope + shift).astype(np.float32)


def _scale(header: _Header) -> tuple[float, float]:
    slope = header.number("%image slope", 1.0) * header.number("image scaling factor [1]", 1.0)
    shift = header.number("%image intercept", 0.0)
    quantification = header.text("quantification units")
    if re.fullmatch(r"[-+.\deE]+", quantification):  # STIR's is a factor and Siemens' a unit
        slope *= header.number("quantification units")
    return slope, shift


def _unit(header: _Header) -> Unit | None:
    said = header.text("quantification units").lower()
    return {"1/cm": Unit.PER_CM, "bq/ml": Unit.BQ_PER_ML}.get(said)


def _place(
    header: _Header, size: tuple[int, ...], spacing: tuple[float, ...]
) -> tuple[npt.NDArray[np.float64], Triple, tuple[Step, ...]]:
    offsets = [header.text(f"first pixel offset (mm) [{i}]") for i in (1, 2, 3)]
    is_stir = header.text("version of keys").upper().startswith("STIR") or all(offsets)
    if not is_stir:
        direction = direction_of(SIEMENS_AXES)
        first = [-(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)]
        position = header.text("%patient orientation", "HFS")
        if position != "HFS":
            raise InputError(
                f"{header.path} was scanned {position}, and SynthCT knows this kind of header head "
                "first supine only: convert it to NIfTI first."
            )
        note = f"{header.path} has no place in the patient: it was centred on 0."
        steps: tuple[Step, ...] = (Step("centre", {"note": note}),)
    else:
        rotation = header.text("patient rotation", "supine").lower()
        orientation = header.text("patient orientation", "head_in").lower()
        stated = (
            orientation.replace("unknown", "head_in"),
            rotation.replace("unknown", "supine"),
        )
        if stated not in POSITION_OF:
            raise InputError(
                f"{header.path} has a patient {orientation} and {rotation}, which STIR has no axes "
                "for: correct patient orientation and rotation."
            )
        direction = direction_of(STIR_AXES[POSITION_OF[stated]])
        steps = ()
        if all(offsets):
            first = [header.number(f"first pixel offset (mm) [{i}]") for i in (1, 2, 3)]
        else:
            first = [-(size[0] // 2) * spacing[0], -(size[1] // 2) * spacing[1], 0.0]
            note = f"{header.path} has no first pixel offset: it was centred as STIR does."
            steps = (Step("centre", {"note": note}),)
    x, y, z = (float(v) for v in direction @ first)
    return direction, (x, y, z), steps

"""MetaImage: whether its lists are as long as they must be, and its voxels all there."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from SynthCTLib.imaging.formats.header import BLOCK, Inspected, damaged, data_file

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


def inspect_meta(path: Path) -> Inspected:
    """What the header of a sound MetaImage says. Raises InputError or what reading raises."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while "ElementDataFile" not in fields:
            line = stream.readline(BLOCK)
            if not line:
                raise damaged(path)
            name, _, value = line.decode("ascii").partition("=")
            fields[name.strip()] = value.strip()
        begin = stream.tell()
    size = [int(n) for n in fields["DimSize"].split()]
    # ITK writes beyond its memory where a list is too long, and reads nan as 0.
    for name in _META_LISTS.keys() & fields:
        values = [float(v) for v in fields[name].split()]
        if len(values) != len(size) ** _META_LISTS[name] or not np.isfinite(values).all():
            raise damaged(path)
    if int(fields["NDims"]) != len(size) or min(size) < 1:
        raise damaged(path)
    named = fields["ElementDataFile"]
    data = None if named.upper() == "LOCAL" else data_file(path, named)
    binary = fields.get("BinaryData", "True").lower()
    if binary not in ("true", "false"):
        raise damaged(path)
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
            raise damaged(path)
    return Inspected(data=data)


def _unpacked_length(path: Path, begin: int, packed: int) -> int:
    """Bytes that ``packed`` bytes from ``begin`` on hold. Raises when the packing is hurt."""
    unpacker, length = zlib.decompressobj(wbits=47), 0  # 47: zlib or gzip, as the data say
    with path.open("rb") as stream:
        stream.seek(begin)
        while not unpacker.eof:
            block = stream.read(min(packed, BLOCK))
            if not block:
                raise EOFError
            packed -= len(block)
            length += len(unpacker.decompress(block))
    return length

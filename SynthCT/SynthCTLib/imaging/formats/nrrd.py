"""NRRD: the space that its axes are told in, and the file that holds its voxels."""

from __future__ import annotations

from pathlib import Path

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.formats.header import Inspected, data_file

# The spaces that ITK brings to LPS; the others say nothing of the patient.
_NRRD_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")
_NRRD_SHORT = ("lps", "ras", "las")


def inspect_nrrd(path: Path) -> Inspected:
    """What the header of a sound NRRD says. Raises InputError or what reading raises."""
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
    return Inspected(
        data=data_file(path, named),
        has_orientation=known and "space directions" in fields,
    )

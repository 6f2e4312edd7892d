"""The formats that a finished job can be exported to."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """A format by its name on the command line."""

    NIFTI = "nifti"
    NRRD = "nrrd"
    METAIMAGE = "metaimage"
    INTERFILE = "interfile"
    INTERFILE_MMR = "interfile-mmr"

    @property
    def suffix(self) -> str | None:
        """The suffix of the image files, None for formats that are no plain image files."""
        return {
            Format.NIFTI: ".nii.gz",
            Format.NRRD: ".nrrd",
            Format.METAIMAGE: ".mha",
        }.get(self)

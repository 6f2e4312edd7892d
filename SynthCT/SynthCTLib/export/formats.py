"""The formats that a finished job can be exported to."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """A format by its name on the command line."""

    NIFTI = "nifti"
    NRRD = "nrrd"
    METAIMAGE = "metaimage"
    DICOM = "dicom"
    DICOM_PM = "dicom-pm"
    DICOM_INT = "dicom-int"
    INTERFILE = "interfile"
    INTERFILE_MMR = "interfile-mmr"

    @property
    def is_dicom(self) -> bool:
        """Whether the files are DICOM objects."""
        return self in (Format.DICOM, Format.DICOM_PM, Format.DICOM_INT)

    @property
    def suffix(self) -> str | None:
        """The suffix of the image files, None for formats that are no plain image files."""
        return {
            Format.NIFTI: ".nii.gz",
            Format.NRRD: ".nrrd",
            Format.METAIMAGE: ".mha",
        }.get(self)

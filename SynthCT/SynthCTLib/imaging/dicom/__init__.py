"""DICOM: the image series of a folder, and one series as a volume in its true geometry.

Slices are placed by Image Position and Orientation (Patient) alone, never by file name or
instance number. Rounding of the positions is forgiven; anything else that would make a plain
stack lie (doubled, missing or uneven slices, gantry tilt) is undone and recorded, or refused.
"""

from SynthCTLib.imaging.dicom.listing import (
    DicomSeries,
    choose_series,
    list_series,
    series_of_file,
)
from SynthCTLib.imaging.dicom.series import read_dicom, read_series

__all__ = [
    "DicomSeries",
    "choose_series",
    "list_series",
    "read_dicom",
    "read_series",
    "series_of_file",
]

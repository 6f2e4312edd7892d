"""Where the planes of a file lie, by Image Position and Orientation (Patient), and their scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.dicom.headers import DicomFile
from SynthCTLib.imaging.dicom.listing import DicomSeries
from SynthCTLib.imaging.slices import Header, Plane


def planes_of(file: DicomFile, series: DicomSeries) -> Iterator[Plane]:
    """The planes of a file. Raises InputError for colours, and where a place is not known."""
    top = file.top
    if top.get("SamplesPerPixel", 1) != 1 or "PALETTE" in str(top.get("PhotometricInterpretation")):
        raise InputError(
            f"The {series.title} is a colour image: choose a series of single values a voxel."
        )
    if top.get("NumberOfFrames", 1) != len(file.frames):
        raise InputError(
            f"The multi-frame file {file.path} does not say where each frame lies: "
            "export it as single slices or as an enhanced MR, CT or PET object."
        )
    for frame, header in enumerate(file.frames):
        orientation = _numbers(header, "ImageOrientationPatient", 6, file)
        spacing = _numbers(header, "PixelSpacing", 2, file)
        row, column = orientation[:3], orientation[3:]
        if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3):
            raise InputError(
                f"Image Orientation (Patient) of {file.path} is not a pair of perpendicular unit "
                "vectors: export the series again."
            )
        if not (spacing > 0).all():
            raise InputError(f"Pixel Spacing of {file.path} is not positive: export it again.")
        yield Plane(
            path=file.path,
            frame=frame,
            position=_numbers(header, "ImagePositionPatient", 3, file),
            orientation=orientation,
            # Pixel Spacing gives the distance between rows first (PS3.3 10.7.1.3).
            spacing=(float(spacing[1]), float(spacing[0])),
            shape=(int(_number(top, "Rows", 0, file)), int(_number(top, "Columns", 0, file))),
            thickness=_number(header, "SliceThickness", 0, file) or None,
            slope=_number(header, "RescaleSlope", 1, file),
            intercept=_number(header, "RescaleIntercept", 0, file),
            header=header,
        )


def mapped(plane: Plane, series: DicomSeries) -> Plane:
    """The plane with the scale of its real world value mapping, where it has one.

    Scanners and SynthCT store µ as integers and say so there; a reader of images shows integers.
    """
    if "RealWorldValueSlope" not in plane.header:
        return plane
    unit = plane.header.get("MappedUnit", "none")
    if unit not in ("/cm", "cm-1", "1/cm"):
        raise InputError(
            f"The {series.title} maps its values to the unit {unit!r} and a µ-map is in /cm: "
            "choose the µ-map."
        )
    slope = float(plane.header["RealWorldValueSlope"])
    return replace(plane, slope=slope, intercept=float(plane.header["RealWorldValueIntercept"]))


def _number(header: Header, keyword: str, default: float, file: DicomFile) -> float:
    try:
        return float(header.get(keyword, default))
    except (TypeError, ValueError):
        raise InputError(
            f"{keyword} of {file.path} is not a number: export the series again."
        ) from None


def _numbers(header: Header, keyword: str, count: int, file: DicomFile) -> npt.NDArray[np.float64]:
    try:
        values = np.asarray([float(v) for v in header[keyword]])
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise InputError(
            f"{file.path} lacks a usable {keyword}, so its place in the patient is unknown: "
            "export the series again."
        )
    return values

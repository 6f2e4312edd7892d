"""Synthetic DICOM series, written slice by slice with pydicom for the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SOP_CLASS = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
}
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class Layout:
    """Where the slices of a series lie (LPS mm) and what their numbers mean.

    ``positions`` has one row a slice; ``spacing`` is mm along a row, then along a column.
    """

    positions: npt.NDArray[np.float64]
    row: Sequence[float] = AXIAL[0]
    column: Sequence[float] = AXIAL[1]
    spacing: tuple[float, float] = (1.0, 1.0)
    slopes: Sequence[float] | float = 1.0
    intercepts: Sequence[float] | float = 0.0
    tags: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def regular(count: int, gap: float, origin: Sequence[float] = (0, 0, 0), **more: Any) -> Layout:
        """Slices every ``gap`` mm along the normal from ``origin``."""
        layout = Layout(np.empty(0), **more)
        normal = np.cross(layout.row, layout.column)
        return Layout(np.asarray(origin) + gap * np.outer(np.arange(count), normal), **more)


def base(modality: str, uid: str, **tags: Any) -> Dataset:
    """A data set with what every object has."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SOP_CLASS[modality]
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality = modality.removeprefix("enhanced ")
    dataset.PatientID = "phantom"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = uid
    dataset.FrameOfReferenceUID = "1.2.3.4"
    dataset.SeriesDate = "20240131"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def set_pixels(dataset: Dataset, stored: npt.NDArray[Any]) -> None:
    """Pixels of one slice (rows, columns) or several frames, 16 or 8 bits."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if stored.ndim == 3:
        dataset.NumberOfFrames = stored.shape[0]
    dataset.PixelData = stored.tobytes()


def write_series(
    folder: Path,
    stored: npt.NDArray[Any],
    layout: Layout,
    modality: str = "CT",
    *,
    uid: str = "1.2.3.5",
    prefix: str = "",
    change: Callable[[int, Dataset], None] = lambda index, dataset: None,
) -> list[Path]:
    """Write ``stored`` (slices, rows, columns); ``change`` may alter each slice before writing.

    Files are named so that their order by name is not that of the positions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = len(stored)
    slopes = np.broadcast_to(layout.slopes, count)
    intercepts = np.broadcast_to(layout.intercepts, count)
    paths = []
    for index, plane in enumerate(stored):
        dataset = base(modality, uid, **layout.tags)
        set_pixels(dataset, plane)
        dataset.InstanceNumber = count - index
        dataset.ImagePositionPatient = [f"{v:.9g}" for v in layout.positions[index]]
        dataset.ImageOrientationPatient = [f"{v:.12g}" for v in (*layout.row, *layout.column)]
        dataset.PixelSpacing = [layout.spacing[1], layout.spacing[0]]
        dataset.RescaleSlope = f"{slopes[index]:.10g}"
        dataset.RescaleIntercept = f"{intercepts[index]:.10g}"
        change(index, dataset)
        path = folder / f"{prefix}{(index * 7919 + 13) % 10007:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    stored: npt.NDArray[Any],
    layout: Layout,
    modality: str = "enhanced MR",
    *,
    change: Callable[[int, Dataset], None] = lambda index, group: None,
) -> None:
    """Write all slices as one multi-frame object; ``change`` may alter each frame's groups."""
    dataset = base(modality, "1.2.3.6", **layout.tags)
    set_pixels(dataset, stored)
    measures = Dataset()
    measures.PixelSpacing = [layout.spacing[1], layout.spacing[0]]
    orientation = Dataset()
    orientation.ImageOrientationPatient = [*layout.row, *layout.column]
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    slopes = np.broadcast_to(layout.slopes, len(stored))
    groups = []
    for index, position in enumerate(layout.positions):
        plane, values, group = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = [f"{v:.9g}" for v in position]
        values.RescaleSlope, values.RescaleIntercept = f"{slopes[index]:.10g}", "0"
        group.PlanePositionSequence = DicomSequence([plane])
        group.PixelValueTransformationSequence = DicomSequence([values])
        change(index, group)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    dataset.save_as(path, enforce_file_format=True)

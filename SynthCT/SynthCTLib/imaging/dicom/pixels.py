"""The pixels of planes as real-world values: decoded, rescaled, padding and HU below air set."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.dicom.headers import TRAITS, UNREADABLE
from SynthCTLib.imaging.dicom.listing import DicomSeries
from SynthCTLib.imaging.itk_warnings import without_itk_warnings
from SynthCTLib.imaging.slices import Plane, SliceStack
from SynthCTLib.volume import AIR_HU, Step

Array = npt.NDArray[Any]

# 12-bit CT ends at -1024 HU; what lies below is a scanner's mark for "not reconstructed".
LOWEST_HU = -1024.0


class Pixels:
    """Stored values of planes; the last file read is kept, for files of many frames."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Array = np.empty(0)
        self._is_rescaled = False

    def stored(self, plane: Plane) -> Array:
        """Values as stored, shape (rows, columns); see ``is_rescaled``."""
        self._load(plane.path)
        if self._frames[plane.frame : plane.frame + 1].shape[1:] != plane.shape:
            raise _damaged(plane.path)
        values: Array = self._frames[plane.frame]
        return values

    def difference(self, one: Plane, other: Plane) -> str | None:
        """What tells two images apart, None when their values are equal."""
        same_scale = (one.slope, one.intercept) == (other.slope, other.intercept)
        if same_scale and np.array_equal(self.stored(one), self.stored(other)):
            return None
        for keyword in TRAITS:
            values = [str(plane.header.get(keyword, "none")) for plane in (one, other)]
            if values[0] != values[1]:
                return f"differ in {keyword} ({values[0]} and {values[1]})"
        return "no known tag tells apart"

    def is_rescaled(self, plane: Plane) -> bool:
        """Whether slope and intercept are already applied (GDCM does so, pydicom does not)."""
        self._load(plane.path)
        return self._is_rescaled

    def _load(self, path: Path) -> None:
        if path == self._path:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(path)
                compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
                frames, rescaled = _decoded(dataset, path, compressed=compressed)
        except (*UNREADABLE, RuntimeError) as error:
            raise _damaged(path) from error
        self._frames = frames if frames.ndim == 3 else frames[np.newaxis]
        self._path, self._is_rescaled = path, rescaled


def _decoded(dataset: Any, path: Path, *, compressed: bool) -> tuple[Array, bool]:
    """The frames, and whether they are rescaled."""
    try:
        return dataset.pixel_array, False
    except (RuntimeError, NotImplementedError):
        if not compressed:
            raise
    # pydicom decodes JPEG only with plug-ins; ITK's GDCM brings its own.
    name = dataset.file_meta.TransferSyntaxUID.name
    if int(dataset.get("NumberOfFrames", 1)) > 1:
        # GDCM would apply the first frame's slope and intercept to all.
        raise InputError(
            f"{path} has several frames compressed as {name}: export the series uncompressed."
        )
    try:
        with without_itk_warnings():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} is compressed as {name}, which cannot be decoded here: "
            "export the series uncompressed."
        ) from error
    return sitk.GetArrayFromImage(image), True


def _damaged(path: Path) -> InputError:
    return InputError(f"The pixels of the DICOM file {path} are damaged: copy it again.")


def values_of(
    stack: SliceStack, series: DicomSeries, pixels: Pixels
) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.float32], list[Step]]:
    """Real-world values, shape (slices, rows, columns), int16 where exact, else float32."""
    slices: list[Array] = []
    is_ct = series.modality == "CT"
    padded = raised = 0
    tissue_padding: float | None = None
    for plane in stack.planes:
        stored = pixels.stored(plane)
        scale = 1.0 if pixels.is_rescaled(plane) else plane.slope
        shift = 0.0 if pixels.is_rescaled(plane) else plane.intercept
        values = np.multiply(stored, scale, dtype=np.float64) + shift
        padding = _padding_hu(plane) if is_ct else None
        if padding is not None and padding[1] > AIR_HU:
            # Some exports declare 0 HU as padding: that is water, and brain is full of it.
            tissue_padding = padding[1]
        elif padding is not None:
            outside = (values >= padding[0]) & (values <= padding[1])
            padded += int(outside.sum())
            values[outside] = AIR_HU
        if is_ct:
            raised += int((values < LOWEST_HU).sum())
            np.maximum(values, LOWEST_HU, out=values)
        slices.append(values.astype(np.int16 if _is_int16(values) else np.float32))
    steps = []
    if padded:
        settings = {"voxels": padded, "value": AIR_HU}
        steps.append(Step("set_padding_to_air", settings))
    if raised:
        steps.append(Step("raise_to_lowest_hu", {"voxels": raised, "value": LOWEST_HU}))
    if tissue_padding is not None:
        note = (
            f"The {series.title} declares {tissue_padding:g} HU as padding, a value that tissue "
            "has too: it was left as it is."
        )
        steps.append(Step("keep_padding", {"value": tissue_padding, "note": note}))
    return np.stack(slices), steps


def _is_int16(values: npt.NDArray[np.float64]) -> bool:
    limits = np.iinfo(np.int16)
    inside = limits.min <= values.min() and values.max() <= limits.max
    return bool(inside and (np.rint(values) == values).all())


def _padding_hu(plane: Plane) -> tuple[float, float] | None:
    """The range of values that means "not reconstructed", lowest first."""
    if "PixelPaddingValue" not in plane.header:
        return None
    stored = [plane.header["PixelPaddingValue"]]
    stored.append(plane.header.get("PixelPaddingRangeLimit", stored[0]))
    if any(isinstance(v, bytes) for v in stored):
        return None
    values = [int(v) for v in stored]
    if plane.header.get("PixelRepresentation") == 1:
        values = [v - 65536 if v > 32767 else v for v in values]  # -2000 written as US 63536
    low, high = sorted(v * plane.slope + plane.intercept for v in values)
    return low, high

"""A series as a volume in its true geometry."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SynthCTLib.imaging.dicom.headers import KEPT, DicomFile, plain, require_file
from SynthCTLib.imaging.dicom.listing import (
    DicomSeries,
    choose_series,
    list_series,
    series_of_file,
)
from SynthCTLib.imaging.dicom.meaning import checked_role, is_pet, to_suv_of, unit_of
from SynthCTLib.imaging.dicom.pixels import Pixels, values_of
from SynthCTLib.imaging.dicom.planes import mapped, planes_of
from SynthCTLib.imaging.slices import SliceStack, evened, stack_planes, untilted
from SynthCTLib.volume import (
    AIR_HU,
    Provenance,
    Role,
    Source,
    Step,
    Unit,
    Volume,
    sha256_of,
)


def read_dicom(
    path: Path, role: Role, unit: Unit | None = None, wanted: str | None = None
) -> Volume:
    """The series of a folder that fits (see ``choose_series``), or the series of a DICOM file.

    A choice among several is recorded as a step. Raises InputError as ``list_series``,
    ``choose_series`` and ``read_series`` do.
    """
    listed = list_series(path) if path.is_dir() else (series_of_file(path),)
    series = choose_series(listed, role, wanted, path)
    volume = read_series(series, role, unit)
    if len(listed) == 1:
        return volume
    step = Step(
        "choose_series",
        {
            "of": len(listed),
            "by": "role" if wanted is None else "name",
            "note": f"Of {len(listed)} DICOM series in {path} the {series.entry} was taken.",
        },
    )
    provenance = volume.provenance
    return replace(volume, provenance=replace(provenance, steps=(step, *provenance.steps)))


def read_series(series: DicomSeries, role: Role | None = None, unit: Unit | None = None) -> Volume:
    """A series as a volume: values rescaled slice by slice, slices where they were scanned.

    Role and unit come from the tags unless given. A PET asked for in SUV is converted to it by
    ``physics.suv.suv_scale``, unless it is stored so. A CT lies in HU at or above -1024, with -1000
    where the scanner marks voxels as not reconstructed. Integers that fit stay int16, everything
    else is float32. The slice axis runs along the slice normal (row x column).

    Done and recorded as steps with a ``note``: identical copies of a slice are dropped, uneven
    slices are interpolated linearly onto even ones, a tilted stack is resampled onto an upright
    grid. Raises InputError when the series is not one regular stack of slices (different
    orientations, sizes or spacings; different images at one place; missing slices) or when it
    does not have the role, or when SUV is asked for and a tag that it needs is missing or wrong.
    """
    files = [require_file(path) for path in series.files]
    top = files[0].top
    role = checked_role(series, role, top)
    unit, steps = unit_of(series, role, unit, top)
    to_suv, scaled = to_suv_of(series, top) if is_pet(role) and unit == Unit.SUV else (1.0, [])
    pixels = Pixels()
    planes = [plane for file in files for plane in planes_of(file, series)]
    if role == Role.MU_MAP:
        planes = [mapped(plane, series) for plane in planes]
    stack, dropped = stack_planes(planes, series.title, pixels.difference)
    array, scaling = values_of(stack, series, pixels)
    if to_suv != 1.0:
        array = np.multiply(array, to_suv, dtype=np.float64).astype(np.float32)
    steps = [*steps, *dropped, *scaling, *scaled]
    if stack.is_uneven:
        array, stack, step = evened(array, stack, series.title)
        steps.append(step)
    image = sitk.GetImageFromArray(array)
    del array
    grid = stack.upright_grid
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    volume = Volume(image, role, unit, Provenance(_sources(series, files, stack), tuple(steps)))
    if stack.is_tilted:
        outside = AIR_HU if series.modality == "CT" else 0.0
        volume = untilted(volume, stack, series.title, outside)
    tags = {k: plain(top[k]) for k in KEPT if k in top} | {"SourceFolder": str(series.folder)}
    return replace(volume, provenance=replace(volume.provenance, tags=tags))


def _sources(
    series: DicomSeries, files: Sequence[DicomFile], stack: SliceStack
) -> tuple[Source, ...]:
    in_order = list(dict.fromkeys(plane.path for plane in stack.planes))
    left_out = [file.path for file in files if file.path not in set(in_order)]
    hashes = "".join(sha256_of(path) for path in (*in_order, *left_out))
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    return (Source(f"{series.folder}#{series.uid}", digest),)

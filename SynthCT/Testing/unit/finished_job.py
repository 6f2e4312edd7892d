"""Small finished jobs with an asymmetric head in them, for the tests of what comes after a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from SynthCTLib.imaging.files import write_volume
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.volume import Grid, Provenance, Role, Source, Step, Unit, Volume
from SynthCTLib.workflow.folder import JobFolder
from SynthCTLib.workflow.request import InputFile, JobRequest, Slot
from SynthCTLib.workflow.result import JobResult, OutputFile, provenance_record, software_versions

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((20, 24, 16), (8.0, 7.0, 9.0), (-70.0, -90.0, 310.0), AXIAL)


def head_hu(grid: Grid) -> npt.NDArray[np.float32]:
    """An ellipsoid of soft tissue in a bone shell, and at the left, front, top a block of bone.

    The object lies in patient space (LPS), so that every grid shows the same; fractions of HU tell
    one voxel from the next.
    """
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    index = np.stack([x, y, z, np.ones_like(x)], axis=-1).astype(float)
    from_centre = (index @ grid.index_to_world.T)[..., :3] - grid.centre_mm
    half = np.linalg.norm(np.asarray(grid.extent_mm)) / 4
    radius = np.linalg.norm(from_centre / half, axis=-1)
    hu = np.where(radius < 1.0, 40.0, -1000.0)
    hu[(radius >= 0.93) & (radius < 1.0)] = 900.0
    left, posterior, superior = (from_centre[..., i] / half for i in range(3))
    marked = (left > 0.2) & (left < 0.6) & (posterior < -0.1) & (posterior > -0.5)
    hu[marked & (superior > 0.1) & (superior < 0.5)] = 1500.0
    hu[radius < 1.0] += (np.random.default_rng(5).uniform(-9.0, 9.0, hu.shape))[radius < 1.0]
    return hu.astype(np.float32)


def synthetic_ct(grid: Grid = GRID, tags: Mapping[str, Any] | None = None) -> Volume:
    """The head as a model would have made it from an MR."""
    provenance = Provenance(
        (Source("/home/someone/Miller_Anna/t1.nii.gz", "ab" * 32),),
        (
            Step("choose_series", {"note": "Of 2 series in /home/someone/Miller_Anna ..."}),
            Step("synthesize", {"model": "uniform-body", "version": "1"}),
        ),
        tags or {},
    )
    return Volume(grid.blank(), Role.CT, Unit.HU, provenance).with_array(head_hu(grid))


def make_job(
    folder: Path,
    grid: Grid = GRID,
    tags: Mapping[str, Any] | None = None,
    *,
    convention: str = "carney-120",
    task: str | None = "mr-to-ct",
) -> Path:
    """A job folder with result, as a run leaves it: CT, coverage and µ-map."""
    ct = synthetic_ct(grid, tags)
    volumes = {
        "ct": ct,
        "ct_coverage": ct.mask(ct.array > -900),
        "mumap": hu_to_mu(ct, convention),
    }
    folder.mkdir(parents=True)
    (folder / "t1.nii.gz").write_bytes(b"not read")
    inputs = {Slot.MR: InputFile(path=folder / "t1.nii.gz")}
    if task is None:
        given = InputFile(path=folder / "t1.nii.gz")
        inputs = {Slot.REFERENCE_CT: given, Slot.SYNTHETIC_CT: given}
    request = JobRequest(subject="phantom", task=task, model="uniform-body", inputs=inputs)
    job = JobFolder.create(folder, request)

    def record(outputs: dict[str, OutputFile]) -> JobResult:
        return JobResult(
            subject=request.subject,
            task=request.task,
            model=None if task is None else "uniform-body",
            model_version=None if task is None else "1",
            outputs=outputs,
            findings=(),
            notes=(),
            facts={},
            registration=None,
            provenance={name: provenance_record(v) for name, v in volumes.items()},
            timings_s={},
            versions=software_versions(),
        )

    with job.running(lambda event: None, lambda: False):
        for name, volume in volumes.items():
            write_volume(volume, job.outbox / f"{name}.nii.gz")
        job.publish(record)
    return folder

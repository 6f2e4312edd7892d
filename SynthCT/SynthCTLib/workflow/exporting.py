"""From a finished job to a folder that other software reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from SynthCTLib.errors import InputError
from SynthCTLib.export.formats import Format
from SynthCTLib.export.images import write_images
from SynthCTLib.export.parcel import packing
from SynthCTLib.progress import Progress
from SynthCTLib.volume import Volume
from SynthCTLib.workflow.finished import FinishedJob

_IMAGES = ("ct", "ct_coverage", "ct_uncertainty", "mumap")


@dataclass(frozen=True)
class ExportOptions:
    """How a job is exported."""

    format: Format
    overwrite: bool = False


def export_job(job_path: Path, folder: Path, options: ExportOptions, progress: Progress) -> Path:
    """Write a finished job's images into a folder, in one format; returns the folder.

    The folder is there when all of it is written. Raises InputError when the job is not finished or
    the folder is taken, OutputError when it cannot be written.
    """
    progress.stage("Reading the job", 0.4)
    job = FinishedJob.open(job_path)
    folder = folder.absolute()
    if folder == job.path or folder in job.path.parents:
        raise InputError(f"{folder} holds the job itself: name another folder for the export.")
    facts = {
        "schema_version": 1,
        "format": options.format.value,
        "subject": job.result.subject,
        "job_sha256": job.sha256,
    }
    with packing(folder, facts, overwrite=options.overwrite) as staged:
        volumes = _volumes(job)
        progress.stage("Writing", 0.6)
        suffix = options.format.suffix
        assert suffix is not None
        write_images(volumes, suffix, staged, job.origin)
    progress.update(1.0)
    return folder


def _volumes(job: FinishedJob) -> dict[str, Volume]:
    return {name: job.volume(name) for name in _IMAGES if job.has(name)}

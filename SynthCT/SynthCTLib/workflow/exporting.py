"""From a finished job to a folder that other software reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from SynthCTLib.errors import InputError
from SynthCTLib.export.dicom_parametric import write_parametric_mu
from SynthCTLib.export.dicom_slices import write_ct_series, write_integer_mu
from SynthCTLib.export.dicom_study import (
    Study,
    came_from_dicom,
    placeholder_study,
    study_of_folder,
    study_of_source,
)
from SynthCTLib.export.formats import Format
from SynthCTLib.export.images import write_images
from SynthCTLib.export.interfile import on_mmr_grid, upright, write_mmr, write_stir
from SynthCTLib.export.origin import sidecar_of, write_sidecar
from SynthCTLib.export.pacs import CALLING_TITLE, Pacs, PacsOptions, Sending, send
from SynthCTLib.export.parcel import is_untouched, manifest_of, packing
from SynthCTLib.progress import Progress
from SynthCTLib.volume import Volume, sha256_of
from SynthCTLib.workflow.finished import FinishedJob
from SynthCTLib.workflow.pet_grid import PetGrid, PreparedMu, prepare

_IMAGES = ("ct", "ct_coverage", "ct_uncertainty", "mumap")
MU = "mumap"


@dataclass(frozen=True)
class ExportOptions:
    """How a job is exported.

    ``pet_grid`` is where its µ-map goes. ``centred`` puts STIR's Interfile on the scanner's axis
    and gives up the patient's frame. DICOM objects belong to the patient, study and frame of
    reference of the job's source series; ``patient_from`` names the folder of another series to
    take them from, ``placeholders`` takes nobody's. They are also sent to ``pacs``, to which
    SynthCT names itself ``calling_title``. Raises InputError where an option means nothing to the
    format.
    """

    format: Format
    pet_grid: PetGrid = field(default_factory=PetGrid)
    centred: bool = False
    patient_from: Path | None = None
    placeholders: bool = False
    pacs: Pacs | None = None
    calling_title: str = CALLING_TITLE
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.patient_from is not None and self.placeholders:
            raise InputError("--patient-from and --placeholders exclude each other: give one.")
        if (self.patient_from is not None or self.placeholders) and not self.format.is_dicom:
            raise InputError(
                f"--patient-from and --placeholders are for DICOM and the format is {self.format}: "
                "leave them out."
            )
        PacsOptions(self.calling_title)  # a title that cannot be is refused before any work
        if self.pacs is not None and not self.format.is_dicom:
            raise InputError(
                f"A PACS takes DICOM and the format is {self.format}: use dicom, dicom-pm or "
                "dicom-int, or leave --to-pacs out."
            )
        if self.format == Format.DICOM and self.pet_grid != PetGrid():
            raise InputError(
                "--grid, --fwhm and --add shape the µ-map and the format dicom is the CT: use "
                "dicom-pm or dicom-int."
            )
        if self.centred and self.format != Format.INTERFILE:
            raise InputError(
                f"--centred is for STIR's Interfile and the format is {self.format}: leave it out."
            )


@dataclass(frozen=True)
class Exported:
    """The folder of an export, and what went to a PACS (None where none was named)."""

    folder: Path
    sending: Sending | None = None


def export_job(
    job_path: Path, folder: Path, options: ExportOptions, progress: Progress
) -> Exported:
    """Write a finished job's images into a folder, in one format, and send them if a PACS is named.

    The folder is there when all of it is written. With a PACS, a folder that holds this very export
    already (of this job, with these options, unaltered) is not written anew: what the PACS lacks of
    it is sent. Raises InputError when the job is not finished, the µ-map does not fit the grid
    asked for or the folder is taken, OutputError when it cannot be written or not all was sent.
    """
    part = progress.within("Exporting", 0.5) if options.pacs else progress
    job = FinishedJob.open(job_path)
    folder = folder.absolute()
    facts = _facts(job, options)
    if options.pacs is None or options.overwrite or not _holds_already(folder, facts):
        _export(job, folder, options, facts, part)
    sending = None
    if options.pacs is not None:
        progress.stage("Sending", 0.5)
        sending = send(folder, options.pacs, progress, PacsOptions(options.calling_title))
    progress.update(1.0)
    return Exported(folder, sending)


def _facts(job: FinishedJob, options: ExportOptions) -> dict[str, Any]:
    """What ``export.json`` says of an export, the same for the same request."""
    grid = options.pet_grid
    return {
        "schema_version": 1,
        "format": options.format.value,
        "subject": job.result.subject,
        "job_sha256": job.sha256,
        "options": {
            "grid": _path_hash(grid.pet),
            "fwhm_mm": grid.fwhm_mm,
            "hardware": [_path_hash(path) for path in grid.hardware],
            "centred": options.centred,
            "patient_from": _path_hash(options.patient_from),
            "placeholders": options.placeholders,
        },
    }


def _path_hash(path: Path | None) -> str | None:
    """Tells one path from another without showing it: names of patients may stand in it."""
    return None if path is None else hashlib.sha256(str(path.absolute()).encode()).hexdigest()


def _holds_already(folder: Path, facts: Mapping[str, Any]) -> bool:
    manifest = manifest_of(folder)
    if manifest is None or any(manifest.get(key) != value for key, value in facts.items()):
        return False
    return is_untouched(folder)


def _export(
    job: FinishedJob,
    folder: Path,
    options: ExportOptions,
    facts: Mapping[str, Any],
    progress: Progress,
) -> None:
    progress.stage("Reading the job", 0.2)
    if folder == job.path or folder in job.path.parents:
        raise InputError(f"{folder} holds the job itself: name another folder for the export.")
    with packing(folder, facts, overwrite=options.overwrite) as staged:
        _WRITERS[options.format](_Work(job, options, staged, progress))
    progress.update(1.0)


@dataclass(frozen=True)
class _Work:
    job: FinishedJob
    options: ExportOptions
    folder: Path
    progress: Progress

    def mu(self) -> PreparedMu:
        """The job's µ-map where and how it is wanted."""
        mu = self.job.volume(MU)
        self.progress.stage("Preparing the µ-map", 0.3)
        return prepare(mu, self.options.pet_grid, self.progress)


def _images(work: _Work) -> None:
    volumes: dict[str, Volume] = {
        name: work.job.volume(name) for name in _IMAGES if work.job.has(name)
    }
    if MU in volumes:
        volumes[MU] = work.mu().mu
    work.progress.stage("Writing", 0.5)
    suffix = work.options.format.suffix
    assert suffix is not None
    write_images(volumes, suffix, work.folder, work.job.origin)


def _stir(work: _Work) -> None:
    prepared = work.mu()
    placed = upright(prepared.mu)
    for note in placed.notes:
        work.progress.note(note)
    position = prepared.position or "HFS"
    if prepared.position is None:
        work.progress.note(
            "How the patient lay in the scanner is not told: head first supine was taken for it."
        )
    work.progress.stage("Writing", 0.5)
    write_stir(placed.mu, work.folder, MU, position=position, centred=work.options.centred)
    _mu_sidecar(work, placed.mu, f"{MU}.v", patient_position=position, centred=work.options.centred)


def _mmr(work: _Work) -> None:
    placed = on_mmr_grid(work.mu().mu)
    for note in placed.notes:
        work.progress.note(note)
    work.progress.stage("Writing", 0.5)
    write_mmr(placed.mu, work.folder, MU)
    _mu_sidecar(work, placed.mu, f"{MU}.v")


def _ct_series(work: _Work) -> None:
    ct = work.job.volume("ct")
    study = _study(work, ct)
    work.progress.stage("Writing", 0.8)
    write_ct_series(ct, work.folder, study, work.job.origin)


def _mu_objects(work: _Work) -> None:
    mu = work.mu().mu
    study = _study(work, mu)
    work.progress.stage("Writing", 0.5)
    parametric = work.options.format == Format.DICOM_PM
    write = write_parametric_mu if parametric else write_integer_mu
    write(mu, work.folder, study, work.job.origin)


def _study(work: _Work, volume: Volume) -> Study:
    study = _chosen_study(work, volume)
    for note in study.notes:
        work.progress.note(note)
    return study


def _chosen_study(work: _Work, volume: Volume) -> Study:
    """Whose the objects are; what was decided is said."""
    options, job = work.options, work.job
    if options.patient_from is not None:
        work.progress.note(
            f"Patient, study and frame of reference are those of the series in "
            f"{options.patient_from}: that the images lie on it was taken for granted."
        )
        return study_of_folder(options.patient_from)
    if came_from_dicom(volume) and not options.placeholders:
        return study_of_source(volume)
    if not options.placeholders:
        work.progress.note(
            "The job's input was no DICOM series: the objects carry research placeholders in place "
            "of a patient."
        )
    study = placeholder_study(job.result.subject, job.sha256)
    return replace(study, body_part="HEAD") if "masks/head" in job.result.outputs else study


def _mu_sidecar(work: _Work, mu: Volume, data: str, **more: object) -> None:
    content = sidecar_of(
        mu,
        work.job.origin,
        file=data,
        file_sha256=sha256_of(work.folder / data),
        **more,
        notes=list(work.progress.notes),
    )
    write_sidecar(content, work.folder / f"{MU}.json")


_WRITERS: Mapping[Format, Callable[[_Work], None]] = {
    Format.NIFTI: _images,
    Format.NRRD: _images,
    Format.METAIMAGE: _images,
    Format.DICOM: _ct_series,
    Format.DICOM_PM: _mu_objects,
    Format.DICOM_INT: _mu_objects,
    Format.INTERFILE: _stir,
    Format.INTERFILE_MMR: _mmr,
}

"""A finished job, opened for what comes after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from SynthCTLib.errors import InputError
from SynthCTLib.export.origin import Origin
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.volume import (
    SYNTHETIC_TAG,
    Provenance,
    Role,
    Source,
    Step,
    Unit,
    Volume,
    sha256_of,
)
from SynthCTLib.workflow.folder import RESULT
from SynthCTLib.workflow.result import JobResult

_GIVEN_AS_SYNTHETIC = ("ct", "mumap")  # of an evaluation: the image that was put to the test


@dataclass(frozen=True)
class FinishedJob:
    """A job folder with its result."""

    path: Path
    result: JobResult
    sha256: str

    @staticmethod
    def open(path: Path) -> FinishedJob:
        """Open a job folder that holds a result. Raises InputError."""
        path = path.absolute()
        record = path / RESULT
        try:
            text = record.read_bytes()
        except FileNotFoundError as error:
            raise InputError(
                f"{path} holds no {RESULT}, so no finished job: give the folder of 'synthct run'."
            ) from error
        except OSError as error:
            raise InputError(
                f"The folder {path} cannot be read ({error.strerror}): give the folder of a "
                "finished job."
            ) from error
        try:
            result = JobResult.model_validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"{record} is no result that this version of SynthCT wrote: run the job again."
            ) from error
        return FinishedJob(path, result, sha256_of(record))

    def has(self, name: str) -> bool:
        """Whether the job has made an image of that name (``ct``, ``mumap``)."""
        return name in self.result.outputs and name in self.result.provenance

    def volume(self, name: str) -> Volume:
        """An image of the result with its whole provenance.

        Raises InputError when the job has none of that name, or its file is gone or altered.
        """
        if not self.has(name):
            raise InputError(f"The job {self.path} has made no {name}: run it again.")
        output = self.result.outputs[name]
        path = self.path / output.path
        if not path.is_file() or sha256_of(path) != output.sha256:
            raise InputError(
                f"{path} is gone or not the one that the job wrote: run the job again."
            )
        record = self.result.provenance[name]
        volume = read_volume(path, Role(record["role"]), Unit(record["unit"]))
        provenance = _provenance(record)
        if self.result.task is None and name in _GIVEN_AS_SYNTHETIC:
            provenance = replace(provenance, tags={**provenance.tags, SYNTHETIC_TAG: "YES"})
        return replace(volume, provenance=provenance)

    @property
    def origin(self) -> Origin:
        """What an export tells of the job."""
        result = self.result
        transforms = {
            name.removeprefix("transforms/"): output.sha256
            for name, output in result.outputs.items()
            if name.startswith("transforms/")
        }
        return Origin(
            subject=result.subject,
            task=result.task,
            model=result.model,
            model_version=result.model_version,
            model_files=result.model_files,
            transforms=transforms,
            registration=result.registration,
            job_sha256=self.sha256,
        )


def _provenance(record: Mapping[str, Any]) -> Provenance:
    return Provenance(
        tuple(Source(s["path"], s["sha256"]) for s in record["sources"]),
        tuple(Step(s["name"], s["settings"]) for s in record["steps"]),
        record["tags"],
    )

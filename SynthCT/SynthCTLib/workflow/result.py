"""``result.json``: what was made. It is written last; without it there is no result."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import PureWindowsPath
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from SynthCTLib import __version__
from SynthCTLib.volume import Volume

PACKAGES = ("numpy", "scipy", "SimpleITK", "torch", "openvino", "scikit-image", "pydicom")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OutputFile(_Part):
    """A file of the result: path relative to the job folder, and its hash."""

    path: str
    sha256: str

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PureWindowsPath(path)  # reads both kinds of slashes
        if not parts.parts or parts.anchor or ".." in parts.parts:
            raise ValueError(f"the output {path!r} leaves the job folder")
        return path


class FindingRecord(_Part):
    """A finding of the input gate."""

    severity: str
    rule: str
    subject: str
    message: str


class JobResult(_Part):
    """The result of a finished job.

    ``notes`` is everything the user was told that is not a finding (fallbacks, guesses).
    ``model_files`` are the SHA-256 of the weights or atlases that were used, by name;
    ``timings_s`` are seconds a stage; ``facts`` what the model says of this synthesis;
    ``registration`` how the reference was brought into place (None without a reference).
    """

    schema_version: int = 1
    subject: str
    task: str | None
    model: str | None
    model_version: str | None
    model_files: dict[str, str] = {}
    outputs: dict[str, OutputFile]
    findings: tuple[FindingRecord, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]
    registration: dict[str, Any] | None
    provenance: dict[str, Any]
    timings_s: dict[str, float]
    versions: dict[str, str]
    intended_use: str = "Research use only, not for diagnosis."


def provenance_record(volume: Volume) -> dict[str, Any]:
    """Provenance of a volume as plain JSON values."""
    provenance = volume.provenance
    return {
        "role": volume.role.value,
        "unit": volume.unit.value,
        "sources": [{"path": s.path, "sha256": s.sha256} for s in provenance.sources],
        "steps": [{"name": s.name, "settings": plain(s.settings)} for s in provenance.steps],
        "tags": plain(provenance.tags),
    }


def plain(value: Any) -> Any:
    """Nested mappings and sequences as dicts and lists, other things as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def software_versions() -> dict[str, str]:
    """Versions of SynthCT, Python and the packages that compute."""
    versions = {"SynthCT": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions

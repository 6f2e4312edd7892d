"""How an exported image came to be, as the receiving software is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthCTLib import __version__
from SynthCTLib.errors import OutputError
from SynthCTLib.volume import Volume
from SynthCTLib.whole_file import reason_of

INTENDED_USE = "Research use only, not for diagnosis."
MU_ENERGY_KEV = 511
# Facts of the scan that say nothing of the person.
_IMPERSONAL_TAGS = (
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "KVP",
    "ConvolutionKernel",
    "BodyPartExamined",
)


@dataclass(frozen=True)
class Origin:
    """The job that the exported images come from.

    ``task`` and ``model`` are None for an image that was evaluated and not made here.
    ``model_files`` are the SHA-256 of weights and atlases by name; ``transforms`` those of the
    job's transform files; ``job_sha256`` is that of its ``result.json``.
    """

    subject: str = "subject"
    task: str | None = None
    model: str | None = None
    model_version: str | None = None
    model_files: Mapping[str, str] = field(default_factory=dict)
    transforms: Mapping[str, str] = field(default_factory=dict)
    registration: Mapping[str, Any] | None = None
    job_sha256: str | None = None

    @property
    def made_by(self) -> str:
        """The model in words."""
        if self.model is None:
            return "an image that was given to SynthCT"
        return f"model {self.model} {self.model_version or ''}".strip()


def convention_of(volume: Volume) -> dict[str, Any] | None:
    """The HU to µ conversion among the steps of a µ-map (name, kvp, source, ...), None if none."""
    for step in reversed(volume.provenance.steps):
        if step.name == "hu_to_mu":
            return dict(step.settings)
    return None


def sidecar_of(volume: Volume, origin: Origin, **more: Any) -> dict[str, Any]:
    """What a sidecar says of a volume, as plain JSON values.

    Nothing in it names the patient: sources are given by their hash and not by path, and of the
    scan's tags only those that say nothing of the person are kept. ``more`` is added at the end.
    """
    provenance, grid = volume.provenance, volume.grid
    convention = convention_of(volume)
    return {
        "schema_version": 1,
        "software": f"SynthCT {__version__}",
        "intended_use": INTENDED_USE,
        "role": volume.role.value,
        "unit": volume.unit.value,
        "synthetic": provenance.is_synthetic,
        "energy_kev": MU_ENERGY_KEV if convention else None,
        "convention": convention,
        "grid": {
            "frame": "LPS mm; index order x, y, z; direction row-major",
            "size": list(grid.size),
            "spacing_mm": list(grid.spacing_mm),
            "origin_mm": list(grid.origin_mm),
            "direction": list(grid.direction),
        },
        "task": origin.task,
        "model": origin.model,
        "model_version": origin.model_version,
        "model_files_sha256": dict(origin.model_files),
        "sources_sha256": [source.sha256 for source in provenance.sources],
        "steps": [
            {"name": step.name, "settings": _without_notes(step.settings)}
            for step in provenance.steps
        ],
        "transforms_sha256": dict(origin.transforms),
        "registration": None if origin.registration is None else dict(origin.registration),
        "scan": {k: provenance.tags[k] for k in _IMPERSONAL_TAGS if k in provenance.tags},
        "job_sha256": origin.job_sha256,
        **more,
    }


def write_sidecar(content: Mapping[str, Any], path: Path) -> None:
    """Write a sidecar. Raises OutputError when the disk or the folder does not take it."""
    text = json.dumps(content, indent=2, default=str) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({reason_of(error)}).") from error


def _without_notes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Notes are sentences for the user of this machine and may hold its paths."""
    return {k: v for k, v in settings.items() if k != "note"}

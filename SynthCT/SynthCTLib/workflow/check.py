"""Only the gate: what is to be said of the inputs of a job, before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.gate import Finding, Severity, inspect, inspect_pair
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.synthesis.registry import default_card, find_card
from SynthCTLib.volume import Volume
from SynthCTLib.whole_file import whole_file
from SynthCTLib.workflow.folder import JobFolder
from SynthCTLib.workflow.request import Slot

FINDINGS = "findings.json"


def _ignore(event: ProgressEvent) -> None:
    del event


def check_job(job: JobFolder, is_cancelled: Callable[[], bool]) -> Path:
    """Inspect each input, and the input with its reference, and write ``findings.json``.

    A list of objects with slot, severity, rule, subject and message; an input that cannot be read
    has one finding of rule "reading". Raises Cancelled.
    """
    progress = Progress(_ignore, is_cancelled)
    request = job.request
    card = None
    if request.task is not None:
        card = (
            find_card(request.model, request.options.models_dir)
            if request.model
            else default_card(request.task)
        )
    source = None if request.task is None else Slot(request.task.input_role.value)
    found: list[tuple[Slot, Finding]] = []
    volumes: dict[Slot, Volume] = {}
    for slot, entry in request.inputs.items():
        progress.check()
        try:
            volume = read_volume(job.input_path(slot), slot.role, entry.unit, series=entry.series)
        except InputError as error:
            subject = slot.value.replace("_", " ")
            found.append((slot, Finding(Severity.ERROR, "reading", subject, str(error))))
            continue
        tested = card.tested if card is not None and slot == source else None
        findings = inspect(volume, tested)
        found += [(slot, finding) for finding in findings]
        if not any(finding.severity == Severity.ERROR for finding in findings):
            volumes[slot] = volume
    first = Slot.SYNTHETIC_CT if source is None else source
    if first in volumes and Slot.REFERENCE_CT in volumes:
        together = inspect_pair(
            volumes[first],
            volumes[Slot.REFERENCE_CT],
            registered=request.options.registration == "none",
        )
        found += [(Slot.REFERENCE_CT, finding) for finding in together]
    progress.check()
    return _write(job.path, found)


def _write(folder: Path, found: list[tuple[Slot, Finding]]) -> Path:
    records = [
        {
            "slot": slot.value,
            "severity": finding.severity.value,
            "rule": finding.rule,
            "subject": finding.subject,
            "message": finding.message,
        }
        for slot, finding in found
    ]
    path = folder / FINDINGS
    with whole_file(path) as part:
        part.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return path

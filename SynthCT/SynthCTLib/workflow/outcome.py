"""What a run has made, and how it is told: the report's content and the record of the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import SimpleITK as sitk

from SynthCTLib.imaging.gate import Finding
from SynthCTLib.metrics.evaluation import Evaluation
from SynthCTLib.metrics.pet import PetJudgement
from SynthCTLib.metrics.uptake import UptakeFigures
from SynthCTLib.physics.mumap import TissueMu
from SynthCTLib.registration import Bending, Fit, Registration
from SynthCTLib.report import Kind, PetReportContent, ReportContent
from SynthCTLib.synthesis.card import ModelCard
from SynthCTLib.synthesis.synthesizer import Anatomy, Spread
from SynthCTLib.volume import Volume
from SynthCTLib.workflow.request import JobRequest
from SynthCTLib.workflow.result import (
    FindingRecord,
    JobResult,
    OutputFile,
    plain,
    provenance_record,
    software_versions,
)


@dataclass
class Outcome:
    """What a run has made so far, in memory. Images by output name (``ct``, ``masks/head``).

    ``resampled`` names the inputs that were interpolated onto the synthetic CT's grid to be
    compared. ``judged`` is where the synthetic CT is held against the reference: scanned, and
    covered.
    """

    volumes: dict[str, Volume] = field(default_factory=dict)
    transforms: dict[str, sitk.Transform] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    registration: Registration | None = None
    bending: Bending | None = None
    evaluation: Evaluation | None = None
    uptake: UptakeFigures | None = None
    mu_by_tissue: tuple[TissueMu, ...] = ()
    region: Volume | None = None
    resampled: list[str] = field(default_factory=list)
    judged: Volume | None = None
    pet: PetJudgement | None = None
    anatomy: Anatomy = Anatomy.HEAD
    card: ModelCard | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    spread: Spread = Spread.ANSWERS  # what the uncertainty is that of, where there is one


def report_content(
    request: JobRequest,
    outcome: Outcome,
    notes: tuple[str, ...],
    seconds: Mapping[str, float],
) -> ReportContent:
    """What the report shows."""
    volumes = outcome.volumes
    made = volumes["ct"]
    return ReportContent(
        title=request.subject,
        kind=Kind.EVALUATION if request.task is None else Kind.SYNTHESIS,
        synthetic=made,
        mr=volumes.get("mr"),
        reference=volumes.get("reference_ct"),
        difference=volumes.get("difference"),
        mu_map=volumes["mumap"],
        uncertainty=volumes.get("ct_uncertainty"),
        spread=outcome.spread,
        coverage=volumes.get("ct_coverage"),
        anatomy=outcome.anatomy,
        region=outcome.region,
        scanned=volumes.get("masks/scanned"),
        evaluation=outcome.evaluation,
        pet=outcome.pet,
        resampled=tuple(outcome.resampled),
        findings=tuple(outcome.findings),
        notes=notes,
        model=card_facts(outcome.card) if outcome.card else {},
        mu_table=outcome.mu_by_tissue,
        convention=request.options.convention,
        registration=outcome.registration,
        sources={
            name: volume.provenance.sources[0]
            for name, volume in volumes.items()
            if volume.provenance.sources
            and name in {*(slot.value for slot in request.inputs), "ct", "reference_ct"}
        },
        steps=made.provenance.steps,
        timings_s=seconds,
        versions=software_versions(),
    )


def pet_report_content(
    request: JobRequest, outcome: Outcome, notes: tuple[str, ...]
) -> PetReportContent:
    """What the report of a synthetic PET shows."""
    assert request.task is not None
    volumes = outcome.volumes
    return PetReportContent(
        title=request.subject,
        pet=volumes["pet"],
        source=volumes[request.task.input_role.value],
        reference=volumes.get("reference_pet"),
        figures=outcome.uptake,
        findings=tuple(outcome.findings),
        notes=notes,
        model=card_facts(outcome.card) if outcome.card else {},
        versions=software_versions(),
    )


def card_facts(card: ModelCard) -> dict[str, str | tuple[str, ...]]:
    """The card as the report shows it."""

    def origin(simulated: bool) -> str:
        return "simulated" if simulated else "real"

    return {
        "Name": card.name,
        "Version": card.version,
        "What it is": card.title,
        "Made from": tuple(
            f"{d.name}: {d.subjects} subjects, {origin(d.simulated)}, {d.licence}"
            for d in card.training_data
        ),
        "Measured accuracy": tuple(
            f"{m.data}, N = {m.subjects}, {origin(m.simulated)}: {m.text}"
            for m in card.measured_accuracy
        ),
        "Limits": card.limits,
        "Cite": card.citation,
    }


def result_record(
    request: JobRequest,
    outcome: Outcome,
    notes: tuple[str, ...],
    seconds: Mapping[str, float],
    outputs: dict[str, OutputFile],
) -> JobResult:
    """The record that ``result.json`` holds."""
    registration = outcome.registration
    return JobResult(
        subject=request.subject,
        task=request.task,
        model=outcome.card.name if outcome.card else None,
        model_version=outcome.card.version if outcome.card else None,
        model_files=dict(outcome.card.files) if outcome.card else {},
        outputs=outputs,
        findings=tuple(
            FindingRecord(severity=f.severity, rule=f.rule, subject=f.subject, message=f.message)
            for f in outcome.findings
        ),
        notes=notes,
        facts=plain(outcome.facts),
        registration=(
            None if registration is None else registration_record(registration, outcome.bending)
        ),
        provenance={name: provenance_record(v) for name, v in outcome.volumes.items()},
        timings_s={name: round(value, 2) for name, value in seconds.items()},
        versions=software_versions(),
    )


def registration_record(
    registration: Registration, bending: Bending | None = None
) -> dict[str, Any]:
    """A registration as plain JSON values; the transform itself is a file of the result."""
    bent = {
        "control_mm": bending.control_mm,
        "moved_mm": round(bending.moved_mm, 2),
        "most_moved_mm": round(bending.most_moved_mm, 2),
        "refused": list(bending.refused),
    } if bending is not None else None  # fmt: skip
    return {
        "kind": str(registration.kind),
        "converged": registration.converged,
        "iterations": registration.iterations,
        "normalised_mutual_information": registration.quality.mutual_information,
        "overlap": registration.quality.overlap,
        "folding": registration.quality.folding,
        "suspicions": list(registration.doubts),
        "fit": None if registration.fit is None else fit_record(registration.fit),
        "bending": bent,
    }


def fit_record(fit: Fit) -> dict[str, Any]:
    """How a registration held when examined; what was not looked at is None."""
    return {
        "repeat_mm": None if math.isnan(fit.repeat_mm) else round(fit.repeat_mm, 3),
        "misfit_mm": None if math.isnan(fit.misfit_mm) else round(fit.misfit_mm, 3),
        "misfit_share": round(fit.misfit_share, 3),
        "places": fit.places,
        "near_bone": fit.near_bone,
    }

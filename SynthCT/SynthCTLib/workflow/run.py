"""Run and evaluate: the order of the steps, nothing else."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SynthCTLib.errors import ImplausibleResult, InputError
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_volume, reading_notes, write_volume
from SynthCTLib.imaging.gate import Finding, Severity, TestedRange, inspect, inspect_pair
from SynthCTLib.imaging.grids import Interpolator, resample, scanned_field
from SynthCTLib.imaging.masks import (
    air_mask,
    body_contour,
    brain_mask,
    head_field_of_view,
    head_mask,
    skull_mask,
    soft_tissue_mask,
)
from SynthCTLib.imaging.table import remove_table
from SynthCTLib.metrics.errors import difference
from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.metrics.uptake import uptake_figures
from SynthCTLib.physics.mumap import (
    DISTINCT_CONVENTIONS,
    convention_named,
    hu_to_mu,
    mean_mu_by_tissue,
    mu_fault,
)
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.registration import (
    Kind,
    Registration,
    RigidOptions,
    assess,
    examined,
    examined_bending,
    follow_bending,
    read_transform,
    register_rigid,
    write_transform,
)
from SynthCTLib.report import write_pet_report, write_report
from SynthCTLib.synthesis.registry import Machine, Models, default_card, find_card
from SynthCTLib.synthesis.synthesizer import Anatomy, ModelCard, Synthesis
from SynthCTLib.volume import Grid, Role, Step, Unit, Volume
from SynthCTLib.workflow.device import choose_device
from SynthCTLib.workflow.folder import JobFolder
from SynthCTLib.workflow.outcome import (
    Outcome,
    pet_report_content,
    report_content,
    result_record,
)
from SynthCTLib.workflow.pet import judge_for_pet
from SynthCTLib.workflow.request import JobRequest, Slot
from SynthCTLib.workflow.result import (
    JobResult,
    OutputFile,
)
from SynthCTLib.workflow.review import review_record


def run_job(
    job: JobFolder,
    listener: Callable[[ProgressEvent], None],
    is_cancelled: Callable[[], bool],
    models: Models | None = None,
) -> JobResult:
    """Do what the folder's request asks, and publish the result.

    ``models`` keeps opened models from one run to the next.

    Raises SynthCTError when the request cannot work, the disk is full or a stop was asked for; then
    nothing lies under a final name.
    """
    watch = _Stopwatch(listener)
    with job.running(watch.listen, is_cancelled) as progress:
        job.check_inputs()
        request = job.request
        convention_named(request.options.convention)  # before any work, not after
        outcome = Outcome()
        if request.task is None:
            evaluate_pair(job, outcome, progress.within("Evaluating", 0.85))
        else:
            kept = Models() if models is None else models
            synthesize(job, outcome, kept, progress.within("Synthesising", 0.85))
        progress.stage("Writing the results", 0.05)
        write_outputs(job, outcome)
        progress.stage("Writing the report", 0.1)
        if request.options.report:
            if "pet" in outcome.volumes:
                write_pet_report(pet_report_content(request, outcome, progress.notes), job.outbox)
            else:
                content = report_content(request, outcome, progress.notes, watch.seconds)
                write_report(content, job.outbox)
        progress.update(1.0)

        def record(outputs: dict[str, OutputFile]) -> JobResult:
            return result_record(request, outcome, progress.notes, watch.seconds, outputs)

        return job.publish(record)


def synthesize(job: JobFolder, outcome: Outcome, models: Models, progress: Progress) -> None:
    """From the input to the synthetic image, its µ-map and, with a reference, its evaluation."""
    request, options = job.request, job.request.options
    assert request.task is not None
    card = (
        find_card(request.model, options.models_dir)
        if request.model
        else default_card(request.task)
    )
    if card.task != request.task:
        raise InputError(
            f"Model {card.name} does {card.task}, not {request.task}: choose another model."
        )
    outcome.card = card
    device = choose_device(options.device, progress)
    slot = Slot(request.task.input_role.value)
    progress.stage("Reading", 0.03)
    source = read_slot(job, slot, progress)
    makes = request.task.output_role
    wanted = Slot.REFERENCE_PET if makes == Role.PET else Slot.REFERENCE_CT
    reference = read_slot(job, wanted, progress) if wanted in request.inputs else None

    pet = read_pet(job, progress)

    progress.stage("Checking the inputs", 0.04)
    admit(outcome, progress, source, card.tested)
    if reference is not None:
        admit(outcome, progress, reference, None)
        # A real PET is compared where it lies: it is never registered.
        lies = in_place(request) or makes == Role.PET
        consider(outcome, progress, inspect_pair(source, reference, registered=lies))
        if makes == Role.PET:
            reference.require_unit(Unit.SUV)
    if pet is not None:
        admit_pet(outcome, progress, pet, source if reference is None else reference)

    prepared = source
    if source.role == Role.CT and options.remove_table:
        prepared = remove_table(source).volume
    if source.role == Role.MR and options.bias_correction:
        prepared = correct_bias(source, progress=progress.within("Correcting the bias field", 0.08))

    machine = Machine(
        device,
        _threads(request),
        options.cache_dir,
        options.models_dir,
        options.engine,
        options.precision,
    )
    model = models.open(card.name, machine)
    made: Synthesis = model.synthesize(
        {source.role: prepared}, progress.within(f"Synthesising with {card.name}", 0.6)
    )
    outcome.facts = made.facts
    outcome.volumes[source.role.value] = source
    outcome.volumes[makes.value] = made.volume
    outcome.volumes[f"{makes}_coverage"] = made.coverage
    if made.uncertainty is not None:
        outcome.volumes[f"{makes}_uncertainty"] = made.uncertainty
        outcome.spread = made.spread
        outcome.facts = {**made.facts, "uncertainty": f"standard deviation, {made.spread}"}

    progress.stage("Masks", 0.05)
    if makes == Role.PET:
        outcome.anatomy = options.anatomy or Anatomy.BODY
        outcome.region = region_of(prepared, outcome.anatomy, options.head_field_mm)
        outcome.volumes[f"masks/{outcome.anatomy}"] = outcome.region
        if reference is not None:
            compare_pet(outcome, reference)
        return
    anatomy = options.anatomy or (Anatomy.HEAD if card.tested.anatomy == "head" else Anatomy.BODY)
    region = region_of(prepared, anatomy, options.head_field_mm, made.found.get(anatomy))
    outcome.anatomy = anatomy
    add_mu_map(outcome, made.volume, region, options.convention)
    if reference is not None:
        compare(
            job, outcome, prepared, reference, region, anatomy, progress.within("Comparing", 0.15)
        )
    else:
        outcome.volumes.update(tissue_masks(made.volume, region, anatomy))
    if options.pet_effect:
        inner = progress.within("Effect on PET", 0.05)
        judge_for_pet(outcome, pet, options.convention, inner)


def compare_pet(outcome: Outcome, reference: Volume) -> None:
    """Bring the real PET onto the grid of the synthetic one, as they lie, and compare them."""
    synthetic, region = outcome.volumes["pet"], outcome.region
    assert region is not None
    moved = resample(reference, synthetic.grid)
    scanned = scanned_field(reference, synthetic.grid).array > 0
    judged = (region.array > 0) & scanned & (outcome.volumes["pet_coverage"].array > 0)
    outcome.volumes["reference_pet"] = moved
    outcome.volumes["masks/scanned"] = region.mask(scanned)
    outcome.uptake = uptake_figures(moved, synthetic, region.mask(judged))


def evaluate_pair(job: JobFolder, outcome: Outcome, progress: Progress) -> None:
    """Compare a synthetic CT that exists already with a reference CT."""
    request, options = job.request, job.request.options
    progress.stage("Reading", 0.1)
    synthetic = read_slot(job, Slot.SYNTHETIC_CT, progress)
    reference = read_slot(job, Slot.REFERENCE_CT, progress)
    mr = read_slot(job, Slot.MR, progress) if Slot.MR in request.inputs else None
    pet = read_pet(job, progress)
    progress.stage("Checking the inputs", 0.1)
    for volume in (synthetic, reference, *([mr] if mr is not None else [])):
        admit(outcome, progress, volume, None)
    consider(outcome, progress, inspect_pair(synthetic, reference, registered=in_place(request)))
    if pet is not None:
        admit_pet(outcome, progress, pet, reference)
    if mr is not None:
        if not mr.grid.matches(synthetic.grid):
            progress.say(onto_grid("MR", mr, synthetic.grid))
            outcome.resampled.append(Slot.MR.value)
            mr = resample(mr, synthetic.grid)
        outcome.volumes["mr"] = mr
    outcome.volumes["ct"] = synthetic
    anatomy = options.anatomy or Anatomy.HEAD
    region = region_of(mr or synthetic, anatomy, options.head_field_mm)
    outcome.anatomy = anatomy
    add_mu_map(outcome, synthetic, region, options.convention)
    compare(
        job, outcome, mr or synthetic, reference, region, anatomy, progress.within("Comparing", 0.7)
    )
    if options.pet_effect:
        judge_for_pet(outcome, pet, options.convention, progress.within("Effect on PET", 0.1))


def compare(
    job: JobFolder,
    outcome: Outcome,
    fixed: Volume,
    reference: Volume,
    region: Volume,
    anatomy: Anatomy,
    progress: Progress,
) -> None:
    """Bring the reference CT onto the synthetic one's grid and compare them in masks.

    Nothing outside the reference's scanned field is counted.
    """
    options, synthetic = job.request.options, outcome.volumes["ct"]
    if options.remove_table:
        progress.stage("Removing the table", 0.15)
        reference = remove_table(reference).volume
    transform = sitk.Transform(3, sitk.sitkIdentity)
    bends = options.registration == "deformable" and options.transform is None
    same = options.transform is None and not bends and reference.grid.matches(synthetic.grid)
    if options.transform is not None:
        progress.stage("Reading the transform", 0.5)
        transform = read_transform(job.option_path("transform"))
        outcome.registration = Registration(
            transform, Kind.GIVEN, assess(fixed, reference, transform), math.nan, True, 0
        )
    elif options.registration == "none" or same:
        progress.stage("Keeping the reference where it is", 0.5)
        resampled = "" if same else " It was resampled onto the grid of the synthetic CT."
        progress.note(
            f"The reference CT was taken to be in register: no registration was done.{resampled}"
        )
    else:
        outcome.registration = register_rigid(
            fixed,
            reference,
            RigidOptions(threads=_threads(job.request)),
            progress=progress.within("Registering the reference", 0.2 if bends else 0.4),
        )
        transform = outcome.registration.transform
    if outcome.registration is not None:
        if transform.IsLinear():
            outcome.registration = examined(
                fixed,
                reference,
                outcome.registration,
                threads=_threads(job.request),
                progress=progress.within("Examining the registration", 0.1),
            )
        if bends:
            deform(job, outcome, fixed, reference, progress.within("Following what bent", 0.2))
            transform = outcome.registration.transform
        if outcome.registration.kind != Kind.GIVEN:
            outcome.transforms["mr_to_reference"] = transform
        for sentence in outcome.registration.doubts:
            progress.note(f"Registration: {sentence}")
    progress.stage("Resampling the reference", 0.1)
    grid = synthetic.grid
    moved = reference.with_image(sitk.Cast(reference.image, sitk.sitkFloat32))
    if not same:
        progress.say(onto_grid("reference CT", reference, grid))
        outcome.resampled.append(Slot.REFERENCE_CT.value)
        moved = resample(reference, grid, transform=transform, interpolator=Interpolator.BSPLINE)
    scanned = scanned_field(reference, grid, transform)
    outcome.volumes["reference_ct"] = moved
    outcome.volumes["masks/scanned"] = scanned
    masks = tissue_masks(moved, region, anatomy)
    if anatomy == Anatomy.HEAD:
        try:
            masks["masks/brain"] = brain_mask(moved, region)
        except InputError as error:
            progress.note(f"Nothing is said of the brain alone: {error}")
    masks.update(given_masks(job, grid, progress))
    outcome.volumes.update(masks)
    progress.stage("Computing the figures", 0.25)
    # Nothing is claimed outside the coverage, so nothing is judged there: the report says how much.
    coverage = outcome.volumes.get("ct_coverage")
    judged = scanned if coverage is None else scanned.mask(scanned.array & coverage.array)
    outcome.judged = judged
    outcome.evaluation = evaluate(
        moved,
        synthetic,
        {name.removeprefix("masks/"): mask for name, mask in masks.items()},
        scanned=judged,
        convention=options.convention,
        threads=_threads(job.request),
    )
    outcome.volumes["difference"] = difference(moved, synthetic)
    progress.update(1.0)


def deform(
    job: JobFolder, outcome: Outcome, fixed: Volume, reference: Volume, progress: Progress
) -> None:
    """Follow what bent between MR and reference, on top of the outcome's rigid registration."""
    rigid = outcome.registration
    assert rigid is not None
    bending = follow_bending(
        fixed,
        reference,
        rigid,
        threads=_threads(job.request),
        progress=progress.within("Deforming", 0.8),
    )
    outcome.bending = bending
    outcome.registration = examined_bending(
        fixed,
        reference,
        bending,
        rigid_fit=rigid.fit,
        progress=progress.within("Examining the deformation", 0.2),
    )
    for reason in bending.refused:
        progress.note(f"A deformation was not credible, {reason}")
    if bending.control_mm is None:
        progress.note("The rigid registration was kept: no deformation was credible.")
    else:
        progress.note(
            f"The reference CT was deformed onto the MR ({bending.control_mm:g} mm between control "
            f"points; on top of the rigid registration it moves the body by {bending.moved_mm:.1f} "
            f"mm in the median, a twentieth of it by more than {bending.most_moved_mm:.1f} mm): "
            "what bent between the scans is not counted as an error, and where the deformation is "
            "wrong the figures are too."
        )


def read_slot(job: JobFolder, slot: Slot, progress: Progress) -> Volume:
    """Read one input of the job; what was decided in reading it is said."""
    entry = job.request.inputs[slot]
    # A series in Bq/ml becomes SUV, or the tag that lacks is named.
    unit = entry.unit or (Unit.SUV if slot == Slot.REFERENCE_PET else None)
    volume = read_volume(job.input_path(slot), slot.role, unit, series=entry.series)
    for note in reading_notes(volume):
        progress.note(note)
    return volume


def read_pet(job: JobFolder, progress: Progress) -> Volume | None:
    """The patient's PET, where the job has one and uses it."""
    wanted = job.request.options.pet_effect and Slot.PET in job.request.inputs
    return read_slot(job, Slot.PET, progress) if wanted else None


def admit_pet(outcome: Outcome, progress: Progress, pet: Volume, beside: Volume) -> None:
    """Let a PET through the gate, and refuse it unless it meets the image whose frame it is in."""
    admit(outcome, progress, pet, None)
    consider(outcome, progress, inspect_pair(beside, pet, registered=True))


def admit(outcome: Outcome, progress: Progress, volume: Volume, tested: TestedRange | None) -> None:
    """Let an input through the gate. Raises InputError with the first error."""
    consider(outcome, progress, inspect(volume, tested))


def consider(outcome: Outcome, progress: Progress, findings: tuple[Finding, ...]) -> None:
    """Keep findings, say them, and raise InputError for the first that is an error."""
    outcome.findings.extend(findings)
    for finding in findings:
        if finding.severity == Severity.ERROR:
            raise InputError(finding.message)
        progress.say(f"{finding.severity}: {finding.message}")


def onto_grid(name: str, volume: Volume, grid: Grid) -> str:
    """The sentence that says that an image was interpolated, and from which voxels to which."""

    def voxels(of: Grid) -> str:
        return f"{_times(of.size, 'd')} of {_times(of.spacing_mm, '.2f')} mm"

    return (
        f"The {name} ({voxels(volume.grid)}) was resampled onto the grid of the synthetic CT "
        f"({voxels(grid)})."
    )


def _times(values: Iterable[float], form: str) -> str:
    return " x ".join(format(value, form) for value in values)


def region_of(
    volume: Volume, anatomy: Anatomy, head_field_mm: float, found: Volume | None = None
) -> Volume:
    """Where figures are taken: the head down to ``head_field_mm`` from the vertex, or the body.

    ``found`` is the mask of the whole head or body, where it is known already.
    """
    if anatomy == Anatomy.BODY:
        return found or body_contour(volume)
    head = found or head_mask(volume)
    field_of_view = head_field_of_view(head, head_field_mm)
    inside = (head.array > 0) & (field_of_view.array > 0)
    return head.mask(inside, Step("head_field_of_view", {"extent_mm": head_field_mm}))


def tissue_masks(ct: Volume, region: Volume, anatomy: Anatomy) -> dict[str, Volume]:
    """The region and, by the HU of a CT, its bone, soft tissue and air."""
    whole, bone = ("head", "skull") if anatomy == Anatomy.HEAD else ("body", "bone")
    return {
        f"masks/{whole}": region,
        f"masks/{bone}": skull_mask(ct, region),
        "masks/soft_tissue": soft_tissue_mask(ct, region),
        "masks/air": air_mask(ct, region),
    }


def given_masks(job: JobFolder, grid: Grid, progress: Progress) -> dict[str, Volume]:
    """The masks that the request names, on a grid. Raises InputError where none of one is there."""
    masks = {}
    for name in job.request.options.masks:
        path = job.option_path(f"mask.{name}")
        mask = read_volume(path, Role.MASK)
        if not mask.grid.matches(grid):
            progress.note(f"The mask {name} was put on the grid of the synthetic CT.")
            mask = resample(mask, grid, interpolator=Interpolator.NEAREST)
        if not (mask.array > 0).any():
            raise InputError(
                f"The mask {name} ({path}) holds no voxel of the synthetic CT: check its frame."
            )
        masks[f"masks/{name}"] = mask.mask(mask.array > 0)
    return masks


def add_mu_map(outcome: Outcome, ct: Volume, region: Volume, convention: str) -> None:
    """The attenuation map on the CT's grid, checked, and mean µ by tissue and convention.

    Raises ImplausibleResult where a model of this run made a CT that cannot be a patient's, and
    InputError where it was given.
    """
    maker = outcome.card
    if maker is not None and not np.isfinite(ct.array).all():
        raise ImplausibleResult(_blame(maker, "it holds values that are not numbers"))
    mu = hu_to_mu(ct, convention)
    fault = mu_fault(mu)
    if fault is not None:
        what = fault.what[0].lower() + fault.what[1:]
        if maker is not None:
            raise ImplausibleResult(_blame(maker, what))
        raise InputError(
            f"The synthetic CT cannot be a patient's in HU ({what}): check its unit and its "
            "rescale slope and intercept."
        )
    outcome.volumes["mumap"] = mu
    tissues = {
        "bone": skull_mask(ct, region),
        "soft_tissue": soft_tissue_mask(ct, region),
        "air": air_mask(ct, region),
    }
    outcome.region = region
    outcome.mu_by_tissue = mean_mu_by_tissue(
        ct, tissues, tuple(dict.fromkeys((*DISTINCT_CONVENTIONS, convention)))
    )


def _blame(card: ModelCard, what: str) -> str:
    return (
        f"Model {card.name} made a CT that cannot be a patient's ({what}): the model is at fault, "
        f"or was not made for such an input; see its limits (synthct models show {card.name}) and "
        "choose another."
    )


def write_outputs(job: JobFolder, outcome: Outcome) -> None:
    """Write volumes (unless the request wants none), transforms and figures into the outbox."""
    task = job.request.task
    given = {Role.MR.value} if task is None else {task.input_role.value}  # the user has it
    files = {
        job.outbox / f"{name}.nii.gz": volume
        for name, volume in outcome.volumes.items()
        if job.request.options.images and name not in given
    }
    if outcome.pet is not None and job.request.options.images:
        files[job.outbox / f"pet_{outcome.pet.kind}.nii.gz"] = outcome.pet.map
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Packing takes most of the time of writing, and SimpleITK does it without the interpreter.
    with ThreadPoolExecutor(_threads(job.request)) as pool:
        for _ in pool.map(write_volume, files.values(), files):
            pass
    for name, transform in outcome.transforms.items():
        path = job.outbox / "transforms" / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_transform(transform, path)
    figures = {
        "schema_version": 1,
        "subject": job.request.subject,
        "evaluation": None if outcome.evaluation is None else outcome.evaluation.to_json(),
        "resampled": outcome.resampled,
        "pet": None if outcome.pet is None else outcome.pet.to_json(),
        "uptake": None if outcome.uptake is None else outcome.uptake.to_json(),
        "mu_by_tissue": [
            {**asdict(row), "mean_per_cm": row.mean_per_cm if row.voxels else None}
            for row in outcome.mu_by_tissue
        ],
    }
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    (job.outbox / "metrics.json").write_text(text, encoding="utf-8")
    text = json.dumps(review_record(outcome), allow_nan=False) + "\n"
    (job.outbox / "review.json").write_text(text, encoding="utf-8")


class _Stopwatch:
    """Passes events on and counts the seconds between the first events of stages."""

    def __init__(self, listener: Callable[[ProgressEvent], None]) -> None:
        self.listener = listener
        self.seconds: dict[str, float] = {}
        self.stage, self.since = "", time.monotonic()

    def listen(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if self.stage:
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        if not event.note:
            self.stage = event.stage
        self.since = now
        self.listener(event)


def in_place(request: JobRequest) -> bool:
    """Whether the images are used as they lie, without a registration."""
    return request.options.registration == "none" and request.options.transform is None


def _threads(request: JobRequest) -> int:
    return request.options.threads or os.cpu_count() or 1


def job_subject(path: Path) -> str:
    """A subject name: the file's, or its folder's where the file is called mr, ct or so."""
    stem = path.name.split(".")[0]
    name = path.resolve().parent.name if stem.lower() in {*Slot, "t1", "t1w"} else stem
    kept = "".join(c if c.isalnum() or c in "_-" else "_" for c in name).strip("_-")
    return kept[:64] or "subject"

"""``synthct``: the verbs of the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from SynthCTLib import __version__
from SynthCTLib.cli import doctor, models, train
from SynthCTLib.cli.ending import exit_code_of, stop_on_signals
from SynthCTLib.cli.screen import Screen, default_cache_folder, default_models_folder
from SynthCTLib.cli.start import main
from SynthCTLib.errors import Cancelled, InputError, MissingModel
from SynthCTLib.export.formats import Format
from SynthCTLib.synthesis.registry import find_card
from SynthCTLib.synthesis.synthesizer import Anatomy
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import Role, Unit

__all__ = ["main", "run_command"]

app = typer.Typer(
    name="synthct",
    help="Make the CT and the 511 keV attenuation map that an MR-only or PET/MR workflow lacks, "
    "and say how far each can be trusted. Research use only, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)

# Typer carries a click of its own, whose base class of wrong usage has no public name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
INTERRUPTED = 130  # what Typer returns, and does not raise, of an interrupt

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but failures.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result in the folder.")
]
Convention = Annotated[
    str, typer.Option(help="HU to µ at 511 keV, such as carney-120 (the CT's tube voltage).")
]
Series = Annotated[
    str | None,
    typer.Option(help="UID or modality of the DICOM series to take, where a folder holds several."),
]
Transform = Annotated[
    Path | None,
    typer.Option(help="Transform file (.h5, .tfm) to use instead of registering."),
]
HowRegistered = Annotated[
    str,
    typer.Option(
        "--registration",
        help="Of the reference: rigid, deformable (follows what bent, for limbs) or none.",
    ),
]
PetImage = Annotated[Path | None, typer.Option(help="PET whose grid the µ-map is put on.")]
Fwhm = Annotated[
    float | None, typer.Option(help="Resolution of the PET, mm: the µ-map is smoothed to it.")
]
Hardware = Annotated[
    list[Path] | None,
    typer.Option(help="µ-map of table or coil, 1/cm, on the same grid; may be given repeatedly."),
]
Pet = Annotated[
    Path | None,
    typer.Option(
        help="The patient's PET, in the frame of the reference CT (without one, of the MR), for "
        "the effect on PET; a usual FDG pattern if absent."
    ),
]


class UnitOfPet(StrEnum):
    """What the values of a PET may be in."""

    SUV = Unit.SUV.value
    BQ_PER_ML = Unit.BQ_PER_ML.value


PetUnit = Annotated[
    UnitOfPet | None,
    typer.Option(help="Of a --pet whose file does not say: SUV (taken if absent) or Bq/ml."),
]
ReferenceSeries = Annotated[
    str | None,
    typer.Option(help="As --series, for the folder of the reference."),
]
PetEffect = Annotated[
    bool,
    typer.Option(help="Tell what an error, or without a reference the uncertainty, does to a PET."),
]
Masks = Annotated[
    list[str] | None,
    typer.Option("--mask", help="A further mask to evaluate in: NAME=FILE; may be repeated."),
]
Manifest = Annotated[
    Path | None,
    typer.Option(help="CSV of subjects and methods, or a BIDS folder: many at once."),
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="With --manifest: subjects at a time; all cores if absent."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="With --manifest: address of a Dask scheduler, such as tcp://host:8786."),
]
Strata = Annotated[
    list[str] | None,
    typer.Option(help="With --manifest: a column to make tables by; may be repeated."),
]
FigureKeys = Annotated[
    list[str] | None,
    typer.Option("--figure", help="Key of a figure to test and draw, such as head.mae_hu."),
]
KeepImages = Annotated[
    bool, typer.Option("--keep-images", help="With --manifest: write the images of each subject.")
]
Reports = Annotated[
    bool, typer.Option(help="With --manifest: a report of each subject; without, it is faster.")
]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="Threads; all cores if absent.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"synthct {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the verb."""
    del version


@app.command()
def run(
    output: Output,
    mr: Annotated[Path | None, typer.Option(help="MR image: file or DICOM folder.")] = None,
    pet_nac: Annotated[Path | None, typer.Option(help="NAC PET image.")] = None,
    ct: Annotated[Path | None, typer.Option(help="CT image.")] = None,
    reference_ct: Annotated[
        Path | None,
        typer.Option(help="CT of the same patient: it is registered and the result evaluated."),
    ] = None,
    reference_pet: Annotated[
        Path | None,
        typer.Option(help="Real PET (SUV) of the patient, where a PET is made: it is compared."),
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="Named by the model, or by the input, if absent.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See 'synthct models list'.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="What computes networks: auto, torch or openvino.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of networks: auto, fp32, bf16 or fp16; kept within 2 HU of fp32.")
    ] = "auto",
    convention: Convention = "carney-140",
    series: Series = None,
    transform: Transform = None,
    registration: HowRegistered = "rigid",
    anatomy: Annotated[Anatomy | None, typer.Option(help="Masks to evaluate in.")] = None,
    bias_correction: Annotated[bool, typer.Option(help="N4 bias correction of the MR.")] = True,
    remove_table: Annotated[bool, typer.Option(help="Remove the table from the CT.")] = True,
    reference_series: ReferenceSeries = None,
    pet: Pet = None,
    pet_unit: PetUnit = None,
    pet_effect: PetEffect = True,
    subject: Annotated[str | None, typer.Option(help="Name in the report.")] = None,
    threads: Threads = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for atlases made once.")] = None,
    models_folder: Annotated[
        Path | None, typer.Option("--models", help="Folder of your own models.")
    ] = None,
    overwrite: Overwrite = False,
    keep_work: Annotated[bool, typer.Option(help="Keep intermediate files.")] = False,
    manifest: Manifest = None,
    processes: Processes = None,
    scheduler: Scheduler = None,
    strata: Strata = None,
    figure: FigureKeys = None,
    reports: Reports = True,
    quiet: Quiet = False,
) -> None:
    """Synthesise the image that lacks from one that is there, with its µ-map and a report."""
    from SynthCTLib.workflow.request import Slot

    options: dict[str, object] = {
        "registration": registration,
        "transform": transform and transform.absolute(),
        "bias_correction": bias_correction,
        "remove_table": remove_table,
        "pet_effect": pet_effect,
        "convention": convention,
        "anatomy": anatomy,
        "device": device,
        "engine": engine,
        "precision": precision,
        "threads": threads,
        "cache_dir": cache or default_cache_folder(),
        "models_dir": models_folder or default_models_folder(),
        "keep_work": keep_work,
    }
    if manifest is not None:
        named = (mr, pet_nac, ct, reference_ct, reference_pet, pet, subject, series)
        _refuse_beside_a_manifest(*named, reference_series)
        options["report"] = reports
        spread = _Spread(manifest, processes, scheduler, strata, figure, pet_unit)
        folder = models_folder or default_models_folder()
        named_task = Task.MR_TO_CT if model is None else find_card(model, folder).task
        _do_cohort(output, spread, task or named_task, model, options, overwrite, quiet)
        return
    given = {Slot.MR: mr, Slot.NAC_PET: pet_nac, Slot.CT: ct}
    sources = {slot: path for slot, path in given.items() if path is not None}
    if len(sources) != 1:
        raise InputError("Give exactly one of --mr, --pet-nac and --ct: it names the task.")
    slot, path = next(iter(sources.items()))
    chosen = task or _task_of(slot.role, model, models_folder or default_models_folder())
    inputs = {slot: {"path": path.absolute(), "series": series}}
    of_reference = {"series": reference_series}
    if reference_ct is not None:
        inputs[Slot.REFERENCE_CT] = {"path": reference_ct.absolute(), **of_reference}
    if pet is not None:
        inputs[Slot.PET] = {"path": pet.absolute(), "unit": pet_unit}
    if reference_pet is not None:
        inputs[Slot.REFERENCE_PET] = {"path": reference_pet.absolute(), **of_reference}
    _do_job(
        output,
        {
            "subject": subject or _subject(path),
            "task": chosen,
            "model": model,
            "inputs": inputs,
            "options": options,
        },
        overwrite,
        quiet,
    )


@app.command()
def evaluate(
    output: Output,
    reference: Annotated[
        Path | None, typer.Option(help="The CT that is taken for the truth.")
    ] = None,
    synthetic: Annotated[Path | None, typer.Option(help="The synthetic CT.")] = None,
    mr: Annotated[
        Path | None, typer.Option(help="The MR it was made from: registers better, gives the head.")
    ] = None,
    convention: Convention = "carney-140",
    transform: Transform = None,
    registration: HowRegistered = "rigid",
    anatomy: Annotated[Anatomy, typer.Option(help="Masks to evaluate in.")] = Anatomy.HEAD,
    mask: Masks = None,
    remove_table: Annotated[bool, typer.Option(help="Remove the table from the CT.")] = True,
    reference_series: ReferenceSeries = None,
    pet: Pet = None,
    pet_unit: PetUnit = None,
    pet_effect: PetEffect = True,
    subject: Annotated[str | None, typer.Option(help="Name in the report.")] = None,
    threads: Threads = None,
    manifest: Manifest = None,
    processes: Processes = None,
    scheduler: Scheduler = None,
    strata: Strata = None,
    figure: FigureKeys = None,
    keep_images: KeepImages = False,
    reports: Reports = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare a synthetic CT with a reference CT, in masks, with a report; or many at once."""
    options: dict[str, object] = {
        "registration": registration,
        "transform": transform and transform.absolute(),
        "remove_table": remove_table,
        "pet_effect": pet_effect,
        "convention": convention,
        "anatomy": anatomy,
        "threads": threads,
        "masks": _masks(mask),
    }
    if manifest is not None:
        _refuse_beside_a_manifest(reference, synthetic, mr, pet, subject, reference_series)
        options |= {"images": keep_images, "report": reports}
        spread = _Spread(manifest, processes, scheduler, strata, figure, pet_unit)
        _do_cohort(output, spread, None, None, options, overwrite, quiet)
        return
    if reference is None or synthetic is None:
        raise InputError("Give --reference and --synthetic, or --manifest for many at once.")
    inputs: dict[str, dict[str, object]] = {
        "reference_ct": {"path": reference.absolute(), "series": reference_series},
        "synthetic_ct": {"path": synthetic.absolute()},
    }
    if mr is not None:
        inputs["mr"] = {"path": mr.absolute()}
    if pet is not None:
        inputs["pet"] = {"path": pet.absolute(), "unit": pet_unit}
    _do_job(
        output,
        {
            "subject": subject or _subject(synthetic),
            "task": None,
            "inputs": inputs,
            "options": options,
        },
        overwrite,
        quiet,
    )


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two cohorts or more.")],
    output: Output,
    figure: FigureKeys = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods over the subjects they share: paired tests, intervals, agreement."""
    from SynthCTLib.workflow.cohort.run import compare_cohorts

    page = compare_cohorts(runs, output, tuple(figure or ()), overwrite=overwrite)
    if not quiet:
        typer.echo(f"Comparison: {page}")


@app.command()
def register(
    output: Output,
    fixed: Annotated[Path, typer.Option(help="Image that stays.")],
    moving: Annotated[Path, typer.Option(help="Image that is brought onto it.")],
    kind: Annotated[str, typer.Option(help="rigid, affine or deformable.")] = "rigid",
    fixed_role: Annotated[Role, typer.Option(help="What the fixed image is.")] = Role.MR,
    moving_role: Annotated[Role, typer.Option(help="What the moving image is.")] = Role.CT,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Register two images; writes the transform, the moved image and where it was scanned."""
    from SynthCTLib.workflow.single import register_files

    with Screen(quiet) as screen, stop_on_signals() as is_cancelled:
        facts = register_files(
            fixed,
            fixed_role,
            moving,
            moving_role,
            kind,
            output,
            overwrite=overwrite,
            threads=threads,
            progress=screen.progress(is_cancelled),
        )
    if not quiet:
        for name, value in facts.items():
            typer.echo(f"{name}: {value}")


@app.command()
def mumap(
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the µ-map.")],
    ct: Annotated[Path, typer.Option(help="CT in HU: file or DICOM folder.")],
    convention: Convention = "carney-140",
    grid: PetImage = None,
    fwhm: Fwhm = None,
    add: Hardware = None,
    series: Series = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Convert a CT to an attenuation map at 511 keV in 1/cm."""
    from SynthCTLib.workflow.pet_grid import PetGrid
    from SynthCTLib.workflow.single import mu_map_file

    with Screen(quiet) as screen, stop_on_signals() as is_cancelled:
        mu_map_file(
            ct,
            output,
            convention,
            PetGrid(grid, fwhm, tuple(add or ())),
            series=series,
            overwrite=overwrite,
            progress=screen.progress(is_cancelled),
        )
    if not quiet:
        typer.echo(f"µ-map (1/cm, {convention}): {output}")


@app.command()
def export(
    job: Annotated[Path, typer.Argument(help="Folder of a finished job.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    format: Annotated[Format, typer.Option(help="What the files are.")],  # noqa: A002
    grid: PetImage = None,
    fwhm: Fwhm = None,
    add: Hardware = None,
    centred: Annotated[
        bool,
        typer.Option(
            "--centred", help="STIR's Interfile: centred on the scanner, no patient frame."
        ),
    ] = False,
    patient_from: Annotated[
        Path | None,
        typer.Option(help="DICOM: folder of the series whose patient, study and frame these are."),
    ] = None,
    placeholders: Annotated[
        bool, typer.Option("--placeholders", help="DICOM: no patient's attributes.")
    ] = False,
    to_pacs: Annotated[
        str | None,
        typer.Option(
            help="DICOM: send to AET@HOST:PORT; repeated, it sends what is not there yet."
        ),
    ] = None,
    calling_aet: Annotated[
        str, typer.Option(help="The title by which the PACS knows SynthCT.")
    ] = "SYNTHCT",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a finished job's images in the format that other software reads."""
    from SynthCTLib.export.pacs import Pacs
    from SynthCTLib.workflow.exporting import ExportOptions, export_job
    from SynthCTLib.workflow.pet_grid import PetGrid

    target = PetGrid(grid, fwhm, tuple(add or ()))
    options = ExportOptions(
        format,
        target,
        centred=centred,
        patient_from=patient_from,
        placeholders=placeholders,
        pacs=None if to_pacs is None else Pacs.parse(to_pacs),
        calling_title=calling_aet,
        overwrite=overwrite,
    )
    with Screen(quiet) as screen, stop_on_signals() as is_cancelled:
        done = export_job(job, output, options, screen.progress(is_cancelled))
    if not quiet:
        typer.echo(f"Export ({format}): {done.folder}")
        if done.sending is not None:
            typer.echo(
                f"{to_pacs}: {done.sending.sent} objects sent, "
                f"{done.sending.had_already} were there already."
            )


@dataclass(frozen=True)
class _Spread:
    """What the command line says of a cohort."""

    manifest: Path
    processes: int | None
    scheduler: str | None
    strata: list[str] | None
    figures: list[str] | None
    pet_unit: UnitOfPet | None


def _refuse_beside_a_manifest(*given: object) -> None:
    if any(value is not None for value in given):
        raise InputError("With --manifest the images are named in it: leave out the others.")


def _do_cohort(
    output: Path,
    spread: _Spread,
    task: Task | None,
    model: str | None,
    options: dict[str, object],
    overwrite: bool,
    quiet: bool,
) -> None:
    from SynthCTLib.workflow.cohort.manifest import read_manifest
    from SynthCTLib.workflow.cohort.run import CohortOptions, run_cohort

    if spread.processes and spread.scheduler:
        raise InputError("Give --processes or --scheduler, not both.")
    entries = read_manifest(spread.manifest, tuple(spread.strata or ()))
    # One thread a subject: so many subjects at a time use the cores better, and the figures do
    # not depend on how many cores there are.
    settings = {**options, "threads": options["threads"] or 1}
    cohort = CohortOptions(
        task, model, settings, spread.processes or os.cpu_count() or 1, spread.scheduler,
        tuple(spread.figures or ()), None if spread.pet_unit is None else Unit(spread.pet_unit),
    )  # fmt: skip
    with Screen(quiet) as screen, stop_on_signals() as is_cancelled:
        result = run_cohort(
            entries, output, cohort, screen.progress(is_cancelled), is_cancelled,
            overwrite=overwrite,
        )  # fmt: skip
    if result.failures:
        typer.echo(
            f"{len(result.failures)} of {len(entries)} failed: see {output / 'failures.csv'}",
            err=True,
        )
    if not quiet:
        typer.echo(f"Cohort: {result.page or output}")


def _do_job(output: Path, content: dict[str, object], overwrite: bool, quiet: bool) -> None:
    from pydantic import ValidationError

    from SynthCTLib.workflow.folder import JobFolder
    from SynthCTLib.workflow.request import JobRequest, explain
    from SynthCTLib.workflow.run import run_job

    try:
        request = JobRequest.model_validate(content)
    except ValidationError as error:
        raise InputError(f"The request is not valid: {explain(error)}.") from error
    with Screen(quiet) as screen, stop_on_signals() as is_cancelled:
        job = JobFolder.create(output, request, overwrite=overwrite)
        run_job(job, screen.show, is_cancelled)
    if not quiet:
        typer.echo(f"Report: {job.path / 'report.html'}")


def _masks(given: list[str] | None) -> dict[str, Path]:
    masks = {}
    for entry in given or []:
        name, found, path = entry.partition("=")
        if not (found and name and path):
            raise InputError(
                f"The mask {entry!r} is not NAME=FILE: write --mask lesion=mask.nii.gz."
            )
        masks[name] = Path(path).absolute()
    return masks


def _task_of(role: Role, model: str | None, models_dir: Path) -> Task:
    """The task of the model, where it starts from such an image; else the first that does."""
    if model is not None:
        with contextlib.suppress(MissingModel):  # said by the run, with the models there are
            named = find_card(model, models_dir).task
            if named.input_role == role:
                return named
    for task in Task:
        if task.input_role == role:
            return task
    raise InputError(f"No task starts from {role}.")


def _subject(path: Path) -> str:
    from SynthCTLib.workflow.run import job_subject

    return job_subject(path)


def run_command(arguments: list[str]) -> int:
    """Run the command line on ``arguments`` (without the program's name); the exit code."""

    def say(line: str) -> None:
        sys.stderr.write(f"synthct: {line}\n")

    def work() -> None:
        try:
            if app(arguments, standalone_mode=False) == INTERRUPTED:
                raise Cancelled
        except USAGE_ERROR as error:
            raise InputError(f"{_sentence(error)} See synthct --help.") from error
        except typer.Abort as error:
            raise Cancelled from error

    return exit_code_of(work, say)


def _sentence(error: Exception) -> str:
    message = getattr(error, "format_message", error.__str__)()
    return str(message).rstrip(".") + "."

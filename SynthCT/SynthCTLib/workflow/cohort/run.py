"""A cohort from manifest to tables: many jobs, in parallel, resumed where they were left.

cohort/
  subjects/SUBJECT/METHOD/   a job folder each, with its report
  figures.csv figures.json   every figure of every subject and method
  summary.csv                by method, and within folds and strata
  comparisons.csv            pairs of methods, tested
  statistics.json            both of them
  failures.csv               who has no result, and why
  cohort.html                the page
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from SynthCTLib.errors import Cancelled, InputError, OutputError
from SynthCTLib.metrics.cohort import Record, tables_of
from SynthCTLib.metrics.definitions import REGION_FIGURES, UPTAKE_FIGURES, figure_of
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.registry import default_card
from SynthCTLib.synthesis.task import Task as SynthesisTask
from SynthCTLib.volume import Role, Unit
from SynthCTLib.workflow.cohort.cluster import on_scheduler
from SynthCTLib.workflow.cohort.manifest import DEFAULT_METHOD, Entry
from SynthCTLib.workflow.cohort.processes import in_processes
from SynthCTLib.workflow.cohort.results import (
    FIGURES,
    Failure,
    failures_csv,
    read_cohort,
    record_of,
    write_cohort,
    write_text,
)
from SynthCTLib.workflow.cohort.work import STOP, Done, Task, is_finished
from SynthCTLib.workflow.folder import digest_of
from SynthCTLib.workflow.request import JobRequest, Slot, explain

SUBJECTS = "subjects"
FAILURES = "failures.csv"


@dataclass(frozen=True)
class CohortOptions:
    """How a cohort is done.

    ``task``: None evaluates synthetic CTs that exist; a synthesis makes them first. ``model``:
    where the manifest names no method. ``job``: options of every job, as in ``job.json``.
    ``processes`` on this machine, unless ``scheduler`` names a Dask scheduler. ``figures``: the
    keys to test and draw; empty takes the main ones. ``pet_unit``: of PETs whose files do not say.
    Raises InputError for less than one process, and for a figure that no cohort has.
    """

    task: SynthesisTask | None = None
    model: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    scheduler: str | None = None
    figures: tuple[str, ...] = ()
    pet_unit: Unit | None = None

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InputError(f"{self.processes} processes do no work: give at least one.")
        for key in self.figures:
            try:
                figure_of(key)
            except KeyError:
                raise InputError(
                    f"There is no figure {key!r}: give a mask and a figure such as head.mae_hu, "
                    f"or one of {', '.join((*REGION_FIGURES, *UPTAKE_FIGURES))}."
                ) from None


@dataclass(frozen=True)
class CohortResult:
    """What came of it: the page (None where nothing was evaluated), and how many jobs went well."""

    page: Path | None
    done: int
    failures: tuple[Failure, ...]


def run_cohort(
    entries: Sequence[Entry],
    folder: Path,
    options: CohortOptions,
    progress: Progress,
    is_cancelled: Callable[[], bool],
    *,
    overwrite: bool = False,
) -> CohortResult:
    """Do every job that is not done yet, then make the tables of all.

    A subject that fails is listed with its reason and stops no other. The same call on the same
    folder goes on where it was left: a finished job is kept as long as its request and the hashes
    of its inputs are the same. Raises Cancelled when a stop was asked for (finished jobs stay),
    InputError when no job at all succeeds or the folder holds something else, OutputError.
    """
    folder = folder.absolute()
    _prepare(folder, overwrite)
    progress.stage("Reading the manifest", 0.02)
    tasks, failures = _tasks(entries, folder, options)
    progress.stage("Subjects", 0.93)
    outcomes = {t.index: Done(t.index) for t in tasks if is_finished(t)}
    if outcomes:
        progress.note(f"{len(outcomes)} of {len(entries)} were done before and are kept.")
    waiting = [task for task in tasks if task.index not in outcomes]
    stopped = _stop_file(folder)
    stopped.unlink(missing_ok=True)

    def is_stopping() -> bool:
        if is_cancelled():
            stopped.touch()
            return True
        return False

    try:
        for done in _work(waiting, options, is_stopping, progress.say):
            outcomes[done.index] = done
            entry = entries[done.index]
            if done.reason and not done.cancelled:
                progress.say(f"{_label(entry, options)} failed: {done.reason}")
            if not is_stopping():
                progress.update(len(outcomes) / max(1, len(tasks)), entry.subject)
    finally:
        stopped.unlink(missing_ok=True)
    if any(done.cancelled for done in outcomes.values()):
        count = sum(1 for done in outcomes.values() if done.reason is None)
        raise Cancelled(
            f"Stopped on request: {count} of {len(entries)} are done; the same command goes on."
        )
    for index, done in outcomes.items():
        if done.reason:
            failures[index] = done.reason
    progress.stage("Tables", 0.05)
    result = _tables(entries, folder, options, failures)
    progress.update(1.0)
    return result


def _prepare(folder: Path, overwrite: bool) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUBJECTS).is_dir():
        raise InputError(f"The folder {folder} holds something else: choose a new one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            shutil.rmtree(folder / SUBJECTS, ignore_errors=True)
        (folder / SUBJECTS).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written ({error.strerror}): choose another."
        ) from error


def _tasks(
    entries: Sequence[Entry], folder: Path, options: CohortOptions
) -> tuple[list[Task], dict[int, str]]:
    """A task for each entry whose request makes sense, and why the others do not."""
    tasks, failures = [], {}
    for index, entry in enumerate(entries):
        try:
            request = _request(entry, options)
        except InputError as error:
            failures[index] = str(error)
            continue
        at = folder / SUBJECTS / entry.subject / _method(entry, options)
        tasks.append(Task(index, at, request.model_dump_json(), folder))
    return tasks, failures


def _request(entry: Entry, options: CohortOptions) -> JobRequest:
    """The request of a job, with the hashes of its files. Raises InputError."""
    wanted = _wanted(options.task)
    content = {
        "subject": entry.subject,
        "task": options.task,
        "model": None if options.task is None else entry.method or options.model,
        "inputs": {
            slot: {
                "path": path,
                "sha256": _digest(path),
                "unit": options.pet_unit if slot == Slot.PET else None,
            }
            for slot, path in entry.files.items()
            if slot in wanted
        },
        "options": {
            **options.job,
            "masks": {**options.job.get("masks", {}), **entry.masks},
            "transform": entry.transform or options.job.get("transform"),
        },
    }
    try:
        request = JobRequest.model_validate(content)
    except ValidationError as error:
        raise InputError(f"The request is not valid: {explain(error)}.") from error
    hashes = {name: digest for name, path in request.options.files.items()
              if (digest := _digest(path)) is not None}  # fmt: skip
    return request.model_copy(
        update={"options": request.options.model_copy(update={"sha256": hashes})}
    )


def _digest(path: Path) -> str | None:
    """A missing file is told by its own job."""
    return digest_of(path) if path.exists() else None


def _wanted(task: SynthesisTask | None) -> tuple[Slot, ...]:
    """The files of a manifest that a job of this kind uses; the same manifest serves both kinds."""
    if task is None:
        return (Slot.REFERENCE_CT, Slot.SYNTHETIC_CT, Slot.MR, Slot.PET)
    makes_pet = task.output_role == Role.PET
    beside = (Slot.REFERENCE_PET,) if makes_pet else (Slot.REFERENCE_CT, Slot.PET)
    return (Slot(task.input_role.value), *beside)


def _method(entry: Entry, options: CohortOptions) -> str:
    if options.task is None:
        return entry.method or DEFAULT_METHOD
    return entry.method or options.model or default_card(options.task).name


def _label(entry: Entry, options: CohortOptions) -> str:
    return f"{entry.subject}, {_method(entry, options)}"


def _stop_file(folder: Path) -> Path:
    return folder / STOP


def _work(
    tasks: Sequence[Task],
    options: CohortOptions,
    is_cancelled: Callable[[], bool],
    say: Callable[[str], None],
) -> Iterator[Done]:
    if not tasks:
        return iter(())
    if options.scheduler is not None:
        return on_scheduler(tasks, options.scheduler, is_cancelled, say)
    return in_processes(tasks, min(options.processes, len(tasks)), is_cancelled)


def _tables(
    entries: Sequence[Entry], folder: Path, options: CohortOptions, failures: Mapping[int, str]
) -> CohortResult:
    records: list[Record] = []
    reports: dict[tuple[str, str], str] = {}
    failed = []
    for index, entry in enumerate(entries):
        method = _method(entry, options)
        if index in failures:
            failed.append(Failure(entry.subject, method, failures[index]))
            continue
        at = f"{SUBJECTS}/{entry.subject}/{method}"
        if (folder / at / "report.html").is_file():
            reports[entry.subject, method] = at
        record = record_of(
            entry.subject, method, entry.fold, entry.strata, folder / at / "metrics.json"
        )
        if record is not None:
            records.append(record)
    done = len(entries) - len(failed)
    if not done:
        write_text(folder / FAILURES, failures_csv(failed))
        raise InputError(
            f"Not one of {len(entries)} succeeded, the first because: {failed[0].reason} "
            f"See {folder / FAILURES}."
        )
    page = None
    if records:
        tables = tables_of(records, options.figures)
        page = write_cohort(folder, folder.name, tables, failed, reports=reports)
    else:
        write_text(folder / FAILURES, failures_csv(failed))
    return CohortResult(page, done, tuple(failed))


def compare_cohorts(
    runs: Sequence[Path], folder: Path, figures: Sequence[str] = (), *, overwrite: bool = False
) -> Path:
    """Compare the methods of several cohorts over the subjects they share; returns the page.

    A method that two cohorts have is named after its cohort's folder too. Raises InputError for
    fewer than two methods, for a folder without a cohort, and for cohorts with no subject in
    common; OutputError.
    """
    folder = folder.absolute()
    if (folder / FIGURES).exists() and not overwrite:
        raise InputError(
            f"The folder {folder} holds an earlier result: choose another or add --overwrite."
        )
    cohorts = [(run.absolute(), *read_cohort(run.absolute())) for run in runs]
    methods = [
        (run, m) for run, found, _ in cohorts for m in dict.fromkeys(r.method for r in found)
    ]
    if len(methods) < 2:
        raise InputError("There is one method to compare: give the folders of two cohorts or more.")
    names = [m for _, m in methods]
    label = {(run, m): m if names.count(m) == 1 else f"{run.name}.{m}" for run, m in methods}
    if len(set(label.values())) < len(label):
        raise InputError("Two of the cohorts have the same name and method: rename one folder.")
    records, reports = [], {}
    for run, found, at in cohorts:
        for record in found:
            method = label[run, record.method]
            records.append(replace(record, method=method))
            if (record.subject, record.method) in at:
                place = run / at[record.subject, record.method]
                reports[record.subject, method] = Path(os.path.relpath(place, folder)).as_posix()
    tables = tables_of(records, tuple(figures))
    if not any(row.difference.n for row in tables.comparisons):
        raise InputError(
            "The cohorts have no subject in common: compare methods on the same subjects."
        )
    title = " and ".join(dict.fromkeys(run.name for run, *_ in cohorts))
    return write_cohort(folder, title, tables, (), reports=reports)

"""What a worker does: one job after the other, each model opened once.

A worker is a process of this machine or of another that sees the same folders. This module is all
that it imports before its first job.
"""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from pathlib import Path

from SynthCTLib.errors import Cancelled, SynthCTError
from SynthCTLib.progress import ProgressEvent
from SynthCTLib.synthesis.registry import Models
from SynthCTLib.workflow.folder import RESULT, JobFolder
from SynthCTLib.workflow.request import request_from

STOP = ".stop"  # in the cohort's folder: workers end at their next step


@dataclass(frozen=True)
class Task:
    """A job to do: its number in the manifest, its folder, its request as JSON."""

    index: int
    folder: Path
    request: str
    cohort: Path


@dataclass(frozen=True)
class Done:
    """What became of a task. ``reason`` is None when its result lies in its folder."""

    index: int
    reason: str | None = None
    cancelled: bool = False


# One process, one set of opened models: reading weights or making atlases takes longer than a
# subject does. Nothing else outlives a task.
_models = Models()


def do_task(task: Task) -> Done:
    """Do one job; a failure is told, never raised. A finished job is left as it is."""
    try:
        request = request_from(task.request, f"of {task.folder.name}")
        if is_finished(task):
            return Done(task.index)
        # Imported here: a cohort that is finished already needs none of it.
        from SynthCTLib.workflow.run import run_job

        job = JobFolder.create(task.folder, request, overwrite=True)
        run_job(job, _silent, (task.cohort / STOP).exists, models=_models)
    except Cancelled:
        return Done(task.index, "stopped on request", cancelled=True)
    except SynthCTError as error:
        return Done(task.index, " ".join(str(error).split()))
    except Exception as error:
        with contextlib.suppress(OSError):
            task.folder.mkdir(parents=True, exist_ok=True)
            with (task.folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
        return Done(
            task.index, f"a bug in SynthCT ({type(error).__name__}: {error}): see log.txt there"
        )
    return Done(task.index)


def is_finished(task: Task) -> bool:
    """Whether the folder holds the result of this very request (its inputs' hashes included)."""
    if not (task.folder / RESULT).is_file():
        return False
    try:
        return JobFolder.open(task.folder).request == request_from(task.request, "")
    except SynthCTError:
        return False


def _silent(event: ProgressEvent) -> None:
    del event  # the job's progress.jsonl has it

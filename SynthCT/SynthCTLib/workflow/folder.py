"""The job folder: the contract between panel, command line and worker.

job.json         the request (written first)
progress.jsonl   one line an event
log.txt          for people
work/            intermediate files, and what will be published; removed at the end
...              the outputs, moved here when all of them are complete
result.json      written last, by rename: no result.json, no result
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import psutil

from SynthCTLib.errors import InputError, OutputError, SynthCTError
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.volume import sha256_of
from SynthCTLib.whole_file import whole_file
from SynthCTLib.workflow.request import JobRequest, Slot, request_from
from SynthCTLib.workflow.result import JobResult, OutputFile

REQUEST, RESULT, EVENTS, LOG, WORK = (
    "job.json",
    "result.json",
    "progress.jsonl",
    "log.txt",
    "work",
)
OWNER = "owner.json"


class JobFolder:
    """A folder that holds one job from request to result."""

    def __init__(self, path: Path, request: JobRequest) -> None:
        self.path = path
        self.request = request

    @classmethod
    def create(cls, path: Path, request: JobRequest, *, overwrite: bool = False) -> JobFolder:
        """Make the folder and write the request.

        Raises InputError when an input does not exist or the folder holds an earlier result
        (unless ``overwrite``), OutputError when it cannot be written. Nothing is made when an input
        is missing.
        """
        path = path.absolute()
        job = cls(path, request)
        job.check_inputs()
        if (path / RESULT).exists() and not overwrite:
            raise InputError(
                f"The folder {path} holds an earlier result: choose another or add --overwrite."
            )
        with _writing(path):
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
            path.mkdir(parents=True, exist_ok=True)
            job._refuse_second_run()
            _write_text(path / REQUEST, request.model_dump_json(indent=2) + "\n")
        return job

    @classmethod
    def open(cls, path: Path) -> JobFolder:
        """Open a folder that holds a request. Raises InputError."""
        path = path.absolute()
        try:
            text = (path / REQUEST).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The folder {path} has no readable {REQUEST}: write one.") from error
        return cls(path, request_from(text, str(path / REQUEST)))

    @property
    def work(self) -> Path:
        """Folder for intermediate files, there while the job runs."""
        return self.path / WORK

    @property
    def outbox(self) -> Path:
        """Folder for the outputs until all of them are complete."""
        return self.work / "out"

    def input_path(self, slot: Slot) -> Path:
        """Where an input lies. Raises InputError when a relative path leaves the job folder."""
        return self._place(f"input {slot}", self.request.inputs[slot].path)

    def option_path(self, name: str) -> Path:
        """Where a file of the options lies (``transform``, ``mask.NAME``), as of inputs."""
        return self._place(name.replace(".", " "), self.request.options.files[name])

    def check_inputs(self) -> None:
        """Raise InputError for the first input that is missing or not the one it was."""
        for slot, entry in self.request.inputs.items():
            self._check_file(f"input {slot}", self.input_path(slot), entry.sha256)
        options = self.request.options
        for name in options.files:
            path = self.option_path(name)
            self._check_file(name.replace(".", " "), path, options.sha256.get(name))

    def _place(self, what: str, given: Path) -> Path:
        if given.is_absolute():
            return given
        path = (self.path / given).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise InputError(f"The {what} ({given}) leaves the job folder: give an absolute path.")
        return path

    @staticmethod
    def _check_file(what: str, path: Path, sha256: str | None) -> None:
        if not path.exists():
            raise InputError(f"There is no file {path} ({what}): check its name.")
        if sha256 and digest_of(path) != sha256:
            raise InputError(
                f"The {what} ({path}) has changed since the job was written: write it anew."
            )

    @contextlib.contextmanager
    def running(
        self,
        listener: Callable[[ProgressEvent], None],
        is_cancelled: Callable[[], bool],
    ) -> Iterator[Progress]:
        """The time of a run: owns ``work/``, appends events and log, and cleans up at the end.

        A failure is written to ``log.txt`` (a bug with its traceback) and raised again.
        """
        with _writing(self.path):
            self._refuse_second_run()
            self.outbox.mkdir(parents=True)
            me = psutil.Process()
            owner = {"pid": me.pid, "started": me.create_time()}
            _write_text(self.work / OWNER, json.dumps(owner))
        try:
            with (
                _disk_of(self.path),
                (self.path / EVENTS).open("a", encoding="utf-8") as events,
                (self.path / LOG).open("a", encoding="utf-8") as log,
            ):
                journal = _Journal(events, log)

                def tell(event: ProgressEvent) -> None:
                    journal.add(event)
                    listener(event)

                try:
                    yield Progress(tell, is_cancelled)
                    journal.line("Done.")
                except SynthCTError as error:
                    journal.line(f"{type(error).__name__}: {error}")
                    raise
                except BaseException:
                    journal.line(traceback.format_exc())
                    raise
        finally:
            if not self.request.options.keep_work:
                shutil.rmtree(self.work, ignore_errors=True)
            else:
                (self.work / OWNER).unlink(missing_ok=True)

    def publish(self, result: Callable[[dict[str, OutputFile]], JobResult]) -> JobResult:
        """Move everything in the outbox into place, then write ``result.json``.

        ``result`` makes the record from the outputs by name (the path without its suffixes).
        """
        with _writing(self.path):
            files = sorted(p for p in self.outbox.rglob("*") if p.is_file())
            outputs = {}
            for file in files:
                name = file.relative_to(self.outbox)
                outputs[_key(name)] = OutputFile(path=name.as_posix(), sha256=sha256_of(file))
            record = result(outputs)
            # All that takes room comes before anything is moved: the disk may be full by now.
            staged = self.work / RESULT
            _write_text(staged, record.model_dump_json(indent=2) + "\n")
            targets = {file: self.path / file.relative_to(self.outbox) for file in files}
            for target in targets.values():
                target.parent.mkdir(parents=True, exist_ok=True)
            self._withdraw_earlier_result()
            try:
                for file, target in targets.items():
                    file.replace(target)
                staged.replace(self.path / RESULT)
            except OSError:
                for file, target in targets.items():
                    if not file.exists():
                        target.unlink()
                raise
        return record

    def _withdraw_earlier_result(self) -> None:
        """Remove an earlier result and its outputs: two results must not mix."""
        try:
            earlier = JobResult.model_validate_json((self.path / RESULT).read_bytes())
        except (OSError, ValueError):
            return
        (self.path / RESULT).unlink()
        for output in earlier.outputs.values():
            (self.path / output.path).unlink(missing_ok=True)

    def _refuse_second_run(self) -> None:
        """Remove what a killed run left behind; raise InputError when one is at work."""
        if not self.work.exists():
            return
        try:
            owner = json.loads((self.work / OWNER).read_text(encoding="utf-8"))
            process = psutil.Process(owner["pid"])
            # A killed process stays as a zombie until its parent has asked what became of it.
            ended = process.status() == psutil.STATUS_ZOMBIE
            alive = process.create_time() == owner["started"] and not ended
        except (OSError, ValueError, KeyError, psutil.Error):
            alive = False
        if alive:
            raise InputError(
                f"Another run is working in {self.path}: wait for it or choose another folder."
            )
        shutil.rmtree(self.work)


class _Journal:
    """Appends events to ``progress.jsonl`` and lines to ``log.txt``."""

    def __init__(self, events: TextIO, log: TextIO) -> None:
        self.events, self.log, self.stage = events, log, ""

    def add(self, event: ProgressEvent) -> None:
        record = {
            "time": round(event.time, 3),
            "stage": event.stage,
            "fraction": round(event.fraction, 4),
            "message": event.message,
            "remaining_s": None if event.remaining_s is None else round(event.remaining_s, 1),
            "note": event.note,
        }
        self.events.write(json.dumps(record) + "\n")
        self.events.flush()
        if event.note:
            self.line(event.message)
        elif event.stage != self.stage:
            self.stage = event.stage
            self.line(event.stage)

    def line(self, text: str) -> None:
        self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n")
        self.log.flush()


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder that of the names and hashes of all files in it."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _key(path: Path) -> str:
    """Name of an output: its path without suffixes, such as ``masks/head``."""
    return path.with_name(path.name.split(".")[0]).as_posix()


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in one sentence why a folder cannot be written."""
    with _disk_of(path):
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            reason = error.strerror or str(error)
            raise OutputError(
                f"The folder {path} cannot be written ({reason}): choose another folder."
            ) from error


@contextlib.contextmanager
def _disk_of(path: Path) -> Iterator[None]:
    """Say in one sentence that the disk is full; every other failure is left as it is."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OutputError(
            f"The disk that holds {path} is full: free some space and run again."
        ) from error

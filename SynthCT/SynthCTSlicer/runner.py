"""A worker process for a job folder: started, followed, cancelled, never left behind.

PythonSlicer is only a launcher: the interpreter is its child, and a signal to the launcher does
not reach it. So the worker gets a session of its own, is asked to stop by a file in its folder,
and whatever is left of the session is killed after a moment. Should Slicer crash, the worker's
guard ends it (``SynthCTLib.guard``).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from slicer.i18n import tr as _

from SynthCTSlicer.signals import Signal

POLL_MS = 100
GRACE_S = 1.5

DONE, REFUSED, BUG, CANCELLED, KILLED, LOST, MEMORY, PACKAGE = (
    *("done", "refused", "bug", "cancelled", "killed", "lost", "memory", "package"),
)
_NEEDS = re.compile(r"needs the package (\w+), which is not installed")


@dataclass
class Job:
    """A job folder with a request, and how far its worker is. ``writing``: see ``steps``."""

    folder: Path
    title: str
    arguments: tuple = ()
    guarded: bool = True
    fraction: float = 0.0
    stage: str = ""
    remaining_s: object = None
    started: float = 0.0
    log: list = field(default_factory=list)
    writing: object = None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: one of the words above, and one sentence."""

    kind: str
    message: str
    package: str = ""


class JobRunner:
    """Runs one job after another. ``poll`` must be called every ``POLL_MS``."""

    def __init__(self, launcher, environment, parent=None):
        self._launcher, self._environment = list(launcher), dict(environment)
        self._parent = parent or os.getpid()
        self.waiting = deque()
        self.current = None
        self._process = None
        self._offset = 0
        self._cancelled_at = None
        self._killed = self._lost = False
        self.changed = Signal()
        self.progressed = Signal()
        self.finished = Signal()

    @property
    def busy(self):
        """Whether a job is at work."""
        return self.current is not None

    def add(self, job):
        """Start a job, or put it in the queue."""
        self.waiting.append(job)
        if not self.busy:
            self._next()
        self.changed()

    def cancel(self):
        """Ask the running job to stop; what is left of it after a moment is killed."""
        if self.busy and self._cancelled_at is None:
            self._cancelled_at = time.monotonic()
            with contextlib.suppress(OSError):
                (self.current.folder / "cancel").touch()
            self.changed()

    def remove(self, job):
        """Take a waiting job out of the queue."""
        self.waiting.remove(job)
        shutil.rmtree(job.folder, ignore_errors=True)
        self.changed()

    @property
    def cancelling(self):
        """Whether the running job was asked to stop."""
        return self._cancelled_at is not None

    def stop_all(self):
        """End everything at once and wait for it: the scene or the module is going away."""
        jobs = [*self.waiting, *([self.current] if self.busy else [])]
        self.waiting.clear()
        if self._process is not None:
            self._kill()
            end = time.monotonic() + 2.0
            while self._tree_alive() and time.monotonic() < end:
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        self._process = self.current = self._cancelled_at = None
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
        if jobs:
            self.changed()

    def poll(self):
        """Look at the running job: read its events, notice its end."""
        if not self.busy:
            return
        job = self.current
        self._read_events()
        if job.guarded and not self._killed and not (job.folder / "job.json").is_file():
            self._lost = True  # the worker would make the folder anew and go on
            self._kill()
        if self._cancelled_at is not None and not self._killed:
            late = time.monotonic() - self._cancelled_at > GRACE_S
            if late and self._tree_alive():
                self._kill()
        code = self._process.poll()
        if code is None or (self.cancelling and self._tree_alive()):
            return
        if self._tree_alive():
            self._kill()  # the launcher was killed alone: its interpreter must not live on
            return
        self._read_events()
        outcome = self._outcome(job, code)
        self._process = self.current = self._cancelled_at = None
        if outcome.kind != DONE and outcome.kind != BUG:
            shutil.rmtree(job.folder, ignore_errors=True)
        self._next()
        self.finished(job, outcome)
        self.changed()

    def _next(self):
        if not self.waiting:
            return
        job = self.current = self.waiting.popleft()
        job.started = time.monotonic()
        self._offset, self._cancelled_at = 0, None
        self._killed = self._lost = False
        command = [*self._launcher, *job.arguments]
        if job.guarded:
            command += ["--parent", str(self._parent)]
        options = {"start_new_session": True}
        if os.name == "nt":
            options = {"creationflags": 0x08000200}  # own process group, no window
        try:
            with (job.folder / "worker.txt").open("wb") as said:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=str(job.folder),
                    **options,
                )
        except OSError as error:
            self.current = None
            reason = error.strerror or str(error)
            self.finished(
                job,
                Outcome(
                    REFUSED,
                    _("The worker cannot be started ({r}): reinstall Slicer.").format(r=reason),
                ),
            )
            self._next()

    def _read_events(self):
        path = self.current.folder / "progress.jsonl"
        try:
            with path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            event = json.loads(line)
            job = self.current
            job.fraction, job.stage = event["fraction"], event["stage"] or job.stage
            job.remaining_s = event["remaining_s"]
            if event["note"]:
                job.log.append(event["message"])
            elif not job.log or job.log[-1] != job.stage:
                job.log.append(job.stage)
        if whole:
            self.progressed(self.current)

    def _outcome(self, job, code):
        if self._lost or not job.folder.is_dir():
            return Outcome(LOST, _("The job's folder was deleted while it ran: run again."))
        said = _text(job.folder / "worker.txt")
        last = said.strip().splitlines()[-1] if said.strip() else ""
        if self.cancelling or code == 3:
            text = _("Cancelled. Nothing was kept; the scene is as it was.")
            return Outcome(CANCELLED, text)
        if code == 0:
            return Outcome(DONE, "")
        if "memory does not suffice" in last:  # the library has tried with less already
            return Outcome(MEMORY, last)
        if code == 2 and last:
            needs = _NEEDS.search(last)
            return Outcome(PACKAGE, last, needs.group(1)) if needs else Outcome(REFUSED, last)
        trace = _text(job.folder / "log.txt") + said
        if "out of memory" in trace.lower():
            return Outcome(
                MEMORY,
                _(
                    "The graphics card ran out of memory: close other programs, or retry on the "
                    "CPU or with a smaller model."
                ),
            )
        for package in ("torch", *_needed()):
            if f"No module named '{package}" in trace or f"cannot import name '{package}" in trace:
                return Outcome(
                    PACKAGE,
                    _(
                        "The package {p} is missing or only half installed: press Install at the "
                        "top of the panel, and restart Slicer."
                    ).format(p=package),
                    package,
                )
        if "ImportError" in trace and "torch" in trace:
            return Outcome(
                PACKAGE,
                _(
                    "torch is installed but cannot be loaded: press Install at the top of the "
                    "panel, and restart Slicer."
                ),
                "torch",
            )
        if "Traceback" not in trace:
            return Outcome(
                KILLED,
                _(
                    "The worker was ended from outside, often for want of memory: close other "
                    "programs and run again."
                ),
            )
        job.log.append(trace.strip())
        return Outcome(
            BUG,
            _("This is a bug in SynthCT: please report it with the log in {f}.").format(
                f=job.folder
            ),
        )

    def _kill(self):
        self._killed = True
        if os.name == "nt":
            subprocess.run(
                ["taskkill", "/PID", str(self._process.pid), "/T", "/F"],
                capture_output=True,
                check=False,
            )
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tree_alive(self):
        """Whether anything of the worker's session still runs; zombies do not."""
        if os.name == "nt":
            return self._process.poll() is None
        self._process.poll()
        proc = Path("/proc")
        if not (proc / "self" / "stat").exists():
            try:
                os.killpg(self._process.pid, 0)
            except (ProcessLookupError, PermissionError):
                return False
            return True
        for entry in proc.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self._process.pid and fields[0] not in "ZX":
                        return True
        return False


def _needed():
    from SynthCTSlicer.library import NEEDED

    return tuple(NEEDED)


def _text(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""``python -m SynthCTLib.guard PARENT WORKER JOB``: end a worker whose parent is gone.

A process of its own, because the worker's interpreter may be busy inside one long call of a
library when the application that started it crashes. It looks four times a second. When the parent
is gone it asks the worker to stop, ends what is left of its tree 1.5 seconds later, and removes
the job's intermediate files; when the worker has ended it ends too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import psutil

INTERVAL_S = 0.25
GRACE_S = 1.5


def watch(parent: psutil.Process, worker: psutil.Process, job: Path) -> None:
    """Return when the worker has ended, or has been ended because the parent is gone."""
    launcher = _launcher_of(worker)
    while _alive(worker):
        if not _alive(parent):
            end_tree(worker, launcher)
            shutil.rmtree(job / "work", ignore_errors=True)
            return
        time.sleep(INTERVAL_S)


def end_tree(worker: psutil.Process, launcher: psutil.Process | None) -> None:
    """Ask a worker to stop, then kill it, what it started and the launcher it was started by."""
    with contextlib.suppress(psutil.Error):
        worker.terminate()
    with contextlib.suppress(psutil.Error):
        worker.wait(GRACE_S)
    tree = [worker]
    with contextlib.suppress(psutil.Error):
        tree += worker.children(recursive=True)
    if launcher is not None:
        tree.append(launcher)
    for process in tree:
        if process.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _launcher_of(worker: psutil.Process) -> psutil.Process | None:
    """The launcher between application and worker: it shares the worker's own session."""
    if not hasattr(os, "getsid"):
        return None
    with contextlib.suppress(psutil.Error, OSError):
        above = worker.parent()
        if above is not None and os.getsid(above.pid) == os.getsid(worker.pid) == above.pid:
            return above
    return None


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def main(arguments: list[str]) -> int:
    """Watch; returns the exit code."""
    worker, job = psutil.Process(int(arguments[1])), Path(arguments[2])
    try:
        parent = psutil.Process(int(arguments[0]))
    except psutil.NoSuchProcess:
        end_tree(worker, _launcher_of(worker))
        shutil.rmtree(job / "work", ignore_errors=True)
        return 0
    watch(parent, worker, job)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

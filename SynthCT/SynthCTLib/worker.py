"""``python -m SynthCTLib.worker JOB``: do the job that a folder's ``job.json`` asks for.

The panel starts this in a process of its own and follows ``progress.jsonl``. Exit codes: 0 done,
1 a bug (traceback in ``log.txt``), 2 the request cannot work (one sentence on stderr),
3 cancelled or interrupted. A file named ``cancel`` in the folder asks it to stop, as a signal does.

``--parent PID``: end, with everything that was started, when that process is gone.
``--check``: only let the inputs through the gate and write ``findings.json``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from SynthCTLib.cli.ending import exit_code_of, stop_on_signals
from SynthCTLib.errors import EXIT_REFUSED
from SynthCTLib.progress import ProgressEvent

CANCEL = "cancel"


def main(arguments: list[str]) -> int:
    """Run the worker on one job folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m SynthCTLib.worker", exit_on_error=False)
    parser.add_argument("job", type=Path)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--check", action="store_true")
    try:
        given, unknown = parser.parse_known_args(arguments)
    except (argparse.ArgumentError, SystemExit):
        return EXIT_REFUSED
    if unknown:
        sys.stderr.write(f"Usage: python -m SynthCTLib.worker JOB_FOLDER (not {unknown[0]})\n")
        return EXIT_REFUSED
    folder = given.job.absolute()
    if given.parent is not None:
        _set_guard(given.parent, folder)

    with stop_on_signals() as was_signalled:

        def is_cancelled() -> bool:
            return was_signalled() or (folder / CANCEL).exists()

        def work() -> None:
            from SynthCTLib.workflow.folder import JobFolder

            job = JobFolder.open(folder)
            if given.check:
                from SynthCTLib.workflow.check import check_job

                check_job(job, is_cancelled)
            else:
                from SynthCTLib.workflow.run import run_job

                run_job(job, _silent, is_cancelled)

        return exit_code_of(work, _say)


def _set_guard(parent: int, folder: Path) -> None:
    command = [sys.executable, "-m", "SynthCTLib.guard", str(parent), str(os.getpid()), str(folder)]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _silent(event: ProgressEvent) -> None:
    del event  # the folder's progress.jsonl has it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m SynthCTLib.worker JOB``: do the job that a folder's ``job.json`` asks for.

The panel starts this in a process of its own and follows ``progress.jsonl``. Exit codes: 0 done,
1 a bug (traceback in ``log.txt``), 2 the request cannot work (one sentence on stderr),
3 cancelled or interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from SynthCTLib.cli.ending import exit_code_of, stop_on_signals
from SynthCTLib.errors import EXIT_REFUSED
from SynthCTLib.progress import ProgressEvent


def main(arguments: list[str]) -> int:
    """Run the worker on one job folder; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("Usage: python -m SynthCTLib.worker JOB_FOLDER\n")
        return EXIT_REFUSED

    with stop_on_signals() as is_cancelled:

        def work() -> None:
            from SynthCTLib.workflow.folder import JobFolder
            from SynthCTLib.workflow.run import run_job

            run_job(JobFolder.open(Path(arguments[0])), _silent, is_cancelled)

        return exit_code_of(work, _say)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _silent(event: ProgressEvent) -> None:
    del event  # the folder's progress.jsonl has it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Where the command line starts: it can be stopped from its first moment on.

Loading the library takes a second or two. What asks it to stop then ends it as at any later stage.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from SynthCTLib.errors import EXIT_CANCELLED


def main() -> None:
    """Entry point: runs the command line and ends the process with its exit code."""
    # As Ctrl-C does; a verb that can end in order takes both signals while it works.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from SynthCTLib.cli.main import run_command
    except KeyboardInterrupt:
        sys.stderr.write("synthct: Stopped on request.\n")
        sys.exit(EXIT_CANCELLED)
    sys.exit(run_command(sys.argv[1:]))


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt

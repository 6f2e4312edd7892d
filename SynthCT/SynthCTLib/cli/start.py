"""Where the command line starts: it can be stopped from its first moment on.

Loading the library takes a second or two. What asks it to stop then ends it as at any later stage.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from SynthCTLib.errors import EXIT_CANCELLED

STDERR = 2


def main() -> None:
    """Entry point: runs the command line and ends the process with its exit code."""
    # A verb that ends in order takes both signals while it works.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    from SynthCTLib.cli.main import run_command

    sys.exit(run_command(sys.argv[1:]))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Not a KeyboardInterrupt: raised within ``exec``, Python ends with 130 though it is caught."""
    del number, frame
    os.write(STDERR, b"synthct: Stopped on request.\n")  # no buffer, which may be at work just now
    raise SystemExit(EXIT_CANCELLED)

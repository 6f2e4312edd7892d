"""How a program of SynthCT ends: signals to cancelling, exceptions to exit codes."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from SynthCTLib.errors import EXIT_BUG, EXIT_CANCELLED, EXIT_DONE, SynthCTError


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask to stop; the yielded function tells whether one has come.

    The handlers that were there before are put back at the end. Outside the main thread, where
    Python takes no signals, nothing is installed.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code_of(work: Callable[[], None], say: Callable[[str], None]) -> int:
    """Do the work; say a failure in one line (a bug with its traceback on stderr)."""
    try:
        work()
    except SynthCTError as error:
        say(" ".join(str(error).split()))
        return error.exit_code
    except KeyboardInterrupt:
        say("Stopped on request.")
        return EXIT_CANCELLED
    except Exception:
        traceback.print_exc(file=sys.stderr)
        say("This is a bug in SynthCT: please report it with the lines above.")
        return EXIT_BUG
    return EXIT_DONE

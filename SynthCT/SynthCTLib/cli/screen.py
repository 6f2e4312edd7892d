"""Progress on the terminal, and where things that outlive a run are kept."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from SynthCTLib.progress import Progress, ProgressEvent

SECONDS_BETWEEN_LINES = 10.0


class Screen:
    """A progress bar on stderr; plain lines where stderr is not a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[remaining]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("Starting", total=1.0, remaining="")
        self.stage, self.last_line = "", 0.0

    def __enter__(self) -> Screen:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def progress(self, is_cancelled: Callable[[], bool]) -> Progress:
        """A progress that is shown here."""
        return Progress(self.show, is_cancelled)

    def show(self, event: ProgressEvent) -> None:
        """Show one event."""
        if event.note:
            self.console.print(event.message, highlight=False, markup=False, soft_wrap=True)
            return
        remaining = "" if event.remaining_s is None else f"about {_clock(event.remaining_s)} left"
        self.bar.update(
            self.task, completed=event.fraction, description=event.stage, remaining=remaining
        )
        now = time.monotonic()
        waited = now - self.last_line > SECONDS_BETWEEN_LINES
        if not self.console.is_terminal and (event.stage != self.stage or waited):
            self.stage, self.last_line = event.stage, now
            line = f"{event.fraction:4.0%}  {event.stage}  {event.message}".rstrip()
            self.console.print(
                f"{line}  {remaining}".rstrip(), highlight=False, markup=False, soft_wrap=True
            )


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def default_cache_folder() -> Path:
    """The user's cache folder for SynthCT, as the platform has it."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "synthct"


def default_models_folder() -> Path:
    """The user's folder for imported models, as the platform has it."""
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "synthct" / "models"

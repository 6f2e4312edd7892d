"""Progress of long work, and the one place where a request to stop takes effect.

Work is divided into stages, each with the share of the whole that it is expected to take:

    >>> from SynthCTLib.progress import Progress
    >>> events = []
    >>> progress = Progress(events.append)
    >>> progress.stage("Reading", 0.25)
    >>> progress.update(1.0)
    >>> round(progress.fraction, 2)
    0.25
    >>> inner = progress.within("Registering", 0.5)   # a callee divides its own whole
    >>> inner.stage("Rigid", 0.5)
    >>> inner.update(1.0)
    >>> round(progress.fraction, 2)
    0.5
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from SynthCTLib.errors import Cancelled


@dataclass(frozen=True)
class ProgressEvent:
    """One step forward (``note`` false), or something the user must be told (``note`` true).

    ``time`` is seconds since the epoch; ``fraction`` is of the whole work, 0 to 1;
    ``remaining_s`` is an estimate in seconds, None while too little is known.
    """

    time: float
    stage: str
    fraction: float
    message: str
    remaining_s: float | None
    note: bool = False


def _ignore(event: ProgressEvent) -> None:
    del event


def _never() -> bool:
    return False


class _Clock:
    """State that a progress shares with every part of it."""

    def __init__(self, listener: Callable[[ProgressEvent], None], is_cancelled: Callable[[], bool]):
        self.listener = listener
        self.is_cancelled = is_cancelled
        self.started = time.monotonic()
        self.furthest = 0.0
        self.notes: list[str] = []
        self.lock = threading.RLock()


class Progress:
    """Tells a listener how far the work is, and raises ``Cancelled`` when asked to stop.

    Safe to use from several threads. The reported fraction never goes back.
    """

    def __init__(
        self,
        listener: Callable[[ProgressEvent], None] = _ignore,
        is_cancelled: Callable[[], bool] = _never,
    ) -> None:
        self._clock = _Clock(listener, is_cancelled)
        self._begin, self._span = 0.0, 1.0
        self._stage, self._stage_begin, self._stage_share = "", 0.0, 0.0

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        return self._clock.furthest

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything said with :meth:`note`, in order: it belongs into the result."""
        return tuple(self._clock.notes)

    def stage(self, name: str, share: float) -> None:
        """Begin a stage that takes ``share`` (0 to 1) of this progress; the one before is done.

        Raises ``Cancelled`` when a stop was asked for.
        """
        self._stage_begin = min(1.0, self._stage_begin + self._stage_share)
        self._stage, self._stage_share = name, min(share, 1.0 - self._stage_begin)
        self.update(0.0)

    def update(self, fraction: float, message: str = "") -> None:
        """Report the done ``fraction`` (0 to 1) of the current stage.

        Raises ``Cancelled`` when a stop was asked for.
        """
        self.check()
        done = self._stage_begin + self._stage_share * min(max(fraction, 0.0), 1.0)
        self._tell(self._begin + self._span * done, message, note=False)

    def note(self, message: str) -> None:
        """Say aloud, and keep for the result, what the user must know (a fallback, a guess)."""
        with self._clock.lock:
            self._clock.notes.append(message)
        self.say(message)

    def say(self, message: str) -> None:
        """Say aloud what is recorded elsewhere, such as a finding of the input gate."""
        self._tell(self._clock.furthest, message, note=True)

    def check(self) -> None:
        """Raise ``Cancelled`` when a stop was asked for."""
        if self._clock.is_cancelled():
            raise Cancelled

    def within(self, name: str, share: float) -> Progress:
        """Begin a stage and return a progress whose whole is that stage."""
        self.stage(name, share)
        part = Progress.__new__(Progress)
        part._clock = self._clock
        part._begin = self._begin + self._span * self._stage_begin
        part._span = self._span * self._stage_share
        part._stage, part._stage_begin, part._stage_share = name, 0.0, 0.0
        return part

    def concurrent(self, name: str, share: float, count: int) -> list[Progress]:
        """Begin a stage of ``count`` equal parts that may run at the same time."""
        self.stage(name, share)
        fractions = [0.0] * count

        def follow(index: int) -> Callable[[ProgressEvent], None]:
            def listener(event: ProgressEvent) -> None:
                if event.note:
                    self.note(event.message)
                    return
                with self._clock.lock:
                    fractions[index] = event.fraction
                    done = sum(fractions) / count
                self.update(done, event.message or event.stage)

            return listener

        return [Progress(follow(i), self._clock.is_cancelled) for i in range(count)]

    def _tell(self, overall: float, message: str, *, note: bool) -> None:
        clock = self._clock
        with clock.lock:
            clock.furthest = max(clock.furthest, min(overall, 1.0))
            elapsed = time.monotonic() - clock.started
            known = clock.furthest > 0.02 and elapsed > 1.0
            remaining = elapsed * (1.0 - clock.furthest) / clock.furthest if known else None
            event = ProgressEvent(
                time.time(), self._stage, clock.furthest, message, remaining, note
            )
            clock.listener(event)

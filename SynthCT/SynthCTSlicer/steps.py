"""Long work of the window's thread in small steps, with turns of the event loop between them.

Python threads hardly run while Slicer's event loop waits: it holds the interpreter's lock. So what
must touch the scene is cut into steps instead, each a piece of a generator up to its ``yield``.
"""

from collections import deque

from SynthCTSlicer.signals import PanelError


class Steps:
    """Works off generators one after the other. ``later(ms, function)`` comes from the event loop.

    A generator that is dropped before its end is closed, so that its ``finally`` cleans up.
    """

    def __init__(self, later):
        self._later = later
        self._waiting = deque()
        self._current = None
        self._scheduled = False

    @property
    def busy(self):
        """Whether there is work."""
        return bool(self._waiting) or self._current is not None

    def add(self, work, done, failed):
        """Work a generator off; then call ``done(value it returned)`` or ``failed(error)``.

        ``failed`` is given what a file or the user is to blame for: PanelError, OSError,
        RuntimeError. Any other exception is a bug and is raised.
        """
        entry = (work, done, failed)
        self._waiting.append(entry)
        self._schedule()
        return entry

    def drop(self, entry):
        """Leave work undone; nothing is called. Work that is over already may be given."""
        if entry in self._waiting:
            self._waiting.remove(entry)
            entry[0].close()
        elif entry is self._current:
            self._current = None
            entry[0].close()

    def clear(self):
        """Leave everything undone."""
        entries = [*self._waiting, *([self._current] if self._current is not None else [])]
        for entry in entries:
            self.drop(entry)

    def _schedule(self):
        if self.busy and not self._scheduled:
            self._scheduled = True
            self._later(0, self._step)

    def _step(self):
        self._scheduled = False
        if self._current is None:
            if not self._waiting:
                return
            self._current = self._waiting.popleft()
        work, done, failed = self._current
        try:
            next(work)
        except StopIteration as end:
            self._current = None
            done(end.value)
        except (PanelError, OSError, RuntimeError) as error:
            self._current = None
            failed(error)
        except BaseException:
            self._current = None
            self._schedule()
            raise
        self._schedule()

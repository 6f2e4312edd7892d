"""Signals between the parts; they need no Qt."""


class Signal:
    """A list of functions that are called in order. An exception is the caller's."""

    def __init__(self):
        self._slots = []

    def connect(self, function):
        """Call a function from now on."""
        self._slots.append(function)

    def disconnect(self, function):
        """Do not call it any more."""
        self._slots.remove(function)

    def __call__(self, *arguments):
        """Call everyone."""
        for slot in tuple(self._slots):
            slot(*arguments)


class PanelError(Exception):
    """A failure that one sentence explains: what is wrong and what to do."""

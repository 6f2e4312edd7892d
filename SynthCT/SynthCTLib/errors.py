"""The exceptions of SynthCT.

    SynthCTError                something SynthCT can explain in one sentence
    ├── InputError              the request or an input cannot work
    │   ├── RegistrationFailed  two images could not be brought into register
    │   ├── MissingModel        no such model, or its files are absent or altered
    │   └── MissingPackage      an optional package is needed and is not installed
    ├── ImplausibleResult       a model made what cannot be: the model is at fault, not the input
    ├── OutputError             a result cannot be written (folder, permission, disk full)
    └── Cancelled               the user or the system asked to stop

Every message says what is wrong, where, and what to do. The command line prints it on one
line and ends with ``exit_code``; anything else that is raised is a bug and ends with 1.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_REFUSED = 2
EXIT_CANCELLED = 3


class SynthCTError(Exception):
    """A failure that one sentence explains to the user."""

    exit_code = EXIT_REFUSED


class InputError(SynthCTError):
    """The request, a file or a volume cannot be used as given."""


class RegistrationFailed(InputError):
    """A registration did not converge, or converged to something implausible."""


class MissingModel(InputError):
    """The model is unknown, or its weights, atlases or card are absent or altered."""


class MissingPackage(InputError):
    """An optional package is needed for this request and is not installed."""


class ImplausibleResult(SynthCTError):
    """A model made an image that cannot be one of a patient."""


class OutputError(SynthCTError):
    """A result cannot be written."""


class Cancelled(SynthCTError):
    """Work was stopped on request before it was complete."""

    exit_code = EXIT_CANCELLED

    def __init__(self, message: str = "Stopped on request: no result was written.") -> None:
        super().__init__(message)

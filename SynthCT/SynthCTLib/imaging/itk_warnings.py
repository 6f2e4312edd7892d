"""ITK's warnings, which it prints past Python: off while files are read and written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk


class _Silence:
    """ITK's switch for warnings is one for the process: off while anyone reads or writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._before = sitk.ProcessObject.GetGlobalWarningDisplay()
                sitk.ProcessObject.SetGlobalWarningDisplay(False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    sitk.ProcessObject.SetGlobalWarningDisplay(self._before)


without_itk_warnings = _Silence()
"""ITK and GDCM print no warnings inside ``with without_itk_warnings()``; failures are raised."""

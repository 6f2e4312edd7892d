"""The desktop the panel is tested on."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

missing = [n for n in ("slicer_core", "PySide6", "vtk") if importlib.util.find_spec(n) is None]
if missing:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str | None:
    if missing:
        return f"panel tests left out: no wheel here for {', '.join(missing)}"
    return None


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A fresh scene and application. A test fails when a slot, timer or observer raised."""
    import slicer

    from standin import install, pythonqt
    from standin.application import new_scene

    install.install()
    scene = new_scene()
    pythonqt.lost.clear()

    def lose(kind: type, error: BaseException, trace: Any) -> None:
        pythonqt.lost.append(f"{kind.__name__}: {error}")

    monkeypatch.setattr(sys, "excepthook", lose)

    def wait(until: Callable[[], Any], seconds: float = 20.0) -> None:
        """Run the event loop until something holds; fails when it does not in time."""
        end = time.monotonic() + seconds
        while not until():
            slicer.app.processEvents()
            if time.monotonic() > end:
                pytest.fail(f"not in {seconds} s; lost: {pythonqt.lost}")
            time.sleep(0.005)

    yield SimpleNamespace(
        scene=scene, app=slicer.app, lost=pythonqt.lost, wait=wait, qt=sys.modules["qt"]
    )
    slicer.app.processEvents()
    slicer.app.close()
    lost = list(pythonqt.lost)
    pythonqt.lost.clear()
    assert not lost, "\n".join(lost)

"""The desktop the panel is tested on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
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


SAMPLE = Path(__file__).parents[2] / "Resources" / "SampleData" / "STS_014"
MODULE = Path(__file__).parents[2] / "SynthCT.py"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, three times coarser: a folder with t1.nii.gz, ct.nii.gz and pet.nii.gz."""
    import SimpleITK as sitk

    folder = tmp_path_factory.mktemp("images")
    for source, name in (("mr", "t1"), ("ct", "ct")):
        image = sitk.ReadImage(str(SAMPLE / f"{source}.nii.gz"), sitk.sitkFloat32)
        coarse = sitk.BinShrink(image, [3, 3, 3])
        sitk.WriteImage(coarse, str(folder / f"{name}.nii.gz"))
    sitk.WriteImage(sitk.Abs(coarse), str(folder / "fdg_pet.nii.gz"))
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A job that the real worker has finished, one for all processes of the test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with filelock.FileLock(shared / "finished.lock"):
        if not (shared / "finished").is_dir():
            _finish(shared / "making", images)
            (shared / "making").rename(shared / "finished")
    return shared / "finished"


def _finish(folder: Path, images: Path) -> None:
    folder.mkdir()
    request = {
        "subject": "t1",
        "task": "mr-to-ct",
        "model": "uniform-body",
        "inputs": {
            "mr": {"path": str(images / "t1.nii.gz")},
            "reference_ct": {"path": str(images / "ct.nii.gz")},
        },
        "options": {"device": "cpu", "bias_correction": False, "registration": "none"},
    }
    (folder / "job.json").write_text(json.dumps(request))
    done = subprocess.run(
        [sys.executable, "-m", "SynthCTLib.worker", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("job.json", "progress.jsonl", "log.txt"):
        (folder / name).unlink()


class Page:
    """The module's page as a person uses it."""

    def __init__(self, desktop: SimpleNamespace, bin_folder: Path) -> None:
        self.desktop, self.bin = desktop, bin_folder
        self.wait, self.qt = desktop.wait, desktop.qt
        self.open()

    def open(self) -> None:
        from standin.install import load_module
        from standin.scripted import ModulePage

        self.page = ModulePage(load_module(MODULE))
        self.panel = self.page.widget.panel
        self.ui = self.panel.ui
        self.page.qt.resize(400, 1500)
        self.page.qt.show()
        self.page.enter()

    def mode(self, name: str) -> None:
        (self.bin / "mode").write_text(name)

    def drop(self, *paths: Path) -> None:
        """Drag files over the drop zone and let them go."""
        from PySide6 import QtCore, QtGui, QtWidgets

        zone = self.ui.dropZone._alive()
        data = QtCore.QMimeData()
        data.setUrls([QtCore.QUrl.fromLocalFile(str(path)) for path in paths])
        flags = (
            QtCore.Qt.DropAction.CopyAction,
            data,
            QtCore.Qt.MouseButton.LeftButton,
            QtCore.Qt.KeyboardModifier.NoModifier,
        )
        with warnings.catch_warnings():  # the only constructor there is, said to be deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            enter = QtGui.QDragEnterEvent(QtCore.QPoint(9, 9), *flags)
        QtWidgets.QApplication.sendEvent(zone, enter)
        assert enter.isAccepted()
        let_go = QtGui.QDropEvent(QtCore.QPointF(9, 9), *flags)
        QtWidgets.QApplication.sendEvent(zone, let_go)
        before = len(self.nodes())
        self.desktop.app.processEvents()
        self.wait(lambda: len(self.nodes()) > before or self.panel.volumes.state.message, 10)

    def nodes(self) -> list[Any]:
        scene = self.desktop.scene
        return [
            n
            for n in (scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes()))
            if n.IsA("vtkMRMLScalarVolumeNode")
        ]

    def run(self) -> None:
        """Press Run; the job is with the runner afterwards, or has been refused."""
        self.ui.runButton.click()
        self.wait(lambda: not self.panel.run.writing.busy)

    def until_idle(self, seconds: float = 20.0) -> None:
        run = self.panel.run.state
        self.wait(lambda: not (run.busy or run.loading or self.panel.runner.waiting), seconds)

    def choose(self, box: Any, value: Any) -> None:
        box.setCurrentIndex(box.findData(value))

    def close(self) -> None:
        self.page.close()


def members(session: int) -> list[int]:
    """The living processes of a session."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path) -> Path:
    """A PythonSlicer that starts an interpreter as its child and forwards no signal."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("replay.py",):
        shutil.copy(Path(__file__).parent / name, folder / name)
    (folder / "mode").write_text("replay")
    (folder / "finished").symlink_to(finished)
    launcher = folder / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "{folder}/replay.py" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def page(desktop: SimpleNamespace, bin_folder: Path) -> Iterator[Page]:
    made = Page(desktop, bin_folder)
    yield made
    if made.page is not None:
        made.close()

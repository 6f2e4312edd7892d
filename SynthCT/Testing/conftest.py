"""What every test may ask for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data-pack", type=Path, default=None, help="folder of the real images the long tests use"
    )
    parser.addoption(
        "--require-programs",
        action="store_true",
        help="fail instead of skipping where a program of tools/system_packages.sh is absent",
    )


@pytest.fixture(scope="session")
def data_pack(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--data-pack")
    if folder is None or not folder.is_dir():
        pytest.skip("no data pack given (--data-pack DIR)")
    return folder


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Finds a program that the exports are checked with; skips the test where it is absent."""

    def find(name: str) -> str:
        for folders in (None, str(Path(sys.executable).parent), "/usr/sbin:/usr/local/sbin"):
            found = shutil.which(name, path=folders)
            if found is not None:
                return found
        said = f"{name} is not installed (tools/system_packages.sh, pip install dcmqi)"
        if request.config.getoption("--require-programs"):
            pytest.fail(said)
        pytest.skip(said)

    return find


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[str], contextlib.AbstractContextManager[Path]]:
    """Mounts a real file system with options such as ``size=64k`` or ``ro``; needs the right to."""

    @contextlib.contextmanager
    def mounted(options: str) -> Iterator[Path]:
        folder = tmp_path / options.replace("=", "-")
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system needs root")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    return mounted


def _beside_the_tests(name: str) -> ModuleType:
    """A module of what tests share (they cannot import one another)."""
    path = Path(__file__).parent / "unit" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dicom_series() -> ModuleType:
    """The module that writes synthetic DICOM series."""
    return _beside_the_tests("dicom_series")


@pytest.fixture(scope="session")
def finished_job() -> ModuleType:
    """The module that makes small finished jobs, and the object in them."""
    return _beside_the_tests("finished_job")

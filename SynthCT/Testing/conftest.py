"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data-pack", type=Path, default=None, help="folder of the real images the long tests use"
    )


@pytest.fixture(scope="session")
def data_pack(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--data-pack")
    if folder is None or not folder.is_dir():
        pytest.skip("no data pack given (--data-pack DIR)")
    return folder

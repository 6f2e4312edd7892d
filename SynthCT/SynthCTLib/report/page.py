"""A page of a report: one file that opens without a network, and the files beside it."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from SynthCTLib.errors import OutputError

REPORT_FILE = "report.html"
FIGURES_FOLDER = "figures"
_TEMPLATES = Path(__file__).resolve().parent / "templates"


def page(template: str, filters: Mapping[str, Callable[..., str]], /, **shown: Any) -> str:
    """A template of ``report/templates`` filled in; all text is escaped.

    ``data_uri`` is among its filters. Raises jinja2's UndefinedError for a name not given.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"data_uri": data_uri, **filters})
    return environment.get_template(template).render(**shown)


def data_uri(png: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def write_all(files: Mapping[str, bytes], folder: Path) -> None:
    """Write all files under temporary names, then rename them in the order given."""
    made: list[Path] = []
    written: list[Path] = []
    try:
        for directory in (*reversed(folder.parents), folder, folder / FIGURES_FOLDER):
            if not directory.is_dir():
                directory.mkdir()
                made.append(directory)
        renames = []
        for name, data in files.items():
            target = folder / name
            part = target.with_name(f".{target.name}.{os.getpid()}.part")
            written.append(part)
            part.write_bytes(data)
            renames.append((part, target))
        for part, target in renames:
            part.replace(target)
            written.append(target)
    except OSError as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise OutputError(
            f"The report cannot be written into {folder} ({error.strerror or error}): choose a "
            "folder that may be written to and has room."
        ) from error

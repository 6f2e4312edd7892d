"""The Python packages that SynthCT needs in Slicer: what is missing, how large, how to get them."""

import contextlib
from importlib import metadata
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import library
from SynthCTSlicer.signals import PanelError

# Installed size in MB on Linux with Python 3.11, what they bring with them included.
SIZES_MB = {
    "pydantic": 12,
    "pyyaml": 4,
    "psutil": 1,
    "jinja2": 3,
    "matplotlib": 73,
    "scikit-image": 58,
    "SimpleITK": 264,
    "scipy": 143,
    "pydicom": 15,
    "typer": 15,
}
PROTECTED = ("numpy", "SimpleITK")
"""Slicer's own: never replaced."""


def missing():
    """(package, MB) of what is not installed."""
    return tuple((name, SIZES_MB.get(name, 0)) for name in library.missing_packages())


def sentence():
    """What is missing, in one sentence; an empty string when nothing is."""
    found = missing()
    if not found:
        return ""
    names = ", ".join(name for name, _size in found)
    total = sum(size for _name, size in found)
    return _(
        "SynthCT needs Python packages that are not installed: {names} (about {mb} MB on disk)."
    ).format(names=names, mb=total)


def _constraints():
    """A file that holds Slicer's own packages at the versions they have."""
    lines = []
    for name in PROTECTED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            lines.append(f"{name}=={metadata.version(name)}")
    path = Path(slicer.app.temporaryPath) / "SynthCT-constraints.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def install(wheels=""):
    """Install what is missing, from the internet or from a folder of wheels. Raises PanelError.

    The user has been asked: pressing the button is the answer.
    """
    names = [name for name, _size in missing() if name not in PROTECTED]
    if not names:
        return
    arguments = ["--constraint", str(_constraints()), *names]
    if wheels:
        folder = Path(wheels)
        if not list(folder.glob("*.whl")):
            raise PanelError(
                _("{f} holds no wheels: choose a folder with .whl files.").format(f=folder)
            )
        arguments = ["--no-index", "--find-links", str(folder), *arguments]
    try:
        slicer.util.pip_install(" ".join(f'"{a}"' if " " in a else a for a in arguments))
    except Exception as error:
        raise PanelError(
            _(
                "The packages could not be installed ({e}): check the network, or choose a folder "
                "of wheels."
            ).format(e=str(error).strip().splitlines()[-1] if str(error).strip() else error)
        ) from error
    left = library.missing_packages()
    if left:
        raise PanelError(
            _(
                "Still missing after the installation: {names}. Restart Slicer and try again."
            ).format(names=", ".join(left))
        )

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
    "torch": 754,  # the build without graphics cards; with them several times that
}
PROTECTED = ("numpy", "SimpleITK")
"""Slicer's own: never replaced."""


def missing(wanted=()):
    """(package, MB) of what is not installed, and of what a run was found to want."""
    names = dict.fromkeys((*library.missing_packages(), *wanted))
    return tuple((name, SIZES_MB.get(name, 0)) for name in names)


def sentence(wanted=()):
    """What is missing, in one sentence; an empty string when nothing is."""
    found = missing(wanted)
    if not found:
        return ""
    names = ", ".join(name for name, _size in found)
    total = sum(size for _name, size in found)
    size = _(" (about {mb} MB on disk)").format(mb=total) if all(s for _n, s in found) else ""
    return _("SynthCT needs Python packages that are not installed: {names}{size}.").format(
        names=names, size=size
    )


def _constraints():
    """A file that holds Slicer's own packages at the versions they have."""
    lines = []
    for name in PROTECTED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            lines.append(f"{name}=={metadata.version(name)}")
    path = Path(slicer.app.temporaryPath) / "SynthCT-constraints.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def install_torch():
    """Install torch through the extension PyTorch, which knows the graphics card.

    Raises PanelError. torch itself is not loaded into Slicer here.
    """
    try:
        import PyTorchUtils
    except ImportError as error:
        raise PanelError(
            _(
                "torch comes with the extension PyTorch: install that in the Extensions Manager, "
                "restart Slicer, and press Install again."
            )
        ) from error
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False) is None:
        raise PanelError(
            _("torch could not be installed: see the module PyTorch Utils for the reason.")
        )


def install(wheels="", wanted=()):
    """Install what is missing, from the internet or from a folder of wheels. Raises PanelError.

    The user has been asked: pressing the button is the answer.
    """
    names = [name for name, _size in missing(wanted) if name not in PROTECTED]
    if "torch" in names:
        names.remove("torch")
        install_torch()
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
        slicer.util.pip_install(arguments)  # a list: of a text, Windows would lose backslashes
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

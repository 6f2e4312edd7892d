"""Where the models, atlases, recipes and samples that ship with SynthCT lie."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a shipped resource, such as ``resource("Models", "atlas-fusion")``.

    An installed wheel holds ``Resources`` inside the package, a checkout and the Slicer
    extension beside it.
    """
    inside = _PACKAGE / "Resources"
    root = inside if inside.is_dir() else _PACKAGE.parent / "Resources"
    return root.joinpath(*parts)

"""Puts the stand-in where a module of Slicer looks for the application."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
from PySide6 import QtWidgets

from . import application, medicine, pythonqt, scripted, widgets

_qt_application: Any = None


def install() -> None:
    """Make ``qt``, ``ctk``, ``slicer.app`` and the rest importable."""
    global _qt_application
    if _qt_application is None:
        _qt_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        _qt_application.setStyle("fusion")
    sys.modules["qt"] = pythonqt.module()
    pythonqt.designer.update(widgets.designer_classes())
    ctk = sys.modules["ctk"] = types.ModuleType("ctk")
    for name, kind in pythonqt.designer.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, pythonqt.generated(kind))
    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text
    translation.translate = lambda context, text: text
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for name in ("", "Widget", "Logic", "Test"):
        full = f"ScriptedLoadableModule{name}"
        setattr(module, full, getattr(scripted, full))
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    for name in ("parameterNodeWrapper", "Default", "WithinRange", "Choice"):
        setattr(wrapper, name, getattr(scripted, name))
    for made in (translation, module, wrapper):
        sys.modules[made.__name__] = made
        setattr(slicer, made.__name__.split(".")[1], made)
    sys.modules["DICOMLib"] = medicine.dicom_module()
    sys.modules["SampleData"] = medicine.sample_module()
    logging.getLogger().setLevel(logging.WARNING)


def load_module(path: Path) -> types.ModuleType:
    """Import a scripted module as Slicer does: by file, its folder on the path."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


__all__ = ["application", "install", "load_module"]

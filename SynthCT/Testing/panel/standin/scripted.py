"""ScriptedLoadableModule and parameterNodeWrapper, with the refusals of the real ones."""

from __future__ import annotations

import enum
import json
import pathlib
import typing
import unittest
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import slicer
from PySide6.QtCore import Property
from PySide6.QtWidgets import QVBoxLayout

from . import pythonqt, widgets


class ModuleParent:
    """The C++ side of a module: these properties and no others."""

    __slots__ = (
        *("title", "categories", "dependencies", "contributors", "helpText", "name", "path"),
        *("acknowledgementText", "hidden", "icon", "associatedNodeTypes", "index"),
    )


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        parent.title = parent.helpText = parent.acknowledgementText = ""
        parent.categories, parent.dependencies, parent.contributors = [], [], []
        parent.hidden = False


class _WidgetParent(widgets.qMRMLWidget):
    def __init__(self) -> None:
        super().__init__()
        self._entered = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)

    isEntered = Property(bool, lambda s: s._entered, lambda s, v: setattr(s, "_entered", v))


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()
        self.developerMode = False

    def resourcePath(self, name: str) -> str:
        return str(pathlib.Path(ModulePage.folder) / "Resources" / name)

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node:
                return node
        nodes = self.getAllParameterNodes()
        return nodes[0] if nodes else self.createParameterNode()

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return slicer.mrmlScene.AddNode(node)

    def getAllParameterNodes(self) -> list[Any]:
        return [
            n
            for n in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
            if n.GetAttribute("ModuleName") == self.moduleName
        ]


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(arguments or ("runTest",)))

    def runTest(self) -> None:
        pass

    def delayDisplay(self, message: str, msec: int = 0) -> None:
        pass


class ModulePage:
    """What Slicer does with a module: makes its page, enters and leaves it, throws it away."""

    folder = ""

    def __init__(self, module: Any) -> None:
        ModulePage.folder = str(pathlib.Path(module.__file__).parent)
        name = pathlib.Path(module.__file__).stem
        self.declaration = ModuleParent()
        getattr(module, name)(self.declaration)
        self.qt = _WidgetParent()
        self.qt.setMRMLScene(slicer.mrmlScene)
        self.widget = getattr(module, f"{name}Widget")(pythonqt.wrap(self.qt))
        # Bound once: a method that is patched on the instance later is not called.
        self._enter = getattr(self.widget, "enter", lambda: None)
        self._exit = getattr(self.widget, "exit", lambda: None)
        self._cleanup = self.widget.cleanup
        self._call(self.widget.setup)

    def _call(self, function: Any) -> None:
        try:
            function()
        except Exception:
            pythonqt._lose()

    def enter(self) -> None:
        self.qt._entered = True
        self._call(self._enter)

    def exit(self) -> None:
        self.qt._entered = False
        self._call(self._exit)

    def close(self) -> None:
        self._call(self._cleanup)
        self.qt.deleteLater()


@dataclass(frozen=True)
class Default:
    value: Any


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float

    def check(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


@dataclass(frozen=True)
class Choice:
    choices: Any

    def check(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


_RESERVED = {
    *("default", "isCached", "dataType", "getValue", "setValue", "connectGui", "Modified"),
    *("disconnectGui", "StartModify", "EndModify", "AddObserver", "RemoveObserver"),
}
_ZERO: dict[Any, Any] = {int: 0, float: 0.0, str: "", bool: False, pathlib.Path: pathlib.Path()}


class _Field:
    def __init__(self, name: str, hint: Any, given: Any) -> None:
        self.name = name
        self.checks: list[Any] = []
        default = given
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            for extra in extras:
                if isinstance(extra, Default):
                    default = extra.value
                else:
                    self.checks.append(extra)
        self.kind = hint
        self.node = isinstance(hint, type) and issubclass(hint, slicer.vtkMRMLNode)
        listed = get_origin(hint) is list
        if not (self.node or listed or hint in _ZERO or self.is_enum):
            raise Exception(f"{name}: unsupported type {hint}")
        if default is not None:
            self.default = default
        elif self.is_enum:
            self.default = next(iter(hint))
        else:
            self.default = [] if listed else _ZERO.get(hint)
        if not self.node:
            self.check(self.default)

    @property
    def is_enum(self) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, enum.Enum)

    def check(self, value: Any) -> None:
        if self.node:
            if value is not None and not value.IsA(self.kind.__name__):
                raise TypeError(
                    f"{self.name} is a {self.kind.__name__}, not {value.GetClassName()}"
                )
            return
        if get_origin(self.kind) is list:
            inner = get_args(self.kind)[0]
            if not isinstance(value, list) or any(type(v) is not inner for v in value):
                raise TypeError(f"{self.name} is a list of {inner.__name__}, not {value!r}")
        elif self.kind is int and isinstance(value, bool):
            raise ValueError(f"{self.name}: a bool is stored that no int can be read from")
        elif not isinstance(value, self.kind):
            raise TypeError(f"{self.name} is a {self.kind.__name__}, not {type(value).__name__}")
        for check in self.checks:
            check.check(value)

    def text(self, value: Any) -> str:
        if self.is_enum:
            return value.name
        return json.dumps(value) if isinstance(value, list) else str(value)

    def value(self, text: str) -> Any:
        if self.is_enum:
            return self.kind[text]
        if get_origin(self.kind) is list:
            return json.loads(text)
        return text == "True" if self.kind is bool else self.kind(text)


def parameterNodeWrapper(cls: type) -> type:
    """Make a class of annotated fields into a typed view of a parameter node."""
    hints = get_type_hints(cls, include_extras=True)
    if clash := _RESERVED & set(hints):
        raise ValueError(f"reserved names: {clash}")
    fields = [_Field(n, h, getattr(cls, n, None)) for n, h in hints.items()]

    def attribute(field: _Field) -> property:
        def read(self: Any) -> Any:
            node = self.parameterNode
            if field.node:
                return node.GetNodeReference(field.name)
            text = node.GetParameter(field.name)
            present = field.name in node.GetParameterNames()
            return field.value(text) if present else field.default

        def write(self: Any, value: Any) -> None:
            field.check(value)
            node = self.parameterNode
            if field.node:
                node.SetNodeReferenceID(field.name, value.GetID() if value else None)
            else:
                node.SetParameter(field.name, field.text(value))

        return property(read, write)

    def start(self: Any, node: Any) -> None:
        self.__dict__["parameterNode"] = node
        for field in fields:
            if not field.node and field.name not in node.GetParameterNames():
                node.SetParameter(field.name, field.text(field.default))

    members: dict[str, Any] = {f.name: attribute(f) for f in fields}
    members["__init__"] = start
    for name in ("AddObserver", "RemoveObserver", "StartModify", "EndModify", "Modified"):
        members[name] = lambda self, *a, _n=name: getattr(self.parameterNode, _n)(*a)
    return type(cls.__name__, (), members)


assert typing  # used by the annotations of the classes that are wrapped

"""PySide6 behind an adapter with the manners of PythonQt.

A Qt property is a value, not a function; an unknown attribute cannot be read or written; there are
no keyword arguments; lists come back as tuples; a wrong signal is False and not an exception; an
exception in a slot is printed and lost (here also kept in ``lost``, for the tests to find).
"""

from __future__ import annotations

import inspect
import sys
import traceback
import types
import xml.etree.ElementTree as ET
from pathlib import PurePath
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import SIGNAL, QMetaObject, QObject

lost: list[str] = []
"""Exceptions that slots, timers, overrides and observers raised: nobody else hears of them."""

_classes: dict[type, type] = {}
designer: dict[str, type[QtWidgets.QWidget]] = {}
"""Widget classes with a Designer plug-in, by name: the only ones a .ui file can hold."""


def _lose() -> None:
    text = traceback.format_exc()
    lost.append(text)
    sys.stderr.write(text)


def wrap(value: Any) -> Any:
    """What Python sees of a value that comes from Qt."""
    if isinstance(value, QObject):
        return _wrapper(value)
    if isinstance(value, (list, tuple)):
        return tuple(wrap(v) for v in value)
    if isinstance(value, dict):
        return {k: wrap(v) for k, v in value.items()}
    if isinstance(value, shiboken6.Object):
        return _wrapper(value)
    return value


def unwrap(value: Any) -> Any:
    """What Qt is given of a Python value. A pathlib path is no text to Qt."""
    if isinstance(value, PurePath):
        raise ValueError(f"Could not find matching overload for a path: {value!r}")
    if isinstance(value, Wrapped):
        return value._alive()
    if isinstance(value, (list, tuple)):
        return [unwrap(v) for v in value]
    if isinstance(value, dict):
        return {k: unwrap(v) for k, v in value.items()}
    return value


def _wrapper(q: Any) -> Wrapped:
    known = getattr(q, "_wrapper", None)
    if known is not None:
        return known
    made = generated(type(q)).__new__(generated(type(q)))
    object.__setattr__(made, "_q", q)
    return made


def generated(base: type) -> type[Wrapped]:
    """The class that stands for a Qt class. No two of them are related, as in PythonQt."""
    if "_user" in vars(base):
        base = base.__mro__[1]
    if base not in _classes:
        _classes[base] = _Meta(base.__name__, (Wrapped,), {"_base": base, "_generated": True})
    return _classes[base]


def _plain(arguments: tuple[Any, ...], keywords: dict[str, Any], what: str) -> list[Any]:
    if keywords:
        raise ValueError(f"{what} takes no keyword arguments: {', '.join(keywords)}")
    return [unwrap(a) for a in arguments]


class _Call:
    """A bound or static function of Qt."""

    def __init__(self, function: Any, name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        given = _plain(arguments, keywords, self.name)
        given = [_slot(a) if inspect.isroutine(a) else a for a in given]
        try:
            return wrap(self.function(*given))
        except (TypeError, NotImplementedError) as error:
            raise ValueError(f"Could not find matching overload for {self.name}: {error}") from None


class _Meta(type):
    """Static functions and enumerators of the Qt class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(cls._base, name)
        return _Call(found, f"{cls.__name__}.{name}") if inspect.isroutine(found) else found


class Wrapped(metaclass=_Meta):
    """An object of Qt, as Python sees it."""

    _base: type = object
    _generated = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        given = _plain(arguments, keywords, type(self).__name__)
        user = "_generated" not in vars(type(self))
        try:
            q = (_shell(type(self)) if user else self._base)(*given)
        except TypeError as error:
            raise ValueError(f"Could not construct {type(self).__name__}: {error}") from None
        object.__setattr__(self, "_q", q)
        if user:
            q._wrapper = self

    def _alive(self) -> Any:
        q = self.__dict__.get("_q")
        if q is None:
            raise ValueError(f"{type(self).__name__} was not constructed: call its __init__")
        if not shiboken6.isValid(q):
            raise ValueError(f"Trying to use a {type(self).__name__} that was destroyed")
        return q

    def __bool__(self) -> bool:
        return shiboken6.isValid(self.__dict__["_q"])

    def __eq__(self, other: object) -> bool:
        if other is None:
            return not bool(self)
        if isinstance(other, Wrapped):
            return self.__dict__["_q"] == other.__dict__["_q"]
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.__dict__["_q"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        q = self._alive()
        if isinstance(q, QObject):
            if name == "name":
                return q.objectName()
            if name == "className":
                return lambda: generated(type(q)).__name__
            if name in ("connect", "disconnect"):
                return _Connector(q, name == "connect")
            meta = q.metaObject()
            if meta.indexOfProperty(name) >= 0:
                return wrap(q.property(name))
            if _signal_of(q, name) is not None:
                return _Signal(q, name)
            if name in ("findChild", "findChildren"):
                return _Finder(q, name)
        if _is_offered(q, name):
            alias = "exec" if name == "exec_" else name
            return _Call(getattr(q, alias), f"{type(self).__name__}.{name}")
        if isinstance(q, QObject) and name.encode() in [bytes(n) for n in q.dynamicPropertyNames()]:
            return wrap(q.property(name))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        q = self.__dict__.get("_q")
        if q is not None and isinstance(q, QObject):
            q = self._alive()
            index = q.metaObject().indexOfProperty(name)
            if index >= 0:
                given = unwrap(value)
                if isinstance(given, list) and not given:
                    given = [""][:0]
                fits = _fits(q.property(name), given)
                if not fits or not q.setProperty(name, given):
                    raise AttributeError(f"Property {name!r} cannot take {value!r}")
                return
        if "_generated" in vars(type(self)):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: creating one is not allowed"
            )
        object.__setattr__(self, name, value)


def _fits(old: Any, new: Any) -> bool:
    """Whether a value may go into a property; text in a number or a list does not."""
    if isinstance(old, bool):
        return isinstance(new, (bool, int))
    if isinstance(old, (int, float)):
        return isinstance(new, (int, float))
    if isinstance(old, str):
        return isinstance(new, str)
    if isinstance(old, list):
        return isinstance(new, list)
    return True


def _is_offered(q: Any, name: str) -> bool:
    """Functions of Qt's own classes; of ctk and qMRML classes only those declared invokable."""
    if name == "exec_":
        return hasattr(q, "exec")
    for klass in type(q).__mro__:
        if name in getattr(klass, "INVOKABLE", ()) and hasattr(q, name):
            return True
    own = next(k for k in type(q).__mro__ if k.__module__.startswith(("PySide6", "Shiboken")))
    return hasattr(own, name) and inspect.isroutine(getattr(own, name))


def _shell(user: type) -> type:
    """A Qt class whose virtual functions call those of a Python subclass."""
    if "_shell" in vars(user):
        return vars(user)["_shell"]
    base = user._base
    names = {
        name
        for klass in user.__mro__
        if "_generated" not in vars(klass) and klass not in (Wrapped, object)
        for name, value in vars(klass).items()
        if inspect.isfunction(value) and not name.startswith("_") and hasattr(base, name)
    }

    def override(name: str) -> Any:
        returns_bool = name in ("eventFilter", "event")

        def virtual(q: Any, *arguments: Any) -> Any:
            try:
                answer = getattr(user, name)(q._wrapper, *(wrap(a) for a in arguments))
                if returns_bool and not isinstance(answer, bool):
                    raise TypeError(f"{name} must return a bool, not {answer!r}")
                return unwrap(answer)
            except Exception:
                _lose()
                return False if returns_bool else None

        return virtual

    shell = type(base)(user.__name__, (base,), {n: override(n) for n in names} | {"_user": True})
    user._shell = shell
    return shell


def _slot(function: Any) -> Any:
    """A callable for Qt: cut to the arguments it takes, its exceptions printed and lost."""
    target = getattr(function, "__func__", function)
    count = None
    if isinstance(target, types.FunctionType):
        code = target.__code__
        if not code.co_flags & inspect.CO_VARARGS:
            count = code.co_argcount - (target is not function)

    def slot(*arguments: Any) -> None:
        try:
            function(*(wrap(a) for a in arguments[:count]))
        except Exception:
            _lose()

    return slot


def _signal_of(q: QObject, name: str) -> str | None:
    """Full signature of the first signal of a name."""
    declared = getattr(type(q), "SIGNALS", {})
    for signature in declared:
        if signature.split("(")[0] == name:
            return signature
    meta = q.metaObject()
    for i in range(meta.methodCount()):
        method = meta.method(i)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal and (
            bytes(method.name()).decode() == name
        ):
            return bytes(method.methodSignature()).decode()
    return None


def _connections(q: QObject) -> dict[tuple[str, Any], Any]:
    if not hasattr(q, "_connections"):
        q._connections = {}
    return q._connections


class _Connector:
    """``w.connect("clicked(bool)", f)``: False for an unknown signal, never an exception."""

    def __init__(self, q: QObject, on: bool) -> None:
        self.q, self.on = q, on

    def __call__(self, signature: str, function: Any, *more: Any, **keywords: Any) -> bool:
        if keywords or more:
            raise ValueError("connect takes a signature and a callable")
        normal = bytes(QMetaObject.normalizedSignature(signature)).decode()
        declared = getattr(type(self.q), "SIGNALS", {})
        known = normal in declared or self.q.metaObject().indexOfSignal(normal) >= 0
        if not known:
            sys.stderr.write(f"QObject::connect: no such signal {signature}\n")
            return False
        connections = _connections(self.q)
        key = (normal, function)
        if not self.on:
            slot = connections.pop(key, None)
            if slot is None:
                return False
            if normal in declared:
                getattr(self.q, declared[normal]).disconnect(slot)
            else:
                QObject.disconnect(self.q, SIGNAL(normal), slot)
            return True
        slot = connections[key] = _slot(function)
        if normal in declared:
            getattr(self.q, declared[normal]).connect(slot)
            return True
        return bool(QObject.connect(self.q, SIGNAL(normal), slot))


class _Signal:
    """``w.clicked``: connect, disconnect, or call it to emit."""

    def __init__(self, q: QObject, name: str) -> None:
        self.q, self.name = q, name
        self.signature = _signal_of(q, name)

    def connect(self, function: Any) -> bool:
        return _Connector(self.q, True)(self.signature, function)

    def disconnect(self, function: Any) -> bool:
        return _Connector(self.q, False)(self.signature, function)

    def __call__(self, *arguments: Any) -> None:
        declared = getattr(type(self.q), "SIGNALS", {})
        getattr(self.q, declared.get(self.signature, self.name)).emit(*unwrap(arguments))


class _Finder:
    def __init__(self, q: QObject, name: str) -> None:
        self.q, self.all = q, name == "findChildren"

    def __call__(self, kind: Any, name: str | None = None) -> Any:
        wanted = kind if isinstance(kind, str) else kind.__name__
        found = [
            c
            for c in self.q.findChildren(QObject)
            if any(k.__name__ == wanted for k in type(c).__mro__) and name in (None, c.objectName())
        ]
        if self.all:
            return wrap(found)
        return wrap(found[0]) if found else None


class _Loader(QtUiTools.QUiLoader):
    """Makes the widgets of a .ui file, and its connections between scene-aware widgets."""

    def createWidget(self, name: str, parent: Any = None, object_name: str = "") -> Any:
        if name in designer:
            made = designer[name](parent)
            made.setObjectName(object_name)
            self.made.append(made)
            return made
        return super().createWidget(name, parent, object_name)

    def load(self, file: Any, parent: Any = None) -> Any:
        text = bytes(file.readAll())
        self.made: list[Any] = []
        try:
            tree = ET.fromstring(text)
        except ET.ParseError:
            return None
        connections = tree.find("connections")
        wired = []
        if connections is not None:
            wired = [
                {part.tag: (part.text or "").strip() for part in connection}
                for connection in connections
            ]
            tree.remove(connections)
        customs = {item.text for item in tree.iterfind("customwidgets/customwidget/class")}
        for name in customs - set(designer):
            sys.stderr.write(f"QFormBuilder: no plug-in makes a {name}\n")
            for holder in list(tree.iter()):
                for child in list(holder):
                    inner = child.find("widget") if child.tag == "item" else child
                    if inner is not None and inner.get("class") == name:
                        holder.remove(child)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        top = super().load(buffer, parent)
        if top is None:
            return None
        top._keeps = self.made
        for wire in wired:
            self._wire(top, wire)
        return top

    def _wire(self, top: Any, wire: dict[str, str]) -> None:
        everyone = {top.objectName(): top} | {c.objectName(): c for c in top.findChildren(QObject)}
        sender, receiver = everyone.get(wire["sender"]), everyone.get(wire["receiver"])
        slot = wire["slot"].split("(")[0]
        arguments = wire["signal"].split("(")[1], wire["slot"].split("(")[1]
        signals = getattr(type(sender), "SIGNALS", {})
        if wire["signal"] in signals and arguments[0] == arguments[1] and hasattr(receiver, slot):
            getattr(sender, signals[wire["signal"]]).connect(getattr(receiver, slot))
            return
        good = sender is not None and receiver is not None
        if not good or not QObject.connect(
            sender, SIGNAL(wire["signal"]), receiver, QtCore.SLOT(wire["slot"])
        ):
            sys.stderr.write(f"QObject::connect: cannot connect {wire}\n")


class _Module(types.ModuleType):
    """``qt``: every class of Qt by name."""

    def __getattr__(self, name: str) -> Any:
        if name == "QUiLoader":
            return generated(_Loader)
        for part in (QtWidgets, QtGui, QtCore):
            found = getattr(part, name, None)
            if found is None:
                continue
            if name == "Qt":
                return found
            return generated(found) if isinstance(found, type) else found
        raise AttributeError(f"module 'qt' has no attribute {name!r}")


class ByteArray:
    """A QByteArray: its bytes are in ``data()`` and nowhere else."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def data(self) -> bytes:
        return self._value


def module() -> types.ModuleType:
    """The module ``qt``."""
    return _Module("qt")

"""The ctk and qMRML widgets that the panel uses. Only what is declared here can be called.

``SIGNALS`` gives the C++ signature of a signal, ``INVOKABLE`` the functions Python may call;
everything else of such a widget is a property or belongs to QWidget.
"""

from __future__ import annotations

import weakref
from typing import Any

import shiboken6
import slicer
from PySide6.QtCore import Property, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import QPainter, QPalette, QPolygon
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSlider,
    QWidget,
)

SCENE = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}


class qMRMLWidget(QWidget):
    """A widget that knows the scene and tells its children."""

    mrmlSceneChanged = Signal(object)
    SIGNALS = SCENE
    INVOKABLE = {"setMRMLScene", "mrmlScene"}

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self._scene_is_set()
            self.mrmlSceneChanged.emit(scene)

    def _scene_is_set(self) -> None:
        pass


def _while_alive(box: Any) -> Any:
    """An observer of the scene that does nothing once the widget is gone."""
    known = weakref.ref(box)

    def changed(caller: Any, event: str) -> None:
        alive = known()
        if alive is not None and shiboken6.isValid(alive):
            alive._scene_changed()

    return changed


class qMRMLNodeComboBox(qMRMLWidget):
    """Chooses a node of the scene."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    SIGNALS = {
        **SCENE,
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
    }
    INVOKABLE = {
        *qMRMLWidget.INVOKABLE,
        *("currentNode", "setCurrentNode", "setCurrentNodeID", "addAttribute"),
        *("removeAttribute", "nodeCount", "nodeFromIndex"),
    }

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QComboBox(self)
        # The box is no child a .ui file or a panel could find: it is an inside of the widget.
        self._box.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.setFocusProxy(self)  # as qMRML's: without more, Tab passes it by
        self._types: list[str] = ["vtkMRMLNode"]
        self._flags = {"none": False, "child": True, "hidden": False, "hide": []}
        self._attributes: list[tuple[str, str, str | None]] = []
        self._ids: list[str | None] = []
        self._tags: list[tuple[Any, int]] = []
        self._current: str = ""
        self._none_display = "None"
        self._box.currentIndexChanged.connect(self._chosen)

    def _scene_is_set(self) -> None:
        for scene, tag in self._tags:
            scene.RemoveObserver(tag)
        self._tags = []
        scene = self._scene
        if scene is not None:
            for event in (
                scene.NodeAddedEvent,
                scene.NodeRemovedEvent,
                scene.EndBatchProcessEvent,
                scene.EndCloseEvent,
            ):
                self._tags.append((scene, scene.AddObserver(event, _while_alive(self))))
        self._fill()

    def _scene_changed(self) -> None:
        if self._scene is not None and not self._scene.IsBatchProcessing():
            self._fill()

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        found = []
        for i in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(i)
            fits = any(
                node.IsA(kind) if self._flags["child"] else node.GetClassName() == kind
                for kind in self._types
            )
            if not fits or (node.GetHideFromEditors() and not self._flags["hidden"]):
                continue
            if node.GetClassName() in self._flags["hide"]:
                continue
            if all(
                kind != node.GetClassName()
                or (
                    node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
                )
                for kind, name, value in self._attributes
            ):
                found.append(node)
        return found

    def _fill(self) -> None:
        nodes = self._nodes()
        before, row = self._current, self._box.currentIndex()
        self._box.blockSignals(True)
        self._box.clear()
        self._ids = []
        if self._flags["none"] or not nodes:
            self._box.addItem(self._none_display)
            self._ids.append(None)
        for node in nodes:
            self._box.addItem(node.GetName())
            self._ids.append(node.GetID())
        wanted = before if before in self._ids else (self._ids[0] or "")
        if before and before not in self._ids and not self._scene.IsClosing():
            # As Qt's own combo box: where the chosen row goes, its neighbour is chosen.
            wanted = self._ids[min(max(row, 0), len(self._ids) - 1)] or ""
        self._box.setCurrentIndex(self._ids.index(wanted or None))
        self._box.blockSignals(False)
        self._choose(wanted)

    def _chosen(self, index: int) -> None:
        self._choose(self._ids[index] or "" if index >= 0 else "")

    def _choose(self, identifier: str) -> None:
        if identifier == self._current:
            return
        self._current = identifier
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(identifier)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID("" if node is None else node.GetID())

    def setCurrentNodeID(self, identifier: str) -> None:
        if (identifier or None) in self._ids:
            self._box.setCurrentIndex(self._ids.index(identifier or None))

    def addAttribute(self, kind: str, name: str, value: str | None = None) -> None:
        self._attributes.append((kind, name, value))
        self._fill()

    def removeAttribute(self, kind: str, name: str) -> None:
        self._attributes = [a for a in self._attributes if a[:2] != (kind, name)]
        self._fill()

    def nodeCount(self) -> int:
        return len([i for i in self._ids if i])

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID([i for i in self._ids if i][index])

    def _get_types(self) -> list[str]:
        return self._types

    def _set_types(self, value: list[str]) -> None:
        self._types = list(value)
        self._fill()

    nodeTypes = Property("QStringList", _get_types, _set_types)

    @staticmethod
    def _flag(key: str) -> Any:
        def read(self: Any) -> bool:
            return self._flags[key]

        def write(self: Any, value: bool) -> None:
            self._flags[key] = value
            self._fill()

        return Property(bool, read, write)

    noneEnabled = _flag("none")
    showChildNodeTypes = _flag("child")
    showHidden = _flag("hidden")
    addEnabled = Property(bool, lambda self: False, lambda self, v: None)
    removeEnabled = Property(bool, lambda self: False, lambda self, v: None)
    editEnabled = Property(bool, lambda self: False, lambda self, v: None)
    renameEnabled = Property(bool, lambda self: False, lambda self, v: None)
    selectNodeUponCreation = Property(bool, lambda self: False, lambda self, v: None)

    def _set_hide(self, value: list[str]) -> None:
        self._flags["hide"] = list(value)
        self._fill()

    hideChildNodeTypes = Property("QStringList", lambda self: self._flags["hide"], _set_hide)

    def _set_none_display(self, value: str) -> None:
        self._none_display = value
        self._fill()

    noneDisplay = Property(str, lambda self: self._none_display, _set_none_display)
    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)


class ctkCollapsibleButton(QWidget):
    """A header that folds what is below it."""

    contentsCollapsed = Signal(bool)
    SIGNALS = {"contentsCollapsed(bool)": "contentsCollapsed"}
    INVOKABLE: set[str] = set()
    HEADER = 28

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self._hidden: list[QWidget] = []
        self.setContentsMargins(0, self.HEADER, 0, 0)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        # As ctk's: what the contents would like is the least width unless the file says otherwise.
        self.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred)

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        painter.fillRect(
            0,
            0,
            self.width(),
            self.HEADER - 2,
            palette.color(QPalette.ColorRole.Button).darker(107),
        )
        painter.setPen(palette.color(QPalette.ColorRole.ButtonText))
        painter.setBrush(palette.color(QPalette.ColorRole.ButtonText))
        x, y = 13, self.HEADER // 2 - 1
        if self._collapsed:
            arrow = [QPoint(x - 2, y - 4), QPoint(x + 3, y), QPoint(x - 2, y + 4)]
        else:
            arrow = [QPoint(x - 4, y - 2), QPoint(x + 4, y - 2), QPoint(x, y + 3)]
        painter.drawPolygon(QPolygon(arrow))
        font = painter.font()
        painter.setFont(font)
        area = QRect(26, 0, self.width() - 26, self.HEADER - 2)
        painter.drawText(area, Qt.AlignmentFlag.AlignVCenter, self._text)

    def mousePressEvent(self, event: Any) -> None:
        if event.position().y() < self.HEADER:
            self._set_collapsed(not self._collapsed)

    def keyPressEvent(self, event: Any) -> None:
        if event.key() == Qt.Key.Key_Space:
            self._set_collapsed(not self._collapsed)

    def minimumSizeHint(self) -> QSize:
        return QSize(0, self.HEADER) if self._collapsed else super().minimumSizeHint()

    def sizeHint(self) -> QSize:
        hint = super().sizeHint()
        return QSize(hint.width(), self.HEADER) if self._collapsed else hint

    def _set_text(self, value: str) -> None:
        self._text = value
        self.update()

    def _set_collapsed(self, value: bool) -> None:
        if value == self._collapsed:
            return
        self._collapsed = value
        if value:
            self._hidden = [
                c
                for c in self.findChildren(
                    QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly
                )
                if not c.isHidden()
            ]
            for child in self._hidden:
                child.hide()
        else:
            for child in self._hidden:
                child.show()
        self.setMaximumHeight(self.HEADER if value else 16777215)
        self.updateGeometry()
        self.contentsCollapsed.emit(value)

    text = Property(str, lambda self: self._text, _set_text)
    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)


class ctkSliderWidget(QWidget):
    """A slider with a spin box."""

    valueChanged = Signal(float)
    SIGNALS = {"valueChanged(double)": "valueChanged"}
    INVOKABLE = {"setValue", "setRange"}

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0, 1000)
        self._box = QDoubleSpinBox()
        self._box.setDecimals(2)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self.setFocusProxy(self._box)
        self._slider.valueChanged.connect(self._slid)
        self._box.valueChanged.connect(self._spun)

    def _slid(self, tick: int) -> None:
        low, high = self._box.minimum(), self._box.maximum()
        self._box.setValue(low + (high - low) * tick / 1000)

    def _spun(self, value: float) -> None:
        low, high = self._box.minimum(), self._box.maximum()
        self._slider.blockSignals(True)
        self._slider.setValue(round(1000 * (value - low) / (high - low)) if high > low else 0)
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def setRange(self, low: float, high: float) -> None:
        self._box.setRange(low, high)

    value = Property(float, lambda s: s._box.value(), setValue)
    minimum = Property(float, lambda s: s._box.minimum(), lambda s, v: s._box.setMinimum(v))
    maximum = Property(float, lambda s: s._box.maximum(), lambda s, v: s._box.setMaximum(v))
    singleStep = Property(
        float, lambda s: s._box.singleStep(), lambda s, v: s._box.setSingleStep(v)
    )
    decimals = Property(int, lambda s: s._box.decimals(), lambda s, v: s._box.setDecimals(v))
    suffix = Property(str, lambda s: s._box.suffix(), lambda s, v: s._box.setSuffix(v))


class ctkPathLineEdit(QWidget):
    """A path with a browse button."""

    currentPathChanged = Signal(str)
    SIGNALS = {"currentPathChanged(QString)": "currentPathChanged"}
    INVOKABLE = {"setCurrentPath", "addCurrentPathToHistory"}

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit, self._key = QLineEdit(), ""
        self._browse = QPushButton("...")
        self._browse.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._browse.clicked.connect(self._ask)
        layout.addWidget(self._edit)
        layout.addWidget(self._browse)
        self.setFocusProxy(self._edit)
        self._edit.textChanged.connect(self.currentPathChanged)

    def _ask(self) -> None:
        self._edit.setText(QFileDialog.getExistingDirectory(self) or self._edit.text())

    def setCurrentPath(self, value: str) -> None:
        self._edit.setText(value)

    def addCurrentPathToHistory(self) -> None:
        pass

    currentPath = Property(str, lambda self: self._edit.text(), setCurrentPath)
    settingKey = Property(str, lambda s: s._key, lambda s, v: setattr(s, "_key", v))
    filters = Property(int, lambda s: 0, lambda s, v: None)


def designer_classes() -> dict[str, type[QWidget]]:
    """The widgets that a .ui file can hold."""
    return {
        kind.__name__: kind
        for kind in (
            qMRMLWidget,
            qMRMLNodeComboBox,
            ctkCollapsibleButton,
            ctkSliderWidget,
            ctkPathLineEdit,
        )
    }


assert slicer.vtkMRMLScene  # the scene these widgets show is the real one

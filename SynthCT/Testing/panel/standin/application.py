"""``slicer.app`` and what hangs on it: the scene, reading and writing, layouts, module logics."""

from __future__ import annotations

import os
import shutil
import tempfile
import types
from pathlib import Path
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from . import pythonqt

SEGMENTATION, VOLUME, SCENE, TABLE = "SegmentationFile", "VolumeFile", "SceneFile", "TableFile"
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


class InputOutput:
    """Reads and writes nodes through MRML's own storage nodes."""

    def fileType(self, path: str) -> str:
        if not isinstance(path, str):
            raise ValueError("fileType takes a str")
        name = path.lower()
        if name.endswith((".mrb", ".mrml")):
            return SCENE
        if name.endswith(".seg.nrrd"):
            return SEGMENTATION
        return VOLUME if name.endswith(SUFFIXES) else "NoFile"

    def loadNodes(
        self, kind: str, properties: dict[str, Any], nodes: Any, messages: Any = None
    ) -> bool:
        path = Path(properties["fileName"])
        if not path.exists():
            messages = messages or slicer.vtkMRMLMessageCollection()
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"no file {path}")
            return False
        if kind == SCENE:
            return _read_bundle(str(path))
        if kind != VOLUME:
            return False
        label = bool(properties.get("labelmap"))
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(path))
        storage.SetSingleFile(True)
        node = slicer.vtkMRMLLabelMapVolumeNode() if label else slicer.vtkMRMLScalarVolumeNode()
        warnings = vtk.vtkObject.GetGlobalWarningDisplay()
        vtk.vtkObject.SetGlobalWarningDisplay(0)
        try:
            read = storage.ReadData(node)
            if not read and not label:
                node = slicer.vtkMRMLVectorVolumeNode()
                read = storage.ReadData(node)
        finally:
            vtk.vtkObject.SetGlobalWarningDisplay(warnings)
        if not read:
            return False
        base = properties.get("name") or path.name.split(".")[0]
        node.SetName(slicer.mrmlScene.GenerateUniqueName(base))
        slicer.mrmlScene.AddNode(storage)
        slicer.mrmlScene.AddNode(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        nodes.AddItem(node)
        return True

    def fileWriterExtensions(self, node: Any) -> tuple[str, ...]:
        if node.IsA("vtkMRMLVolumeNode"):
            return tuple(f"Volume (*{s})" for s in SUFFIXES)
        return ("Table (*.tsv)",) if node.IsA("vtkMRMLTableNode") else ()

    def extractKnownExtension(self, path: str, node: Any) -> str:
        if not isinstance(path, str):
            raise ValueError("extractKnownExtension takes a str")
        return next((s for s in SUFFIXES if path.lower().endswith(s)), Path(path).suffix)

    def fileWriterFileType(self, node: Any) -> str:
        return VOLUME if node.IsA("vtkMRMLVolumeNode") else TABLE

    def exportNodes(
        self,
        identifiers: list[str],
        paths: list[str],
        properties: dict[str, Any],
        harden: bool,
        messages: Any,
    ) -> bool:
        wanted = slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString(
            properties["fileFormat"]
        )
        for identifier, path in zip(identifiers, paths, strict=True):
            node = slicer.mrmlScene.GetNodeByID(identifier)
            # A format left over in shared properties decides, as in the application.
            target = path if path.endswith(wanted) else path + wanted
            if not _write(node, target, harden):
                return False
        return True

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        path = properties["fileName"]
        if not isinstance(path, str):
            return False
        if kind == SCENE:
            return bool(slicer.mrmlScene.WriteToMRB(path))
        return _write(slicer.mrmlScene.GetNodeByID(properties["nodeID"]), path, False)


def _write(node: Any, path: str, harden: bool) -> bool:
    scene = slicer.vtkMRMLScene()
    if not Path(path).parent.is_dir():
        return False
    copy = scene.AddNewNodeByClass(node.GetClassName())
    if node.IsA("vtkMRMLTableNode"):
        copy.SetAndObserveTable(node.GetTable())
        storage = scene.AddNewNodeByClass("vtkMRMLTableStorageNode")
    else:
        copy.SetAndObserveImageData(node.GetImageData())
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        parent = node.GetParentTransformNode()
        if harden and parent is not None:
            world = vtk.vtkMatrix4x4()
            parent.GetMatrixTransformToWorld(world)
            vtk.vtkMatrix4x4.Multiply4x4(world, matrix, matrix)
        copy.SetIJKToRASMatrix(matrix)
        storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(path)
    return bool(storage.WriteData(copy))


_io_keep: list[Any] = []


def _read_bundle(path: str) -> bool:
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(slicer.mrmlScene)
    remote.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    remote.GetCacheManager().SetRemoteCacheDirectory(slicer.app.temporaryPath)
    manager = slicer.vtkDataIOManagerLogic()
    manager.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    _io_keep[:] = [remote, manager]
    messages = slicer.vtkMRMLMessageCollection()
    return bool(slicer.mrmlScene.ReadFromMRB(path, False, messages))


class SliceWidget:
    """A slice view: only its nodes and logic, drawn on demand."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self._controller = QtWidgets.QWidget()
        label = QtWidgets.QLabel(logic.GetSliceNode().GetLayoutLabel(), self._controller)
        label.setObjectName("ViewLabel")

    def sliceLogic(self) -> Any:
        return self._logic

    def sliceController(self) -> Any:
        return pythonqt.wrap(self._controller)

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()


class SegmentEditor:
    """The Segment Editor's widget: what the panel gives it, and what it does to the views."""

    def __init__(self) -> None:
        self.autoShowSourceVolumeNode = True
        self._segmentation: Any = None
        self._source: Any = None

    def segmentationNode(self) -> Any:
        return self._segmentation

    def setSegmentationNode(self, node: Any) -> None:
        self._segmentation = node

    def sourceVolumeNode(self) -> Any:
        return self._source

    def setSourceVolumeNode(self, node: Any) -> None:
        """As the real one: a new source is shown in every slice view there is."""
        if node is self._source:
            return
        self._source = node
        if self.autoShowSourceVolumeNode:
            for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
                composite.SetBackgroundVolumeID(node.GetID())
                composite.SetForegroundVolumeID(None)


class LayoutManager:
    """Views by the real layout logic; one slice logic for each slice node."""

    def __init__(self, application_logic: Any) -> None:
        self._application = application_logic
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._slices: dict[str, SliceWidget] = {}

    def layoutLogic(self) -> Any:
        return self._logic

    @property
    def layout(self) -> int:
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, number: int) -> None:
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("setLayout takes an int")
        self._logic.GetLayoutNode().SetViewArrangement(number)

    def sliceViewNames(self) -> tuple[str, ...]:
        nodes = self._logic.GetViewNodes()
        found = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]
        return tuple(n.GetLayoutName() for n in found if n.IsA("vtkMRMLSliceNode"))

    def sliceWidget(self, name: str) -> SliceWidget | None:
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        node = next((n for n in nodes if n.GetLayoutName() == name), None)
        if node is None:
            return None
        known = self._slices.get(name)
        if known is None or known.mrmlSliceNode() is not node:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._application)
            self._application.GetSliceLogics().AddItem(logic)
            logic.SetMRMLScene(slicer.mrmlScene)
            logic.SetSliceNode(node)
            self._slices[name] = SliceWidget(logic)
        return self._slices[name]

    def resetSliceViews(self) -> None:
        for name in self.sliceViewNames():
            self.sliceWidget(name).sliceLogic().FitSliceToBackground()

    def forget(self) -> None:
        """Let go of the views of a closed scene."""
        self._slices.clear()


class Application:
    """``slicer.app``. Its properties are values and nothing can be added to it."""

    __slots__ = (
        "_file_manager",
        "_layout",
        "_logic",
        "_settings",
        "_temporary",
        "main_window_shown",
    )

    def __init__(self, logic: Any) -> None:
        self._temporary = tempfile.mkdtemp(prefix="synthct-standin-")
        self._logic, self._file_manager = logic, InputOutput()
        self._layout: LayoutManager | None = None
        self.main_window_shown = False
        path = str(Path(self._temporary) / "settings.ini")
        self._settings = QtCore.QSettings(path, QtCore.QSettings.Format.IniFormat)

    @property
    def temporaryPath(self) -> str:
        return self._temporary

    @property
    def applicationName(self) -> str:
        return "Slicer"

    @property
    def applicationVersion(self) -> str:
        return "5.13.0-stand-in"

    @property
    def slicerHome(self) -> str:
        return self._temporary

    def testingEnabled(self) -> bool:
        return True

    def topLevelWidgets(self) -> Any:
        return pythonqt.wrap(QtWidgets.QApplication.topLevelWidgets())

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def coreIOManager(self) -> InputOutput:
        return self._file_manager

    def applicationLogic(self) -> Any:
        return self._logic

    def settings(self) -> Any:
        return pythonqt.wrap(self._settings)

    def startupEnvironment(self) -> Any:
        return pythonqt.wrap(QtCore.QProcessEnvironment.systemEnvironment())

    def layoutManager(self) -> LayoutManager | None:
        """None without a main window."""
        if not self.main_window_shown:
            return None
        if self._layout is None:
            self._layout = LayoutManager(self._logic)
        return self._layout

    def connect(self, signature: str, function: Any) -> bool:
        return signature in ("startupCompleted()", "aboutToQuit()")

    def disconnect(self, signature: str, function: Any) -> bool:
        return True

    def close(self) -> None:
        """Leave nothing behind."""
        self._settings.sync()
        shutil.rmtree(self._temporary, ignore_errors=True)


class _Logic:
    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


class _VolumesLogic:
    """The volumes logic; presets are files of the application that the wheel does not hold."""

    PRESETS = {"CT_BONE": (1000, 400), "CT_BRAIN": (100, 50), "CT_ABDOMEN": (350, 40)}

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logic, name)

    def ApplyVolumeDisplayPreset(self, display: Any, name: str) -> bool:
        if name not in self.PRESETS:
            return False
        window, level = self.PRESETS[name]
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(window, level)
        return True


_keep: dict[str, Any] = {}


def new_scene() -> Any:
    """The scene with the logics a Slicer has, and ``slicer.app`` on it."""
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    colors = logic.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    _keep.clear()
    _keep["app"] = logic
    for name, kind in (
        ("Colors", slicer.vtkSlicerColorLogic),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("Volumes", slicer.vtkSlicerVolumesLogic),
    ):
        made = _keep[name] = kind()
        made.SetMRMLApplicationLogic(logic)
        made.SetMRMLScene(scene)
        logic.SetModuleLogic(name, made)
    # Factory singletons of the displayable managers outlive a scene: they follow it.
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(logic)
    slicer.modules = types.SimpleNamespace(
        colors=_Logic(_keep["Colors"]),
        segmentations=_Logic(_keep["Segmentations"]),
        volumes=_Logic(_VolumesLogic(_keep["Volumes"])),
    )
    slicer.app = Application(logic)
    return scene


def without_variables(names: tuple[str, ...]) -> dict[str, str]:
    """The environment less some variables."""
    return {k: v for k, v in os.environ.items() if k not in names}

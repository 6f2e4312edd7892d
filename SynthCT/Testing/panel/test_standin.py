"""The stand-in refuses what the application refuses."""

from __future__ import annotations

import enum
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest
import slicer

from standin.scripted import (
    Choice,
    Default,
    ModuleParent,
    WithinRange,
    parameterNodeWrapper,
)


@pytest.fixture
def qt(desktop: SimpleNamespace) -> Any:
    return desktop.qt


def test_property_is_a_value_and_not_a_function(qt: Any) -> None:
    button = qt.QPushButton("Run")
    assert button.text == "Run"
    assert button.isEnabled() is True
    for call in (lambda: button.text(), lambda: button.checked(), lambda: button.sizeHint()):
        with pytest.raises(TypeError, match="not callable"):
            call()


def test_unknown_attribute_can_be_neither_read_nor_written(qt: Any) -> None:
    button = qt.QPushButton()
    with pytest.raises(AttributeError):
        button.enabld = True
    with pytest.raises(AttributeError):
        _ = button.enabld

    class Zone(qt.QFrame):
        def __init__(self) -> None:
            qt.QFrame.__init__(self)

    zone = Zone()
    zone.paths = ["a"]
    assert zone.paths == ["a"]


def test_wrong_type_is_refused_by_a_property(qt: Any) -> None:
    with pytest.raises(AttributeError):
        qt.QPushButton().text = 3
    with pytest.raises(AttributeError):
        qt.QProgressBar().value = "half"


def test_dynamic_property_reads_back_as_attribute(qt: Any) -> None:
    button = qt.QPushButton()
    button.setProperty("role", "mr")
    assert button.role == "mr"


def test_no_keyword_arguments(qt: Any) -> None:
    for call in (
        lambda: qt.QLabel(text="x"),
        lambda: qt.QPushButton("x", parent=None),
        lambda: qt.QTimer.singleShot(msec=1),
        lambda: qt.QPushButton().setText(text="x"),
    ):
        with pytest.raises(ValueError, match="keyword"):
            call()


def test_path_is_not_text(qt: Any) -> None:
    with pytest.raises(ValueError, match="overload"):
        qt.QUrl.fromLocalFile(Path("/a"))
    with pytest.raises(ValueError, match="overload"):
        qt.QLabel().setText(Path("/a"))


def test_wrong_signal_is_false_and_said(qt: Any, capfd: pytest.CaptureFixture[str]) -> None:
    button = qt.QPushButton()
    assert button.connect("clicked(bool)", lambda: None) is True
    for wrong in ("clicked", "clickd()", "clicked(int)"):
        assert button.connect(wrong, lambda: None) is False
    assert "no such signal clicked(int)" in capfd.readouterr().err
    assert button.disconnect("clicked(bool)", print) is False


def test_signal_arguments_are_cut_to_what_a_function_takes(qt: Any) -> None:
    button, got = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.connect("clicked(bool)", lambda x="default": got.append(x))
    button.click()
    assert got == ["none", False]  # the default is overwritten: the trap of lambda x=x


def test_exception_in_a_slot_is_lost_but_found_here(
    desktop: SimpleNamespace, qt: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    button, got = qt.QPushButton(), []
    button.clicked.connect(lambda: 1 / 0)
    button.clicked.connect(lambda: got.append(1))
    button.click()
    qt.QTimer.singleShot(0, lambda: [][1])
    desktop.wait(lambda: len(desktop.lost) == 2)
    assert got == [1]
    assert "ZeroDivisionError" in desktop.lost[0]
    assert "IndexError" in desktop.lost[1]
    desktop.lost.clear()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_exception_in_an_observer_is_found_here(desktop: SimpleNamespace) -> None:
    desktop.scene.AddObserver(desktop.scene.NodeAddedEvent, lambda caller, event: 1 / 0)
    desktop.scene.AddNewNodeByClass("vtkMRMLTextNode")
    assert any("ZeroDivisionError" in text for text in desktop.lost)
    desktop.lost.clear()


def test_lists_come_back_as_tuples(qt: Any) -> None:
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    assert box.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    with pytest.raises(AttributeError):
        box.nodeTypes = "vtkMRMLScalarVolumeNode"
    data = qt.QMimeData()
    data.setUrls([qt.QUrl.fromLocalFile("/a")])
    assert isinstance(data.urls(), tuple)


def test_classes_are_not_related(qt: Any) -> None:
    button = qt.QPushButton()
    assert not isinstance(button, qt.QWidget)
    assert isinstance(button, qt.QPushButton)
    assert button.inherits("QWidget")
    assert button.className() == "QPushButton"


def test_deleted_object_is_false_and_cannot_be_read(qt: Any) -> None:
    import shiboken6

    button = qt.QPushButton()
    shiboken6.delete(button._alive())
    assert not button
    assert button == None  # noqa: E711
    with pytest.raises(ValueError, match="destroyed"):
        _ = button.text


def test_ctk_and_qmrml_offer_only_what_is_declared(qt: Any) -> None:
    box = slicer.qMRMLNodeComboBox()
    assert box.currentNode() is None
    with pytest.raises(AttributeError):
        box.nodes()
    with pytest.raises(TypeError):
        box.currentNodeID()


def test_event_filter_must_say_bool_and_be_kept(desktop: SimpleNamespace, qt: Any) -> None:
    seen = []

    class Filter(qt.QObject):
        def eventFilter(self, watched: Any, event: Any) -> Any:
            seen.append(event.type())
            return None

    button, kept = qt.QPushButton(), Filter()
    button.installEventFilter(kept)
    qt.QApplication.sendEvent(button, qt.QEvent(qt.QEvent.User))
    assert any("must return a bool" in text for text in desktop.lost)
    desktop.lost.clear()
    count = len(seen)
    del kept
    gc.collect()
    qt.QApplication.sendEvent(button, qt.QEvent(qt.QEvent.User))
    assert len(seen) == count


UI = """<ui version="4.0"><class>Top</class><widget class="qMRMLWidget" name="Top">
<layout class="QVBoxLayout"><item><widget class="qMRMLNodeComboBox" name="wired">
<property name="nodeTypes">
<stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="SlicerParameterName" stdset="0"><string>mr</string></property></widget></item>
<item><widget class="qMRMLNodeComboBox" name="forgotten"/></item>
<item><widget class="qMRMLNoSuch" name="unknown"/></item></layout></widget>
<customwidgets><customwidget><class>qMRMLNoSuch</class><extends>QWidget</extends></customwidget>
</customwidgets><connections><connection><sender>Top</sender>
<signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>wired</receiver>
<slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def test_ui_file_wires_the_scene_and_skips_unknown_classes(
    desktop: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.ui").write_text(UI)
    top = slicer.util.loadUI(str(tmp_path / "a.ui"))
    ui = slicer.util.childWidgetVariables(top)
    top.setMRMLScene(desktop.scene)
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "MR")
    assert ui.wired.currentNode() is volume
    assert ui.wired.SlicerParameterName == "mr"
    assert ui.forgotten.currentNode() is None  # no connection: empty, and no error
    assert not hasattr(ui, "unknown")
    assert "qMRMLNoSuch" in capfd.readouterr().err
    with pytest.raises(RuntimeError):
        slicer.util.loadUI(str(tmp_path / "absent.ui"))
    (tmp_path / "b.ui").write_text("<ui")
    with pytest.raises(RuntimeError):
        slicer.util.loadUI(str(tmp_path / "b.ui"))


def test_nothing_can_be_added_to_the_application(desktop: SimpleNamespace) -> None:
    with pytest.raises(AttributeError):
        slicer.app.foo = 1
    with pytest.raises(TypeError):
        slicer.app.temporaryPath()
    assert slicer.app.layoutManager() is None  # no main window
    assert slicer.util.mainWindow() is None
    assert slicer.util.confirmOkCancelDisplay("Delete?") is False
    with pytest.raises(RuntimeError):
        slicer.util.selectModule("SegmentEditor")


def test_module_parent_has_only_its_properties(desktop: SimpleNamespace) -> None:
    with pytest.raises(AttributeError):
        ModuleParent().categorys = []


class Colour(enum.Enum):
    RED = "red"


def test_parameter_node_is_strict_about_types(desktop: SimpleNamespace) -> None:
    @parameterNodeWrapper
    class Fields:
        mr: slicer.vtkMRMLScalarVolumeNode
        count: int
        share: Annotated[float, WithinRange(0, 1), Default(0.5)]
        name: Annotated[str, Choice(["a", "b"]), Default("a")]
        folder: Path
        colour: Colour
        names: list[str]
        on: bool

    node = desktop.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    fields = Fields(node)
    assert (fields.share, fields.name, fields.colour, fields.mr) == (0.5, "a", Colour.RED, None)
    for name, value, error in (
        ("share", 2.0, ValueError),
        ("name", "c", ValueError),
        ("count", np.int64(3), TypeError),
        ("count", True, ValueError),
        ("share", np.float32(0.1), TypeError),
        ("folder", "/tmp", TypeError),
        ("colour", "red", TypeError),
        ("names", ("a",), TypeError),
    ):
        with pytest.raises(error):
            setattr(fields, name, value)
    fields.mr = volume = desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    fields.on, fields.names = True, ["x"]
    again = Fields(node)
    assert (again.mr, again.on, again.names) == (volume, True, ["x"])
    desktop.scene.RemoveNode(volume)
    assert again.mr is None
    with pytest.raises(Exception, match="unsupported"):

        @parameterNodeWrapper
        class Wrong:
            array: np.ndarray

    with pytest.raises(ValueError, match="not within"):

        @parameterNodeWrapper
        class Zero:
            share: Annotated[float, WithinRange(1, 2)]


def test_one_sample_is_its_first_node_and_samples_are_all(desktop: SimpleNamespace) -> None:
    import SampleData

    from SynthCTSlicer import samples

    samples.register(Path(__file__).parents[2] / "Resources" / "SampleData" / "STS_014")
    logic = SampleData.SampleDataLogic()
    assert logic.downloadSample(samples.NAME).GetName() == "SampleThigh_MR"
    names = [node.GetName() for node in logic.downloadSamples(samples.NAME)]
    assert [name.rstrip("_1") for name in names] == ["SampleThigh_MR", "SampleThigh_CT"]


def test_the_sample_with_pets_fills_all_four_selectors(desktop: SimpleNamespace) -> None:
    import SampleData

    from SynthCTSlicer import mrml, samples

    samples.register(Path(__file__).parents[2] / "Resources" / "SampleData" / "STS_014")
    nodes = SampleData.SampleDataLogic().downloadSamples(samples.NAME_WITH_PET)
    assert [mrml.guess(node).slot for node in nodes] == ["mr", "ct", "pet", "nac_pet"]


def test_volume_types_the_scene_cannot_hold(desktop: SimpleNamespace) -> None:
    for kind in (bool, np.float16):
        with pytest.raises(TypeError):
            slicer.util.addVolumeFromArray(np.zeros((2, 2, 2), kind))
    with pytest.raises(RuntimeError):
        slicer.util.addVolumeFromArray(np.zeros((2, 2, 2), np.int64))


def test_shared_properties_write_the_first_format_again(
    desktop: SimpleNamespace, tmp_path: Path
) -> None:
    node = slicer.util.addVolumeFromArray(np.ones((4, 5, 6), np.float32), np.diag([-1, -1, 2, 1.0]))
    shared: dict[str, Any] = {}
    assert slicer.util.exportNode(node, str(tmp_path / "a.nrrd"), shared)
    slicer.util.exportNode(node, str(tmp_path / "b.nii.gz"), shared)
    assert not (tmp_path / "b.nii.gz").exists()
    assert slicer.util.exportNode(node, str(tmp_path / "b.nii.gz"), {})
    again = slicer.util.loadVolume(str(tmp_path / "b.nii.gz"), properties={"show": False})
    assert not slicer.modules.volumes.logic().CompareVolumeGeometry(node, again).strip()
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "no.nrrd"), properties={"show": False})

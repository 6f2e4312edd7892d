"""A result on the page: views, masks, figures, decision, export, and the state with the scene."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer
from conftest import Page


@pytest.fixture
def done(desktop: SimpleNamespace, bin_folder: Path, images: Path) -> Iterator[Page]:
    """A page with a window and a finished run."""
    desktop.app.main_window_shown = True
    page = Page(desktop, bin_folder)
    page.drop(images / "t1.nii.gz", images / "ct.nii.gz")
    page.choose(page.ui.modelBox, "uniform-body")
    page.ui.runButton.click()
    page.until_idle()
    page.desktop.app.processEvents()
    assert page.panel.review.state.run, page.ui.messageText.text
    yield page
    page.close()


def backgrounds(page: Page) -> dict[str, str]:
    return {
        key: slicer.mrmlScene.GetNodeByID(w.mrmlSliceCompositeNode().GetBackgroundVolumeID())
        for key, w in page.panel.review.views()
    }


# -- review ----------------------------------------------------------------------------------------


def test_one_row_shows_each_image_linked_with_one_crosshair(done: Page) -> None:
    views = done.panel.review.views()
    assert [key for key, _w in views] == ["mr", "reference_ct", "ct", "difference"]
    for key, node in backgrounds(done).items():
        assert node is done.panel.review.node(key)
    for _key, widget in views:
        assert widget.mrmlSliceNode().GetOrientation() == "Axial"
        assert widget.mrmlSliceNode().GetViewGroup() == views[0][1].mrmlSliceNode().GetViewGroup()
        assert widget.mrmlSliceCompositeNode().GetLinkedControl() == 1
    crosshair = slicer.util.getNodesByClass("vtkMRMLCrosshairNode")
    assert not crosshair or crosshair[0].GetCrosshairMode() != 0


def test_pet_is_shown_beside_the_result(
    desktop: SimpleNamespace, bin_folder: Path, images: Path
) -> None:
    desktop.app.main_window_shown = True
    page = Page(desktop, bin_folder)
    page.drop(images)
    page.choose(page.ui.modelBox, "uniform-body")
    page.ui.runButton.click()
    page.until_idle()
    keys = [key for key, _title in page.panel.review.state.shown]
    assert keys == ["mr", "reference_ct", "ct", "difference", "pet_input"]
    assert page.panel.review.node("pet_input").GetName() == "fdg_pet"
    page.close()


def test_a_ct_that_a_pet_was_made_from_is_not_called_synthetic(
    desktop: SimpleNamespace, bin_folder: Path, images: Path
) -> None:
    desktop.app.main_window_shown = True
    page = Page(desktop, bin_folder)
    page.drop(images / "ct.nii.gz")
    ct = page.panel.volumes.node("ct")
    made = slicer.util.loadVolume(str(images / "fdg_pet.nii.gz"), {"name": "made", "show": False})
    record = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "record")
    record.SetText(json.dumps({"model": "virtual-pet", "model_version": "1"}))
    for node, key in ((record, "record"), (made, "pet")):
        node.SetAttribute("SynthCT.Run", "run")
        node.SetAttribute("SynthCT.Output", key)
    record.SetNodeReferenceID("SynthCT.ct", ct.GetID())
    page.panel._show_run("run")
    desktop.app.processEvents()
    shown = page.panel.review.state.shown
    assert shown == (("ct_input", "CT"), ("pet", "Synthetic PET"))
    assert page.panel.review.node("ct_input") is ct
    assert page.panel.review.node("ct") is None
    labels = [w.mrmlSliceNode().GetLayoutLabel() for _k, w in page.panel.review.views()]
    assert labels == ["CT", "sPET"]
    assert "No reference CT" not in page.ui.factsText.text
    page.close()


def test_three_planes_and_back(done: Page) -> None:
    before = done.desktop.app.layoutManager()
    done.ui.gridButton.click()
    done.desktop.app.processEvents()
    assert len(done.panel.review.views()) == 12
    planes = {w.mrmlSliceNode().GetOrientation() for _k, w in done.panel.review.views()}
    assert planes == {"Axial", "Sagittal", "Coronal"}
    done.ui.restoreButton.click()
    assert before.layout not in (50731, 50732)


def test_difference_has_a_symmetric_diverging_window(done: Page) -> None:
    display = done.panel.review.node("difference").GetDisplayNode()
    done.ui.windowSlider.setValue(500.0)
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-500.0, 500.0)
    function = display.GetColorNode().GetColorTransferFunction()
    assert function.GetRange() == (-500.0, 500.0)
    low, high = function.GetColor(-500), function.GetColor(500)
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert max(function.GetColor(0)) < 0.1


STORED = Path(__file__).parent / "review_row.png"


def picture(page: Page) -> Any:
    """The row of views, each 96 pixels wide."""
    from pictures import blend

    page.ui.softButton.click()
    return np.hstack([blend(widget, 96) for _key, widget in page.panel.review.views()])


def test_views_look_as_they_did_when_they_were_looked_at(done: Page) -> None:
    """Against a picture that a person has seen; tolerant, as resampling differs a little."""
    from PIL import Image

    shown, stored = picture(done), np.asarray(Image.open(STORED).convert("RGB"))
    assert shown.shape == stored.shape
    off = np.abs(shown.astype(int) - stored).max(axis=2)
    assert (off > 24).mean() < 0.02
    # A test that can fail: the same picture with two views swapped is another one.
    swapped = np.hstack([stored[:, 96:192], stored[:, :96], stored[:, 192:]])
    assert (np.abs(shown.astype(int) - swapped).max(axis=2) > 24).mean() > 0.02


def test_window_presets(done: Page) -> None:
    display = done.panel.review.node("ct").GetDisplayNode()
    windows = []
    for button in (done.ui.boneButton, done.ui.brainButton, done.ui.softButton):
        button.click()
        windows.append(display.GetWindow())
    assert windows == [1000.0, 100.0, 350.0]


def test_each_view_has_its_own_until_a_second_is_chosen_or_flicker_is_pressed(done: Page) -> None:
    box = done.ui.secondBox
    assert box.itemData(box.currentIndex) == ""
    done.ui.flickerButton.click()
    assert box.itemData(box.currentIndex) == "reference_ct"
    composites = [w.mrmlSliceCompositeNode() for _k, w in done.panel.review.views()]
    first, second = (done.panel.review.node(key).GetID() for key in ("ct", "reference_ct"))
    assert {c.GetBackgroundVolumeID() for c in composites} == {first}
    assert {c.GetForegroundVolumeID() for c in composites} == {second}


def test_one_over_the_other_by_opacity_and_flicker(done: Page) -> None:
    done.choose(done.ui.firstBox, "ct")
    done.choose(done.ui.secondBox, "reference_ct")
    done.ui.opacitySlider.setValue(0.3)
    composites = [w.mrmlSliceCompositeNode() for _k, w in done.panel.review.views()]
    over = done.panel.review.node("reference_ct").GetID()
    assert {c.GetForegroundVolumeID() for c in composites} == {over}
    assert {round(c.GetForegroundOpacity(), 3) for c in composites} == {0.3}
    done.ui.flickerButton.click()
    assert composites[0].GetForegroundOpacity() == 1.0
    done.ui.flickerButton.click()
    assert composites[0].GetForegroundOpacity() == 0.0
    done.choose(done.ui.secondBox, "")
    assert composites[0].GetForegroundVolumeID() is None
    assert backgrounds(done)["mr"] is done.panel.review.node("mr")


def test_outline_shows_only_the_bone(done: Page) -> None:
    from SynthCTSlicer.review import segments

    display = done.panel.review.node("masks").GetDisplayNode()
    assert not display.GetVisibility()
    done.ui.outlineBox.setChecked(True)
    assert display.GetVisibility()
    assert not display.GetVisibility2DFill()
    names = segments(done.panel.review.node("masks"))
    shown = {name for name, i in names.items() if display.GetSegmentVisibility(i)}
    assert shown == {"bone"}


def test_click_on_a_worst_place_moves_the_slices_there(done: Page) -> None:
    places = done.panel.review.state.places
    assert done.ui.placesList.count == len(places) > 1
    done.ui.placesList.setCurrentRow(1)
    ras = places[1].ras
    for _key, widget in done.panel.review.views():
        matrix = widget.mrmlSliceNode().GetSliceToRAS()
        assert matrix.GetElement(2, 3) == pytest.approx(ras[2], abs=0.01)
    done.ui.gridButton.click()  # another layout stays at the place
    done.desktop.app.processEvents()
    for _key, widget in done.panel.review.views():
        node = widget.mrmlSliceNode()
        axis = {"Sagittal": 0, "Coronal": 1, "Axial": 2}[node.GetOrientation()]
        assert node.GetSliceToRAS().GetElement(axis, 3) == pytest.approx(ras[axis], abs=0.01)
    # The place is where the error is: the difference there is as bad as the list says.
    node = done.panel.review.node("difference")
    array = slicer.util.arrayFromVolume(node)
    to_ijk = __import__("vtk").vtkMatrix4x4()
    node.GetRASToIJKMatrix(to_ijk)
    i, j, k = (round(x) for x in to_ijk.MultiplyPoint([*ras, 1.0])[:3])
    assert abs(array[k, j, i]) > 2 * np.abs(array).mean()


def test_metrics_are_in_a_table_node_and_on_the_page(done: Page) -> None:
    table = done.panel.review.node("metrics")
    assert table.GetTable().GetColumnName(1) == "MAE HU"
    assert "MAE HU" in done.ui.metricsText.text
    for key in ("histogram", "scatter"):
        assert done.panel.review.node(key).GetNumberOfPlotSeriesNodes() >= 1
    done.ui.tablesButton.click()
    view = slicer.mrmlScene.GetSingletonNode("SynthCT-metrics", "vtkMRMLTableViewNode")
    assert view.GetTableNode() is table


def test_edited_masks_are_evaluated_again(done: Page) -> None:
    from SynthCTSlicer.review import segments

    review = done.panel.review
    segmentation, ct = review.node("masks"), review.node("ct")
    identifier = segments(segmentation)["body"]
    array = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, ct).copy()
    array[: array.shape[0] // 2] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, segmentation, identifier, ct)
    done.mode("polite")
    nodes = len(done.nodes())
    done.ui.reevaluateButton.click()
    done.wait(lambda: done.panel.runner.busy)
    assert len(done.nodes()) == nodes  # the temporary label maps are gone
    request = json.loads((done.panel.runner.current.folder / "job.json").read_text())
    assert request["task"] is None
    assert set(request["inputs"]) == {"reference_ct", "synthetic_ct", "mr"}
    path = request["options"]["masks"]["body_edited"]
    written = slicer.util.loadVolume(path, properties={"show": False, "labelmap": True})
    assert not slicer.modules.volumes.logic().CompareVolumeGeometry(ct, written).strip()
    assert (slicer.util.arrayFromVolume(written) > 0).sum() == (array > 0).sum()
    done.ui.cancelButton.click()
    done.until_idle()


def test_segment_editor_gets_visible_masks_and_leaves_the_views_alone(
    done: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    from standin.application import SegmentEditor
    from SynthCTSlicer.review import segments

    editor, chosen = SegmentEditor(), []

    def select(name: str) -> None:  # at its first opening it takes a source of its own
        chosen.append(name)
        editor.setSourceVolumeNode(done.panel.volumes.node("mr"))

    monkeypatch.setattr(slicer.util, "selectModule", select)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: SimpleNamespace(editor=editor))
    done.ui.outlineBox.setChecked(True)  # hides every mask but the bone
    done.ui.editMasksButton.click()
    assert chosen == ["SegmentEditor"]
    review = done.panel.review
    masks = review.node("masks")
    assert editor.segmentationNode() is masks
    assert editor.sourceVolumeNode() is review.node("ct")
    display = masks.GetDisplayNode()
    assert display.GetVisibility()
    assert display.GetVisibility2DFill()
    assert all(display.GetSegmentVisibility(i) for i in segments(masks).values())
    assert not done.ui.outlineBox.isChecked()
    own = {key: review.node(key) for key, _w in review.views()}
    assert backgrounds(done) == own
    # The editor still shows what a person chooses there; back on the page each view has its own.
    assert editor.autoShowSourceVolumeNode
    editor.setSourceVolumeNode(review.node("mr"))
    assert set(backgrounds(done).values()) == {review.node("mr")}
    done.page.enter()
    assert backgrounds(done) == own


def test_views_of_a_row_have_one_scale_a_short_name_and_the_legend(
    desktop: SimpleNamespace, bin_folder: Path, images: Path, tmp_path: Path
) -> None:
    """The PET's field is larger than that of the rest."""
    import SimpleITK as sitk

    wide = sitk.ConstantPad(sitk.ReadImage(str(images / "fdg_pet.nii.gz")), [30] * 3, [30] * 3, 0)
    sitk.WriteImage(wide, str(tmp_path / "fdg_pet.nii.gz"))
    desktop.app.main_window_shown = True
    page = Page(desktop, bin_folder)
    page.drop(images / "t1.nii.gz", images / "ct.nii.gz", tmp_path / "fdg_pet.nii.gz")
    page.choose(page.ui.modelBox, "uniform-body")
    page.ui.runButton.click()
    page.until_idle()
    page.wait(lambda: slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"))
    for button, count in ((page.ui.gridButton, 15), (page.ui.rowButton, 5)):
        older = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
        button.click()
        desktop.app.processEvents()
        views = [widget for _key, widget in page.panel.review.views()]
        assert len(views) == count
        scales: dict[str, set[Any]] = {}
        for widget in views:
            node = widget.mrmlSliceNode()
            per_mm = node.GetFieldOfView()[0] / node.GetDimensions()[0]
            scales.setdefault(node.GetOrientation(), set()).add(round(per_mm, 3))
            assert 0 < len(node.GetLayoutLabel()) <= 4
            label = slicer.util.findChild(widget.sliceController(), "ViewLabel")
            assert label.minimumWidth >= label.sizeHint.width()
        assert all(len(found) == 1 for found in scales.values())
        # A legend is drawn only by views that were there before it.
        legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
        assert len(legends) == 1
        assert legends[0] not in older
    page.close()


def test_editing_masks_without_a_segment_editor_is_said(done: Page) -> None:
    done.ui.editMasksButton.click()
    assert "Segment Editor cannot be opened" in done.ui.messageText.text


def test_without_a_window_a_result_is_loaded_and_review_says_why_not(
    page: Page, images: Path
) -> None:
    page.drop(images / "t1.nii.gz", images / "ct.nii.gz")
    page.ui.runButton.click()
    page.until_idle()
    assert page.panel.review.node("ct") is not None
    page.ui.rowButton.click()
    assert "no window to arrange views in" in page.ui.messageText.text


# -- decide and export -----------------------------------------------------------------------------


def test_rejection_needs_a_reason_and_is_kept_in_scene_and_report(done: Page) -> None:
    done.ui.rejectButton.click()
    assert "at least one reason" in done.ui.decideText.text
    done.ui.reasonOther.setChecked(True)
    done.ui.rejectButton.click()
    assert "what the other reason is" in done.ui.decideText.text
    done.ui.reasonBone.setChecked(True)
    done.ui.remarkEdit.setText("femur <cut>")
    done.ui.rejectButton.click()
    assert done.ui.decisionLabel.text.startswith("Rejected by ")
    kept = json.loads(done.panel.review.node("decision").GetText())
    assert (kept["verdict"], kept["reasons"]) == ("rejected", ["bone", "other"])
    assert kept["model"] == "uniform-body"
    assert re.fullmatch(r"[0-9a-f]{64}", kept["outputs"]["ct"])
    report = done.panel.decide.report_path().read_text()
    assert "femur &lt;cut&gt;" in report
    done.ui.acceptButton.click()
    report = done.panel.decide.report_path().read_text()
    assert report.count("<!-- decision -->") == 1
    assert "Accepted by" in report


def test_export_goes_to_the_library_with_what_was_chosen(done: Page, tmp_path: Path) -> None:
    from SynthCTLib.export.formats import Format

    box = done.ui.formatBox
    assert [box.itemData(i) for i in range(box.count)] == [f.value for f in Format]
    done.ui.exportButton.click()
    assert "Choose a folder" in done.ui.decideText.text
    out = tmp_path / "out"
    done.ui.exportFolder.setCurrentPath(str(out))
    done.ui.exportButton.click()
    assert "There is no folder" in done.ui.decideText.text
    out.mkdir()
    done.choose(box, "nrrd")
    done.ui.fwhmSlider.setValue(4.5)
    done.ui.petGridBox.setChecked(True)
    done.ui.exportButton.click()
    assert "Choose the PET" in done.ui.decideText.text
    done.ui.petGridBox.setChecked(False)
    done.ui.exportButton.click()
    done.wait(lambda: "Written" in done.ui.decideText.text)
    words = (out / "t1_nrrd").read_text().split()  # the stand-in writes down what it was asked
    assert words[2:3] == ["export"]
    assert words[words.index("--fwhm") + 1] == "4.5"
    done.ui.exportMuButton.click()
    done.wait(lambda: (out / "t1_mumap.nrrd").exists())
    done.wait(lambda: not done.panel.exporter.busy)
    words = (out / "t1_mumap.nrrd").read_text().split()
    assert words[words.index("--convention") + 1] == done.panel.task.state.convention
    done.ui.exportMuButton.click()
    assert "exists already" in done.ui.decideText.text
    done.choose(box, "dicom")
    done.ui.exportButton.click()
    assert "drop the input as a folder with a DICOM series" in done.ui.decideText.text


def test_without_the_job_folder_the_scene_is_exported(done: Page, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(done.panel.review.record()["folder"])
    done.ui.exportFolder.setCurrentPath(str(tmp_path))
    done.choose(done.ui.formatBox, "interfile")
    done.ui.exportButton.click()
    assert "folder is gone" in done.ui.decideText.text
    done.choose(done.ui.formatBox, "nifti")
    done.ui.exportButton.click()
    assert "Writing" in done.ui.decideText.text  # the click has returned and nothing is there
    assert not (tmp_path / "t1_ct.nii.gz").exists()
    done.wait(lambda: "Written" in done.ui.decideText.text)
    again = slicer.util.loadVolume(str(tmp_path / "t1_ct.nii.gz"), properties={"show": False})
    made = done.panel.review.node("ct")
    assert (slicer.util.arrayFromVolume(again) == slicer.util.arrayFromVolume(made)).all()
    assert json.loads((tmp_path / "t1_ct.json").read_text())["unit"] == "HU"
    done.ui.exportButton.click()
    assert "exists already" in done.ui.decideText.text


def test_a_scene_export_without_its_sidecar_leaves_nothing(done: Page, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(done.panel.review.record()["folder"])
    (tmp_path / "t1_ct.json").mkdir()  # in the way
    done.ui.exportFolder.setCurrentPath(str(tmp_path))
    done.choose(done.ui.formatBox, "nrrd")
    done.ui.exportButton.click()
    done.wait(lambda: "cannot be written" in done.ui.decideText.text)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == []


# -- state -----------------------------------------------------------------------------------------


def test_saved_scene_brings_back_the_same_panel(
    done: Page, tmp_path: Path, desktop: SimpleNamespace
) -> None:
    done.ui.biasBox.setChecked(False)
    done.ui.fieldSlider.setValue(120.0)
    done.ui.reasonMotion.setChecked(True)
    done.ui.rejectButton.click()
    done.ui.exportFolder.setCurrentPath(str(tmp_path))
    done.ui.bundleButton.click()
    bundle = tmp_path / "t1.mrb"
    assert bundle.is_file(), done.ui.decideText.text
    before = [place.text for place in done.panel.review.state.places]
    slicer.mrmlScene.Clear()
    desktop.app.layoutManager().forget()
    assert not done.panel.review.state.run
    assert done.panel.volumes.node("mr") is None
    assert slicer.util.loadNodeFromFile(str(bundle), "SceneFile", {}) is None
    desktop.app.processEvents()
    panel = done.panel
    assert panel.volumes.node("mr").GetName() == "t1"
    assert panel.volumes.node("ct").GetName() == "ct"
    assert done.ui.modelBox.itemData(done.ui.modelBox.currentIndex) == "uniform-body"
    assert not done.ui.biasBox.isChecked()
    assert done.ui.fieldSlider.value == 120.0
    assert panel.review.node("ct") is not None
    assert [place.text for place in panel.review.state.places] == before
    # The layout that was saved is known to no other Slicer: the views are arranged anew.
    assert len(panel.review.views()) == len(panel.review.state.shown)
    assert all(node is not None for node in backgrounds(done).values())
    assert panel.decide.state.verdict == "rejected"
    assert done.ui.reasonMotion.isChecked()
    assert done.ui.decisionLabel.text.startswith("Rejected by ")


def test_leaving_the_page_and_coming_back_changes_nothing(done: Page) -> None:
    done.choose(done.ui.secondBox, "mr")
    done.ui.reasonAir.setChecked(True)
    done.page.exit()
    done.page.enter()
    assert done.panel.review.state.second == "mr"
    assert len(done.panel.review.views()) == 4
    assert done.ui.reasonAir.isChecked()


def test_two_parameter_sets_are_kept_apart(done: Page) -> None:
    panel = done.panel
    first = panel._parameters.parameterNode
    second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "SynthCT_2")
    panel.bind(second)
    assert not panel.review.state.run
    assert panel.volumes.node("mr") is None
    panel.task.set("head_field_mm", 90.0)
    panel.bind(first)
    assert panel.volumes.node("mr").GetName() == "t1"
    assert panel.review.node("ct") is not None
    assert panel.task.state.head_field_mm == 170.0
    panel.bind(second)
    assert panel.task.state.head_field_mm == 90.0


def test_parameter_sets_are_begun_and_chosen_on_the_page(done: Page) -> None:
    ui = done.ui
    first = ui.setBox.itemData(ui.setBox.currentIndex)
    assert ui.setBox.count == 1
    ui.newSetButton.click()
    second = ui.setBox.itemData(ui.setBox.currentIndex)
    assert ui.setBox.count == 2
    assert second != first
    assert ui.mrSelector.currentNode() is None
    done.page.exit()
    done.page.enter()  # the page is left and entered: the same set
    assert ui.setBox.itemData(ui.setBox.currentIndex) == second
    done.choose(ui.setBox, first)
    assert ui.mrSelector.currentNode().GetName() == "t1"
    assert done.panel.review.state.run
    done.choose(ui.setBox, second)
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetNodeByID(second))
    assert ui.setBox.count == 1
    assert ui.mrSelector.currentNode().GetName() == "t1"


# -- the page itself -------------------------------------------------------------------------------


def test_every_control_has_a_tooltip_and_a_name(done: Page) -> None:
    kinds = ("QPushButton", "QComboBox", "QCheckBox", "QLineEdit", "QListWidget", "QPlainTextEdit")
    kinds += ("qMRMLNodeComboBox", "ctkSliderWidget", "ctkPathLineEdit")
    named = [w for n, w in vars(done.ui).items() if not n.startswith("qt_") and w.objectName]
    controls = [w for w in named if w.className() in kinds]
    assert len(controls) > 35
    for widget in controls:
        assert widget.toolTip, widget.objectName
        assert widget.accessibleName, widget.objectName


def test_page_fits_400_pixels(done: Page) -> None:
    assert done.page.qt.minimumSizeHint().width() <= 400


def test_packages_that_are_missing_are_asked_for(
    done: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from SynthCTSlicer import library, packages

    assert not done.ui.notice.isVisible()
    asked = []
    monkeypatch.setattr(slicer.util, "pip_install", asked.append)
    monkeypatch.setitem(library.NEEDED, "no_such_package_here", "scikit-image")
    done.panel.notice.show()
    assert done.ui.notice.isVisible()
    assert "scikit-image (about 58 MB on disk)" in done.ui.noticeText.text
    done.ui.runButton.click()
    assert "press Install at the top" in done.ui.messageText.text
    done.ui.noticeButton.click()
    words = asked[0]
    assert words[-1] == "scikit-image"
    held = Path(words[words.index("--constraint") + 1]).read_text()
    assert "numpy==" in held
    assert "SimpleITK==" in held
    assert "Still missing" in done.ui.noticeText.text
    with pytest.raises(packages.PanelError, match="holds no wheels"):
        packages.install(str(tmp_path))
    (tmp_path / "a.whl").touch()
    done.panel.notice._install(str(tmp_path))
    assert asked[1][:3] == ["--no-index", "--find-links", str(tmp_path)]

    def fail(arguments: list[str]) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(slicer.util, "pip_install", fail)
    done.ui.noticeButton.click()
    assert "could not be installed (no network)" in done.ui.noticeText.text


def test_torch_comes_with_the_extension_pytorch(
    page: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.drop(images / "t1.nii.gz")
    page.mode("no-torch")
    page.ui.runButton.click()
    page.until_idle()
    assert "torch (about 754 MB on disk)" in page.ui.noticeText.text
    page.ui.noticeButton.click()
    assert "install that in the Extensions Manager" in page.ui.noticeText.text
    answers, asked = [None, object()], []

    class Logic:
        def installTorch(self, askConfirmation: bool = True) -> Any:
            asked.append(askConfirmation)
            return answers.pop(0)

    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=Logic))
    page.ui.noticeButton.click()
    assert "torch could not be installed" in page.ui.noticeText.text
    page.ui.noticeButton.click()
    assert not page.ui.notice.isVisible()
    assert asked == [False, False]
    page.panel.notice.want("safetensors")  # of unknown size: none is said
    assert page.ui.noticeText.text.endswith("not installed: safetensors.</span>")


def test_disk_full_and_folder_that_cannot_be_written(
    done: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from SynthCTSlicer import slabs

    def full(node: Any, path: Path) -> Iterator[None]:
        yield
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(slabs, "write", full)
    done.panel.volumes.node("mr").Modified()  # what was written before is not good any more
    done.run()
    assert "is full: free some space" in done.ui.messageText.text
    assert not done.panel.runner.busy
    # Only that of the finished run, once the check that the change began is over too.
    done.wait(lambda: len(list(done.panel._root().glob("job-*"))) == 1)


# -- the file reader -------------------------------------------------------------------------------


def test_interfile_mu_map_is_read_to_where_it_lies(page: Any, tmp_path: Path) -> None:
    import SimpleITK as sitk

    from SynthCTLib.export.interfile import write_stir
    from SynthCTLib.volume import Role, Unit, Volume

    array = np.zeros((5, 7, 9), np.float32)
    array[1, 2, 3] = 0.096
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin((-8.0, -6.0, 40.0))
    header = write_stir(Volume(image, Role.MU_MAP, Unit.PER_CM), tmp_path, "mu")[0]
    parent = SimpleNamespace(loadedNodes=[])
    reader = sys.modules["SynthCT"].SynthCTFileReader(parent)
    assert isinstance(reader.extensions(), list)
    assert reader.canLoadFile(str(header)) is True
    assert isinstance(reader.canLoadFileConfidence(str(header)), float)
    assert reader.load({"fileName": str(header)}) is True
    node = slicer.mrmlScene.GetNodeByID(parent.loadedNodes[0])
    loaded = slicer.util.arrayFromVolume(node)
    k, j, i = np.unravel_index(loaded.argmax(), loaded.shape)
    matrix = __import__("vtk").vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    x, y, z = matrix.MultiplyPoint([float(i), float(j), float(k), 1.0])[:3]
    assert (x, y, z) == pytest.approx((8.0 - 6.0, 6.0 - 4.0, 40.0 + 3.0))
    assert node.GetVoxelValueUnits().GetCodeValue() == "cm-1"
    (tmp_path / "other.hv").write_text("no header")
    assert reader.canLoadFile(str(tmp_path / "other.hv")) is False
    assert reader.canLoadFileConfidence(str(tmp_path / "absent.hv")) == 0.0
    header.write_text("!INTERFILE :=\n")
    before = len(page.nodes())
    assert reader.load({"fileName": str(header)}) is False
    assert len(page.nodes()) == before


# -- self-test -------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_self_test_of_the_module_passes_with_the_real_worker(
    desktop: SimpleNamespace, bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path on the whole sample, as Slicer's Self Tests run it."""
    launcher = bin_folder / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    page = Page(desktop, bin_folder)
    page.panel.task.set("device", "cpu")
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: page.page.widget)
    test = sys.modules["SynthCT"].SynthCTTest()
    test.runTest()
    assert page.panel.review.state.run
    page.close()

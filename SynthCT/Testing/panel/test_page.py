"""The page, driven as a person drives it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer
import vtk


def filled(page: Any, images: Path) -> Any:
    page.drop(images / "t1.nii.gz", images / "ct.nii.gz")
    page.choose(page.ui.modelBox, "uniform-body")
    return page


def session_of(page: Any) -> int:
    return page.panel.runner._process.pid


# -- volumes ---------------------------------------------------------------------------------------


def test_dropped_files_fill_the_slots_and_say_why(page: Any, images: Path) -> None:
    page.drop(images)  # a folder of image files
    assert page.ui.mrSelector.currentNode().GetName() == "t1"
    assert page.ui.ctSelector.currentNode().GetName() == "ct"
    assert page.ui.petSelector.currentNode().GetName() == "fdg_pet"
    assert page.ui.nacPetSelector.currentNode() is None
    assert "Taken for MR by its name" in page.ui.mrFindings.text
    page.ui.mrSelector.setCurrentNode(page.ui.ctSelector.currentNode())
    assert page.panel.volumes.node("mr").GetName() == "ct"


def test_without_name_and_modality_the_values_decide(
    page: Any, images: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copy(images / "ct.nii.gz", tmp_path / "a.nii.gz")
    shutil.copy(images / "t1.nii.gz", tmp_path / "b.nii.gz")
    page.drop(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert page.panel.volumes.node("ct").GetName() == "a"
    assert page.panel.volumes.node("mr").GetName() == "b"
    assert "values reach -10" in page.ui.ctFindings.text


def test_dicom_folder_is_taken_by_its_modality(
    page: Any, images: Path, tmp_path: Path, dicom_series: Any
) -> None:
    folder = tmp_path / "series"
    array = np.full((6, 16, 16), 40, np.int16)
    dicom_series.write_series(folder, array, dicom_series.Layout.regular(6, 2.0))
    page.drop(folder)
    assert page.panel.volumes.node("ct") is not None
    assert "DICOM modality CT" in page.ui.ctFindings.text


def test_what_cannot_be_read_is_said_and_the_scene_is_unchanged(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_text("no image")
    (tmp_path / "notes.txt").write_text("nothing")
    before = len(page.nodes())
    page.drop(tmp_path / "broken.nii.gz")
    assert "broken.nii.gz cannot be read" in page.ui.volumesMessage.text
    page.drop(tmp_path / "notes.txt")
    assert "holds no image that SynthCT reads" in page.ui.volumesMessage.text
    assert len(page.nodes()) == before


def test_dropped_colour_image_is_loaded_and_said_to_be_unsuitable(
    page: Any, tmp_path: Path
) -> None:
    import SimpleITK as sitk

    colour = sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "rgb.nrrd"))
    page.drop(tmp_path / "rgb.nrrd")
    page.wait(lambda: "colour or vector volume" in page.ui.volumesMessage.text)
    assert all(not identifier for identifier in page.panel.volumes.state.nodes.values())


def test_what_the_gate_says_of_one_volume_is_never_shown_at_another(
    page: Any, images: Path
) -> None:
    filled(page, images)
    page.wait(lambda: page.panel.checker.busy)
    other = slicer.util.loadVolume(str(images / "t1.nii.gz"), {"name": "other", "show": False})
    page.ui.mrSelector.setCurrentNode(other)
    assert not page.panel.checker.busy
    assert "No objection" not in page.ui.mrFindings.text
    page.ui.mrSelector.setCurrentNode(None)
    page.wait(lambda: "Checking" not in page.ui.ctFindings.text)


def test_sample_fills_the_panel_in_one_click(page: Any) -> None:
    page.ui.sampleButton.click()
    assert page.panel.volumes.node("mr").GetName() == "SampleThigh_MR"
    assert page.panel.volumes.node("ct").GetName() == "SampleThigh_CT"


def transformed(name: str, *, linear: bool) -> Any:
    if linear:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 5)
        node.SetMatrixTransformToParent(matrix)
        return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
    grid = vtk.vtkImageData()
    grid.SetDimensions(3, 3, 3)
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    warp = slicer.vtkOrientedGridTransform()
    warp.SetDisplacementGridData(grid)
    node.SetAndObserveTransformToParent(warp)
    return node


@pytest.mark.parametrize(
    ("name", "linear", "words"),
    [
        ("move", True, "lies under the transform move: harden it"),
        ("warp", False, "lies under the non-linear transform warp: harden it"),
        ("t1 acquisition transform", False, "has slices at uneven distances: resample"),
    ],
)
def test_volume_under_a_transform_is_refused(
    page: Any, images: Path, name: str, linear: bool, words: str
) -> None:
    filled(page, images)
    page.panel.volumes.node("mr").SetAndObserveTransformNodeID(
        transformed(name, linear=linear).GetID()
    )
    page.run()
    assert words in page.ui.messageText.text
    assert not page.panel.runner.busy
    page.panel.volumes.node("mr").SetAndObserveTransformNodeID(None)
    page.run()
    assert page.panel.runner.busy
    page.until_idle()


def test_wrong_kinds_of_volume_are_refused(page: Any, images: Path) -> None:
    filled(page, images)
    labels = slicer.util.addVolumeFromArray(
        np.ones((4, 4, 4), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode", name="seg"
    )
    colour = slicer.util.addVolumeFromArray(
        np.zeros((4, 4, 4, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode", name="rgb"
    )
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    for node, words in (
        (labels, "seg is a label map: choose the image"),
        (colour, "rgb is a colour or vector volume: choose a scalar volume"),
        (empty, "empty holds no voxels: load it again"),
    ):
        page.panel.volumes.choose("mr", node.GetID())
        assert words in page.ui.mrFindings.text
        page.run()
        assert words in page.ui.messageText.text
        assert not page.panel.runner.busy


def test_findings_of_the_gate_are_shown_by_volume(
    page: Any, images: Path, bin_folder: Path
) -> None:
    findings = [
        {
            "slot": "reference_ct",
            "severity": "error",
            "rule": "image.empty",
            "subject": "CT",
            "message": "The CT is empty <everywhere>: choose another.",
        }
    ]
    (bin_folder / "findings.json").write_text(json.dumps(findings))
    filled(page, images)
    page.wait(lambda: "empty &lt;everywhere&gt;" in page.ui.ctFindings.text)
    assert "No objection" in page.ui.mrFindings.text
    assert not list(page.panel._root().glob("job-*"))  # nothing is left of the check


def test_every_selector_is_reached_by_the_keyboard(page: Any) -> None:
    for name in ("mrSelector", "ctSelector", "petSelector", "nacPetSelector"):
        selector = getattr(page.ui, name)
        boxes = [child for child in selector.children() if child.inherits("QComboBox")]
        assert len(boxes) == 1
        assert boxes[0].focusProxy() is None
        assert boxes[0].accessibleName == selector.accessibleName != ""


def test_colours_follow_the_window_into_the_dark_and_back(page: Any, images: Path) -> None:
    from pictures import set_theme

    filled(page, images)
    page.wait(lambda: "No objection" in page.ui.mrFindings.text)
    light = page.ui.mrFindings.text
    edge = page.ui.dropZone.styleSheet
    try:
        set_theme(True)
        page.wait(lambda: page.ui.mrFindings.text != light)
        assert "No objection" in page.ui.mrFindings.text
        assert page.ui.dropZone.styleSheet != edge
    finally:
        set_theme(False)
    page.wait(lambda: page.ui.mrFindings.text == light)
    assert page.ui.dropZone.styleSheet == edge


# -- task and model --------------------------------------------------------------------------------


def test_models_and_cards_are_those_of_the_registry(page: Any) -> None:
    from SynthCTLib.synthesis.registry import list_models
    from SynthCTLib.synthesis.task import Task

    for task in Task:
        page.choose(page.ui.taskBox, task.value)
        shown = [page.ui.modelBox.itemData(i) for i in range(page.ui.modelBox.count)]
        assert shown == [card.name for card in list_models(task)]
        if not shown:
            assert "No installed model does this task" in page.ui.cardText.text
            page.run()
            assert page.ui.messageText.text
    page.choose(page.ui.taskBox, "mr-to-ct")
    page.choose(page.ui.modelBox, "atlas-fusion")
    for part in ("Made from", "Measured accuracy", "Limits", "simulated", "head MAE 1", " HU"):
        assert part in page.ui.cardText.text


def test_run_without_a_volume_says_which_is_missing(page: Any) -> None:
    page.run()
    assert "Choose a volume for MR" in page.ui.messageText.text
    page.choose(page.ui.taskBox, "evaluate")
    page.run()
    assert "Choose a volume for Synthetic CT" in page.ui.messageText.text
    assert page.ui.syntheticCtSelector.isVisible()


def test_two_volumes_are_compared(page: Any, images: Path) -> None:
    from SynthCTLib.workflow.folder import JobFolder
    from SynthCTLib.workflow.request import Slot

    filled(page, images)
    page.choose(page.ui.taskBox, "evaluate")
    ct = page.panel.volumes.node("ct")
    page.ui.syntheticCtSelector.setCurrentNode(ct)
    page.run()
    assert "chosen twice" in page.ui.messageText.text
    synthetic = slicer.util.loadVolume(str(images / "ct.nii.gz"), {"name": "sct", "show": False})
    page.ui.syntheticCtSelector.setCurrentNode(synthetic)
    page.choose(page.ui.registrationBox, "deformable")
    page.mode("polite")
    page.run()
    request = JobFolder.open(page.panel.runner.current.folder).request
    assert request.task is None
    assert request.model is None
    assert request.options.registration == "deformable"
    assert set(request.inputs) == {Slot.MR, Slot.REFERENCE_CT, Slot.SYNTHETIC_CT}
    page.ui.cancelButton.click()
    page.until_idle()


def test_job_holds_the_volumes_as_they_are_now(page: Any, images: Path) -> None:
    """The file that the gate was given is used again, but not when the volume has changed."""
    filled(page, images)
    page.mode("polite")
    mr, first = page.panel.volumes.node("mr"), slicer.util.arrayFromVolume

    def written() -> Any:
        page.run()
        path = page.panel.runner.current.folder / "mr.nrrd"
        node = slicer.util.loadVolume(str(path), {"show": False})
        values = (first(node).copy(), path.stat().st_ino)
        slicer.mrmlScene.RemoveNode(node)
        page.ui.cancelButton.click()
        page.until_idle()
        return values

    before, inode = written()
    again, same = written()
    assert (before == again).all()
    assert same == inode
    first(mr)[:] += 7
    slicer.util.arrayFromVolumeModified(mr)
    after, _inode = written()
    assert np.allclose(after, before + 7)


# -- run -------------------------------------------------------------------------------------------


def test_run_shows_progress_and_loads_the_result_on_the_grid(page: Any, images: Path) -> None:
    filled(page, images)
    seen = []
    page.panel.runner.progressed.connect(lambda job: seen.append(job.fraction))
    page.run()
    assert page.ui.progressBar.isVisible()
    assert page.ui.cancelButton.isEnabled()
    page.until_idle()
    assert seen == sorted(seen)
    assert len(seen) >= 2
    assert "Done in" in page.ui.messageText.text
    mr, ct = page.panel.volumes.node("mr"), page.panel.review.node("ct")
    assert not slicer.modules.volumes.logic().CompareVolumeGeometry(mr, ct).strip()
    assert ct.GetVoxelValueUnits().GetCodeMeaning() == "Hounsfield unit"
    assert "taken to be in register" in page.ui.logText.toPlainText()
    page.ui.logButton.click()
    assert page.ui.logText.isVisible()
    page.ui.copyLogButton.click()
    assert "register" in page.qt.QApplication.clipboard().text()
    arguments = json.loads(page.panel.review.node("record").GetText())["folder"]
    words = (Path(arguments) / "arguments").read_text().split()
    assert words[:2] == ["-m", "SynthCTLib.worker"]
    assert words[3] == "--parent"


@pytest.mark.parametrize("mode", ["hang", "polite"])
def test_cancel_leaves_no_process_and_no_folder(page: Any, images: Path, mode: str) -> None:
    filled(page, images)
    page.wait(lambda: "No objection" in page.ui.mrFindings.text)  # the gate is through
    page.mode(mode)
    page.run()
    page.wait(lambda: page.panel.run.state.fraction > 0.2)
    from conftest import members

    session = session_of(page)
    assert len(members(session)) >= 2
    before = len(page.nodes())
    began = time.monotonic()
    page.ui.cancelButton.click()
    assert not page.ui.cancelButton.isEnabled()
    page.until_idle()
    assert time.monotonic() - began < 3.0
    assert members(session) == []
    assert "Cancelled" in page.ui.messageText.text
    assert len(page.nodes()) == before
    assert not list(page.panel._root().glob("job-*"))


def test_window_does_not_freeze_during_a_run(page: Any, images: Path) -> None:
    filled(page, images)
    page.mode("polite")
    page.run()
    page.wait(lambda: page.panel.run.state.fraction > 0.2)
    gaps, last = [], time.monotonic()
    while len(gaps) < 40:
        page.desktop.app.processEvents()
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        time.sleep(0.005)
    page.ui.cancelButton.click()
    page.until_idle()
    assert sorted(gaps)[len(gaps) // 2] < 0.1


def test_two_runs_queue_in_folders_of_their_own(page: Any, images: Path) -> None:
    filled(page, images)
    page.mode("polite")
    page.run()
    first = page.panel.runner.current.folder
    assert page.ui.runButton.text == "Add to the queue"
    page.mode("replay")
    page.run()
    assert page.ui.queueLabel.text == "1 waiting"
    assert page.panel.runner.waiting[0].folder != first
    runs = []
    page.panel.run.loaded.connect(runs.append)
    page.ui.cancelButton.click()
    page.run()
    page.wait(lambda: len(runs) == 2)
    page.until_idle()
    assert len(set(runs)) == 2
    assert not page.ui.queueList.isVisible()


def test_waiting_runs_can_be_taken_out_of_the_queue(page: Any, images: Path) -> None:
    filled(page, images)
    page.mode("polite")
    page.run()
    at_work = page.panel.runner.current.folder
    page.run()
    page.run()
    waiting = [job.folder for job in page.panel.runner.waiting]
    assert [page.ui.queueList.item(i).text() for i in range(page.ui.queueList.count)] == ["t1"] * 2
    page.ui.queueList.setCurrentRow(1)
    page.ui.removeButton.click()
    assert [job.folder for job in page.panel.runner.waiting] == waiting[:1]
    assert waiting[0].is_dir()
    assert not waiting[1].exists()
    page.ui.removeButton.click()  # without a choice: the next
    assert page.panel.runner.current.folder == at_work
    assert not page.ui.removeButton.isVisible()
    page.ui.cancelButton.click()
    page.until_idle()
    assert not list(page.panel._root().glob("job-*"))


def test_run_is_cancelled_or_removed_while_its_volumes_are_written(page: Any, images: Path) -> None:
    filled(page, images)
    page.wait(lambda: "No objection" in page.ui.mrFindings.text)
    arrays = slicer.util.arrayFromVolume(page.panel.volumes.node("mr"))
    arrays[:] += 1
    slicer.util.arrayFromVolumeModified(page.panel.volumes.node("mr"))
    root = page.panel._root()
    page.ui.runButton.click()
    page.ui.runButton.click()
    assert not page.panel.runner.busy
    assert page.ui.queueLabel.text == "1 waiting"
    page.ui.removeButton.click()
    assert page.ui.cancelButton.isEnabled()
    page.ui.cancelButton.click()
    assert "Cancelled" in page.ui.messageText.text
    assert not page.ui.cancelButton.isEnabled()
    page.until_idle()
    assert not list(root.glob("job-*"))
    assert not list(root.glob("*.part"))
    page.run()  # and the next one works
    page.until_idle()
    assert "Done in" in page.ui.messageText.text


def test_volume_changed_while_it_is_written_is_said(page: Any, images: Path) -> None:
    filled(page, images)
    page.wait(lambda: "No objection" in page.ui.mrFindings.text)
    mr = page.panel.volumes.node("mr")
    slicer.util.arrayFromVolume(mr)[:] += 1
    slicer.util.arrayFromVolumeModified(mr)
    written = page.panel.run.writing
    page.ui.runButton.click()
    written._step()  # the first slab
    slicer.util.arrayFromVolumeModified(mr)
    page.until_idle()
    assert "t1 was changed while it was written" in page.ui.messageText.text
    assert not list(page.panel._root().glob("job-*"))


@pytest.mark.parametrize("how", ["trace", "sentence"])
def test_without_memory_the_cpu_and_a_smaller_model_are_offered(
    page: Any, images: Path, how: str
) -> None:
    from SynthCTLib.workflow.folder import JobFolder

    filled(page, images)
    page.choose(page.ui.modelBox, "head-unet")
    mr = page.panel.volumes.node("mr").GetID()
    page.mode("out-of-memory" if how == "trace" else "no-memory")
    page.run()
    page.until_idle()
    assert page.ui.firstOffer.text == "Retry on the CPU"
    smaller = page.panel.task.smaller_model("head-unet")
    assert page.ui.secondOffer.text == f"Retry with {smaller}"
    assert page.ui.secondOffer.isVisible()
    page.choose(page.ui.taskBox, "nac-pet-to-ct")  # what is chosen since then does not matter
    page.mode("polite")
    for button, device, model in (
        (page.ui.firstOffer, "cpu", "head-unet"),
        (page.ui.secondOffer, "auto", smaller),
    ):
        again = page.panel.run.state.offers
        button.click()
        page.wait(lambda: page.panel.runner.busy)
        request = JobFolder.open(page.panel.runner.current.folder).request
        assert (request.options.device, request.model) == (device, model)
        assert request.task == "mr-to-ct"
        assert not page.ui.firstOffer.isVisible()
        page.ui.cancelButton.click()
        page.until_idle()
        page.panel.run.say("", "", again)
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetNodeByID(mr))
    page.ui.firstOffer.click()
    page.until_idle()
    assert "t1 was deleted before the run began" in page.ui.messageText.text


def test_nothing_is_smaller_than_a_model_without_a_network(page: Any, images: Path) -> None:
    filled(page, images)
    assert page.panel.task.smaller_model("uniform-body") == ""
    page.mode("out-of-memory")
    page.choose(page.ui.deviceBox, "cpu")
    page.run()
    page.until_idle()
    assert page.panel.run.state.offers == ()
    assert not page.ui.firstOffer.isVisible()
    assert not page.ui.secondOffer.isVisible()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("refuse", "is not the published one: reinstall"),
        ("out-of-memory", "ran out of memory: close other programs, or retry"),
        ("half-torch", "torch is installed but cannot be loaded"),
        ("no-torch", "needs the package torch, which is not installed"),
        ("no-package", "pydantic is missing or only half installed"),
        ("bug", "This is a bug in SynthCT: please report"),
        ("silent", "ended from outside"),
    ],
)
def test_failed_run_says_what_to_do_and_changes_nothing(
    page: Any, images: Path, mode: str, words: str
) -> None:
    filled(page, images)
    page.mode(mode)
    before = len(page.nodes())
    page.run()
    page.until_idle()
    assert words in page.ui.messageText.text
    assert len(page.nodes()) == before
    page.mode("replay")
    page.run()  # and the panel is usable
    page.until_idle()
    assert "Done in" in page.ui.messageText.text


def test_worker_killed_from_outside_or_without_its_folder(page: Any, images: Path) -> None:
    import os
    import shutil
    import signal

    from conftest import members

    filled(page, images)
    page.mode("hang")
    page.run()
    page.wait(lambda: page.panel.run.state.fraction > 0.2)
    session = session_of(page)
    os.kill(session, signal.SIGKILL)  # the launcher alone: its child must not live on
    page.until_idle()
    assert members(session) == []
    assert "ended from outside" in page.ui.messageText.text
    page.mode("polite")
    page.run()
    page.wait(lambda: page.panel.run.state.fraction > 0.2)
    session, folder = session_of(page), page.panel.runner.current.folder
    shutil.rmtree(folder)
    page.until_idle()
    assert "folder was deleted while it ran" in page.ui.messageText.text
    assert members(session) == []
    assert not folder.exists()


def test_volume_deleted_during_the_run(page: Any, images: Path) -> None:
    filled(page, images)
    page.run()
    slicer.mrmlScene.RemoveNode(page.panel.volumes.node("mr"))
    assert page.ui.mrSelector.currentNode() is None
    assert page.panel.volumes.node("mr") is None
    assert page.panel.volumes.node("ct") is not None
    before = len(page.nodes())
    page.until_idle()
    assert "t1 was deleted during the run" in page.ui.messageText.text
    assert len(page.nodes()) == before


@pytest.mark.parametrize("how", ["scene", "module"])
def test_closing_ends_the_whole_tree(page: Any, images: Path, how: str) -> None:
    from conftest import members

    filled(page, images)
    page.mode("hang")
    page.run()
    page.wait(lambda: page.panel.run.state.fraction > 0.2)
    session, root = session_of(page), page.panel._root()
    if how == "scene":
        slicer.mrmlScene.Clear()
        assert "The scene was closed: the run was ended" in page.ui.messageText.text
        assert page.panel.volumes.node("mr") is None
    else:
        page.close()
        page.page = None
    assert members(session) == []
    assert not list(root.glob("job-*"))


def test_missing_launcher_is_said(desktop: SimpleNamespace, bin_folder: Path, images: Path) -> None:
    from conftest import Page

    (bin_folder / "PythonSlicer").unlink()
    page = Page(desktop, bin_folder)
    filled(page, images)
    page.run()
    page.until_idle()
    assert "The worker cannot be started" in page.ui.messageText.text
    page.close()

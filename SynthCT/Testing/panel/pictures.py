"""Pictures of the panel and of the review layout, for the user guide and for looking at.

    python SynthCT/Testing/panel/pictures.py JOB OUT mr=FILE [reference_ct=FILE]

JOB is a finished job of these images. The widgets are those of the stand-in desktop, the slice
views those of the real scene.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from standin import application, install, pythonqt, scripted  # noqa: E402

MODULE = HERE.parents[1] / "SynthCT.py"


def set_theme(dark: bool) -> None:
    from PySide6 import QtGui, QtWidgets

    palette = QtGui.QPalette()
    if dark:
        role = QtGui.QPalette.ColorRole
        for name, colour in (
            (role.Window, "#353535"),
            (role.WindowText, "#E6E6E6"),
            (role.Base, "#2A2A2A"),
            (role.AlternateBase, "#303030"),
            (role.Text, "#E6E6E6"),
            (role.Button, "#454545"),
            (role.ButtonText, "#E6E6E6"),
            (role.Highlight, "#2F7DD1"),
            (role.PlaceholderText, "#8C8C8C"),
        ):
            palette.setColor(name, QtGui.QColor(colour))
        for name in (role.Text, role.WindowText, role.ButtonText):
            palette.setColor(QtGui.QPalette.ColorGroup.Disabled, name, QtGui.QColor("#7A7A7A"))
    else:
        palette = QtWidgets.QApplication.style().standardPalette()
    QtWidgets.QApplication.setPalette(palette)


def open_page() -> Any:
    page = scripted.ModulePage(install.load_module(MODULE))
    page.enter()
    return page


def show_result(page: Any, job: Path, images: dict[str, Path]) -> None:
    import slicer

    from SynthCTSlicer import library, mrml

    panel = page.widget.panel
    nodes = {slot: slicer.util.loadVolume(str(p), {"show": False}) for slot, p in images.items()}
    for slot, node in nodes.items():
        place = "ct" if slot == "reference_ct" else slot
        panel.volumes.state.guesses[node.GetID()] = mrml.Guess(place, "its name")
        panel.volumes.choose(place, node.GetID())
    panel.run.checker.stop_all()
    result = library.read_result(job)
    panel.task.choose_model(result.model)
    inputs = {slot: (node.GetID(), node.GetName()) for slot, node in nodes.items()}
    context = {"subject": result.subject, "inputs": inputs}
    for _key in mrml.load_result(job, result, result.subject, job.name):
        pass
    findings: dict[str, list[Any]] = {"mr": [], "ct": []}
    for finding in result.findings:
        slot = "ct" if "CT" in finding.subject else "mr"
        findings[slot].append(mrml.Line(finding.severity, finding.message))
    panel.volumes.set_findings(findings)
    panel.run._loaded(job.name, job, result, context, sum(result.timings_s.values()))
    for _ in range(20):
        slicer.app.processEvents()


def grab(page: Any, width: int, path: Path) -> None:
    import slicer

    page.qt.show()
    for _ in range(4):
        page.qt.resize(width, max(page.qt.heightForWidth(width), page.qt.sizeHint().height()))
        slicer.app.processEvents()
    page.qt.grab().save(str(path))


def render(view: Any, size: int) -> Any:
    """A slice view as an RGB array, with its segmentation, by VTK."""
    import numpy as np
    import slicer
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    for name in ("Segmentations", "Crosshair"):
        suffix = "DisplayableManager2D" if name == "Segmentations" else "DisplayableManager"
        if not factory.IsDisplayableManagerRegistered(f"vtkMRML{name}{suffix}"):
            factory.RegisterDisplayableManager(f"vtkMRML{name}{suffix}")
    renderer, window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(size, size)
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    interactor.Initialize()
    renderer.GetActiveCamera().ParallelProjectionOn()
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    logic = view.sliceLogic()
    group.SetMRMLDisplayableNode(view.mrmlSliceNode())
    logic.ResizeSliceNode(size, size)
    mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    renderer.AddViewProp(actor)
    window.Render()
    grabbed = vtk.vtkWindowToImageFilter()
    grabbed.SetInput(window)
    grabbed.ReadFrontBufferOff()
    grabbed.Update()
    image = grabbed.GetOutput()
    width, height, _depth = image.GetDimensions()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
    return np.ascontiguousarray(array[::-1, :, :3])


def blend(view: Any, size: int) -> Any:
    """A slice view as an RGB array by the slice logic alone, without OpenGL: images only."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    logic = view.sliceLogic()
    logic.ResizeSliceNode(size, size)
    logic.FitSliceToBackground()
    producer = logic.GetImageDataConnection().GetProducer()
    producer.Update()
    image = producer.GetOutputDataObject(0)
    width, height, _depth = image.GetDimensions()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 4)[::-1]
    return np.uint8(array[..., :3] * (array[..., 3:] / 255.0))  # outside the image: black


def compose(panel: Any, size: int, path: Path) -> None:
    """The review layout as one picture, with the names of the images."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    views = panel.review.views()
    columns = len(panel.review.state.shown)
    for _key, widget in views:
        widget.sliceLogic().ResizeSliceNode(size, size)
        widget.sliceLogic().FitSliceToBackground()
    if panel.review.state.places:
        panel.review.go_to(0)
    tiles = [render(widget, size) for _key, widget in views]
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    picture = Image.fromarray(np.vstack(rows))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype("DejaVuSans.ttf", 15)
    for i, (_key, title) in enumerate(panel.review.state.shown):
        draw.text((i * size + 8, 6), title, fill="#E8E8E8", font=font)
    picture.save(path)


def main(job: Path, out: Path, images: dict[str, Path]) -> None:
    import slicer

    out.mkdir(parents=True, exist_ok=True)
    install.install()
    for dark in (False, True):
        set_theme(dark)
        application.new_scene()
        slicer.app.main_window_shown = True
        name = "dark" if dark else "light"
        page = open_page()
        grab(page, 400, out / f"panel-empty-{name}.png")
        show_result(page, job, images)
        for width in (400, 700):
            grab(page, width, out / f"panel-{width}-{name}.png")
        if not dark:
            panel = page.widget.panel
            panel.review.preset("soft" if "reference_ct" in images else "bone")
            panel.review.set_outline("reference_ct" in images)
            compose(panel, 300, out / "review-row.png")
            panel.review.arrange(grid=True)
            slicer.app.processEvents()
            compose(panel, 240, out / "review-grid.png")
        page.close()
    print("\n".join(pythonqt.lost) or f"pictures in {out}")


if __name__ == "__main__":
    pairs = (argument.split("=", 1) for argument in sys.argv[3:])
    main(
        Path(sys.argv[1]).absolute(),
        Path(sys.argv[2]).absolute(),
        {slot: Path(path).absolute() for slot, path in pairs},
    )

"""The bridge to the scene: what is loaded, what it looks like, what is written and read back."""

import contextlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

from SynthCTSlicer import slabs

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
OUTPUT, RUN, FOLDER = "SynthCT.Output", "SynthCT.Run", "SynthCT.Folder"

_MODALITY = {"MR": "mr", "CT": "ct", "PT": "pet"}
_TOKENS = (
    ("synthetic_ct", {"sct", "pct", "synct", "synthct", "synthetic", "pseudo", "pseudoct"}),
    ("nac_pet", {"nac", "nacpet", "nonac", "uncorrected"}),
    ("pet", {"pet", "pt", "suv", "fdg"}),
    ("mr", {"mr", "mri", "t1", "t1w", "t2", "t2w", "flair", "mprage", "ute", "zte", "bold"}),
    ("ct", {"ct", "hu", "cbct"}),
)


@dataclass(frozen=True)
class Guess:
    """Which slot a volume was taken for, and why."""

    slot: str
    reason: str


@dataclass(frozen=True)
class Line:
    """One finding: severity error, warning or note, and a sentence."""

    severity: str
    message: str


# -- what is dropped ------------------------------------------------------------------------------


def load_paths(paths):
    """Load files and DICOM folders; returns node IDs, and sentences about what failed."""
    loaded, failures, folders = [], [], []
    for path in map(Path, paths):
        if path.is_dir():
            images = [p for p in sorted(path.iterdir()) if _is_image(p)]
            if images:
                for image in images:
                    _load_file(image, loaded, failures)
            else:
                folders.append(path)
        elif _is_image(path):
            _load_file(path, loaded, failures)
        elif path.is_file():
            folders.append(path.parent)
        else:
            failures.append(_("There is no file {path}.").format(path=path))
    for folder in dict.fromkeys(folders):
        found = _load_dicom(folder)
        for identifier in found:
            slicer.mrmlScene.GetNodeByID(identifier).SetAttribute(FOLDER, str(folder))
        loaded += found
        if not found:
            failures.append(
                _(
                    "{name} holds no image that SynthCT reads: drop NIfTI, NRRD or MetaImage "
                    "files, or a folder with a DICOM series."
                ).format(name=folder.name)
            )
    return loaded, failures


def _is_image(path):
    return path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)


def _load_file(path, loaded, failures):
    try:
        node = slicer.util.loadVolume(str(path), properties={"show": False})
    except RuntimeError:
        failures.append(
            _("{name} cannot be read: it may be damaged; get it again.").format(name=path.name)
        )
        return
    loaded.append(node.GetID())


def _load_dicom(folder):
    from DICOMLib import DICOMUtils

    loaded = []
    with DICOMUtils.TemporaryDICOMDatabase() as database:
        DICOMUtils.importDicom(str(folder), database)
        for patient in database.patients():
            loaded += DICOMUtils.loadPatientByUID(patient)
    nodes = [slicer.mrmlScene.GetNodeByID(i) for i in loaded]
    return [n.GetID() for n in nodes if n is not None and n.IsA("vtkMRMLVolumeNode")]


def modality_of(node):
    """The DICOM modality of a volume, or an empty string."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(node) if tree else 0
    return tree.GetItemAttribute(item, "DICOM.Modality") if item else ""


def guess(node):
    """What a volume probably is: by DICOM modality, else by its name, else by its values."""
    words = set(re.split(r"[^a-z0-9]+", node.GetName().lower()))
    by_name = next((slot for slot, tokens in _TOKENS if tokens & words), None)
    modality = modality_of(node)
    if modality in _MODALITY:
        slot = _MODALITY[modality]
        if slot == "pet" and by_name == "nac_pet":
            slot = "nac_pet"
        return Guess(slot, _("DICOM modality {m}").format(m=modality))
    if by_name is not None:
        return Guess(by_name, _("its name"))
    image = node.GetImageData()
    low = image.GetScalarRange()[0] if image else 0.0
    if low < -200:
        return Guess("ct", _("its values reach {v:.0f}").format(v=low))
    return Guess("mr", _("its values are all above {v:.0f}").format(v=low))


def unsuitable(node):
    """Why a volume node cannot be used at all; an empty list when it can."""
    if node is None:
        return []
    name = node.GetName()
    image = node.GetImageData()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        text = _("{name} is a label map: choose the image it was drawn on.")
    elif image is None or min(image.GetDimensions()) < 1:
        text = _("{name} holds no voxels: load it again.")
    elif image.GetNumberOfScalarComponents() != 1:
        text = _("{name} is a colour or vector volume: choose a scalar volume.")
    elif _in_sequence(node):
        text = _("{name} is one frame of a sequence: export that frame as a volume and choose it.")
    elif node.GetParentTransformNode() is not None:
        parent = node.GetParentTransformNode()
        if not parent.IsTransformToWorldLinear():
            uneven = "acquisition" in parent.GetName().lower()
            text = (
                _(
                    "{name} has slices at uneven distances: resample it to even spacing (module "
                    "Resample Scalar/Vector/DWI Volume) and choose the result."
                )
                if uneven
                else _(
                    "{name} lies under the non-linear transform {t}: harden it (module Transforms) "
                    "and choose the volume again."
                )
            )
        else:
            text = _(
                "{name} lies under the transform {t}: harden it (module Transforms) or take the "
                "volume out of it."
            )
        return [Line("error", text.format(name=name, t=parent.GetName()))]
    elif min(image.GetDimensions()) < 3:
        text = _("{name} has fewer than three slices: choose a volume.")
    else:
        return []
    return [Line("error", text.format(name=name))]


def _in_sequence(node):
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    return any(browser.IsProxyNodeID(node.GetID()) for browser in browsers)


# -- to and from a job folder ----------------------------------------------------------------------


def write_volumes(volumes, folder):
    """Write volumes by name as NRRD into a folder; a generator. Raises PanelError, OSError."""
    for name, node in volumes.items():
        yield from slabs.write(node, Path(folder) / f"{name}.nrrd")


NAMES = {
    "ct": _("synthetic CT"),
    "pet": _("synthetic PET"),
    "mumap": _("µ-map"),
    "difference": _("difference"),
    "reference_ct": _("reference CT"),
    "ct_coverage": _("coverage"),
    "ct_uncertainty": _("uncertainty"),
}


def load_result(folder, result, subject, run):
    """Load a finished job in steps; a generator that yields often, so that the window lives on.

    Volumes are hidden from nobody but shown nowhere yet; the masks become one segmentation. Raises
    PanelError and OSError; what was loaded until then carries the name of the run.
    """
    folder = Path(folder)
    masks = []
    for key, output in result.outputs.items():
        path = folder / output.path
        if not path.name.endswith(".nii.gz"):
            continue
        if key.startswith("masks/"):
            masks.append((key.removeprefix("masks/"), path))
            continue
        image = vtk.vtkImageData()
        matrix = yield from slabs.read(path, image)
        label = key.endswith("coverage")
        kind = "vtkMRMLLabelMapVolumeNode" if label else "vtkMRMLScalarVolumeNode"
        node = slicer.mrmlScene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(f"{subject}: {NAMES.get(key, key)}"))
        node.SetIJKToRASMatrix(matrix)
        node.SetAndObserveImageData(image)
        _mark(node, key, run)
        _describe(node, key)
        yield
        slicer.mrmlScene.AddNode(node)
        _display(node, key)
        yield
    if masks:
        yield from _load_masks(masks, subject, run)
    table = _metrics_table(folder, subject)
    if table is not None:
        _mark(table, "metrics", run)
    yield
    _plots(folder, subject, run)
    for key in ("review.json", "report.html"):
        yield
        path = folder / key
        if path.is_file() and path.stat().st_size < 30e6:
            text = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", f"{subject}: {key}")
            text.SetText(path.read_text(encoding="utf-8"))
            _mark(text, key, run)


def _mark(node, key, run):
    node.SetAttribute(OUTPUT, key)
    node.SetAttribute(RUN, run)


def find_output(run, key):
    """A node of a run, or None."""
    return outputs(run).get(key)


def outputs(run):
    """The nodes of a run by output name."""
    found = {}
    for i in range(slicer.mrmlScene.GetNumberOfNodes()):
        node = slicer.mrmlScene.GetNthNode(i)
        if run and node.GetAttribute(RUN) == run and node.GetAttribute(OUTPUT):
            found[node.GetAttribute(OUTPUT)] = node
    return found


def remove_run(run):
    """Take the nodes of a run out of the scene."""
    for node in outputs(run).values():
        slicer.mrmlScene.RemoveNode(node)


def _describe(node, key):
    """Quantity and unit of an output."""
    quantity, unit = vtk_coded("112031", "DCM", "Attenuation Coefficient"), None
    if key in ("ct", "reference_ct", "difference", "ct_uncertainty"):
        unit = vtk_coded("[hnsf'U]", "UCUM", "Hounsfield unit")
    elif key == "mumap":
        unit = vtk_coded("cm-1", "UCUM", "per centimeter")
    if unit is not None:
        node.SetVoxelValueQuantity(quantity)
        node.SetVoxelValueUnits(unit)


# Window from and to. Where it is known beforehand, MRML need not search the voxels for it, which
# would hold up the window.
_WINDOWS = {
    "ct": (-500.0, 1100.0),
    "reference_ct": (-500.0, 1100.0),
    "difference": (-300.0, 300.0),
    "ct_uncertainty": (0.0, 800.0),
    "mumap": (0.0, 0.2),
}


def _display(node, key):
    if key not in _WINDOWS:
        node.CreateDefaultDisplayNodes()
        return
    display = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.UnRegister(None)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*_WINDOWS[key])
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    slicer.mrmlScene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())


def vtk_coded(value, scheme, meaning):
    """A coded entry."""
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning(value, scheme, meaning)
    return entry


_MASK_COLOURS = {
    "head": (0.35, 0.65, 0.95),
    "body": (0.35, 0.65, 0.95),
    "skull": (0.95, 0.80, 0.35),
    "bone": (0.95, 0.80, 0.35),
    "soft_tissue": (0.85, 0.45, 0.45),
    "air": (0.4, 0.85, 0.85),
    "scanned": (0.6, 0.6, 0.6),
}


def _load_masks(masks, subject, run):
    segmentation = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", f"{subject}: {_('masks')}"
    )
    segmentation.CreateDefaultDisplayNodes()
    segmentation.GetDisplayNode().SetVisibility(False)
    _mark(segmentation, "masks", run)
    content = segmentation.GetSegmentation()
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    content.SetSourceRepresentationName(labelmap)
    for name, path in masks:
        image = slicer.vtkOrientedImageData()
        matrix = yield from slabs.read(path, image)
        image.SetImageToWorldMatrix(matrix)
        if content.GetNumberOfSegments() == 0:
            content.SetConversionParameter(
                slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
                slicer.vtkSegmentationConverter.SerializeImageGeometry(matrix, image),
            )
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(_MASK_COLOURS.get(name, (0.7, 0.7, 0.7)))
        segment.AddRepresentation(labelmap, image)
        content.AddSegment(segment)
        yield


# -- tables and plots ------------------------------------------------------------------------------

COLUMNS = (
    ("mae_hu", "MAE HU"),
    ("rmse_hu", "RMSE HU"),
    ("mean_error_hu", "ME HU"),
    ("jaccard_bone", "Jaccard bone"),
    ("dice_bone", "Dice bone"),
    ("ssim", "SSIM"),
    ("psnr_db", "PSNR dB"),
    ("mu_rmae_percent", "µ rMAE %"),
)


def _metrics_table(folder, subject):
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        rows = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["evaluation"][
            "masks"
        ]
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{subject}: {_('metrics')}")
        names = vtk.vtkStringArray()
        names.SetName("Mask")
        for row in rows:
            names.InsertNextValue(row["mask"])
        table.AddColumn(names)
        for key, title in COLUMNS:
            column = vtk.vtkStringArray()
            column.SetName(title)
            for row in rows:
                column.InsertNextValue(_figure(row[key]))
            table.AddColumn(column)
        table.SetUseColumnTitleAsColumnHeader(True)
        return table
    return None


def _figure(value):
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _plots(folder, subject, run):
    try:
        content = json.loads((folder / "review.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    histogram, scatter = content.get("histogram"), content.get("scatter")
    if histogram:
        edges = histogram["edges_hu"]
        columns = {"HU": [(a + b) / 2 for a, b in itertools.pairwise(edges)]}
        columns["synthetic CT"] = histogram["synthetic"]
        if histogram["reference"]:
            columns["reference CT"] = histogram["reference"]
        _chart(f"{subject}: {_('HU histogram')}", "histogram", columns, "HU", run, line=True)
    if scatter:
        columns = {
            "reference CT HU": scatter["reference_hu"],
            "synthetic CT": scatter["synthetic_hu"],
        }
        _chart(
            f"{subject}: {_('HU scatter')}", "scatter", columns, "reference CT HU", run, line=False
        )


_SERIES_COLOURS = ((0.12, 0.47, 0.71), (0.90, 0.45, 0.10))


def _chart(name, key, columns, x_name, run, line):
    scene = slicer.mrmlScene
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} {_('data')}")
    for title, values in columns.items():
        column = vtk.vtkDoubleArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(float(value))
        table.AddColumn(column)
    _mark(table, f"{key}-data", run)
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    _mark(chart, key, run)
    chart.SetXAxisTitle(x_name)
    chart.SetYAxisTitle(_("voxels") if line else _("synthetic CT HU"))
    for index, title in enumerate(list(columns)[1:]):
        series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(x_name)
        series.SetYColumnName(title)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        none, circle = (
            slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone,
            slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle,
        )
        series.SetMarkerStyle(none if line else circle)
        solid, nothing = (
            slicer.vtkMRMLPlotSeriesNode.LineStyleSolid,
            slicer.vtkMRMLPlotSeriesNode.LineStyleNone,
        )
        series.SetLineStyle(solid if line else nothing)
        series.SetColor(_SERIES_COLOURS[index])
        _mark(series, f"{key}-{index}", run)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())

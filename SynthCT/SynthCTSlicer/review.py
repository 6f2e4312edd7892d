"""Part 4: looking at a result: views side by side, windows, worst places, masks, figures."""

import json
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import mrml
from SynthCTSlicer.signals import PanelError, Signal

LAYOUT_ROW, LAYOUT_GRID, LAYOUT_TABLES = 50731, 50732, 50733
VIEW_GROUP = 73
PLANES = ("Axial", "Sagittal", "Coronal")
PRESETS = {"bone": "CT_BONE", "brain": "CT_BRAIN", "soft": "CT_ABDOMEN"}
COLOURS = "SynthCT difference"
# Dark in the middle, so that no error looks like no image; blue: too low, red: too high.
DIVERGING = (
    (-1.0, (0.62, 0.69, 1.00)),
    (-0.6, (0.28, 0.55, 0.78)),
    (-0.25, (0.10, 0.24, 0.34)),
    (0.0, (0.05, 0.05, 0.06)),
    (0.25, (0.36, 0.13, 0.07)),
    (0.6, (0.74, 0.36, 0.26)),
    (1.0, (1.00, 0.70, 0.66)),
)


@dataclass(frozen=True)
class Place:
    """A place to look at: RAS mm, and a line about it."""

    ras: tuple
    text: str


@dataclass
class ReviewState:
    """What is looked at. ``shown`` are (output, title) pairs in the order of the views.

    ``compared``: whether the views show ``first`` and ``second``, not each its own.
    """

    run: str = ""
    shown: tuple = ()
    grid: bool = False
    arranged: bool = False
    window_hu: float = 300.0
    first: str = ""
    second: str = ""
    opacity: float = 0.5
    compared: bool = False
    outline: bool = False
    places: tuple = ()
    metrics: tuple = ()
    facts: tuple = ()
    can_reevaluate: bool = False


TITLES = {
    "mr": _("MR"),
    "nac_pet": _("NAC PET"),
    "ct_input": _("CT"),
    "pet_input": _("PET"),
    "reference_ct": _("Reference CT"),
    "ct": _("Synthetic CT"),
    "pet": _("Synthetic PET"),
    "difference": _("Difference"),
    "ct_uncertainty": _("Uncertainty"),
    "mumap": _("µ-map"),
}


SIGNS = {
    "mr": "MR",
    "nac_pet": "NAC",
    "ct_input": "CT",
    "pet_input": "PET",
    "reference_ct": "CT",
    "ct": "sCT",
    "pet": "sPET",
    "difference": "\u0394",
    "ct_uncertainty": "\u03c3",
    "mumap": "\u00b5",
}
"""What stands in the bar of a view, where there is little room; the corner says the name."""


def layout_xml(views, planes):
    """A layout of rows of planes, a view for each output; linked by a view group."""
    rows = []
    for plane in planes:
        cells = "".join(
            f'<item><view class="vtkMRMLSliceNode" singletontag="{view_tag(key, plane)}">'
            f'<property name="orientation" action="default">{plane}</property>'
            f'<property name="viewlabel" action="default">{SIGNS[key]}</property>'
            '<property name="viewcolor" action="default">#5A6B7B</property>'
            f'<property name="viewgroup" action="default">{VIEW_GROUP}</property>'
            "</view></item>"
            for key in views
        )
        rows.append(f'<item><layout type="horizontal">{cells}</layout></item>')
    return f'<layout type="vertical">{"".join(rows)}</layout>'


def view_tag(key, plane):
    """Name of the view of an image in a plane."""
    return f"SynthCT-{key}-{plane}"


class ReviewLogic:
    """Arranges the views of a run and answers what can be asked of it."""

    def __init__(self, later):
        self.state = ReviewState()
        self.changed = Signal()
        self._later = later
        self._layout_before = None
        self._at = None

    # -- which run -----------------------------------------------------------------------------

    def show(self, run):
        """Take up a run whose nodes are in the scene; "" for none."""
        state = self.state = ReviewState(run=run, window_hu=self.state.window_hu)
        self._at = None
        if run:
            keys = ["mr", "nac_pet", "ct_input", "reference_ct", "ct", "pet"]
            keys.append("difference" if self.node("difference") else "ct_uncertainty")
            pet = self.node("pet_input")
            keys += ["pet_input"] if pet is not None else []
            state.shown = tuple((k, TITLES[k]) for k in keys if self.node(k) is not None)
            names = [key for key, _title in state.shown]
            state.first = "ct" if "ct" in names else (names[0] if names else "")
            state.can_reevaluate = bool(self.node("reference_ct") and self.node("masks"))
            self._read_places()
            self._read_metrics()
            self._read_facts()
            self._colour()
        self.changed()

    def node(self, key):
        """The node of an output or of an input of the run, or None.

        ``ct`` and ``pet`` are what was made; ``ct_input`` and ``pet_input`` what it was made from.
        """
        found = mrml.find_output(self.state.run, key)
        if found is not None:
            return found
        record = mrml.find_output(self.state.run, "record")
        if record is None or key in ("ct", "pet"):
            return None
        return record.GetNodeReference(f"SynthCT.{key.removesuffix('_input')}")

    def record(self):
        """The record of the run, plain values."""
        node = mrml.find_output(self.state.run, "record")
        return json.loads(node.GetText()) if node is not None else {}

    def _read_places(self):
        text = mrml.find_output(self.state.run, "review.json")
        if text is None:
            return
        content = json.loads(text.GetText())["places"]
        unit = content["unit"]
        sign = "{:+.0f}" if content["of"] == "difference" else "{:.0f}"
        self.state.places = tuple(
            Place(
                (-p["position_lps_mm"][0], -p["position_lps_mm"][1], p["position_lps_mm"][2]),
                f"{i}.  {sign.format(p['mean'])} {unit},  {_ml(p['volume_ml'])} ml",
            )
            for i, p in enumerate(content["list"], 1)
        )

    def _read_metrics(self):
        node = mrml.find_output(self.state.run, "metrics")
        if node is None:
            return
        table = node.GetTable()
        columns = range(table.GetNumberOfColumns())
        head = tuple(table.GetColumn(c).GetName() for c in columns)
        rows = tuple(
            tuple(str(table.GetColumn(c).GetValue(r)) for c in columns)
            for r in range(table.GetNumberOfRows())
        )
        self.state.metrics = (head, *rows)

    def _read_facts(self):
        record = self.record()
        facts = [
            _("{m}, version {v}").format(m=record["model"], v=record["model_version"])
            if record.get("model")
            else _("Comparison of two volumes")
        ]
        if self.node("ct_coverage") is not None:
            facts.append(_("Coverage: outside it nothing is claimed."))
        if self.node("ct_uncertainty") is not None:
            facts.append(_("Uncertainty: one standard deviation, HU."))
        if not self.state.metrics and self.node("ct") is not None:
            facts.append(_("No reference CT: no figures of accuracy."))
        self.state.facts = (*facts, *record.get("notes", ()))

    # -- views ---------------------------------------------------------------------------------

    def arrange(self, grid=False):
        """The views of the run side by side; ``grid``: in three planes. Raises PanelError."""
        manager = self._manager()
        number, planes = (LAYOUT_GRID, PLANES) if grid else (LAYOUT_ROW, PLANES[:1])
        if self._layout_before is None:
            self._layout_before = manager.layout
        keys = [key for key, _title in self.state.shown]
        self._set_layout(manager, number, layout_xml(keys, planes))
        self.state.grid, self.state.arranged = grid, True
        self._later(0, self._fill_views)
        self.changed()

    def restore(self):
        """The layout there was before."""
        manager = slicer.app.layoutManager()
        if manager is not None and self._layout_before is not None:
            manager.setLayout(self._layout_before)
        self._layout_before = None
        self.state.arranged = False
        self.changed()

    def views(self):
        """(output, slice widget) of every review view that is on screen."""
        manager = slicer.app.layoutManager()
        if manager is None or not self.state.arranged:
            return []
        planes = PLANES if self.state.grid else PLANES[:1]
        found = [
            (key, manager.sliceWidget(view_tag(key, plane)))
            for plane in planes
            for key, _title in self.state.shown
        ]
        return [(key, widget) for key, widget in found if widget is not None]

    def _fill_views(self):
        self.state.compared = False
        fitted = self.node("ct") or self.node("pet")
        for key, widget in self.views():
            node = self.node(key)
            composite = widget.mrmlSliceCompositeNode()
            composite.SetBackgroundVolumeID(node.GetID() if node else None)
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
            composite.SetLinkedControl(1)
            composite.SetHotLinkedControl(1)
            for label in slicer.util.findChildren(widget.sliceController(), "ViewLabel"):
                label.setMinimumWidth(label.sizeHint.width())  # it is made for two letters
            # All to the same image: else a PET, with its larger field, would be drawn smaller.
            width, height = widget.mrmlSliceNode().GetDimensions()[:2]
            widget.sliceLogic().FitSliceToVolume(fitted, width, height)
        self._legend()
        crosshair = self._crosshair()
        if crosshair is not None:  # off and on: a new view has drawn it before it had its size
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
        place = self._at or self._centre()
        if place is not None:
            self._jump(place)

    def _set_layout(self, manager, number, xml):
        layouts = manager.layoutLogic().GetLayoutNode()
        if layouts.IsLayoutDescription(number):
            layouts.SetLayoutDescription(number, xml)
            if manager.layout == number:
                manager.setLayout(self._layout_before or 3)
        else:
            layouts.AddLayoutDescription(number, xml)
        manager.setLayout(number)

    def _manager(self):
        manager = slicer.app.layoutManager()
        if manager is None:
            raise PanelError(_("There is no window to arrange views in: start Slicer with one."))
        if not self.state.shown:
            raise PanelError(_("There is no result to look at: run a task first."))
        return manager

    def _centre(self):
        node = self.node("ct") or self.node("pet")
        if node is None:
            return None
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        return tuple((bounds[2 * i] + bounds[2 * i + 1]) / 2 for i in range(3))

    # -- windows -------------------------------------------------------------------------------

    def preset(self, name):
        """A window for the CTs: bone, brain or soft."""
        for key in ("ct", "reference_ct", "ct_input"):
            node = self.node(key)
            if node is not None:
                slicer.modules.volumes.logic().ApplyVolumeDisplayPreset(
                    node.GetDisplayNode(), PRESETS[name]
                )

    def set_window(self, hu):
        """The symmetric window of the difference map, HU."""
        self.state.window_hu = hu
        self._colour()
        self.changed()

    def _colour(self):
        node = mrml.find_output(self.state.run, "difference")
        if node is None:
            return
        colours = _colour_node()
        function = colours.GetColorTransferFunction()
        function.RemoveAllPoints()
        for share, (red, green, blue) in DIVERGING:
            function.AddRGBPoint(share * self.state.window_hu, red, green, blue)
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(colours.GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(-self.state.window_hu, self.state.window_hu)

    def _legend(self):
        """The scale of the difference. Made anew: a view that is younger than it never draws it."""
        node = mrml.find_output(self.state.run, "difference")
        if node is None:
            return
        logic = slicer.modules.colors.logic()
        before = logic.GetColorLegendDisplayNode(node)
        if before is not None:
            slicer.mrmlScene.RemoveNode(before)
        legend = logic.AddDefaultColorLegendDisplayNode(node)
        if legend is not None:
            legend.SetTitleText(_("HU"))
            legend.SetLabelFormat("%.0f")

    # -- one over the other --------------------------------------------------------------------

    def compare(self, first, second, opacity):
        """Show two images in every view, the second over the first; "" shows each its own."""
        state = self.state
        state.first, state.second, state.opacity = first, second, opacity
        state.compared = bool(second)
        self._put_images(first, second)
        self.changed()

    def _put_images(self, first, second):
        low, high = self.node(first), self.node(second) if second else None
        for key, widget in self.views():
            composite = widget.mrmlSliceCompositeNode()
            own = self.node(key)
            below = low if high is not None else own
            composite.SetBackgroundVolumeID(below.GetID() if below else None)
            composite.SetForegroundVolumeID(high.GetID() if high else None)
            composite.SetForegroundOpacity(self.state.opacity)

    def look_again(self):
        """Put the images back into the views: other modules may have put theirs there."""
        state = self.state
        if self.views():
            self._put_images(state.first, state.second if state.compared else "")

    def flicker(self):
        """Swap which of the two is seen; without a second one, the reference is taken."""
        state = self.state
        others = [key for key, _title in state.shown if key != state.first]
        second = state.second or ("reference_ct" if "reference_ct" in others else "")
        second = second or next(iter(others), "")
        if second:
            self.compare(state.first, second, 0.0 if state.opacity >= 0.5 else 1.0)

    def set_outline(self, on):
        """The outline of the skull (or bone) over every view."""
        self.state.outline = on
        segmentation = self.node("masks")
        if segmentation is None:
            return
        display = segmentation.GetDisplayNode()
        for name, identifier in segments(segmentation).items():
            display.SetSegmentVisibility(identifier, name in ("skull", "bone"))
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetVisibility(on)
        self.changed()

    # -- places --------------------------------------------------------------------------------

    def go_to(self, index):
        """Move the crosshair and every slice to a place of the list."""
        if 0 <= index < len(self.state.places):
            self._jump(self.state.places[index].ras)

    def _jump(self, ras):
        self._at = ras
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *ras)
        crosshair = self._crosshair()
        if crosshair is not None:
            crosshair.SetCrosshairRAS(list(ras))

    def _crosshair(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLCrosshairNode")
        return nodes[0] if nodes else None

    # -- figures and masks ---------------------------------------------------------------------

    def show_tables(self):
        """The table of figures and the plots in views of their own. Raises PanelError."""
        manager = self._manager()
        table, plots = self.node("metrics"), ("histogram", "scatter")
        keys = [k for k in plots if self.node(k) is not None]
        items = "".join(
            f'<item><view class="vtkMRMLPlotViewNode" singletontag="SynthCT-{k}">'
            f'<property name="viewlabel" action="default">{k[0].upper()}</property></view></item>'
            for k in keys
        )
        xml = f'<item><layout type="horizontal">{items}</layout></item>'
        if table is not None:
            xml += (
                '<item><view class="vtkMRMLTableViewNode" singletontag="SynthCT-metrics">'
                '<property name="viewlabel" action="default">T</property></view></item>'
            )
        if self._layout_before is None:
            self._layout_before = manager.layout
        self._set_layout(manager, LAYOUT_TABLES, f'<layout type="vertical">{xml}</layout>')
        for kind, node_key, setter in (
            ("vtkMRMLTableViewNode", "metrics", "SetTableNodeID"),
            ("vtkMRMLPlotViewNode", "histogram", "SetPlotChartNodeID"),
            ("vtkMRMLPlotViewNode", "scatter", "SetPlotChartNodeID"),
        ):
            view = slicer.mrmlScene.GetSingletonNode(f"SynthCT-{node_key}", kind)
            node = self.node(node_key)
            if view is not None and node is not None:
                getattr(view, setter)(node.GetID())

    def edit_masks(self):
        """Open the masks in the Segment Editor. Raises PanelError."""
        segmentation = self.node("masks")
        if segmentation is None:
            raise PanelError(_("This result has no masks to edit."))
        display = segmentation.GetDisplayNode()
        for identifier in segments(segmentation).values():  # the editor asks about hidden ones
            display.SetSegmentVisibility(identifier, True)
        display.SetVisibility2DFill(True)
        display.SetVisibility(True)
        self.state.outline = False
        self.changed()
        try:
            slicer.util.selectModule("SegmentEditor")
            editor = slicer.util.getModuleWidget("SegmentEditor").editor
        except (RuntimeError, AttributeError) as error:
            raise PanelError(
                _("The Segment Editor cannot be opened here: start Slicer with its window.")
            ) from error
        shows = editor.autoShowSourceVolumeNode
        editor.autoShowSourceVolumeNode = False  # else it puts the CT into every view
        editor.setSegmentationNode(segmentation)
        editor.setSourceVolumeNode(self.node("ct") or self.node(self.state.first))
        editor.autoShowSourceVolumeNode = shows
        self.look_again()  # when it is opened for the first time it has chosen a source by itself

    def masks_as_volumes(self):
        """For each mask, as NAME_edited, a function that makes a label map outside the scene.

        The library makes masks of its own and keeps their names for them.
        """
        segmentation, reference = self.node("masks"), self.node("ct")

        def maker(name, identifier):
            def make():
                label = slicer.mrmlScene.AddNewNodeByClass(
                    "vtkMRMLLabelMapVolumeNode", f"mask {name}"
                )
                slicer.modules.segmentations.logic().ExportSegmentsToLabelmapNode(
                    segmentation, [identifier], label, reference
                )
                slicer.mrmlScene.RemoveNode(label)
                return label

            return make

        return {
            f"{name}_edited": maker(name, identifier)
            for name, identifier in segments(segmentation).items()
            if name.isidentifier() and name != "scanned"
        }


def _ml(volume):
    return f"{volume:.0f}" if volume >= 10 else f"{volume:.2g}"


def segments(segmentation):
    """Segment IDs by name: IDs of an import are random."""
    content = segmentation.GetSegmentation()
    return {content.GetSegment(i).GetName(): i for i in content.GetSegmentIDs()}


def _colour_node():
    for node in slicer.util.getNodesByClass("vtkMRMLProceduralColorNode"):
        if node.GetName() == COLOURS:
            return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLProceduralColorNode", COLOURS)
    node.SetAttribute("Category", "SynthCT")
    node.SetHideFromEditors(False)
    return node

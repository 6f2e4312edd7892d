"""The SynthCT module of 3D Slicer: its declaration, its page and its self-test.

The page is in SynthCTSlicer. The work is done by the library SynthCTLib in a process of its own,
started on a job folder; nothing of either is imported when Slicer starts.
"""

import logging
import time
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

FOLDER = Path(__file__).parent
SAMPLE = FOLDER / "Resources" / "SampleData" / "STS_014"


class SynthCT(ScriptedLoadableModule):
    """Declares the module and its sample data."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SynthCT")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["The SynthCT authors"]
        parent.helpText = _(
            "<p>Synthetic CT and 511 keV attenuation maps from MR, with a report that says how far "
            "they can be trusted. Research use only, not for diagnosis.</p>"
            "<p><b>In two minutes:</b></p><ol>"
            "<li>Press <i>Load the sample</i>, or drop an MR (and a CT of the same patient) on the "
            "panel. Red lines say why a volume cannot be used.</li>"
            "<li>Choose the task and a model, and read its card. The sample is a thigh: choose "
            "<i>limb-mr-ct</i> (or <i>uniform-body</i>, the quick baseline without bone).</li>"
            "<li>Press <i>Run</i>. Slicer stays usable; <i>Cancel</i> stops at once.</li>"
            "<li>Look: <i>One row</i> shows MR, reference, synthetic CT and difference linked. "
            "A click in <i>Worst places</i> goes there.</li>"
            "<li>Accept or reject, and export.</li></ol>"
        )
        parent.acknowledgementText = _("See the model cards for data, licences and citations.")
        slicer.app.connect("startupCompleted()", register_sample)


def register_sample():
    """Offer the sample in the module Sample Data; called at start-up and by the page."""
    from SynthCTSlicer import samples

    samples.register(SAMPLE)


class SynthCTWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's page."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None

    def setup(self):
        """Make the page."""
        ScriptedLoadableModuleWidget.setup(self)
        from SynthCTSlicer.panel import Panel

        register_sample()
        self.logic = SynthCTLogic()
        top = slicer.util.loadUI(self.resourcePath("UI/SynthCT.ui"))
        self.layout.addWidget(top)
        top.setMRMLScene(slicer.mrmlScene)
        self.panel = Panel(top, FOLDER, self.logic.getParameterNode)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.on_scene_closing)
        self.addObserver(scene, scene.EndCloseEvent, self.on_scene_closed)
        self.addObserver(scene, scene.EndImportEvent, self.on_scene_imported)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.on_node_leaving)
        self.addObserver(scene, scene.NodeRemovedEvent, self.on_node_removed)
        self.panel.bind()

    def enter(self):
        """The page is shown."""
        if self.panel is not None:
            self.panel.enter()

    def cleanup(self):
        """The module goes away: nothing may be left behind."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def on_scene_closing(self, caller, event):
        """End what runs before the nodes go."""
        self.panel.scene_closing()

    def on_scene_closed(self, caller, event):
        """Begin anew."""
        self.panel.scene_closed()
        if self.parent.isEntered:  # else the next time that the page is entered
            self.panel.bind()

    def on_scene_imported(self, caller, event):
        """Take up the state that came with a scene."""
        self.panel.scene_imported()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_node_leaving(self, caller, event, node):
        """A volume goes: its selector would choose a neighbour on its own."""
        if not slicer.mrmlScene.IsClosing():
            self.panel.node_leaving(node)

    def on_node_removed(self, caller, event):
        """A volume may have gone."""
        if not slicer.mrmlScene.IsClosing():
            self.panel.node_removed()


class SynthCTLogic(ScriptedLoadableModuleLogic):
    """Holds the parameter node; the parts of the page have logics of their own."""


class SynthCTFileReader:
    """Loads Interfile µ-maps."""

    def __init__(self, parent):
        self.parent = parent

    def description(self):
        """What is read."""
        return _("Interfile µ-map")

    def fileType(self):
        """Name of the type."""
        return "InterfileMuMap"

    def extensions(self):
        """The files that are offered."""
        return [_("Interfile µ-map") + " (*.hv)", _("Interfile µ-map") + " (*.v.hdr)"]

    def canLoadFile(self, path):
        """Whether it is an Interfile header."""
        return self.canLoadFileConfidence(path) > 0

    def canLoadFileConfidence(self, path):
        """How sure that is, a float."""
        from SynthCTSlicer import interfile

        return interfile.confidence(path)

    def load(self, properties):
        """Load it; False with a message in the log when it cannot be."""
        from SynthCTSlicer import interfile
        from SynthCTSlicer.signals import PanelError

        try:
            node = interfile.load(properties["fileName"])
        except PanelError as error:
            logging.error(str(error))
            return False
        self.parent.loadedNodes = [node.GetID()]
        return True


class SynthCTTest(ScriptedLoadableModuleTest):
    """From an MR and a CT in the scene to a reviewed result, through the page and the worker."""

    DEADLINE_S = 240.0  # on a machine at rest it takes a tenth

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run the whole path."""
        self.setUp()
        self.test_sample_becomes_a_reviewed_result()

    def test_sample_becomes_a_reviewed_result(self):
        """Load, run, look at the grid and the figures, decide."""
        panel = slicer.util.getModuleWidget("SynthCT").panel
        volumes = [slicer.util.loadVolume(str(SAMPLE / f), {"show": False}) for f in self.files]
        panel.volumes.choose("mr", volumes[0].GetID())
        panel.volumes.choose("ct", volumes[1].GetID())
        panel.task.choose_task("mr-to-ct")
        panel.task.choose_model("uniform-body")
        panel.task.set("registration", "none")
        panel.task.set("bias_correction", False)
        panel.run.start()
        end = time.monotonic() + self.DEADLINE_S
        while not panel.review.state.run and time.monotonic() < end:
            slicer.app.processEvents()
            self.assertNotEqual(panel.run.state.severity, "error", panel.run.state.message)
            time.sleep(0.01)
        made = panel.review.node("ct")
        self.assertIsNotNone(made, "no result within the deadline")
        compare = slicer.modules.volumes.logic().CompareVolumeGeometry
        self.assertEqual(compare(volumes[0], made).strip(), "")
        self.assertEqual(made.GetImageData().GetScalarRange(), (-1000.0, 40.0))
        self.assertGreater(len(panel.review.state.metrics), 2)
        panel.decide.decide("accepted", [], "self-test")
        self.assertIn("accepted", panel.decide.state.verdict)

    files = ("mr.nii.gz", "ct.nii.gz")

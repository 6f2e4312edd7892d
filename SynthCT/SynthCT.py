"""The SynthCT module of 3D Slicer: its declaration and its self-test.

The work is done by the library SynthCTLib in a process of its own, started on a job folder; nothing
of it is imported when Slicer starts.
"""

import json
import shutil
import tempfile
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

SAMPLE = Path(__file__).parent / "Resources" / "SampleData" / "STS_014"


class SynthCT(ScriptedLoadableModule):
    """Declares the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SynthCT")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["The SynthCT authors"]
        parent.helpText = _(
            "Pseudo-CT and 511 keV attenuation maps from MR, with a report that says how far they "
            "can be trusted. Research use only, not for diagnosis."
        )
        parent.acknowledgementText = _("See the model cards for data, licences and citations.")


class SynthCTWidget(ScriptedLoadableModuleWidget):
    """The module's page: its help, and Reload and Test for developers."""


class SynthCTLogic(ScriptedLoadableModuleLogic):
    """Runs one job in a PythonSlicer process and loads what it made."""

    def run(self, mr, folder, model):
        """Make the pseudo-CT of an MR volume node in a job folder; blocks until it is done.

        Returns the node of the pseudo-CT. Raises RuntimeError with the worker's own sentence.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not slicer.util.exportNode(mr, str(folder / "mr.nrrd"), {}, world=True):
            raise RuntimeError(_("The MR volume could not be written to {f}.").format(f=folder))
        request = {
            "task": "mr-to-ct",
            "model": model,
            "inputs": {"mr": {"path": "mr.nrrd"}},
        }
        (folder / "job.json").write_text(json.dumps(request))
        process = slicer.util.launchConsoleProcess(
            [shutil.which("PythonSlicer"), "-m", "SynthCTLib.worker", str(folder)],
            updateEnvironment={"PYTHONPATH": str(Path(__file__).parent)},
        )
        said = process.communicate()[0]
        if process.returncode != 0:
            raise RuntimeError(said.strip() or _("The worker ended without a result."))
        return slicer.util.loadVolume(str(folder / "ct.nii.gz"), properties={"show": False})


class SynthCTTest(ScriptedLoadableModuleTest):
    """From an MR in the scene to a pseudo-CT in the scene, through the worker."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_pseudo_ct_lies_on_the_grid_of_the_mr()

    def test_pseudo_ct_lies_on_the_grid_of_the_mr(self):
        mr = slicer.util.loadVolume(str(SAMPLE / "mr.nii.gz"), properties={"show": False})
        with tempfile.TemporaryDirectory() as folder:
            ct = SynthCTLogic().run(mr, folder, "uniform-body")
            self.assertTrue((Path(folder) / "result.json").is_file())
        self.assertEqual(slicer.modules.volumes.logic().CompareVolumeGeometry(mr, ct).strip(), "")
        hu = slicer.util.arrayFromVolume(ct)
        self.assertEqual(sorted({int(hu.min()), int(hu.max())}), [-1000, 40])

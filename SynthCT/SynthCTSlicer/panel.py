"""The panel: the parts put together, the timer that follows the processes, the saved state."""

import contextlib
import os
import shutil
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import library, theme, views
from SynthCTSlicer.decide import FORMATS, DecideLogic
from SynthCTSlicer.mrml import FOLDER, find_output, write_volumes
from SynthCTSlicer.parameters import PanelParameters
from SynthCTSlicer.review import ReviewLogic
from SynthCTSlicer.run import RunLogic, subject_name
from SynthCTSlicer.runner import DONE, POLL_MS, Job, JobRunner
from SynthCTSlicer.signals import PanelError
from SynthCTSlicer.task import TaskLogic
from SynthCTSlicer.volumes import SLOTS, VolumesLogic

MODULE = "SynthCT"
TASK_FIELDS = (
    *("task", "model", "device", "registration", "bias_correction", "remove_table"),
    *("head_field_mm", "convention", "anatomy"),
)


def worker_environment(module_folder):
    """The environment of a worker: Slicer's launcher adds what its Python needs."""
    environment = dict(slicer.util.startupEnvironment())
    for name in ("PYTHONHOME", "PYTHONPATH"):
        environment.pop(name, None)
    environment.update(
        PYTHONPATH=str(module_folder), PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8"
    )
    return environment


class Panel:
    """Everything behind the module's page. ``node`` gives and makes the parameter node."""

    def __init__(self, top, module_folder, node):
        self.ui = slicer.util.childWidgetVariables(top)
        theme.follow(top)
        self._node = node
        self._parameters = None
        self._syncing = False
        launcher = [shutil.which("PythonSlicer") or "PythonSlicer"]
        environment = worker_environment(module_folder)
        self.runner = JobRunner(launcher, environment)
        self.checker = JobRunner(launcher, environment)
        self.exporter = JobRunner(launcher, environment)
        self.volumes, self.task = VolumesLogic(), TaskLogic()
        self.run = RunLogic(
            self.volumes, self.task, self.runner, self.checker, self._later, self._root
        )
        self.review = ReviewLogic(self._later)
        self.decide = DecideLogic(self.review)
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self._tick)
        self._alive = True
        self._export_targets = {}

        self.task.refresh()
        ui = self.ui
        self.volumes_view = views.VolumesView(ui, self.volumes, self.task)
        self.task_view = views.TaskView(ui, self.task)
        self.run_view = views.RunView(ui, self.run)
        self.review_view = views.ReviewView(
            ui, self.review, self._complain, self._reevaluate, ui.reviewSection
        )
        self.decide_view = views.DecideView(
            ui, self.decide, self.task, self._export_mu_map, self._export_job
        )
        self.notice = views.NoticeView(ui, self.task.refresh)
        self.sets_view = views.SetsView(ui, self.sets, self.choose_set, self.new_set)
        self._top, self._restyling = top, False
        self._palette = views.PaletteFilter(self._palette_changed)
        top.installEventFilter(self._palette)

        for runner in (self.runner, self.checker, self.exporter):
            runner.changed.connect(self._wake)
        self.exporter.finished.connect(self._exported)
        self.run.loaded.connect(self._show_run)
        self.run.package_missing.connect(self.notice.want)
        self.volumes.chosen.connect(self._volumes_chosen)
        self.volumes.changed.connect(self._save)
        self.task.changed.connect(self._task_changed)
        self.decide.changed.connect(self._save)
        self._asked = self._question()

    # -- time ----------------------------------------------------------------------------------

    def _later(self, milliseconds, function):
        def call():
            if self._alive:
                function()

        qt.QTimer.singleShot(milliseconds, call)

    def _root(self):
        return Path(slicer.app.temporaryPath) / f"SynthCT-{os.getpid()}"

    def _wake(self):
        busy = self.runner.busy or self.checker.busy or self.exporter.busy
        if busy and not self.timer.isActive():
            self.timer.start()

    def _tick(self):
        for runner in (self.runner, self.checker, self.exporter):
            runner.poll()
        self.run_view.tick()
        if not (self.runner.busy or self.checker.busy or self.exporter.busy):
            self.timer.stop()

    # -- light and dark ------------------------------------------------------------------------

    def _palette_changed(self):
        if not self._restyling:
            self._restyling = True
            self._later(0, self._restyle)

    def _restyle(self):
        """Style sheets and colours in texts were made for the palette that there was."""
        self._restyling = False
        self.volumes_view.restyle()
        for view in (self.task_view, self.run_view, self.decide_view, self.notice):
            view.show()

    # -- what leads to what --------------------------------------------------------------------

    def _question(self):
        """What the gate would be asked: it is asked again when this has changed."""
        state = self.task.state
        nodes = tuple(self.volumes.state.nodes.values())
        return (nodes, state.task, state.model, state.registration)

    def _ask_gate(self):
        question = self._question()
        if question != self._asked:
            self._asked = question
            self.run.want_check()

    def _volumes_chosen(self):
        self._ask_gate()

    def _task_changed(self):
        self._save()
        self._ask_gate()

    def _show_run(self, run):
        self.review.show(run)
        self.decide.show(run)
        self._save()
        self._arrange()
        self._later(100, lambda: views.bring_up(self.ui.reviewSection))  # its place is known then

    def _complain(self, message):
        self.run.say(message, "error")

    def _reevaluate(self):
        review = self.review
        inputs = {"reference_ct": review.node("reference_ct"), "synthetic_ct": review.node("ct")}
        if review.node("mr") is not None:
            inputs["mr"] = review.node("mr")
        record = review.record()
        masks = review.masks_as_volumes()
        content = {
            "subject": subject_name(f"{record['subject']}_edited"),
            "task": None,
            "options": {
                **self.task.options(),
                "registration": "none",
                "remove_table": False,
                "anatomy": "head" if "head_edited" in masks else "body",
            },
        }
        self.run.submit(inputs, content, masks)

    def _export_mu_map(self, folder, file_format, on_pet_grid, fwhm_mm):
        """The µ-map by the convention of part 2, by the library in a process of its own."""
        folder = self.decide._folder(folder)
        ct = self.review.node("ct")
        if ct is None:
            raise PanelError(_("There is no synthetic CT to make a µ-map from: run a task first."))
        suffix = {name: s for name, _dicom, s in library.export_formats()}[file_format]
        if suffix is None:
            raise PanelError(
                _(
                    "A µ-map alone is written as NIfTI, NRRD or MetaImage: press Export for {f}."
                ).format(f=file_format)
            )
        target = folder / f"{self.review.record()['subject']}_mumap{suffix}"
        if target.exists():
            raise PanelError(_("{path} exists already: choose another folder.").format(path=target))
        work = self._root() / f"export-{os.urandom(4).hex()}"
        volumes = {"ct": ct}
        arguments = ["-m", "SynthCTLib", "mumap", "--ct", str(work / "ct.nrrd")]
        arguments += ["--convention", self.task.state.convention, "--quiet"]
        if on_pet_grid:
            volumes["pet"] = self._pet()
            arguments += ["--grid", str(work / "pet.nrrd")]
        if fwhm_mm > 0:
            arguments += ["--fwhm", str(fwhm_mm)]
        self._export(work, volumes, [*arguments, "-o", str(target)], target)

    def _export(self, work, volumes, arguments, target):
        """Write volumes into a folder, in steps, and let the library export from there."""
        work.mkdir(parents=True)

        def written(_nothing):
            self._export_targets[work] = target
            self.exporter.add(Job(work, "export", tuple(arguments), guarded=False))

        def failed(error):
            shutil.rmtree(work, ignore_errors=True)
            self.decide._say(str(error), "error")

        self.run.writing.add(write_volumes(volumes, work), written, failed)
        self.decide._say(_("Writing {path}").format(path=target), "")

    def _export_job(self, folder, file_format, on_pet_grid, fwhm_mm):
        """The whole result in one format of the library, in a process of its own."""
        folder = self.decide._folder(folder)
        record = self.review.record()
        job = Path(record.get("folder", ""))
        if not (job / "result.json").is_file():
            if file_format in FORMATS:
                self._export_from_scene(folder, file_format)
                return
            raise PanelError(
                _(
                    "The job's folder is gone, as after a restart: choose NIfTI or NRRD, "
                    "or run again."
                )
            )
        target = folder / f"{record['subject']}_{file_format}"
        if target.exists():
            raise PanelError(_("{path} exists already: choose another folder.").format(path=target))
        work = self._root() / f"export-{os.urandom(4).hex()}"
        volumes = {}
        arguments = ["-m", "SynthCTLib", "export", str(job), "--format", file_format]
        arguments += ["--quiet", "-o", str(target)]
        if {name: dicom for name, dicom, _s in library.export_formats()}[file_format]:
            arguments += ["--patient-from", self._dicom_folder()]
        if file_format != "dicom":
            if on_pet_grid:
                volumes["pet"] = self._pet()
                arguments += ["--grid", str(work / "pet.nrrd")]
            if fwhm_mm > 0:
                arguments += ["--fwhm", str(fwhm_mm)]
        self._export(work, volumes, arguments, target)

    def _export_from_scene(self, folder, file_format):
        """The synthetic CT as the scene has it, in steps: nothing else of the job is left."""
        path, steps = self.decide.image_export("ct", folder, file_format)

        def written(_nothing):
            self.decide._say(_("Written: {path}").format(path=path), "fine")

        def failed(error):
            self.decide._say(str(error), "error")

        self.run.writing.add(steps, written, failed)
        self.decide._say(_("Writing {path}").format(path=path), "")

    def _pet(self):
        pet = self.volumes.node("pet") or self.volumes.node("nac_pet")
        if pet is None:
            raise PanelError(_("Choose the PET whose grid the µ-map shall have."))
        return pet

    def _dicom_folder(self):
        """The folder that the input was dropped from: DICOM objects belong to its study."""
        for key in ("mr", "nac_pet", "ct_input"):
            node = self.review.node(key)
            folder = node.GetAttribute(FOLDER) if node is not None else None
            if folder and Path(folder).is_dir():
                return folder
        raise PanelError(
            _(
                "DICOM objects need the patient and study of the input: drop the input as a folder "
                "with a DICOM series, run, and export again."
            )
        )

    def _exported(self, job, outcome):
        shutil.rmtree(job.folder, ignore_errors=True)
        target = self._export_targets.pop(job.folder)
        if outcome.kind == DONE and target.exists():
            self.decide._say(_("Written: {path}").format(path=target), "fine")
        elif outcome.kind == DONE:
            self.decide._say(_("Nothing was written: export again."), "error")
        else:
            self.decide._say(outcome.message, "error")

    # -- the saved state -----------------------------------------------------------------------

    def sets(self):
        """(node ID, name) of every parameter set of the scene, and the ID of the current one."""
        current = self._parameters
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        found = [(n.GetID(), n.GetName()) for n in nodes if n.GetAttribute("ModuleName") == MODULE]
        return found, current.parameterNode.GetID() if current is not None else ""

    def choose_set(self, identifier):
        """Take up another parameter set."""
        node = slicer.mrmlScene.GetNodeByID(identifier)
        if node is not None:
            self.bind(node)

    def new_set(self):
        """Begin another parameter set and take it up."""
        name = slicer.mrmlScene.GenerateUniqueName(MODULE)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", name)
        node.SetAttribute("ModuleName", MODULE)
        self.bind(node)

    def bind(self, node=None):
        """Take up a parameter node and show its state.

        None: the one there was, when it is still in the scene, else the module's own.
        """
        if node is None and self._parameters is not None:
            held = self._parameters.parameterNode
            node = held if slicer.mrmlScene.IsNodePresent(held) else None
        self._parameters = parameters = PanelParameters(node or self._node())
        self._syncing = True
        state = self.task.state
        for name in TASK_FIELDS:
            value = getattr(parameters, name)
            if value != "" or name == "anatomy":
                setattr(state, name, value)
        for slot in SLOTS:
            volume = getattr(parameters, slot)
            self.volumes.choose(slot, volume.GetID() if volume is not None else "")
        run = parameters.run
        self.task.reload()
        held = run if run and find_output(run, "record") is not None else ""
        self.run.state.run = held
        if held != self.review.state.run:  # else the page was only left and entered again
            self.review.show(held)
            self.decide.show(held)
        self._syncing = False
        self.volumes.changed()
        self.run.changed()
        self._save()
        self.sets_view.show()

    def enter(self):
        """The page is shown: take up the scene as it is now."""
        self.bind()
        self.review.look_again()

    def release(self):
        """Let go of the parameter node: the scene is being closed, or the page left."""
        self._parameters = None

    def _save(self):
        parameters = self._parameters
        if parameters is None or self._syncing:
            return
        with slicer.util.NodeModify(parameters.parameterNode):
            for slot in SLOTS:
                setattr(parameters, slot, self.volumes.node(slot))
            for name in TASK_FIELDS:
                setattr(parameters, name, getattr(self.task.state, name))
            parameters.run = self.review.state.run
            decided = self.decide.state
            parameters.verdict, parameters.remark = decided.verdict, decided.remark
            parameters.reasons, parameters.decided = ",".join(decided.reasons), decided.decided

    # -- the scene and the end -----------------------------------------------------------------

    def scene_closing(self):
        """End what runs; forget the nodes."""
        self.run.end_all(_("The scene was closed: the run was ended, nothing was kept."))
        self.run.writing.clear()
        self.exporter.stop_all()
        self.release()

    def scene_imported(self):
        """A scene was opened: take up its state, and show its result when it brings one."""
        before = self.review.state.run
        self.bind()
        if self.review.state.run not in ("", before):
            self._later(0, self._arrange)  # when the layout of the scene has been set

    def _arrange(self):
        with contextlib.suppress(PanelError):  # without a window there is nothing to arrange
            self.review.arrange()

    def scene_closed(self):
        """Start over with an empty scene."""
        self.volumes.state.guesses.clear()
        self.volumes.state.findings.clear()
        self.volumes.forget_missing()
        self.review.show("")
        self.decide.show("")

    def node_leaving(self, node):
        """A node is about to leave the scene: no slot holds it any longer."""
        for slot, identifier in self.volumes.state.nodes.items():
            if identifier and identifier == node.GetID():
                self.volumes.choose(slot, "")

    def node_removed(self):
        """A node has left the scene."""
        self.volumes.forget_missing()
        parameters = self._parameters
        if parameters is not None and not slicer.mrmlScene.IsNodePresent(parameters.parameterNode):
            self.bind()
        self.sets_view.show()

    def close(self):
        """End every process and leave nothing behind."""
        self._alive = False
        self.timer.stop()
        self.run.end_all()
        self.run.writing.clear()
        self.exporter.stop_all()
        self.release()
        self.volumes_view.close()
        self._top.removeEventFilter(self._palette)
        theme.follow(None)
        shutil.rmtree(self._root(), ignore_errors=True)

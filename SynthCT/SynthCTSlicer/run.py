"""Part 3: from the chosen volumes to a job, and from a finished job to nodes in the scene."""

import errno
import json
import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import library, mrml
from SynthCTSlicer.runner import CANCELLED, DONE, MEMORY, PACKAGE, Job, JobRunner, Outcome
from SynthCTSlicer.signals import PanelError, Signal


@dataclass
class RunState:
    """What is going on. ``severity`` of the message: "", "fine", "warning" or "error"."""

    fraction: float = 0.0
    stage: str = ""
    started: float = 0.0
    remaining_s: object = None
    waiting: int = 0
    busy: bool = False
    cancelling: bool = False
    loading: bool = False
    message: str = ""
    severity: str = ""
    log: list = field(default_factory=list)
    run: str = ""


class RunLogic:
    """Writes jobs, gives them to the runner, and loads what they made.

    ``later(ms, function)`` calls a function from the event loop; ``root()`` is the folder for jobs.
    """

    def __init__(self, volumes, task, runner, checker, later, root):
        self.volumes, self.task = volumes, task
        self.runner, self.checker = runner, checker
        self._later, self._root = later, root
        self.state = RunState()
        self.changed = Signal()
        self.loaded = Signal()
        self.package_missing = Signal()
        self._context = {}
        self._loading = set()
        self._kept = {}
        self._check_wanted = 0
        runner.progressed.connect(self._on_progress)
        runner.changed.connect(self._on_runner)
        runner.finished.connect(self._on_finished)
        checker.finished.connect(self._on_checked)

    # -- a run ---------------------------------------------------------------------------------

    def inputs(self):
        """The volumes that the chosen task takes, by slot of the request. Raises PanelError."""
        library.require()
        task, volumes = self.task.state.task, self.volumes
        wanted = library.input_slot(task)
        needs = {wanted: wanted}
        if task == library.EVALUATE:
            needs = {"synthetic_ct": "synthetic_ct", "reference_ct": "ct"}
            if volumes.node("mr") is not None:
                needs["mr"] = "mr"
        elif library.output_role(task) == "ct" and volumes.node("ct") is not None:
            needs["reference_ct"] = "ct"
        elif (
            library.output_role(task) == "pet"
            and volumes.node("pet") is not None
            and "reference_pet" in library.slots()
        ):
            needs["reference_pet"] = "pet"
        found = {}
        for slot, place in needs.items():
            node = volumes.node(place)
            if node is None:
                raise PanelError(
                    _("Choose a volume for {slot}: the task needs one.").format(slot=TITLES[place])
                )
            refusal = volumes.refusal(place)
            if refusal:
                raise PanelError(refusal)
            found[slot] = node
        if len({node.GetID() for node in found.values()}) < len(found):
            raise PanelError(_("One volume is chosen twice: choose two different volumes."))
        return found

    def start(self, masks=None):
        """Start the chosen task, or queue it when another run is at work. Raises PanelError."""
        inputs = self.inputs()
        task = self.task.state
        if task.task != library.EVALUATE and not task.model:
            raise PanelError(_("No installed model does this task: choose another task."))
        content = {
            "subject": subject_name(next(iter(inputs.values())).GetName()),
            "task": None if task.task == library.EVALUATE else task.task,
            "model": task.model or None,
            "options": self.task.options(),
        }
        self.submit(inputs, content, masks or {})

    def submit(self, inputs, content, masks):
        """Write a job of volumes by slot (masks by name) and give it to the runner."""
        folder = self._write(inputs, content, masks)
        job = Job(folder, content["subject"], ("-m", "SynthCTLib.worker", str(folder)))
        self._context[str(folder)] = {
            "subject": content["subject"],
            "inputs": {slot: (node.GetID(), node.GetName()) for slot, node in inputs.items()},
            "pet": self.volumes.state.nodes["pet"],
        }
        self.state.message, self.state.severity = "", ""
        self.runner.add(job)
        return job

    def _write(self, inputs, content, masks):
        folder = Path(self._root()) / f"job-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        try:
            paths = {}
            for slot, node in inputs.items():
                self._place(node, folder / f"{slot}.nrrd")
                paths[slot] = {"path": f"{slot}.nrrd"}
            request = {**content, "inputs": paths}
            if masks:
                files = {}
                for name, node in masks.items():
                    mrml.write_volume(node, folder / f"mask_{name}.nrrd")
                    files[name] = str(folder / f"mask_{name}.nrrd")
                request["options"] = {**request["options"], "masks": files}
            library.write_request(folder, request)
        except (PanelError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, PanelError):
                raise
            full = error.errno == errno.ENOSPC
            raise PanelError(
                _("The disk that holds {f} is full: free some space and run again.").format(
                    f=folder.parent
                )
                if full
                else _("The job cannot be written to {f} ({r}): check the folder.").format(
                    f=folder.parent, r=error.strerror
                )
            ) from error
        return folder

    def _place(self, node, path):
        """Put a volume into a job folder; what the gate was given is not written again."""
        stamp = (node.GetMTime(), node.GetImageData().GetMTime())
        known, file = self._kept.get(node.GetID(), (None, None))
        if known != stamp or not file.is_file():
            if file is not None:
                file.unlink(missing_ok=True)
            file = path.parent.parent / f"input-{uuid.uuid4().hex[:12]}.nrrd"
            mrml.write_volume(node, file)
            self._kept[node.GetID()] = (stamp, file)
        try:
            os.link(file, path)
        except OSError:  # a file system without links
            shutil.copyfile(file, path)

    def cancel(self):
        """Cancel the run at work."""
        self.runner.cancel()

    def _on_progress(self, job):
        state = self.state
        state.fraction, state.stage, state.remaining_s = job.fraction, job.stage, job.remaining_s
        state.log = list(job.log)
        self.changed()

    def _on_runner(self):
        state, runner = self.state, self.runner
        if runner.busy and not state.busy:
            state.fraction, state.stage, state.remaining_s, state.log = 0.0, _("Starting"), None, []
            state.started = time.monotonic()
        state.busy, state.cancelling = runner.busy, runner.cancelling
        state.waiting = len(runner.waiting)
        self.changed()

    def _on_finished(self, job, outcome):
        state = self.state
        state.log = list(job.log)
        context = self._context.pop(str(job.folder), None)
        state.busy = False
        if outcome.kind == PACKAGE:
            self.package_missing(outcome.package)
        if outcome.kind == MEMORY:
            self.task.set("device", "cpu")
        if outcome.kind != DONE:
            self._say(outcome.message, "warning" if outcome.kind == CANCELLED else "error")
            return
        gone = [
            name
            for identifier, name in context["inputs"].values()
            if slicer.mrmlScene.GetNodeByID(identifier) is None
        ]
        if gone:
            shutil.rmtree(job.folder, ignore_errors=True)
            self._say(
                _(
                    "{name} was deleted during the run, so that the result belongs to nothing and "
                    "was dropped: load the volume again and run."
                ).format(name=gone[0]),
                "error",
            )
            return
        self._load(job.folder, context)

    def _load(self, folder, context):
        run = Path(folder).name
        try:
            result = library.read_result(folder)
        except PanelError as error:
            self._say(str(error), "error")
            return
        self._loading.add(run)
        self.state.loading = True
        self._say(_("Loading the result"), "")
        steps = mrml.load_result(folder, result, context["subject"], run)
        seconds = time.monotonic() - self.state.started

        def step():
            if run not in self._loading:
                return  # the scene was closed meanwhile
            try:
                next(steps)
            except StopIteration:
                self._loaded(run, folder, result, context, seconds)
                return
            except (RuntimeError, OSError) as error:
                mrml.remove_run(run)
                self._end_loading(run)
                self._say(
                    _("The result could not be loaded ({e}): run again.").format(e=error), "error"
                )
                return
            self._later(0, step)

        self._later(0, step)

    def _end_loading(self, run):
        self._loading.discard(run)
        self.state.loading = bool(self._loading)

    def _loaded(self, run, folder, result, context, seconds):
        self._end_loading(run)
        record = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLTextNode", f"{context['subject']}: {_('record of the run')}"
        )
        record.SetAttribute(mrml.OUTPUT, "record")
        record.SetAttribute(mrml.RUN, run)
        content = json.loads(result.model_dump_json())
        content["input_nodes"] = {slot: i for slot, (i, _name) in context["inputs"].items()}
        content["folder"] = str(folder)
        record.SetText(json.dumps(content))
        for slot, (identifier, _name) in context["inputs"].items():
            record.SetNodeReferenceID(f"SynthCT.{slot}", identifier)
        if context.get("pet"):
            record.SetNodeReferenceID("SynthCT.pet", context["pet"])  # to be seen beside it
        self.state.run = run
        doubts = [f.message for f in result.findings if f.severity == "warning"]
        done = _("Done in {s:.0f} s. Look at the result below.").format(s=seconds)
        self._say(
            " ".join([done, *doubts[:2]]) if doubts else done, "warning" if doubts else "fine"
        )
        self.loaded(run)

    def _say(self, message, severity):
        self.state.message, self.state.severity = message, severity
        self.changed()

    # -- the gate ------------------------------------------------------------------------------

    def want_check(self, delay_ms=700):
        """Let the gate look at the chosen volumes, once they have been left alone for a moment."""
        self._check_wanted += 1
        ticket = self._check_wanted
        self._later(delay_ms, lambda: self._check(ticket))

    def _check(self, ticket):
        if ticket != self._check_wanted:
            return
        self.checker.stop_all()
        try:
            inputs = self.inputs()
        except PanelError:
            return
        task = self.task.state
        content = {
            "task": None if task.task == library.EVALUATE else task.task,
            "model": task.model or None,
            "options": self.task.options(),
        }
        try:
            folder = self._write(inputs, content, {})
        except PanelError as error:
            self._say(str(error), "error")
            return
        arguments = ("-m", "SynthCTLib.worker", str(folder), "--check")
        self.volumes.state.checking = True
        self.volumes.changed()
        self.checker.add(Job(folder, "check", arguments))

    def _on_checked(self, job, outcome):
        findings = {}
        if outcome.kind == DONE:
            records = json.loads((job.folder / "findings.json").read_text(encoding="utf-8"))
            request = json.loads((job.folder / "job.json").read_text(encoding="utf-8"))
            for slot in request["inputs"]:
                findings["ct" if slot == "reference_ct" else slot] = []
            for record in records:
                slot = "ct" if record["slot"] == "reference_ct" else record["slot"]
                findings[slot].append(mrml.Line(record["severity"], record["message"]))
        self.volumes.set_findings(findings)
        shutil.rmtree(job.folder, ignore_errors=True)

    # -- the end -------------------------------------------------------------------------------

    def end_all(self, reason=""):
        """End every process at once: the scene or the module is going away."""
        self._check_wanted += 1
        self.checker.stop_all()
        was_busy = self.runner.busy or self.state.loading
        self._loading.clear()
        self.state.loading = False
        self.runner.stop_all()
        self._context.clear()
        for _stamp, file in self._kept.values():
            file.unlink(missing_ok=True)
        self._kept.clear()
        self.state.busy = False
        if was_busy and reason:
            self._say(reason, "warning")


TITLES = {
    "mr": _("MR"),
    "ct": _("CT"),
    "synthetic_ct": _("Synthetic CT"),
    "pet": _("PET"),
    "nac_pet": _("NAC PET"),
}


def subject_name(name):
    """A subject name that a request takes."""
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")
    return kept[:64] or "subject"


__all__ = ["Job", "JobRunner", "Outcome", "RunLogic", "RunState", "subject_name"]

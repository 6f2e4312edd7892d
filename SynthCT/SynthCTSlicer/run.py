"""Part 3: from the chosen volumes to a job, and from a finished job to nodes in the scene."""

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import library, mrml, slabs
from SynthCTSlicer.runner import CANCELLED, DONE, MEMORY, PACKAGE, Job, JobRunner, Outcome
from SynthCTSlicer.signals import PanelError, Signal
from SynthCTSlicer.steps import Steps


@dataclass
class RunState:
    """What is going on. ``severity`` of the message: "", "fine", "warning" or "error".

    ``waiting``: titles of the jobs in the queue. ``busy``: a job is written or at work.
    ``offers``: what to do after a failure, (text, function) each.
    """

    fraction: float = 0.0
    stage: str = ""
    started: float = 0.0
    remaining_s: object = None
    waiting: tuple = ()
    busy: bool = False
    cancelling: bool = False
    loading: bool = False
    offers: tuple = ()
    message: str = ""
    severity: str = ""
    log: list = field(default_factory=list)
    run: str = ""


class RunLogic:
    """Writes jobs, gives them to the runner, and loads what they made.

    ``later(ms, function)`` calls a function from the event loop; ``root()`` is the folder for jobs.
    Volumes are written and read in steps: neither holds up the window.
    """

    def __init__(self, volumes, task, runner, checker, later, root):
        self.volumes, self.task = volumes, task
        self.runner, self.checker = runner, checker
        self._later, self._root = later, root
        self.state = RunState()
        self.changed = Signal()
        self.loaded = Signal()
        self.package_missing = Signal()
        self.writing, self.reading = Steps(later), Steps(later)
        self._preparing = deque()
        self._context = {}
        self._kept = {}
        self._check_wanted = 0
        self._check = None
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

    def start(self):
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
        self.submit(inputs, content)

    def submit(self, inputs, content, masks=None):
        """Write a job and give it to the runner. Raises PanelError when it cannot be begun.

        ``inputs``: volumes by slot. ``masks``: for each name a function that makes a label map,
        called when its turn has come.
        """
        masks = masks or {}
        folder = self._begin(inputs, content, masks)
        job = Job(folder, content["subject"], ("-m", "SynthCTLib.worker", str(folder)))
        self._context[str(folder)] = {
            "subject": content["subject"],
            "inputs": {slot: (node.GetID(), node.GetName()) for slot, node in inputs.items()},
            "pet": self.volumes.state.nodes["pet"],
            "content": content,
            "again": None if masks else inputs,
        }
        self.say("", "")
        work = self._write(folder, inputs, masks)
        self._preparing.append(job)

        def written(_nothing):
            self._preparing.remove(job)
            self.runner.add(job)

        def failed(error):
            self._preparing.remove(job)
            self._context.pop(str(folder), None)
            self._on_runner()
            self.say(_sentence(error, folder), "error")

        job.writing = self.writing.add(work, written, failed)
        self._on_runner()
        return job

    def _begin(self, inputs, content, masks):
        """A new job folder with the request in it."""
        folder = Path(self._root()) / f"job-{uuid.uuid4().hex[:12]}"
        request = {**content, "inputs": {slot: {"path": f"{slot}.nrrd"} for slot in inputs}}
        if masks:
            files = {name: str(folder / f"mask_{name}.nrrd") for name in masks}
            request["options"] = {**request["options"], "masks": files}
        try:
            folder.mkdir(parents=True)
            library.write_request(folder, request)
        except (PanelError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise PanelError(_sentence(error, folder)) from error
        return folder

    def _write(self, folder, inputs, masks):
        """The volumes of a job, in steps."""
        try:
            for slot, node in inputs.items():
                yield from self._place(node, folder / f"{slot}.nrrd")
            for name, make in masks.items():
                yield from slabs.write(make(), folder / f"mask_{name}.nrrd")
        except BaseException:  # GeneratorExit as well: the work was dropped
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _place(self, node, path):
        """Put a volume into a job folder; what the gate was given is not written again."""
        image = node.GetImageData()
        if image is None or slicer.mrmlScene.GetNodeByID(node.GetID()) is not node:
            raise PanelError(
                _("{name} was deleted before the run began: choose another volume.").format(
                    name=node.GetName()
                )
            )
        stamp = (node.GetMTime(), image.GetMTime())
        known, file = self._kept.get(node.GetID(), (None, None))
        if known != stamp or not file.is_file():
            if file is not None:
                file.unlink(missing_ok=True)
            file = path.parent.parent / f"input-{uuid.uuid4().hex[:12]}.nrrd"
            yield from slabs.write(node, file)
            self._kept[node.GetID()] = (stamp, file)
        try:
            os.link(file, path)
        except OSError:  # a file system without links
            shutil.copyfile(file, path)

    def cancel(self):
        """Cancel the run at work, or the one that is being written."""
        if self.runner.busy or not self._preparing:
            self.runner.cancel()
            return
        self._forget(self._preparing[0])
        self.say(_("Cancelled. Nothing was kept; the scene is as it was."), "warning")

    def _forget(self, job):
        """Drop a job that is still being written."""
        self._preparing.remove(job)
        self._context.pop(str(job.folder), None)
        self.writing.drop(job.writing)
        shutil.rmtree(job.folder, ignore_errors=True)
        self._on_runner()

    def _queue(self):
        """The jobs that wait: for the runner, then those still being written."""
        preparing = list(self._preparing)
        return [*self.runner.waiting, *(preparing if self.runner.busy else preparing[1:])]

    def remove_waiting(self, index):
        """Take a job out of the queue, by its place in ``state.waiting``."""
        queue = self._queue()
        if not 0 <= index < len(queue):
            return
        if queue[index] in self._preparing:
            self._forget(queue[index])
        else:
            self._context.pop(str(queue[index].folder), None)
            self.runner.remove(queue[index])

    def _on_progress(self, job):
        state = self.state
        state.fraction, state.stage, state.remaining_s = job.fraction, job.stage, job.remaining_s
        state.log = list(job.log)
        self.changed()

    def _on_runner(self):
        state, runner = self.state, self.runner
        busy = runner.busy or bool(self._preparing)
        if busy and not state.busy:
            state.fraction, state.stage, state.remaining_s, state.log = 0.0, _("Starting"), None, []
            state.started = time.monotonic()
        if not runner.busy and self._preparing:
            state.stage = _("Writing the volumes")
        state.busy, state.cancelling = busy, runner.cancelling
        state.waiting = tuple(job.title for job in self._queue())
        self.changed()

    def _on_finished(self, job, outcome):
        state = self.state
        state.log = list(job.log)
        context = self._context.pop(str(job.folder), None)
        state.busy = bool(self._preparing)
        if outcome.kind == PACKAGE:
            self.package_missing(outcome.package)
        if outcome.kind != DONE:
            severity = "warning" if outcome.kind == CANCELLED else "error"
            offers = self._offers(context) if outcome.kind == MEMORY else ()
            self.say(outcome.message, severity, offers)
            return
        gone = [
            name
            for identifier, name in context["inputs"].values()
            if slicer.mrmlScene.GetNodeByID(identifier) is None
        ]
        if gone:
            shutil.rmtree(job.folder, ignore_errors=True)
            self.say(
                _(
                    "{name} was deleted during the run, so that the result belongs to nothing and "
                    "was dropped: load the volume again and run."
                ).format(name=gone[0]),
                "error",
            )
            return
        self._load(job.folder, context)

    def _offers(self, context):
        """What may help when memory ran out: the processor, or a smaller model."""
        content, inputs = context["content"], context["again"]
        if inputs is None:
            return ()
        offers = []
        if content["options"].get("device") != "cpu":
            options = {**content["options"], "device": "cpu"}
            offers.append((_("Retry on the CPU"), {**content, "options": options}))
        smaller = self.task.smaller_model(content["model"])
        if smaller:
            text = _("Retry with {model}").format(model=smaller)
            offers.append((text, {**content, "model": smaller}))
        return tuple((text, self._repeater(inputs, again)) for text, again in offers)

    def _repeater(self, inputs, content):
        return lambda: self.submit(inputs, content)

    def _load(self, folder, context):
        run = Path(folder).name
        try:
            result = library.read_result(folder)
        except PanelError as error:
            self.say(str(error), "error")
            return
        self.state.loading = True
        self.say(_("Loading the result"), "")
        seconds = time.monotonic() - self.state.started

        def done(_nothing):
            self._loaded(run, folder, result, context, seconds)

        def failed(error):
            mrml.remove_run(run)
            self.state.loading = self.reading.busy
            self.say(_("The result could not be loaded ({e}): run again.").format(e=error), "error")

        self.reading.add(mrml.load_result(folder, result, context["subject"], run), done, failed)

    def _loaded(self, run, folder, result, context, seconds):
        self.state.loading = self.reading.busy
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
        self.say(" ".join([done, *doubts[:2]]) if doubts else done, "warning" if doubts else "fine")
        self.loaded(run)

    def say(self, message, severity, offers=()):
        """Show a message, and what can be done about it."""
        self.state.message, self.state.severity, self.state.offers = message, severity, offers
        self.changed()

    # -- the gate ------------------------------------------------------------------------------

    def want_check(self, delay_ms=700):
        """Let the gate look at the chosen volumes, once they have been left alone for a moment."""
        self._check_wanted += 1
        ticket = self._check_wanted
        self._stop_check()  # what it would say is about other volumes
        self._later(delay_ms, lambda: self._begin_check(ticket))

    def _begin_check(self, ticket):
        if ticket != self._check_wanted:
            return
        self._stop_check()
        try:
            inputs = self.inputs()
        except PanelError:
            self.volumes.set_checking(False)
            return
        task = self.task.state
        content = {
            "task": None if task.task == library.EVALUATE else task.task,
            "model": task.model or None,
            "options": self.task.options(),
        }
        try:
            folder = self._begin(inputs, content, {})
        except PanelError as error:
            self.say(str(error), "error")
            return
        self.volumes.set_checking(True)

        def written(_nothing):
            arguments = ("-m", "SynthCTLib.worker", str(folder), "--check")
            self.checker.add(Job(folder, "check", arguments))

        def failed(error):
            self.volumes.set_checking(False)
            self.say(_sentence(error, folder), "error")

        work = self.writing.add(self._write(folder, inputs, {}), written, failed)
        self._check = (work, folder)

    def _stop_check(self):
        self.checker.stop_all()
        if self._check is not None:
            work, folder = self._check
            self._check = None
            self.writing.drop(work)
            shutil.rmtree(folder, ignore_errors=True)

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
        self._stop_check()
        was_busy = self.state.busy or self.state.loading
        for job in tuple(self._preparing):
            self._forget(job)
        self.reading.clear()
        self.state.loading = False
        self.runner.stop_all()
        self._context.clear()
        for _stamp, file in self._kept.values():
            file.unlink(missing_ok=True)
        self._kept.clear()
        self.state.busy = False
        if reason:
            self.say(reason if was_busy else "", "warning" if was_busy else "")


def _sentence(error, folder):
    """What went wrong with a job folder."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.ENOSPC:
        return _("The disk that holds {f} is full: free some space and run again.").format(
            f=folder.parent
        )
    return _("The job cannot be written to {f} ({r}): check the folder.").format(
        f=folder.parent, r=error.strerror
    )


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

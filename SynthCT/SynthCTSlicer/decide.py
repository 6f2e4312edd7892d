"""Part 5: accept or reject a result, with reasons, and take it out of Slicer."""

import contextlib
import getpass
import json
import re
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import mrml, slabs
from SynthCTSlicer.signals import PanelError, Signal

ACCEPTED, REJECTED = "accepted", "rejected"
REASONS = {
    "registration": _("Registration"),
    "metal": _("Metal or dropout"),
    "field-of-view": _("Field of view"),
    "bone": _("Bone"),
    "air": _("Air cavities"),
    "motion": _("Motion"),
    "other": _("Other"),
}
FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd"}
_BLOCK = re.compile(r"<!-- decision -->.*?<!-- /decision -->", re.DOTALL)


@dataclass
class DecideState:
    """What was decided of a run; ``decided`` is the sentence that says so."""

    run: str = ""
    verdict: str = ""
    reasons: tuple = ()
    remark: str = ""
    decided: str = ""
    message: str = ""
    severity: str = ""


class DecideLogic:
    """Keeps the decision with user, time and provenance, and writes files."""

    def __init__(self, review):
        self.review = review
        self.state = DecideState()
        self.changed = Signal()

    def show(self, run):
        """Take up a run; a decision that the scene holds is read back."""
        self.state = DecideState(run=run)
        node = mrml.find_output(run, "decision")
        if node is not None:
            kept = json.loads(node.GetText())
            self.state.verdict, self.state.remark = kept["verdict"], kept["remark"]
            self.state.reasons = tuple(kept["reasons"])
            self.state.decided = _sentence(kept)
        self.changed()

    def decide(self, verdict, reasons, remark):
        """Store a decision in the scene and in the report. Raises PanelError."""
        if not self.state.run:
            raise PanelError(_("There is no result to decide about: run a task first."))
        if verdict not in (ACCEPTED, REJECTED):
            raise PanelError(_("Choose whether the result is accepted or rejected."))
        if verdict == REJECTED and not reasons:
            raise PanelError(_("Choose at least one reason for the rejection."))
        if "other" in reasons and not remark.strip():
            raise PanelError(_("Write in the remark what the other reason is."))
        record = self.review.record()
        kept = {
            "verdict": verdict,
            "reasons": list(reasons),
            "remark": remark.strip(),
            "user": _user(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "model": record.get("model"),
            "model_version": record.get("model_version"),
            "outputs": {k: v["sha256"] for k, v in record.get("outputs", {}).items()},
        }
        node = mrml.find_output(self.state.run, "decision")
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "SynthCT decision")
            node.SetAttribute(mrml.OUTPUT, "decision")
            node.SetAttribute(mrml.RUN, self.state.run)
        node.SetText(json.dumps(kept, indent=1))
        state = self.state
        state.verdict, state.reasons, state.remark = verdict, tuple(reasons), remark
        state.decided = _sentence(kept)
        self._write_into_report(kept)
        self._say(state.decided, "fine")

    def _write_into_report(self, kept):
        report = mrml.find_output(self.state.run, "report.html")
        if report is None:
            return
        lines = [_sentence(kept), *(REASONS[r] for r in kept["reasons"]), kept["remark"]]
        block = (
            "<!-- decision --><section style='margin:1em;padding:.6em 1em;border:1px solid #888'>"
            + "<br>".join(escape(line) for line in lines if line)
            + "</section><!-- /decision -->"
        )
        text = report.GetText()
        if _BLOCK.search(text):
            text = _BLOCK.sub(lambda match: block, text)
        else:
            text = re.sub(r"<body[^>]*>", lambda match: match.group(0) + block, text, count=1)
        report.SetText(text)
        folder = Path(self.review.record().get("folder", ""))
        if (folder / "report.html").is_file():
            with contextlib.suppress(OSError):  # the scene has it
                (folder / "report.html").write_text(text, encoding="utf-8")

    # -- files ---------------------------------------------------------------------------------

    def report_path(self):
        """A file with the report. Raises PanelError."""
        node = mrml.find_output(self.state.run, "report.html")
        if node is None:
            raise PanelError(_("This result has no report: run again."))
        path = Path(slicer.app.temporaryPath) / f"SynthCT-{self.state.run}-report.html"
        path.write_text(node.GetText(), encoding="utf-8")
        return path

    def image_export(self, key, folder, file_format):
        """The path of an output as NIfTI or NRRD, and the steps that write it with a sidecar.

        The sidecar says unit and origin. Raises PanelError; the steps raise PanelError and OSError
        and leave nothing half-written.
        """
        node = mrml.find_output(self.state.run, key)
        if node is None:
            raise PanelError(_("There is no result to export: run a task first."))
        folder = self._folder(folder)
        subject = self.review.record()["subject"]
        path = folder / f"{subject}_{key}{FORMATS[file_format]}"
        if path.exists():
            raise PanelError(_("{path} exists already: choose another folder.").format(path=path))
        text = json.dumps(self._sidecar(key), indent=2)
        return path, _with_sidecar(node, path, folder / f"{subject}_{key}.json", text)

    def _sidecar(self, key):
        record = self.review.record()
        kept = mrml.find_output(self.state.run, "decision")
        return {
            "unit": {"mumap": "1/cm at 511 keV"}.get(key, "HU"),
            "model": record.get("model"),
            "model_version": record.get("model_version"),
            "provenance": record.get("provenance", {}).get(key),
            "decision": json.loads(kept.GetText()) if kept is not None else None,
            "intended_use": "Research use only, not for diagnosis.",
        }

    def save_bundle(self, path):
        """Everything in one MRB. Raises PanelError."""
        if not str(path).endswith(".mrb"):
            path = f"{path}.mrb"
        if not slicer.util.saveScene(str(path), {}):
            raise PanelError(
                _("{path} cannot be written: choose another folder.").format(path=path)
            )
        self._say(_("Saved: {path}").format(path=path), "fine")
        return Path(path)

    def _folder(self, folder):
        if not folder:
            raise PanelError(_("Choose a folder for the files."))
        folder = Path(folder)
        if not folder.is_dir():
            raise PanelError(_("There is no folder {f}: choose one.").format(f=folder))
        return folder

    def _say(self, message, severity):
        self.state.message, self.state.severity = message, severity
        self.changed()


def _with_sidecar(node, path, sidecar, text):
    """Write a volume and what is said of it; a generator."""
    try:
        yield from slabs.write(node, path)
        try:
            sidecar.write_text(text, encoding="utf-8")
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise PanelError(
            _("{folder} cannot be written ({reason}): choose another folder.").format(
                folder=path.parent, reason=error.strerror
            )
        ) from error


def _user():
    information = slicer.app.applicationLogic().GetUserInformation()
    name = information.GetName() if information is not None else ""
    if name:
        return name
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"


def _sentence(kept):
    word = _("Accepted") if kept["verdict"] == ACCEPTED else _("Rejected")
    return _("{word} by {user}, {time}").format(word=word, user=kept["user"], time=kept["time"])

"""Part 1: which volumes of the scene are the MR, the CT, the PET, and whether they can be used."""

from dataclasses import dataclass, field

import slicer
from slicer.i18n import tr as _

from SynthCTSlicer import mrml
from SynthCTSlicer.signals import Signal

SLOTS = ("mr", "ct", "synthetic_ct", "pet", "nac_pet")


@dataclass
class VolumesState:
    """Node IDs by slot ("" for none), guesses by node ID, findings by slot."""

    nodes: dict = field(default_factory=lambda: dict.fromkeys(SLOTS, ""))
    guesses: dict = field(default_factory=dict)
    findings: dict = field(default_factory=dict)
    checking: bool = False
    message: str = ""


class VolumesLogic:
    """Fills the slots, by hand or from what is dropped, and keeps what is known of each volume."""

    def __init__(self):
        self.state = VolumesState()
        self.changed = Signal()
        self.chosen = Signal()

    def node(self, slot):
        """The volume in a slot, or None."""
        identifier = self.state.nodes.get(slot, "")
        return slicer.mrmlScene.GetNodeByID(identifier) if identifier else None

    def drop(self, paths):
        """Load files and folders and put each volume where it probably belongs."""
        loaded, failures = mrml.load_paths(paths)
        self.state.message = " ".join([*failures, *self.take(loaded)])
        self.changed()
        return loaded

    def take(self, identifiers):
        """Put volumes that are in the scene where they probably belong."""
        taken, left = set(), []
        for identifier in identifiers:
            node = slicer.mrmlScene.GetNodeByID(identifier)
            if node.IsA("vtkMRMLLabelMapVolumeNode") or mrml.unsuitable(node):
                left += [line.message for line in mrml.unsuitable(node)]
                continue
            guess = mrml.guess(node)
            self.state.guesses[identifier] = guess
            if guess.slot not in taken:
                taken.add(guess.slot)
                self.choose(guess.slot, identifier)
        if left:
            self.state.message = " ".join(left)
        return left

    def choose(self, slot, identifier):
        """Put a volume ("" for none) into a slot."""
        if self.state.nodes[slot] == identifier:
            return
        self.state.nodes[slot] = identifier
        self.state.findings.pop(slot, None)
        lines = mrml.unsuitable(self.node(slot))
        if lines:
            self.state.findings[slot] = tuple(lines)
        self.state.message = ""
        self.changed()
        self.chosen()

    def refusal(self, slot):
        """Why the volume in a slot cannot be used, or an empty string."""
        lines = mrml.unsuitable(self.node(slot))
        return lines[0].message if lines else ""

    def set_checking(self, checking):
        """Whether the gate is looking at the volumes."""
        self.state.checking = checking
        self.changed()

    def set_findings(self, findings):
        """What the gate said: lines by slot; a slot without lines has passed."""
        self.state.checking = False
        for slot in SLOTS:
            if self.node(slot) is None or self.refusal(slot):
                continue
            lines = findings.get(slot)
            if lines is not None:
                self.state.findings[slot] = tuple(lines) or (mrml.Line("fine", _("No objection.")),)
        self.changed()

    def forget_missing(self):
        """Empty the slots whose volume has left the scene."""
        for slot, identifier in self.state.nodes.items():
            if identifier and self.node(slot) is None:
                self.choose(slot, "")

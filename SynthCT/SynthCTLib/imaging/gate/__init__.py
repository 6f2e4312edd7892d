"""The input gate: before any work, each input is checked against its role and the model's card.

What is found is said in ``Finding``: an error when the request cannot work, a warning when the
result is doubtful, a note to know about. ``RULES`` lists what is looked for.
"""

from SynthCTLib.imaging.gate.findings import RULES, Finding, Severity, TestedRange
from SynthCTLib.imaging.gate.inspection import inspect, inspect_pair

__all__ = ["RULES", "Finding", "Severity", "TestedRange", "inspect", "inspect_pair"]

"""The order in which the rules are asked."""

from __future__ import annotations

from SynthCTLib.imaging.gate.anatomy import check_head, check_limb
from SynthCTLib.imaging.gate.ct import check_ct
from SynthCTLib.imaging.gate.findings import Finding, Severity, TestedRange
from SynthCTLib.imaging.gate.image import check_image, unusable
from SynthCTLib.imaging.gate.pair import check_pair
from SynthCTLib.imaging.gate.signal import check_mr, check_pet
from SynthCTLib.imaging.gate.view import View
from SynthCTLib.volume import Role, Volume

_OF_ROLE = {
    Role.CT: check_ct,
    Role.MR: check_mr,
    Role.PET: check_pet,
    Role.NAC_PET: check_pet,
}


def inspect(volume: Volume, tested: TestedRange | None = None) -> tuple[Finding, ...]:
    """Check one input against its role and, when given, against what a model was tested on.

    Errors come first, then warnings, then notes. The answer does not depend on how the voxels are
    stored. Values of a µ-map are checked by ``physics.mumap.check_mu_map``. Nothing is raised.
    """
    view = View(volume)
    findings = list(unusable(view, tested))
    if not findings:
        findings += check_image(view, tested)
    if not _errors(findings) and volume.role in _OF_ROLE:
        findings += _OF_ROLE[volume.role](view)
    is_for_heads = tested is not None and tested.anatomy == "head"
    if is_for_heads and volume.role in (Role.MR, Role.CT) and not _errors(findings):
        assert tested is not None
        findings += check_head(view, tested)
    if tested is not None and tested.anatomy == "limb" and not _errors(findings):
        findings += check_limb(view)
    return _in_order(findings)


def inspect_pair(one: Volume, other: Volume, *, registered: bool = False) -> tuple[Finding, ...]:
    """Check whether two inputs that passed ``inspect`` can be brought together.

    ``registered`` tells that they are used as they lie; otherwise a registration follows, and
    fields that do not meet are an error only within one frame of reference. Nothing is raised.
    """
    return _in_order(list(check_pair(View(one), View(other), registered=registered)))


def _errors(findings: list[Finding]) -> bool:
    return any(finding.severity == Severity.ERROR for finding in findings)


def _in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    order = list(Severity)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))

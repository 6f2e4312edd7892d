"""The effect on PET: which activity, against what, in which regions."""

from __future__ import annotations

import importlib.util

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import Interpolator, resample
from SynthCTLib.imaging.masks import brain_mask
from SynthCTLib.metrics.pet import pet_difference, pet_uncertainty
from SynthCTLib.physics.fdg import DESCRIPTION, fdg_pattern
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.synthesizer import Anatomy
from SynthCTLib.volume import Role, Volume
from SynthCTLib.workflow.outcome import Outcome


def judge_for_pet(
    outcome: Outcome, pet: Volume | None, convention: str, progress: Progress
) -> None:
    """Add what a synthetic CT's error, or without a reference its uncertainty, means for a PET.

    ``pet`` is the patient's own, in the frame of the reference CT where there is one and else of
    the synthetic CT; None takes a usual FDG pattern on the anatomy. Nothing is added where there is
    neither a reference nor an uncertainty. What is left out for another reason is said.
    """
    volumes, region = outcome.volumes, outcome.region
    made, reference = volumes["ct"], volumes.get("reference_ct")
    uncertainty = volumes.get("ct_uncertainty")
    if region is None or made.role != Role.CT or (reference is None and uncertainty is None):
        if pet is not None:
            progress.note("The PET was not used: there is no reference CT and no uncertainty.")
        return
    if importlib.util.find_spec("torch") is None:
        progress.note("The effect on PET was left out: it needs the package torch; install it.")
        return
    progress.stage("Activity", 0.3)
    masks = {
        name.removeprefix("masks/"): mask
        for name, mask in volumes.items()
        # What a PET shows in air is spilt over from elsewhere: no percentage of it means anything.
        if name.startswith("masks/") and name not in ("masks/scanned", "masks/air")
    }
    anatomy = reference or made
    if pet is not None:
        activity, described = _moved(pet, made, outcome), "the PET given"
    else:
        brain = masks.get("brain")
        if brain is None and outcome.anatomy == Anatomy.HEAD and reference is None:
            brain = _brain(made, region)
            if brain is not None:
                masks["brain"] = brain
        activity, described = fdg_pattern(anatomy, region, brain), DESCRIPTION
        if brain is None and outcome.anatomy == Anatomy.HEAD:
            described += "; no brain was found, so it has the uptake of muscle"
    inner = progress.within("Reconstructing", 0.7)
    if reference is not None:
        assert outcome.judged is not None
        outcome.pet = pet_difference(
            reference, made, region, outcome.judged, activity, masks, convention,
            described=described, progress=inner,
        )  # fmt: skip
    else:
        assert uncertainty is not None
        outcome.pet = pet_uncertainty(
            made, uncertainty, region, activity, masks, convention,
            described=described, progress=inner,
        )  # fmt: skip


def _moved(pet: Volume, made: Volume, outcome: Outcome) -> Volume:
    """The PET on the grid of the synthetic CT, moved as the reference CT was."""
    transform = None if outcome.registration is None else outcome.registration.transform
    return resample(pet, made.grid, transform=transform, interpolator=Interpolator.LINEAR)


def _brain(ct: Volume, head: Volume) -> Volume | None:
    try:
        return brain_mask(ct, head)
    except InputError:
        return None

"""What a report is made from: images, findings and facts, gathered by the workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.gate import Finding
from SynthCTLib.metrics.evaluation import Evaluation
from SynthCTLib.metrics.pet import PetJudgement
from SynthCTLib.physics.mumap import TissueMu
from SynthCTLib.registration.quality import Registration
from SynthCTLib.synthesis.synthesizer import Anatomy, Spread
from SynthCTLib.volume import Source, Step, Unit, Volume


class Kind(StrEnum):
    """What the report is about: a synthesis that was just made, or the test of an existing one."""

    SYNTHESIS = "synthesis"
    EVALUATION = "evaluation"


def _now() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything a report shows. What is None or empty has no section in the page.

    ``title`` is the label of the subject, such as a file name without a patient's name. The
    reference, the difference (synthetic minus reference, HU), the masks, the coverage and the
    uncertainty (one standard deviation, HU; ``spread`` says of what) lie on the grid of the
    synthetic CT; the MR and the µ-map may lie on grids of their own and are resampled to be shown.

    ``region`` is the mask of the part of the body that ``anatomy`` names (the head, or the body
    contour of a limb), and the row of the evaluation that bears its name ("head", "body") is the
    one that is judged. ``pet`` is what the difference, or the uncertainty, does to a PET, on a grid
    of its own. ``scanned`` is where the reference scan reached, ``registration`` how it
    was brought onto the grid. ``convention`` names the HU to µ conversion of the µ-map, whose
    row is marked in ``mu_table``. ``model`` holds the facts of the model card by their title
    ("Name" and "Version" are quoted in the methods), ``resampled`` the inputs that
    were interpolated to be compared, ``sources`` the files by what they are,
    ``versions`` those of the software by its name ("SynthCT" is quoted).

    Raises InputError for a volume in the wrong unit or on another grid.
    """

    title: str
    kind: Kind
    synthetic: Volume
    anatomy: Anatomy = Anatomy.HEAD
    mr: Volume | None = None
    reference: Volume | None = None
    difference: Volume | None = None
    mu_map: Volume | None = None
    uncertainty: Volume | None = None
    spread: Spread = Spread.ANSWERS
    pet: PetJudgement | None = None
    coverage: Volume | None = None
    region: Volume | None = None
    scanned: Volume | None = None
    evaluation: Evaluation | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    model: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    mu_table: tuple[TissueMu, ...] = ()
    convention: str | None = None
    registration: Registration | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    resampled: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: datetime = field(default_factory=_now)

    def __post_init__(self) -> None:
        self.synthetic.require_unit(Unit.HU)
        for volume in (self.reference, self.difference, self.uncertainty):
            if volume is not None:
                volume.require_unit(Unit.HU)
                volume.require_grid_of(self.synthetic)
        for mask in (self.coverage, self.region, self.scanned):
            if mask is not None:
                mask.require_grid_of(self.synthetic)
        if self.mu_map is not None:
            self.mu_map.require_unit(Unit.PER_CM)
        if self.reference is None and self.evaluation is not None:
            raise InputError("An evaluation was given without its reference CT: give both.")

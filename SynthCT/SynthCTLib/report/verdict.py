"""What can be trusted and what is suspicious, in plain words, from the facts of a job.

The verdict never says that a result is right: it says what was checked and what stood out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from SynthCTLib.imaging.gate import Severity
from SynthCTLib.imaging.masks import BONE_HU
from SynthCTLib.metrics.evaluation import MaskFigures
from SynthCTLib.metrics.pet import PetJudgement, PetKind, PetRow
from SynthCTLib.physics.mumap import TissueMu
from SynthCTLib.registration.quality import Kind as RegistrationKind
from SynthCTLib.registration.quality import Registration
from SynthCTLib.report.content import ReportContent
from SynthCTLib.report.literature import (
    JACCARD_BONE_HEAD,
    MAE_HEAD_HU,
    MU_RMAE_HEAD_PERCENT,
    Published,
)
from SynthCTLib.synthesis.synthesizer import Anatomy, Spread

# Ours, not from a study. Below the first a reader should see where the gap is (a neck, usually);
# below the second more is missing than there.
COVERED_WELL, COVERED_BY_HALF = 0.99, 0.5
# Ours: bone of 300 HU and more fills about an eighth of an adult head and 3 % of a thigh.
LEAST_BONE_SHARE = 0.01
# NIST XCOM with ICRU 44 compositions at 511 keV: adipose tissue 0.0913, soft tissue 0.1008 1/cm;
# half a percent is left for the rounding of the published conversions.
SOFT_TISSUE_MU_PER_CM = (0.0908, 0.1013)
# Ladefoged et al., NeuroImage 147 (2017) 346: eleven methods of brain PET/MR, judged by 5 %.
PET_ACCEPTED_PERCENT = 5.0
PET_FAR_PERCENT = 10.0
SOFT_TISSUE = "soft_tissue"  # name of the mask in the table of attenuation


class Level(IntEnum):
    """How a statement reads: fine, good to know, a look is needed, reason not to rely on it."""

    SOUND = 0
    NOTE = 1
    CAUTION = 2
    DOUBT = 3


@dataclass(frozen=True)
class Statement:
    """One sentence or two, and how serious it is."""

    level: Level
    text: str


@dataclass(frozen=True)
class Verdict:
    """The line at the top, and what it rests on, the most serious first."""

    headline: Statement
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Facts:
    """The numbers that a verdict rests on; None is unknown. Shares are 0 to 1.

    Of the region (the head, or the body contour), ``covered_share`` is where the synthetic CT is
    founded on data, ``compared_share`` where the reference was scanned. ``bone_share`` is the part
    of what is covered that reaches 300 HU in the synthetic CT, ``uncertainty_hu`` the mean standard
    deviation over what is covered, ``spread`` what it is that of. ``figures`` are those of the mask
    named after the anatomy.
    """

    anatomy: Anatomy = Anatomy.HEAD
    errors: int = 0
    warnings: int = 0
    notes: int = 0
    bone_share: float | None = None
    covered_share: float | None = None
    compared_share: float | None = None
    uncertainty_hu: float | None = None
    spread: Spread = Spread.ANSWERS
    has_reference: bool = False
    figures: MaskFigures | None = None
    soft_tissue_mu_per_cm: float | None = None
    pet: PetRow | None = None
    pet_kind: PetKind = PetKind.DIFFERENCE
    registration: Registration | None = None

    @property
    def expected_error_hu(self) -> float | None:
        """The mean absolute error that follows from the uncertainty, to hold against others'."""
        if self.uncertainty_hu is None:
            return None
        return self.uncertainty_hu * self.spread.error_per_sd


def facts_of(content: ReportContent) -> Facts:
    """Count and measure what the verdict needs. Without a region, all of the image is it."""
    severities = [finding.severity for finding in content.findings]
    synthetic = content.synthetic.array
    region = np.ones(synthetic.shape, bool)
    if content.region is not None:
        region = content.region.array > 0
    covered = region
    if content.coverage is not None:
        covered = region & (content.coverage.array > 0)
    compared = None
    if content.reference is not None and content.scanned is not None:
        compared = _share(region & (content.scanned.array > 0), region)
    uncertainty = None
    if content.uncertainty is not None and covered.any():
        uncertainty = float(np.nanmean(content.uncertainty.array[covered], dtype=np.float64))
    rows = () if content.evaluation is None else content.evaluation.rows
    return Facts(
        anatomy=content.anatomy,
        errors=severities.count(Severity.ERROR),
        warnings=severities.count(Severity.WARNING),
        notes=len(content.notes),
        bone_share=_share(covered & (synthetic >= BONE_HU), covered),
        covered_share=None if content.coverage is None else _share(covered, region),
        compared_share=compared,
        uncertainty_hu=uncertainty,
        spread=content.spread,
        has_reference=content.reference is not None,
        figures=next((r for r in rows if r.mask == content.anatomy and r.voxels), None),
        soft_tissue_mu_per_cm=_soft_tissue_mu(content.mu_table, content.convention),
        pet=None if content.pet is None else _pet_row(content.pet, content.anatomy),
        pet_kind=PetKind.DIFFERENCE if content.pet is None else content.pet.kind,
        registration=content.registration,
    )


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float | None:
    voxels = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part)) / voxels if voxels else None


def _pet_row(pet: PetJudgement, anatomy: Anatomy) -> PetRow | None:
    """The brain's, which a PET of a head is made for, else that of the whole."""
    return pet.row("brain") or pet.row(anatomy)


def _soft_tissue_mu(table: tuple[TissueMu, ...], convention: str | None) -> float | None:
    for row in table:
        if row.tissue == SOFT_TISSUE and row.convention == convention and row.voxels:
            return row.mean_per_cm
    return None


def judge(facts: Facts) -> Verdict:
    """The verdict on a job."""
    statements = sorted(_statements(facts), key=lambda s: s.level, reverse=True)
    worst = max(s.level for s in statements)
    count = sum(s.level >= Level.CAUTION for s in statements)
    points = "the point" if count == 1 else f"the {count} points"
    if worst is Level.DOUBT:
        headline = f"Do not rely on this result as it stands: see {points} below."
    elif worst is Level.CAUTION:
        headline = f"Look before you use it: a reader's eye is needed for {points} below."
    elif facts.has_reference:
        headline = "Nothing suspicious was found. Look at the pictures before you use it."
    else:
        headline = (
            "Nothing suspicious was found, and without a reference CT nothing shows how accurate "
            "it is. Look at the pictures before you use it."
        )
    return Verdict(Statement(worst, headline), tuple(statements))


def _statements(facts: Facts) -> Iterator[Statement]:
    yield _of_input(facts)
    if facts.notes:
        yield Statement(
            Level.CAUTION,
            f"The run made {_count(facts.notes, 'remark')} that the result depends on: "
            "see Input checks.",
        )
    if facts.bone_share is not None and facts.bone_share < LEAST_BONE_SHARE:
        yield Statement(
            Level.DOUBT,
            f"The synthetic CT holds almost no bone: {percent(facts.bone_share)} of it reaches "
            "300 HU. Bone is missing or far too soft.",
        )
    if facts.covered_share is not None:
        yield _of_coverage(facts.covered_share, facts.anatomy)
    if facts.registration is not None:
        yield _of_registration(facts.registration)
    if facts.compared_share is not None and facts.compared_share < COVERED_WELL:
        yield Statement(
            Level.CAUTION,
            f"The reference CT shows {percent(facts.compared_share)} of the {facts.anatomy}: "
            "nothing is known about the accuracy elsewhere.",
        )
    if facts.figures is not None:
        yield from _of_accuracy(facts.figures, facts.anatomy)
    if facts.pet is not None:
        yield _of_pet(facts.pet, facts.pet_kind, facts.anatomy)
    if not facts.has_reference:
        yield Statement(
            Level.NOTE,
            "There is no reference CT of this person, so the accuracy of this result is not known: "
            "the model's own figures, measured on others, are under Method.",
        )
    if facts.uncertainty_hu is not None:
        yield _of_uncertainty(facts.uncertainty_hu, facts.spread, facts.anatomy)
    if facts.soft_tissue_mu_per_cm is not None:
        yield _of_mu(facts.soft_tissue_mu_per_cm)


def _of_input(facts: Facts) -> Statement:
    if facts.errors:
        return Statement(
            Level.DOUBT,
            f"The input checks found {_count(facts.errors, 'error')}: "
            "what was made from such an input means little.",
        )
    if facts.warnings:
        return Statement(
            Level.CAUTION,
            f"The input checks raised {_count(facts.warnings, 'warning')}: "
            "see below, and look at what is named there.",
        )
    return Statement(Level.SOUND, "The input checks found nothing to warn of.")


def _of_coverage(share: float, anatomy: Anatomy) -> Statement:
    if share >= COVERED_WELL:
        return Statement(
            Level.SOUND,
            f"The synthetic CT is founded on data in {percent(share)} of the {anatomy}.",
        )
    level = Level.CAUTION if share >= COVERED_BY_HALF else Level.DOUBT
    return Statement(
        level,
        f"The synthetic CT is founded on data in {percent(share)} of the {anatomy}. "
        "Nothing is claimed about the rest, which is hatched in the pictures.",
    )


def _of_registration(registration: Registration) -> Statement:
    # A deformable registration stops at its last iteration by design: that is no failure.
    if not registration.converged and registration.kind is not RegistrationKind.DEFORMABLE:
        return Statement(
            Level.DOUBT,
            "The registration of the reference CT did not converge: the difference may show the "
            "registration, not the synthetic CT.",
        )
    if registration.doubts:
        return Statement(
            Level.CAUTION,
            "The registration of the reference CT looks suspicious: "
            + " ".join(registration.doubts),
        )
    return Statement(
        Level.SOUND,
        "The registration of the reference CT shows nothing unusual; errors of the registration "
        "still count as errors of the synthetic CT.",
    )


def _of_accuracy(figures: MaskFigures, anatomy: Anatomy) -> Iterator[Statement]:
    for value, published, words in (
        (
            figures.mae_hu,
            MAE_HEAD_HU,
            f"Against the reference CT the HU are off by {figures.mae_hu:.0f} on average in the "
            f"{anatomy}, and {_lean(figures.mean_error_hu)} on balance",
        ),
        (
            figures.jaccard_bone,
            JACCARD_BONE_HEAD,
            f"Bone overlaps with that of the reference by {figures.jaccard_bone:.2f} (Jaccard "
            "coefficient, 1 is perfect)",
        ),
        (
            figures.mu_rmae_percent,
            MU_RMAE_HEAD_PERCENT,
            f"Attenuation at 511 keV is off by {figures.mu_rmae_percent:.1f} % on average in the "
            f"{anatomy}",
        ),
    ):
        if not math.isfinite(value):
            continue
        if anatomy is Anatomy.HEAD:
            yield _against(published, value, words)
        else:
            yield Statement(Level.NOTE, f"{words}. No published figure is at hand to compare with.")


def _against(published: Published, value: float, words: str) -> Statement:
    """Within one standard deviation, five in six of the study did no worse; beyond two, few."""
    worse_by_sd = published.worse_by_sd(value)
    if worse_by_sd <= 1:
        level, compared = Level.SOUND, "no worse than in most people of"
    elif worse_by_sd <= 2:
        level, compared = Level.CAUTION, "worse than in most people of"
    else:
        level, compared = Level.DOUBT, "far worse than in"
    return Statement(
        level, f"{words}: {compared} a published study ({published.text}, other scanners)."
    )


def _of_pet(row: PetRow, kind: PetKind, anatomy: Anatomy) -> Statement:
    """The limit is one of real errors: a worst case beyond it is no reason to doubt."""
    where = row.mask.replace("_", " ")
    worst_case = kind is PetKind.UNCERTAINTY
    if worst_case:
        words = (
            "Were all of the synthetic CT off by its stated standard deviation in the same "
            f"direction, the worst case, a PET of the {where}"
        )
    else:
        words = f"A PET of the {where} that is made with it"
    words += f" would be off by {row.mae_percent:.1f} % on average (simulated)"
    share = f"{percent(row.beyond[PET_FAR_PERCENT])} of its voxels by more than 10 %"
    if anatomy is not Anatomy.HEAD:
        return Statement(Level.NOTE, f"{words}, {share}. No published limit is at hand.")
    if row.mae_percent <= PET_ACCEPTED_PERCENT:
        level, compared = Level.SOUND, "within"
    else:
        level, compared = Level.NOTE if worst_case else Level.CAUTION, "more than"
    return Statement(
        level,
        f"{words}, {compared} the 5 % that a study of eleven methods of brain PET/MR called "
        f"acceptable; {share}.",
    )


def _lean(mean_error_hu: float) -> str:
    rounded = round(abs(mean_error_hu))
    if not rounded:
        return "neither too dense nor too soft"
    return f"{rounded} HU too {'dense' if mean_error_hu > 0 else 'soft'}"


def _of_uncertainty(sd_hu: float, spread: Spread, anatomy: Anatomy) -> Statement:
    """The error to be expected from it, beside a published mean absolute error: like with like."""
    error = f"{sd_hu * spread.error_per_sd:.0f} HU"
    if spread is Spread.STATED_ERROR:
        words = (
            f"The model itself expects an absolute error of {error} on average (its map shows the "
            f"standard deviation, ± {sd_hu:.0f} HU, of a Laplace density of the error)"
        )
    else:
        words = (
            f"The answers that the model combined spread by ± {sd_hu:.0f} HU on average. Were its "
            f"error spread as they are, and normally, it would be {error} in absolute value; what "
            "all of them get wrong alike is not in that"
        )
    if anatomy is not Anatomy.HEAD:
        return Statement(Level.NOTE, f"{words}. No published figure is at hand to compare with.")
    worse = MAE_HEAD_HU.worse_by_sd(sd_hu * spread.error_per_sd)
    level, compared = (Level.SOUND, "no more than") if worse <= 1 else (Level.CAUTION, "more than")
    return Statement(
        level,
        f"{words}: {compared} was measured in most people of a published study "
        f"({MAE_HEAD_HU.text}, mean absolute error).",
    )


def _of_mu(mean_per_cm: float) -> Statement:
    low, high = SOFT_TISSUE_MU_PER_CM
    if low <= mean_per_cm <= high:
        return Statement(
            Level.SOUND,
            f"Soft tissue attenuates as it should: {mean_per_cm:.4f} 1/cm, between fat and muscle.",
        )
    return Statement(
        Level.CAUTION,
        f"Soft tissue attenuates by {mean_per_cm:.4f} 1/cm on average, outside what lies between "
        f"fat and muscle ({low:.3f} to {high:.3f}): look for air, or for bone, where none belongs.",
    )


def _count(number: int, word: str) -> str:
    return f"one {word}" if number == 1 else f"{number} {word}s"


def percent(share: float) -> str:
    """A share in percent, never rounded up to all or down to nothing."""
    value = 100 * share
    if 99 < value < 100:
        return f"{math.floor(value * 10) / 10:.1f} %"
    if 0 < value < 1:
        return f"{math.ceil(value * 10) / 10:.1f} %"
    return f"{value:.0f} %"

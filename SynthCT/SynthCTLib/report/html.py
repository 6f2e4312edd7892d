"""The page: everything a report holds, in one file that opens without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthCTLib.imaging.gate import Severity
from SynthCTLib.metrics.evaluation import Evaluation, MaskFigures
from SynthCTLib.metrics.pet import PetJudgement, PetKind
from SynthCTLib.physics.mumap import TissueMu
from SynthCTLib.report.content import Kind, ReportContent
from SynthCTLib.report.gallery import Gallery, gallery_of
from SynthCTLib.report.literature import (
    CITATIONS,
    CORRELATION_HEAD,
    JACCARD_BONE_HEAD,
    KMEANS_DICE_HEAD,
    MAE_HEAD_HU,
    MSSIM_HEAD,
    MU_RMAE_HEAD_PERCENT,
    PET_CITATIONS,
    PSNR_HEAD_DB,
    SOURCE,
    SOURCE_2,
)
from SynthCTLib.report.page import FIGURES_FOLDER, REPORT_FILE, page, write_all
from SynthCTLib.report.verdict import Facts, Level, facts_of, judge, percent
from SynthCTLib.synthesis.synthesizer import Anatomy, Spread
from SynthCTLib.volume import Step


@dataclass(frozen=True)
class _Measure:
    """A row of the accuracy table: its field, heading, format, meaning and published figure.

    ``pointless_in`` are masks where the number exists and says nothing.
    """

    field: str
    title: str
    form: str
    meaning: str
    published: str = ""
    pointless_in: frozenset[str] = frozenset()


# Masks cut from the reference by its own HU hold all of its bone or none: false bone beside them
# is never counted.
_TISSUES = frozenset({"skull", "bone", "soft_tissue", "air", "brain"})

_MEASURES = (
    _Measure(
        "mae_hu",
        "Mean absolute error, HU",
        ".1f",
        "how far a voxel is off on average; less is better",
        f"{MAE_HEAD_HU.text} (head)",
    ),
    _Measure(
        "rmse_hu",
        "Root mean square error, HU",
        ".1f",
        "the same with large errors weighing more; less is better",
    ),
    _Measure(
        "mean_error_hu",
        "Mean error, HU",
        "+.1f",
        "what remains when errors cancel: plus is too dense, minus too soft; near 0 is better",
    ),
    _Measure(
        "psnr_db",
        "Peak signal to noise, dB",
        ".1f",
        "range 4096 of paper 2; more is better",
        f"{PSNR_HEAD_DB.text} (head)",
    ),
    _Measure(
        "psnr_synthrad_db",
        "Peak signal to noise, SynthRAD, dB",
        ".1f",
        "the same with the range 4024 of SynthRAD",
    ),
    _Measure(
        "ssim",
        "Structural similarity (SSIM)",
        ".3f",
        "likeness of local patterns, as SynthRAD 2023; 1 is perfect",
    ),
    _Measure(
        "ms_ssim",
        "SSIM over five scales",
        ".3f",
        "the same from fine to coarse, as SynthRAD 2025; 1 is perfect",
    ),
    _Measure(
        "mssim_paper_2",
        "SSIM over the whole image",
        ".3f",
        "as paper 2; empty surroundings raise it",
        f"{MSSIM_HEAD.text} (head)",
    ),
    _Measure(
        "pearson",
        "Pearson correlation",
        ".3f",
        "do both rise and fall alike? 1 is best",
        f"{CORRELATION_HEAD.text} (head)",
    ),
    _Measure(
        "normalised_mutual_information",
        "Normalised mutual information",
        ".3f",
        "1: neither tells anything of the other; 2: one tells all",
    ),
    _Measure(
        "jaccard_bone",
        "Bone overlap, Jaccard",
        ".3f",
        "bone (300 HU or more) in both, of bone in either; 1 is perfect",
        f"{JACCARD_BONE_HEAD.text} (head)",
        _TISSUES,
    ),
    _Measure(
        "dice_bone",
        "Bone overlap, Dice",
        ".3f",
        "the same overlap on the scale of Dice; 1 is perfect",
        pointless_in=_TISSUES,
    ),
    _Measure(
        "mu_rmae_percent",
        "Error of attenuation, %",
        ".1f",
        "relative mean absolute error of the µ-map at 511 keV: what a PET feels; less is better",
        f"{MU_RMAE_HEAD_PERCENT.text} (head)",
        frozenset({"air"}),  # relative to next to nothing
    ),
)

_CLASS_WORDS = {"air": "air", "fat": "fat", "soft": "soft tissue"}  # bone has rows of its own
_AIRY_HU = 200.0  # below it µ is next to nothing, and an error relative to it means little

_INPUT_WORDS = {"reference_ct": "reference CT", "mr": "MR"}

# Settings that are said elsewhere in the methods, or are sentences to the user.
_UNSAID = frozenset({"note", "model", "version", "weights"})

_LEVEL_WORDS = {
    Level.SOUND: ("sound", "✓", "Fine"),
    Level.NOTE: ("note", "i", "Note"),
    Level.CAUTION: ("caution", "▲", "Look"),
    Level.DOUBT: ("doubt", "✕", "Doubt"),
}
_SEVERITY_WORDS = {
    Severity.ERROR: ("doubt", "✕", "Error"),
    Severity.WARNING: ("caution", "▲", "Warning"),
    Severity.NOTE: ("note", "i", "Note"),
}


def write_report(content: ReportContent, folder: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a folder; returns the path of the page.

    The page holds its pictures within itself, loads nothing and needs no script. Every file is
    written under a temporary name first, and the page is renamed last. Raises OutputError when
    the folder cannot be made or written to, and leaves nothing of this report behind then.
    """
    gallery = gallery_of(content)
    files = {f"{FIGURES_FOLDER}/{p.name}.png": p.png for p in gallery.pictures}
    files[REPORT_FILE] = _page(content, gallery).encode("utf-8")
    write_all(files, folder)
    return folder / REPORT_FILE


def _page(content: ReportContent, gallery: Gallery) -> str:
    facts = facts_of(content)
    return page(
        "report.html.j2",
        {"settings": _settings},
        content=content,
        heading=_heading(content),
        verdict=judge(facts),
        tiles=_tiles(facts),
        level_words=_LEVEL_WORDS,
        severity_words=_SEVERITY_WORDS,
        gallery=gallery,
        accuracy=None if content.evaluation is None else _accuracy_table(content.evaluation),
        region=None if content.evaluation is None else _region_tables(content.evaluation),
        literature=(SOURCE, SOURCE_2),
        citations=(
            *(CITATIONS if content.evaluation is not None else ()),
            *(PET_CITATIONS if content.pet is not None else ()),
        ),
        mu=_mu_table(content.mu_table, content.convention),
        pet=None if content.pet is None else _pet_table(content.pet),
        methods=methods_paragraph(content),
        has_provenance=any((content.sources, content.steps, content.timings_s, content.versions)),
    )


def _heading(content: ReportContent) -> str:
    return {
        Kind.SYNTHESIS: "Synthetic CT",
        Kind.EVALUATION: "Evaluation of a synthetic CT",
    }[content.kind]


def _tiles(facts: Facts) -> list[tuple[str, str]]:
    """The few figures that are asked for first: value and what it is."""
    tiles = []
    if facts.covered_share is not None:
        tiles.append((percent(facts.covered_share), f"of the {facts.anatomy} founded on data"))
    if facts.compared_share is not None:
        tiles.append(
            (percent(facts.compared_share), f"of the {facts.anatomy} in the reference scan")
        )
    if facts.figures is not None:
        tiles += [
            (f"{facts.figures.mae_hu:.0f} HU", f"mean absolute error in the {facts.anatomy}"),
            (_number(facts.figures.jaccard_bone, ".2f"), "bone overlap (Jaccard)"),
            (f"{_number(facts.figures.mu_rmae_percent, '.1f')} %", "error of attenuation, 511 keV"),
        ]
    if facts.pet is not None:
        of = "effect on a PET" if facts.pet_kind is PetKind.DIFFERENCE else "uncertainty of a PET"
        where = facts.pet.mask.replace("_", " ")
        tiles.append((f"{facts.pet.mae_percent:.1f} %", f"{of}, {where} (simulated)"))
    if facts.figures is None and facts.expected_error_hu is not None:
        whose = {
            Spread.STATED_ERROR: "mean absolute error that the model expects",
            Spread.ANSWERS: "mean absolute error, if spread as the model's answers are",
        }[facts.spread]
        tiles.append((f"{facts.expected_error_hu:.0f} HU", whose))
    return tiles


def _number(value: float, form: str) -> str:
    return format(value, form).replace("-", "−") if math.isfinite(value) else "–"


def _mask_title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _accuracy_table(evaluation: Evaluation) -> dict[str, Any]:
    """Headings, rows of text and the reasons for what is not defined."""
    rows = evaluation.rows

    def cells(measure: _Measure) -> list[str]:
        return [
            "" if row.mask in measure.pointless_in
            else _number(getattr(row, measure.field), measure.form)
            for row in rows
        ]  # fmt: skip

    # The published figures are those of heads: beside another part of the body they would mislead.
    judged = any(row.mask == Anatomy.HEAD for row in rows)
    return {
        "masks": [(_mask_title(row.mask), _extent(row)) for row in rows],
        "rows": [(m.title, m.meaning, cells(m), m.published if judged else "") for m in _MEASURES],
        "published": judged,
        "undefined": sorted({reason for row in rows for reason in row.undefined.values()}),
        "bone": evaluation.bone,
        "bone_jaccard": _number(evaluation.bone.jaccard, ".3f"),
        "convention": evaluation.convention,
        "scanned_only": evaluation.scanned_only,
    }


def _region_tables(evaluation: Evaluation) -> dict[str, Any]:
    """What is measured once over all masks: bone, classes, lines of response, tissue by tissue."""
    bone, lines = evaluation.bone, evaluation.lines
    head = any(row.mask == Anatomy.HEAD for row in evaluation.rows)
    facts = [
        (
            "Bone surface, 95th percentile, mm",
            "how far the surfaces of bone (300 HU) are apart, but for the worst twentieth (HD95)",
            _number(bone.hd95_mm, ".1f"),
            "",
        ),
        ("Bone surface, mean, mm", "the same on average", _number(bone.mean_surface_mm, ".2f"), ""),
        (
            "Bone overlap by k-means, Dice",
            "bone as each image's own brightest of three classes, as paper 2",
            _number(bone.kmeans_dice, ".3f"),
            f"{KMEANS_DICE_HEAD.text} (head)" if head else "",
        ),
        *(
            (
                f"Overlap of {_CLASS_WORDS[name]}, Dice",
                "by HU in both images; 1 is perfect",
                _number(dice, ".3f"),
                "",
            )
            for name, dice in evaluation.classes.items()
            if name in _CLASS_WORDS
        ),
        (
            "Attenuation along lines, mean error, %",
            "of the factors a PET corrects its lines of response with: plus is too much",
            _number(lines.mean_percent, "+.1f"),
            "",
        ),
        (
            "Attenuation along lines, absolute, %",
            "mean; errors that cancel along a line do no harm to a PET",
            _number(lines.mae_percent, ".1f"),
            "",
        ),
        (
            "Attenuation along lines, 95th percentile, %",
            f"of the absolute error of {lines.lines} lines",
            _number(lines.p95_percent, ".1f"),
            "",
        ),
    ]
    tissues = [
        (
            row.tissue.capitalize(),
            _hu_limits(row.low_hu, row.below_hu),
            [
                f"{row.reference_ml:.0f}",
                _number(row.volume_error_percent, "+.0f"),
                _number(row.mean_error_hu, "+.0f"),
                _number(row.mae_hu, ".0f"),
                _number(100 * row.hu_share, ".0f"),
                _number(row.mu_error_per_cm, "+.4f"),
                _number(row.mu_error_percent, "+.1f") if row.low_hu >= -_AIRY_HU else "",
                _number(100 * row.mu_share, ".0f"),
            ],
        )
        for row in evaluation.tissues
    ]
    return {"facts": facts, "published": head, "tissues": tissues}


def _hu_limits(low: float, below: float) -> str:
    if not math.isfinite(low):
        return f"up to {_number(math.floor(below), '.0f')} HU"
    if not math.isfinite(below):
        return f"from {_number(low, '.0f')} HU"
    return f"{_number(math.ceil(low), '.0f')} to {_number(below, '.0f')} HU"


def _extent(row: MaskFigures) -> str:
    missing = row.unscanned_voxels / max(1, row.voxels + row.unscanned_voxels)
    text = f"{row.volume_ml:.0f} ml"
    return f"{text}, {percent(missing)} not scanned" if missing else text


def _mu_table(table: tuple[TissueMu, ...], used: str | None) -> dict[str, Any] | None:
    """Conventions down, tissues across."""
    if not table:
        return None
    tissues = list(dict.fromkeys(row.tissue for row in table))
    means = {(row.convention, row.tissue): row.mean_per_cm for row in table}
    return {
        "tissues": [_mask_title(tissue) for tissue in tissues],
        "rows": [
            (
                convention,
                convention == used,
                [_number(means.get((convention, tissue), math.nan), ".4f") for tissue in tissues],
            )
            for convention in dict.fromkeys(row.convention for row in table)
        ],
    }


def _pet_table(pet: PetJudgement) -> dict[str, Any]:
    """Masks down; mean, spread and the shares beyond across."""
    limits = list(pet.rows[0].beyond) if pet.rows else []
    rows = [
        (
            _mask_title(row.mask),
            [
                _number(row.mean_percent, "+.1f"),
                _number(row.sd_percent, ".1f"),
                _number(row.mae_percent, ".1f"),
                *(_number(100 * row.beyond[limit], ".1f") for limit in limits),
            ],
        )
        for row in pet.rows
    ]
    return {
        "is_difference": pet.kind is PetKind.DIFFERENCE,
        "limits": [f"{limit:g}" for limit in limits],
        "rows": rows,
        "activity": pet.activity,
    }


def methods_paragraph(content: ReportContent) -> str:
    """How the result was made, in sentences for a paper or a protocol."""
    version = content.versions.get("SynthCT", "")
    by = f"SynthCT {version}".strip()
    if content.kind is Kind.SYNTHESIS:
        name = content.model.get("Name", "")
        model_version = content.model.get("Version", "")
        model = f", model {name} version {model_version}" if name else ""
        sentences = [f"A synthetic CT was made with {by}{model}."]
    else:
        sentences = [f"A synthetic CT was evaluated with {by}."]
    if content.steps:
        steps = "; ".join(_step_words(step) for step in content.steps)
        sentences.append(f"Processing steps, in order: {steps}.")
    if content.registration is not None:
        quality = content.registration.quality
        sentences.append(
            "The reference CT was brought onto the grid of the synthetic CT by a "
            f"{content.registration.kind} transform (normalised mutual information "
            f"{quality.mutual_information:.2f}, overlap {100 * quality.overlap:.0f} %)."
        )
    if content.resampled:
        names = " and ".join(_INPUT_WORDS.get(name, name) for name in content.resampled)
        verb = "was" if len(content.resampled) == 1 else "were"
        sentences.append(
            f"The {names} {verb} interpolated onto the grid of the synthetic CT (CT by cubic "
            "B-splines, MR linearly)."
        )
    if content.convention is not None:
        sentences.append(
            "HU were converted to linear attenuation coefficients at 511 keV by the convention "
            f"{content.convention}."
        )
    if content.evaluation is not None:
        masks = ", ".join(_mask_title(row.mask).lower() for row in content.evaluation.rows)
        cut = " within the field of the reference scan" if content.evaluation.scanned_only else ""
        sentences.append(
            f"Errors are synthetic minus reference, evaluated{cut} in the masks {masks}; bone is "
            "300 HU or more (paper 1). MAE, bone Jaccard coefficient and relative MAE of µ are "
            "defined as in paper 1, PSNR, mean SSIM, correlation and k-means Dice as in paper 2, "
            "SSIM as in SynthRAD 2023 and MS-SSIM as in SynthRAD 2025. Attenuation along lines of "
            f"response was compared on {content.evaluation.lines.lines} parallel lines in axial "
            "planes."
        )
    if content.pet is not None:
        sentences.append(_pet_words(content.pet))
    return " ".join(sentences)


def _pet_words(pet: PetJudgement) -> str:
    spacing = " x ".join(f"{s:.1f}" for s in pet.map.grid.spacing_mm)
    made = "with the µ-maps of the reference and of the synthetic CT"
    if pet.kind is PetKind.UNCERTAINTY:
        made = (
            "with the µ-map of the synthetic CT and with those of the synthetic CT plus and minus "
            "its stated standard deviation, half their difference being taken as that of the PET"
        )
    return (
        f"The effect on PET was simulated in direct planes on voxels of {spacing} mm without "
        f"scatter, randoms and noise ({pet.activity}): attenuated line integrals were "
        f"reconstructed {made} (ordered-subsets EM, 4 iterations of 12 subsets, smoothed to 6 mm)."
    )


def _step_words(step: Step) -> str:
    """A step with what a paper says of it: plain settings; the whole of them is in Provenance."""
    settings = _settings(
        {
            key: float(f"{value:.3g}") if isinstance(value, float) else value
            for key, value in step.settings.items()
            if key not in _UNSAID and _is_short(value)
        }
    )
    name = step.name.replace("_", " ")
    return f"{name} ({settings})" if settings else name


def _is_short(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(entry, (str, int, float)) for entry in value)
    return isinstance(value, (str, int, float))


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    )

"""The page about a synthetic PET: pictures, figures where there is a real one, and its worth.

It is a page of its own, as nothing that is said of a synthetic CT (HU, µ, bone) holds for a PET.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SynthCTLib.imaging.gate import Finding
from SynthCTLib.metrics.uptake import UptakeFigures
from SynthCTLib.report.figures import Look, film_png, planes_row
from SynthCTLib.report.gallery import Picture
from SynthCTLib.report.page import FIGURES_FOLDER, REPORT_FILE, page, write_all
from SynthCTLib.report.planes import View, canonical
from SynthCTLib.volume import Role, Unit, Volume

LEAST_TOP_SUV = 2.5


@dataclass(frozen=True, kw_only=True)
class PetReportContent:
    """What the page shows.

    ``pet`` and ``reference`` in SUV, ``source`` the image that the PET was made from, all on one
    grid. ``model``: the facts of the card by their title.
    """

    title: str
    pet: Volume
    source: Volume
    reference: Volume | None = None
    figures: UptakeFigures | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    model: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for volume in (self.pet, self.reference):
            if volume is not None:
                volume.require_unit(Unit.SUV)
                volume.require_grid_of(self.pet)


def write_pet_report(content: PetReportContent, folder: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png``; returns the path of the page.

    Raises OutputError as :func:`SynthCTLib.report.html.write_report` does.
    """
    pictures = _pictures(content)
    filled = page(
        "pet.html.j2", {}, content=content, pictures=pictures, rows=_rows(content.figures)
    )
    files = {f"{FIGURES_FOLDER}/{p.name}.png": p.png for p in pictures}
    files[REPORT_FILE] = filled.encode("utf-8")
    write_all(files, folder)
    return folder / REPORT_FILE


def _rows(figures: UptakeFigures | None) -> list[tuple[str, str]]:
    if figures is None:
        return []
    lesions = figures.lesions
    return [
        ("Mean absolute error, SUV", f"{figures.mae_suv:.3f}"),
        ("Root mean square error, SUV", f"{figures.rmse_suv:.3f}"),
        ("Mean error, SUV", f"{figures.mean_error_suv:+.3f}"),
        ("Peak signal to noise, dB (range 20 SUV)", f"{figures.psnr_db:.2f}"),
        ("Structural similarity", f"{figures.ssim:.3f}"),
        ("Lesions (above 2.5 SUV, 0.5 ml or more) in the real PET", f"{lesions.lesions}"),
        ("of these shown by the synthetic PET", f"{lesions.detected}"),
        ("shown by the synthetic PET alone", f"{lesions.false_positives}"),
    ]


def _pictures(content: PetReportContent) -> list[Picture]:
    """Through the hottest voxel of the real PET, or of the synthetic one without a real one."""
    pet = content.pet
    hot = pet if content.reference is None else content.reference
    voxels = canonical(hot.array, hot.grid)
    z, y, x = (int(i) for i in np.unravel_index(int(voxels.argmax()), voxels.shape))
    sides = [(0, n) for n in reversed(voxels.shape)]
    view = View(pet.grid, (x, y, z), (sides[0], sides[1], sides[2]))
    top = max(LEAST_TOP_SUV, float(np.percentile(hot.array, 99.8)))
    source = content.source
    seen = (
        Look.soft_tissue("CT")
        if source.role == Role.CT
        else Look.mr(source.role.upper(), source, view)
    )
    rows = [("source", source, seen)]
    rows.append(("pet", pet, Look("Synthetic PET", "gray_r", 0.0, top, "SUV")))
    if content.reference is not None:
        wrong = pet.with_array(pet.array.astype(np.float32) - content.reference.array)
        rows.append(
            ("reference_pet", content.reference, Look("Real PET", "gray_r", 0.0, top, "SUV"))
        )
        rows.append(
            ("difference", wrong, Look("Synthetic minus real", "RdBu_r", -top / 2, top / 2, "SUV"))
        )
    return [
        Picture(
            name,
            film_png(planes_row(view, volume, look)),
            f"{look.title} in three planes.",
            f"{look.title}, from {look.low:.3g} to {look.high:.3g} {look.unit}.",
        )
        for name, volume, look in rows
    ]

"""Rules for two images that are to be brought together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from SynthCTLib.imaging.gate.anatomy import whole_vault
from SynthCTLib.imaging.gate.findings import Finding, error, warning
from SynthCTLib.imaging.gate.image import age_years
from SynthCTLib.imaging.gate.view import View
from SynthCTLib.volume import Grid

# Points along each axis of the one field that are looked up in the other.
FIELD_POINTS = 24
# The same head in MR and CT differs by a voxel and a hair; two adults by up to a fifth.
HEAD_RATIO = 1.15
AGE_YEARS = 3.0


def check_pair(one: View, other: View, *, registered: bool) -> Iterator[Finding]:
    """Overlap, size of the heads, and what the tags tell about the patients."""
    subject = f"{one.name} and {other.name}"
    yield from _overlap(one, other, subject, registered)
    yield from _patients(one, other, subject)
    yield from _heads(one, other, subject)


def _overlap(one: View, other: View, subject: str, registered: bool) -> Iterator[Finding]:
    if share_inside(one.volume.grid, other.volume.grid) > 0:
        return
    if share_inside(other.volume.grid, one.volume.grid) > 0:
        return
    gap = float(np.linalg.norm(one.volume.grid.centre_mm - other.volume.grid.centre_mm))
    place = f"The fields of {one.name} and {other.name} do not meet (centres {gap:.0f} mm apart)"
    frames = {view.tags.get("FrameOfReferenceUID") for view in (one, other)}
    same_frame = len(frames) == 1 and None not in frames
    if registered:
        yield error(
            "pair.no-overlap",
            subject,
            f"{place} although they are taken to be in register: "
            "let them be registered, or give the right pair.",
        )
    elif same_frame:
        yield error(
            "pair.no-overlap",
            subject,
            f"{place} in one and the same frame of reference, so they show different parts of the "
            "body: give the pair that shows the same part.",
        )
    else:
        yield warning(
            "pair.no-overlap",
            subject,
            f"{place}: unless they come from two scanners they show different things, so look at "
            "the registration with care.",
        )


def share_inside(grid: Grid, field: Grid) -> float:
    """Share of points through the one grid's field that lie inside the other field."""
    along = (np.arange(FIELD_POINTS) + 0.5) / FIELD_POINTS
    unit = np.stack(np.meshgrid(along, along, along, indexing="ij"), -1).reshape(-1, 3)
    index = unit * np.asarray(grid.size) - 0.5
    world = np.c_[index, np.ones(len(index))] @ grid.index_to_world.T
    there = (world @ np.linalg.inv(field.index_to_world).T)[:, :3]
    inside = (there >= -0.5) & (there <= np.asarray(field.size) - 0.5)
    return float(inside.all(axis=1).mean())


def _patients(one: View, other: View, subject: str) -> Iterator[Finding]:
    differences = []
    sexes = [str(v.tags.get("PatientSex", "")).strip() for v in (one, other)]
    if set(sexes) == {"F", "M"}:
        differences.append(f"sex {sexes[0]} and {sexes[1]}")
    ages = [age_years(v) for v in (one, other)]
    if ages[0] is not None and ages[1] is not None and abs(ages[0] - ages[1]) > AGE_YEARS:
        differences.append(f"age {ages[0]:.0f} and {ages[1]:.0f} years")
    if differences:
        yield warning(
            "pair.patient",
            subject,
            f"By their DICOM tags {one.name} and {other.name} are of different patients "
            f"({', '.join(differences)}): give the pair of one patient.",
        )


def _heads(one: View, other: View, subject: str) -> Iterator[Finding]:
    heads = [whole_vault(view) for view in (one, other)]
    if heads[0] is None or heads[1] is None:
        return
    sizes = [(h.width_mm, h.length_mm) for h in heads if h is not None]
    ratios = [max(a, b) / min(a, b) for a, b in zip(*sizes, strict=True)]
    if max(ratios) > HEAD_RATIO:
        shown = " and ".join(f"{width:.0f} x {length:.0f} mm" for width, length in sizes)
        yield warning(
            "pair.head-size",
            subject,
            f"The heads in {one.name} and {other.name} measure {shown} across: "
            "check that both are of one patient and that both spacings are right.",
        )

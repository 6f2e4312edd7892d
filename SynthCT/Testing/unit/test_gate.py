"""The input gate: each rule on an image for which it must speak and one for which it must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.gate import RULES, Finding, Severity, TestedRange, inspect, inspect_pair
from SynthCTLib.imaging.gate.contrast import contrast_of_tags
from SynthCTLib.imaging.gate.pair import share_inside
from SynthCTLib.volume import DEFAULT_UNIT, Provenance, Role, Step, Unit, Volume

SPACING_MM = 3.0
HEADS = TestedRange(
    anatomy="head",
    contrasts=("t1",),
    spacing_mm=(0.5, 3.2),
    head_width_mm=(130.0, 185.0),
    head_length_mm=(170.0, 225.0),
    age_years=(3.0, 90.0),
)
BODY = TestedRange(anatomy="body")
T1_LIMBS = TestedRange(anatomy="limb", contrasts=("t1",))

# --- an analytic head and a limb ------------------------------------------------------------

AIR, SKIN, SKULL, FLUID, GRAY, WHITE, MUSCLE, SINUS = range(8)
T1 = (3.0, 220.0, 15.0, 30.0, 95.0, 140.0, 90.0, 3.0)
T2 = (3.0, 120.0, 15.0, 260.0, 110.0, 75.0, 60.0, 3.0)
HU = (-1000.0, -70.0, 900.0, 8.0, 38.0, 30.0, 55.0, -990.0)
NOISE = {Role.MR: 4.0, Role.CT: 10.0}
VERTEX_MM, CHIN_MM = 95.0, -115.0


@dataclass(frozen=True)
class Anatomy:
    """Tissue classes at 3 mm, (z, y, x) in LPS order."""

    tissue: np.ndarray

    def rendered(self, role: Role, means: tuple[float, ...]) -> Volume:
        rng = np.random.default_rng(7)
        values = np.asarray(means)[self.tissue]
        noise = rng.normal(0, NOISE[role], (2, *values.shape))
        if role == Role.MR:
            values = np.hypot(values + noise[0], noise[1])
        else:
            values = np.maximum(values + noise[0], -1024)
        return volume(values.astype(np.float32), role)


def volume(
    values: np.ndarray,
    role: Role,
    unit: Unit | None = None,
    spacing_mm: tuple[float, ...] = (SPACING_MM,) * 3,
    **tags: Any,
) -> Volume:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_mm)
    image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(image.GetSize(), spacing_mm, strict=True)])
    return Volume(image, role, unit or DEFAULT_UNIT[role], Provenance(tags=tags))


def coordinates(half_mm: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """x (left), y (posterior), z (superior) in mm of a block of that half size."""
    axes = [np.arange(-h, h + 0.1, SPACING_MM) for h in half_mm]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return x, y, z


def ellipsoid(
    at: tuple[np.ndarray, ...], centre: tuple[float, ...], half: tuple[float, ...]
) -> np.ndarray:
    return np.asarray(
        sum(((a - c) / h) ** 2 for a, c, h in zip(at, centre, half, strict=True)) <= 1
    )


def head_anatomy(scale: float = 1.0) -> Anatomy:
    """Vault, face, neck, skull, sinuses, a brain with folds and ventricles."""
    at = tuple(c / scale for c in coordinates((111.0, 129.0, 132.0)))
    x, y, z = at

    def vault(inset: float) -> np.ndarray:
        half = (76.0 - inset, 97.0 - inset, VERTEX_MM - inset)
        return ellipsoid(at, (0, 0, 0), half) & (z > -70 + inset)

    tissue = np.full(x.shape, AIR)
    neck = (((x / 55) ** 2 + ((y - 15) / 60) ** 2) <= 1) & (z < -40)
    face = ellipsoid(at, (0, -50, -60), (60, 50, 62)) | ellipsoid(at, (0, -98, -45), (14, 14, 20))
    tissue[neck | face | vault(0)] = SKIN
    tissue[ellipsoid(at, (0, -50, -60), (54, 44, 56))] = MUSCLE
    tissue[(((x / 48) ** 2 + ((y - 15) / 53) ** 2) <= 1) & (z < -40)] = MUSCLE
    tissue[vault(6)] = SKULL
    tissue[vault(13)] = FLUID
    folds = 2.5 * np.sin(x / 4) * np.sin(y / 5) * np.sin(z / 4.5)
    brain = ellipsoid(at, (0, 0, 0), (62, 83, 80)) & (z > -55)
    deep = np.sqrt((x / 62) ** 2 + (y / 83) ** 2 + (z / 80) ** 2) * 70 + folds
    tissue[brain & (deep < 69)] = GRAY
    tissue[brain & (deep < 58)] = WHITE
    sulci = np.sin(x / 6) * np.sin(y / 6) * np.sin(z / 6) > 0.35
    tissue[brain & (deep > 45) & sulci] = FLUID
    for side in (-1, 1):
        tissue[ellipsoid(at, (14 * side, 5, 18), (7, 32, 13))] = FLUID
        tissue[ellipsoid(at, (28 * side, -62, -50), (13, 14, 17))] = SINUS
    tissue[ellipsoid(at, (0, -15, -85), (9, 9, 60)) & (z < -60)] = SINUS
    return Anatomy(tissue)


def limb_anatomy() -> Anatomy:
    """A thigh that the field cuts above, below and on one side."""
    x, y, _ = coordinates((60.0, 69.0, 90.0))
    radius = np.hypot(x - 30, y)
    tissue = np.full(x.shape, AIR)
    tissue[radius < 72] = SKIN
    tissue[radius < 58] = MUSCLE
    tissue[radius < 15] = SKULL
    tissue[radius < 9] = SKIN
    return Anatomy(tissue)


HEAD, LIMB = head_anatomy(), limb_anatomy()
MR, CT = HEAD.rendered(Role.MR, T1), HEAD.rendered(Role.CT, HU)
LIMB_MR = LIMB.rendered(Role.MR, T1)
TOP = HEAD.tissue.shape[0] - round((132 - VERTEX_MM) / SPACING_MM)  # first slice above the head


def pet(unit: Unit = Unit.SUV, role: Role = Role.PET, factor: float = 1.0, **tags: Any) -> Volume:
    uptake = np.asarray((0.0, 0.4, 0.3, 0.2, 8.0, 3.0, 0.7, 0.1))[HEAD.tissue]
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(uptake), 1.0)  # voxels
    smooth = np.maximum(sitk.GetArrayFromImage(image), 0).astype(np.float32) * np.float32(factor)
    return volume(smooth, role, unit, **tags)


def changed(source: Volume, change: Callable[[np.ndarray], np.ndarray]) -> Volume:
    return source.with_array(change(source.array.astype(np.float32).copy()).astype(np.float32))


def cropped(source: Volume, z: slice = slice(None), y: slice = slice(None)) -> Volume:
    return source.with_image(source.image[:, y, z])


def given_as(source: Volume, role: Role, unit: Unit | None = None) -> Volume:
    return Volume(source.image, role, unit or DEFAULT_UNIT[role], source.provenance)


def tagged(source: Volume, **tags: Any) -> Volume:
    return replace(source, provenance=Provenance(tags=tags))


def spaced(source: Volume, *spacing_mm: float) -> Volume:
    image = sitk.Image(source.image)
    image.SetSpacing(spacing_mm)
    return source.with_image(image)


def directed(source: Volume, *direction: float) -> Volume:
    image = sitk.Image(source.image)
    image.SetDirection(direction)
    return source.with_image(image)


def placed(source: Volume, *origin_mm: float) -> Volume:
    image = sitk.Image(source.image)
    image.SetOrigin(origin_mm)
    return source.with_image(image)


def set_to(values: np.ndarray, where: Any, value: float) -> np.ndarray:
    values[where] = value
    return values


def without_face(values: np.ndarray) -> np.ndarray:
    """Zero in front of a plane that slants backwards below the brow."""
    _, y, z = coordinates((111.0, 129.0, 132.0))
    return set_to(values, (z < 15) & (y < -92 - 0.9 * (z - 15)), 0)


def without_skull(values: np.ndarray) -> np.ndarray:
    _, _, z = coordinates((111.0, 129.0, 132.0))
    brain = np.isin(HEAD.tissue, (GRAY, WHITE)) | ((HEAD.tissue == FLUID) & (z > -55))
    return np.where(brain, values, 0)


def thick_slices(source: Volume, factor: int) -> Volume:
    return source.with_image(sitk.BinShrink(source.image, [1, 1, factor]))


def large(source: Volume) -> Volume:
    """More voxels than are usual, at little memory."""
    return source.with_image(sitk.Resample(source.image, [900, 900, 200], outputPixelType=1))


def speckle(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.size).reshape(values.shape) % 7 == 0, 9.0, 0.0)


def ramp(values: np.ndarray, log_range: float) -> np.ndarray:
    return values * np.exp(log_range * np.linspace(-0.5, 0.5, values.shape[2]))


def mu(values: np.ndarray) -> np.ndarray:
    return np.where(values < 30, (values + 1000) * 9.6e-5, (values + 1000) * 5.64e-5 + 0.0408)


def tilted(degrees: float) -> tuple[float, ...]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (1, 0, 0, 0, c, -s, 0, s, c)


def labels(role: Role) -> Volume:
    return volume(HEAD.tissue.astype(np.int16), role)


# --- each rule: an image for which it must speak, and one next to it for which it must not ------

Inspection = Callable[[], tuple[Finding, ...]]


def of(make: Callable[[], Volume], tested: TestedRange | None = None) -> Inspection:
    return lambda: inspect(make(), tested)


def pair(
    a: Callable[[], Volume], b: Callable[[], Volume], *, registered: bool = False
) -> Inspection:
    return lambda: inspect_pair(a(), b(), registered=registered)


IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
CASES: list[tuple[str, str, Severity, Inspection, Inspection]] = [
    (
        "image.not-finite",
        "one NaN",
        ERROR,
        of(lambda: changed(MR, lambda v: set_to(v, (0, 0, 0), np.nan))),
        of(lambda: MR),
    ),
    (
        "image.empty",
        "all the same",
        ERROR,
        of(lambda: changed(MR, lambda v: v * 0 + 5)),
        of(lambda: changed(MR, lambda v: v + 5)),
    ),
    (
        "image.few-slices",
        "three slices",
        ERROR,
        of(lambda: cropped(MR, z=slice(0, 3))),
        of(lambda: cropped(MR, z=slice(0, 4))),
    ),
    (
        "image.scale",
        "head in cm",
        ERROR,
        of(lambda: spaced(MR, 0.3, 0.3, 0.3), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "image.scale",
        "metres long",
        ERROR,
        of(lambda: spaced(LIMB_MR, 50, 50, 50), BODY),
        of(lambda: spaced(LIMB_MR, 20, 20, 20), BODY),
    ),
    (
        "image.modality",
        "CT tags",
        ERROR,
        of(lambda: tagged(MR, Modality="CT")),
        of(lambda: tagged(MR, Modality="MR")),
    ),
    *(
        (
            "image.labels",
            f"label map as {role}",
            ERROR,
            of(lambda role=role: labels(role)),
            of(lambda source=source: source),
        )
        for role, source in ((Role.MR, MR), (Role.CT, CT), (Role.PET, pet()))
    ),
    (
        "image.labels",
        "a mask, against a CT of two classes",
        ERROR,
        of(lambda: volume((HEAD.tissue > 0).astype(np.uint8), Role.MR)),
        of(lambda: volume(np.where(HEAD.tissue > 0, 40.0, -1000.0), Role.CT)),
    ),
    (
        "image.synthetic",
        "by description",
        NOTE,
        of(lambda: tagged(CT, SeriesDescription="sCT from MPRAGE")),
        of(lambda: tagged(CT, SeriesDescription="Head 1.0 Hr40 (CT)")),
    ),
    (
        "image.synthetic",
        "by its steps",
        NOTE,
        of(lambda: replace(CT, provenance=Provenance(steps=(Step("synthesize"),)))),
        of(lambda: replace(CT, provenance=Provenance(steps=(Step("resample"),)))),
    ),
    (
        "image.anisotropic",
        "15 mm slices",
        NOTE,
        of(lambda: thick_slices(MR, 5)),
        of(lambda: thick_slices(MR, 3)),
    ),
    (
        "image.spacing",
        "6 mm slices",
        WARNING,
        of(lambda: thick_slices(MR, 2), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "image.spacing",
        "finer than tested",
        NOTE,
        of(lambda: spaced(LIMB_MR, 0.4, 1, 1), replace(BODY, spacing_mm=(0.5, 3.0))),
        of(lambda: spaced(LIMB_MR, 0.5, 1, 1), replace(BODY, spacing_mm=(0.5, 3.0))),
    ),
    (
        "image.oblique",
        "40 degrees",
        NOTE,
        of(lambda: directed(MR, *tilted(40))),
        of(lambda: directed(MR, *tilted(25))),
    ),
    ("image.large", "160 million voxels", NOTE, of(lambda: large(LIMB_MR)), of(lambda: LIMB_MR)),
    (
        "image.age",
        "18 months",
        WARNING,
        of(lambda: tagged(MR, PatientAge="018M"), HEADS),
        of(lambda: tagged(MR, PatientAge="003Y"), HEADS),
    ),
    (
        "ct.shifted",
        "+ 1024",
        ERROR,
        of(lambda: changed(CT, lambda v: v + 1024)),
        of(lambda: CT),
    ),
    (
        "ct.looks-like-mu",
        "1/cm",
        ERROR,
        of(lambda: changed(CT, mu)),
        of(lambda: changed(CT, lambda v: v + 1024)),
    ),
    (
        "ct.looks-like-mu",
        "1/mm",
        ERROR,
        of(lambda: changed(CT, lambda v: mu(v) / 10)),
        of(lambda: CT),
    ),
    (
        "ct.rescaled",
        "0..1",
        ERROR,
        of(lambda: changed(CT, lambda v: (np.clip(v, -1000, 2000) + 1000) / 3000)),
        of(lambda: CT),
    ),
    (
        "ct.rescaled",
        "8 bits",
        ERROR,
        of(lambda: changed(CT, lambda v: np.rint((np.clip(v, -1000, 2000) + 1000) / 3000 * 255))),
        of(lambda: given_as(MR, Role.CT)),
    ),
    (
        "ct.windowed",
        "-160..240",
        ERROR,
        of(lambda: changed(CT, lambda v: np.clip(v, -160, 240))),
        of(lambda: CT),
    ),
    ("ct.not-hu", "an MR", ERROR, of(lambda: given_as(MR, Role.CT)), of(lambda: CT)),
    (
        "ct.clipped-low",
        "-600",
        WARNING,
        of(lambda: changed(CT, lambda v: np.maximum(v, -600))),
        of(lambda: changed(CT, lambda v: np.maximum(v, -1000))),
    ),
    (
        "ct.clipped-high",
        "at 800",
        WARNING,
        of(lambda: changed(CT, lambda v: np.minimum(v, 800))),
        of(lambda: CT),
    ),
    (
        "ct.clipped-high",
        "12 bits",
        NOTE,
        of(lambda: changed(CT, lambda v: set_to(v, np.s_[40:43, 40:43, 40:43], 3071))),
        of(lambda: changed(CT, lambda v: set_to(v, np.s_[40:42, 40:42, 40:42], 3071))),
    ),
    (
        "ct.padding",
        "-2000",
        NOTE,
        of(lambda: changed(CT, lambda v: set_to(v, np.s_[:, :2], -2000))),
        of(lambda: changed(CT, lambda v: set_to(v, np.s_[:, :2], -1024))),
    ),
    (
        "ct.metal",
        "a clip",
        WARNING,
        of(lambda: changed(CT, lambda v: set_to(v, np.s_[40:43, 40:43, 40:43], 6000))),
        of(lambda: changed(CT, lambda v: set_to(v, np.s_[40:43, 40:43, 40:43], 2500))),
    ),
    ("mr.looks-like-ct", "a CT", ERROR, of(lambda: given_as(CT, Role.MR)), of(lambda: MR)),
    (
        "mr.looks-like-ct",
        "a CT + 1024, against an MR of that range",
        ERROR,
        of(lambda: given_as(changed(CT, lambda v: v + 1024), Role.MR)),
        of(lambda: changed(MR, lambda v: v * (1064 / T1[GRAY]))),
    ),
    (
        "mr.looks-like-pet",
        "a PET",
        WARNING,
        of(lambda: spaced(given_as(pet(), Role.MR), 6, 6, 6)),
        of(lambda: MR),
    ),
    (
        "mr.inverted",
        "bright air",
        ERROR,
        of(lambda: changed(MR, lambda v: v.max() - v)),
        of(lambda: LIMB_MR),
    ),
    (
        "mr.saturated",
        "cut at 130",
        WARNING,
        of(lambda: changed(MR, lambda v: np.minimum(v, 130))),
        of(lambda: changed(MR, lambda v: np.minimum(v, 230))),
    ),
    ("pet.looks-like-ct", "a CT", ERROR, of(lambda: given_as(CT, Role.PET)), of(pet)),
    (
        "pet.negative",
        "offset",
        WARNING,
        of(lambda: changed(pet(), lambda v: v - 1)),
        of(lambda: changed(pet(), lambda v: v - 0.01)),
    ),
    ("pet.not-suv", "Bq/ml", ERROR, of(lambda: pet(factor=5000)), of(pet)),
    ("pet.not-suv", "too small", ERROR, of(lambda: pet(factor=1e-3)), of(lambda: pet(factor=0.3))),
    ("pet.not-suv", "an MR", ERROR, of(lambda: given_as(MR, Role.PET)), of(pet)),
    (
        "pet.not-bq",
        "SUV",
        ERROR,
        of(lambda: pet(Unit.BQ_PER_ML)),
        of(lambda: pet(Unit.BQ_PER_ML, factor=5000)),
    ),
    (
        "pet.looks-like-mr",
        "1 mm and sharp",
        WARNING,
        of(lambda: spaced(given_as(changed(MR, lambda v: v / 50), Role.PET), 1, 1, 1)),
        of(pet),
    ),
    (
        "pet.correction",
        "NAC with ATTN",
        WARNING,
        of(lambda: pet(role=Role.NAC_PET, CorrectedImage=["DECY", "ATTN"])),
        of(lambda: pet(role=Role.NAC_PET, CorrectedImage=["DECY"])),
    ),
    (
        "pet.correction",
        "PET without ATTN",
        WARNING,
        of(lambda: pet(CorrectedImage=["DECY"])),
        of(lambda: pet(CorrectedImage=["DECY", "ATTN"])),
    ),
    (
        "head.scale",
        "50 mm long, against thin slices of a real spacing",
        ERROR,
        of(lambda: spaced(MR, 3, 0.9, 3), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "head.none",
        "noise",
        ERROR,
        of(lambda: changed(MR, speckle), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "head.brain-only",
        "skull stripped",
        ERROR,
        of(lambda: changed(MR, without_skull), HEADS),
        of(lambda: changed(MR, lambda v: np.where(HEAD.tissue == AIR, 0, v)), HEADS),
    ),
    (
        "head.orientation",
        "upside down",
        WARNING,
        of(lambda: directed(MR, 1, 0, 0, 0, 1, 0, 0, 0, -1), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "head.orientation",
        "neck in front, against a cut thigh",
        WARNING,
        of(lambda: directed(MR, 1, 0, 0, 0, 0, 1, 0, 1, 0), HEADS),
        of(lambda: LIMB_MR, HEADS),
    ),
    ("head.not-a-head", "a thigh", ERROR, of(lambda: LIMB_MR, HEADS), of(lambda: MR, HEADS)),
    (
        "head.not-a-head",
        "a thigh for the body",
        ERROR,
        of(lambda: LIMB_MR, HEADS),
        of(lambda: LIMB_MR, BODY),
    ),
    (
        "head.size",
        "larger than tested",
        WARNING,
        of(lambda: head_anatomy(1.25).rendered(Role.MR, T1), HEADS),
        of(lambda: head_anatomy(1.1).rendered(Role.MR, T1), HEADS),
    ),
    (
        "head.vertex-cut",
        "20 mm",
        WARNING,
        of(lambda: cropped(MR, z=slice(0, TOP - 7)), HEADS),
        of(lambda: cropped(MR, z=slice(0, TOP + 1)), HEADS),
    ),
    (
        "head.side-cut",
        "back",
        WARNING,
        of(lambda: cropped(MR, y=slice(0, 70)), HEADS),
        of(lambda: cropped(MR, y=slice(0, 78)), HEADS),
    ),
    (
        "head.base-cut",
        "120 mm",
        WARNING,
        of(lambda: cropped(MR, z=slice(TOP - 40, None)), HEADS),
        of(lambda: cropped(MR, z=slice(TOP - 60, None)), HEADS),
    ),
    (
        "head.base-cut",
        "160 mm",
        NOTE,
        of(lambda: cropped(MR, z=slice(TOP - 53, None)), HEADS),
        of(lambda: cropped(MR, z=slice(TOP - 60, None)), HEADS),
    ),
    (
        "head.base-cut",
        "shorter than tested",
        WARNING,
        of(lambda: cropped(MR, z=slice(TOP - 60, None)), replace(HEADS, min_cover_mm=190.0)),
        of(lambda: cropped(MR, z=slice(TOP - 60, None)), replace(HEADS, min_cover_mm=170.0)),
    ),
    (
        "head.defaced",
        "slanting cut",
        WARNING,
        of(lambda: changed(MR, without_face), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "image.contrast",
        "T2 limb by tags",
        WARNING,
        of(lambda: tagged(LIMB_MR, EchoTime=100.0, RepetitionTime=5000.0), T1_LIMBS),
        of(lambda: tagged(LIMB_MR, EchoTime=10.0, RepetitionTime=500.0), T1_LIMBS),
    ),
    (
        "image.contrast",
        "contrast not stated",
        WARNING,
        of(lambda: tagged(LIMB_MR, EchoTime=100.0, RepetitionTime=5000.0), T1_LIMBS),
        of(lambda: tagged(LIMB_MR, EchoTime=100.0, RepetitionTime=5000.0), BODY),
    ),
    (
        "image.head",
        "MR",
        WARNING,
        of(lambda: MR, T1_LIMBS),
        of(lambda: LIMB_MR, T1_LIMBS),
    ),
    (
        "image.head",
        "CT, any part of the body",
        WARNING,
        of(lambda: CT, T1_LIMBS),
        of(lambda: CT, BODY),
    ),
    (
        "head.contrast",
        "T2",
        WARNING,
        of(lambda: HEAD.rendered(Role.MR, T2), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "head.contrast",
        "by tags",
        WARNING,
        of(lambda: tagged(MR, EchoTime=100.0, RepetitionTime=5000.0), HEADS),
        of(lambda: tagged(MR, EchoTime=3.0, RepetitionTime=2300.0, InversionTime=900.0), HEADS),
    ),
    (
        "head.contrast",
        "cannot be told",
        NOTE,
        of(lambda: HEAD.rendered(Role.MR, (3.0, 220.0, 15.0, 98.0, 95.0, 97.0, 90.0, 3.0)), HEADS),
        of(lambda: MR, replace(HEADS, contrasts=None)),
    ),
    (
        "head.bias",
        "factor 7",
        NOTE,
        of(lambda: changed(MR, lambda v: ramp(v, 3.0)), HEADS),
        of(lambda: changed(MR, lambda v: ramp(v, 0.5)), HEADS),
    ),
    (
        "head.padding",
        "zeros below",
        NOTE,
        of(lambda: changed(MR, lambda v: set_to(v, np.s_[:10], 0)), HEADS),
        of(lambda: MR, HEADS),
    ),
    (
        "pair.no-overlap",
        "taken to be in register",
        ERROR,
        pair(lambda: MR, lambda: placed(CT, 0, 0, 900), registered=True),
        pair(lambda: MR, lambda: CT, registered=True),
    ),
    (
        "pair.no-overlap",
        "to be registered",
        WARNING,
        pair(lambda: MR, lambda: placed(CT, 0, 0, 900)),
        pair(lambda: MR, lambda: placed(CT, -111, -129, 60)),
    ),
    (
        "pair.no-overlap",
        "one frame of reference",
        ERROR,
        pair(
            lambda: tagged(MR, FrameOfReferenceUID="1.2"),
            lambda: placed(tagged(CT, FrameOfReferenceUID="1.2"), 0, 0, 900),
        ),
        pair(
            lambda: tagged(MR, FrameOfReferenceUID="1.2"),
            lambda: tagged(CT, FrameOfReferenceUID="1.2"),
        ),
    ),
    (
        "pair.head-size",
        "1.25 times",
        WARNING,
        pair(lambda: MR, lambda: spaced(CT, 3.75, 3.75, 3.75)),
        pair(lambda: MR, lambda: spaced(CT, 3.2, 3.2, 3.2)),
    ),
    (
        "pair.patient",
        "sex",
        WARNING,
        pair(lambda: tagged(MR, PatientSex="F"), lambda: tagged(CT, PatientSex="M")),
        pair(lambda: tagged(MR, PatientSex="F"), lambda: tagged(CT, PatientSex="O")),
    ),
    (
        "pair.patient",
        "age",
        WARNING,
        pair(lambda: tagged(MR, PatientAge="030Y"), lambda: tagged(CT, PatientAge="061Y")),
        pair(lambda: tagged(MR, PatientAge="030Y"), lambda: tagged(CT, PatientAge="032Y")),
    ),
]


def rules_of(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.rule for finding in findings]


@pytest.mark.parametrize(
    ("rule", "severity", "speaks", "silent"),
    [(rule, severity, speaks, silent) for rule, _, severity, speaks, silent in CASES],
    ids=[f"{rule}, {what}" for rule, what, *_ in CASES],
)
def test_rule_speaks_when_it_should_and_only_then(
    rule: str, severity: Severity, speaks: Inspection, silent: Inspection
) -> None:
    said = [f for f in speaks() if f.rule == rule]
    assert [f.severity for f in said] == [severity]
    assert is_one_sentence_with_advice(said[0].message), said[0].message
    assert [f for f in silent() if (f.rule, f.severity) == (rule, severity)] == []


def is_one_sentence_with_advice(message: str) -> bool:
    """What is wrong before the colon, what to do after it, one full stop at the end."""
    body = message.removesuffix(".")
    return (
        body != message
        and message.count(": ") == 1
        and ". " not in body
        and body[0].upper() == body[0]
    )


def test_every_rule_has_its_case() -> None:
    assert {rule for rule, *_ in CASES} == set(RULES)


def test_nothing_is_said_about_sound_inputs() -> None:
    assert inspect(MR, HEADS) == ()
    assert inspect(CT, HEADS) == ()
    assert inspect(MR) == inspect(CT) == inspect(LIMB_MR, BODY) == inspect(pet()) == ()
    assert inspect_pair(MR, CT, registered=True) == ()
    assert inspect_pair(LIMB_MR, LIMB.rendered(Role.CT, HU)) == ()


def test_errors_come_first_and_stop_what_rests_on_them() -> None:
    spoilt = tagged(changed(MR, without_skull), PatientAge="001Y", SeriesDescription="synthetic")
    findings = inspect(spoilt, HEADS)
    assert [f.severity for f in findings] == [ERROR, WARNING, NOTE]
    assert rules_of(findings) == ["head.brain-only", "image.age", "image.synthetic"]
    assert rules_of(inspect(given_as(CT, Role.MR), HEADS)) == ["mr.looks-like-ct"]


def test_a_model_that_needs_no_vertex_and_no_base_gets_notes() -> None:
    relaxed = replace(HEADS, needs_vertex=False, needs_base=False)
    cut = cropped(MR, z=slice(TOP - 47, TOP - 7))
    for tested, severity in ((HEADS, WARNING), (relaxed, NOTE)):
        found = {f.rule: f.severity for f in inspect(cut, tested)}
        assert found["head.vertex-cut"] == found["head.base-cut"] == severity


def test_how_much_of_the_vertex_is_missing_is_told_within_a_slice() -> None:
    (said,) = inspect(cropped(MR, z=slice(0, TOP - 8)), HEADS)
    millimetres = float(said.message.split()[1])
    assert millimetres == pytest.approx(8 * SPACING_MM, abs=2 * SPACING_MM)


@pytest.mark.parametrize("code", ["RAS", "LIA", "PIR", "ASL", "SPL", "IRP"])
def test_the_answer_does_not_depend_on_the_order_of_the_voxels(code: str) -> None:
    cut = cropped(changed(MR, without_face), z=slice(TOP - 53, TOP - 5), y=slice(0, 70))
    expected = inspect(cut, HEADS)
    assert len(expected) >= 3
    turned = cut.with_image(sitk.DICOMOrient(cut.image, code))
    assert turned.image.GetDirection() != cut.image.GetDirection()
    assert inspect(turned, HEADS) == expected


def test_ute_shows_bone_and_is_a_head_nevertheless() -> None:
    zte = HEAD.rendered(Role.MR, (3.0, 105.0, 85.0, 110.0, 100.0, 95.0, 100.0, 3.0))
    assert "head.not-a-head" in rules_of(inspect(zte, HEADS))
    told = tagged(zte, EchoTime=0.02, RepetitionTime=1.5, ScanningSequence="GR")
    assert rules_of(inspect(told, replace(HEADS, contrasts=("ute",)))) == []


def test_slices_of_a_lost_thickness_are_noticed_although_the_field_cuts_the_head() -> None:
    cut = cropped(spaced(MR, 1.2, 3, 3), y=slice(0, 70))
    assert {"head.size", "head.side-cut"} <= set(rules_of(inspect(cut, HEADS)))


@pytest.mark.parametrize("degrees", [-15.0, 15.0])
def test_a_nodding_head_has_a_face(degrees: float) -> None:
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), np.radians(degrees), 0.0, 0.0)
    nodding = MR.with_image(sitk.Resample(MR.image, turn))
    assert not {"head.defaced", "head.not-a-head"} & set(rules_of(inspect(nodding, HEADS)))


def test_the_input_is_not_changed() -> None:
    before = MR.array.copy()
    inspect(MR, HEADS)
    assert np.array_equal(MR.array, before)


@pytest.mark.parametrize(
    ("tags", "contrast"),
    [
        ({"EchoTime": 3.0, "RepetitionTime": 2300, "InversionTime": 900}, "t1"),  # MPRAGE
        ({"EchoTime": 12, "RepetitionTime": 500, "ScanningSequence": "SE"}, "t1"),
        (
            {"EchoTime": 4.6, "RepetitionTime": 20, "FlipAngle": 25, "ScanningSequence": "GR"},
            "t1",
        ),
        ({"EchoTime": 95, "RepetitionTime": 5000}, "t2"),
        ({"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}, "flair"),
        ({"EchoTime": 15, "RepetitionTime": 3000, "ScanningSequence": "SE"}, "pd"),
        ({"EchoTime": 0.07, "RepetitionTime": 4, "ScanningSequence": "GR"}, "ute"),
        ({"EchoTime": 20, "RepetitionTime": 28, "ScanningSequence": "GR"}, None),  # SWI
        ({"EchoTime": 3, "RepetitionTime": 6, "ScanningSequence": "GR"}, None),  # flip not told
        ({"EchoTime": "", "RepetitionTime": 500}, None),
        ({}, None),
    ],
)
def test_contrast_by_timing(tags: dict[str, Any], contrast: str | None) -> None:
    assert contrast_of_tags(tags) == contrast


def test_share_of_a_field_inside_another() -> None:
    assert share_inside(MR.grid, CT.grid) == 1.0
    half = placed(CT, *(MR.grid.origin_mm[:2]), MR.grid.origin_mm[2] + MR.grid.extent_mm[2] / 2)
    assert share_inside(MR.grid, half.grid) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"anatomy": "leg"},
        {"contrasts": ("t9",)},
        {"spacing_mm": (3.0, 1.0)},
        {"age_years": (-1.0, 5.0)},
        {"head_width_mm": (100.0, float("inf"))},
        {"min_cover_mm": 0.0},
    ],
)
def test_a_tested_range_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="tested"):
        TestedRange(**wrong)


def test_a_fine_grid_is_judged_on_a_small_copy() -> None:
    from SynthCTLib.imaging.gate.view import View

    fine = volume(np.zeros((100, 150, 150), np.uint8), Role.MR, spacing_mm=(0.4, 0.4, 0.4))
    marked = changed(fine, lambda v: set_to(v, np.s_[10:90, 20:130, 20:130], 50))
    assert np.prod(View(marked).scan.volume.grid.size) < fine.array.size / 200


@pytest.mark.pack
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("child_3y_t1", {}),
        ("colin27_t1", {}),
        ("adult_t1_1mm_no_neck", {"head.base-cut": NOTE, "head.padding": NOTE}),
        ("adult_t1_1.6mm_neck", {"head.side-cut": WARNING}),  # its left ear lies outside
        ("adult_ct_unpaired", {"head.base-cut": NOTE}),
    ],
)
def test_real_heads(data_pack: Path, name: str, expected: dict[str, Severity]) -> None:
    role = Role.CT if "_ct_" in name else Role.MR
    found = inspect(read_volume(data_pack / "heads" / f"{name}.nii.gz", role), HEADS)
    assert {f.rule: f.severity for f in found} == expected


@pytest.mark.pack
def test_a_real_thigh_is_no_head(data_pack: Path) -> None:
    thigh = read_volume(data_pack / "sts" / "STS_014" / "mr.nii.gz", Role.MR)
    assert "head.not-a-head" in rules_of(inspect(thigh, HEADS))
    assert rules_of(inspect(thigh, BODY)) in ([], ["image.anisotropic"])

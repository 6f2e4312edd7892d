"""How often the input gate speaks when it should, and when it should not.

    python benchmarks/gate.py --data-pack DIR [--out DIR]

Every image of the data pack goes through the gate in its right role and in wrong ones, and so do
versions spoilt in a known way. For each rule the table tells in how many of the cases that are
made for it it fired, and in how many of all other cases it fired nevertheless. A case may be true
for a rule by chance (a head that the field really cuts); such rules are named with the case and
count in neither column. The limits of the rules were chosen on these same images, with room on
both sides: expect somewhat less on others.

Real: 5 heads, 36 sarcoma patients with CT, MR and PET. Simulated: the head label maps as T1-like
MR and CT. ``--out`` receives all findings as a text file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.imaging.files import read_label_map, read_volume
from SynthCTLib.imaging.gate import RULES, Finding, Severity, TestedRange, inspect, inspect_pair
from SynthCTLib.imaging.grids import isotropic_grid, resample, to_lps
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.phantom import PhantomOptions, clean_labels, make_pair
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.volume import DEFAULT_UNIT, Grid, Role, Unit, Volume

HEADS = TestedRange(
    anatomy="head",
    contrasts=("t1",),
    spacing_mm=(0.4, 3.0),
    head_width_mm=(130.0, 190.0),
    head_length_mm=(165.0, 230.0),
    age_years=(3.0, 90.0),
)
ANYTHING = TestedRange(anatomy="body")
LIMBS = TestedRange(anatomy="limb")
CUT_AT_THE_FACE = {"03", "04", "07", "09", "13", "20"}
PHANTOM_MM = 2.0
# T2-like signal by label: fluid bright, white matter dark. Brain structures by FreeSurfer number.
WHITE = (2, 41, 7, 46, 16, 28, 60, 85, 77, 251, 252, 253, 254, 255)
FLUID = (4, 43, 5, 44, 14, 15, 24, 30, 62, 31, 63, 72, 506)
T2_OTHERS = {507: 85, 508: 45, 509: 110, 511: 60, 512: 70, 514: 40, 515: 10, 516: 60, 502: 20}


@dataclass
class Case:
    """One inspection, with the rules that must and those that may speak."""

    name: str
    findings: tuple[Finding, ...]
    must: frozenset[str]
    may: frozenset[str]
    sound: bool


@dataclass
class Tally:
    """All inspections of the run."""

    cases: list[Case] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def one(
        self,
        name: str,
        volume: Volume,
        tested: TestedRange | None,
        must: set[str] | frozenset[str] = frozenset(),
        may: set[str] | frozenset[str] = frozenset(),
        *,
        sound: bool = False,
    ) -> None:
        """Inspect one image; ``sound``: an image in its right role, as it came."""
        began = time.perf_counter()
        findings = inspect(volume, tested)
        self.seconds.append(time.perf_counter() - began)
        self.cases.append(Case(name, findings, frozenset(must), frozenset(may), sound))

    def two(self, name: str, a: Volume, b: Volume, must: set[str], *, registered: bool) -> None:
        """Inspect a pair."""
        findings = inspect_pair(a, b, registered=registered)
        self.cases.append(Case(name, findings, frozenset(must), frozenset(), sound=not must))

    def table(self) -> Iterator[str]:
        """Lines of the Markdown table."""
        yield "| rule | what it looks for | fired when it should | fired when it should not |"
        yield "|---|---|---|---|"
        for rule, what in RULES.items():
            made = [c for c in self.cases if rule in c.must]
            others = [c for c in self.cases if rule not in c.must | c.may]
            hits = sum(_fired(c, rule) for c in made)
            false = sum(_fired(c, rule) for c in others)
            right = f"{hits}/{len(made)}" if made else "not tried here"
            yield f"| {rule} | {what} | {right} | {false}/{len(others)} |"

    def surprises(self) -> Iterator[str]:
        """What came out otherwise than expected, a line a case."""
        for case in self.cases:
            fired = {f.rule for f in case.findings}
            missed, false = case.must - fired, fired - case.must - case.may
            if missed or false:
                yield f"{case.name}: missed {sorted(missed) or '-'}, false {sorted(false) or '-'}"


def _fired(case: Case, rule: str) -> bool:
    return any(f.rule == rule for f in case.findings)


# --- what is spoilt -------------------------------------------------------------------------


def as_role(volume: Volume, role: Role, unit: Unit | None = None) -> Volume:
    return Volume(volume.image, role, unit or DEFAULT_UNIT[role], volume.provenance)


def respaced(volume: Volume, spacing_mm: tuple[float, ...]) -> Volume:
    image = sitk.Image(volume.image)
    image.SetSpacing(spacing_mm)
    return volume.with_image(image)


def cropped(volume: Volume, axis: int, low_mm: float, high_mm: float) -> Volume:
    """Without so much at the low and the high end of an axis (x, y, z) of LPS order."""
    canonical = to_lps(volume).volume
    spacing = canonical.grid.spacing_mm[axis]
    begin, end = round(low_mm / spacing), canonical.grid.size[axis] - round(high_mm / spacing)
    cut = [slice(None)] * 3
    cut[axis] = slice(begin, end)
    return canonical.with_image(canonical.image[cut[0], cut[1], cut[2]])


def around_head(volume: Volume, axis: int, low_mm: float | None, high_mm: float | None) -> Volume:
    """Cut so many mm off the head itself at the low or the high end of an axis."""
    canonical = to_lps(volume).volume
    mask = head_mask(canonical).array > 0
    others = tuple(a for a in range(3) if a != 2 - axis)
    occupied = np.flatnonzero(mask.any(axis=others))
    spacing, size = canonical.grid.spacing_mm[axis], canonical.grid.size[axis]
    low = occupied[0] * spacing + low_mm if low_mm is not None else 0.0
    high = (size - 1 - occupied[-1]) * spacing + high_mm if high_mm is not None else 0.0
    return cropped(volume, axis, low, high)


def ended_below_vertex(volume: Volume, cover_mm: float) -> Volume:
    canonical = to_lps(volume).volume
    slices = np.flatnonzero((head_mask(canonical).array > 0).any(axis=(1, 2)))
    z_mm = canonical.grid.spacing_mm[2]
    return cropped(volume, 2, max(0.0, (slices[-1] + 1) * z_mm - cover_mm), 0.0)


def head_front(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[int, float]:
    """Uppermost slice of a head, and the position (mm) of the forehead in front."""
    top = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    forehead = mask[top - round(80 / spacing[2]) : top - round(40 / spacing[2])]
    return top, float(np.flatnonzero(forehead.any(axis=(0, 2)))[0] * spacing[1])


def defaced(volume: Volume, way: str) -> Volume:
    """Zero in front of a slanting plane below the brow (as quickshear), or in a box (pydeface)."""
    canonical = to_lps(volume).volume
    spacing = canonical.grid.spacing_mm
    top, front = head_front(head_mask(canonical).array > 0, spacing)
    nz, ny, _ = canonical.array.shape
    below = ((top - np.arange(nz)) * spacing[2])[:, None]
    behind = (np.arange(ny) * spacing[1] - front)[None, :]
    cut = {
        "slant": (below > 80) & (behind < (below - 80) * 0.8 + 5),
        "steep": (below > 75) & (behind < (below - 75) * 1.4 + 5),
        "box": (below > 85) & (behind < 45),
    }[way]
    return canonical.with_array(np.where(cut[:, :, None], 0, canonical.array))


def brain_by_labels(mr: Volume, labels: Volume, *, with_fluid: bool) -> Volume:
    """Zero outside the brain of the label map."""
    values = labels.array.astype(np.int32)
    brain = (values > 0) & (values < 500)
    if not with_fluid:
        brain &= values != 24
    brain = ndimage.binary_opening(brain, iterations=2)
    parts, _ = ndimage.label(brain)
    brain = ndimage.binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    return mr.with_array(np.where(brain, mr.array, 0))


def brain_by_depth(mr: Volume) -> Volume:
    """A rough skull stripping of a real head: what is bright and deep, opened and closed."""
    canonical = to_lps(mr).volume
    spacing = canonical.grid.spacing_mm[::-1]
    mask = head_mask(canonical).array > 0
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    values = canonical.array.astype(np.float32)
    core = float(np.median(values[depth > 30]))
    top = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    low = (top - np.arange(mask.shape[0])) * spacing[0] < 125
    bright = (values > 0.5 * core) & (values < 1.9 * core) & (depth > 5) & low[:, None, None]
    inner = ndimage.distance_transform_edt(bright, sampling=spacing) > 3
    parts, _ = ndimage.label(inner)
    inner = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    wide = ndimage.distance_transform_edt(~inner, sampling=spacing) < 6
    brain = ndimage.distance_transform_edt(wide, sampling=spacing) > 3
    brain = ndimage.binary_fill_holes(brain)
    return canonical.with_array(np.where(brain, canonical.array, 0))


def rotated(volume: Volume, axis: int, degrees: float) -> Volume:
    """The head turned in its field (about x, y or z), with the field's own grid."""
    turn = [0.0, 0.0, 0.0]
    turn[axis] = np.radians(degrees)
    transform = sitk.Euler3DTransform(tuple(volume.grid.centre_mm), *turn)
    return resample(volume, volume.grid, transform=transform)


def thick(volume: Volume, slice_mm: float) -> Volume:
    canonical = to_lps(volume).volume
    x, y, _ = canonical.grid.spacing_mm
    count = int(canonical.grid.extent_mm[2] / slice_mm)
    smooth = sitk.SmoothingRecursiveGaussian(
        sitk.Cast(canonical.image, sitk.sitkFloat32), [1e-3 * x, 1e-3 * y, 0.4 * slice_mm]
    )
    grid = replace(
        canonical.grid,
        size=(canonical.grid.size[0], canonical.grid.size[1], count),
        spacing_mm=(x, y, slice_mm),
    )
    return resample(canonical.with_image(smooth), grid)


def turned_header(volume: Volume, order: str) -> Volume:
    """The voxels of LPS order under a header that says something else."""
    image = sitk.Image(to_lps(volume).volume.image)
    if order == "upside down":
        image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    else:  # a sagittal or coronal stack whose orientation was lost
        image = sitk.PermuteAxes(image, (1, 2, 0) if order == "sagittal" else (0, 2, 1))
        image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    return volume.with_image(image)


def t2_like(labels: Volume, seed: int) -> Volume:
    rng = np.random.default_rng(seed)
    values = labels.array.astype(np.int32)
    signal = np.where(values > 0, 85.0, 0.0)
    for label in WHITE:
        signal[values == label] = 60.0
    for label in FLUID:
        signal[values == label] = 200.0
    for label, mean in T2_OTHERS.items():
        signal[values == label] = mean
    signal = ndimage.gaussian_filter(signal, 0.5)
    noisy = np.hypot(signal + rng.normal(0, 3, signal.shape), rng.normal(0, 3, signal.shape))
    return labels.with_array(noisy.astype(np.float32), role=Role.MR)


def biased(volume: Volume, log_range: float) -> Volume:
    """Times exp of a ramp from left to right, front to back."""
    canonical = to_lps(volume).volume
    _, ny, nx = canonical.array.shape
    ramp = np.linspace(-0.5, 0.5, nx)[None, None, :] + np.linspace(-0.5, 0.5, ny)[None, :, None]
    values = canonical.array.astype(np.float32) * np.exp(log_range * ramp).astype(np.float32)
    return canonical.with_array(values)


def noisy(volume: Volume, share: float) -> Volume:
    values = volume.array.astype(np.float32)
    sigma = share * float(np.percentile(values, 95))
    rng = np.random.default_rng(1)
    return volume.with_array(
        np.hypot(values + rng.normal(0, sigma, values.shape), rng.normal(0, sigma, values.shape))
    )


def in_the_range_of_raw_ct(mr: Volume) -> Volume:
    """Scaled so that the commonest tissue has the value of tissue in a CT stored as HU + 1024."""
    values = mr.array.astype(np.float32)
    tissue = values[values > 0.1 * np.percentile(values, 99)]
    counts, edges = np.histogram(tissue, bins=200)
    return mr.with_array(values * (1064 / edges[counts.argmax()]))


def with_tags(volume: Volume, **tags: object) -> Volume:
    return replace(volume, provenance=replace(volume.provenance, tags=tags))


def shifted(volume: Volume, mm: float) -> Volume:
    image = sitk.Image(volume.image)
    x, y, z = image.GetOrigin()
    image.SetOrigin((x, y, z + mm))
    return volume.with_image(image)


# --- the cases ------------------------------------------------------------------------------

REAL_HEADS: dict[str, set[str]] = {  # and what is true of them
    "child_3y_t1": set(),
    "adult_t1_1.6mm_neck": {"head.side-cut"},
    "adult_t1_1mm_no_neck": {"head.base-cut", "head.padding"},
    "colin27_t1": set(),
}
LOOSE = frozenset({"head.base-cut", "head.padding", "head.side-cut", "head.bias"})


def spoilt_heads(tally: Tally, name: str, mr: Volume, true: set[str]) -> None:
    """One whole head MR, as it is and spoilt; ``true`` is what holds for it anyway."""

    def case(
        what: str, volume: Volume, must: set[str], may: set[str] | frozenset[str] = frozenset()
    ) -> None:
        tally.one(f"{name} {what}", volume, HEADS, must, may | true)

    tally.one(f"{name} as it is", mr, HEADS, true, sound=True)
    for degrees in (-20, -10, 10, 20):
        case(f"nodding {degrees}", rotated(mr, 0, degrees), set(), LOOSE | {"head.vertex-cut"})
    case("turned 20", rotated(mr, 2, 20), set(), LOOSE)
    case("tilted 15", rotated(mr, 1, 15), set(), LOOSE | {"head.vertex-cut"})
    case("noisy", noisy(mr, 0.05), set(), {"head.contrast"})
    coarse = resample(mr, isotropic_grid(mr.grid, 3.0))
    case("at 3 mm", coarse, set(), {"head.contrast", "head.side-cut"})
    case("bias", biased(mr, 2.0), {"head.bias"}, {"head.contrast", "head.side-cut"})
    case("slices of 6 mm", thick(mr, 6.0), {"image.spacing"}, LOOSE | {"head.contrast"})
    for way in ("slant", "steep", "box"):
        case(f"defaced {way}", defaced(mr, way), {"head.defaced"}, LOOSE)
    for mm in (15.0, 30.0):
        case(f"vertex {mm:g} mm cut", around_head(mr, 2, None, mm), {"head.vertex-cut"}, LOOSE)
    case("base cut", ended_below_vertex(mr, 120), {"head.base-cut"}, LOOSE)
    case("left cut", around_head(mr, 0, None, 20), {"head.side-cut"}, LOOSE)
    case("back cut", around_head(mr, 1, None, 15), {"head.side-cut"}, LOOSE)
    case("spacing x 10", respaced(mr, tuple(10 * s for s in mr.grid.spacing_mm)), {"image.scale"})
    case("spacing / 10", respaced(mr, tuple(s / 10 for s in mr.grid.spacing_mm)), {"image.scale"})
    larger = respaced(mr, tuple(1.6 * s for s in mr.grid.spacing_mm))
    case("spacing x 1.6", larger, {"head.scale"}, {"image.spacing"})
    larger = respaced(mr, tuple(1.25 * s for s in mr.grid.spacing_mm))
    # The child's head becomes that of an adult; a head that the field cuts is not measured.
    wrong = set() if name.startswith("child") or "head.side-cut" in true else {"head.size"}
    case("spacing x 1.25", larger, wrong, LOOSE | {"head.contrast", "head.scale"})
    case(
        "slices of 3 mm called 1 mm",
        respaced(resample(mr, sagittal_slices(mr, 3.0)), (1.0, 1.0, 1.0)),
        {"head.size"} if name.startswith("colin") else {"head.scale"},  # 61 mm wide: unusual
        LOOSE,
    )
    case("upside down", turned_header(mr, "upside down"), {"head.orientation"}, LOOSE)
    for order in ("sagittal", "coronal"):
        case(f"{order} header", turned_header(mr, order), {"head.orientation"}, LOOSE)
    case("inverted", mr.with_array(mr.array.max() - mr.array), {"mr.inverted"}, LOOSE)
    top = float(np.percentile(mr.array[mr.array > 0.1 * mr.array.max()], 85))
    case("saturated", mr.with_array(np.minimum(mr.array, top)), {"mr.saturated"}, {"head.contrast"})
    old = with_tags(mr, PatientAge="001Y", Modality="MR")
    case("one year old", old, {"image.age"})
    case("tags of T2", with_tags(mr, EchoTime=100, RepetitionTime=4000), {"head.contrast"})


def sagittal_slices(volume: Volume, mm: float) -> Grid:
    """The volume's grid with another distance from left to right."""
    canonical = to_lps(volume).volume.grid
    x = canonical.extent_mm[0]
    return replace(
        canonical,
        size=(int(x / mm), canonical.size[1], canonical.size[2]),
        spacing_mm=(mm, canonical.spacing_mm[1], canonical.spacing_mm[2]),
    )


def heads(tally: Tally, pack: Path) -> None:
    for name, true in REAL_HEADS.items():
        mr = read_volume(pack / "heads" / f"{name}.nii.gz", Role.MR)
        spoilt_heads(tally, name, mr, true)
        tally.one(f"{name} for a limb model", mr, LIMBS, {"image.head"})
        tally.one(f"{name} brain only", brain_by_depth(mr), HEADS, {"head.brain-only"}, LOOSE)
        rule = "ct.rescaled" if mr.array.max() <= 255 else "ct.not-hu"
        tally.one(f"{name} as CT", as_role(mr, Role.CT), None, {rule})
        tally.one(f"{name} as PET", as_role(mr, Role.PET), None, {"pet.not-suv"}, LOOSE_PET)
    ct = read_volume(pack / "heads" / "adult_ct_unpaired.nii.gz", Role.CT)
    tally.one("head CT", ct, None, sound=True)
    tally.one("head CT for a head model", ct, HEADS, {"head.base-cut"}, sound=True)
    tally.one("head CT for a limb model", ct, LIMBS, {"image.head"})
    spoilt_ct(tally, "head CT", ct)


LOOSE_PET = frozenset({"pet.looks-like-mr"})


def spoilt_ct(tally: Tally, name: str, ct: Volume) -> None:
    def case(what: str, volume: Volume, must: set[str]) -> None:
        tally.one(f"{name} {what}", volume, None, must, {"ct.clipped-high"})

    values = ct.array.astype(np.float32)
    loose = {"image.spacing"}
    tally.one(f"{name} as MR", as_role(ct, Role.MR), HEADS, {"mr.looks-like-ct"}, loose)
    tally.one(f"{name} as PET", as_role(ct, Role.PET), None, {"pet.looks-like-ct"})
    plus = ct.with_array(values + 1024)
    case("+ 1024", plus, {"ct.shifted"})
    tally.one(f"{name} + 1024 as MR", as_role(plus, Role.MR), HEADS, {"mr.looks-like-ct"}, loose)
    case("+ 1000", ct.with_array(values + 1000), {"ct.shifted"})
    mu = hu_to_mu(ct)
    case("as µ in 1/cm", as_role(mu, Role.CT), {"ct.looks-like-mu"})
    case("as µ in 1/mm", as_role(mu.with_array(mu.array / 10), Role.CT), {"ct.looks-like-mu"})
    unit = (np.clip(values, -1000, 2000) + 1000) / 3000
    case("scaled to 0..1", ct.with_array(unit), {"ct.rescaled"})
    case("in 8 bits", ct.with_array((unit * 255).astype(np.uint8)), {"ct.rescaled"})
    case("windowed", ct.with_array(np.clip(values, -160, 240)), {"ct.windowed"})
    case("without air", ct.with_array(np.maximum(values, -700)), {"ct.clipped-low"})
    tally.one(
        f"{name} up to 600 HU", ct.with_array(np.minimum(values, 600)), None, {"ct.clipped-high"}
    )
    padded = values.copy()
    padded[:, :4] = -2000
    case("padded", ct.with_array(padded), {"ct.padding"})
    metal = values.copy()
    centre = tuple(n // 2 for n in values.shape)
    metal[centre[0] : centre[0] + 3, centre[1] : centre[1] + 10, centre[2] : centre[2] + 10] = 3071
    case("with metal", ct.with_array(metal), {"ct.metal"})


def simulated(tally: Tally, pack: Path) -> None:
    for index, path in enumerate(sorted((pack / "labels").glob("*.nii.gz"))):
        name = path.name.removesuffix(".nii.gz")
        labels = clean_labels(read_label_map(path))
        labels = resample(labels, isotropic_grid(labels.grid, PHANTOM_MM))
        # The maps go on with air below the cut through face or neck, which no scan does.
        slices = np.flatnonzero((to_lps(labels).volume.array > 0).sum(axis=(1, 2)) > 1500)
        labels = cropped(labels, 2, slices[0] * PHANTOM_MM, 0.0)
        pair = make_pair(labels, PhantomOptions(), seed=index)
        true = {"head.base-cut"} if name[-2:] in CUT_AT_THE_FACE else set()
        if index % 6 == 0:
            spoilt_heads(tally, name, pair.mr, true)
        else:
            tally.one(f"{name} as it is", pair.mr, HEADS, true, sound=True)
        tally.one(f"{name} CT", pair.ct, None, sound=True)
        tally.one(f"{name} CT for a head model", pair.ct, HEADS, true, sound=True)
        tally.one(f"{name} CT as MR", as_role(pair.ct, Role.MR), HEADS, {"mr.looks-like-ct"})
        tally.one(f"{name} T2", t2_like(labels, index), HEADS, {"head.contrast"} | true)
        for fluid in (True, False):
            brain = brain_by_labels(pair.mr, labels, with_fluid=fluid)
            what = f"{name} brain only{'' if fluid else ', sulci cleared'}"
            tally.one(what, brain, HEADS, {"head.brain-only"}, LOOSE)
        for role in (Role.MR, Role.CT, Role.PET):
            tally.one(f"{name} labels as {role}", as_role(labels, role), None, {"image.labels"})
        tally.two(f"{name} MR and CT", pair.mr, pair.ct, set(), registered=True)
        away = shifted(pair.ct, 600)
        tally.two(f"{name} 600 mm away", pair.mr, away, {"pair.no-overlap"}, registered=True)
        larger = respaced(pair.ct, (PHANTOM_MM * 1.3,) * 3)
        tally.two(f"{name} CT x 1.3", pair.mr, larger, {"pair.head-size"}, registered=False)
        woman, man = with_tags(pair.mr, PatientSex="F"), with_tags(pair.ct, PatientSex="M")
        tally.two(f"{name} F and M", woman, man, {"pair.patient"}, registered=False)


def sarcoma(tally: Tally, pack: Path) -> None:
    for index, folder in enumerate(sorted((pack / "sts").iterdir())):
        name = folder.name
        ct, mr, pet = (
            read_volume(folder / f"{kind}.nii.gz", role)
            for kind, role in (("ct", Role.CT), ("mr", Role.MR), ("pet", Role.PET))
        )
        tally.one(f"{name} CT", ct, LIMBS, sound=True)
        tally.one(f"{name} MR", mr, LIMBS, sound=True)
        tally.one(f"{name} PET", pet, ANYTHING, sound=True)
        tally.one(f"{name} MR in the range of raw CT", in_the_range_of_raw_ct(mr), ANYTHING)
        other = frozenset({"image.spacing"})
        tally.one(f"{name} MR for a head model", mr, HEADS, {"head.not-a-head"}, other)
        tally.one(f"{name} CT for a head model", ct, HEADS, {"head.not-a-head"}, other)
        tally.one(f"{name} MR as CT", as_role(mr, Role.CT), None, {"ct.not-hu"})
        tally.one(f"{name} MR as PET", as_role(mr, Role.PET), None, {"pet.not-suv"}, LOOSE_PET)
        like_suv = mr.with_array(mr.array.astype(np.float32) / 300)
        sharp = {"pet.looks-like-mr"}
        tally.one(f"{name} MR scaled like SUV", as_role(like_suv, Role.PET), None, sharp)
        tally.one(f"{name} PET as MR", as_role(pet, Role.MR), None, {"mr.looks-like-pet"})
        tally.one(f"{name} PET as CT", as_role(pet, Role.CT), None, {"ct.not-hu"})
        if index % 4 == 0:
            spoilt_ct(tally, name, ct)
            spoilt_pet(tally, name, pet)
        else:
            tally.one(f"{name} CT as MR", as_role(ct, Role.MR), HEADS, {"mr.looks-like-ct"}, other)
            tally.one(f"{name} CT as PET", as_role(ct, Role.PET), None, {"pet.looks-like-ct"})
        tumour = read_label_map(folder / "mr_tumour.nii.gz")
        for role in (Role.MR, Role.CT, Role.PET):
            tally.one(f"{name} mask as {role}", as_role(tumour, role), None, {"image.labels"})
        tally.two(f"{name} MR and CT", mr, ct, set(), registered=True)
        tally.two(f"{name} PET and CT", pet, ct, set(), registered=True)
        if index % 4 == 1:
            broken_files(tally, name, mr)


def spoilt_pet(tally: Tally, name: str, pet: Volume) -> None:
    values = pet.array.astype(np.float32)
    tally.one(f"{name} PET in Bq/ml as SUV", pet.with_array(values * 5000), None, {"pet.not-suv"})
    tally.one(f"{name} PET / 1000", pet.with_array(values / 1000), None, {"pet.not-suv"})
    raw = as_role(pet, Role.PET, Unit.BQ_PER_ML)
    tally.one(f"{name} PET in SUV as Bq/ml", raw, None, {"pet.not-bq"})
    becquerel = as_role(pet.with_array(values * 5000), Role.PET, Unit.BQ_PER_ML)
    tally.one(f"{name} PET in Bq/ml", becquerel, None)
    centred = values - np.percentile(values, 70)
    tally.one(f"{name} PET, negative", pet.with_array(centred), None, {"pet.negative"})
    corrected = with_tags(pet, Modality="PT", CorrectedImage=["DECY", "ATTN", "SCAT"])
    bare = with_tags(pet, Modality="PT", CorrectedImage=["DECY", "NORM"])
    tally.one(f"{name} PET with ATTN", corrected, None)
    tally.one(f"{name} PET without ATTN", bare, None, {"pet.correction"})
    as_nac = as_role(corrected, Role.NAC_PET)
    tally.one(f"{name} PET with ATTN as NAC", as_nac, None, {"pet.correction"})
    tally.one(f"{name} NAC", as_role(bare, Role.NAC_PET), None)


def broken_files(tally: Tally, name: str, mr: Volume) -> None:
    values = mr.array.astype(np.float32)
    hole = values.copy()
    hole[3, 4, 5] = np.nan
    wrong = with_tags(mr, Modality="CT")
    made = with_tags(mr, SeriesDescription="Synthetic CT, atlas")
    cases: dict[str, tuple[Volume, str]] = {
        "NaN": (mr.with_array(hole), "image.not-finite"),
        "empty": (mr.with_array(np.zeros_like(values)), "image.empty"),
        "two slices": (mr.with_image(mr.image[:, :, 9:11]), "image.few-slices"),
        "modality CT": (wrong, "image.modality"),
        "synthetic": (made, "image.synthetic"),
        "slices of 9 mm": (thick(mr, 9.0), "image.anisotropic"),
        "oblique": (turned_grid(mr, 40), "image.oblique"),
        "kilometres": (respaced(mr, (60.0, 60.0, 60.0)), "image.scale"),
    }
    for what, (volume, rule) in cases.items():
        tally.one(f"{name} {what}", volume, ANYTHING, {rule}, {"image.anisotropic"})


def turned_grid(volume: Volume, degrees: float) -> Volume:
    image = sitk.Image(to_lps(volume).volume.image)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    image.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    return volume.with_image(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    tally = Tally()
    parts: tuple[Callable[[Tally, Path], None], ...] = (heads, sarcoma, simulated)
    for part in parts:
        part(tally, arguments.data_pack)

    sound = [c for c in tally.cases if c.sound]
    alarms = [
        c
        for c in sound
        if any(f.severity != Severity.NOTE and f.rule not in c.must | c.may for f in c.findings)
    ]
    print(
        f"{len(tally.cases)} cases. Of {len(sound)} sound images and pairs in their right role, "
        f"{len(alarms)} got an unfounded error or warning.\n"
    )
    print("\n".join(tally.table()))
    print("\nOtherwise than expected:\n")
    print("\n".join(f"- {line}" for line in tally.surprises()) or "- nothing")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{case.name}\n"
            + "".join(f"    {f.severity} {f.rule}: {f.message}\n" for f in case.findings)
            for case in tally.cases
        ]
        (arguments.out / "gate-findings.txt").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

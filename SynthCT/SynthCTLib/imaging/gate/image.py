"""Rules for every input, whatever its role."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from SynthCTLib.imaging.gate.contrast import contrast_of_tags
from SynthCTLib.imaging.gate.findings import Finding, TestedRange, error, note, warning
from SynthCTLib.imaging.gate.view import View
from SynthCTLib.volume import Role

# Resampling and registration in several resolutions need at least this many voxels an axis.
LEAST_VOXELS = 4
# A finger is 20 mm wide, and the longest PET field is 2 m (total-body scanners).
FIELD_MM = (20.0, 2500.0)
# No head fits below, and no scan of a head goes beyond, the arms and shoulders included.
HEAD_FIELD_MM = (80.0, 1000.0)
# Neighbours in a label map are equal nearly everywhere (0.86 to 0.89 in real ones), in 8-bit MR
# and limb CT at most in a fifth of the places; maps of more labels than this are not in use.
EQUAL_NEIGHBOURS, MOST_LABELS = 0.6, 500
OBLIQUE_DEGREES = 30.0
ANISOTROPY, THICK_SLICE_MM = 4.0, 2.5
LARGE_VOXELS = 150e6  # the hard case that SynthCT is made for: 600 x 600 x 400
# Rounding of headers: 3.0001 mm is 3 mm.
SPACING_SLACK = 1.02

_MODALITY_OF = {
    Role.MR: ("MR",),
    Role.CT: ("CT",),
    Role.PET: ("PT",),
    Role.NAC_PET: ("PT",),
}
_IMAGE_MODALITIES = ("MR", "CT", "PT", "NM", "US", "CR", "DX", "MG", "XA", "SEG")
_SYNTHETIC = re.compile(r"synthetic|pseudo.?ct|\bs-?ct\b|synthct", re.IGNORECASE)
_AGE = re.compile(r"0*(\d+)([DWMY])")
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.44, "Y": 365.25}


def unusable(view: View, tested: TestedRange | None) -> Iterator[Finding]:
    """Why nothing can be told from the image at all; when this finds something, stop."""
    values = view.volume.array
    if values.dtype.kind == "f":
        broken = values.size - int(np.count_nonzero(np.isfinite(values)))
        if broken:
            yield error(
                "image.not-finite",
                view.name,
                f"The {view.name} holds {broken} voxels that are not numbers (NaN or infinite): "
                "replace them by the value of air and give it again.",
            )
            return
    if view.low == view.high:
        yield error(
            "image.empty",
            view.name,
            f"The {view.name} is {view.low:g} everywhere: choose a volume that shows something.",
        )
        return
    shown = " x ".join(str(n) for n in view.volume.grid.size)
    if min(view.volume.grid.size) < LEAST_VOXELS:
        yield error(
            "image.few-slices",
            view.name,
            f"The {view.name} has {shown} voxels, fewer than {LEAST_VOXELS} along one axis: "
            "give a volume of many slices.",
        )
        return
    yield from _scale(view, tested)


def _scale(view: View, tested: TestedRange | None) -> Iterator[Finding]:
    is_head = tested is not None and tested.anatomy == "head"
    shortest, longest = HEAD_FIELD_MM if is_head else FIELD_MM
    extent = max(view.volume.grid.extent_mm)
    if not shortest <= extent <= longest:
        what = "a head is about 200 mm long" if is_head else "no scan of a patient has that size"
        spacing = _numbers(view.volume.grid.spacing_mm)
        yield error(
            "image.scale",
            view.name,
            f"The field of the {view.name} is {_length(extent)} long (voxels of {spacing} mm) and "
            f"{what}: correct the spacing, which must be in mm, or choose another volume.",
        )


def check_image(view: View, tested: TestedRange | None) -> Iterator[Finding]:
    """Modality, label maps, grid, age."""
    yield from _modality(view)
    yield from _labels(view)
    yield from _synthetic(view)
    yield from _grid(view, tested)
    yield from _age(view, tested)
    yield from _contrast(view, tested)


def _modality(view: View) -> Iterator[Finding]:
    modality = view.tags.get("Modality")
    allowed = _MODALITY_OF.get(view.role)
    if allowed and modality in _IMAGE_MODALITIES and modality not in allowed:
        yield error(
            "image.modality",
            view.name,
            f"The {view.name} comes from a DICOM series of modality {modality}: "
            f"choose the {view.name} series, or give this one as what it is.",
        )


def _labels(view: View) -> Iterator[Finding]:
    """Few different values, and neighbours equal nearly everywhere in the foreground."""
    if view.role not in _MODALITY_OF:
        return  # few values are right in a mask, and in a µ-map from segmented tissue classes
    if view.role == Role.CT and view.low < 0:
        return  # and in a CT from tissue classes, which has air at -1000
    values, counts = np.unique(view.sample, return_counts=True)
    if len(values) > MOST_LABELS:
        return
    background = values[counts.argmax()]
    array = view.canonical.array
    step = max(1, round((array.size / 4e6) ** 0.5))
    rows = array[::step, ::step]
    left, right = rows[..., :-1], rows[..., 1:]
    foreground = (left != background) & (right != background)
    if not foreground.any() or (left == right)[foreground].mean() < EQUAL_NEIGHBOURS:
        return
    what = "a mask" if len(values) == 2 else f"a map of {len(values)} labels"
    yield error(
        "image.labels",
        view.name,
        f"The {view.name} looks like {what} rather than an image: "
        f"choose the {view.name} from which it was made.",
    )


def _synthetic(view: View) -> Iterator[Finding]:
    described = str(view.tags.get("SeriesDescription", ""))
    if view.volume.provenance.is_synthetic or _SYNTHETIC.search(described):
        yield note(
            "image.synthetic",
            view.name,
            f"The {view.name} is itself synthetic: give an acquired image "
            "unless it is the one to be evaluated.",
        )


def _grid(view: View, tested: TestedRange | None) -> Iterator[Finding]:
    grid = view.volume.grid
    finest, coarsest = min(grid.spacing_mm), max(grid.spacing_mm)
    limits = tested.spacing_mm if tested else None
    shown = _numbers(grid.spacing_mm)
    if limits and coarsest > limits[1] * SPACING_SLACK:
        yield warning(
            "image.spacing",
            view.name,
            f"The voxels of the {view.name} are {shown} mm and the model was tested up to "
            f"{limits[1]:g} mm: thin bone is lost, so use a finer acquisition if there is one.",
        )
    elif limits and finest < limits[0] / SPACING_SLACK:
        yield note(
            "image.spacing",
            view.name,
            f"The voxels of the {view.name} are {shown} mm and the model was tested down to "
            f"{limits[0]:g} mm: nothing to do, detail finer than that is not gained.",
        )
    elif coarsest > ANISOTROPY * finest and coarsest > THICK_SLICE_MM:
        yield note(
            "image.anisotropic",
            view.name,
            f"The slices of the {view.name} are {coarsest:.1f} mm apart and its pixels "
            f"{finest:.1f} mm wide: expect steps across the slices, or use a 3D acquisition.",
        )
    tilt = _tilt_degrees(np.reshape(grid.direction, (3, 3)))
    if tilt > OBLIQUE_DEGREES:
        yield note(
            "image.oblique",
            view.name,
            f"The grid of the {view.name} is tilted by {tilt:.0f} degrees to the patient's axes: "
            "look whether the head in the figures really lies so.",
        )
    if np.prod(grid.size, dtype=float) > LARGE_VOXELS:
        matrix = " x ".join(str(n) for n in grid.size)
        yield note(
            "image.large",
            view.name,
            f"The {view.name} has {matrix} voxels: expect a long run, or resample it to 1 mm.",
        )


def _tilt_degrees(direction: np.ndarray) -> float:
    """Largest angle between a grid axis and the patient axis that is nearest to it."""
    return float(np.degrees(np.arccos(np.clip(np.abs(direction).max(axis=0), 0, 1)).max()))


def age_years(view: View) -> float | None:
    """The patient's age from the DICOM tag (007Y, 018M, ...), None when it is not told."""
    found = _AGE.fullmatch(str(view.tags.get("PatientAge", "")).strip().upper())
    return float(found[1]) * _DAYS[found[2]] / _DAYS["Y"] if found else None


def _age(view: View, tested: TestedRange | None) -> Iterator[Finding]:
    age = age_years(view)
    limits = tested.age_years if tested else None
    # An age is given in whole years: 80Y is anything below 81.
    if age is None or limits is None or limits[0] - 0.05 <= age < limits[1] + 1:
        return
    shown = f"{age:.0f} years" if age >= 2 else f"{age * 12:.0f} months"
    yield warning(
        "image.age",
        view.name,
        f"The patient is {shown} old and the model was tested from {limits[0]:g} to "
        f"{limits[1]:g} years: check skull and sinuses in the result with care.",
    )


def _contrast(view: View, tested: TestedRange | None) -> Iterator[Finding]:
    """By the tags alone; of a head the tissues tell it too (``anatomy``)."""
    if tested is None or tested.contrasts is None or tested.anatomy == "head":
        return
    contrast = contrast_of_tags(view.tags) if view.role == Role.MR else None
    if contrast is None or contrast in tested.contrasts:
        return
    known = " or ".join(tested.contrasts)
    yield warning(
        "image.contrast",
        view.name,
        f"The MR is {contrast}-weighted by its DICOM tags and the model was tested on {known}: "
        f"give an MR of {known} contrast.",
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:.3g}" for v in values)


def _length(mm: float) -> str:
    return f"{mm / 1000:.1f} m" if mm >= 1000 else f"{mm:.0f} mm"

"""Rules for images of heads: is it one, is it whole, is it like those the model was tested on."""

from __future__ import annotations

from collections.abc import Iterator

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.gate.contrast import brain_of, contrast_of_tags
from SynthCTLib.imaging.gate.findings import Finding, Range, TestedRange, error, note, warning
from SynthCTLib.imaging.gate.head import ADULT_LENGTH_MM, SKULL_DARKNESS, Head
from SynthCTLib.imaging.gate.view import Face, View
from SynthCTLib.volume import Role

# No head, from a premature baby's to the largest on record, has other measures.
WIDTH_MM, LENGTH_MM = (60.0, 230.0), (75.0, 280.0)
# Width over length (the cephalic index) is 0.7 to 0.9 and reaches 0.6 and 1.0 in malformations.
PROPORTION = (0.6, 1.0)
# A crop of a head or limb has seldom others than these.
CUT_PROPORTION = (0.45, 1.8)
# A head of a child of two years and above; smaller ones are not limbs, but rare enough to count.
USUAL_WIDTH_MM, USUAL_LENGTH_MM = (110.0, 200.0), (140.0, 245.0)
# So much missing at a side or at the top means that the field was not laid around a head.
FAR_BEYOND_MM = 12.0
FAR_ABOVE_MM = 40.0
NO_SKULL = "no skull is seen below the skin"

# A brain has 0.8 to 1.7 l, with the fluid around it up to 2; an adult head down to the skull base
# has 3. The brain ends below, a head goes on into the neck.
BRAIN_ML, BRAIN_WIDTH_MM, BRAIN_LENGTH_MM = (250.0, 2100.0), 165.0, 205.0
CLEARED_SHARE = 0.9

# Below the vertex of an adult: the foramen magnum, and where the field of papers 1 and 2 ends.
SKULL_BASE_MM, LOWER_FACE_MM = 150.0, 170.0
# A neck (or a cut head) leaves the field through at least this area, and much less elsewhere.
NECK_MM2, NECK_OVER_NEXT = 3000.0, 2.5
# Shorter things (a hand, a crop) are not taken for a head that lies wrong.
LEAST_COVER_MM = 120.0
# The thinnest neck (of a newborn) has 20 cm^2.
NO_NECK_MM2 = 1000.0
# Whole heads have their face at most 8 mm behind the forehead, 25 mm with the chin tucked in.
FACE_REMOVED_MM = 30.0
STRONG_BIAS = 2.0
PADDING_MM = 10.0

_SIDES = (Face.ANTERIOR, Face.POSTERIOR, Face.RIGHT, Face.LEFT)


def check_head(view: View, tested: TestedRange) -> Iterator[Finding]:
    """The rules for an MR or CT that is given to a model for heads."""
    try:
        head = Head.of(view.scan)
    except InputError:
        yield error(
            "head.none",
            view.name,
            f"No head stands out from the background of the {view.name}: "
            "choose a volume that shows one.",
        )
        return
    for rule in (_orientation, _scale, _brain_only, _not_a_head):
        found = list(rule(view, head))
        yield from found
        if found:
            return  # what follows rests on a head that lies right
    yield from _size(view, head, tested)
    yield from _vertex(view, head, tested)
    yield from _sides(view, head)
    yield from _base(view, head, tested)
    yield from _face(view, head)
    if view.role == Role.MR:
        yield from _brain(view, head, tested)
        yield from _padding(view)


def check_limb(view: View) -> Iterator[Finding]:
    """The rule for an MR or CT that is given to a model for limbs."""
    head = whole_vault(view, ears=False)
    # A limb that ends in the field may look like a vault; it is smaller.
    if (
        head is not None
        and _within(head.width_mm, USUAL_WIDTH_MM)
        and _within(head.length_mm, USUAL_LENGTH_MM)
    ):
        yield warning(
            "image.head",
            view.name,
            f"The {view.name} shows a head ({_measures(head)}) and the model was tested on limbs: "
            "choose a model for heads.",
        )


def whole_vault(view: View, *, ears: bool = True) -> Head | None:
    """The head of an MR or CT whose vault is whole, None for anything else.

    ``ears``: a head whose sides are cut by the field is none.
    """
    if view.role not in (Role.MR, Role.CT):
        return None
    try:
        head = Head.of(view.scan)
    except InputError:
        return None
    is_head = (
        set(head.cut_faces) <= {Face.INFERIOR, *(() if ears else (Face.LEFT, Face.RIGHT))}
        and WIDTH_MM[0] <= head.width_mm <= WIDTH_MM[1]
        and LENGTH_MM[0] <= head.length_mm <= LENGTH_MM[1]
        and head.width_mm < head.length_mm
    )
    return head if is_head else None


def _scale(view: View, head: Head) -> Iterator[Finding]:
    too_large = head.width_mm > WIDTH_MM[1] or head.length_mm > LENGTH_MM[1]
    too_small = head.width_mm < WIDTH_MM[0] or head.length_mm < LENGTH_MM[0]
    cut = any(face in head.cut_faces for face in _SIDES)
    odd = not _within(head.width_mm / max(head.length_mm, 1.0), CUT_PROPORTION)
    if too_large or (too_small and (odd or not cut)):
        yield error(
            "head.scale",
            view.name,
            f"What the {view.name} shows is {_measures(head)}, which no head is: check the spacing "
            f"({_spacing(view)} mm a voxel now) and that it is a head.",
        )


def _brain_only(view: View, head: Head) -> Iterator[Finding]:
    """The background was cleared, and what is left is small and has no skull, or no neck."""
    if view.role != Role.MR or head.background_share < CLEARED_SHARE:
        return
    if not (
        BRAIN_ML[0] <= head.volume_ml <= BRAIN_ML[1]
        and head.width_mm <= BRAIN_WIDTH_MM
        and head.length_mm <= BRAIN_LENGTH_MM
        and not any(face in head.cut_faces for face in (*_SIDES, Face.SUPERIOR))
    ):
        return
    # Wide or cleared sulci look like a dark shell; but then no neck leaves the field.
    if head.skull_darkness > SKULL_DARKNESS or Face.INFERIOR not in head.cut_faces:
        yield error(
            "head.brain-only",
            view.name,
            "The MR shows the brain only (skull and scalp were removed), and a CT of the head "
            "cannot be made from that: give the MR as acquired, before skull stripping.",
        )


def _orientation(view: View, head: Head) -> Iterator[Finding]:
    """A head leaves the field through its neck: turned, it would pass for a head."""
    areas = sorted(((area, f.word, f) for f, area in head.contact_mm2.items()), reverse=True)
    (area, _, face), (next_area, *_) = areas[:2]
    if face is Face.INFERIOR or area < max(NECK_MM2, NECK_OVER_NEXT * next_area):
        return
    turned = head.turned(face)
    if turned.cover_mm >= LEAST_COVER_MM and not _doubts(view, turned):
        yield warning(
            "head.orientation",
            view.name,
            f"The head in the {view.name} leaves the field at the {face.word} and not below, "
            "as if its orientation were wrong: compare it with the letters R, A and S in a viewer, "
            "and convert it again from DICOM if it lies wrong.",
        )


def _not_a_head(view: View, head: Head) -> Iterator[Finding]:
    """Two reasons against a head raise a doubt, and so does a missing skull alone."""
    doubts = _doubts(view, head)
    if len(doubts) < 2 and NO_SKULL not in doubts:
        return
    found = error if NO_SKULL in doubts and len(doubts) >= 3 else warning
    yield found(
        "head.not-a-head",
        view.name,
        f"The {view.name} does not look like a head ({', '.join(doubts)}) and the model is made "
        "for heads: choose another volume or another model.",
    )


def _doubts(view: View, head: Head) -> list[str]:
    """Reasons against a head, in words."""
    against = []
    # UTE and ZTE are made to show bone.
    dark_bone = view.role == Role.MR and contrast_of_tags(view.tags) != "ute"
    if dark_bone and not head.skull_darkness < SKULL_DARKNESS:
        against.append(NO_SKULL)
    proportion = head.width_mm / max(head.length_mm, 1.0)
    usual = _within(head.width_mm, USUAL_WIDTH_MM) and _within(head.length_mm, USUAL_LENGTH_MM)
    if not (usual and _within(proportion, PROPORTION)):
        against.append(f"it is {_measures(head)}")
    beyond = [face.word for face in _SIDES if head.missing_mm(face) > FAR_BEYOND_MM]
    if beyond:
        against.append(f"it goes on beyond the {_listed(beyond)} of the field")
    if head.missing_mm(Face.SUPERIOR) > FAR_ABOVE_MM:
        against.append("it has no top")
    if head.contact_mm2[Face.INFERIOR] < NO_NECK_MM2:
        against.append("it has no neck")
    return against


def _size(view: View, head: Head, tested: TestedRange) -> Iterator[Finding]:
    cut = any(face in head.cut_faces for face in _SIDES)
    outside = [
        f"{mm:.0f} mm {what} (tested {limits[0]:g} to {limits[1]:g})"
        for what, mm, limits in (
            ("wide", head.width_mm, tested.head_width_mm),
            ("long", head.length_mm, tested.head_length_mm),
        )
        if limits and not cut and not _within(mm, limits)
    ]
    if outside:
        yield warning(
            "head.size",
            view.name,
            f"The head in the {view.name} is {_listed(outside)}: check the spacing, and look "
            "at the skull in the result with care.",
        )
        return
    usual = CUT_PROPORTION if cut else PROPORTION
    if not _within(head.width_mm / max(head.length_mm, 1.0), usual):
        yield warning(
            "head.size",
            view.name,
            f"The head in the {view.name} is {_measures(head)}, which is unusual: check the "
            f"spacing ({_spacing(view)} mm a voxel now).",
        )


def _vertex(view: View, head: Head, tested: TestedRange) -> Iterator[Finding]:
    missing = head.missing_mm(Face.SUPERIOR)
    if missing:
        found = note if tested.needs_vertex is False else warning
        yield found(
            "head.vertex-cut",
            view.name,
            f"About {missing:.0f} mm of the head lie above the field of the {view.name}, where "
            "there will be no result: use an acquisition that shows the vertex.",
        )


def _sides(view: View, head: Head) -> Iterator[Finding]:
    cut = {face: head.missing_mm(face) for face in _SIDES if head.missing_mm(face)}
    if cut:
        shown = _listed([f"{face.word} (about {mm:.0f} mm)" for face, mm in cut.items()])
        yield warning(
            "head.side-cut",
            view.name,
            f"The head goes on beyond the field of the {view.name} at the {shown}: nothing is "
            "claimed there, so use a larger field if attenuation matters.",
        )


def _base(view: View, head: Head, tested: TestedRange) -> Iterator[Finding]:
    cover = head.cover_mm + head.missing_mm(Face.SUPERIOR)
    shown = f"The {view.name} ends {cover:.0f} mm below the vertex"
    scale = min(1.0, head.length_mm / ADULT_LENGTH_MM)
    if tested.min_cover_mm is not None and cover < tested.min_cover_mm:
        yield warning(
            "head.base-cut",
            view.name,
            f"{shown} and the model was tested from {tested.min_cover_mm:g} mm: "
            "do not rely on the result near the lower end of the field.",
        )
    elif cover < SKULL_BASE_MM * scale:
        found = note if tested.needs_base is False else warning
        yield found(
            "head.base-cut",
            view.name,
            f"{shown}, above the skull base: there is no result for the base, the face and the "
            "neck, so use a longer field if attenuation matters there.",
        )
    elif cover < LOWER_FACE_MM * scale:
        yield note(
            "head.base-cut",
            view.name,
            f"{shown}: jaw and neck are not in it, and there is no result for them.",
        )


def _face(view: View, head: Head) -> Iterator[Finding]:
    setback = head.face_set_back_mm
    if setback > FACE_REMOVED_MM:
        yield warning(
            "head.defaced",
            view.name,
            f"The face seems to be removed from the {view.name} (the front lies {setback:.0f} mm "
            "behind the forehead), so that its CT cannot be right: give the image as acquired.",
        )


def _brain(view: View, head: Head, tested: TestedRange) -> Iterator[Finding]:
    brain = brain_of(head)
    told = contrast_of_tags(view.tags)
    contrast, source = (told, "its DICOM tags") if told else (brain.contrast, "its tissues")
    if tested.contrasts is not None:
        known = " or ".join(tested.contrasts)
        if contrast is None:
            yield note(
                "head.contrast",
                view.name,
                f"The contrast of the MR could not be told and the model was tested on {known}: "
                "make sure that it is that.",
            )
        elif contrast not in tested.contrasts:
            yield warning(
                "head.contrast",
                view.name,
                f"The MR is {contrast}-weighted by {source} and the model was tested on {known}: "
                f"give an MR of {known} contrast.",
            )
    if brain.brightness_ratio > STRONG_BIAS:
        yield note(
            "head.bias",
            view.name,
            f"The brain in the MR is {brain.brightness_ratio:.1f} times as bright in one place as "
            "in another: leave the bias correction on.",
        )


def _padding(view: View) -> Iterator[Finding]:
    padded = {f: mm for f, mm in view.scan.padding_mm.items() if mm > PADDING_MM}
    if padded:
        shown = _listed([f"{mm:.0f} mm at the {face.word}" for face, mm in padded.items()])
        yield note(
            "head.padding",
            view.name,
            f"The outer part of the field of the {view.name} is empty ({shown}): "
            "nothing to do, it counts as not scanned.",
        )


def _measures(head: Head) -> str:
    return f"{head.width_mm:.0f} mm wide and {head.length_mm:.0f} mm long"


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _within(value: float, limits: Range) -> bool:
    return limits[0] <= value <= limits[1]


def _spacing(view: View) -> str:
    return " x ".join(f"{s:.3g}" for s in view.volume.grid.spacing_mm)

"""What the gate says, and what a model says about the inputs it was tested on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from SynthCTLib.errors import InputError

ANATOMIES = ("head", "limb", "body")
CONTRASTS = ("t1", "t2", "pd", "flair", "ute")
Range = tuple[float, float]


class Severity(StrEnum):
    """An error: the request cannot work. A warning: the result is doubtful. A note: to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """Something about an input that the user should know before the work starts.

    ``rule`` is a key of ``RULES`` and does not change between versions; ``subject`` names the
    input ("MR", "MR and CT"); ``message`` is one sentence: what is seen, and what to do.
    """

    severity: Severity
    rule: str
    subject: str
    message: str


@dataclass(frozen=True)
class TestedRange:
    """The inputs that a model was tested on; None stands for "not stated", and is not checked.

    ``anatomy``: "head", "limb", or "body" (any part of it); the rules about heads need "head".
    ``contrasts``: MR contrasts among t1, t2, pd, flair and ute (ZTE included).
    ``spacing_mm``: finest and coarsest distance of voxels along any axis.
    ``head_width_mm`` and ``head_length_mm``: of the head mask above the ears, skin to skin.
    ``age_years``: youngest and oldest.
    ``needs_vertex`` and ``needs_base``: whether a head cut at the top, or above the skull base,
    makes the result doubtful (a warning, also when not stated) or only incomplete (False: a note).
    ``min_cover_mm``: least length of the head in the image, from the vertex downwards.

    Raises InputError when a value makes no sense.
    """

    __test__: ClassVar[bool] = False  # pytest collects classes named Test...
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    anatomy: str | None = None
    contrasts: tuple[str, ...] | None = None
    spacing_mm: Range | None = None
    head_width_mm: Range | None = None
    head_length_mm: Range | None = None
    age_years: Range | None = None
    needs_vertex: bool | None = None
    needs_base: bool | None = None
    min_cover_mm: float | None = None

    def __post_init__(self) -> None:
        if self.anatomy is not None and self.anatomy not in ANATOMIES:
            raise InputError(
                f"The tested anatomy is {self.anatomy!r}: choose {' or '.join(ANATOMIES)}."
            )
        for contrast in self.contrasts or ():
            if contrast not in CONTRASTS:
                raise InputError(
                    f"The tested contrast {contrast!r} is unknown: choose {', '.join(CONTRASTS)}."
                )
        for name in ("spacing_mm", "head_width_mm", "head_length_mm", "age_years"):
            limits: Range | None = getattr(self, name)
            if limits is not None and not 0 <= limits[0] <= limits[1] < math.inf:
                raise InputError(
                    f"The tested {name} is {limits}: give the least and the largest value."
                )
        if self.min_cover_mm is not None and not 0 < self.min_cover_mm < math.inf:
            raise InputError(f"The tested min_cover_mm is {self.min_cover_mm}: give a length.")


# Every rule of the gate and what it looks for, in the order in which they are asked.
RULES: dict[str, str] = {
    "image.not-finite": "voxels that are NaN or infinite",
    "image.empty": "one value everywhere",
    "image.few-slices": "too few voxels along an axis to be a volume",
    "image.scale": "a field of view of centimetres or of many metres",
    "image.modality": "a DICOM modality other than the role",
    "image.labels": "a label map or mask in place of an image",
    "image.synthetic": "an image that is synthetic already",
    "image.anisotropic": "slices much thicker than the voxels are wide",
    "image.spacing": "voxels coarser or finer than tested",
    "image.oblique": "a grid tilted by more than 30 degrees",
    "image.large": "a matrix that takes long",
    "image.age": "an age outside the tested range",
    "image.contrast": "an MR contrast that was not tested, by its tags (heads: head.contrast)",
    "image.head": "a head in place of a limb",
    "ct.shifted": "raw CT numbers: the rescale intercept was lost",
    "ct.looks-like-mu": "attenuation coefficients in place of HU",
    "ct.rescaled": "values scaled to 0..1 or to 8 bits",
    "ct.windowed": "HU cut to a display window",
    "ct.not-hu": "any other values that are no HU, such as an MR",
    "ct.clipped-low": "air cut off above -850 HU",
    "ct.clipped-high": "dense bone cut off at the top of the range",
    "ct.padding": "a padding value below -1024",
    "ct.metal": "metal",
    "mr.looks-like-ct": "a CT in place of an MR",
    "mr.looks-like-pet": "a PET in place of an MR",
    "mr.inverted": "air brighter than tissue",
    "mr.saturated": "many voxels at the largest value",
    "pet.looks-like-ct": "a CT in place of a PET",
    "pet.negative": "many negative values",
    "pet.not-suv": "values too large or too small for SUV, such as Bq/ml or an MR",
    "pet.not-bq": "values too small for Bq/ml, such as SUV",
    "pet.looks-like-mr": "detail that a PET cannot show",
    "pet.correction": "attenuation correction other than the role says",
    "head.scale": "a head of absurd size: the spacing is wrong",
    "head.none": "nothing stands out from the background",
    "head.brain-only": "a brain without skull and scalp",
    "head.orientation": "a head that lies another way than the header says",
    "head.not-a-head": "another part of the body",
    "head.size": "a head smaller or larger than tested, or of odd proportions",
    "head.vertex-cut": "the top of the head outside the field",
    "head.side-cut": "nose, ears or back of the head outside the field",
    "head.base-cut": "the field ends above the skull base or the jaw",
    "head.defaced": "the face removed",
    "head.contrast": "an MR contrast that was not tested, or cannot be told",
    "head.bias": "a strong bias field",
    "head.padding": "parts of the field without values",
    "pair.no-overlap": "two images that do not meet in space",
    "pair.head-size": "two heads of different size",
    "pair.patient": "two different patients, by their DICOM tags",
}


def error(rule: str, subject: str, message: str) -> Finding:
    """A finding that stops the request."""
    return Finding(Severity.ERROR, rule, subject, message)


def warning(rule: str, subject: str, message: str) -> Finding:
    """A finding that makes the result doubtful."""
    return Finding(Severity.WARNING, rule, subject, message)


def note(rule: str, subject: str, message: str) -> Finding:
    """A finding to know about."""
    return Finding(Severity.NOTE, rule, subject, message)

"""``job.json``: what is asked for. An unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from SynthCTLib.errors import InputError
from SynthCTLib.synthesis.card import MODEL_NAME
from SynthCTLib.synthesis.engines import EngineName, Precision
from SynthCTLib.synthesis.synthesizer import Anatomy
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import Role, Unit

MASK_NAME = r"^[a-z][a-z0-9_]{0,31}$"
OWN_MASKS = frozenset({"head", "body", "skull", "bone", "soft_tissue", "air", "brain", "scanned"})
SUBJECT_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class Slot(StrEnum):
    """The place of an input in a job: two of them may hold images of the same role."""

    MR = "mr"
    CT = "ct"
    PET = "pet"
    NAC_PET = "nac_pet"
    REFERENCE_CT = "reference_ct"
    REFERENCE_PET = "reference_pet"
    SYNTHETIC_CT = "synthetic_ct"

    @property
    def role(self) -> Role:
        """The role of the image in this place."""
        if self in (Slot.REFERENCE_CT, Slot.SYNTHETIC_CT):
            return Role.CT
        return Role.PET if self == Slot.REFERENCE_PET else Role(self.value)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# An MR has none, a NAC PET any; what a CT or a reference PET is compared in is fixed.
_UNITS: Mapping[Slot, tuple[Unit, ...]] = {
    Slot.PET: (Unit.SUV, Unit.BQ_PER_ML),
    Slot.NAC_PET: (Unit.ARBITRARY, Unit.SUV, Unit.BQ_PER_ML),
    Slot.REFERENCE_PET: (Unit.SUV,),
    Slot.CT: (Unit.HU,),
    Slot.REFERENCE_CT: (Unit.HU,),
    Slot.SYNTHETIC_CT: (Unit.HU,),
    Slot.MR: (Unit.ARBITRARY,),
}


class InputFile(_Part):
    """An image file or DICOM folder. A relative path is relative to the job folder, inside it.

    ``sha256`` (of a folder :func:`.folder.digest_of` it) is checked before work when given;
    ``unit`` is stated where the file says none; ``series`` chooses a DICOM series by UID or
    modality.
    """

    path: Path
    sha256: str | None = None
    unit: Unit | None = None
    series: str | None = None


class Options(_Part):
    """How the job is done.

    ``registration``: how a reference CT is brought onto the synthetic CT's grid (``deformable``
    follows what bent between MR and CT on top of the rigid one, and needs the MR), unless
    ``transform`` names a file with the transform (points of the MR to points of the CT, LPS mm).
    ``anatomy``: None takes the model's. ``threads``: None takes all cores.
    ``engine`` and ``precision``: of a network, see ``synthesis.engines``.
    ``cache_dir``: a folder that outlives the job, None for none. ``models_dir``: the folder of the
    user's own models, None for none. ``masks``: further masks to evaluate in, by name, each a file
    in the frame of the synthetic CT. Relative paths of ``transform`` and ``masks`` are as those of
    inputs; ``sha256`` are the hashes of these files, by ``transform`` and ``mask.NAME``, checked
    when given. ``pet_effect``: tell what an error, or the uncertainty, does
    to a PET. ``images`` and ``report``: False writes none.
    """

    registration: Literal["rigid", "deformable", "none"] = "rigid"
    transform: Path | None = None
    bias_correction: bool = True
    remove_table: bool = True
    convention: str = "carney-140"
    head_field_mm: Annotated[float, Field(gt=50, le=400)] = 170.0
    anatomy: Anatomy | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    engine: EngineName = EngineName.AUTO
    precision: Precision = Precision.AUTO
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    cache_dir: Path | None = None
    models_dir: Path | None = None
    keep_work: bool = False
    pet_effect: bool = True
    images: bool = True
    report: bool = True
    masks: dict[Annotated[str, Field(pattern=MASK_NAME)], Path] = {}
    sha256: dict[str, str] = {}

    @property
    def files(self) -> dict[str, Path]:
        """The files that the options name: ``transform`` and ``mask.NAME``."""
        named = {f"mask.{name}": path for name, path in self.masks.items()}
        return named if self.transform is None else {"transform": self.transform, **named}

    @model_validator(mode="after")
    def _masks_are_new(self) -> Options:
        taken = sorted(OWN_MASKS & set(self.masks))
        if taken:
            raise ValueError(f"the mask {taken[0]} is made by SynthCT: give yours another name")
        return self


class JobRequest(_Part):
    """A synthesis (``task`` names it) or the evaluation of a synthetic CT (``task`` is None)."""

    schema_version: Literal[1] = 1
    subject: Annotated[str, Field(pattern=SUBJECT_NAME)] = "subject"
    task: Task | None
    model: Annotated[str, Field(pattern=MODEL_NAME)] | None = None
    inputs: dict[Slot, InputFile]
    options: Options = Options()

    @model_validator(mode="after")
    def _in_their_units(self) -> JobRequest:
        for slot, entry in self.inputs.items():
            if entry.unit is not None and entry.unit not in _UNITS[slot]:
                units = " or ".join(_UNITS[slot])
                raise ValueError(f"the unit of {slot} is {units}, not {entry.unit}")
        return self

    @model_validator(mode="after")
    def _complete(self) -> JobRequest:
        if self.task is not None and Slot(self.task.input_role.value) not in self.inputs:
            raise ValueError(f"task {self.task} needs an input {self.task.input_role}")
        if self.task is not None:
            makes = self.task.output_role
            for slot in (Slot.REFERENCE_CT, Slot.REFERENCE_PET):
                if slot in self.inputs and slot.role != makes:
                    raise ValueError(f"task {self.task} makes a {makes}, so {slot} is no reference")
            if Slot.PET in self.inputs and makes == Role.PET:
                raise ValueError("a pet judges a synthetic CT: give reference_pet to compare PETs")
        if self.task is None:
            for slot in (Slot.REFERENCE_CT, Slot.SYNTHETIC_CT):
                if slot not in self.inputs:
                    raise ValueError(f"an evaluation needs an input {slot}")
            # Deformed onto the synthetic CT, the reference would take on its errors.
            if self.options.registration == "deformable" and Slot.MR not in self.inputs:
                raise ValueError("a deformable registration needs the mr, to be made onto it")
        return self


def request_from(text: str, where: str) -> JobRequest:
    """Read a request from JSON. Raises InputError that names the key that is wrong."""
    try:
        return JobRequest.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"The request {where} is not valid: {explain(error)}.") from error


def explain(error: ValidationError) -> str:
    """The reasons of a validation error in one line."""
    reasons = []
    for item in error.errors():
        place = ".".join(str(p) for p in item["loc"])
        said = item["msg"].removeprefix("Value error, ")
        if item["type"] == "string_pattern_mismatch":
            letters = (
                "lower-case letters, digits" if place == "model" else "letters, digits, dots, _"
            )
            said = f"{item['input']!r} is no name ({letters} and hyphens)"
        reasons.append(f"{place}: {said}" if place else said)
    return "; ".join(reasons)

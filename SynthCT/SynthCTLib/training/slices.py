"""Examples for two-dimensional networks: slices of pairs, whatever the task.

    data/subject/mr.nii.gz, ct.nii.gz, pet.nii.gz [, nac_pet.nii.gz]

The task says which of them is the input and which the target; a NAC PET that is not there is
simulated from the PET and the CT (``physics.nac``). Each subject is brought onto cubic voxels as
where the model is used, once, and kept. Slices along one to three axes (Paper 5: axial alone, or
augmented by the other two) are cut, padded to one size, and mirrored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import resample, scanned_field, to_lps
from SynthCTLib.imaging.table import remove_table
from SynthCTLib.physics.nac import nac_pet
from SynthCTLib.progress import Progress
from SynthCTLib.registration import RigidOptions, register_rigid
from SynthCTLib.synthesis.preparation import Preparation, prepare
from SynthCTLib.synthesis.task import Task
from SynthCTLib.synthesis.working_view import Region, averaged, view_of
from SynthCTLib.training.examples import Batch, Case
from SynthCTLib.training.pairs import SUFFIXES, Split
from SynthCTLib.volume import AIR_HU, Role, Volume, sha256_of
from SynthCTLib.whole_file import whole_file

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Axis = Literal["z", "y", "x"]
Count = Annotated[int, Field(ge=1)]

LEAST_CANVAS = (16, 16, 16)
LEAST_SHARE = 0.02  # of a slice that is inside the body and known, for it to be an example


@dataclass(frozen=True)
class SliceSettings:
    """How subjects become slices.

    ``spacing_mm``: cubic voxels. ``size`` (rows, columns) of a slice in voxels: what is smaller is
    padded, what is larger cut at random. ``axes`` that slices are cut across (z: axial, y: coronal,
    x: sagittal). ``mirror``: whether half of the slices are mirrored left to right, where they
    have a left and a right. ``register``: ``rigid`` brings what was scanned with the CT onto an MR,
    ``none`` takes everything as it lies. ``region``: where errors count. ``folds`` as for pairs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    spacing_mm: Annotated[float, Field(gt=0)] = 3.0
    size: tuple[Count, Count] = (128, 128)
    axes: Annotated[tuple[Axis, ...], Field(min_length=1)] = ("z",)
    batch: Count = 8
    mirror: bool = True
    register: Literal["rigid", "none"] = "rigid"
    remove_table: bool = True
    region: Region = Region.BODY
    target_range: tuple[float, float] = (0.0, 20.0)
    folds: Annotated[int, Field(ge=2)] = 5


@dataclass(frozen=True)
class SliceSubject:
    """The folder of a subject and its images by role."""

    name: str
    files: dict[Role, Path]


@dataclass(frozen=True)
class Prepared:
    """A subject on one canvas of cubic voxels.

    ``image`` (channels, z, y, x) as the network sees it, ``target`` (HU or SUV) and ``weight``
    (z, y, x), 1 where both were scanned inside the region.
    """

    image: npt.NDArray[np.float16]
    target: Array
    weight: Mask


def needed_roles(task: Task, register: str) -> tuple[Role, ...]:
    """The images that a subject must have. A NAC PET is needed as PET and CT, to simulate it."""
    if task == Task.NAC_PET_TO_CT:
        return (Role.PET, Role.CT)
    moved = task == Task.MR_TO_PET and register == "rigid"
    return (task.input_role, task.output_role, *([Role.CT] if moved else []))


def find_slice_subjects(folder: Path, roles: tuple[Role, ...]) -> tuple[SliceSubject, ...]:
    """All subjects of a folder, by name. Raises InputError naming those that lack an image."""
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}: give the folder of the subjects with --data."
        )
    found, incomplete = [], []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = {
            role: path
            for role in (*roles, Role.NAC_PET)
            for path in (place / f"{role}{suffix}" for suffix in reversed(SUFFIXES))
            if path.is_file()
        }
        if all(role in files for role in roles):
            found.append(SliceSubject(place.name, files))
        elif files:
            incomplete.append(place.name)
    wanted = ", ".join(f"{role}.nii.gz" for role in roles)
    if incomplete:
        raise InputError(
            f"{', '.join(incomplete[:5])} in {folder} lack an image of {wanted}: "
            "add it, or move these folders away."
        )
    if not found:
        raise InputError(
            f"There are no subjects in {folder}: give a folder with one folder for each subject "
            f"that holds {wanted}."
        )
    return tuple(found)


class SliceSource:
    """See the module. ``folder`` keeps prepared subjects; they are held in memory as well."""

    def __init__(
        self,
        task: Task,
        settings: SliceSettings,
        subjects: tuple[SliceSubject, ...],
        split: Split,
        preparation: Preparation,
        folder: Path,
        seed: int,
        device: str,
        progress: Progress,
    ) -> None:
        self.task, self.settings, self.split = task, settings, split
        self.preparation, self.seed, self.device = preparation, seed, device
        progress.stage("Preparing the subjects", 1.0)
        self._prepared: dict[str, Prepared] = {}
        wanted = [s for s in subjects if s.name in (*split.train, *split.validation)]
        for index, subject in enumerate(wanted):
            made = kept_subject(task, settings, subject, preparation, folder, progress)
            self._prepared[subject.name] = made
            progress.update((index + 1) / len(wanted), subject.name)
        self.slices = tuple(
            (name, axis, place)
            for name in split.train
            for axis in settings.axes
            for place in _useful(self._prepared[name].weight, axis)
        )
        if not self.slices:
            raise InputError(
                "No slice of the subjects shows a body in both images: check that input and "
                "target lie in one frame."
            )

    @property
    def epoch_steps(self) -> int:
        """Steps in which every slice is seen once."""
        return max(1, -(-len(self.slices) // self.settings.batch))

    def batch(self, step: int, rank: int = 0) -> Batch:
        """Slices as volumes of one plane: (n, channels, 1, rows, columns)."""
        images, targets, weights = [], [], []
        for number in range(step * self.settings.batch, (step + 1) * self.settings.batch):
            epoch, place = divmod(number, len(self.slices))
            order = np.random.default_rng((self.seed, rank, epoch)).permutation(len(self.slices))
            random = np.random.default_rng((self.seed, rank, number, 1))
            name, axis, where = self.slices[order[place]]
            image, target, weight = self.slice_of(name, axis, where, random)
            images.append(image)
            targets.append(target)
            weights.append(weight)
        made = (torch.from_numpy(np.stack(p)).to(self.device) for p in (images, targets, weights))
        return Batch(*made)

    def cases(self) -> Iterator[Case]:
        """The validation subjects, whole, padded to the size of a slice at least."""
        rows, columns = self.settings.size
        for name in self.split.validation:
            kept = self._prepared[name]
            arrays = []
            for values, outside in self._with_outside(kept):
                shape = values.shape[-3:]
                sides = (shape[0], max(shape[1], rows), max(shape[2], columns))
                arrays.append(self._tensor(_padded(values, sides, outside)))
            yield Case(name, arrays[0], arrays[1][0], arrays[2][0])

    def slice_of(
        self, name: str, axis: Axis, place: int, random: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Image, target and weight of a slice, (channels, 1, rows, columns), float32."""
        flipped = self.settings.mirror and axis != "x" and random.random() < 0.5
        where = random.random(2)
        made = []
        for values, outside in self._with_outside(self._prepared[name]):
            plane = np.take(values, place, axis="zyx".index(axis) + 1)
            plane = plane[..., ::-1] if flipped else plane
            fitted = _fitted(plane, self.settings.size, where, outside)
            made.append(np.ascontiguousarray(fitted[:, np.newaxis], np.float32))
        return made[0], made[1], made[2]

    def _with_outside(self, kept: Prepared) -> tuple[tuple[npt.NDArray[np.generic], float], ...]:
        """Image, target and weight, (channels, z, y, x), each with its value where nothing is."""
        air = AIR_HU if self.task.output_role == Role.CT else 0.0
        return (
            (kept.image, self.preparation.outside),
            (kept.target[np.newaxis], air),
            (kept.weight[np.newaxis], 0.0),
        )

    def _tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)


def prepared_subject(
    task: Task, settings: SliceSettings, subject: SliceSubject, preparation: Preparation
) -> Prepared:
    """Bring a subject's input and target onto one canvas. Raises InputError naming the subject."""
    try:
        images = images_of(task, settings, subject)
        source, target = images[task.input_role], images[task.output_role]
        transform = None
        if Role.MR in images and settings.register == "rigid":
            transform = register_rigid(images[Role.MR], images[Role.CT], RigidOptions()).transform
        view = view_of(source, settings.region, settings.spacing_mm, 0.0, 0.0, LEAST_CANVAS)
        moved = resample(averaged(target, settings.spacing_mm), view.grid, transform=transform)
        known = scanned_field(target, view.grid, transform).array > 0
        channels = prepare(view.mr, view.scanned, view.region, preparation)
    except InputError as error:
        raise InputError(f"Subject {subject.name}: {error}") from error
    values = np.clip(moved.array, *settings.target_range).astype(np.float32)
    return Prepared(channels.astype(np.float16), values, view.scanned & known & view.region)


def images_of(task: Task, settings: SliceSettings, subject: SliceSubject) -> dict[Role, Volume]:
    """The images that a task needs, in LPS axis order, a CT without the scanner's table.

    A NAC PET that is needed and not there is simulated.
    """
    images = {
        role: to_lps(read_volume(path, role)).volume
        for role, path in subject.files.items()
        if role != Role.NAC_PET or task == Task.NAC_PET_TO_CT
    }
    if Role.CT in images and settings.remove_table:
        images[Role.CT] = remove_table(images[Role.CT]).volume
    if task == Task.NAC_PET_TO_CT and Role.NAC_PET not in images:
        images[Role.NAC_PET] = nac_pet(images[Role.PET], images[Role.CT])
    return images


def kept_subject(
    task: Task,
    settings: SliceSettings,
    subject: SliceSubject,
    preparation: Preparation,
    folder: Path,
    progress: Progress,
) -> Prepared:
    """The prepared subject from its file in ``folder``, or made now and kept."""
    part = asdict(settings)
    for name in ("size", "axes", "batch", "mirror", "folds"):  # change no prepared subject
        part.pop(name)
    key = json.dumps(
        [
            str(task),
            part,
            asdict(preparation),
            {str(role): sha256_of(path) for role, path in sorted(subject.files.items())},
        ],
        sort_keys=True,
    )
    path = folder / f"{subject.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        if task == Task.NAC_PET_TO_CT and Role.NAC_PET not in subject.files:
            progress.say(f"The NAC PET of {subject.name} is simulated from its PET and CT.")
        made = prepared_subject(task, settings, subject, preparation)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft, draft.open("wb") as out:
            np.savez_compressed(out, image=made.image, target=made.target, weight=made.weight)
    with np.load(path) as arrays:
        return Prepared(arrays["image"], arrays["target"], arrays["weight"])


def _useful(weight: Mask, axis: Axis) -> list[int]:
    """The slices across an axis that show enough."""
    others = tuple(a for a in range(3) if a != "zyx".index(axis))
    return [int(i) for i in np.flatnonzero(weight.mean(axis=others) >= LEAST_SHARE)]


def _fitted(
    plane: npt.NDArray[np.generic],
    size: tuple[int, int],
    where: npt.NDArray[np.float64],
    outside: float,
) -> npt.NDArray[np.generic]:
    """A plane (..., rows, columns) padded or cut to a size; ``where`` (0..1) places it."""
    for axis, (side, share) in enumerate(zip(size, where, strict=True), start=plane.ndim - 2):
        length = plane.shape[axis]
        if length > side:
            first = round(share * (length - side))
            plane = np.take(plane, range(first, first + side), axis=axis)
        elif length < side:
            before = round(share * (side - length))
            margins = [(0, 0)] * plane.ndim
            margins[axis] = (before, side - length - before)
            plane = np.pad(plane, margins, constant_values=outside)
    return plane


def _padded(
    values: npt.NDArray[np.generic], sides: tuple[int, int, int], outside: float
) -> npt.NDArray[np.generic]:
    """An array (channels, z, y, x) in the middle of a larger one."""
    margins = [(0, 0)]
    for length, side in zip(values.shape[1:], sides, strict=True):
        margins.append(((side - length) // 2, side - length - (side - length) // 2))
    return np.pad(values, margins, constant_values=outside)

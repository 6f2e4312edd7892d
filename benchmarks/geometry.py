"""Does the way an image is stored change the answer? Every model, 24 axis orders, 8 oblique grids.

    python benchmarks/geometry.py [--atlases N] [--working-mm MM] [--subject-mm MM] [--models ...]

A shipped real image, a head (adult, 1.6 mm) or the limb of the sample patient as the model's card
says, is stored in each of the 24 right-handed axis orders and, turned as a rigid body, on 8 oblique
grids, each in another axis order again. The output must have exactly the grid of the input; once
the axis order is undone, the answer must be the same, a pseudo-CT to 1 HU in the mean. Atlas models
and networks of patches run on a coarse grid of their own, the former with few atlases, the latter
in small patches and without the mirrored pass: the law is about the input's grid, which these
settings do not touch.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import isotropic_grid, own_frame, resample, to_lps
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer
from SynthCTLib.synthesis.patchwise import PatchwiseSettings, PatchwiseSynthesizer
from SynthCTLib.synthesis.registry import Machine, list_models, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import ModelCard, Synthesizer
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import Role, Unit, Volume

OBLIQUE = 8
SIDE = 64  # of a network's patch


def axis_orders() -> list[str]:
    """The 24 right-handed orientation codes, LPS first."""
    codes = []
    for axes in itertools.permutations(["LR", "PA", "SI"]):
        for letters in itertools.product(*axes):
            code = "".join(letters)
            still = sitk.Image(2, 2, 2, sitk.sitkUInt8)
            direction = np.reshape(sitk.DICOMOrient(still, code).GetDirection(), (3, 3))
            if np.linalg.det(direction) > 0:
                codes.append(code)
    return sorted(codes, key=lambda c: c != "LPS")


def turned(volume: Volume, seed: int) -> Volume:
    """The same voxels on a grid turned by up to 25 degrees and shifted: the head turns with it."""
    angles = np.random.default_rng(seed).uniform(-0.43, 0.43, 3)
    rotation = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3))
    image = sitk.Image(volume.image)
    direction = rotation @ np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((rotation @ image.GetOrigin() + [5, -8, 11]).tolist())
    return volume.with_image(image)


def same_inside(head: Volume) -> tuple[int, int]:
    """In how many axis orders, and oblique grids, a model sees the same volume exactly.

    Atlas models work in the frame of the grid's own axes, networks on its voxels in LPS order.
    """
    first = own_frame(to_lps(head).volume)

    def same(stored: Volume) -> bool:
        seen = own_frame(to_lps(stored).volume)
        return seen.grid == first.grid and np.array_equal(seen.array, first.array)

    orders = axis_orders()
    upright = sum(same(head.with_image(sitk.DICOMOrient(head.image, code))) for code in orders)
    return upright, sum(same(oblique(head, seed)) for seed in range(OBLIQUE))


def oblique(head: Volume, seed: int) -> Volume:
    """The head on an oblique grid, in another axis order."""
    orders = axis_orders()
    tilted = turned(head, seed)
    return tilted.with_image(sitk.DICOMOrient(tilted.image, orders[(5 * seed + 1) % len(orders)]))


def subject_of(card: ModelCard, spacing_mm: float | None) -> Volume:
    """A shipped real image that a model can be asked about."""
    task = Task(card.task)
    if card.tested.anatomy != "head":
        names = {Role.MR: "mr", Role.CT: "ct", Role.NAC_PET: "nac_pet"}
        file = resource("SampleData", "STS_014", f"{names[task.input_role]}.nii.gz")
        unit = Unit.SUV if task.input_role is Role.NAC_PET else None
        volume = read_volume(file, task.input_role, unit)
    else:
        volume = read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)
    return resample(volume, isotropic_grid(volume.grid, spacing_mm)) if spacing_mm else volume


def model_named(name: str, atlases: int, working_mm: float) -> Synthesizer:
    machine = Machine("cpu", 2, default_cache_folder())
    model = open_model(name, machine)
    if isinstance(model, AtlasSynthesizer):
        settings = settings_of(model.card, AtlasSettings)
        cheap = replace(
            settings,
            atlases=settings.atlases[:atlases],
            minimum_atlases=1,
            working_mm=working_mm,
            similarity_mm=max(settings.similarity_mm, working_mm),
        )
        return AtlasSynthesizer(model.card, cheap, machine)
    if isinstance(model, PatchwiseSynthesizer):
        settings = settings_of(model.card, PatchwiseSettings)
        window = replace(settings.window, patch=(SIDE, SIDE, SIDE))
        coarse = replace(settings, working_mm=working_mm, window=window, mirror=())
        return PatchwiseSynthesizer(model.card, coarse, machine)
    return model


@dataclass
class Changes:
    """What storing an image otherwise did to the answer (HU, or SUV of a PET)."""

    stored: int = 0
    kept: int = 0
    mean: float = 0.0
    voxel: float = 0.0

    def count(self, made: Volume, stored: Volume, straight: npt.NDArray[np.float32]) -> None:
        """One more answer. ``straight``: what it should be, in LPS axis order (z, y, x)."""
        self.stored += 1
        self.kept += made.grid == stored.grid
        change = np.abs(sitk.GetArrayFromImage(sitk.DICOMOrient(made.image, "LPS")) - straight)
        self.mean = max(self.mean, float(change.mean()))
        self.voxel = max(self.voxel, float(change.max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cards = {card.name: card for card in list_models()}
    parser.add_argument("--atlases", type=int, default=2, help="of the atlas models, to save time")
    parser.add_argument("--working-mm", type=float, default=4.0, help="grid that models work on")
    parser.add_argument("--subject-mm", type=float, help="resample the image to this spacing")
    parser.add_argument("--orders", type=int, default=24, help="so many axis orders")
    parser.add_argument("--oblique", type=int, default=OBLIQUE, help="so many oblique grids")
    parser.add_argument("--models", nargs="+", default=list(cards), choices=cards)
    arguments = parser.parse_args()
    head = subject_of(cards["head-unet"], arguments.subject_mm)
    print(
        f"A real head and a real limb (N = 1 each, {min(head.grid.spacing_mm):.3g} mm). Models "
        f"work on {arguments.working_mm:g} mm, atlas models with {arguments.atlases} atlases.\n"
    )
    upright_same, oblique_same = same_inside(head)
    print(
        "Before any model: in the frame of its own axes, the head is the same to the last bit in "
        f"{upright_same} of 24 axis orders and on {oblique_same} of {OBLIQUE} oblique grids.\n"
    )
    print(
        "| model | image | grids kept | largest mean change, axis orders | of a voxel "
        "| largest mean change, oblique | of a voxel |\n|---|---|---|---|---|---|---|"
    )
    # The first order is that of the straight answer.
    orders = axis_orders()[1:] if arguments.orders < 24 else axis_orders()
    for name in arguments.models:
        model = model_named(name, arguments.atlases, arguments.working_mm)
        image = subject_of(cards[name], arguments.subject_mm)

        def answered(stored: Volume, model: Synthesizer = model) -> Volume:
            return model.synthesize({stored.role: stored}, Progress()).volume

        first = answered(image)
        straight = sitk.GetArrayFromImage(sitk.DICOMOrient(first.image, "LPS"))
        upright, tilted = Changes(), Changes()
        for code in orders[: arguments.orders]:
            stored = image.with_image(sitk.DICOMOrient(image.image, code))
            upright.count(answered(stored), stored, straight)
        for seed in range(arguments.oblique):
            stored = oblique(image, seed)
            tilted.count(answered(stored), stored, straight)
        unit = first.unit.value
        print(
            f"| {name} | {'limb' if cards[name].tested.anatomy != 'head' else 'head'}, "
            f"{image.role.value} | {upright.kept + tilted.kept}/{upright.stored + tilted.stored} "
            f"| {upright.mean:.3f} {unit} | {upright.voxel:.2f} {unit} "
            f"| {tilted.mean:.3f} {unit} | {tilted.voxel:.2f} {unit} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

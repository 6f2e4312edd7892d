"""Does the way an image is stored change the answer? Every model, 24 axis orders, 8 oblique grids.

    python benchmarks/geometry.py [--atlases N] [--working-mm MM] [--models NAME ...]
                                  [--orders N] [--oblique N]

A shipped real head (adult, 1.6 mm) is stored in each of the 24 right-handed axis orders and,
turned as a rigid body, on 8 oblique grids. The output must have exactly the grid of the input; once
the axis order is undone, the pseudo-CT must be the same to 1 HU in the mean. The atlas models run
with few atlases on a coarse grid of their own: the law is about the input's grid, which these
settings do not touch.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer
from SynthCTLib.synthesis.registry import Machine, list_models, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Synthesizer
from SynthCTLib.synthesis.task import Task
from SynthCTLib.volume import Role, Volume


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


def same_inside(head: Volume) -> int:
    """In how many axis orders a model that works in LPS order sees the same volume exactly."""
    first = to_lps(head).volume
    count = 0
    for code in axis_orders():
        seen = to_lps(head.with_image(sitk.DICOMOrient(head.image, code))).volume
        count += seen.grid == first.grid and np.array_equal(seen.array, first.array)
    return count


def model_named(name: str, atlases: int, working_mm: float) -> Synthesizer:
    machine = Machine("cpu", 2, default_cache_folder())
    model = open_model(name, machine)
    if not isinstance(model, AtlasSynthesizer):
        return model
    settings = settings_of(model.card, AtlasSettings)
    cheap = replace(
        settings,
        atlases=settings.atlases[:atlases],
        minimum_atlases=1,
        working_mm=working_mm,
        similarity_mm=max(settings.similarity_mm, working_mm),
    )
    return AtlasSynthesizer(model.card, cheap, machine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [card.name for card in list_models(Task.MR_TO_CT)]
    parser.add_argument("--atlases", type=int, default=2, help="of the atlas models, to save time")
    parser.add_argument("--working-mm", type=float, default=4.0, help="grid of the atlas models")
    parser.add_argument("--orders", type=int, default=24, help="the first so many axis orders")
    parser.add_argument("--oblique", type=int, default=8, help="so many oblique grids")
    parser.add_argument("--models", nargs="+", default=names)
    arguments = parser.parse_args()
    head = read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)
    print(
        f"Real head (N = 1), {arguments.orders} axis orders and {arguments.oblique} oblique grids; "
        "atlas models with "
        f"{arguments.atlases} atlases, combined on {arguments.working_mm:g} mm.\n"
    )
    print(
        "Before any model: brought into its own axis order, the head is the same to the last bit "
        f"in {same_inside(head)} of 24 axis orders.\n"
    )
    print(
        "| model | grids kept | largest mean change, axis orders (HU) "
        "| largest voxel change (HU) | largest mean change, turned with the head (HU) |\n"
        "|---|---|---|---|---|"
    )
    for name in arguments.models:
        model = model_named(name, arguments.atlases, arguments.working_mm)
        first = None
        kept, mean_change, voxel_change, oblique_change = 0, 0.0, 0.0, 0.0
        for code in axis_orders()[: arguments.orders]:
            stored = head.with_image(sitk.DICOMOrient(head.image, code))
            made = model.synthesize({Role.MR: stored}, Progress()).volume
            kept += made.grid == stored.grid
            values = sitk.GetArrayFromImage(sitk.DICOMOrient(made.image, "LPS"))
            first = values if first is None else first
            change = np.abs(values - first)
            mean_change = max(mean_change, float(change.mean()))
            voxel_change = max(voxel_change, float(change.max()))
        straight = model.synthesize({Role.MR: head}, Progress()).volume.array
        for seed in range(arguments.oblique):
            stored = turned(head, seed)
            made = model.synthesize({Role.MR: stored}, Progress()).volume
            kept += made.grid == stored.grid
            oblique_change = max(oblique_change, float(np.abs(made.array - straight).mean()))
        print(
            f"| {name} | {kept}/{arguments.orders + arguments.oblique} | {mean_change:.3f} "
            f"| {voxel_change:.2f} | {oblique_change:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""A folder of simulated pairs for ``synthct train``, one for each head label map of the data pack.

    python benchmarks/simulated_pairs.py --data-pack DIR --out DIR [--spacing 1]

MR and CT of each anatomy by SynthCT's phantom, on one grid, for papers 1 and 2 where no patient's
head is at hand (``paper1.py``, ``paper2.py``); ``--pet`` adds an FDG PET for Paper 5.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from SynthCTLib.imaging.files import read_label_map, write_volume
from SynthCTLib.imaging.grids import isotropic_grid, resample
from SynthCTLib.phantom import PhantomOptions, clean_labels, make_fdg, make_pair
from SynthCTLib.training.recipe import Recipe

SEED = 900


def make_pairs(
    data_pack: Path,
    out: Path,
    only: Collection[str] | None = None,
    spacing_mm: float = 1.0,
    *,
    pet: bool = False,
) -> None:
    """Pairs of the label maps that are named, or of all; those that lie there are kept."""
    maps = sorted((data_pack / "labels").glob("head_*.nii.gz"))
    for index, path in enumerate(maps):
        name = path.name.removesuffix(".nii.gz")
        folder = out / name
        wanted = only is None or name in only
        if not wanted or (folder / "ct.nii.gz").is_file():
            continue
        labels = clean_labels(read_label_map(path))
        pair = make_pair(labels, PhantomOptions(), seed=SEED + index)
        images = {"mr.nii.gz": pair.mr, "ct.nii.gz": pair.ct}
        if pet:
            images["pet.nii.gz"] = make_fdg(labels, seed=SEED + index)
        folder.mkdir(parents=True, exist_ok=True)
        for file, volume in images.items():
            grid = isotropic_grid(volume.grid, spacing_mm)
            write_volume(volume if spacing_mm == 1.0 else resample(volume, grid), folder / file)
        print(name, flush=True)


def as_they_lie(recipe: Recipe) -> Recipe:
    """A recipe for simulated pairs, which need no registration and hold no table."""
    settings = {**recipe.source.settings, "register": "none", "remove_table": False}
    return recipe.model_copy(
        update={"source": recipe.source.model_copy(update={"settings": settings})}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=1.0, help="mm; the label maps have 1")
    parser.add_argument("--pet", action="store_true", help="simulate an FDG PET as well")
    parser.add_argument("--only", nargs="*", help="names of label maps; all without")
    arguments = parser.parse_args()
    make_pairs(
        arguments.data_pack,
        arguments.out,
        arguments.only or None,
        arguments.spacing,
        pet=arguments.pet,
    )


if __name__ == "__main__":
    main()

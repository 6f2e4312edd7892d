"""HU of bone in the phantom's CT against a real head CT (simulated N = 3 x 3 seeds, real N = 1).

    python benchmarks/phantom_bone.py --data-pack DIR [--out DIR]

Bone is every voxel of the head from 300 HU up, between the vertex and 160 mm below it. The phantom
is brought onto voxels like the real scan's first (mean over its slice thickness). The distance is
the first Wasserstein distance between the two distributions of HU, those of the seeds pooled. The
means of the bones were fitted to this one scan: the figure shows a fit, not a prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.stats import wasserstein_distance

from SynthCTLib.imaging.files import read_label_map, read_volume
from SynthCTLib.imaging.grids import resample, to_lps
from SynthCTLib.imaging.masks import head_field_of_view, head_mask, skull_mask
from SynthCTLib.phantom import clean_labels, make_pair
from SynthCTLib.volume import Grid, Role, Volume

mpl.use("agg")
import matplotlib.pyplot as plt

HELD_OUT = ("head_05", "head_12", "head_18")
SEEDS = (7, 8, 9)
EXTENT_MM = 160.0
PERCENTILES = (5, 25, 50, 75, 95)
FINE_SLICES = 2  # linear samples that are averaged over the thickness of one slice

Values = npt.NDArray[np.float64]


def bone_hu(ct: Volume, head: Volume) -> Values:
    """HU of the bone voxels from the vertex down."""
    skull = skull_mask(ct, head).array.astype(bool)
    near_vertex = head_field_of_view(head, EXTENT_MM).array.astype(bool)
    return np.asarray(ct.array[skull & near_vertex], dtype=np.float64)


def bone_share(ct: Volume, head: Volume) -> float:
    """Part of the head, from the vertex down, that is bone."""
    near_vertex = head_field_of_view(head, EXTENT_MM).array.astype(bool)
    return len(bone_hu(ct, head)) / float(np.sum(near_vertex & head.array.astype(bool)))


def scanned_like(phantom: Volume, scan: Volume) -> Volume:
    """The phantom's CT (LPS axes) with the voxel size of the scan."""
    x, y, thickness = scan.grid.spacing_mm
    spacing = (x, y, thickness / FINE_SLICES)
    size = [int(e / s) for e, s in zip(phantom.grid.extent_mm, spacing, strict=True)]
    fine = Grid(
        (size[0], size[1], size[2] // FINE_SLICES * FINE_SLICES),
        spacing,
        phantom.grid.origin_mm,
        phantom.grid.direction,
    )
    sampled = resample(phantom, fine)
    return sampled.with_image(sitk.BinShrink(sampled.image, (1, 1, FINE_SLICES)))


def row(name: str, kind: str, share: float, values: Values, real: Values) -> str:
    figures = " | ".join(f"{p:.0f}" for p in np.percentile(values, PERCENTILES))
    distance = "" if values is real else f"{wasserstein_distance(values, real):.0f}"
    return f"| {name} | {kind} | {100 * share:.1f} | {figures} | {distance} |"


def draw(path: Path, real: Values, simulated: Iterable[tuple[str, Values]]) -> None:
    bins = np.arange(300, 2500, 40)
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.hist(real, bins, density=True, color="0.8", label="real")
    for name, values in simulated:
        axes.hist(values, bins, density=True, histtype="step", label=f"{name}, simulated")
    axes.set(xlabel="HU", ylabel="density", title="Bone of the head, 300 HU and more")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    scan = to_lps(read_volume(arguments.data_pack / "heads/adult_ct_unpaired.nii.gz", Role.CT))
    real_head = head_mask(scan.volume)
    real = bone_hu(scan.volume, real_head)
    titles = " | ".join(f"{p} %" for p in PERCENTILES)
    print(f"| head | | bone, % of head | {titles} | distance to real, HU |")
    print("|---|---|--:" + "|--:" * (len(PERCENTILES) + 1) + "|")
    print(row("adult_ct_unpaired", "real", bone_share(scan.volume, real_head), real, real))

    simulated: dict[str, Values] = {}
    for name in HELD_OUT:
        labels = clean_labels(read_label_map(arguments.data_pack / "labels" / f"{name}.nii.gz"))
        cts = [
            scanned_like(to_lps(make_pair(labels, seed=seed).ct).volume, scan.volume)
            for seed in SEEDS
        ]
        head = head_mask(cts[0])
        simulated[name] = np.concatenate([bone_hu(ct, head) for ct in cts])
        print(row(name, "simulated", bone_share(cts[0], head), simulated[name], real), flush=True)
    pooled = np.concatenate(list(simulated.values()))
    print(f"\nAll simulated heads together: {wasserstein_distance(pooled, real):.0f} HU from real.")
    draw(arguments.out / "phantom_bone.png", real, simulated.items())


if __name__ == "__main__":
    main()

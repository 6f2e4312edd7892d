"""The head model beside the atlas method on the real heads: a picture to look at.

    python benchmarks/head_model_pictures.py --data-pack DIR --out docs/images/head-models.png

One row a head and plane: MR, atlas-fusion, head-unet and its uncertainty. There is no CT of these
heads. The patient's right is on the left of the picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.volume import Role, Volume

HEADS = {
    "adult, 1 mm": "adult_t1_1mm_no_neck.nii.gz",
    "3-year-old, 0.9 mm": "child_3y_t1.nii.gz",
    "Colin 27, 1 mm": "colin27_t1.nii.gz",
    "adult, 1.6 mm": "adult_t1_1.6mm_neck.nii.gz",
}
TITLES = ("MR", "atlas-fusion", "head-unet", "uncertainty of head-unet")


def planes(volume: Volume, centre: tuple[int, int, int]) -> list[tuple[np.ndarray, float]]:
    """Axial, coronal and sagittal, as pictures with the height of a pixel over its width."""
    upright = to_lps(volume).volume
    x_mm, y_mm, z_mm = upright.grid.spacing_mm
    z, y, x = centre
    array = upright.array
    return [
        (array[z], y_mm / x_mm),
        (array[::-1, y], z_mm / x_mm),
        (array[::-1, :, x], z_mm / y_mm),
    ]


def middle(ct: Volume) -> tuple[int, int, int]:
    """The middle of the head, a little above its centre."""
    head = np.argwhere(to_lps(ct).volume.array > -300)
    low, high = head.min(axis=0), head.max(axis=0)
    z, y, x = ((low + high) / 2).astype(int)
    return int(z + 0.12 * (high[0] - low[0])), int(y), int(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    arguments = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    machine = Machine("cpu", 2, default_cache_folder())
    rows = len(arguments.heads) * 3
    figure, axes = plt.subplots(rows, len(TITLES), figsize=(4 * len(TITLES), 4 * rows))
    for index, label in enumerate(arguments.heads):
        mr = read_volume(arguments.data_pack / "heads" / HEADS[label], Role.MR)
        corrected = correct_bias(mr)
        made = {
            name: open_model(name, machine).synthesize({Role.MR: corrected}, Progress())
            for name in ("atlas-fusion", "head-unet")
        }
        spread = made["head-unet"].uncertainty
        assert spread is not None
        centre = middle(made["head-unet"].volume)
        bright = float(np.percentile(mr.array, 99.7))
        shown = (
            (mr, "gray", (0.0, bright)),
            (made["atlas-fusion"].volume, "gray", (-1000.0, 1800.0)),
            (made["head-unet"].volume, "gray", (-1000.0, 1800.0)),
            (spread, "magma", (0.0, 400.0)),
        )
        for column, (volume, colours, (low, high)) in enumerate(shown):
            for row, (plane, aspect) in enumerate(planes(volume, centre)):
                axis = axes[3 * index + row, column]
                axis.imshow(plane, cmap=colours, vmin=low, vmax=high, aspect=aspect)
                axis.axis("off")
                if row == 0:
                    axis.set_title(f"{label}: {TITLES[column]}", fontsize=14)
    figure.tight_layout()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=42)


if __name__ == "__main__":
    main()

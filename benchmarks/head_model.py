"""The head model on held-out anatomies (simulated), in one contrast after the other.

    python benchmarks/head_model.py --data-pack DIR [--model NAME] [--atlas] [--pictures DIR]

The anatomies are those of atlas_methods.py, which neither the training nor the atlases have seen;
under the contrast t1 the pairs are the same as there. ``--atlas`` also runs atlas-fusion on those.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from atlas_methods import COLUMNS, HELD_OUT, SEED, figures
from planes import draw_planes
from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_label_map
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.metrics.evaluation import Evaluation
from SynthCTLib.phantom import Contrast, PhantomOptions, PhantomPair, clean_labels, make_pair
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.synthesis.synthesizer import Synthesis
from SynthCTLib.volume import Role

BONE_HU, CAVITY_HU = 300.0, -300.0
CONTRASTS = (
    Contrast.T1,
    Contrast.MPRAGE,
    Contrast.T2,
    Contrast.PD,
    Contrast.FLAIR,
    Contrast.INVERTED,
    Contrast.DARK_BONE,
)


def line(name: str, values: list[Evaluation]) -> str:
    cells = []
    for _, mask, figure, digits in COLUMNS:
        numbers = [getattr(value.row(mask), figure) for value in values]
        cells.append(f"{np.mean(numbers):.{digits}f} ± {np.std(numbers, ddof=1):.{digits}f}")
    return f"| {name} | {' | '.join(cells)} |"


def trust(pair: PhantomPair, made: Synthesis) -> tuple[float, float, float]:
    """Correlation of uncertainty and absolute error; shares of errors within one and two of it."""
    assert made.uncertainty is not None
    head = head_mask(pair.mr).array > 0
    error = np.abs(made.volume.array[head] - pair.ct.array[head])
    stated = made.uncertainty.array[head]
    correlation = float(np.corrcoef(error, stated)[0, 1])
    return correlation, float((error <= stated).mean()), float((error <= 2 * stated).mean())


def where(pair: PhantomPair, made: Synthesis) -> tuple[float, float, float]:
    """Shares of the head's absolute error in bone and in air, and the mean error in bone (HU)."""
    head = head_mask(pair.mr).array > 0
    true, error = pair.ct.array[head], made.volume.array[head] - pair.ct.array[head]
    bone, air, whole = true >= BONE_HU, true < CAVITY_HU, np.abs(error).sum()
    in_bone, in_air = (float(np.abs(error[part]).sum() / whole) for part in (bone, air))
    return in_bone, in_air, float(error[bone].mean())


def picture(pair: PhantomPair, made: Synthesis, path: Path) -> None:
    """MR, simulated CT, pseudo-CT, difference and uncertainty, one row a plane."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    images = [
        (pair.mr, "gray", None),
        (pair.ct, "gray", (-1000, 1800)),
        (made.volume, "gray", (-1000, 1800)),
        (made.volume.with_array(made.volume.array - pair.ct.array), "RdBu_r", (-800, 800)),
    ]
    if made.uncertainty is not None:
        images.append((made.uncertainty, "magma", (0, 400)))
    figure, axes = plt.subplots(3, len(images), figsize=(4 * len(images), 12))
    for column, (volume, colours, limits) in enumerate(images):
        shown = limits or (0.0, float(np.percentile(volume.array, 99.7)))
        draw_planes(axes[:, column], volume, colours, shown)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=50)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--model", default="head-unet")
    parser.add_argument("--models-folder", type=Path, help="where a model of one's own lies")
    parser.add_argument("--atlas", action="store_true", help="atlas-fusion too, under t1")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each case")
    parser.add_argument("--contrasts", nargs="+", default=list(CONTRASTS))
    arguments = parser.parse_args()
    machine = Machine("cpu", 2, default_cache_folder(), models_dir=arguments.models_folder)
    model = open_model(arguments.model, machine)
    heads = [
        (name, clean_labels(read_label_map(arguments.data_pack / "labels" / f"{name}.nii.gz")))
        for name in HELD_OUT
    ]
    print(
        f"{arguments.model} on held-out anatomies {', '.join(HELD_OUT)} (N = {len(HELD_OUT)} each "
        "row, simulated MR and CT), mean ± SD; head of 17 cm from the vertex.\n"
    )
    print("| contrast | " + " | ".join(c[0] for c in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    trusted: list[tuple[float, float, float]] = []
    found: list[tuple[float, float, float]] = []
    seconds = {"model": 0.0, "atlas": 0.0}
    for contrast in (Contrast(c) for c in arguments.contrasts):
        values, of_atlas = [], []
        for index, (name, labels) in enumerate(heads):
            options = PhantomOptions(contrast=contrast)
            pair = make_pair(labels, options, seed=SEED + index)
            mr = correct_bias(pair.mr)
            begin = time.perf_counter()
            made = model.synthesize({Role.MR: mr}, Progress())
            seconds["model"] += time.perf_counter() - begin
            values.append(figures(pair, mr, made.volume))
            found.append(where(pair, made))
            if made.uncertainty is not None:
                trusted.append(trust(pair, made))
            if arguments.pictures:
                picture(pair, made, arguments.pictures / f"{name}-{contrast}.png")
            if arguments.atlas and contrast == Contrast.T1:
                begin = time.perf_counter()
                atlas = open_model("atlas-fusion", machine).synthesize({Role.MR: mr}, Progress())
                seconds["atlas"] += time.perf_counter() - begin
                of_atlas.append(figures(pair, mr, atlas.volume))
        print(line(str(contrast), values), flush=True)
        if of_atlas:
            print(line(f"{contrast}, atlas-fusion", of_atlas), flush=True)
            print(f"\nTime / atlas-fusion: {seconds['model'] / seconds['atlas']:.3f}\n")
    bone, air, level = np.mean(found, axis=0)
    print(
        f"\nOf the absolute error in the head (mean of {len(found)} cases) {bone:.0%} is in bone, "
        f"whose mean error is {level:.0f} HU, and {air:.0%} in air."
    )
    if trusted:
        correlation, one, two = np.mean(trusted, axis=0)
        print(
            f"\nUncertainty, mean of {len(trusted)} cases: correlation with the absolute error "
            f"{correlation:.2f}; error within it {one:.0%}, within twice {two:.0%}."
        )


if __name__ == "__main__":
    main()

"""Accuracy of the atlas methods on held-out anatomies (simulated), and of how many atlases.

    python benchmarks/atlas_methods.py --data-pack DIR [--count]

The held-out label maps are used by no atlas. Their MR and CT are made by the phantom with another
seed than the atlases'; the MR goes through bias correction as in ``synthct run``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_label_map
from SynthCTLib.metrics.evaluation import Evaluation, evaluate
from SynthCTLib.phantom import PhantomOptions, PhantomPair, clean_labels, make_pair
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer
from SynthCTLib.synthesis.registry import Machine, find_card, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Anatomy, Synthesizer
from SynthCTLib.volume import Role, Volume
from SynthCTLib.workflow.run import region_of, tissue_masks

HELD_OUT = ("head_05", "head_12", "head_18")
SEED = 501
MODELS = ("uniform-body", "atlas-affine", "atlas-deformable", "atlas-fusion")


def held_out_pairs(pack: Path) -> Iterator[tuple[str, PhantomPair]]:
    for index, name in enumerate(HELD_OUT):
        labels = clean_labels(read_label_map(pack / "labels" / f"{name}.nii.gz"))
        yield name, make_pair(labels, PhantomOptions(), seed=SEED + index)


def figures(pair: PhantomPair, mr: Volume, made: Volume) -> Evaluation:
    region = region_of(mr, Anatomy.HEAD, 170.0)
    masks = tissue_masks(pair.ct, region, Anatomy.HEAD)
    chosen = {"head": masks["masks/head"], "skull": masks["masks/skull"]}
    return evaluate(pair.ct, made, chosen)


def machine() -> Machine:
    return Machine("cpu", 2, default_cache_folder())


COLUMNS = (
    ("head MAE (HU)", "head", "mae_hu", 1),
    ("skull MAE (HU)", "skull", "mae_hu", 0),
    ("bone Jaccard", "head", "jaccard_bone", 3),
    ("bone Dice", "head", "dice_bone", 3),
    ("µ rMAE (%)", "head", "mu_rmae_percent", 2),
    ("SSIM", "head", "ssim", 3),
)


def row(name: str, values: list[Evaluation], relative_time: float) -> str:
    cells = []
    for _, mask, figure, digits in COLUMNS:
        numbers = [getattr(v.row(mask), figure) for v in values]
        spread = f" ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else ""
        cells.append(f"{np.mean(numbers):.{digits}f}{spread}")
    return f"| {name} | {' | '.join(cells)} | {relative_time:.2f} |"


def table(results: dict[str, tuple[list[Evaluation], list[float]]], unit: str) -> None:
    print("| method | " + " | ".join(c[0] for c in COLUMNS) + f" | time / {unit} |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    reference = np.median(results[unit][1])
    for name, (values, seconds) in results.items():
        print(row(name, values, float(np.median(seconds) / reference)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--count", action="store_true", help="also the curve over atlas counts")
    arguments = parser.parse_args()
    pairs = [
        (name, pair, correct_bias(pair.mr)) for name, pair in held_out_pairs(arguments.data_pack)
    ]
    open_model("atlas-fusion", machine()).synthesize({Role.MR: pairs[0][2]}, Progress())  # cache

    models: dict[str, Synthesizer] = {name: open_model(name, machine()) for name in MODELS}
    print(
        f"Held-out anatomies {', '.join(HELD_OUT)} (N = {len(HELD_OUT)}, simulated MR and CT), "
        "mean ± SD; head of 17 cm from the vertex, the whole of it counted.\n"
    )
    table(measured(models, pairs), "atlas-affine")
    if arguments.count:
        card = find_card("atlas-fusion")
        settings = settings_of(card, AtlasSettings)
        counts = {
            f"{count} atlases": AtlasSynthesizer(
                card, replace(settings, atlases=settings.atlases[:count]), machine()
            )
            for count in (2, 4, 6)
        }
        print(f"\natlas-fusion with the first so many atlases, {pairs[0][0]} (N = 1, simulated).\n")
        table(measured(counts, pairs[:1]), "6 atlases")


def measured(
    models: Mapping[str, Synthesizer], pairs: list[tuple[str, PhantomPair, Volume]]
) -> dict[str, tuple[list[Evaluation], list[float]]]:
    results = {}
    for name, model in models.items():
        values, seconds = [], []
        for _, pair, mr in pairs:
            begin = time.perf_counter()
            made = model.synthesize({Role.MR: mr}, Progress())
            seconds.append(time.perf_counter() - begin)
            values.append(figures(pair, mr, made.volume))
        results[name] = (values, seconds)
    return results


if __name__ == "__main__":
    main()

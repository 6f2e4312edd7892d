"""Accuracy of the atlas methods on held-out anatomies (simulated), and of how many atlases.

    python benchmarks/atlas_methods.py --data-pack DIR [--count]

The held-out label maps are used by no atlas. Their MR and CT are made by the phantom with another
seed than the atlases'; the MR goes through bias correction as in ``synthct run``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_label_map
from SynthCTLib.metrics.evaluation import MaskFigures, evaluate
from SynthCTLib.phantom import PhantomOptions, PhantomPair, clean_labels, make_pair
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer
from SynthCTLib.synthesis.registry import Machine, find_card, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Anatomy, Synthesis, Synthesizer
from SynthCTLib.volume import Role, Volume
from SynthCTLib.workflow.run import region_of, tissue_masks

HELD_OUT = ("head_05", "head_12", "head_18")
SEED = 501
MODELS = ("uniform-body", "atlas-affine", "atlas-deformable", "atlas-fusion")


def held_out_pairs(pack: Path) -> Iterator[tuple[str, PhantomPair]]:
    for index, name in enumerate(HELD_OUT):
        labels = clean_labels(read_label_map(pack / "labels" / f"{name}.nii.gz"))
        yield name, make_pair(labels, PhantomOptions(), seed=SEED + index)


def figures(pair: PhantomPair, mr: Volume, made: Synthesis) -> tuple[MaskFigures, MaskFigures]:
    region = region_of(mr, Anatomy.HEAD, 170.0)
    masks = tissue_masks(pair.ct, region, Anatomy.HEAD)
    result = evaluate(
        pair.ct, made.volume, {"head": masks["masks/head"], "skull": masks["masks/skull"]}
    )
    return result.row("head"), result.row("skull")


def machine() -> Machine:
    return Machine("cpu", 2, default_cache_folder())


def row(name: str, values: list[tuple[MaskFigures, MaskFigures]], seconds: list[float]) -> str:
    def mean_sd(numbers: list[float], digits: int) -> str:
        return f"{np.mean(numbers):.{digits}f} ± {np.std(numbers, ddof=1):.{digits}f}"

    head = [v[0] for v in values]
    skull = [v[1] for v in values]
    return (
        f"| {name} | {mean_sd([h.mae_hu for h in head], 1)} | "
        f"{mean_sd([s.mae_hu for s in skull], 0)} | {mean_sd([h.jaccard_bone for h in head], 3)} | "
        f"{mean_sd([h.dice_bone for h in head], 3)} | {mean_sd([h.mu_rmae_percent for h in head], 2)} | "
        f"{mean_sd([h.ssim for h in head], 3)} | {np.median(seconds) / REFERENCE[0]:.2f} |"
    )


REFERENCE = [1.0]
HEADER = (
    "| method | head MAE (HU) | skull MAE (HU) | bone Jaccard | bone Dice | µ rMAE (%) | SSIM | "
    "time, relative |\n|---|---|---|---|---|---|---|---|"
)


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
    if arguments.count:
        card = find_card("atlas-fusion")
        settings = settings_of(card, AtlasSettings)
        for count in (1, 2, 3, 4, 6, 8):
            if count <= len(settings.atlases):
                fewer = replace(settings, atlases=settings.atlases[:count])
                models[f"atlas-fusion, {count} atlases"] = AtlasSynthesizer(card, fewer, machine())
    rows = {}
    for name, model in models.items():
        values, seconds = [], []
        for _, pair, mr in pairs:
            begin = time.perf_counter()
            made = model.synthesize({Role.MR: mr}, Progress())
            seconds.append(time.perf_counter() - begin)
            values.append(figures(pair, mr, made))
        if name == "atlas-affine":
            REFERENCE[0] = float(np.median(seconds))
        rows[name] = (values, seconds)
    print(
        f"Held-out anatomies {', '.join(HELD_OUT)} (N = {len(HELD_OUT)}, simulated MR and CT), "
        "mean ± SD; head of 17 cm from the vertex.\n"
    )
    print(HEADER)
    for name, (values, seconds) in rows.items():
        print(row(name, values, seconds))


if __name__ == "__main__":
    main()

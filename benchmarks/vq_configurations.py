"""Paper 4's three ways to train the vector-quantised model, at the size for two CPU cores.

    python benchmarks/vq_configurations.py --data DIR --examples DIR -o OUT [--fold 1 2]

The public LDM-f4, trained on natural images, is not at hand; in its place the same small network
is first trained to reconstruct the CTs of the training part (CT to CT). From its weights the model
from NAC PET to CT is trained whole (no-frozen) or with encoder and codebook as they are
(encoder-frozen), and from random weights (scratch); all with the same number of steps. Each is
measured on the test part, and so is the reconstruction itself: what the bottleneck lets through.
Trainings that are in OUT are taken from there, unfinished ones are gone on with.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from cross_validation import spread
from nac_pet_to_ct import ct_row, in_planes
from pet_bench import Bench, Case, compared
from SynthCTLib.imaging.masks import body_contour
from SynthCTLib.networks import build_network
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.codebook_use import codebook_use
from SynthCTLib.synthesis.fusion import Fusion, fused
from SynthCTLib.synthesis.registry import Machine, build_model
from SynthCTLib.synthesis.weights import load_weights
from SynthCTLib.training.checkpoint import FILE
from SynthCTLib.training.engine import TrainingOptions, train
from SynthCTLib.training.pairs import split_of
from SynthCTLib.training.publication import WEIGHTS_FILE, publish
from SynthCTLib.training.recipe import Recipe
from SynthCTLib.training.slices import SliceSource, find_slice_subjects, needed_roles

ENCODER = ("encoder.", "quant_conv.", "quantize.")
RECONSTRUCTION = "CT to CT"
FIGURES = (
    ("MAE (HU)", "mae", 1),
    ("PSNR (dB)", "psnr", 1),
    ("SSIM", "ssim", 3),
    *((f"DSC {name}", f"dsc {name}", 3) for name in ("air", "fat", "soft", "bone")),
    ("µ rMAE (%)", "rmae", 2),
)
Row = dict[str, float]


class Reconstruction(SliceSource):
    """The same slices, with the CT as the image too."""

    def __init__(self, recipe: Recipe, *arguments: Any) -> None:
        super().__init__(*arguments)
        output = recipe.output
        self._prepared = {
            name: replace(
                kept, image=((kept.target - output.offset) / output.scale)[np.newaxis].astype("f2")
            )
            for name, kept in self._prepared.items()
        }


def trained(
    bench: Bench, name: str, out: Path, fold: int, init: Path | None, frozen: tuple[str, ...]
) -> Path:
    """The model folder of a way to train, made now where it is not there."""
    folder = out / name
    if (folder / name).is_dir():
        return folder / name
    network = bench.recipe.network.model_copy(update={"frozen": frozen})
    recipe = bench.recipe.model_copy(update={"name": name, "network": network})
    found = find_slice_subjects(bench.data, needed_roles(recipe.task, bench.settings.register))
    split = split_of(tuple(s.name for s in found), bench.settings.folds, fold, recipe.seed)
    arguments = (
        recipe.task,
        bench.settings,
        found,
        split,
        recipe.preparation,
        bench.examples,
        recipe.seed,
        "cpu",
        Progress(),
    )
    ct_to_ct = name == "reconstruction"
    source = Reconstruction(recipe, *arguments) if ct_to_ct else SliceSource(*arguments)
    folder.mkdir(parents=True, exist_ok=True)
    options = TrainingOptions(folder, resume=(folder / FILE).is_file(), init=init)
    return publish(recipe, train(recipe, source, options, Progress()), folder / name)


def reconstructed(bench: Bench, case: Case, weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """The CT through the bottleneck, axial slices, HU; how often each code was used."""
    recipe = bench.recipe
    network = build_network(recipe.network.name, recipe.network.settings).eval()
    load_weights(network, weights, "reconstruction")
    counts = np.zeros(network.quantize.embedding.num_embeddings, np.int64)

    def count(module: object, inputs: object, made: Any) -> None:
        del module, inputs
        counts[:] += np.bincount(made.codes.numpy().ravel(), minlength=len(counts))

    network.quantize.register_forward_hook(count)
    image = (case.target.array - recipe.output.offset) / recipe.output.scale
    with torch.inference_mode():
        made = network(torch.from_numpy(image.astype(np.float32))[None, None])[0, 0].numpy()
    return recipe.output.scale * made + recipe.output.offset, counts


def judged(bench: Bench, out: Path, fold: int) -> tuple[dict[str, list[Row]], np.ndarray]:
    """Figures of every way in a fold, trained now where it is not; how often codes were used."""
    first = trained(bench, "reconstruction", out, fold, None, ())
    weights = first / WEIGHTS_FILE
    ways = {
        "scratch": trained(bench, "scratch", out, fold, None, ()),
        "no-frozen": trained(bench, "no-frozen", out, fold, weights, ()),
        "encoder-frozen": trained(bench, "encoder-frozen", out, fold, weights, ENCODER),
    }
    rows: dict[str, list[Row]] = {RECONSTRUCTION: [], **{name: [] for name in ways}}
    used = np.zeros(0, np.int64)
    for case in bench.cases(fold):
        body = case.target.mask((body_contour(case.target).array > 0) & (case.region.array > 0))
        values, counts = reconstructed(bench, case, weights)
        used = counts if not used.size else used + counts
        rows[RECONSTRUCTION].append(ct_row(case, case.volume(values), body))
        for name, folder in ways.items():
            model = build_model(read_card(folder, folder), Machine()).models[0]
            made = fused(in_planes(model, case), Fusion.MEDIAN)
            rows[name].append(ct_row(case, case.volume(made), body))
    return rows, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--fold", type=int, nargs="+", help="all of the recipe's without")
    parser.add_argument("--recipe", default="vq-triplanar-small")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    arguments.folds = arguments.output
    bench = Bench.of(arguments.recipe, arguments)
    rows: dict[str, list[Row]] = {}
    shares = []
    for fold in arguments.fold or range(1, bench.settings.folds + 1):
        found, used = judged(bench, arguments.output / f"fold-{fold}", fold)
        shares.append(f"fold {fold}: {codebook_use(used).sentence}")
        for name, values in found.items():
            rows.setdefault(name, []).extend(values)
            print(f"<!-- fold {fold} {name}: {spread([r['mae'] for r in values], 1)} HU -->")
    print(f"\n{bench.recipe.name}, {bench.recipe.steps} steps each, inside the body\n")
    print("| training | N | " + " | ".join(title for title, _, _ in FIGURES) + " |")
    print("|---" * (len(FIGURES) + 2) + "|")
    for name, values in rows.items():
        cells = [spread([row[key] for row in values], digits) for _, key, digits in FIGURES]
        print(f"| {name} | {len(values)} | {' | '.join(cells)} |")
    print()
    errors = {name: [row["mae"] for row in values] for name, values in rows.items()}
    compared(errors, "no-frozen", ["scratch", "encoder-frozen"])
    compared(errors, "encoder-frozen", ["scratch"])
    print("\n\n".join(f"CT to CT, {share}" for share in shares))


if __name__ == "__main__":
    main()

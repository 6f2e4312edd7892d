"""Paper 1's transfer experiment (section 3.6) on simulated heads: adults first, then children.

    python benchmarks/transfer.py --data-pack DIR --out DIR [--steps 3000] [--refine 400]

A network is trained on simulated adults by ``paper1-small`` and goes on with simulated children by
``paper1-transfer-small`` in four folds. The children are the label maps made small, with a thinner
skull. The recipes' plateau rules give way to a fixed number of steps, the rate falling to zero over
the last third. What lies finished in the folder is not made again; a stopped training goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from atlas_methods import HELD_OUT, figures, machine
from head_model import picture
from simulated_pairs import as_they_lie
from SynthCTLib.cli.ending import stop_on_signals
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.phantom import PhantomOptions, PhantomPair, make_pair
from SynthCTLib.phantom.fields import stream
from SynthCTLib.phantom.variation import VariationOptions, vary
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.registry import build_model
from SynthCTLib.training.heads import read_anatomy
from SynthCTLib.training.recipe import read_recipe
from SynthCTLib.volume import Role, Unit, Volume
from SynthCTLib.workflow.training import SPLIT_FILE, TrainingRequest, train_recipe

ADULT_RECIPE, CHILD_RECIPE = "paper1-small", "paper1-transfer-small"
CANVAS = (256, 256, 192)
SEED = 40
FOLDS = 4
THREADS = 2


@dataclass(frozen=True)
class Population:
    """Who is simulated: a name, and how the anatomies are varied."""

    name: str
    variation: VariationOptions


ADULTS = Population("adults", VariationOptions(scale=(0.96, 1.06), thin=0, thick=0.2, craniotomy=0))
CHILDREN = Population(
    "children", VariationOptions(scale=(0.74, 0.84), thin=1, thick=0, craniotomy=0)
)


def make(population: Population, count: int, data_pack: Path, out: Path) -> Path:
    """A folder of pairs, of anatomies that other benchmarks do not hold out."""
    folder = out / population.name
    maps = sorted((data_pack / "labels").glob("head_*.nii.gz"))
    maps = [p for p in maps if p.name.removesuffix(".nii.gz") not in HELD_OUT]
    for index in range(count):
        subject = folder / f"{population.name}-{index:02d}"
        if (subject / "ct.nii.gz").is_file():
            continue
        labels, known = (torch.from_numpy(a) for a in read_anatomy(maps[index % len(maps)]))
        generator = stream(SEED + index, len(population.name), "cpu")
        varied, _ = vary(labels, known, CANVAS, population.variation, generator)
        image = sitk.GetImageFromArray(varied.numpy())
        pair = make_pair(
            Volume(image, Role.MASK, Unit.ARBITRARY), PhantomOptions(), seed=SEED + index
        )
        subject.mkdir(parents=True, exist_ok=True)
        write_volume(pair.mr, subject / "mr.nii.gz")
        write_volume(pair.ct, subject / "ct.nii.gz")
    return folder


def trained(
    recipe: str,
    steps: int,
    data: Path,
    out: Path,
    fold: int,
    init: Path | None = None,
    examples: Path | None = None,
) -> Path:
    """The folder of the model that a recipe makes in so many steps."""
    made = as_they_lie(read_recipe(recipe))
    if made.schedule.kind == "plateau":
        schedule = made.schedule.model_copy(
            update={"kind": "stable-decay", "warmup_steps": 20, "decay_share": 0.33}
        )
        rarely = made.validation.model_copy(update={"every_epochs": 25})
        made = made.model_copy(update={"schedule": schedule, "validation": rarely})
    made = made.model_copy(update={"steps": steps})
    if (out / recipe / "card.yaml").is_file():
        return out / recipe
    request = TrainingRequest(
        made,
        data,
        out,
        fold,
        init,
        (out / "checkpoint.pt").is_file(),
        threads=THREADS,
        examples=examples,
    )
    with stop_on_signals() as is_cancelled:
        return train_recipe(request, Progress(is_cancelled=is_cancelled)).model


def errors(
    model: Path, subjects: list[Path], out: Path, pictures: Path | None
) -> list[tuple[float, ...]]:
    """MAE in head and skull (HU) and Dice of bone of each subject, kept in ``out`` as they come."""
    network = build_model(read_card(model, model), machine())
    out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[float, ...]] = []
    for subject in subjects:
        kept = out / f"{subject.name}-{model.name}.json"
        drawn = pictures is not None and subject == subjects[0]
        if drawn or not kept.is_file():
            mr = read_volume(subject / "mr.nii.gz", Role.MR)
            pair = PhantomPair(mr, read_volume(subject / "ct.nii.gz", Role.CT))
            made = network.synthesize({Role.MR: mr}, Progress())
            values = figures(pair, mr, made.volume)
            head, skull = values.row("head"), values.row("skull")
            kept.write_text(json.dumps([head.mae_hu, skull.mae_hu, head.dice_bone]))
            if drawn and pictures is not None:
                picture(pair, made, pictures / f"{subject.name}-{model.name}.png")
        found.append(tuple(json.loads(kept.read_text())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--refine", type=int, default=400)
    parser.add_argument("--adults", type=int, default=24, help="how many are simulated")
    parser.add_argument("--children", type=int, default=12, help="how many are simulated")
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    out: Path = arguments.out
    children = make(CHILDREN, arguments.children, arguments.data_pack, out)
    first = out / "adult" / ADULT_RECIPE
    if not (first / "card.yaml").is_file():
        adults = make(ADULTS, arguments.adults, arguments.data_pack, out)
        trained(ADULT_RECIPE, arguments.steps, adults, out / "adult", 1, None)
    before, after = [], []
    for fold in range(1, FOLDS + 1):
        folder = out / f"fold-{fold}"
        init = first / "weights.safetensors"
        refined = trained(CHILD_RECIPE, arguments.refine, children, folder, fold, init)
        test = json.loads((folder / SPLIT_FILE).read_text())["test"]
        subjects = [children / name for name in test]
        before += errors(first, subjects, out / "figures", arguments.pictures)
        after += errors(refined, subjects, out / "figures", arguments.pictures)
    print(
        f"Simulated children, N = {len(before)} in {FOLDS} folds; network trained on "
        f"{arguments.adults} simulated adults in {arguments.steps} steps, refined in "
        f"{arguments.refine}. Mean ± SD.\n"
    )
    print("| network | head MAE (HU) | skull MAE (HU) | bone Dice |")
    print("|---|---|---|---|")
    for name, values in (("trained on adults", before), ("refined with children", after)):
        mean, sd = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
        print(
            f"| {name} | {mean[0]:.1f} ± {sd[0]:.1f} | {mean[1]:.0f} ± {sd[1]:.0f} | "
            f"{mean[2]:.3f} ± {sd[2]:.3f} |"
        )


if __name__ == "__main__":
    main()

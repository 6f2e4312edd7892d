"""Table 2 of Paper 1 and its comparison with atlases (section 3.5), on simulated heads.

    python benchmarks/paper1.py --data-pack DIR --out DIR [--steps N] [--fold K] [--picture FILE]

Five folds of ``paper1-narrow`` over the 18 simulated heads of ``simulated_pairs.py``, one subject
of each test part for validation, as in the paper; train them on a GPU. Each subject of a test part
is answered by that fold's network, on voxels of 1 mm, and by ``atlas-fusion`` without the subject's
own anatomy, on voxels of 2 mm; the differences are tested in pairs. What lies finished in the
folder is not made again; a stopped training goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from atlas_methods import figures, machine
from cross_validation import spread
from planes import draw_planes
from simulated_pairs import make_pairs
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.metrics.statistics import paired_difference
from SynthCTLib.phantom import PhantomPair
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.atlas import AtlasSettings, AtlasSynthesizer
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.registry import build_model, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Synthesizer
from SynthCTLib.training.recipe import read_recipe
from SynthCTLib.volume import Role, Volume
from SynthCTLib.workflow.training import SPLIT_FILE
from transfer import trained

RECIPE, ATLAS = "paper1-narrow", "atlas-fusion"
FOLDS = 5
WORKING_MM = 2.0
FIGURES = (
    ("MAE, head (HU)", "mae_hu", 1),
    ("JC, bone", "jaccard_bone", 3),
    ("Dice, bone", "dice_bone", 3),
    ("rMAE, µ (%)", "mu_rmae_percent", 2),
)
Row = dict[str, float]


def without(name: str) -> AtlasSynthesizer:
    """The atlas model without one anatomy."""
    full = open_model(ATLAS, machine())
    settings = settings_of(full.card, AtlasSettings)
    return AtlasSynthesizer(
        full.card,
        replace(
            settings,
            atlases=tuple(a for a in settings.atlases if a != name),
            working_mm=WORKING_MM,
            similarity_mm=max(settings.similarity_mm, WORKING_MM),
        ),
        machine(),
    )


def answered(model: Synthesizer, mr: Volume, path: Path) -> Volume:
    """The model's answer, kept in ``path``."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(model.synthesize({Role.MR: mr}, Progress()).volume, path)
    return read_volume(path, Role.CT)


def row_of(
    subject: Path, method: str, open_it: Callable[[], Synthesizer], out: Path, *, flat: bool = False
) -> Row:
    """Figures of a method, kept as they come; ``flat``: from an MR whose bias is corrected."""
    kept = out / method / f"{subject.name}.json"
    if not kept.is_file():
        pair = PhantomPair(
            read_volume(subject / "mr.nii.gz", Role.MR), read_volume(subject / "ct.nii.gz", Role.CT)
        )
        mr = correct_bias(pair.mr) if flat else pair.mr
        made = answered(open_it(), mr, kept.with_suffix(".nii.gz"))
        head = figures(pair, pair.mr, made).row("head")
        kept.write_text(json.dumps({key: float(getattr(head, key)) for _, key, _ in FIGURES}))
    row: Row = json.loads(kept.read_text())
    print(f"<!-- {subject.name}, {method}: {row['mae_hu']:.1f} HU -->", flush=True)
    return row


def model_of(folder: Path) -> Synthesizer:
    """The network that a fold made."""
    found = folder / RECIPE
    return build_model(read_card(found, found), machine())


def print_table(folds: Sequence[int], network: Sequence[Row], atlas: Sequence[Row]) -> None:
    titles = [f"{title}, {who}" for title, _, _ in FIGURES for who in ("network", "atlases")]
    print("| fold | N | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 2) + "|")
    for fold in [*sorted(set(folds)), None]:
        chosen = [i for i, f in enumerate(folds) if fold is None or f == fold]
        cells = [
            spread([rows[i][key] for i in chosen], digits)
            for _, key, digits in FIGURES
            for rows in (network, atlas)
        ]
        print(f"| {'all' if fold is None else fold} | {len(chosen)} | {' | '.join(cells)} |")
    print("\n| network less atlases | mean difference (95 % CI) | t | p (paired t-test) |")
    print("|---|---|---|---|")
    for title, key, digits in FIGURES:
        d = paired_difference([r[key] for r in atlas], [r[key] for r in network])
        interval = f"{d.mean:.{digits}f} ({d.ci_low:.{digits}f} to {d.ci_high:.{digits}f})"
        print(f"| {title} | {interval} | {d.t:.1f} | {d.t_p:.2g} |")


def picture(subject: Path, out: Path, path: Path) -> None:
    """As the paper's figures 2 and 3: the images of one subject, and both differences."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    mr = read_volume(subject / "mr.nii.gz", Role.MR)
    ct = read_volume(subject / "ct.nii.gz", Role.CT)
    made = {
        title: read_volume(out / method / f"{subject.name}.nii.gz", Role.CT)
        for title, method in (("residual U-Net", RECIPE), ("atlas fusion", ATLAS))
    }
    hu, off = (-1000.0, 1800.0), (-800.0, 800.0)
    bright = (0.0, float(np.percentile(mr.array, 99.7)))
    panels = [("MR", mr, "gray", bright), ("CT", ct, "gray", hu)]
    panels += [(title, volume, "gray", hu) for title, volume in made.items()]
    panels += [
        (f"{title} - CT", volume.with_array(volume.array - ct.array), "RdBu_r", off)
        for title, volume in made.items()
    ]
    figure, axes = plt.subplots(3, len(panels), figsize=(2.6 * len(panels), 8))
    for column, (title, volume, colours, limits) in enumerate(panels):
        draw_planes(axes[:, column], volume, colours, limits)
        axes[0, column].set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--fold", type=int, nargs="+", default=list(range(1, FOLDS + 1)))
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    out: Path = arguments.out
    steps: int = arguments.steps or read_recipe(RECIPE).steps
    pairs = out / "pairs"
    make_pairs(arguments.data_pack, pairs)
    folds: list[int] = []
    network: list[Row] = []
    atlas: list[Row] = []
    answers = out / "answers"
    for fold in arguments.fold:
        folder = out / "folds" / f"fold-{fold}"
        trained(RECIPE, steps, pairs, folder, fold, examples=out / "ex")
        for name in json.loads((folder / SPLIT_FILE).read_text())["test"]:
            subject = pairs / name
            opened = partial(model_of, folder), partial(without, name)
            network.append(row_of(subject, RECIPE, opened[0], answers))
            atlas.append(row_of(subject, ATLAS, opened[1], answers, flat=True))
            folds.append(fold)
            if arguments.picture and len(folds) == 1:
                picture(subject, answers, arguments.picture)
    print(
        f"\nSimulated heads, N = {len(folds)}, {len(arguments.fold)} of {FOLDS} folds of {RECIPE}, "
        f"{steps} steps each, on voxels of 1 mm, and {ATLAS} without the subject's own anatomy, "
        f"worked at {WORKING_MM:g} mm. Mean ± SD; head of 17 cm from the vertex.\n"
    )
    print_table(folds, network, atlas)


if __name__ == "__main__":
    main()

"""Cross-validation of a recipe on pairs: per-fold tables, and a manifest for further statistics.

    python benchmarks/cross_validation.py RECIPE --data DIR --folds DIR --examples DIR -o OUT

``--folds`` may hold a folder ``fold-K`` for each fold that was trained (``synthct train RECIPE
--fold K -o DIR/fold-K --examples DIR``). Each subject of a fold's test part is predicted by that
fold's model and compared with its CT, registered and counted as in training: inside the body that
the CT shows, where both images were scanned. Three further columns say what is possible without a
network: the median HU of the training part everywhere; a table from intensity to HU made from the
subject's own CT; and how far the CT is from itself without noise (a median over 3 voxels), which
no answer to an MR can go below.

OUT holds the CTs and ``manifest.csv``, whose tables with confidence intervals (Paper 1, table 2)
and paired tests between methods are made by

    synthct evaluate --manifest OUT/manifest.csv -o COHORT
    synthct compare COHORT OTHER -o COMPARISON
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from monai.data import PersistentDataset
from pydantic import TypeAdapter
from scipy import ndimage

from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.imaging.grids import Interpolator, isotropic_grid, resample, to_lps
from SynthCTLib.imaging.masks import body_contour
from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.preparation import Preparation
from SynthCTLib.synthesis.registry import Machine, build_model
from SynthCTLib.synthesis.synthesizer import Synthesizer
from SynthCTLib.training.pairs import (
    PairSettings,
    PreparedPair,
    Split,
    Subject,
    find_subjects,
    item_of,
    split_of,
)
from SynthCTLib.training.recipe import Recipe, read_recipe
from SynthCTLib.volume import Role, Unit, Volume

BONE_HU = 300.0
TISSUE_HU = -300.0
FIGURES = (
    ("MAE (HU)", "mae_hu", 1),
    ("bone MAE (HU)", "bone_mae_hu", 0),
    ("soft tissue MAE (HU)", "soft_mae_hu", 1),
    ("bone Dice", "dice_bone", 3),
    ("bone Jaccard", "jaccard_bone", 3),
    ("k-means bone Dice", "kmeans_dice", 3),
    ("µ rMAE (%)", "mu_rmae_percent", 2),
    ("PSNR (dB)", "psnr_db", 1),
    ("MSSIM (Paper 2)", "mssim_paper_2", 3),
    ("PCC", "pearson", 3),
)
BODY_FIGURES = ("mae_hu", "mu_rmae_percent", "psnr_db", "mssim_paper_2", "pearson")
BOUNDS = ("one_value", "own_table", "noise")
LOOKED_UP = 64  # bins of the table from intensity to HU


def in_own_space(recipe: Recipe) -> PairSettings:
    """Pairs as the recipe prepares them, on the MR's own axes."""
    settings = TypeAdapter(PairSettings).validate_python(dict(recipe.source.settings))
    return replace(settings, space="own")


def prepared(subject: Subject, settings: PairSettings, recipe: Recipe, folder: Path) -> Any:
    """MR, CT and what counts: the recipe's own where it prepares them so, else plain ones."""
    own = recipe.preparation
    plain = own if own.method != "brain" else Preparation()
    item = item_of(subject, settings, plain)
    return PersistentDataset([item], PreparedPair(), folder / "pairs")[0]


def reference_of(subject: Subject, pair: Any, spacing_mm: float) -> tuple[Volume, Volume, Volume]:
    """MR on its own grid, CT (HU) and the mask of the body on the grid of the prepared pair."""
    mr = to_lps(read_volume(subject.mr, Role.MR)).volume
    fine = resample(mr, isotropic_grid(mr.grid, spacing_mm))
    ct = fine.with_array(np.asarray(pair["hu"][0]).astype(np.float32), role=Role.CT, unit=Unit.HU)
    return mr, ct, fine.mask(body_of(ct, pair))


def body_of(ct: Volume, pair: Any) -> npt.NDArray[np.bool_]:
    """The body of the CT where both images were scanned."""
    known: npt.NDArray[np.bool_] = np.asarray(pair["weight"][0]) > 0
    return known & (body_contour(ct).array > 0)


def figures(ct: Volume, made: Volume, body: Volume) -> dict[str, float]:
    """All figures of one subject; nan where there is no bone."""
    found = evaluate(ct, made, {"body": body})
    row, inside = found.row("body"), body.array > 0
    error = np.abs(made.array - ct.array)
    bone = inside & (ct.array >= BONE_HU)
    soft = inside & (ct.array >= -200) & (ct.array < BONE_HU)
    whole = {name: float(getattr(row, name)) for name in BODY_FIGURES}
    overlap = {
        "dice_bone": row.dice_bone,
        "jaccard_bone": row.jaccard_bone,
        "kmeans_dice": found.bone.kmeans_dice,
        "bone_mae_hu": float(error[bone].mean()) if bone.any() else np.nan,
    }
    return {
        **whole,
        **{name: value if bone.any() else np.nan for name, value in overlap.items()},
        "soft_mae_hu": float(error[soft].mean()) if soft.any() else np.nan,
    }


def without_a_network(
    mr: npt.NDArray[np.float32], ct: npt.NDArray[np.float32], body: npt.NDArray[np.bool_], hu: float
) -> dict[str, float]:
    """MAE (HU) of one value, of the best table from the subject's own intensity, of the noise."""
    values, wanted = mr[body], ct[body]
    edges = np.quantile(values, np.linspace(0, 1, LOOKED_UP + 1)[1:-1])
    bins = np.digitize(values, edges)
    table = np.zeros(LOOKED_UP)
    for index in np.unique(bins):
        table[index] = np.median(wanted[bins == index])
    smooth = ndimage.median_filter(ct, 3)[body]
    return {
        "one_value": float(np.abs(wanted - hu).mean()),
        "own_table": float(np.abs(wanted - table[bins]).mean()),
        "noise": float(np.abs(wanted - smooth).mean()),
    }


def spread(values: Sequence[float], digits: int) -> str:
    known = [v for v in values if np.isfinite(v)]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:.{digits}f}"
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1):.{digits}f}"


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    heads = [title for title, _, _ in FIGURES]
    print("| fold | N | " + " | ".join(heads) + " | one value, MAE | own table, MAE | noise, MAE |")
    print("|---" * (len(heads) + 5) + "|")
    folds = sorted({row["fold"] for row in rows})
    for fold in [*folds, None]:
        chosen = [row for row in rows if fold is None or row["fold"] == fold]
        cells = [spread([row[key] for row in chosen], digits) for _, key, digits in FIGURES]
        cells += [spread([row[key] for row in chosen], 1) for key in BOUNDS]
        print(f"| {'all' if fold is None else fold} | {len(chosen)} | {' | '.join(cells)} |")
    digits_of = {key: digits for _, key, digits in FIGURES} | dict.fromkeys(BOUNDS, 1)
    middles = [f"{np.nanmedian([r[key] for r in rows]):.{d}f}" for key, d in digits_of.items()]
    print(f"| all, median | {len(rows)} | {' | '.join(middles)} |")


def trained(folds: Path, fold: int, split: Split, recipe: Recipe) -> Synthesizer | None:
    """The model of a fold, or None where it was not trained to an end."""
    folder = folds / f"fold-{fold}"
    model = folder / recipe.name
    if not model.is_dir():
        return None
    parted = json.loads((folder / "split.json").read_text())
    if sorted(parted["test"]) != sorted(split.test):
        raise SystemExit(f"{folder} was trained on other subjects: give the folder of its pairs.")
    return build_model(read_card(model, model), Machine())


def picture(rows: Sequence[tuple[str, Volume, Volume, Volume, Volume]], path: Path) -> None:
    """MR, CT and synthetic CT of some subjects: the slice with most bone that was compared."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(rows), 4, figsize=(12, 3 * len(rows)), squeeze=False)
    for line, (name, mr, ct, made, body) in zip(axes, rows, strict=True):
        inside = body.array > 0
        z = int((inside & (ct.array >= BONE_HU)).sum(axis=(1, 2)).argmax())
        error = np.where(inside, made.array - ct.array, 0)[z]
        panels: tuple[tuple[str, Any, dict[str, Any]], ...] = (
            (f"{name}: MR", mr.array[z], {"cmap": "gray"}),
            ("CT", ct.array[z], {"cmap": "gray", "vmin": -200, "vmax": 900}),
            ("synthetic CT", made.array[z], {"cmap": "gray", "vmin": -200, "vmax": 900}),
            ("difference", error, {"cmap": "RdBu_r", "vmin": -500, "vmax": 500}),
        )
        for axis, (title, image, how) in zip(line, panels, strict=True):
            axis.imshow(image, **how)
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


def write_manifest(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True, help="as given to synthct train")
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=4, help="subjects of each fold to draw")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    settings = in_own_space(recipe)
    subjects = {s.name: s for s in find_subjects(arguments.data)}
    out = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for fold in range(1, settings.folds + 1):
        split = split_of(tuple(subjects), settings.folds, fold, recipe.seed)
        model = trained(arguments.folds, fold, split, recipe)
        medians = []
        for name in split.train:
            pair = prepared(subjects[name], settings, recipe, arguments.examples)
            hu = np.asarray(pair["hu"][0])
            medians.append(hu[(np.asarray(pair["weight"][0]) > 0) & (hu > TISSUE_HU)])
        middle = float(np.median(np.concatenate(medians)))
        drawn = []
        for name in split.test:
            pair = prepared(subjects[name], settings, recipe, arguments.examples)
            mr, ct, body = reference_of(subjects[name], pair, settings.spacing_mm)
            fine = resample(mr, ct.grid)
            bounds = without_a_network(fine.array, ct.array, body.array > 0, middle)
            row: dict[str, Any] = {"subject": name, "fold": fold, **bounds}
            if model is None:
                rows.append({**row, **{key: np.nan for _, key, _ in FIGURES}})
                continue
            made = model.synthesize({Role.MR: mr}, Progress()).volume
            seen = resample(made, ct.grid, interpolator=Interpolator.LINEAR)
            row |= figures(ct, seen, body)
            rows.append(row)
            print(f"<!-- {name} fold {fold}: {row['mae_hu']:.1f} HU, {row['dice_bone']:.3f} -->")
            files = {"reference_ct": ct, "synthetic_ct": seen, "mr": fine, "mask.compared": body}
            line = {"subject": name, "method": recipe.name, "fold": fold}
            for key, volume in files.items():
                file = f"{name}_{key.replace('.', '_')}.nii.gz"
                write_volume(volume, out / file)
                line[key] = file
            lines.append(line)
            drawn.append((name, fine, ct, seen, body))
        if drawn and arguments.pictures:
            picture(drawn[: arguments.pictures], out / f"fold-{fold}.png")
    if lines:
        write_manifest(lines, out / "manifest.csv")
    print(
        f"\n{recipe.name}, {recipe.steps} steps a fold where a model is, mean ± SD over subjects.\n"
    )
    print_table(rows)


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    main()

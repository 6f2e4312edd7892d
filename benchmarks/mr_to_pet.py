"""MR to PET (Paper 5): axial and augmented models against the between-subject baseline.

    python benchmarks/mr_to_pet.py --data DIR --folds DIR --examples DIR -o OUT

The folders are those of ``pet_bench.py``; the baseline is that of the paper's section 2.5. With
``--recipe mr2pet-brain`` the subjects are simulated heads (``simulated_pairs.py --pet``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from pet_bench import (
    PICTURES,
    Array,
    Bench,
    arguments_parser,
    compared,
    drawn,
    hottest,
    median_of_training,
    parsed,
    uptake_row,
    uptake_table,
)
from SynthCTLib.metrics.uptake import SUV_RANGE
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.triplanar import SliceModel


def slice_likeness(real: Array, made: Array) -> tuple[float, float, float]:
    """MSE (SUV²), PSNR (dB) and SSIM of two slices, with the range 0 to 20 SUV."""
    low, high = SUV_RANGE
    error = float(np.square(real - made).mean())
    psnr = 10 * np.log10((high - low) ** 2 / error) if error else np.inf
    return error, float(psnr), float(structural_similarity(real, made, data_range=high - low))


def middle_slice(volume: Array, weight: npt.NDArray[np.bool_], side: int) -> Array:
    """The axial slice in the middle of what was scanned, 0 elsewhere, in the middle of a square."""
    planes = np.flatnonzero(weight.any(axis=(1, 2)))
    z = int(planes[len(planes) // 2])
    image = np.where(weight[z], volume[z], 0).astype(np.float32)
    square = np.zeros((side, side), np.float32)
    corner = [(side - n) // 2 for n in image.shape]
    square[corner[0] : corner[0] + image.shape[0], corner[1] : corner[1] + image.shape[1]] = image
    return square


def boxes(columns: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Box plots as Paper 5's figure 1."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    for k, (axis, title) in enumerate(zip(axes, ("MSE (SUV²)", "PSNR (dB)", "SSIM"), strict=True)):
        axis.boxplot(
            [[r[k] for r in found] for found in columns.values()], tick_labels=list(columns)
        )
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = arguments_parser(__doc__)
    parser.add_argument("--recipe", default="mr2pet", help="without -axial-small")
    arguments = parsed(parser)
    system = arguments.recipe
    benches = {
        name: Bench.of(f"{system}-{name}-small", arguments) for name in ("axial", "augmented")
    }
    slices: dict[str, list[tuple[float, float, float]]] = {name: [] for name in benches}
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in (*benches, "one value")}
    real: list[Array] = []
    pictures: dict[str, list[Any]] = {}
    side = 128
    for number, (name, bench) in enumerate(benches.items()):
        for fold in range(1, bench.settings.folds + 1):
            model = bench.model(fold)
            if model is None:
                continue
            middle = median_of_training(bench, fold)
            for case in bench.cases(fold):
                axial = SliceModel(model.card, replace(model.settings, axes=("z",)), model.machine)
                # Paper 5, section 2.4: volumes are rebuilt from the axial slices of both models.
                values = axial.answer(case.work, Progress()).values
                weight = case.region.array > 0
                mine = middle_slice(case.target.array, weight, side)
                slices[name].append(slice_likeness(mine, middle_slice(values, weight, side)))
                outline = case.outline("mr")
                figures[name].append(uptake_row(case, case.volume(values), outline))
                if number == 0:
                    real.append(mine)
                    constant = case.volume(np.full_like(values, middle))
                    figures["one value"].append(uptake_row(case, constant, outline))
                print(f"<!-- {case.subject.name} {name} {fold}: {figures[name][-1]['mae']:.3f} -->")
                if fold == 1 and case.subject.name in list(pictures)[:PICTURES] + (
                    [case.subject.name] if len(pictures) < PICTURES else []
                ):
                    z = hottest(case.target, case.region)
                    top = max(6.0, float(np.quantile(case.target.array, 0.99)))
                    panels = pictures.setdefault(
                        case.subject.name,
                        [
                            (
                                "MR",
                                case.work.mr[z],
                                (0.0, float(np.quantile(case.work.mr, 0.995))),
                                "gray",
                            ),
                            ("FDG PET", case.target.array[z], (0.0, top), "gray_r"),
                        ],
                    )
                    panels.append((name, case.work.region[z] * values[z], (0.0, top), "gray_r"))
    baseline = [
        slice_likeness(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j
    ]
    columns: dict[str, list[tuple[float, float, float]]] = {**slices, "baseline": baseline}
    print(f"\nMR to PET (Paper 5, table 1), recipes {system}, middle axial slices\n")
    heads = [f"{m}, {name}" for m in ("MSE (SUV²)", "PSNR (dB)", "SSIM") for name in columns]
    print("| | " + " | ".join(heads) + " |")
    print("|---" * (1 + len(heads)) + "|")
    how: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("mean", np.mean),
        ("std", np.std),
        ("min", np.min),
        ("max", np.max),
    )
    for title, f in how:
        cells = [
            f"{f([row[k] for row in found]):.{d}f}" if found else "-"
            for k, d in ((0, 3), (1, 2), (2, 4))
            for found in columns.values()
        ]
        print(f"| {title} | {' | '.join(cells)} |")
    uptake_table("MR to PET, whole volumes", figures)
    errors = {name: [row["mae"] for row in rows] for name, rows in figures.items() if rows}
    print()
    compared(errors, "axial", [name for name in errors if name != "axial"])
    drawn(arguments.output / f"{system}.png", list(pictures.items()))
    boxes(columns, arguments.output / f"{system}-boxes.png")


if __name__ == "__main__":
    main()

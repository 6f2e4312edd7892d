"""CT to PET (Paper 3): FCN, conditional GAN and their blend, cross-validated on real patients.

    python benchmarks/ct_to_pet.py --data DIR --folds DIR --examples DIR -o OUT

The folders are those of ``pet_bench.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from pet_bench import (
    PICTURES,
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
from SynthCTLib.metrics.lesions import LESION_SUV, LesionScan, free_response
from SynthCTLib.metrics.uptake import LEAST_LESION_ML
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.virtual_pet import VirtualPetSettings, mixed

# Below 1.5 SUV what is called hot runs together, and false parts become fewer.
FROC_SUV = (1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)


def froc(curves: dict[str, Any], path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.6))
    for (name, curve), mark in zip(curves.items(), "os^", strict=True):
        axis.plot(
            [p.rates.false_positives_per_scan for p in curve],
            [100 * p.rates.true_positive_rate for p in curve],
            marker=mark,
            ms=4,
            label=name,
        )
    axis.set_xlabel("false lesions a scan")
    axis.set_ylabel(f"lesions above {LESION_SUV:g} SUV found (%)")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = arguments_parser(__doc__)
    arguments = parsed(parser)
    fcn = Bench.of("virtual-pet-fcn-small", arguments)
    gan = Bench.of("virtual-pet-gan-small", arguments)
    names = ("FCN", "conditional GAN", "blend", "one value")
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    scans: dict[str, list[LesionScan]] = {name: [] for name in names[:3]}
    pictures: list[Any] = []
    for fold in range(1, fcn.settings.folds + 1):
        models = fcn.model(fold), gan.model(fold)
        if models[0] is None or models[1] is None:
            continue
        middle = median_of_training(fcn, fold)
        for case in fcn.cases(fold):
            hot = models[0].answer(case.work, Progress()).values
            looks = models[1].answer(case.work, Progress()).values
            settings = VirtualPetSettings(models[0].settings, models[1].settings)
            both, _ = mixed(hot, looks, case.work.region, settings)
            outline = case.outline("pet")
            answers = (hot, looks, both, np.full_like(hot, middle))
            for name, values in zip(names, answers, strict=True):
                made = case.volume(values)
                figures[name].append(uptake_row(case, made, outline))
                if name in scans:
                    scans[name].append(LesionScan(case.target, made, case.region))
            print(
                f"<!-- {case.subject.name} fold {fold}: {figures['blend'][-1]['mae']:.3f} SUV -->"
            )
            if fold == 1 and len(pictures) < PICTURES:
                z = hottest(case.target, case.region)
                pet, body = (0.0, 6.0), case.work.region[z]
                pictures.append(
                    (
                        case.subject.name,
                        [
                            ("CT", case.work.mr[z], (-160.0, 240.0), "gray"),
                            ("FDG PET", case.target.array[z], pet, "gray_r"),
                            ("FCN", body * hot[z], pet, "gray_r"),
                            ("conditional GAN", body * looks[z], pet, "gray_r"),
                            ("blend", body * both[z], pet, "gray_r"),
                        ],
                    )
                )
    uptake_table("CT to PET (Paper 3), five folds, real patients", figures)
    errors = {name: [row["mae"] for row in rows] for name, rows in figures.items()}
    print()
    compared(errors, "blend", ("FCN", "conditional GAN", "one value"))
    print("| SUV called hot | " + " | ".join(f"{name}: TPR, false a scan" for name in scans) + " |")
    print("|---" * (1 + len(scans)) + "|")
    curves = {
        name: free_response(found, FROC_SUV, least_ml=LEAST_LESION_ML)
        for name, found in scans.items()
    }
    for index, threshold in enumerate(FROC_SUV):
        points = [curve[index].rates for curve in curves.values()]
        cells = [
            f"{100 * p.true_positive_rate:.0f} %, {p.false_positives_per_scan:.2f}" for p in points
        ]
        print(f"| {threshold:g} | {' | '.join(cells)} |")
    drawn(arguments.output / "virtual-pet.png", pictures)
    froc(curves, arguments.output / "virtual-pet-froc.png")


if __name__ == "__main__":
    main()

"""NAC PET to CT (Paper 4): planes, their fusion, and what the µ-map does to a PET, real patients.

    python benchmarks/nac_pet_to_ct.py --data DIR --folds DIR --examples DIR -o OUT

The folders are those of ``pet_bench.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cross_validation import spread
from pet_bench import PICTURES, Array, Bench, Case, arguments_parser, compared, drawn, parsed
from SynthCTLib.imaging.grids import Interpolator, resample
from SynthCTLib.imaging.masks import body_contour
from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.physics.pet_effect import pet_effect
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.fusion import Fusion, fused
from SynthCTLib.synthesis.triplanar import SliceModel
from SynthCTLib.volume import Role, Volume

UNIFORM_HU = 40.0
TISSUES_HU = {"fat": (-150.0, -50.0), "muscle": (0.0, 100.0), "bone": (300.0, 3000.0)}


def in_planes(model: SliceModel, case: Case) -> list[Array]:
    """The answers by axial, coronal and sagittal slices."""
    made = []
    for axis in ("z", "y", "x"):
        one = SliceModel(model.card, replace(model.settings, axes=(axis,)), model.machine)
        made.append(one.answer(case.work, Progress()).values)
    return made


def ct_row(case: Case, made: Volume, body: Volume) -> dict[str, float]:
    found = evaluate(case.target, made, {"body": body})
    row = found.row("body")
    return {
        "mae": row.mae_hu,
        "psnr": row.psnr_db,
        "ssim": row.ssim,
        "rmae": row.mu_rmae_percent,
        **{f"dsc {name}": value for name, value in found.classes.items()},
    }


def suv_bias(case: Case, made: Volume, body: Volume, outline: Volume | None) -> dict[str, float]:
    """Error (%) of a PET that is reconstructed with a synthetic µ-map, by tissue."""
    inside = body.array > 0
    judged = made.with_array(np.where(inside, made.array, case.target.array))
    pet = resample(case.images[Role.PET], case.work.grid, interpolator=Interpolator.LINEAR)
    activity = pet.with_array(np.maximum(pet.array, 0))
    effect = pet_effect(hu_to_mu(judged), hu_to_mu(case.target), activity)
    counted = effect.counted.array > 0
    where = {
        name: (case.target.array >= low) & (case.target.array < high)
        for name, (low, high) in TISSUES_HU.items()
    }
    where["tumour"] = np.zeros_like(inside) if outline is None else outline.array > 0
    where["body"] = inside
    found = {}
    for name, mask in where.items():
        values = effect.difference.array[counted & mask & inside]
        found[name] = float(values.mean()) if values.size >= 8 else np.nan
        found[f"|{name}|"] = float(np.abs(values).mean()) if values.size >= 8 else np.nan
    return found


def main() -> None:
    parser = arguments_parser(__doc__)
    parser.add_argument("--recipe", default="vq-triplanar-small")
    parser.add_argument("--without-pet", action="store_true", help="reconstruct no PET")
    arguments = parsed(parser)
    bench = Bench.of(arguments.recipe, arguments)
    names = ("median", "mean", "agreeing", "axial alone", "coronal alone", "sagittal alone")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in (*names, "uniform body")}
    bias: dict[str, list[dict[str, float]]] = {"median": [], "uniform body": []}
    pictures: list[Any] = []
    for fold in range(1, bench.settings.folds + 1):
        model = bench.model(fold)
        if model is None:
            continue
        for case in bench.cases(fold):
            body = case.target.mask((body_contour(case.target).array > 0) & (case.region.array > 0))
            planes = in_planes(model, case)
            answers = {str(how): fused(planes, how) for how in Fusion}
            answers |= dict(zip(names[3:], planes, strict=True))
            uniform = np.where(body.array > 0, UNIFORM_HU, -1000.0).astype(np.float32)
            answers["uniform body"] = uniform
            for name, values in answers.items():
                rows[name].append(ct_row(case, case.volume(values), body))
            print(f"<!-- {case.subject.name} fold {fold}: {rows['median'][-1]['mae']:.1f} HU -->")
            if not arguments.without_pet:
                outline = case.outline("pet")
                for name, found in bias.items():
                    found.append(suv_bias(case, case.volume(answers[name]), body, outline))
            if fold == 1 and len(pictures) < PICTURES:
                z = int((case.target.array >= 300).sum(axis=(1, 2)).argmax())
                hu = (-300.0, 700.0)
                pictures.append(
                    (
                        case.subject.name,
                        [
                            (
                                "NAC PET",
                                case.work.mr[z],
                                (0.0, float(np.quantile(case.work.mr, 0.995))),
                                "gray_r",
                            ),
                            ("CT", case.target.array[z], hu, "gray"),
                            ("synthetic CT", answers["median"][z], hu, "gray"),
                            (
                                "difference",
                                answers["median"][z] - case.target.array[z],
                                (-500.0, 500.0),
                                "RdBu",
                            ),
                        ],
                    )
                )
    classes = [key for key in rows["median"][0] if key.startswith("dsc")]
    print(f"\nNAC PET to CT (Paper 4), recipe {bench.recipe.name}\n")
    print(
        "| answer | N | MAE (HU) | PSNR (dB) | SSIM | "
        + " | ".join(c.upper()[:3] + c[3:] for c in classes)
        + " | µ rMAE (%) |"
    )
    print("|---" * (6 + len(classes)) + "|")
    for name, found in rows.items():
        cells = [spread([r["mae"] for r in found], 1), spread([r["psnr"] for r in found], 1)]
        cells += [spread([r[key] for r in found], 3) for key in ("ssim", *classes)]
        cells.append(spread([r["rmae"] for r in found], 2))
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    errors = {name: [r["mae"] for r in found] for name, found in rows.items()}
    print()
    compared(errors, "median", [name for name in errors if name != "median"])
    if bias["median"]:
        tissues = ("tumour", *TISSUES_HU, "body")
        print(
            "SUV error (%) of a PET reconstructed with the µ-map, against the CT's µ-map: "
            "mean (absolute)\n"
        )
        print("| µ-map of | " + " | ".join(tissues) + " |")
        print("|---" * (1 + len(tissues)) + "|")
        for name, found in bias.items():
            cells = [
                f"{spread([f[t] for f in found], 1)} ({spread([f[f'|{t}|'] for f in found], 1)})"
                for t in tissues
            ]
            print(f"| {'synthetic CT' if name == 'median' else name} | {' | '.join(cells)} |")
    drawn(arguments.output / f"{bench.recipe.name}.png", pictures)


if __name__ == "__main__":
    main()

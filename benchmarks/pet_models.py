"""The systems of Papers 3, 4 and 5 on real patients: cross-validated figures, tables and pictures.

    python benchmarks/pet_models.py ct-to-pet|nac-pet-to-ct|mr-to-pet --data DIR --folds DIR
        --examples DIR -o OUT

``--folds`` holds a folder RECIPE/fold-K for each fold that was trained (``synthct train RECIPE
--fold K -o DIR/RECIPE/fold-K --examples DIR``); those that are missing are left out and told. Each
subject of a fold's test part is answered by that fold's model, on the voxels of the training
(3 mm), and compared inside the body where both images were scanned.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from pydantic import TypeAdapter
from scipy import stats
from skimage.metrics import structural_similarity

from cross_validation import spread
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import Interpolator, resample
from SynthCTLib.imaging.masks import body_contour
from SynthCTLib.metrics.evaluation import evaluate
from SynthCTLib.metrics.lesions import (
    LESION_SUV,
    LesionDetection,
    LesionScan,
    detect_lesions,
    detection_rates,
    free_response,
    lesion_uptake,
)
from SynthCTLib.metrics.uptake import LEAST_LESION_ML, SUV_RANGE, uptake_figures
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.physics.pet_effect import pet_effect
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.fusion import Fusion, fused
from SynthCTLib.synthesis.registry import Machine, build_model
from SynthCTLib.synthesis.triplanar import SliceModel, TriplanarSynthesizer
from SynthCTLib.synthesis.virtual_pet import VirtualPetSettings, mixed
from SynthCTLib.synthesis.working_view import WorkingView, view_of
from SynthCTLib.training.pairs import split_of
from SynthCTLib.training.recipe import Recipe, read_recipe
from SynthCTLib.training.slices import (
    LEAST_CANVAS,
    SliceSettings,
    SliceSubject,
    find_slice_subjects,
    images_of,
    kept_subject,
    needed_roles,
)
from SynthCTLib.volume import Role, Volume

Array = npt.NDArray[np.float32]
# Below 1.5 SUV what is called hot runs together, and false parts become fewer.
FROC_SUV = (1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
UNIFORM_HU = 40.0
TISSUES_HU = {"fat": (-150.0, -50.0), "muscle": (0.0, 100.0), "bone": (300.0, 3000.0)}
PICTURES = 3


@dataclass(frozen=True, eq=False)
class Case:
    """A test subject on its canvas: what the model sees, the target, where it counts."""

    fold: int
    subject: SliceSubject
    images: dict[Role, Volume]
    work: WorkingView
    target: Volume
    region: Volume

    def volume(self, values: Array) -> Volume:
        """An answer on the canvas, in the unit of the target."""
        return self.target.with_array(np.asarray(values, np.float32))

    def outline(self, name: str) -> Volume | None:
        """The tumour's outline that belongs to an image, on the canvas, if there is one."""
        path = next(iter(self.subject.files.values())).parent / f"{name}_tumour.nii.gz"
        if not path.is_file():
            return None
        mask = read_volume(path, Role.MASK)
        return resample(mask, self.work.grid, interpolator=Interpolator.NEAREST)


@dataclass(frozen=True)
class Bench:
    """A recipe with its subjects and folds."""

    recipe: Recipe
    settings: SliceSettings
    data: Path
    folds: Path
    examples: Path

    @staticmethod
    def of(name: str, arguments: argparse.Namespace) -> Bench:
        """The recipe of a name, with the folders given."""
        recipe = read_recipe(name)
        settings = TypeAdapter(SliceSettings).validate_python(dict(recipe.source.settings))
        return Bench(recipe, settings, arguments.data, arguments.folds, arguments.examples)

    def model(self, fold: int) -> SliceModel | None:
        """The network of a fold; None where it was not trained to its end."""
        folder = self.folds / self.recipe.name / f"fold-{fold}" / self.recipe.name
        if not folder.is_dir():
            print(f"<!-- {self.recipe.name}: fold {fold} is not trained -->")
            return None
        made = cast(TriplanarSynthesizer, build_model(read_card(folder, folder), Machine()))
        return made.models[0]

    def cases(self, fold: int) -> Iterator[Case]:
        """The subjects of a fold's test part."""
        recipe, settings = self.recipe, self.settings
        found = find_slice_subjects(self.data, needed_roles(recipe.task, settings.register))
        subjects = {s.name: s for s in found}
        split = split_of(tuple(subjects), settings.folds, fold, recipe.seed)
        for name in split.test:
            subject = subjects[name]
            kept = kept_subject(
                recipe.task, settings, subject, recipe.preparation, self.examples, Progress()
            )
            images = images_of(recipe.task, settings, subject)
            source = images[recipe.task.input_role]
            work = view_of(source, settings.region, settings.spacing_mm, 0.0, 0.0, LEAST_CANVAS)
            like = resample(images[recipe.task.output_role], work.grid)
            target = like.with_array(kept.target)
            yield Case(fold, subject, images, work, target, target.mask(kept.weight))


def compared(rows: dict[str, list[float]], first: str, others: Sequence[str]) -> None:
    """Wilcoxon's signed-rank test of the first against others, over subjects."""
    for other in others:
        pairs = [
            (a, b)
            for a, b in zip(rows[first], rows[other], strict=True)
            if np.isfinite(a) and np.isfinite(b)
        ]
        if len(pairs) > 5:
            a, b = np.transpose(pairs)
            p = stats.wilcoxon(a, b).pvalue
            print(f"{first} less than {other} in {np.sum(a < b)} of {len(a)}, p = {p:.2g}\n")


def drawn(
    path: Path, rows: Sequence[tuple[str, Sequence[tuple[str, Array, tuple[float, float], str]]]]
) -> None:
    """A row of planes for each subject; left of the patient on the right."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    width = max(len(panels) for _, panels in rows)
    figure, axes = plt.subplots(
        len(rows), width, figsize=(2.4 * width, 2.6 * len(rows)), squeeze=False
    )
    for line, (name, panels) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, (title, image, (low, high), colours) in zip(line, panels, strict=False):
            axis.imshow(image, cmap=colours, vmin=low, vmax=high)
            axis.set_title(f"{name}\n{title}" if title == panels[0][0] else title, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def hottest(volume: Volume, region: Volume) -> int:
    """The axial plane with most uptake."""
    return int(np.where(region.array > 0, volume.array, 0).sum(axis=(1, 2)).argmax())


def uptake_table(title: str, figures: dict[str, list[dict[str, Any]]]) -> None:
    """One row for each way of making a PET."""
    print(f"\n{title}\n")
    print(
        "| PET made by | N | MAE (SUV) | RMSE (SUV) | PSNR (dB) | SSIM | hot lesions found (TPR) "
        "| false ones a scan | tumour outlines found | SUVmax, synthetic - real "
        "| SUVmean, synthetic - real |"
    )
    print("|---" * 11 + "|")
    for name, rows in figures.items():
        if not rows:
            continue
        rates = detection_rates([row["lesions"] for row in rows])
        outlines = [row["outline"] for row in rows]
        cells = [
            spread([row[key] for row in rows], digits)
            for key, digits in (("mae", 3), ("rmse", 3), ("psnr", 1), ("ssim", 4))
        ]
        cells += [
            f"{100 * rates.true_positive_rate:.1f} %",
            f"{rates.false_positives_per_scan:.2f}",
            f"{sum(o.detected for o in outlines)} of {sum(o.lesions for o in outlines)}",
            spread([row["max"] for row in rows], 2),
            spread([row["mean"] for row in rows], 2),
        ]
        print(f"| {name} | {len(rows)} | {' | '.join(cells)} |")


def uptake_row(case: Case, made: Volume, outline: Volume | None) -> dict[str, Any]:
    found = uptake_figures(case.target, made, case.region)
    tumour = detect_lesions(
        case.target, made, case.region, lesions=outline, least_ml=LEAST_LESION_ML
    )
    scan = LesionScan(case.target, made, case.region, outline)
    uptake = lesion_uptake(scan, least_ml=LEAST_LESION_ML) if outline is not None else ()
    return {
        "subject": case.subject.name,
        "mae": found.mae_suv,
        "rmse": found.rmse_suv,
        "psnr": found.psnr_db,
        "ssim": found.ssim,
        "lesions": found.lesions,
        "outline": tumour if outline is not None else LesionDetection(0, 0, 0),
        "max": uptake[0].synthetic_max_suv - uptake[0].real_max_suv if uptake else np.nan,
        "mean": uptake[0].synthetic_mean_suv - uptake[0].real_mean_suv if uptake else np.nan,
    }


def median_of_training(bench: Bench, fold: int) -> float:
    """The median target over the training part of a fold."""
    found = find_slice_subjects(
        bench.data, needed_roles(bench.recipe.task, bench.settings.register)
    )
    subjects = {s.name: s for s in found}
    split = split_of(tuple(subjects), bench.settings.folds, fold, bench.recipe.seed)
    values = []
    for name in split.train:
        kept = kept_subject(
            bench.recipe.task,
            bench.settings,
            subjects[name],
            bench.recipe.preparation,
            bench.examples,
            Progress(),
        )
        values.append(kept.target[kept.weight])
    return float(np.median(np.concatenate(values)))


def ct_to_pet(arguments: argparse.Namespace) -> None:
    """Paper 3: FCN, conditional GAN and their blend."""
    fcn = Bench.of("virtual-pet-fcn-small", arguments)
    gan = Bench.of("virtual-pet-gan-small", arguments)
    names = ("FCN", "conditional GAN", "blend", "one value")
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    scans: dict[str, list[LesionScan]] = {name: [] for name in names[:3]}
    pictures = []
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


def nac_pet_to_ct(arguments: argparse.Namespace) -> None:
    """Paper 4: the vector-quantised model, the fusion of its planes, and what it does to a PET."""
    bench = Bench.of(arguments.recipe or "vq-triplanar-small", arguments)
    names = ("median", "mean", "agreeing", "axial alone", "coronal alone", "sagittal alone")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in (*names, "uniform body")}
    bias: dict[str, list[dict[str, float]]] = {"median": [], "uniform body": []}
    pictures = []
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


def mr_to_pet(arguments: argparse.Namespace) -> None:
    """Paper 5: axial and augmented models against the between-subject baseline (section 2.5)."""
    system = arguments.recipe or "mr2pet"
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("ct-to-pet", "nac-pet-to-ct", "mr-to-pet"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True, help="as given to synthct train")
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--recipe", help="another from NAC PET to CT; mr2pet-brain for heads")
    parser.add_argument("--without-pet", action="store_true", help="reconstruct no PET")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    {"ct-to-pet": ct_to_pet, "nac-pet-to-ct": nac_pet_to_ct, "mr-to-pet": mr_to_pet}[
        arguments.task
    ](arguments)


if __name__ == "__main__":
    main()

"""What the benchmarks of Papers 3, 4 and 5 share: test cases of a recipe's folds, tables, pictures.

``--folds`` holds a folder RECIPE/fold-K for each fold that was trained (``synthct train RECIPE
--fold K -o DIR/RECIPE/fold-K --examples DIR``); those that are missing are left out and told. Each
subject of a fold's test part is answered by that fold's model, on the voxels of the training
(3 mm), and compared inside the body where both images were scanned.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from pydantic import TypeAdapter
from scipy import stats

from cross_validation import spread
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import Interpolator, resample
from SynthCTLib.metrics.lesions import (
    LesionDetection,
    LesionScan,
    detect_lesions,
    detection_rates,
    lesion_uptake,
)
from SynthCTLib.metrics.uptake import LEAST_LESION_ML, uptake_figures
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.registry import Machine, build_model
from SynthCTLib.synthesis.triplanar import SliceModel, TriplanarSynthesizer
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


def arguments_parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all three share."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True, help="as given to synthct train")
    parser.add_argument("--output", "-o", type=Path, required=True)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with the folder made and one thread for each library."""
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return arguments

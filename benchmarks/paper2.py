"""Tables 1 to 3 and figure 2 of Paper 2, on simulated heads that no system has seen.

    python benchmarks/paper2.py --data-pack DIR --out DIR [--train NAME ...] [--picture FILE]

``--train`` first trains the systems named (``all`` of them) by their ``-small`` recipes on pairs of
the other 15 anatomies; what lies finished in ``--out`` is not made again, and a stopped training
goes on. Without it the models are those trained there before, else those that ship. The system
with an atlas prior is trained on the anatomies that are no atlas, since an atlas fits itself as it
fits nobody else; beside it stands the 2D U-Net trained on the same.

Everything is compared in template space (Colin 27, 1 mm), as in the paper: images of 0 to 4095
(HU + 1024) multiplied by the head mask (table 1) or by a smoothed mask of the bone (table 2), and
the figures taken over the whole block. Beside them stand the mean absolute errors within the head
and within its bone, which do not depend on how much air surrounds a head.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from atlas_methods import HELD_OUT, held_out_pairs
from planes import draw_planes
from simulated_pairs import as_they_lie, make_pairs
from SynthCTLib.cli.ending import stop_on_signals
from SynthCTLib.cli.screen import default_cache_folder
from SynthCTLib.errors import MissingModel
from SynthCTLib.imaging.bias import correct_bias
from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.imaging.grids import Interpolator, resample, to_lps
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.metrics.clusters import clusters_of, kmeans_dice_bone
from SynthCTLib.metrics.errors import mae_hu
from SynthCTLib.metrics.overlap import BONE_HU
from SynthCTLib.metrics.similarity import pearson, psnr_db
from SynthCTLib.metrics.statistics import paired_difference
from SynthCTLib.metrics.structure import mssim_paper_2
from SynthCTLib.progress import Progress
from SynthCTLib.registration import read_transform, write_transform
from SynthCTLib.synthesis.card import read_card
from SynthCTLib.synthesis.registry import Machine, build_model, open_model
from SynthCTLib.synthesis.synthesizer import Synthesizer
from SynthCTLib.synthesis.template import onto_template, template_grid
from SynthCTLib.training.recipe import Recipe, read_recipe
from SynthCTLib.volume import AIR_HU, Role, Volume
from SynthCTLib.workflow.training import TrainingRequest, train_recipe

ATLASES = ("head_10", "head_02", "head_19", "head_08", "head_15", "head_14")
LOWEST_HU, HIGHEST_HU = -1024.0, 3071.0  # 0 and 4095
# The paper smooths its bone mask and does not say by how much.
SMOOTHING_MM = 2.0
SEGMENTATION = "paper2-bone"
FIRST = "paper2-2d"  # to which the others are compared


@dataclass(frozen=True)
class System:
    """A row: the paper's name, the model, and whether its atlases may be among its examples.

    ``recipe``: where it is not the model's own.
    """

    title: str
    model: str
    trained: bool = True
    own_atlases: bool = True
    recipe: str = ""


SYSTEMS = (
    System("Atlas, non-rigid", "atlas-deformable", trained=False),
    System("Atlas, affine", "atlas-affine", trained=False),
    System("2D U-Net", FIRST),
    System("2D U-Net, adversarial", "paper2-2d-adversarial"),
    System("3D U-Net", "paper2-3d"),
    System("2D U-Net, bone-weighted (atlas prior)", "paper2-2d-prior", own_atlases=False),
    System(
        "2D U-Net, the same 8 anatomies",
        "paper2-2d-eight",
        own_atlases=False,
        recipe=FIRST,
    ),
    System("2D U-Net, direct MRI segmentation", SEGMENTATION),
    System("head-unet (not in the paper)", "head-unet", trained=False),
)
# What the small recipes' grid alone costs: the true CT, sampled on it and back.
COARSE, COARSE_MM = "coarse", 2.0
ROWS = {**{s.model: s.title for s in SYSTEMS}, COARSE: "The true CT, through voxels of 2 mm"}


def trained(system: System, data_pack: Path, out: Path, steps: int | None) -> None:
    """Train a system by its small recipe, in fewer steps where so many are given."""
    names = {p.name.removesuffix(".nii.gz") for p in (data_pack / "labels").glob("head_*.nii.gz")}
    seen = names - set(HELD_OUT)
    make_pairs(data_pack, out / "pairs" / "others", seen - set(ATLASES))
    make_pairs(data_pack, out / "pairs" / "atlases", seen & set(ATLASES))
    folder = out / "trained" / system.model
    if (folder / small(system) / "card.yaml").is_file():
        return
    data = out / "pairs" if system.own_atlases else out / "pairs" / "others"
    count = len(seen if system.own_atlases else seen - set(ATLASES))
    recipe = one_left_out(read_recipe(small(system)), count)
    request = TrainingRequest(
        recipe.model_copy(update={"steps": steps or recipe.steps}),
        data,
        folder,
        resume=(folder / "checkpoint.pt").is_file(),
        device="cpu",
        threads=1,
        examples=out / "examples",
    )
    with stop_on_signals() as is_cancelled:
        train_recipe(request, Progress(is_cancelled=is_cancelled))


def small(system: System) -> str:
    return f"{system.recipe or system.model}-small"


def one_left_out(recipe: Recipe, subjects: int) -> Recipe:
    """As many folds as subjects: all but one are trained on, one steers nothing."""
    recipe = as_they_lie(recipe)
    settings = {**recipe.source.settings, "folds": subjects}
    return recipe.model_copy(
        update={"source": recipe.source.model_copy(update={"settings": settings})}
    )


def opened(system: System, out: Path) -> Synthesizer | None:
    """The model trained here, else the one that ships; None where there is neither."""
    machine = Machine("cpu", 1, default_cache_folder())
    folder = out / "trained" / system.model / small(system)
    if (folder / "card.yaml").is_file():
        return build_model(read_card(folder, folder), machine)
    try:
        return open_model(system.model, machine)
    except MissingModel:
        return None


@dataclass(frozen=True)
class Subject:
    """A held-out head: its MR (bias corrected), and in template space MR, CT and masks.

    ``bone``: the smoothed mask, 0 to 1. ``to_mr``: from points of the template to the MR's.
    """

    name: str
    mr: Volume
    to_mr: sitk.Transform
    seen: Volume
    ct: Volume
    head: Volume
    bone: Volume

    def brought(self, ct: Volume) -> Volume:
        """A CT of this head in template space."""
        return in_template(ct, self.to_mr, Interpolator.LINEAR)


def in_template(volume: Volume, to_mr: sitk.Transform, how: Interpolator) -> Volume:
    return resample(volume, template_grid(1.0), transform=to_mr, interpolator=how)


def subjects_of(data_pack: Path, out: Path) -> list[Subject]:
    """The held-out heads, from ``out`` where they were made before."""
    folder = out / "held-out"
    files = {name: [folder / name / f for f in ("mr.nii.gz", "ct.nii.gz")] for name in HELD_OUT}
    if not all(file.is_file() for pair in files.values() for file in pair):
        for name, pair in held_out_pairs(data_pack):
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_volume(correct_bias(pair.mr), files[name][0])
            write_volume(pair.ct, files[name][1])
    found = []
    for name, (mr_file, ct_file) in files.items():
        mr = to_lps(read_volume(mr_file, Role.MR)).volume
        ct = read_volume(ct_file, Role.CT)
        head, place = head_mask(mr), folder / name / "to_template.h5"
        if not place.is_file():
            write_transform(onto_template(mr, head, 1, Progress()), place)
        to_mr = read_transform(place).GetInverse()
        true = in_template(ct, to_mr, Interpolator.LINEAR)
        bone = sitk.Cast(true.image >= BONE_HU, sitk.sitkFloat32)
        smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(bone, SMOOTHING_MM))
        found.append(
            Subject(
                name,
                mr,
                to_mr,
                in_template(mr, to_mr, Interpolator.LINEAR),
                true,
                in_template(head, to_mr, Interpolator.NEAREST),
                true.with_array(np.clip(smooth, 0, 1).astype(np.float32)),
            )
        )
    return found


def predicted(model: Synthesizer, subject: Subject, folder: Path) -> Volume:
    """The CT that a model makes of a head, from the folder where it was made before."""
    path = folder / f"{subject.name}.nii.gz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(model.synthesize({Role.MR: subject.mr}, Progress()).volume, path)
    return read_volume(path, Role.CT)


def coarse(ct: Volume) -> Volume:
    """A CT on the grid of the small recipes and back."""
    there = resample(ct, template_grid(COARSE_MM), interpolator=Interpolator.BSPLINE)
    return resample(there, ct.grid, interpolator=Interpolator.BSPLINE)


def product(ct: Volume, weight: Volume) -> Volume:
    """A CT of 0 to 4095 times a mask, in HU again."""
    values = np.clip(ct.array, LOWEST_HU, HIGHEST_HU) - LOWEST_HU
    made = values * weight.array.astype(np.float32) + LOWEST_HU
    return ct.with_array(made.astype(np.float32))


def figures(subject: Subject, made: Volume, segments: bool) -> dict[str, float]:
    """All figures of one CT in template space, or those of a segmentation (bone from 300 HU)."""
    true, head = subject.ct, subject.head
    inside = head.array > 0
    bone = inside & (true.array >= BONE_HU)
    found = {"dice_300": dice(bone, inside & (made.array >= BONE_HU))}
    whole = true.mask(np.ones(true.array.shape, bool))
    if segments:
        found["kmeans_dice"] = dice(kmeans_bone(true, head), inside & (made.array >= BONE_HU))
        return found
    for name, weight in (("head", head), ("bone", subject.bone)):
        first, second = product(true, weight), product(made, weight)
        found |= {
            f"{name}_psnr": psnr_db(first, second, whole),
            f"{name}_mae": mae_hu(first, second, whole),
            f"{name}_ssim": mssim_paper_2(first, second, whole),
            f"{name}_pcc": pearson(first, second, whole),
        }
    found["kmeans_dice"] = kmeans_dice_bone(product(true, head), product(made, head), whole)
    found["head_mae_inside"] = mae_hu(true, made, head)
    found["bone_mae_inside"] = mae_hu(true, made, true.mask(bone))
    return found


def kmeans_bone(ct: Volume, head: Volume) -> np.ndarray:
    """What k-means calls bone in a CT that is empty outside the head."""
    values = product(ct, head).array.astype(np.float64)
    clusters = clusters_of(values.ravel())
    assert clusters is not None
    return values > clusters.parts[1]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


Results = Mapping[str, Sequence[Mapping[str, float]]]
TABLES = (
    (
        "Table 1, the head",
        (
            ("PSNR (dB)", "head_psnr", 2),
            ("MAE", "head_mae", 1),
            ("MSSIM", "head_ssim", 3),
            ("PCC", "head_pcc", 3),
            ("MAE in the head (HU)", "head_mae_inside", 1),
        ),
    ),
    (
        "Table 2, the bone",
        (
            ("PSNR (dB)", "bone_psnr", 2),
            ("MAE", "bone_mae", 2),
            ("MSSIM", "bone_ssim", 3),
            ("PCC", "bone_pcc", 3),
            ("MAE in bone (HU)", "bone_mae_inside", 0),
        ),
    ),
    (
        "Table 3, segmentation of bone",
        (("Dice, k-means", "kmeans_dice", 3), ("Dice, from 300 HU", "dice_300", 3)),
    ),
)
COMPARED = (("MAE in the head (HU)", "head_mae_inside", 1), ("Dice, k-means", "kmeans_dice", 3))


def spread(values: Sequence[float], digits: int) -> str:
    return (
        f"{np.mean(values):.{digits}f} ({np.std(values, ddof=1):.{digits}f}), "
        f"{np.median(values):.{digits}f}"
    )


def print_tables(results: Results) -> None:
    for title, columns in TABLES:
        print(f"\n{title}: mean (SD), median.\n")
        print("| method | " + " | ".join(name for name, _, _ in columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for model, name in ROWS.items():
            rows = results.get(model)
            if rows and columns[0][1] in rows[0]:
                cells = [spread([row[key] for row in rows], digits) for _, key, digits in columns]
                print(f"| {name} | {' | '.join(cells)} |")


def print_differences(results: Results) -> None:
    """Each system minus the 2D U-Net over the same heads."""
    first = results.get(FIRST)
    if first is None:
        return
    print(
        f"\nAgainst the 2D U-Net, over the same {len(first)} heads: mean difference (SD), paired "
        "t-test (with 3 heads Wilcoxon's test cannot come below 0.25).\n"
    )
    print("| method | " + " | ".join(f"{name} | p" for name, _, _ in COMPARED) + " |")
    print("|---" * (2 * len(COMPARED) + 1) + "|")
    for system in SYSTEMS:
        rows = results.get(system.model)
        if rows is None or system.model == FIRST:
            continue
        cells = []
        for _, key, digits in COMPARED:
            if key not in rows[0]:
                cells += ["", ""]
                continue
            found = paired_difference([r[key] for r in first], [r[key] for r in rows])
            tested = f"{found.t_p:.3f}" if np.isfinite(found.t_p) else "-"
            cells += [f"{found.mean:+.{digits}f} ({found.sd:.{digits}f})", tested]
        print(f"| {system.title} | {' | '.join(cells)} |")


def picture(subject: Subject, made: Mapping[str, Volume], path: Path) -> None:
    """Middle slices of one head: MR, CT and every system, one row a plane (figure 2)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bright = float(np.percentile(subject.seen.array, 99.7))
    panels = [("MR", subject.seen, (0.0, bright)), ("CT", subject.ct, (-1000.0, 1800.0))]
    panels += [
        (ROWS[name].replace(", ", ",\n").replace(" (", "\n("), volume, (-1000.0, 1800.0))
        for name, volume in made.items()
    ]
    figure, axes = plt.subplots(3, len(panels), figsize=(2.2 * len(panels), 7.4))
    for column, (title, volume, limits) in enumerate(panels):
        draw_planes(axes[:, column], volume, "gray", limits)
        axes[0, column].set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def shown(name: str, volume: Volume, head: Volume) -> Volume:
    """As figure 2 has it: a CT with air outside the head, a segmentation as bone or none."""
    values = volume.array
    if name == SEGMENTATION:
        values = np.where(values >= BONE_HU, np.float32(1500), np.float32(40))
    return volume.with_array(np.where(head.array > 0, values, np.float32(AIR_HU)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", nargs="+", default=[], help="models by name, or all")
    parser.add_argument("--steps", type=int, help="of a training; the recipe's without")
    parser.add_argument("--no-tables", action="store_true", help="train, and that is all")
    parser.add_argument("--only", nargs="+", help="models to look at; all without")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    out: Path = arguments.out
    for system in SYSTEMS:
        if system.trained and {system.model, "all"} & set(arguments.train):
            trained(system, arguments.data_pack, out, arguments.steps)
    if arguments.no_tables:
        return
    subjects = subjects_of(arguments.data_pack, out)
    results: dict[str, list[dict[str, float]]] = {}
    drawn: dict[str, Volume] = {}
    for system in SYSTEMS:
        if arguments.only and system.model not in arguments.only:
            continue
        model = opened(system, out)
        if model is None:
            print(f"There is no model {system.model}: train it with --train {system.model}.")
            continue
        rows = []
        for subject in subjects:
            made = predicted(model, subject, out / "made" / system.model)
            brought = subject.brought(made)
            rows.append(figures(subject, brought, system.model == SEGMENTATION))
            if subject is subjects[0]:
                drawn[system.model] = shown(system.model, brought, subject.head)
        results[system.model] = rows
    results[COARSE] = [figures(s, coarse(s.ct), False) for s in subjects]
    (out / "figures.json").write_text(json.dumps(results, indent=1))
    ceiling = [
        dice(kmeans_bone(s.ct, s.head), (s.head.array > 0) & (s.ct.array >= BONE_HU))
        for s in subjects
    ]
    print(
        f"Held-out anatomies {', '.join(HELD_OUT)} (N = {len(HELD_OUT)}, simulated T1 and CT), in "
        "template space.\n\nDice of what k-means calls bone in the true CT and its bone from 300 "
        f"HU: {spread(ceiling, 3)} (0.91 in the paper)."
    )
    print_tables(results)
    print_differences(results)
    if arguments.picture:
        picture(subjects[0], drawn, arguments.picture)


if __name__ == "__main__":
    main()

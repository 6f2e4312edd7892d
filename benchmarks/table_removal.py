"""Scanner table removal on real CTs: what is taken away from each, and pictures to judge it by.

    python benchmarks/table_removal.py --data-pack DIR [--out DIR]

Data: 36 sarcoma CTs (TCIA Soft-tissue-Sarcoma, cropped) and one head CT, all real. There is no
reference: the verdicts in table_removal_verdict.csv are a person's, from the pictures this writes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes

from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.imaging.table import TableRemoval, remove_table
from SynthCTLib.volume import Role, Unit, Volume

VERDICTS = Path(__file__).with_name("table_removal_verdict.csv")
AXIAL = (0.02, 0.2, 0.4, 0.6, 0.8, 0.98)
IN_PLANE = (0.35, 0.7)
PATIENTS_PER_SHEET = 3
COLUMNS = 5


def cases(pack: Path) -> dict[str, Path]:
    found = {p.parent.name: p for p in sorted(pack.glob("sts/STS_*/ct.nii.gz"))}
    return {**found, "head": pack / "heads" / "adult_ct_unpaired.nii.gz"}


def draw(axes: Axes, hu: np.ndarray, body: np.ndarray, removed: np.ndarray, aspect: float) -> None:
    """Grey: the CT, air to fat spread out. Red: removed. Cyan line: outline of what is kept."""
    grey = np.clip((hu + 1024.0) / 1400.0, 0, 1) ** 0.6
    colour = np.repeat(grey[..., None], 3, axis=-1)
    colour[removed] = colour[removed] * 0.4 + np.array([0.6, 0.0, 0.0])
    axes.imshow(colour, aspect=aspect)
    if body.any() and not body.all():
        axes.contour(body, [0.5], colors="cyan", linewidths=1.0)
    axes.axis("off")


def row(axes: np.ndarray, name: str, ct: Volume, result: TableRemoval) -> None:
    hu, body, removed = (to_lps(v).volume.array for v in (ct, result.body, result.removed))
    x_mm, y_mm, z_mm = to_lps(ct).volume.grid.spacing_mm
    planes = [(0, f, y_mm / x_mm) for f in AXIAL]
    planes += [(1, f, z_mm / x_mm) for f in IN_PLANE] + [(2, f, z_mm / y_mm) for f in IN_PLANE]
    for axis, (plane, share, aspect) in zip(axes, planes, strict=True):
        index = round(share * (hu.shape[plane] - 1))
        cuts = [np.take(a, index, axis=plane) for a in (hu, body > 0, removed > 0)]
        if plane:
            cuts = [c[::-1] for c in cuts]
        draw(axis, cuts[0], cuts[1], cuts[2], aspect)
    axes[0].set_title(f"{name}: {result.removed_ml:.0f} ml removed", fontsize=9, loc="left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder for the contact sheets")
    arguments = parser.parse_args()
    with VERDICTS.open(encoding="utf-8") as stream:
        lines = (line for line in stream if not line.startswith("#"))
        verdicts = {line["patient"]: line for line in csv.DictReader(lines)}

    shown = list(cases(arguments.data_pack).items())
    print("| CT | removed, ml | kept, ml | table kept | body lost | remark |")
    print("|---|---:|---:|---|---|---|")
    for first in range(0, len(shown), PATIENTS_PER_SHEET):
        planes = len(AXIAL) + 2 * len(IN_PLANE)
        rows = PATIENTS_PER_SHEET * planes // COLUMNS
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 4 * rows))
        for axis in axes.ravel():
            axis.axis("off")
        axes = axes.reshape(PATIENTS_PER_SHEET, planes)
        for line, (name, path) in zip(
            axes, shown[first : first + PATIENTS_PER_SHEET], strict=False
        ):
            ct = Volume(sitk.ReadImage(str(path)), Role.CT, Unit.HU)
            result = remove_table(ct)
            kept_ml = np.count_nonzero(result.body.array) * ct.grid.voxel_mm3 / 1000
            verdict = verdicts[name]
            print(
                f"| {name} | {result.removed_ml:.0f} | {kept_ml:.0f} | {verdict['table_kept']} "
                f"| {verdict['body_lost']} | {verdict['remark']} |",
                flush=True,
            )
            row(line, name, ct, result)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            figure.subplots_adjust(0, 0, 1, 0.97, 0.01, 0.05)
            figure.savefig(arguments.out / f"table_{first // PATIENTS_PER_SHEET:02d}.png", dpi=75)
        plt.close(figure)
    free = sum(verdicts[name]["table_kept"] == "no" for name, _ in shown)
    whole = sum(verdicts[name]["body_lost"] == "no" for name, _ in shown)
    print(
        f"\nReal CTs, N = {len(shown)}. By eye: free of table in {free} ({free / len(shown):.0%}), "
        f"body whole in {whole} ({whole / len(shown):.0%})."
    )


if __name__ == "__main__":
    main()

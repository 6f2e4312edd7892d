"""How the shipped atlases were made: cleaned, cropped, small copies of head label maps.

python tools/make_atlases.py --labels DIR     the SynthSeg training label maps, head_NN.nii.gz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml

from SynthCTLib.phantom import clean_labels
from SynthCTLib.volume import Role, Unit, Volume, sha256_of

ATLASES = Path(__file__).resolve().parents[1] / "SynthCT" / "Resources" / "Atlases"
# Full heads with face, jaw and neck, the best anatomy first. Full heads too are 05, 12 and 18, kept
# for testing; 01 (nose cut), on which the weights of the fusion were chosen; and 16 (a step in the
# skull near the vertex). 03 04 06 07 09 13 20 are cut at the face.
ORDER = ("10", "02", "19", "08", "15", "14")
MARGIN_MM = 10.0

CARD = {
    "name": "heads",
    "description": "Label maps of adult heads; their MR and CT are simulated by the phantom.",
    "source": "Training label maps of SynthSeg (https://github.com/BBillot/SynthSeg), "
    "Billot et al., Medical Image Analysis 86 (2023) 102789",
    "licence": "Apache-2.0 (LICENSE.txt)",
    "changes": "Islands outside the head and specks of air inside removed, cropped, "
    "stored as uint16; 1 mm voxels, labels and world positions are the original ones.",
    "held_out": ["head_05", "head_12", "head_18"],
}


def cropped(labels: Volume, margin_mm: float) -> sitk.Image:
    """The block that holds all tissue and a margin, as uint16."""
    low, high = (f(np.argwhere(labels.array), axis=0)[::-1] for f in (np.min, np.max))
    margin = np.ceil(margin_mm / np.asarray(labels.grid.spacing_mm)).astype(int)
    start = np.maximum(low - margin, 0)
    stop = np.minimum(high + margin + 1, labels.grid.size)
    image = sitk.Cast(labels.image, sitk.sitkUInt16)
    return sitk.RegionOfInterest(image, (stop - start).tolist(), start.tolist())


def main() -> None:
    """Write the label maps and their card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    folder = parser.parse_args().labels
    entries = []
    for number in ORDER:
        path = ATLASES / "heads" / f"head_{number}.nii.gz"
        original = sitk.ReadImage(folder / path.name)
        labels = clean_labels(Volume(original, Role.MASK, Unit.ARBITRARY))
        sitk.WriteImage(cropped(labels, MARGIN_MM), path, True, 9)
        entries.append(
            {
                "id": path.name.removesuffix(".nii.gz"),
                "file": f"heads/{path.name}",
                "sha256": sha256_of(path),
                "bytes": path.stat().st_size,
            }
        )
    card = yaml.safe_dump({**CARD, "atlases": entries}, sort_keys=False, width=100)
    (ATLASES / "card.yaml").write_text(card)


if __name__ == "__main__":
    main()

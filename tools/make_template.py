"""Make Resources/Templates from Colin 27 at 1 mm: the image at 2 mm, and a mask of its brain.

python tools/make_template.py colin27_t1.nii.gz FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import SimpleITK as sitk

from SynthCTLib.imaging.files import read_volume, write_volume
from SynthCTLib.imaging.grids import isotropic_grid, resample, to_lps
from SynthCTLib.imaging.masks import brain_mask, head_mask
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.volume import Role

SPACING_MM = 2.0


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    mr = to_lps(read_volume(source, Role.MR)).volume
    ct = open_model("head-unet", Machine()).synthesize({Role.MR: mr}, Progress()).volume
    brain = brain_mask(ct, head_mask(mr))
    grid = isotropic_grid(mr.grid, SPACING_MM)
    small = resample(mr, grid)
    whole = sitk.Cast(sitk.Clamp(small.image, sitk.sitkFloat32, 0, 255), sitk.sitkUInt8)
    write_volume(small.with_image(whole), folder / "colin27_t1_2mm.nii.gz")
    share = resample(mr.with_array(brain.array.astype("float32")), grid)
    write_volume(small.mask(share.array >= 0.5), folder / "colin27_brain_2mm.nii.gz")
    print(f"brain: {brain.array.sum() / 1000:.0f} ml")


if __name__ == "__main__":
    main()

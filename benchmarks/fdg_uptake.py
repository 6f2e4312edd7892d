"""SUV of muscle, fat and bone in 36 real FDG-PETs, away from the tumour.

    python benchmarks/fdg_uptake.py --data-pack DIR

Tissue is told by the CT, smoothed to the resolution of the PET and on its grid: voxels whose
neighbours are all fat (-150 to -60 HU) or all muscle (10 to 100 HU), and bone above 300 HU, 3 cm or
more from the tumour. The median of each patient, and the median and quartiles of the patients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

SMOOTHING_FWHM_MM, AWAY_MM, LEAST_VOXELS = 5.0, 30.0, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    found: dict[str, list[float]] = {"muscle": [], "fat": [], "bone": []}
    for patient in sorted((parser.parse_args().data_pack / "sts").glob("STS_*")):
        pet = sitk.ReadImage(str(patient / "pet.nii.gz"), sitk.sitkFloat32)
        ct = sitk.ReadImage(str(patient / "ct.nii.gz"), sitk.sitkFloat32)
        smooth = sitk.DiscreteGaussian(ct, (SMOOTHING_FWHM_MM / 2.355) ** 2, 64)
        on_pet = sitk.Resample(smooth, pet, sitk.Transform(), sitk.sitkLinear, -1000.0)
        hu, suv = sitk.GetArrayFromImage(on_pet), sitk.GetArrayFromImage(pet)
        least, most = ndimage.minimum_filter(hu, 3), ndimage.maximum_filter(hu, 3)
        tumour = sitk.GetArrayFromImage(sitk.ReadImage(str(patient / "pet_tumour.nii.gz"))) > 0
        away = ndimage.distance_transform_edt(~tumour, sampling=pet.GetSpacing()[::-1]) > AWAY_MM
        tissues = {
            "muscle": (least > 10) & (most < 100),
            "fat": (least > -150) & (most < -60),
            "bone": hu > 300,
        }
        for name, where in tissues.items():
            values = suv[where & away]
            if values.size > LEAST_VOXELS:
                found[name].append(float(np.median(values)))
    print("| tissue | patients | median SUV | quartiles |")
    print("|---|--:|--:|--:|")
    for name, values in found.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        print(f"| {name} | {len(values)} | {middle:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()

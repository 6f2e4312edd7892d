"""FDG where no PET of the patient is at hand: a usual uptake for each tissue of a CT."""

from __future__ import annotations

import numpy as np

from SynthCTLib.errors import InputError
from SynthCTLib.volume import Role, Step, Unit, Volume

# Mean SUV of the cerebellum of 98 people: Wang et al., Mol Imaging Biol 9 (2007) 83.
BRAIN_SUV = 8.0
# Median over the 36 patients of the Soft-tissue-Sarcoma collection (TCIA, doi
# 10.7937/K9/TCIA.2015.7GO2GSKS), away from the tumour: benchmarks/fdg_uptake.py.
MUSCLE_SUV, FAT_SUV, BONE_SUV = 0.66, 0.26, 0.60

# Below the first lies air, up to the second fat and its mixture with air, from the third bone.
AIR_HU, FAT_HU, BONE_HU = -500.0, -30.0, 300.0

DESCRIPTION = (
    "usual FDG uptake by tissue (brain 8.0, muscle 0.66, fat 0.26, bone 0.60 SUV), not a PET of "
    "this patient"
)


def fdg_pattern(ct: Volume, region: Volume, brain: Volume | None = None) -> Volume:
    """An FDG-PET (SUV, float32) of the anatomy that a CT (HU) shows inside a region (a mask).

    The brain (a mask) has one uptake: neither a CT nor an MR of any contrast tells grey from white
    matter surely, and a relative difference hardly depends on it. Air and everything outside the
    region hold nothing. Raises InputError for another unit or grid, and where nothing is left.
    """
    ct.require_unit(Unit.HU)
    region.require_grid_of(ct)
    hu = ct.array
    suv = np.where(hu < FAT_HU, np.float32(FAT_SUV), np.float32(MUSCLE_SUV))
    suv[hu >= BONE_HU] = BONE_SUV
    if brain is not None:
        brain.require_grid_of(ct)
        suv[brain.array > 0] = BRAIN_SUV
    suv[(hu < AIR_HU) | (region.array == 0)] = 0
    if not suv.any():
        raise InputError("The region holds no tissue that could take up FDG: give a PET.")
    settings = {"brain": BRAIN_SUV, "muscle": MUSCLE_SUV, "fat": FAT_SUV, "bone": BONE_SUV}
    return ct.with_array(suv, role=Role.PET, unit=Unit.SUV, step=Step("fdg_pattern", settings))

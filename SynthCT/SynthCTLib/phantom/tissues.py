"""The tissues of a simulated head: which labels mean what, and how each looks in MR and CT.

Labels are FreeSurfer's numbers for the brain and, above 500, those of the head label maps that
train SynthSeg (Billot et al., Med Image Anal 86, 2023, 102789; their meaning was found by
looking). Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from SynthCTLib.volume import AIR_HU


class Tissue(IntEnum):
    """What a voxel is made of: the compact index that the rendering works on."""

    AIR = 0
    WHITE_MATTER = 1
    GREY_MATTER = 2
    CEREBELLAR_CORTEX = 3
    BRAIN_STEM = 4
    THALAMUS = 5
    CAUDATE = 6
    PUTAMEN = 7
    PALLIDUM = 8
    HIPPOCAMPUS = 9
    LESION = 10
    CHOROID_PLEXUS = 11
    CSF = 12
    ARTERY = 13
    VEIN = 14
    EYE = 15
    EYE_MUSCLE = 16
    OPTIC_NERVE = 17
    SPINAL_CORD = 18
    MUCOSA = 19
    SKIN = 20
    MUSCLE = 21
    FAT = 22
    CORTICAL_BONE = 23
    DIPLOE = 24
    CANCELLOUS_BONE = 25


@dataclass(frozen=True)
class Appearance:
    """Mean and within-tissue standard deviation of the MR signal and of the HU.

    The signal is relative to white matter.
    """

    t1: float
    t1_sd: float
    hu: float
    hu_sd: float


# T1: chosen to resemble the real heads it was compared with, where grey matter has 0.72 to 0.74 of
# the signal of white matter and ventricles 0.27 to 0.38 (two adults, a 3-year-old, Colin 27).
# HU: the usual ranges at 120 kVp; they lie in the tissue classes of Schneider et al., Phys Med
# Biol 45 (2000) 459 (adipose -120 to -83, soft tissue 19 to 79, bone above 120). The three bones
# were fitted to the histogram of a real head CT: benchmarks/phantom_bone.py.
APPEARANCE: Mapping[Tissue, Appearance] = {
    Tissue.AIR: Appearance(0.0, 0.0, AIR_HU, 0.0),
    Tissue.WHITE_MATTER: Appearance(1.00, 0.03, 28.0, 3.0),
    Tissue.GREY_MATTER: Appearance(0.70, 0.05, 38.0, 3.0),
    Tissue.CEREBELLAR_CORTEX: Appearance(0.70, 0.06, 38.0, 3.0),
    Tissue.BRAIN_STEM: Appearance(0.90, 0.04, 30.0, 3.0),
    Tissue.THALAMUS: Appearance(0.82, 0.05, 35.0, 3.0),
    Tissue.CAUDATE: Appearance(0.72, 0.04, 37.0, 3.0),
    Tissue.PUTAMEN: Appearance(0.77, 0.04, 37.0, 3.0),
    Tissue.PALLIDUM: Appearance(0.88, 0.04, 36.0, 4.0),
    Tissue.HIPPOCAMPUS: Appearance(0.68, 0.05, 36.0, 3.0),
    Tissue.LESION: Appearance(0.72, 0.06, 24.0, 4.0),
    Tissue.CHOROID_PLEXUS: Appearance(0.50, 0.10, 40.0, 15.0),
    Tissue.CSF: Appearance(0.27, 0.04, 8.0, 4.0),
    Tissue.ARTERY: Appearance(0.60, 0.25, 50.0, 6.0),
    Tissue.VEIN: Appearance(0.50, 0.15, 55.0, 6.0),
    Tissue.EYE: Appearance(0.25, 0.04, 12.0, 5.0),
    Tissue.EYE_MUSCLE: Appearance(0.60, 0.06, 50.0, 8.0),
    Tissue.OPTIC_NERVE: Appearance(0.75, 0.05, 35.0, 6.0),
    Tissue.SPINAL_CORD: Appearance(0.85, 0.05, 32.0, 4.0),
    Tissue.MUCOSA: Appearance(0.60, 0.12, 40.0, 12.0),
    Tissue.SKIN: Appearance(0.60, 0.12, 30.0, 25.0),
    Tissue.MUSCLE: Appearance(0.55, 0.07, 55.0, 10.0),
    Tissue.FAT: Appearance(1.20, 0.15, -95.0, 12.0),
    Tissue.CORTICAL_BONE: Appearance(0.06, 0.03, 1260.0, 240.0),
    Tissue.DIPLOE: Appearance(0.10, 0.05, 750.0, 200.0),
    Tissue.CANCELLOUS_BONE: Appearance(0.65, 0.15, 450.0, 180.0),
}

TISSUE_OF_LABEL: Mapping[int, Tissue] = {
    0: Tissue.AIR,
    **dict.fromkeys((2, 41, 7, 46), Tissue.WHITE_MATTER),
    **dict.fromkeys((3, 42, 18, 54, 26, 58), Tissue.GREY_MATTER),  # cortex, amygdala, accumbens
    **dict.fromkeys((8, 47), Tissue.CEREBELLAR_CORTEX),
    **dict.fromkeys((16, 28, 60, 85), Tissue.BRAIN_STEM),  # with ventral DC, optic chiasm
    **dict.fromkeys((10, 49), Tissue.THALAMUS),
    **dict.fromkeys((11, 50), Tissue.CAUDATE),
    **dict.fromkeys((12, 51), Tissue.PUTAMEN),
    **dict.fromkeys((13, 52), Tissue.PALLIDUM),
    **dict.fromkeys((17, 53), Tissue.HIPPOCAMPUS),
    **dict.fromkeys((25, 57), Tissue.LESION),
    # 136, 137, 163, 164 lie along the floor and the temporal horns of the lateral ventricles.
    **dict.fromkeys((136, 137, 163, 164), Tissue.CHOROID_PLEXUS),
    **dict.fromkeys((4, 5, 14, 15, 24, 43, 44, 72), Tissue.CSF),
    **dict.fromkeys((30, 62, 502), Tissue.ARTERY),
    514: Tissue.VEIN,
    506: Tissue.EYE,
    508: Tissue.EYE_MUSCLE,
    530: Tissue.OPTIC_NERVE,
    512: Tissue.SPINAL_CORD,
    509: Tissue.MUCOSA,
    511: Tissue.SKIN,
    507: Tissue.MUSCLE,  # all soft tissue; part of it is made fat by composition.compose
    515: Tissue.CORTICAL_BONE,  # all that is dark in T1; thick bone gets a diploe there
    516: Tissue.CANCELLOUS_BONE,
}

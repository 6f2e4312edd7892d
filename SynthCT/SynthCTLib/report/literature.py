"""Published accuracy, to read one's own figures against. Other data, other scanners, adults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Mean and standard deviation of a figure over the subjects of a study."""

    mean: float
    sd: float
    text: str
    more_is_better: bool = False

    def worse_by_sd(self, value: float) -> float:
        """How much worse than the study's mean a value is, in standard deviations."""
        deviation = (value - self.mean) / self.sd
        return -deviation if self.more_is_better else deviation


SOURCE = (
    "3D residual U-Net from T1-weighted MR, cross-validated on 110 people, mostly adults "
    "(paper 1: Yaakub et al., 2022, sections 4.1 and 4.2; mean ± standard deviation)"
)
MAE_HEAD_HU = Published(100.4, 21.3, "100.4 ± 21.3 HU")
JACCARD_BONE_HEAD = Published(0.73, 0.07, "0.73 ± 0.07", more_is_better=True)
MU_RMAE_HEAD_PERCENT = Published(8.4, 2.1, "8.4 ± 2.1 %")

# Paper 2, tables 1 and 3: 2D U-Net, head mask, 30 children, six-fold cross-validated.
SOURCE_2 = (
    "2D U-Net from T1-weighted MR of 30 children (paper 2: tables 1 and 3; mean ± standard "
    "deviation)"
)
PSNR_HEAD_DB = Published(28.01, 2.04, "28.0 ± 2.0 dB", more_is_better=True)
MSSIM_HEAD = Published(0.91, 0.03, "0.91 ± 0.03", more_is_better=True)
CORRELATION_HEAD = Published(0.951, 0.023, "0.95 ± 0.02", more_is_better=True)
KMEANS_DICE_HEAD = Published(0.64, 0.11, "0.64 ± 0.11", more_is_better=True)

CITATIONS = (
    "Paper 1: Yaakub et al., MR to pseudo-CT for PET/MR attenuation correction with a 3D residual "
    "U-Net, 2022 (MAE, bone Jaccard coefficient, relative MAE of µ).",
    "Paper 2: MRI to CT synthesis with an atlas prior (PSNR, mean SSIM, correlation, k-means Dice; "
    "equations 8 to 12).",
    "Thummerer et al., SynthRAD2023 Grand Challenge dataset, Med Phys 50 (2023) 4664, and the "
    "metrics of SynthRAD 2023 and 2025 (masked SSIM and MS-SSIM, ranges of HU).",
    "Carney et al., Med Phys 33 (2006) 976 (HU to µ at 511 keV).",
    "Studholme, Hill and Hawkes, Pattern Recognition 32 (1999) 71 (normalised mutual information).",
    "Wang et al., IEEE Trans Image Process 13 (2004) 600 (structural similarity).",
)
"""What the figures of an evaluation rest on, to cite with them."""

PET_CITATIONS = (
    "Joseph, IEEE Trans Med Imaging 1 (1982) 192 (projection); Hudson and Larkin, ibid. 13 (1994) "
    "601 (ordered subsets).",
    "Ladefoged et al., NeuroImage 147 (2017) 346 (eleven methods of brain PET/MR, within 5 %).",
    "Wang et al., Mol Imaging Biol 9 (2007) 83 (usual FDG uptake of the brain), where no PET was "
    "given.",
)
"""What the simulated effect on a PET rests on."""

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

"""How much of its codebook a vector-quantised network uses, and whether it has collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A codebook whose use is worth less than this share of its codes (16 of 8192) can tell too few
# things apart for a CT. Our own limit: no paper states one.
COLLAPSED_SHARE = 1 / 512


@dataclass(frozen=True)
class CodebookUse:
    """``used`` of ``codes`` vectors were used at all; ``perplexity``: how many evenly used ones.

    The perplexity is exp(-sum p ln p) with p the share of each code: 1 where one code is used for
    everything, ``codes`` where all are used alike.
    """

    codes: int
    used: int
    perplexity: float

    @property
    def collapsed(self) -> bool:
        """Whether so little is used that the answer can hardly depend on the image."""
        return self.perplexity < max(2.0, COLLAPSED_SHARE * self.codes)

    @property
    def sentence(self) -> str:
        """For the user."""
        told = (
            f"The network used {self.used} of its {self.codes} codes (perplexity "
            f"{self.perplexity:.1f})"
        )
        if self.collapsed:
            return f"{told}: its codebook has collapsed, so do not trust the image."
        return f"{told}."


def codebook_use(counts: npt.NDArray[np.integer]) -> CodebookUse:
    """The use of a codebook by how often each of its codes was used."""
    share = counts[counts > 0] / max(1, int(counts.sum()))
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    return CodebookUse(len(counts), int(np.count_nonzero(counts)), perplexity)

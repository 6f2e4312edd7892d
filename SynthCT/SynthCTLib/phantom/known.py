"""Where a head label map knows what is there."""

from __future__ import annotations

import numpy as np

from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.volume import Volume

SKIN = 511  # label of the head maps


def known_region(labels: Volume) -> Volume:
    """Where a head label map knows what is there: a mask on its grid.

    The maps end at a cut through neck or face and hold 0 beyond it, as in air. A lower surface of
    skin is a real one, with air below it; any other is a cut, and what lies below it is not known.
    """
    upright = to_lps(labels)
    label = upright.volume.array  # z runs to superior
    tissue = label > 0
    covered_below = np.logical_or.accumulate(tissue, axis=0)  # tissue here or lower down
    lowest = np.take_along_axis(label, tissue.argmax(axis=0)[None], axis=0)
    cut = tissue.any(axis=0) & (lowest[0] != SKIN)
    known = covered_below | ~cut
    known[: int(tissue.any(axis=(1, 2)).argmax())] = False
    return upright.restore(upright.volume.mask(known))

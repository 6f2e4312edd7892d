"""How often each HU occurs inside a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.masked import hu_values, voxels_of
from SynthCTLib.volume import Volume


@dataclass(frozen=True, eq=False)
class HuHistogram:
    """Voxel counts between edges (HU); bin i holds edge i <= HU < edge i + 1, the last its end too.

    ``below`` and ``above`` count what lies outside the edges: with the counts they make up every
    voxel of the mask.
    """

    edges_hu: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    below: int
    above: int


def hu_histogram(
    volume: Volume, mask: Volume, edges_hu: Sequence[float] | npt.NDArray[np.floating]
) -> HuHistogram:
    """Histogram of a volume in HU inside a mask.

    Raises InputError for a volume that is not in HU, another grid, an empty mask, values that are
    not finite, and edges that do not rise.
    """
    edges = np.asarray(edges_hu, np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise InputError("The edges of a histogram must be two or more HU values that rise.")
    values = hu_values(volume, voxels_of(mask, volume), "given")
    counts, _ = np.histogram(values, edges)
    return HuHistogram(
        edges,
        counts.astype(np.int64),
        int(np.count_nonzero(values < edges[0])),
        int(np.count_nonzero(values > edges[-1])),
    )

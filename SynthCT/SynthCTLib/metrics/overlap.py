"""How well the bone of a synthetic CT lies where the bone of the reference lies."""

from __future__ import annotations

import numpy as np

from SynthCTLib.metrics.masked import masked_pair
from SynthCTLib.volume import Volume

BONE_HU = 300.0  # paper 1, section 3.4: bone is all from here on


def jaccard_bone(
    reference: Volume, synthetic: Volume, mask: Volume, threshold_hu: float = BONE_HU
) -> float:
    """Jaccard coefficient |A and B| / |A or B| of bone (HU >= threshold) inside the mask.

    Paper 1 section 3.4. NaN where neither image has bone in the mask. The mask must reach beyond
    the bone: in a mask made from the reference's own bone, no false bone is ever counted. Raises
    as :func:`masked_pair`.
    """
    both, either = _bone_voxels(reference, synthetic, mask, threshold_hu)
    return both / either if either else float("nan")


def dice_bone(
    reference: Volume, synthetic: Volume, mask: Volume, threshold_hu: float = BONE_HU
) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of bone; otherwise as :func:`jaccard_bone`."""
    both, either = _bone_voxels(reference, synthetic, mask, threshold_hu)
    return 2 * both / (both + either) if either else float("nan")


def _bone_voxels(
    reference: Volume, synthetic: Volume, mask: Volume, threshold_hu: float
) -> tuple[int, int]:
    """Voxels that are bone in both images, and in at least one."""
    pair = masked_pair(reference, synthetic, mask)
    first, second = pair.reference >= threshold_hu, pair.synthetic >= threshold_hu
    return int(np.count_nonzero(first & second)), int(np.count_nonzero(first | second))

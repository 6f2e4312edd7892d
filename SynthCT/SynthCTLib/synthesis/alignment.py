"""One head roughly onto another of any size: rigid at one size, then affine."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.progress import Progress
from SynthCTLib.registration import (
    ROUGH_MM,
    ROUGH_SAMPLES,
    AffineOptions,
    Registration,
    RigidOptions,
    register_affine,
    register_rigid,
)
from SynthCTLib.volume import Step, Volume

# Normalised mutual information of MR heads of different people: 0.08 to 0.2 where they match.
LEAST_LIKENESS = 0.05


def align_heads(
    mr: Volume,
    head: Volume,
    target: Volume,
    target_head: Volume,
    threads: int | None,
    progress: Progress,
) -> Registration:
    """From points of a subject's head to those of another's MR, LPS mm.

    Rigid with the other brought to the size of the head, then affine: unless sizes agree, the best
    rigid pose of a child's head in an adult's is a tilted one. ``head`` and ``target_head`` are
    masks on the grids of their MR. Raises RegistrationFailed when the heads cannot be matched.
    """
    ratio = head_radius_mm(head) / head_radius_mm(target_head)
    shrink = sitk.ScaleTransform(3, (1 / ratio,) * 3)
    shrink.SetCenter(target.grid.centre_mm.tolist())
    rigid = register_rigid(
        mr,
        _resized(target, ratio),
        RigidOptions(
            spacings_mm=ROUGH_MM,
            final_samples=ROUGH_SAMPLES,
            threads=threads,
            least_quality=LEAST_LIKENESS,
        ),
        fixed_mask=head,
        progress=progress.within("Rigid", 0.6),
    )
    return register_affine(
        mr,
        target,
        AffineOptions(threads=threads, least_quality=LEAST_LIKENESS, iterations=400),
        initial=sitk.CompositeTransform([shrink, rigid.transform]),
        fixed_mask=head,
        progress=progress.within("Affine", 0.4),
    )


def head_radius_mm(head: Volume) -> float:
    """Radius of the disc that is as large as the head where it is widest, in its upper 10 cm."""
    upright = to_lps(head).volume
    areas = np.count_nonzero(upright.array > 0, axis=(1, 2))
    x_mm, y_mm, z_mm = upright.grid.spacing_mm
    top = int(np.flatnonzero(areas).max(initial=0)) + 1
    upper = areas[max(0, top - round(100 / z_mm)) : top]
    return float(np.sqrt(np.quantile(upper, 0.95) * x_mm * y_mm / np.pi))


def _resized(volume: Volume, ratio: float) -> Volume:
    """The same voxels, larger by a ratio about the centre of the grid."""
    image = sitk.Image(volume.image)
    centre = volume.grid.centre_mm
    image.SetSpacing([s * ratio for s in volume.grid.spacing_mm])
    image.SetOrigin((centre + ratio * (np.asarray(volume.grid.origin_mm) - centre)).tolist())
    return volume.with_image(image, step=Step("resized", {"ratio": ratio}))

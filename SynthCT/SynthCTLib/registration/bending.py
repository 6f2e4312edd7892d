"""What bent between two scans: followed on top of a rigid registration, as far as is credible.

A limb that lay otherwise in the second scan has no rigid registration that fits. A B-spline
free-form deformation (:mod:`.deformable`) follows it, and how well is looked at part by part as
:mod:`.fit` does for rigid ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from SynthCTLib.errors import RegistrationFailed
from SynthCTLib.imaging.grids import Interpolator, isotropic_grid, resample, scanned_field
from SynthCTLib.progress import Progress
from SynthCTLib.registration.deformable import register_deformable
from SynthCTLib.registration.fit import SPACINGS_MM, examined, fit_warnings
from SynthCTLib.registration.options import DeformableOptions
from SynthCTLib.registration.pyramid import Views
from SynthCTLib.registration.quality import Fit, Kind, Registration
from SynthCTLib.registration.similarity import voxel_centres
from SynthCTLib.volume import Volume

# From fine to coarse: the first that is credible is taken. The stiff one is that of Paper 2.
DEFORMATIONS = (
    DeformableOptions(control_spacings_mm=(30.0, 15.0), spacings_mm=(4.0, 3.0), stiffness=1.0),
    DeformableOptions(),
)
LOOKED_AT_MM = min(SPACINGS_MM)
MOVED_POINTS = 2000


@dataclass(frozen=True)
class Bending:
    """A registration that follows what bent.

    ``registration`` is the deformable one, or the rigid one where none was credible; ``refused``
    says why each finer one was not. ``control_mm``: between control points, None of the rigid one.
    ``moved_mm``, ``most_moved_mm``: how far the deformation moves the body from where the rigid one
    puts it, the median and the 95th percentile.
    """

    registration: Registration
    refused: tuple[str, ...]
    control_mm: float | None
    moved_mm: float = 0.0
    most_moved_mm: float = 0.0


def follow_bending(
    fixed: Volume,
    moving: Volume,
    rigid: Registration,
    *,
    threads: int | None = None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Bending:
    """Follow what bent between two scans, from a rigid registration of them on.

    Never refuses: where no deformation is credible the rigid registration is the answer.
    """
    refused = []
    for options in DEFORMATIONS:
        control_mm = options.control_spacings_mm[-1]
        try:
            found = register_deformable(
                fixed,
                moving,
                replace(options, threads=threads),
                initial=rigid,
                progress=progress.within(f"{control_mm:g} mm between control points", 0.6),
            )
        except RegistrationFailed as error:
            refused.append(f"{control_mm:g} mm between control points: {error}")
        else:
            views = Views.of(fixed, moving, (), None)
            points = voxel_centres(views.coarse_fixed, views.near, MOVED_POINTS, seed=1)
            ends = [
                np.array([t.TransformPoint(p) for p in points.tolist()])
                for t in (rigid.transform, found.transform)
            ]
            moved = np.linalg.norm(ends[1] - ends[0], axis=1)
            median, most = np.percentile(moved, (50, 95))
            return Bending(found, tuple(refused), control_mm, float(median), float(most))
    return Bending(rigid, tuple(refused), None)


def examined_bending(
    fixed: Volume,
    moving: Volume,
    bending: Bending,
    *,
    rigid_fit: Fit | None,
    progress: Progress = Progress(),  # noqa: B008 - says nothing, cancels never
) -> Registration:
    """The deformable registration with its :class:`~.quality.Fit`, part by part.

    ``repeat_mm`` is that of ``rigid_fit``, the examination of the rigid one that it began from.
    Only what ``moving`` shows is looked at. A rigid one is returned as it is.
    """
    found = bending.registration
    if found.kind != Kind.DEFORMABLE:
        return found
    grid = isotropic_grid(fixed.grid, LOOKED_AT_MM)
    moved = resample(moving, grid, transform=found.transform, interpolator=Interpolator.LINEAR)
    still = replace(found, transform=sitk.Transform(3, sitk.sitkIdentity), kind=Kind.GIVEN)
    seen = scanned_field(moving, grid, found.transform)
    fit = examined(fixed, moved, still, fixed_mask=seen, progress=progress).fit
    assert fit is not None
    repeat_mm = math.nan if rigid_fit is None else rigid_fit.repeat_mm
    fit = replace(fit, repeat_mm=repeat_mm)
    warnings = tuple(fit_warnings(fit, Kind.DEFORMABLE))
    return replace(found, fit=replace(fit, warnings=warnings))

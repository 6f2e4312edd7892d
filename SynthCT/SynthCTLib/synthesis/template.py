"""Template space: heads brought affinely onto Colin 27 (MNI), Paper 2, section 3.1.

The template ships at 2 mm, which is what a registration looks at, with a mask of its brain: what
the bone of its pseudo-CT by ``head-unet`` encloses. The mask is good enough for what Paper 2 uses
its own for, the mean and standard deviation of the brain.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import SimpleITK as sitk

from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import isotropic_grid, own_frame, resample, scanned_field, to_lps
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.progress import Progress
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.alignment import align_heads
from SynthCTLib.synthesis.window import Shape, canvas_sides
from SynthCTLib.synthesis.working_view import Mask, WorkingView, widened
from SynthCTLib.volume import Grid, Role, Volume

FOLDER = "Templates"


@cache
def template() -> Volume:
    """Colin 27's T1, 2 mm, LPS."""
    return to_lps(read_volume(resource(FOLDER, "colin27_t1_2mm.nii.gz"), Role.MR)).volume


@cache
def template_brain() -> Volume:
    """The mask of its brain, on the same grid."""
    return to_lps(read_volume(resource(FOLDER, "colin27_brain_2mm.nii.gz"), Role.MASK)).volume


def template_grid(spacing_mm: float) -> Grid:
    """The block of space that the template shows, in cubic voxels."""
    return isotropic_grid(template().grid, spacing_mm)


def onto_template(
    mr: Volume, head: Volume, threads: int | None, progress: Progress
) -> sitk.AffineTransform:
    """From points of a subject's head to points of the template, LPS mm (``align_heads``).

    ``mr`` in LPS axis order. It is registered in the frame of its own axes: a registration from
    elsewhere ends a little elsewhere, and a head that lay turned, with the slices turned alike,
    must get the same answer. Raises RegistrationFailed when the head cannot be matched.
    """
    target = template()
    straight = own_frame(mr)
    found = align_heads(straight, own_frame(head), target, head_mask(target), threads, progress)
    upright = straight.grid.index_to_world @ np.linalg.inv(mr.grid.index_to_world)
    return affine_of(matrix_of(found.transform) @ upright)


def affine_of(matrix: np.ndarray) -> sitk.AffineTransform:
    """The transform of a 4 x 4 matrix."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def brain_on(grid: Grid) -> Mask:
    """The template's brain on a grid in its space."""
    return np.asarray(resample(template_brain(), grid).array > 0)


def padded(grid: Grid, sides: Shape) -> Grid:
    """A grid with sides (z, y, x), about the same middle."""
    size = (sides[2], sides[1], sides[0])
    shift = [(n - m) // 2 for n, m in zip(grid.size, size, strict=True)]
    origin = (grid.index_to_world @ [*shift, 1.0])[:3]
    return Grid(
        size,
        grid.spacing_mm,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        grid.direction,
    )


def template_view(
    source: Volume,
    spacing_mm: float,
    keep_margin_mm: float,
    patch: Shape,
    threads: int | None,
    progress: Progress,
) -> WorkingView:
    """The input in template space, on a canvas of the template with sides that are multiples of 16.

    What lies below the template (its cut runs through the upper jaw) is not in it. Raises
    InputError when no head is found, RegistrationFailed when it cannot be matched.
    """
    canonical = to_lps(source).volume
    head = canonical.mask(head_mask(own_frame(canonical)).array > 0)
    to_canvas = onto_template(canonical, head, threads, progress)
    from_canvas = to_canvas.GetInverse()
    block = template_grid(spacing_mm)
    z, y, x = canvas_sides(block.size[::-1], patch)
    grid = padded(block, (z, y, x))
    inside = scanned_field(template(), grid).array > 0
    scanned = inside & (scanned_field(canonical, grid, from_canvas).array > 0)
    mr = np.where(scanned, resample(canonical, grid, transform=from_canvas).array, np.float32(0))
    region = inside & (resample(head, grid, transform=from_canvas).array > 0)
    kept = inside & widened(region, keep_margin_mm / spacing_mm)
    return WorkingView(
        mr,
        scanned,
        region,
        kept,
        grid,
        canonical.grid,
        source.grid,
        to_canvas,
        inside,
        brain_on(grid),
    )

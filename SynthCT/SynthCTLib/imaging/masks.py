"""Where the head and the body are, and which tissue is where, as masks on the image's own grid.

Every mask is found in anatomical axes (x left, y posterior, z superior) and brought back, so the
answer does not depend on how the voxels of the input are stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.volume import Role, Step, Unit, Volume

Mask = npt.NDArray[np.bool_]

# Half way between air (-1000 HU) and soft tissue (0 HU): the edge that blurring leaves in place.
BODY_EDGE_HU = -500.0
# Paper 1, section 3.4: the skull is where the CT inside the head mask reaches 300 HU.
BONE_HU = 300.0
# Fat is about -100 HU; -200 leaves room for noise and keeps most partial volume with air out.
SOFT_TISSUE_HU = (-200.0, BONE_HU)
# Air, by the same half-way convention. Voxels between -500 and -200 HU are a mixture of air and
# tissue and belong to no class.
AIR_HU_BELOW = BODY_EDGE_HU

# Paper 1, section 3.4: head field of view from the vertex downwards, the default of robustfov.
HEAD_EXTENT_MM = 170.0
# A scalp of 8 cm radius shows five times this area 1 mm below the vertex.
VERTEX_AREA_MM2 = 100.0

# Tissue reaches this share of the mean signal around it (Gaussian, a few centimetres): ghosts of
# a moving mouth come near a fifth of it, the half that blurring leaves in place would lose muscle
# beside bright fat. Relative to the surroundings, so that a bias field of 1:5 cuts nothing off.
MR_TISSUE_SHARE = 0.3
MR_SURROUNDINGS_MM = 30.0
MR_SURROUNDINGS_GRID_MM = 6.0
# The first guess at what is tissue, as a share of the bright signal of the whole image.
MR_FIRST_SHARE = 0.12
# Above the mean of what is darker than that by this many standard deviations is not noise.
MR_NOISE_SIGMAS = 4.0
# A tumour may hold twenty times the activity of muscle: in the square root they are about as near
# to each other as tissues of an MR are. Of simulated NAC PETs of three limbs the Dice with the
# contour of the CT is 0.93, 0.91 and 0.77; 0.24, 0.94 and 0.84 without the root.
PET_POWER = 0.5

# The brain: found on a coarse grid, where thin bone is blurred to about half its HU. A passage of
# less than twice the radius is closed: the spinal canal (20 mm) and the orbits. In four label maps
# of heads this leaves less than 3 ml of spinal cord below the brain.
BRAIN_SPACING_MM = 2.0
BRAIN_BELOW_HU = 150.0
BRAIN_NECK_MM = 12.0
BRAIN_ML = (600.0, 2200.0)  # of a small child's and of the largest adult intracranial volume

# Finer axes are averaged to about this spacing: an outline needs no more, and the memory for a
# 0.4 mm head stays that of a 0.8 mm one.
WORKING_SPACING_MM = 1.0
# Half the width of the widest opening that counts as closed: nostril, ear canal (7 to 10 mm).
OPENING_RADIUS_MM = 5.0
# Bridges thinner than twice this (ghosts, straps, noise) do not hold anything to the head; what
# lies within the reach of the part that remains, ears and nose among it, is given back.
BRIDGE_RADIUS_MM = 2.0
REACH_MM = 8.0
# A further part of the body (second leg, arm) is at least this large a share of the largest.
BODY_PART_SHARE = 0.02


def head_mask(volume: Volume) -> Volume:
    """Mask of the head, filled: skull, sinuses, airway and ear canals belong to it.

    ``volume`` is an MR of any contrast with dark air, or a CT in HU whose table is removed or
    does not touch the head. A head that the field of view cuts is filled up to the cut: cavities
    are closed within each axial slice, within the outermost slices and in three dimensions.
    Raises InputError when nothing stands out from the background.
    """
    canonical = to_lps(volume)
    work = coarsen(canonical.volume.image)
    tissue, box = _cropped(_tissue(work, volume))
    spacing = work.GetSpacing()
    # Solid before bridges are cut: a thin scalp alone would not survive.
    solid = without_bridges(filled_by_slice(tissue), spacing, BRIDGE_RADIUS_MM, REACH_MM)
    head = _closed(solid, spacing)
    whole = np.zeros(work.GetSize()[::-1], dtype=bool)
    whole[box] = largest_component(head)
    mask = canonical.volume.mask(refine(whole, work, canonical.volume.image))
    return canonical.restore(_named(mask, volume, "head_mask"))


def body_contour(volume: Volume) -> Volume:
    """Mask of the body, filled; of several parts (both legs) each large one is kept.

    ``volume`` is an MR with dark air, a CT in HU without table (see ``table.remove_table``), or a
    PET, corrected or not, of a tracer that all tissue takes up a little. Only
    cavities that the body encloses are filled, up to the cut at an edge of the field of view.
    Raises InputError when nothing stands out from the background.
    """
    canonical = to_lps(volume)
    work = coarsen(canonical.volume.image)
    tissue, box = _cropped(_tissue(work, volume))
    body = fill_cavities(tissue)
    whole = np.zeros(work.GetSize()[::-1], dtype=bool)
    whole[box] = large_components(body, BODY_PART_SHARE)
    mask = canonical.volume.mask(refine(whole, work, canonical.volume.image))
    return canonical.restore(_named(mask, volume, "body_contour"))


def skull_mask(ct: Volume, head: Volume) -> Volume:
    """Mask of the voxels of the head that reach 300 HU; no morphology. Paper 1, section 3.4."""
    return _hu_mask(ct, head, "skull_mask", BONE_HU, np.inf)


def soft_tissue_mask(ct: Volume, head: Volume) -> Volume:
    """Mask of the voxels of the head from -200 up to but not including 300 HU."""
    return _hu_mask(ct, head, "soft_tissue_mask", *SOFT_TISSUE_HU)


def air_mask(ct: Volume, head: Volume) -> Volume:
    """Mask of the voxels of the head (sinuses, airway, mastoid cells) up to -500 HU."""
    return _hu_mask(ct, head, "air_mask", -np.inf, np.nextafter(AIR_HU_BELOW, np.inf))


def brain_mask(ct: Volume, head: Volume) -> Volume:
    """Mask of what the skull encloses: brain, its vessels and fluid, down to the foramen magnum.

    ``ct`` in HU, ``head`` its head mask. On a grid of about 2 mm: the part of the head that is
    neither bone nor air, cut where it is narrower than 24 mm (the spinal canal, the orbits),
    the largest piece, grown back. A skull with a wide hole, and a head that is mostly out of the
    field of view, have no such piece: InputError says so when what is found is not the size of a
    brain.
    """
    ct.require_unit(Unit.HU)
    head.require_grid_of(ct)
    canonical, inside = to_lps(ct), to_lps(head).volume.array > 0
    image = canonical.volume.image
    factors = [max(1, int(BRAIN_SPACING_MM / s + 1e-6)) for s in image.GetSpacing()]
    factors = [min(f, n) for f, n in zip(factors, image.GetSize(), strict=True)]
    within = canonical.volume.mask(inside).image
    work = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    part = sitk.BinShrink(sitk.Cast(within, sitk.sitkFloat32), factors)
    hu, spacing = sitk.GetArrayFromImage(work), work.GetSpacing()
    soft = (sitk.GetArrayFromImage(part) > 0.5) & (hu > SOFT_TISSUE_HU[0]) & (hu < BRAIN_BELOW_HU)
    core = largest_component(eroded(soft, spacing, BRAIN_NECK_MM))
    grown = soft & dilated(core, spacing, BRAIN_NECK_MM + BRAIN_SPACING_MM)
    filled = fill_cavities(largest_component(grown))
    ml = np.count_nonzero(filled) * float(np.prod(spacing)) / 1000.0
    if not BRAIN_ML[0] <= ml <= BRAIN_ML[1]:
        raise InputError(
            f"No brain is found inside the skull ({ml:.0f} ml were): give a mask of it, or do "
            "without."
        )
    mask = canonical.volume.mask(refine(filled, work, image) & inside)
    return canonical.restore(_named(mask, ct, "brain_mask"))


def head_field_of_view(volume: Volume, extent_mm: float = HEAD_EXTENT_MM) -> Volume:
    """Mask of the whole slices from the vertex down to ``extent_mm`` below it, neck left out.

    ``volume`` is an MR, a CT, or a head mask found before. Slices are counted along the axis
    nearest to superior, the vertex being the first: round(extent / spacing) of them, fewer where
    the image ends. Paper 1, section 3.4, did this with robustfov. That program finds the vertex
    as the uppermost slice where the share of bright voxels falls sharply (by 0.3 within 3 mm),
    which fails on a zero-filled background and on CT, and then keeps the slices from the top of
    the image. Here the vertex is the top of the head mask, as a slice of at least 1 cm^2.
    Raises InputError for an extent that is not positive or when no head is found.
    """
    if not extent_mm > 0:
        raise InputError(
            f"The head field of view cannot extend over {extent_mm} mm: give a length above zero."
        )
    head = volume if volume.role == Role.MASK else head_mask(volume)
    canonical = to_lps(head)
    x_mm, y_mm, z_mm = canonical.volume.grid.spacing_mm
    area_mm2 = np.count_nonzero(canonical.volume.array, axis=(1, 2)) * x_mm * y_mm
    slices = np.flatnonzero(area_mm2 >= VERTEX_AREA_MM2)
    if slices.size == 0:
        raise InputError(
            "No head is found in the volume, so that its vertex is unknown: "
            "check that the volume shows a head."
        )
    vertex = int(slices[-1])
    kept = np.zeros(canonical.volume.array.shape, dtype=bool)
    kept[max(0, vertex + 1 - max(1, round(extent_mm / z_mm))) : vertex + 1] = True
    mask = _named(
        canonical.volume.mask(kept), volume, "head_field_of_view", {"extent_mm": extent_mm}
    )
    return canonical.restore(mask)


# --- used by the neighbouring modules too; arrays are boolean, (z, y, x) ---


def dilated(mask: Mask, spacing_mm: tuple[float, ...], radius_mm: float) -> Mask:
    """The voxels whose centre lies within ``radius_mm`` of a voxel of the mask."""
    if not mask.any():
        return mask.copy()
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing_mm)
    # Float32 distances to the nearest object voxel, zero on the object.
    far = sitk.SignedMaurerDistanceMap(image, False, False, True)
    return np.asarray(sitk.GetArrayViewFromImage(far) <= radius_mm)


def eroded(mask: Mask, spacing_mm: tuple[float, ...], radius_mm: float) -> Mask:
    """The voxels with no background within ``radius_mm``; beyond the array lies no background."""
    return ~dilated(~mask, spacing_mm, radius_mm)


def cavities(mask: Mask) -> Mask:
    """Background that is cut off from every edge of the array (of any dimension)."""
    labels, count = ndimage.label(~mask)
    enclosed = np.ones(count + 1, dtype=bool)
    enclosed[0] = False
    for axis in range(mask.ndim):
        for face in (0, -1):
            enclosed[np.take(labels, face, axis=axis)] = False
    return np.asarray(enclosed[labels])


def fill_cavities(mask: Mask) -> Mask:
    """The mask with its cavities, those that open only at an edge of the array included."""
    filled = mask.copy()
    for axis in range(3):
        for face in (0, -1):
            slice_ = np.moveaxis(filled, axis, 0)[face]
            slice_ |= cavities(slice_)
    filled |= cavities(filled)
    return filled


def largest_component(mask: Mask) -> Mask:
    """The largest part of the mask (26-connected); an empty mask stays empty."""
    return large_components(mask, 1.0)


def large_components(mask: Mask, share: float) -> Mask:
    """Every part of the mask (26-connected) of at least ``share`` of the largest part's size."""
    labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(share * sizes.max(), 1))[labels])


def without_bridges(
    mask: Mask, spacing_mm: tuple[float, ...], radius_mm: float, reach_mm: float
) -> Mask:
    """The largest part once bridges thinner than twice the radius are cut, with its fringe.

    What the cut took away is given back within ``reach_mm`` of the part that is kept.
    """
    core = dilated(
        largest_component(eroded(mask, spacing_mm, radius_mm)), spacing_mm, radius_mm + reach_mm
    )
    return largest_component(mask & core)


def _closed(tissue: Mask, spacing_mm: tuple[float, ...]) -> Mask:
    """Tissue with everything inside, narrow openings to the outside closed."""
    pad = [int(np.ceil(OPENING_RADIUS_MM / s)) + 1 for s in reversed(spacing_mm)]
    inner = tuple(slice(p, -p) for p in pad)
    wide = dilated(np.pad(tissue, [(p, p) for p in pad]), spacing_mm, OPENING_RADIUS_MM)
    # Filling while the openings are shut, and within the array only, where the cut faces are.
    wide[inner] = filled_by_slice(wide[inner])
    return filled_by_slice(eroded(wide, spacing_mm, OPENING_RADIUS_MM)[inner] | tissue)


def filled_by_slice(mask: Mask) -> Mask:
    """The mask with its cavities and those of each axial slice: a cut need not be at an edge."""
    return fill_cavities(np.stack([axial | cavities(axial) for axial in mask]))


def _tissue(image: sitk.Image, volume: Volume) -> Mask:
    """Voxels that are not air, before any filling; ``image`` holds the volume's values."""
    if volume.role == Role.CT:
        volume.require_unit(Unit.HU)
        tissue = np.asarray(sitk.GetArrayViewFromImage(image) > BODY_EDGE_HU)
    else:
        if volume.role in (Role.PET, Role.NAC_PET):
            image = sitk.Clamp(image, lowerBound=0.0) ** PET_POWER
        bright = sitk.GetArrayFromImage(image > mr_tissue_level(image)).astype(np.float32)
        # The majority of 3x3x3 voxels: what a median filter before the threshold would give.
        tissue = ndimage.uniform_filter(bright, 3, mode="nearest") > 0.5
    if not tissue.any():
        raise InputError(
            f"No body is found in the {volume.role} volume: every voxel looks like air. "
            "Check the role of the volume and the unit of its values."
        )
    return tissue


def mr_tissue_level(image: sitk.Image) -> sitk.Image:
    """Signal above which an MR voxel is tissue, voxel by voxel, on the grid of the image.

    Otsu's threshold may part fat from muscle when little air is in view, so it only tells the
    bright class, whose median scales the first guess.
    """
    size = [max(1, round(MR_SURROUNDINGS_GRID_MM / s)) for s in image.GetSpacing()]
    size = [min(f, n) for f, n in zip(size, image.GetSize(), strict=True)]
    coarse = sitk.BinShrink(image, size)
    values = sitk.GetArrayFromImage(coarse)
    low, high = (float(v) for v in np.percentile(values, (0, 99.5)))
    if not high > low:
        return image * 0 + low
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.Clamp(coarse, sitk.sitkFloat32, low, high))
    bright = float(np.median(values[values > otsu.GetThreshold()]))
    guess = low + MR_FIRST_SHARE * (bright - low)
    dark = values[values <= guess]
    floor = max(guess, float(dark.mean()) + MR_NOISE_SIGMAS * float(dark.std()))

    sigmas = [MR_SURROUNDINGS_MM / s for s in reversed(coarse.GetSpacing())]
    tissue = (values > floor).astype(np.float32)
    weight = ndimage.gaussian_filter(tissue, sigmas, mode="nearest")
    total = ndimage.gaussian_filter(tissue * (values - low), sigmas, mode="nearest")
    # A little of the global level everywhere: far from all tissue there is nothing to average.
    around = (total + 1e-3 * (bright - low)) / (weight + 1e-3)
    level = sitk.GetImageFromArray(np.maximum(floor, low + MR_TISSUE_SHARE * around))
    level.CopyInformation(coarse)
    return sitk.Resample(
        level, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True
    )


def coarsen(image: sitk.Image) -> sitk.Image:
    """The image, float32, with axes finer than the working spacing averaged to about it."""
    factors = [max(1, int(WORKING_SPACING_MM / s + 1e-6)) for s in image.GetSpacing()]
    factors = [min(f, n) for f, n in zip(factors, image.GetSize(), strict=True)]
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)


def refine(mask: Mask, work: sitk.Image, image: sitk.Image) -> Mask:
    """The mask of the working grid on the grid of the image, its outline interpolated."""
    if work.GetSize() == image.GetSize():
        return mask
    coarse = sitk.GetImageFromArray(mask.astype(np.uint8) * 255)
    coarse.CopyInformation(work)
    fine = sitk.Resample(coarse, image, sitk.Transform(), sitk.sitkLinear, 0, sitk.sitkUInt8, True)
    return np.asarray(sitk.GetArrayViewFromImage(fine) >= 128)


def _cropped(mask: Mask) -> tuple[Mask, tuple[slice, ...]]:
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return mask[box], box


def _hu_mask(ct: Volume, head: Volume, name: str, low: float, below: float) -> Volume:
    ct.require_unit(Unit.HU)
    head.require_grid_of(ct)
    inside = (head.array > 0) & (ct.array >= low) & (ct.array < below)
    return _named(ct.mask(inside), ct, name)


def _named(
    mask: Volume, of: Volume, name: str, settings: Mapping[str, float] | None = None
) -> Volume:
    """The mask with the provenance of the volume it was found in and one step, its own."""
    step = Step(name, settings or {})
    return Volume(mask.image, Role.MASK, Unit.ARBITRARY, of.provenance.with_step(step))

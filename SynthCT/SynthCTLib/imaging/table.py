"""Taking the scanner's table, head holder, cushions, sheets and wires out of a CT.

What is thick soft tissue is body. A table is a plate: a thin shell that stays the same over many
slices. What lies behind a plate, seen from the body, belongs to the table, however thick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.imaging.masks import (
    BODY_EDGE_HU,
    Mask,
    cavities,
    coarsen,
    dilated,
    eroded,
    fill_cavities,
    filled_by_slice,
    largest_component,
    refine,
)
from SynthCTLib.volume import AIR_HU, Role, Step, Triple, Unit, Volume

# Fat is -100 HU and lung the only tissue below -300; sheets, foam and most mattress covers are.
SOLID_HU = -300.0
# Outside the body, what is denser counts as something removed: foam begins about here, and the
# noise of air rarely reaches it.
MATERIAL_HU = -900.0
# Shells and struts of tables are up to 5 mm thick, a child's finger is thicker than 8 mm.
THIN_RADIUS_MM = 4.0
# A plate is the same over this length along the patient, in this share of it, and this wide.
PLATE_RUN_MM = 60.0
PLATE_SHARE = 0.8
PLATE_WIDTH_MM = 30.0
# Rails at the edge of a table are thinner than twice this and mostly surrounded by shell.
RAIL_RADIUS_MM = 8.0
# Thin parts of the body (ears, slivers cut by the field of view) reach this far from thick ones.
FRINGE_MM = 30.0
# Blurring spreads the skin over this distance; those voxels are the body's. Between thick slices
# it is the neighbouring voxel that is half skin.
SKIN_MM = 1.5
# Where a body rests on a plate its outline ends with the plate's far side, within this.
CONTACT_MM = 2.5
# The table is behind the patient if a quarter as many lines say so as for any other side.
POSTERIOR_SHARE = 0.25
# At least and at most so much bare plate on either side tells how it goes on beneath the body.
CONTACT_SIDES_MM = (15.0, 25.0)
# From one column to the next a shell does not jump so far, but another shell is further away.
CONTACT_JUMP_MM = 6.0
# A cast's padding is seen around the limb in four of five directions.
CAST_SECTORS = 36
CAST_SHARE = 0.8
# Lung is darker than this in the middle and, unlike cushions (foam among air), nowhere near air.
LUNG_MEDIAN_HU = -500.0
LUNG_TENTH_HU = -900.0
# A loop of bowel holds less than this, and its gas is darker than foam.
GAS_ML = 30.0
GAS_MEDIAN_HU = -900.0


@dataclass(frozen=True)
class TableRemoval:
    """A CT without its table: ``volume``, with -1000 HU wherever the body is not.

    ``body`` is the mask of what was kept and ``removed`` that of the voxels above -900 HU which
    were not; their number and volume (ml) are given. Nothing removed means that the CT is the one
    that was given, voxel for voxel.
    """

    volume: Volume
    body: Volume
    removed: Volume
    removed_voxels: int
    removed_ml: float


def remove_table(ct: Volume) -> TableRemoval:
    """The CT in HU with everything outside the body set to -1000 HU.

    Any orientation; the patient may lie on any side. Raises InputError when the volume is not in
    HU or holds nothing as thick as a body.
    """
    ct.require_unit(Unit.HU)
    canonical = to_lps(ct)
    work = coarsen(canonical.volume.image)
    body = _body(sitk.GetArrayViewFromImage(work), work.GetSpacing())
    kept = canonical.restore(canonical.volume.mask(refine(body, work, canonical.volume.image)))
    inside = kept.array > 0
    removed = ~inside & (ct.array > MATERIAL_HU)
    count = int(np.count_nonzero(removed))
    step = Step("remove_table", {"removed_voxels": count})
    if count:
        values = np.where(inside, ct.array, np.array(AIR_HU, dtype=ct.array.dtype))
        volume = ct.with_array(values, step=step)
    else:
        volume = ct.with_image(ct.image, step=step)
    return TableRemoval(
        volume,
        Volume(kept.image, Role.MASK, Unit.ARBITRARY, volume.provenance),
        volume.mask(removed),
        count,
        count * ct.grid.voxel_mm3 / 1000.0,
    )


def _body(hu: npt.NDArray[np.float32], spacing_mm: Triple) -> Mask:
    """Mask of the body, cavities included, in anatomical axes (z, y, x)."""
    solid = hu > SOLID_HU
    core = eroded(solid, spacing_mm, THIN_RADIUS_MM)
    padding = _padding_in_casts(solid, core)
    if padding.any():
        solid |= padding
        core = eroded(solid, spacing_mm, THIN_RADIUS_MM)
    if not core.any():
        raise InputError(
            "No body is found in the CT: nothing in it is thicker than "
            f"{2 * THIN_RADIUS_MM:.0f} mm above {SOLID_HU:.0f} HU. Check that its values are HU."
        )
    main = largest_component(core)
    plates = _plates(solid & ~dilated(core, spacing_mm, THIN_RADIUS_MM), main, spacing_mm)
    table = _Table.under(main, plates, spacing_mm)
    parts = _body_parts(core, main, solid, plates, table.behind, spacing_mm)
    thick = dilated(parts, spacing_mm, THIN_RADIUS_MM)
    thick |= _slivers(solid, plates | table.behind, spacing_mm)
    fringe = dilated(thick, spacing_mm, FRINGE_MM) & solid & ~plates & ~table.behind
    body = _joined_to(thick, fringe)
    plates |= table.beneath(body)
    body &= ~plates
    body = filled_by_slice(body)
    body |= _cut_lung(hu, body, plates)
    body |= _cut_gas(hu, body, GAS_ML * 1000 / float(np.prod(spacing_mm)))
    skin = dilated(body, spacing_mm, SKIN_MM) | (
        ndimage.binary_dilation(body) & (hu > BODY_EDGE_HU)
    )
    return np.asarray(body | (skin & ~plates))


def _padding_in_casts(solid: Mask, core: Mask) -> Mask:
    """What lies between a limb and a closed shell around it (a plaster cast).

    A hollow head holder encloses nothing but foam, on three sides of the head at most.
    """
    padding = np.zeros_like(solid)
    for axial, thick, found in zip(solid, core, padding, strict=True):
        holes, count = ndimage.label(cavities(axial))
        if count == 0 or not thick.any():
            continue
        limbs, limb_count = ndimage.label(thick)
        centres = ndimage.center_of_mass(thick, limbs, range(1, limb_count + 1))
        for hole, (rows, columns) in enumerate(ndimage.find_objects(holes), start=1):
            inside = holes[rows, columns] == hole
            for y, x in centres:
                if rows.start < y < rows.stop and columns.start < x < columns.stop:
                    v, u = np.nonzero(inside)
                    angle = np.arctan2(v + rows.start - y, u + columns.start - x)
                    sectors = np.floor((angle / np.pi + 1) * CAST_SECTORS / 2)
                    if np.unique(sectors).size >= CAST_SHARE * CAST_SECTORS:
                        found[rows, columns] |= inside
    return padding


def _plates(thin: Mask, main: Mask, spacing_mm: Triple) -> Mask:
    """Thin solid that stays in place along the patient, wide enough to be a table, no body part."""
    x_mm, y_mm, z_mm = spacing_mm
    slices = min(max(1, round(PLATE_RUN_MM / z_mm)), thin.shape[0])
    share = ndimage.uniform_filter1d(thin.astype(np.float32), slices, axis=0, mode="nearest")
    lasting = thin & (share >= PLATE_SHARE) & ~fill_cavities(main)
    labels, _ = ndimage.label(lasting, structure=np.ones((3, 3, 3)))
    wide = [False]
    for z, y, x in ndimage.find_objects(labels):
        width_mm = max((y.stop - y.start) * y_mm, (x.stop - x.start) * x_mm)
        wide.append(width_mm >= PLATE_WIDTH_MM and z.stop - z.start >= PLATE_SHARE * slices)
    return np.asarray(np.array(wide)[labels])


def _body_parts(
    core: Mask, main: Mask, solid: Mask, plates: Mask, behind: Mask, spacing_mm: Triple
) -> Mask:
    """The thick parts without those that belong to the table: behind a plate, or rails of one."""
    labels, _ = ndimage.label(core, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    hidden = np.bincount(labels[behind], minlength=sizes.size)
    keep = hidden < 0.5 * sizes
    keep[0] = False
    keep[np.unique(labels[main])] = True
    margin = [int(np.ceil((RAIL_RADIUS_MM + THIN_RADIUS_MM) / s)) + 1 for s in spacing_mm[::-1]]
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if not keep[label] or main[box][labels[box] == label].any():
            continue
        around = tuple(
            slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True)
        )
        part = labels[around] == label
        inner = RAIL_RADIUS_MM - THIN_RADIUS_MM
        if eroded(part, spacing_mm, inner).any():
            continue
        grown = dilated(part, spacing_mm, THIN_RADIUS_MM)
        ring = dilated(grown, spacing_mm, THIN_RADIUS_MM) & ~grown & solid[around]
        keep[label] = 2 * np.count_nonzero(ring & plates[around]) <= np.count_nonzero(ring)
    return np.asarray(keep[labels])


@dataclass(frozen=True)
class _Table:
    """Where the plates are, seen from the body: ``behind`` and the surface to the body.

    Internally arrays are (z, across, depth), depth growing from the body into the table.
    """

    axis: int
    flipped: bool
    behind: Mask
    surface: npt.NDArray[np.float64]
    thickness: float
    depth_mm: float
    across_mm: float

    @staticmethod
    def under(main: Mask, plates: Mask, spacing_mm: Triple) -> _Table:
        """The table on the side of the body where most lines from the body meet a plate."""
        if not plates.any():
            nothing = np.full((main.shape[0], main.shape[2]), np.nan)
            return _Table(1, False, np.zeros_like(main), nothing, 0.0, 1.0, 1.0)
        sides = [(axis, flipped) for axis in (1, 2) for flipped in (False, True)]
        lines = [_lines_to_plates(main, plates, *side) for side in sides]
        # A holder in contact with a head is bare at the sides only: in doubt the patient lies
        # on the back, as most do.
        supine = lines[0] >= POSTERIOR_SHARE * max(lines)
        axis, flipped = sides[0 if supine else int(np.argmax(lines))]
        seen, body = _seen(plates, axis, flipped), _seen(main, axis, flipped)
        depth = np.arange(seen.shape[2])
        middle = (body * depth).sum() / np.count_nonzero(body)
        beyond = seen & (depth > middle)
        surface = np.where(beyond.any(2), beyond.argmax(2), np.nan)
        depth_mm, across_mm, z_mm = spacing_mm[2 - axis], spacing_mm[axis - 1], spacing_mm[2]
        reach = max(1, round(PLATE_RUN_MM / z_mm))
        nearest = ndimage.minimum_filter1d(np.nan_to_num(surface, nan=np.inf), reach, axis=0)
        behind = depth > nearest[:, :, None]
        # Shells next to each other count one by one: the run of plate that starts at the surface.
        runs = np.cumprod(
            np.where(depth >= np.nan_to_num(surface, nan=np.inf)[:, :, None], seen, True), axis=2
        ).sum(2) - np.nan_to_num(surface)
        thickness = float(np.median(runs[np.isfinite(surface)]))
        return _Table(
            axis,
            flipped,
            _unseen(behind, axis, flipped),
            surface,
            thickness,
            depth_mm,
            across_mm,
        )

    def beneath(self, body: Mask) -> Mask:
        """Voxels of a mask of the body that are plate because the body rests on it there.

        Slice by slice, the bare plate on either side of the body is continued beneath it as an
        arc; where the body seems to end within that plate or at its far side, it is the plate.
        """
        seen = _seen(body, self.axis, self.flipped)
        found = np.zeros_like(seen)
        depth = np.arange(seen.shape[2])
        across_mm = np.arange(seen.shape[1], dtype=np.float64) * self.across_mm
        last = np.where(seen.any(2), seen.shape[2] - 1 - seen[:, :, ::-1].argmax(2), -np.inf)
        tolerance = CONTACT_MM / self.depth_mm
        least, most = (max(3, round(s / self.across_mm)) for s in CONTACT_SIDES_MM)
        for z, surface in enumerate(self.surface):
            left, right = _outer_runs(surface, CONTACT_JUMP_MM / self.depth_mm)
            if min(left.size, right.size) < least:
                continue
            bare = np.concatenate([left[-most:], right[:most]])
            top = _arc(across_mm[bare], surface[bare] * self.depth_mm, across_mm)
            top /= self.depth_mm
            if not np.abs(top[bare] - surface[bare]).max() <= tolerance:
                continue
            hidden = ndimage.binary_dilation(~(np.abs(surface - top) <= tolerance), iterations=2)
            into_plate = last[z] + 1 - top
            rests = (into_plate > 0.5) & (into_plate <= self.thickness + tolerance)
            found[z] = (hidden & rests)[:, None] & (depth >= top[:, None] - 0.5)
        return _unseen(found, self.axis, self.flipped)


def _outer_runs(
    surface: npt.NDArray[np.float64], jump: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Columns of the first and of the last stretch in which the surface is known and steady."""
    known = np.flatnonzero(np.isfinite(surface))
    breaks = (np.abs(np.diff(surface[known])) > jump) | (np.diff(known) > 1)
    runs = np.split(known, np.flatnonzero(breaks) + 1)
    return runs[0], runs[-1] if len(runs) > 1 else known[:0]


def _arc(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The circle or straight line nearest to the points (x, y), as y of ``at``; NaN beyond it.

    Algebraic fit a (x^2 + y^2) + b x + c y + d = 0, which has no trouble with a = 0.
    """
    middle, size = np.array([x.mean(), y.mean()]), float(np.ptp(x))
    u, v, t = (x - middle[0]) / size, (y - middle[1]) / size, (at - middle[0]) / size
    a, b, c, d = np.linalg.svd(np.stack([u * u + v * v, u, v, np.ones_like(u)], axis=1))[2][-1]

    def height(u: npt.NDArray[np.float64], sign: float) -> npt.NDArray[np.float64]:
        rest = a * u * u + b * u + d
        root = np.sqrt(np.where(c * c >= 4 * a * rest, c * c - 4 * a * rest, np.nan))
        # The form of the quadratic's solution that stays finite for a line.
        return np.asarray(-2 * rest / (c + sign * root))

    with np.errstate(divide="ignore", invalid="ignore"):
        off = [float(np.nansum(np.abs(height(u, sign) - v))) for sign in (1.0, -1.0)]
        sign = 1.0 if off[0] <= off[1] else -1.0
        return np.asarray(height(t, sign) * size + middle[1])


def _seen(mask: Mask, axis: int, flipped: bool) -> Mask:
    """The mask (z, y, x) as (z, across, depth) from one of four sides."""
    turned = np.moveaxis(mask, axis, 2)
    return turned[:, :, ::-1] if flipped else turned


def _unseen(mask: Mask, axis: int, flipped: bool) -> Mask:
    """The way back from :func:`_seen`."""
    return np.moveaxis(mask[:, :, ::-1] if flipped else mask, 2, axis)


def _lines_to_plates(main: Mask, plates: Mask, axis: int, flipped: bool) -> int:
    """How many lines in one direction leave the body and meet a plate after it."""
    body, seen = _seen(main, axis, flipped), _seen(plates, axis, flipped)
    last_body = body.shape[2] - 1 - body[:, :, ::-1].argmax(2)
    last_plate = body.shape[2] - 1 - seen[:, :, ::-1].argmax(2)
    return int(np.count_nonzero(body.any(2) & seen.any(2) & (last_plate > last_body)))


def _slivers(solid: Mask, table: Mask, spacing_mm: Triple) -> Mask:
    """Parts of a body that only just reach into the field of view: thick, were it larger.

    What shows at the edge is taken to go on beyond it. A plate along the edge would go on, too:
    nothing that meets the table counts.
    """
    margin = [int(np.ceil(2 * THIN_RADIUS_MM / s)) for s in reversed(spacing_mm)]
    wide = np.pad(solid, [(m, m) for m in margin], mode="edge")
    wide = dilated(eroded(wide, spacing_mm, THIN_RADIUS_MM), spacing_mm, THIN_RADIUS_MM)
    labels, count = ndimage.label(wide[tuple(slice(m, -m) for m in margin)] & solid)
    keep = np.ones(count + 1, dtype=bool)
    keep[0] = False
    keep[np.unique(labels[table])] = False
    return np.asarray(keep[labels])


def _joined_to(seed: Mask, more: Mask) -> Mask:
    """The seed with those parts of ``more`` that touch it."""
    labels, count = ndimage.label(seed | more, structure=np.ones((3, 3, 3)))
    touches = np.zeros(count + 1, dtype=bool)
    touches[np.unique(labels[seed])] = True
    touches[0] = False
    return np.asarray(touches[labels])


def _cut_lung(hu: npt.NDArray[np.float32], body: Mask, plates: Mask) -> Mask:
    """Lung that the field of view has cut open on one side.

    In axial slices these are pockets of the body that open at one edge of the slice only and are
    filled like lung. A cushion in such a pocket has a plate in it.
    """
    lung = np.zeros_like(body)
    for axial, values, found in zip(body, hu, lung, strict=True):
        labels, count = ndimage.label(~axial)
        sides = np.zeros(count + 1, dtype=int)
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            sides[np.unique(edge)] += 1
        for pocket in np.flatnonzero(sides == 1):
            inside = labels == pocket
            tenth, middle = np.percentile(values[inside], (10, 50))
            if pocket and tenth > LUNG_TENTH_HU and middle < LUNG_MEDIAN_HU:
                found |= inside
    labels, count = ndimage.label(lung)
    keep = np.ones(count + 1, dtype=bool)
    keep[0] = False
    keep[np.unique(labels[plates])] = False
    return np.asarray(keep[labels])


def _cut_gas(hu: npt.NDArray[np.float32], body: Mask, most_voxels: float) -> Mask:
    """Small pockets of gas (bowel) that the field of view has cut open on one side."""
    labels, count = ndimage.label(~body)
    sides = np.zeros(count + 1, dtype=int)
    for axis in range(3):
        for face in (0, -1):
            sides[np.unique(np.take(labels, face, axis=axis))] += 1
    keep = (sides == 1) & (np.bincount(labels.ravel(), minlength=count + 1) <= most_voxels)
    keep[0] = False
    for pocket in np.flatnonzero(keep):
        keep[pocket] = np.median(hu[labels == pocket]) < GAS_MEDIAN_HU
    return np.asarray(keep[labels])

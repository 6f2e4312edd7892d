"""What a head looks like from outside and in layers: size, cut faces, skull, face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from SynthCTLib.imaging.gate.view import Face, Scan
from SynthCTLib.imaging.masks import head_mask

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

# The vault is close to a sphere of this radius: the area where it meets a face of the field tells
# how much of it lies beyond.
VAULT_RADIUS_MM = 75.0
# Touching by less than a voxel and this is no cut: the pillow flattens the back of the head.
TOUCH_MM = 3.0
# Below the vertex of an adult head: the widest and longest part of the vault, above the ears; the
# part that shoulders do not reach.
VAULT_MM, ABOVE_SHOULDERS_MM = 90.0, 130.0
# A head of this length is an adult's; distances below the vertex shrink with it, and not below
# the share of a newborn.
ADULT_LENGTH_MM, NEWBORN_SHARE = 190.0, 0.6

# Depth below the skin: the skull of an adult lies at 5 to 18 mm; deeper than 25 mm is brain.
SKULL_DEPTH_MM, BRAIN_DEPTH_MM, SHELL_MM = (4.0, 18.0), 25.0, 4.0
DARK_PERCENTILE = 10.0
# The least dark percentile over the shells, relative to the brain's: heads of any contrast 0.15 to
# 0.56, the child of 3 years 0.50; 35 of 36 limbs and trunks 0.92 and more, brains 0.68 and more.
SKULL_DARKNESS = 0.65

# Midline band, and the depth below the vertex where forehead and face are met (adult).
MIDLINE_MM, FOREHEAD_MM, FACE_MM = 30.0, (40.0, 85.0), (95.0, 145.0)


@dataclass(frozen=True)
class Head:
    """The head (or whatever stands out from the background) in a shrunken scan.

    Arrays and spacing are (z, y, x) in LPS order.
    """

    values: Values
    mask: Mask
    spacing_mm: tuple[float, float, float]

    @staticmethod
    def of(scan: Scan) -> Head:
        """Find it. Raises InputError when nothing stands out from the background."""
        mask = np.asarray(head_mask(scan.volume).array > 0)
        return Head(scan.volume.array, mask, scan.spacing_mm)

    def turned(self, face: Face) -> Head:
        """The same with ``face`` below, and the longer of the other two axes from front to back."""
        axis, index = face.value
        others = sorted({0, 1, 2} - {axis}, key=lambda a: -self._length(self.mask, a))
        order = (axis, *others)
        step = 1 if index == 0 else -1
        return Head(
            self.values.transpose(order)[::step],
            self.mask.transpose(order)[::step],
            (self.spacing_mm[order[0]], self.spacing_mm[order[1]], self.spacing_mm[order[2]]),
        )

    @property
    def volume_ml(self) -> float:
        """Volume of the mask."""
        return float(np.count_nonzero(self.mask) * np.prod(self.spacing_mm) / 1000)

    @cached_property
    def depth_below_vertex_mm(self) -> npt.NDArray[np.float64]:
        """For each slice, how far it lies below the uppermost slice of the mask."""
        slices = np.flatnonzero(self.mask.any(axis=(1, 2)))
        top = int(slices[-1]) if slices.size else 0
        slices_below = top - np.arange(self.mask.shape[0], dtype=np.float64)
        return np.asarray(slices_below * self.spacing_mm[0], dtype=np.float64)

    def _between(self, least_mm: float, most_mm: float) -> Mask:
        """The slices whose depth below the vertex lies in a range."""
        depth = self.depth_below_vertex_mm
        return np.asarray((depth >= least_mm) & (depth < most_mm))

    @property
    def cover_mm(self) -> float:
        """Length of the head in the image, from its uppermost to its lowest slice."""
        return self._length(self.mask, axis=0)

    @cached_property
    def width_mm(self) -> float:
        """Left to right, skin to skin, above the ears."""
        return self._length(self.mask[self._between(0, VAULT_MM)], axis=2)

    @cached_property
    def length_mm(self) -> float:
        """Front to back, skin to skin, of the vault."""
        return self._length(self.mask[self._between(0, VAULT_MM)], axis=1)

    def _length(self, mask: Mask, axis: int) -> float:
        others = tuple(a for a in range(3) if a != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        if not occupied.size:
            return 0.0
        return float(occupied[-1] - occupied[0] + 1) * self.spacing_mm[axis]

    @property
    def growth(self) -> float:
        """Share of an adult's distances below the vertex."""
        return float(np.clip(self.length_mm / ADULT_LENGTH_MM, NEWBORN_SHARE, 1.0))

    @cached_property
    def contact_mm2(self) -> dict[Face, float]:
        """Area where the head meets each face of the field; at the sides above the shoulders."""
        spacing = self.spacing_mm
        above = self.mask[self._between(0, ABOVE_SHOULDERS_MM * self.growth)]
        found = {}
        for face in Face:
            axis, index = face.value
            side = np.take(self.mask if axis == 0 else above, index, axis=axis)
            found[face] = float(np.count_nonzero(side) * np.prod(spacing) / spacing[axis])
        return found

    def missing_mm(self, face: Face) -> float:
        """How much of a round vault lies beyond a face, by the area of contact; 0 when uncut."""
        radius = VAULT_RADIUS_MM
        rest = radius**2 - self.contact_mm2[face] / np.pi
        height = radius - float(np.sqrt(max(rest, 0.0)))
        return height if height > self.spacing_mm[face.axis] + TOUCH_MM else 0.0

    @cached_property
    def cut_faces(self) -> tuple[Face, ...]:
        """Faces beyond which the head goes on."""
        return tuple(face for face in Face if self.missing_mm(face) > 0)

    @cached_property
    def depth_mm(self) -> npt.NDArray[np.float64]:
        """Distance of each voxel of the mask from the skin; where the field cuts is no skin."""
        margin = int(np.ceil(2 * BRAIN_DEPTH_MM / min(self.spacing_mm)))
        padded = self.mask
        for face in Face:
            side = 0 if face.value[1] == 0 else 1
            width = [(0, 0)] * 3
            width[face.axis] = (margin, 0) if side == 0 else (0, margin)
            padded = np.pad(padded, width, mode="edge" if face in self.cut_faces else "constant")
        depth = ndimage.distance_transform_edt(padded, sampling=self.spacing_mm)
        inner = slice(margin, -margin)
        return np.asarray(depth[inner, inner, inner])

    @cached_property
    def vault(self) -> Mask:
        """The mask down to where the face begins."""
        return self.mask & self._between(0, VAULT_MM * self.growth)[:, None, None]

    @cached_property
    def skull_darkness(self) -> float:
        """Darkest shell where an MR has the skull, relative to what lies deep; 1 is no shell.

        Each shell is told by its dark percentile, NaN when nothing lies deep enough.
        """
        values, depth = self.values[self.vault], self.depth_mm[self.vault]
        deep = values[depth > BRAIN_DEPTH_MM]
        if deep.size < 100:
            return float("nan")
        shells = []
        for inner in np.arange(*SKULL_DEPTH_MM, SHELL_MM / 2):
            shell = values[(depth > inner) & (depth <= inner + SHELL_MM)]
            if shell.size >= 20:
                shells.append(np.percentile(shell, DARK_PERCENTILE))
        brain = float(np.percentile(deep, DARK_PERCENTILE))
        return float(min(shells)) / brain if shells and brain > 0 else float("nan")

    @cached_property
    def background_share(self) -> float:
        """Share of the outside that has one single value, the commonest there."""
        outside = self.values[~self.mask]
        if not outside.size:
            return 0.0
        return float(np.unique(outside, return_counts=True)[1].max() / outside.size)

    @cached_property
    def face_set_back_mm(self) -> float:
        """How far the face lies behind the forehead on the midline; NaN when it is not in view.

        Negative for a nose. The least setback over 20 mm along the face counts, so that neither
        the nose nor the mouth alone decides.
        """
        forehead = self._front_mm(*FOREHEAD_MM)
        face = self._front_mm(*FACE_MM)
        run = max(1, round(20.0 * self.growth / self.spacing_mm[0]))
        if forehead.size == 0 or face.size < run:
            return float("nan")
        lasting = ndimage.minimum_filter1d(face, run, mode="nearest")
        return float(lasting.max() - forehead.min())

    def _front_mm(self, least_mm: float, most_mm: float) -> npt.NDArray[np.float64]:
        """Position of the skin in front, near the midline, for each slice of a range of depths."""
        columns = np.flatnonzero(self.vault.any(axis=(0, 1)))
        if not columns.size:
            return np.zeros(0)
        middle = (columns[0] + columns[-1]) / 2
        half = MIDLINE_MM / 2 / self.spacing_mm[2]
        band = slice(max(0, int(middle - half)), int(middle + half) + 1)
        slices = self._between(least_mm * self.growth, most_mm * self.growth)
        rows = np.asarray(self.mask[slices][:, :, band].any(axis=2))
        first = np.argmax(rows[rows.any(axis=1)], axis=1)
        return np.asarray(first * self.spacing_mm[1], dtype=np.float64)

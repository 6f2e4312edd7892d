"""Slices in space, made into one regular volume: their order, copies, gaps and tilt.

A series of slices is a volume only if they are parallel, alike, and stand in one straight row at
even steps. Rounding of the positions is forgiven; copies, uneven steps and tilt are undone and
told in a step with a ``note``; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import Interpolator, resample
from SynthCTLib.volume import Grid, Step, Volume

Vector = npt.NDArray[np.float64]
Header = Mapping[str, Any]

# Two positions nearer than this are one: the finest slice spacing in use is 0.1 mm, and decimal
# strings of 16 characters are good to 1e-6 mm.
SAME_POSITION_MM = 0.01
# Scanners round positions (0.625 mm steps written as 0.6, 1.3, 1.9): a slice this part of a
# spacing (or 0.1 mm) off the even lattice is on it.
LATTICE_TOLERANCE = 0.05
ROUNDING_MM = 0.1
# Six-digit direction cosines differ by 1e-6; 1e-3 is 0.26 mm over a head.
SAME_DIRECTION = 1e-3
# Gaps up to this multiple of the usual one are taken for a mere variation of the spacing.
WIDEST_GAP = 3.0


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice: where it lies, and how its stored values become real ones.

    ``position`` is LPS mm of the centre of the first pixel; ``orientation`` are the unit vectors
    along a row and along a column (6 values); ``spacing`` is mm along a row, then along a column;
    ``shape`` is (rows, columns); ``thickness`` is mm; ``frame`` counts within the file.
    """

    path: Path
    frame: int
    position: Vector
    orientation: Vector
    spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float | None
    slope: float
    intercept: float
    header: Header


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Slices in order along their normal, one at each place.

    The columns of ``axes`` are unit vectors along a row, along a column and along the normal;
    ``heights`` are mm along the normal from the first slice; ``shear`` is the LPS vector, in the
    plane, by which the stack is displaced sideways for each mm of height.
    """

    planes: tuple[Plane, ...]
    axes: Vector
    heights: Vector
    shear: Vector

    @property
    def spacing(self) -> float:
        """Mean distance of the slices, mm."""
        return float(self.heights[-1] / (len(self.heights) - 1))

    @property
    def is_uneven(self) -> bool:
        """Whether a slice lies further off the even lattice than rounding explains."""
        even = np.linspace(0.0, self.heights[-1], len(self.heights))
        allowed = max(LATTICE_TOLERANCE * self.spacing, min(ROUNDING_MM, self.spacing / 4))
        return bool(np.abs(self.heights - even).max() > allowed)

    @property
    def shift(self) -> Vector:
        """LPS mm by which the last slice lies beside the first."""
        shift: Vector = self.shear * self.heights[-1]
        return shift

    @property
    def is_tilted(self) -> bool:
        """Whether the stack leans further to the side than rounding explains."""
        return bool(np.linalg.norm(self.shift) > _sideways_tolerance(self.planes[0]))

    @property
    def upright_grid(self) -> Grid:
        """The grid of the stack if every slice lay straight above the first."""
        first = self.planes[0]
        rows, columns = first.shape
        x, y, z = (float(p) for p in first.position)
        return Grid(
            (columns, rows, len(self.heights)),
            (*first.spacing, self.spacing),
            (x, y, z),
            tuple(float(v) for v in self.axes.ravel()),
        )


def stack_planes(
    planes: Sequence[Plane], title: str, difference: Callable[[Plane, Plane], str | None]
) -> tuple[SliceStack, list[Step]]:
    """Order the slices and drop copies.

    ``difference`` says what tells two images at one place apart, or None when they are equal;
    ``title`` names the series in messages. Raises InputError for what is not one straight stack
    of parallel, equal slices without holes, or has different images at one place.
    """
    first = planes[0]
    if any(np.abs(p.orientation - first.orientation).max() > SAME_DIRECTION for p in planes):
        raise InputError(
            f"The slices of the {title} have different orientations: "
            "give a series of parallel slices (this one may be a scout)."
        )
    layouts = sorted({(*p.shape, *np.round(p.spacing, 4)) for p in planes})
    if len(layouts) > 1:
        shown = " and ".join(f"{r} x {c} at {x:g} x {y:g} mm" for r, c, x, y in layouts[:2])
        raise InputError(
            f"The slices of the {title} differ in size or pixel spacing ({shown}): "
            "export a series of equal slices."
        )
    axes = _axes(first.orientation)
    normal = axes[:, 2]
    planes = sorted(planes, key=lambda p: (float(p.position @ normal), str(p.path), p.frame))
    planes, steps = _without_copies(planes, normal, title, difference)
    if len(planes) < 2:
        raise InputError(
            f"The {title} has one slice and a volume needs several: "
            "give the folder with the whole series."
        )
    offsets = np.array([p.position - planes[0].position for p in planes])
    heights = offsets @ normal
    _require_no_hole(planes, heights, title)
    sideways = offsets - np.outer(heights, normal)
    shear = sideways.T @ heights / (heights @ heights)
    strayed = float(np.abs(sideways - np.outer(heights, shear)).max())
    if strayed > _sideways_tolerance(first):
        raise InputError(
            f"The slices of the {title} do not lie on a straight line (up to "
            f"{strayed:.1f} mm aside): export a series of slices stacked in one direction."
        )
    return SliceStack(tuple(planes), axes, heights, shear), steps


def _sideways_tolerance(plane: Plane) -> float:
    return max(ROUNDING_MM, LATTICE_TOLERANCE * min(plane.spacing))


def _axes(orientation: Vector) -> Vector:
    """Columns: unit vectors along a row, along a column, and their cross product."""
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    column = orientation[3:] - (orientation[3:] @ row) * row
    column /= np.linalg.norm(column)
    return np.column_stack([row, column, np.cross(row, column)])


def _without_copies(
    planes: list[Plane],
    normal: Vector,
    title: str,
    difference: Callable[[Plane, Plane], str | None],
) -> tuple[list[Plane], list[Step]]:
    """One plane a place. Raises InputError where images at one place differ."""
    kept = planes[:1]
    for plane in planes[1:]:
        offset = plane.position - kept[-1].position
        if abs(offset @ normal) > SAME_POSITION_MM:
            kept.append(plane)
            continue
        if np.linalg.norm(offset) > SAME_POSITION_MM:
            raise InputError(
                f"The {title} has slices that lie side by side in one plane: "
                "export each stack as its own series."
            )
        told_apart = difference(kept[-1], plane)
        if told_apart is not None:
            raise InputError(
                f"The {title} has several different images at one position, which "
                f"{told_apart}: export one set of them as its own series."
            )
    copies = len(planes) - len(kept)
    if not copies:
        return kept, []
    note = f"{copies} slices of the {title} were identical copies of others and left out."
    return kept, [Step("drop_copied_slices", {"count": copies, "note": note})]


def _usual_gap(heights: Vector) -> float:
    """The median gap; of an even number the lower one, for a gap that occurs."""
    return float(np.quantile(np.diff(heights), 0.5, method="lower"))


def _require_no_hole(planes: Sequence[Plane], heights: Vector, title: str) -> None:
    gaps, usual = np.diff(heights), _usual_gap(heights)
    missing, first = 0, None
    for i, gap in enumerate(gaps):
        times = gap / usual
        thick = [t for t in (planes[i].thickness, planes[i + 1].thickness) if t is not None]
        # Old head CTs step 5 mm through the skull base and 10 mm above, with slices as thick:
        # what is covered by the slices' own thickness is not missing.
        covered = len(thick) == 2 and sum(thick) / 2 >= 0.9 * gap
        if round(times) >= 2 and abs(times - round(times)) <= 0.1 * times and not covered:
            missing += round(times) - 1
            if first is None:
                step = (planes[i + 1].position - planes[i].position) / round(times)
                first = planes[i].position + step
    if first is not None:
        at = ", ".join(f"{v:.1f}" for v in first)
        raise InputError(
            f"{missing} of {len(planes) + missing} slices are missing from the {title}, "
            f"the first at Image Position ({at}) mm: copy the whole series again."
        )
    if gaps.max() > WIDEST_GAP * usual:
        raise InputError(
            f"The slices of the {title} are up to {gaps.max():.1f} mm apart where "
            f"{usual:.1f} mm is usual: give a series with even slices."
        )


def evened(
    array: npt.NDArray[Any], stack: SliceStack, title: str
) -> tuple[npt.NDArray[np.float32], SliceStack, Step]:
    """Slices at even heights, interpolated linearly between their two neighbours.

    ``array`` has the shape (slices, rows, columns). The first and last slice stay; the distance
    is as near the usual one as that allows.
    """
    gaps = np.diff(stack.heights)
    count = max(2, 1 + round(float(stack.heights[-1]) / _usual_gap(stack.heights)))
    even = np.linspace(0.0, stack.heights[-1], count)
    below = np.clip(np.searchsorted(stack.heights, even, side="right") - 1, 0, len(gaps) - 1)
    weight = ((even - stack.heights[below]) / gaps[below]).astype(np.float32)
    result = np.empty((count, *array.shape[1:]), np.float32)
    for out, i, w in zip(result, below, weight, strict=True):
        np.multiply(array[i], 1 - w, out=out)
        out += w * array[i + 1]
    note = (
        f"The slices of the {title} lie {gaps.min():.2f} to {gaps.max():.2f} mm apart: "
        f"{count} slices every {even[1]:.2f} mm were interpolated from them."
    )
    settings = {
        "gaps_mm": [float(gaps.min()), float(gaps.max())],
        "spacing_mm": float(even[1]),
        "interpolator": "linear",
        "note": note,
    }
    return result, replace(stack, heights=even), Step("even_slices", settings)


def untilted(volume: Volume, stack: SliceStack, title: str, outside: float) -> Volume:
    """A volume that holds the stack as if it were upright, on an orthogonal grid that holds it all.

    The slices stay where they were scanned and are only shifted within their planes, so nothing
    is interpolated across them. Where no slice reaches, ``outside`` is written.
    """
    upright = stack.upright_grid
    in_plane = (stack.axes[:, :2].T @ stack.shift) / np.asarray(upright.spacing_mm[:2])
    before = np.floor(np.minimum(in_plane, 0.0) + 1e-6).astype(int)
    after = np.ceil(np.maximum(in_plane, 0.0) - 1e-6).astype(int)
    start = upright.index_to_world @ [*before, 0, 1]
    grid = replace(
        upright,
        size=(
            upright.size[0] + int(after[0] - before[0]),
            upright.size[1] + int(after[1] - before[1]),
            upright.size[2],
        ),
        origin_mm=(float(start[0]), float(start[1]), float(start[2])),
    )
    to_upright = sitk.AffineTransform(3)
    to_upright.SetCenter(upright.origin_mm)
    to_upright.SetMatrix((np.eye(3) - np.outer(stack.shear, stack.axes[:, 2])).ravel().tolist())
    moved = resample(
        volume, grid, transform=to_upright, interpolator=Interpolator.LINEAR, outside=outside
    )
    slices = upright.index_to_world
    slices[:3, 2] += stack.shear * upright.spacing_mm[2]
    degrees = float(np.degrees(np.arctan(np.linalg.norm(stack.shear))))
    note = (
        f"The slices of the {title} are tilted by {degrees:.1f} degrees against their "
        "direction of travel: they were resampled onto an upright grid."
    )
    settings = {
        "tilt_degrees": degrees,
        "interpolator": "linear",
        "outside": outside,
        # Where the slices were scanned: their size in voxels, and voxels to LPS mm.
        "scanned_size": list(upright.size),
        "scanned_index_to_world": slices.tolist(),
        "note": note,
    }
    return replace(moved, provenance=volume.provenance.with_step(Step("untilt", settings)))

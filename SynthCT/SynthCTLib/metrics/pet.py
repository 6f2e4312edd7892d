"""Where an error of a synthetic CT, or what its model does not know, matters for a PET.

Both questions are answered by the same simulation (``physics.pet_effect``) on a coarse grid, in
the regions that the other figures are taken in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import Interpolator, in_lps, resample, to_lps
from SynthCTLib.metrics.masked import bounding_box
from SynthCTLib.physics.effect_figures import EffectFigures, effect_figures
from SynthCTLib.physics.mumap import DEFAULT_CONVENTION, hu_to_mu
from SynthCTLib.progress import Progress
from SynthCTLib.volume import AIR_HU, Role, Step, Unit, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from SynthCTLib.physics.pet_effect import PetEffect

# A PET's voxels are 2 to 5 mm; from 4 to 3 mm the mean over a head changed from 2.25 to 2.24 %.
GRID_MM = 4.0
_NOISE_HU = 50.0  # above air by less is no tissue
LEAST_VOXELS = 8  # fewer tell of chance


class PetKind(StrEnum):
    """What the percentages are: against a reference, or what the stated uncertainty makes."""

    DIFFERENCE = "difference"
    UNCERTAINTY = "uncertainty"


@dataclass(frozen=True)
class PetRow(EffectFigures):
    """The figures in a mask; NaN of fewer than eight counted voxels."""

    mask: str


@dataclass(frozen=True, eq=False)
class PetJudgement:
    """The relative change of a PET, as a map (%, on ``counted``'s coarse grid) and by mask.

    Of a difference: synthetic minus reference, in percent of the reference. Of an uncertainty: half
    of what lies between one standard deviation more and one less, as if every voxel erred alike.
    ``activity`` says what was taken for the tracer. The map is 0 where no voxel counts.
    """

    kind: PetKind
    map: Volume
    counted: Volume
    rows: tuple[PetRow, ...]
    activity: str

    def row(self, mask: str) -> PetRow | None:
        """The figures of a mask; None when there is none or nothing in it counts."""
        return next((r for r in self.rows if r.mask == mask and r.voxels >= LEAST_VOXELS), None)

    def to_json(self) -> dict[str, Any]:
        """A dict that ``json.dumps(..., allow_nan=False)`` takes: see docs/metrics-json.md."""
        return {
            "kind": str(self.kind),
            "activity": self.activity,
            "spacing_mm": list(self.map.grid.spacing_mm),
            "masks": [_row_json(row) for row in self.rows],
        }


def _row_json(row: PetRow) -> dict[str, Any]:
    figures = {
        name: value if math.isfinite(value) else None
        for name, value in asdict(row).items()
        if name.endswith("_percent")
    }
    shares = {f"{limit:g}": share for limit, share in row.beyond.items()}
    beyond = shares if row.voxels >= LEAST_VOXELS else None
    return {"mask": row.mask, "voxels": row.voxels, **figures, "beyond": beyond}


def pet_difference(
    reference: Volume,
    synthetic: Volume,
    region: Volume,
    judged: Volume,
    activity: Volume,
    masks: Mapping[str, Volume],
    convention: str = DEFAULT_CONVENTION,
    *,
    described: str = "the activity given",
    progress: Progress | None = None,
) -> PetJudgement:
    """What the difference of two CTs (HU, one grid) does to a PET of an activity.

    They are compared in ``region`` and there where ``judged`` is above 0 (both masks on their
    grid): elsewhere both µ-maps are the synthetic one's, so that nothing unseen counts. The
    activity (role PET, any unit) may lie on any grid in their frame. Raises InputError for other
    grids and units, and when no activity lies in the region.
    """
    for ct in (reference, synthetic):
        ct.require_unit(Unit.HU)
        ct.require_grid_of(region)
    judged.require_grid_of(region)
    compared = region.array > 0
    compared &= judged.array > 0
    mixed = np.where(compared, reference.array, synthetic.array).astype(np.float32)
    other = reference.with_array(mixed)
    views = _Views(region, other.with_array(np.maximum(mixed, synthetic.array)), activity)
    mu = views.mu(synthetic, convention)
    effect = _with_one_thread_effect(mu, views.mu(other, convention), views.activity, progress)
    counted = effect.counted.array > 0
    counted = counted & views.share_of(region.mask(compared))
    return _judgement(PetKind.DIFFERENCE, effect.difference, counted, views, masks, described)


def pet_uncertainty(
    synthetic: Volume,
    uncertainty: Volume,
    region: Volume,
    activity: Volume,
    masks: Mapping[str, Volume],
    convention: str = DEFAULT_CONVENTION,
    *,
    described: str = "the activity given",
    progress: Progress | None = None,
) -> PetJudgement:
    """What one standard deviation (HU) of a synthetic CT's voxels means for a PET.

    The PET is reconstructed with every voxel of the region denser by its uncertainty, and less
    dense by it; half the difference is the answer. Errors that go together in all voxels are the
    worst case: independent ones would cancel along the lines. Otherwise as ``pet_difference``.
    """
    progress = progress or Progress()
    for volume in (synthetic, uncertainty):
        volume.require_unit(Unit.HU)
        volume.require_grid_of(region)
    spread = np.where(region.array > 0, uncertainty.array, 0).astype(np.float32)
    views = _Views(region, synthetic, activity)
    middle = views.mu(synthetic, convention)
    maps = [
        views.mu(
            synthetic.with_array(np.maximum(synthetic.array + sign * spread, np.float32(AIR_HU))),
            convention,
        )
        for sign in (1.0, -1.0)
    ]
    up = _with_one_thread_effect(
        maps[0], middle, views.activity, progress.within("One standard deviation more", 0.5)
    )
    down = _with_one_thread_effect(
        maps[1], middle, views.activity, progress.within("One standard deviation less", 0.5)
    )
    half = (up.difference.array - down.difference.array) / np.float32(2)
    counted = (up.counted.array > 0) & views.share_of(region)
    return _judgement(
        PetKind.UNCERTAINTY, up.difference.with_array(half), counted, views, masks, described
    )


class _Views:
    """Volumes of one grid on a PET's: about 4 mm, the planes of the region, all tissue in them.

    ``ct`` tells where the tissue is: what lies around it in every plane is left away.
    """

    def __init__(self, region: Volume, ct: Volume, activity: Volume) -> None:
        inside = in_lps(region.array, region.grid) > 0
        planes = bounding_box(inside)[0]
        tissue = in_lps(ct.array, ct.grid)[planes] > AIR_HU + _NOISE_HU
        z, y, x = planes, *bounding_box(tissue | inside[planes])[1:]
        self._box = (z, y, x)
        # Cropped as arrays: to turn whole images round takes most of the time.
        self._like = to_lps(region).volume.image[
            x.start : x.stop, y.start : y.stop, z.start : z.stop
        ]
        grid = region.with_image(self._coarse(self._like)).grid
        moved = resample(activity, grid, interpolator=Interpolator.LINEAR)
        values = np.maximum(moved.array, np.float32(0))
        if not values.any():
            raise InputError(
                "The PET holds no activity where the CTs are compared: give the PET of the same "
                "patient in the same frame."
            )
        self.activity = moved.with_array(values)

    def mu(self, ct: Volume, convention: str) -> Volume:
        """The µ-map of a CT; what is added to fill up the last blocks is air."""
        fine = hu_to_mu(ct.with_image(self._cropped(ct)), convention)
        return fine.with_image(self._coarse(fine.image))

    def share_of(self, mask: Volume) -> npt.NDArray[np.bool_]:
        """The voxels of which at least half lies in the mask."""
        coarse = self._coarse(self._cropped(mask))
        return np.asarray(sitk.GetArrayFromImage(coarse) >= 0.5)

    def _cropped(self, volume: Volume) -> sitk.Image:
        part = in_lps(volume.array, volume.grid)[self._box]
        image = sitk.GetImageFromArray(np.ascontiguousarray(part))
        image.CopyInformation(self._like)
        return image

    @staticmethod
    def _coarse(image: sitk.Image) -> sitk.Image:
        factors = [max(1, int(GRID_MM / s + 1e-6)) for s in image.GetSpacing()]
        missing = [-n % f for n, f in zip(image.GetSize(), factors, strict=True)]
        whole = sitk.ConstantPad(sitk.Cast(image, sitk.sitkFloat32), [0, 0, 0], missing, 0.0)
        return sitk.BinShrink(whole, factors)


def _judgement(
    kind: PetKind,
    difference: Volume,
    counted: npt.NDArray[np.bool_],
    views: _Views,
    masks: Mapping[str, Volume],
    described: str,
) -> PetJudgement:
    rows = []
    for name, mask in masks.items():
        inside = difference.array[counted & views.share_of(mask)]
        rows.append(PetRow(**vars(effect_figures(inside, LEAST_VOXELS)), mask=name))
    shown = difference.with_array(
        np.where(counted, difference.array, np.float32(0)),
        role=Role.PET,
        unit=Unit.PERCENT,
        step=Step(f"pet_{kind}", {"activity": described}),
    )
    return PetJudgement(kind, shown, difference.mask(counted), tuple(rows), described)


def _with_one_thread_effect(
    mu: Volume, reference: Volume, activity: Volume, progress: Progress | None
) -> PetEffect:
    from SynthCTLib.physics.pet_effect import pet_effect

    with _one_thread():
        return pet_effect(mu, reference, activity, progress=progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: on a busy machine, threads that wait for each other cost 20 times it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""A head label map in, the simulated MR and CT of that head out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import Tensor

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.grids import Reoriented, to_lps
from SynthCTLib.phantom.fields import stream
from SynthCTLib.phantom.options import PhantomOptions
from SynthCTLib.phantom.render import compose, render_ct, render_mr, tissues_of
from SynthCTLib.volume import Role, Step, Unit, Volume

_DEFAULT = PhantomOptions()


@dataclass(frozen=True)
class PhantomPair:
    """The simulated images of one head, both on the grid of its label map."""

    mr: Volume
    ct: Volume


class Purpose(IntEnum):
    """One random stream each, so that changing the MR's options leaves anatomy and CT alone."""

    COMPOSITION = 0
    MR = 1
    CT = 2
    PET = 3


def make_pair(
    labels: Volume, options: PhantomOptions = _DEFAULT, *, seed: int, device: str = "cpu"
) -> PhantomPair:
    """Render a label map (role MASK, whole numbers) as MR (white matter about 1) and CT (HU).

    The same seed gives the same bits on the same device, whatever the axis order of the grid:
    the work is done in LPS order. Raises InputError for another role, for values that are not
    whole numbers, for labels that stand for no tissue and for a negative seed.
    """
    canonical, tissues = composed(labels, seed, device)
    anatomy = canonical.volume
    spacing_mm = anatomy.grid.spacing_mm
    mr = render_mr(tissues, spacing_mm, options, stream(seed, Purpose.MR, device))
    ct = render_ct(tissues, spacing_mm, options, stream(seed, Purpose.CT, device))

    step = Step("phantom", {"seed": seed, **asdict(options)})

    def volume(values: Tensor, role: Role, unit: Unit) -> Volume:
        rendered = anatomy.with_array(values.cpu().numpy(), role=role, unit=unit, step=step)
        return canonical.restore(rendered)

    return PhantomPair(volume(mr, Role.MR, Unit.ARBITRARY), volume(ct, Role.CT, Unit.HU))


def composed(labels: Volume, seed: int, device: str) -> tuple[Reoriented, Tensor]:
    """The label map in LPS order, and its tissues (z, y, x), the same for every image of a seed.

    Raises InputError as ``make_pair`` does.
    """
    if seed < 0:
        raise InputError(f"The seed is {seed}: give a whole number that is not negative.")
    canonical = to_lps(labels)
    tissues = tissues_of(torch.from_numpy(_whole_numbers(canonical.volume)).to(device))
    spacing_mm = canonical.volume.grid.spacing_mm
    return canonical, compose(tissues, spacing_mm, stream(seed, Purpose.COMPOSITION, device))


def clean_labels(labels: Volume) -> Volume:
    """Remove what only noise can have put there: stray islands, and air in specks and threads.

    Of all that is not air only the largest connected part is kept (touching by face, edge or
    corner). Air enclosed in it stays within two voxels of where it is three voxels wide (sinuses,
    larger mastoid cells) and is filled from its neighbours elsewhere; the airway and all else that
    is open to the outside stays as it is. Raises InputError as ``make_pair`` does, and when there
    is nothing but air.
    """
    values = _whole_numbers(labels)
    if not values.any():
        raise InputError("The label map holds nothing but air: choose one with a head in it.")
    values[_parts(values != 0, by_corners=True) > 1] = 0
    air = values == 0
    enclosed = sitk.GetImageFromArray((air & (_parts(air, by_corners=False) != 1)).astype(np.uint8))
    core = sitk.BinaryErode(enclosed, (1, 1, 1), sitk.sitkCross)
    wide = sitk.BinaryDilate(core, (2, 2, 2), sitk.sitkCross)
    _fill(values, sitk.GetArrayFromImage(sitk.And(enclosed, sitk.Not(wide))).astype(bool))
    return labels.with_array(values, step=Step("clean_labels"))


def _parts(mask: npt.NDArray[np.bool_], *, by_corners: bool) -> npt.NDArray[np.int32]:
    """Connected parts, numbered from 1 for the largest; 0 outside the mask."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(image, by_corners))
    numbered: npt.NDArray[np.int32] = sitk.GetArrayFromImage(parts).astype(np.int32)
    return numbered


def _fill(labels: npt.NDArray[np.int32], hole: npt.NDArray[np.bool_]) -> None:
    """Fill holes from their rim inwards, in place, with the highest label among the six neighbours.

    The highest is bone before soft tissue before brain; unlike the nearest it does not depend on
    the order of the axes.
    """
    voxels = np.argwhere(hole)
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    shape = np.asarray(labels.shape)
    while len(voxels):
        around = np.clip(voxels[:, None] + steps, 0, shape - 1)
        highest = labels[tuple(np.moveaxis(around, -1, 0))].max(axis=1)
        labels[tuple(voxels.T)] = highest
        voxels = voxels[highest == 0]


def _whole_numbers(labels: Volume) -> npt.NDArray[np.int32]:
    """The labels as int32, refused unless they are a mask of whole numbers."""
    if labels.role != Role.MASK:
        raise InputError(
            f"A phantom is made from a label map and this is a {labels.role} volume: "
            "give the label map with the role mask."
        )
    values = labels.array.astype(np.int32)
    if not np.array_equal(values, labels.array):
        raise InputError(
            "The label map holds values that are not whole numbers: "
            "it was interpolated; resample it with nearest neighbour."
        )
    return values

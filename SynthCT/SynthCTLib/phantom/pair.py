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
from SynthCTLib.imaging.grids import to_lps
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


class _Purpose(IntEnum):
    """One random stream each, so that changing the MR's options leaves anatomy and CT alone."""

    COMPOSITION = 0
    MR = 1
    CT = 2


def make_pair(
    labels: Volume, options: PhantomOptions = _DEFAULT, *, seed: int, device: str = "cpu"
) -> PhantomPair:
    """Render a label map (role MASK, whole numbers) as MR (white matter about 1) and CT (HU).

    The same seed gives the same bits on the same device, whatever the axis order of the grid:
    the work is done in LPS order. Raises InputError for another role, for values that are not
    whole numbers, for labels that stand for no tissue and for a negative seed.
    """
    if seed < 0:
        raise InputError(f"The seed is {seed}: give a whole number that is not negative.")
    canonical = to_lps(labels)
    anatomy = canonical.volume
    spacing_mm = anatomy.grid.spacing_mm
    tissues = tissues_of(torch.from_numpy(_whole_numbers(anatomy)).to(device))
    tissues = compose(tissues, spacing_mm, stream(seed, _Purpose.COMPOSITION, device))
    mr = render_mr(tissues, spacing_mm, options, stream(seed, _Purpose.MR, device))
    ct = render_ct(tissues, spacing_mm, options, stream(seed, _Purpose.CT, device))

    step = Step("phantom", {"seed": seed, **asdict(options)})

    def volume(values: Tensor, role: Role, unit: Unit) -> Volume:
        rendered = anatomy.with_array(values.cpu().numpy(), role=role, unit=unit, step=step)
        return canonical.restore(rendered)

    return PhantomPair(volume(mr, Role.MR, Unit.ARBITRARY), volume(ct, Role.CT, Unit.HU))


def clean_labels(labels: Volume) -> Volume:
    """Keep the largest connected part of what is not air; everything apart from it becomes air.

    Voxels that touch by a face, edge or corner are connected. Air inside the head stays as it is.
    Raises InputError as ``make_pair`` does, and when there is nothing but air.
    """
    values = _whole_numbers(labels)
    if not values.any():
        raise InputError("The label map holds nothing but air: choose one with a head in it.")
    tissue = sitk.GetImageFromArray((values != 0).astype(np.uint8))
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(tissue, True))
    head = sitk.GetArrayViewFromImage(parts) == 1
    return labels.with_array(np.where(head, values, 0), step=Step("clean_labels"))


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

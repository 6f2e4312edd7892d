"""The head model that ships, on the real adult head that ships: is it a head that comes out?

There is no CT of this head. What is checked is what must hold of any: a closed skull of plausible
thickness where the skull is, soft tissue inside it, air outside, and as much bone left as right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.imaging.masks import dilated, head_mask
from SynthCTLib.progress import Progress
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.registry import Machine, find_card, open_model
from SynthCTLib.synthesis.synthesizer import Synthesis
from SynthCTLib.volume import Role, Volume

RAYS = 2000
STEP_MM = 0.5


@pytest.fixture(scope="module")
def mr() -> Volume:
    return read_volume(resource("SampleData", "adult_t1_1.6mm_neck.nii.gz"), Role.MR)


@pytest.fixture(scope="module")
def made(mr: Volume) -> Synthesis:
    return open_model("head-unet", Machine()).synthesize({Role.MR: mr}, Progress())


@pytest.fixture(scope="module")
def profiles(mr: Volume, made: Synthesis) -> npt.NDArray[np.float32]:
    """HU along rays from the middle of the brain over the upper half of the head, (rays, steps).

    The middle is 75 mm below the vertex, in the middle of the head there.
    """
    head = to_lps(head_mask(mr)).volume
    hu = to_lps(made.volume).volume
    mask, spacing = head.array > 0, np.asarray(head.grid.spacing_mm)[::-1]
    top = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    z = top - round(75 / spacing[0])
    y, x = (float(np.mean(np.flatnonzero(mask[z].any(axis=a)))) for a in (1, 0))
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(RAYS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[:, 0] = np.abs(directions[:, 0])  # upwards
    reach = np.arange(0, 130, STEP_MM)
    points = np.array([z, y, x]) + directions[:, None] * reach[:, None] / spacing
    index = np.clip(np.round(points).astype(int), 0, np.asarray(mask.shape) - 1)
    values: npt.NDArray[np.float32] = hu.array[tuple(np.moveaxis(index, -1, 0))]
    return values


def test_the_skull_is_closed_over_the_brain(profiles: npt.NDArray[np.float32]) -> None:
    bony = (profiles >= 300).any(axis=1)
    assert bony.mean() > 0.97


def test_the_skull_is_as_thick_as_a_skull(profiles: npt.NDArray[np.float32]) -> None:
    """Adult vaults are 5 to 10 mm thick (Li et al., PLoS ONE 2015, means of 6 to 8 mm)."""
    thickness = (profiles >= 300).sum(axis=1) * STEP_MM
    assert 4 < np.median(thickness) < 11


def test_inside_the_skull_is_brain_and_no_bone(profiles: npt.NDArray[np.float32]) -> None:
    inner = profiles[:, : int(45 / STEP_MM)]
    assert (np.abs(inner - 30) < 60).mean() > 0.99
    assert 15 < np.median(inner) < 45


def test_outside_the_head_is_air(mr: Volume, made: Synthesis) -> None:
    """The answer is kept to 3 mm from the head; its mask is found on another grid than this one."""
    head = head_mask(mr)
    far = ~dilated(head.array > 0, head.grid.spacing_mm, 8.0)
    assert far.mean() > 0.2
    assert made.volume.array.min() >= -1000
    assert np.abs(made.volume.array[far] + 1000).max() < 0.01
    rim = made.volume.array[~far & (head.array == 0)]
    assert np.median(rim) < -900


def test_there_is_as_much_bone_left_as_right(made: Synthesis) -> None:
    hu = to_lps(made.volume).volume.array
    bone = hu >= 300
    middle = int(np.median(np.argwhere(bone)[:, 2]))
    left, right = np.count_nonzero(bone[..., middle:]), np.count_nonzero(bone[..., :middle])
    assert left == pytest.approx(right, rel=0.15)


def test_it_is_surer_of_brain_than_of_bone(made: Synthesis) -> None:
    assert made.uncertainty is not None
    hu, sd = made.volume.array, made.uncertainty.array
    assert np.median(sd[hu > 600]) > 3 * np.median(sd[np.abs(hu - 30) < 30])


def test_how_the_head_is_stored_changes_nothing(mr: Volume, made: Synthesis) -> None:
    stored = mr.with_image(sitk.DICOMOrient(mr.image, "SLP"))
    again = open_model("head-unet", Machine()).synthesize({Role.MR: stored}, Progress())
    assert again.volume.grid == stored.grid
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(again.volume.image, "LPS"))
    once = sitk.GetArrayFromImage(sitk.DICOMOrient(made.volume.image, "LPS"))
    assert np.abs(back - once).mean() < 0.01


def test_the_card_says_what_it_is_worth() -> None:
    card = find_card("head-unet")
    assert card.default
    assert card.measured_accuracy
    assert all(data.simulated for data in card.training_data)

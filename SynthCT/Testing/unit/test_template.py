"""Template space: where a head ends up on Colin 27, and that the answer comes back to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_models import small_settings
from test_examples import PAIRS, write_pair
from test_patchwise import Answer, WithNetwork

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import write_volume
from SynthCTLib.imaging.grids import resample
from SynthCTLib.imaging.masks import head_mask
from SynthCTLib.progress import Progress
from SynthCTLib.registration.transforms import matrix_of
from SynthCTLib.synthesis.patchwise import PatchwiseSettings
from SynthCTLib.synthesis.preparation import Preparation, prepare
from SynthCTLib.synthesis.template import (
    affine_of,
    brain_on,
    onto_template,
    padded,
    template,
    template_brain,
    template_grid,
)
from SynthCTLib.training.pairs import (
    PairSettings,
    PairSource,
    find_subjects,
    item_of,
    prepared_pair,
    split_of,
)
from SynthCTLib.volume import AIR_HU, Role, Unit, Volume


@pytest.fixture(scope="module")
def subject() -> tuple[Volume, np.ndarray]:
    """Colin as another would lie: turned, shifted and smaller; and the matrix back onto him."""
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", [8, -5, 12], degrees=True).as_matrix()
    matrix[:3, :3] = 1.1 * turn
    centre = template().grid.centre_mm
    matrix[:3, 3] = centre - matrix[:3, :3] @ np.add(centre, [6, -9, 4])
    grid = template_grid(2.5)
    wide = padded(grid, (96, 104, 88))
    return resample(template(), wide, transform=affine_of(matrix)), matrix


def test_the_template_is_a_whole_head_with_a_brain_of_the_size_of_one() -> None:
    ml = template_brain().array.sum() * np.prod(template().grid.spacing_mm) / 1000
    assert 1200 < ml < 2200  # Colin's head is large
    inside = head_mask(template()).array > 0
    assert (template_brain().array > 0)[~inside].sum() == 0
    # Left is where x rises (LPS): the brain lies in the middle between the sides of the head.
    brain, head = (ndimage.center_of_mass(m) for m in (template_brain().array, inside))
    assert abs(brain[2] - head[2]) < 2
    assert template_grid(1.0).size == (182, 218, 182)


def test_a_head_is_found_on_the_template_where_it_was_taken_from(
    subject: tuple[Volume, np.ndarray],
) -> None:
    mr, matrix = subject
    found = onto_template(mr, head_mask(mr), 1, Progress())
    points = np.argwhere(template_brain().array)[::500, ::-1]
    world = (template().grid.index_to_world @ np.c_[points, np.ones(len(points))].T)[:3].T
    back = (np.linalg.inv(matrix) @ np.c_[world, np.ones(len(world))].T)[:3].T
    off = [np.subtract(found.TransformPoint(b), w) for b, w in zip(back, world, strict=True)]
    assert np.linalg.norm(off, axis=1).max() < 2.0


def test_a_head_that_lay_turned_is_brought_to_the_very_same_place(
    subject: tuple[Volume, np.ndarray],
) -> None:
    """The scanner's slices turned with the patient: voxel by voxel it is the same image."""
    mr, _ = subject
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [20, -15, 18], degrees=True).as_matrix()
    motion[:3, 3] = [15, -22, 9]
    image = sitk.Image(mr.image)
    image.SetDirection((motion[:3, :3] @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    image.SetOrigin((motion @ [*image.GetOrigin(), 1])[:3].tolist())
    turned = mr.with_image(image)
    head = head_mask(mr)
    still = matrix_of(onto_template(mr, head, 1, Progress()))
    found = matrix_of(onto_template(turned, turned.mask(head.array > 0), 1, Progress()))
    np.testing.assert_allclose(found @ motion, still, atol=1e-6)


def test_an_answer_made_in_template_space_comes_back_onto_the_head(
    subject: tuple[Volume, np.ndarray],
) -> None:
    """A network that gives the normalised MR: the answer is a linear copy of the input."""
    mr, _ = subject
    model = WithNetwork(
        Answer(lambda x: x[:, :1]),
        space="mni",
        preparation={"method": "brain"},
        output={"scale": 100.0, "offset": 0.0},
        window={"patch": [64, 64, 64], "overlap": 0.25},
        working_mm=2.5,
    )
    made = model.synthesize({Role.MR: mr}, Progress())
    assert made.volume.grid == mr.grid
    seen = made.coverage.array > 0
    inside = ndimage.binary_erosion(head_mask(mr).array > 0, iterations=4) & seen
    slope = np.corrcoef(made.volume.array[inside], mr.array[inside])[0, 1]
    assert slope > 0.97
    outside = ~ndimage.binary_dilation(head_mask(mr).array > 0, iterations=9)
    assert (made.volume.array[outside] == AIR_HU).all()
    # The template ends in the face: what of the grid lies beyond it is not covered.
    assert 0 < seen.mean() < 1
    mean = made.volume.array[inside].mean()
    assert abs(mean) < 150


def test_normalisation_by_the_brain_by_hand() -> None:
    mr = np.float32([[[2, 4, 6, 100, 7]]])
    brain = np.array([[[True, True, True, False, False]]])
    scanned = np.array([[[True, True, True, True, False]]])
    deviation = np.sqrt(8 / 3)
    made = prepare(mr, scanned, scanned, Preparation(method="brain"), brain)
    expected = (np.array([2, 4, 6, 100, 0]) - 4) / deviation
    assert made[0, 0, 0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match="no brain"):
        prepare(mr, scanned, scanned, Preparation(method="brain"), ~scanned)


def test_the_brain_cannot_be_known_in_a_space_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="space mni"):
        TypeAdapter(PatchwiseSettings).validate_python(
            small_settings(preparation={"method": "brain"})
        )
    with pytest.raises(ValidationError, match="heads in the axes"):
        TypeAdapter(PatchwiseSettings).validate_python(small_settings(space="mni", region="body"))
    write_pair(tmp_path / "a/sub-0", 0)
    write_pair(tmp_path / "a/sub-1", 1)
    write_pair(tmp_path / "a/sub-2", 2)
    subjects = find_subjects(tmp_path / "a")
    split = split_of(tuple(s.name for s in subjects), 3, 1, 0)
    brain = Preparation(method="brain")
    with pytest.raises(InputError, match="space mni"):
        PairSource(PAIRS, subjects, split, brain, tmp_path / "c", 1, "cpu", Progress())


def test_the_brain_on_a_padded_grid_lies_where_it_did() -> None:
    grid = template_grid(2.0)
    wide = padded(grid, (96, 112, 96))
    assert wide.size == (96, 112, 96)
    brain = brain_on(wide)
    assert int(brain.sum()) == int(brain_on(grid).sum())
    here, there = (
        sitk.GetArrayFromImage(resample(template(), g).image)[brain_on(g)].sum()
        for g in (wide, grid)
    )
    assert here == pytest.approx(there, rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_pair_is_prepared_in_template_space_with_its_ct_beside_it(
    subject: tuple[Volume, np.ndarray], tmp_path: Path
) -> None:
    """The CT is a linear copy of the MR: so it must be on the template."""
    mr, _ = subject
    (tmp_path / "sub").mkdir()
    write_volume(mr, tmp_path / "sub/mr.nii.gz")
    hu = 4 * mr.array - 1000
    write_volume(mr.with_array(hu, role=Role.CT, unit=Unit.HU), tmp_path / "sub/ct.nii.gz")
    (found,) = find_subjects(tmp_path)
    settings = PairSettings(spacing_mm=4.0, space="mni", register="none", remove_table=False)
    pair = prepared_pair(item_of(found, settings, Preparation(method="brain")))
    grid = template_grid(4.0)
    image, made = pair["image"][0].numpy().astype(float), pair["hu"][0].numpy().astype(float)
    assert image.shape == grid.size[::-1]
    brain = brain_on(grid)
    assert image[brain].mean() == pytest.approx(0, abs=0.01)
    assert image[brain].std() == pytest.approx(1, abs=0.01)
    inside = ndimage.binary_erosion(pair["centres"][0].numpy() > 0, iterations=2)
    assert np.corrcoef(image[inside], made[inside])[0, 1] > 0.97
    # And it is the template that it lies on.
    colin = resample(template(), grid).array
    assert np.corrcoef(image[brain], colin[brain])[0, 1] > 0.9

"""The ground floor: volume, grid, progress, canonical orientation."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.errors import Cancelled, InputError
from SynthCTLib.imaging.grids import isotropic_grid, resample, scanned_field, to_lps
from SynthCTLib.progress import Progress, ProgressEvent
from SynthCTLib.volume import Grid, Role, Unit, Volume

CODES = [
    "".join(p)
    for axes in itertools.permutations(["LR", "AP", "IS"])
    for p in itertools.product(*axes)
]


def image(shape=(6, 5, 4), spacing=(1.0, 2.0, 3.0), origin=(10.0, -20.0, 30.0)) -> sitk.Image:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    result = sitk.GetImageFromArray(values)
    result.SetSpacing(spacing)
    result.SetOrigin(origin)
    return result


def ct(**settings) -> Volume:
    return Volume(image(**settings), Role.CT, Unit.HU)


def test_view_outlives_its_volume() -> None:
    array = ct(shape=(64, 64, 64)).array
    expected = np.random.default_rng(1).normal(size=(64, 64, 64)).astype(np.float32)
    gc.collect()
    _overwrite = [np.ones((64, 64, 64), np.float32) for _ in range(16)]
    np.testing.assert_array_equal(array, expected)


def test_values_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        ct().array[0, 0, 0] = 1


def test_colour_and_2d_images_are_refused() -> None:
    with pytest.raises(InputError, match="components"):
        Volume(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3), Role.MR, Unit.ARBITRARY)
    with pytest.raises(InputError, match="dimensions"):
        Volume(sitk.Image(4, 4, sitk.sitkFloat32), Role.MR, Unit.ARBITRARY)


def test_unit_is_checked_at_the_door() -> None:
    ct().require_unit(Unit.HU)
    with pytest.raises(InputError, match="1/cm"):
        ct().require_unit(Unit.PER_CM)


def test_role_change_takes_the_unit_of_the_role() -> None:
    assert ct().with_image(image(), role=Role.MU_MAP).unit == Unit.PER_CM
    assert ct().mask(np.ones((6, 5, 4), bool)).unit == Unit.ARBITRARY


def test_index_to_world_is_itks() -> None:
    shifted = image()
    shifted.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4).GetMatrix())
    index = (3, 1, 2)
    ours = (Grid.of(shifted).index_to_world @ [*index, 1])[:3]
    np.testing.assert_allclose(ours, shifted.TransformIndexToPhysicalPoint(index), atol=1e-9)


def test_half_a_voxel_is_not_the_same_grid() -> None:
    volume, shifted = ct(), ct(origin=(10.5, -20.0, 30.0))
    volume.require_grid_of(ct())
    with pytest.raises(InputError, match="does not lie on the grid"):
        volume.require_grid_of(shifted)


def test_small_rotation_of_a_large_image_is_not_the_same_grid() -> None:
    still = image(shape=(4, 256, 256))
    turned = image(shape=(4, 256, 256))
    turned.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0, 0, 1e-4).GetMatrix())
    assert not Grid.of(still).matches(Grid.of(turned))


@pytest.mark.parametrize("code", CODES[::5])
def test_to_lps_and_back_is_the_identity(code: str) -> None:
    volume = Volume(sitk.DICOMOrient(image(), code), Role.MR, Unit.ARBITRARY)
    canonical = to_lps(volume)
    np.testing.assert_allclose(
        np.diag(np.reshape(canonical.volume.image.GetDirection(), (3, 3))), 1, atol=1e-6
    )
    back = canonical.restore(canonical.volume)
    assert back.grid.matches(volume.grid)
    np.testing.assert_array_equal(back.array, volume.array)


def test_identity_resampling_keeps_the_values() -> None:
    volume = ct()
    np.testing.assert_allclose(resample(volume, volume.grid).array, volume.array, atol=1e-6)


def test_outside_the_scan_a_ct_is_air_and_marked() -> None:
    volume = ct()
    grid = Grid((6, 5, 6), (1, 2, 3), (9.0, -20.0, 30.0), volume.grid.direction)
    moved, field = resample(volume, grid), scanned_field(volume, grid)
    assert (moved.array[:, :, 0] == -1000).all()
    assert field.array[:, :, 0].sum() == 0
    assert field.array.sum() == volume.array.size


def test_isotropic_grid_covers_the_same_block() -> None:
    grid = Grid((10, 20, 7), (0.5, 1.0, 3.3), (1, 2, 3), ct().grid.direction)
    cubes = isotropic_grid(grid, 1.0)
    np.testing.assert_allclose(cubes.centre_mm, grid.centre_mm)
    assert all(a >= b - 1e-6 for a, b in zip(cubes.extent_mm, grid.extent_mm, strict=True))


def test_progress_counts_nested_shares_once() -> None:
    events: list[ProgressEvent] = []
    progress = Progress(events.append)
    progress.stage("a", 0.2)
    inner = progress.within("b", 0.8)
    inner.stage("b1", 0.5)
    inner.update(1.0)
    assert progress.fraction == pytest.approx(0.6)
    inner.stage("b2", 0.5)
    inner.update(1.0)
    assert progress.fraction == pytest.approx(1.0)
    assert [e.fraction for e in events] == sorted(e.fraction for e in events)


def test_a_request_to_stop_raises_at_the_next_step() -> None:
    stop = False
    progress = Progress(is_cancelled=lambda: stop)
    progress.update(0.5)
    stop = True
    with pytest.raises(Cancelled):
        progress.update(0.6)


def test_notes_are_kept() -> None:
    progress = Progress()
    progress.within("part", 0.5).note("fell back to the CPU")
    assert progress.notes == ("fell back to the CPU",)


def test_concurrent_parts_add_up_and_pass_their_notes_on() -> None:
    progress = Progress()
    first, second = progress.concurrent("both", 0.5, 2)
    first.stage("half of it", 1.0)
    first.update(1.0)
    assert progress.fraction == pytest.approx(0.25)
    second.note("said")
    second.stage("all of it", 1.0)
    second.update(1.0)
    assert progress.fraction == pytest.approx(0.5)
    assert progress.notes == ("said",)


def test_concurrent_parts_obey_a_request_to_stop() -> None:
    stop: list[int] = []
    (part,) = Progress(is_cancelled=lambda: len(stop) > 0).concurrent("one", 1.0, 1)
    part.update(0.5)
    stop.append(1)
    with pytest.raises(Cancelled):
        part.update(0.6)


@pytest.mark.parametrize("seed", range(12))
def test_lps_order_is_that_of_itk_and_there_is_a_way_back(seed: int) -> None:
    """Any orientation, left-handed ones too, against ITK's own filter."""
    rng = np.random.default_rng(seed)
    kind = (np.int16, np.float32, np.uint8)[seed % 3]
    image = sitk.GetImageFromArray(rng.integers(0, 99, (5, 6, 7)).astype(kind))
    axes = Rotation.random(random_state=rng).as_matrix()[:, rng.permutation(3)]
    axes[:, 0] *= (-1) ** seed
    image.SetDirection(axes.ravel().tolist())
    image.SetSpacing(rng.uniform(0.5, 3, 3).tolist())
    image.SetOrigin(rng.uniform(-500, 500, 3).tolist())
    volume = Volume(image, Role.MR, Unit.ARBITRARY)
    turned = to_lps(volume)
    expected = Grid.of(sitk.DICOMOrient(image, "LPS"))
    np.testing.assert_array_equal(
        turned.volume.array, sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    )
    assert turned.volume.grid.matches(expected, tolerance_mm=1e-5)
    back = turned.restore(turned.volume)
    assert (back.grid, back.image.GetPixelID()) == (volume.grid, image.GetPixelID())
    np.testing.assert_array_equal(back.array, volume.array)

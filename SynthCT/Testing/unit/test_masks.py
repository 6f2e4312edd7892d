"""Masks against a phantom head whose shape is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.masks import (
    air_mask,
    body_contour,
    brain_mask,
    head_field_of_view,
    head_mask,
    skull_mask,
    soft_tissue_mask,
)
from SynthCTLib.volume import Role, Unit, Volume

SPACING_MM = 2.0
ORIENTATIONS = ["RAS", "LPI", "ASR", "SRA", "PIR", "ILA"]


def image(array: np.ndarray, spacing_mm: float = SPACING_MM) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((spacing_mm,) * 3)
    made.SetOrigin((-12.0, 34.0, 5.0))
    return made


def mr(array: np.ndarray, spacing_mm: float = SPACING_MM) -> Volume:
    return Volume(image(array.astype(np.float32), spacing_mm), Role.MR, Unit.ARBITRARY)


def ct(array: np.ndarray, spacing_mm: float = SPACING_MM) -> Volume:
    return Volume(image(array.astype(np.float32), spacing_mm), Role.CT, Unit.HU)


def world(shape: tuple[int, int, int], spacing_mm: float) -> tuple[np.ndarray, ...]:
    """Millimetres from the middle of the grid, z up, y to the back, x to the left."""
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * spacing_mm for n in shape), indexing="ij", sparse=True
    )
    return z, y, x


class Head:
    """A skull with a sinus open at a nostril, two ears, and a neck cut by the lower edge."""

    def __init__(self, spacing_mm: float = SPACING_MM) -> None:
        shape = tuple(round(n / spacing_mm) for n in (200, 200, 180))
        z, y, x = world((shape[0], shape[1], shape[2]), spacing_mm)
        radius = np.sqrt((x / 65) ** 2 + (y / 80) ** 2 + ((z - 10) / 75) ** 2)
        neck = (z < -20) & (np.hypot(x, y - 10) < 45)
        self.ear = (np.abs(np.abs(x) - 68) < 8) & (np.abs(y) < 2.5) & (np.abs(z) < 20)
        self.whole = (radius < 1) | neck | self.ear
        self.bone = (radius < 0.94) & (radius > 0.85)
        sinus = np.sqrt((x / 15) ** 2 + ((y + 44) / 12) ** 2 + ((z + 20) / 12) ** 2) < 1
        nostril = (np.hypot(x, z + 20) < 3.5) & (y < -44) & (radius < 1)
        airway = (z < -20) & (np.hypot(x, y - 5) < 10)
        self.air = (sinus | nostril | airway) & self.whole
        self.vertex_mm_from_top = 100 - 85

    def signal(self) -> np.ndarray:
        signal = np.where(self.whole, 100.0, 0.0)
        signal[self.bone | self.air] = 2.0
        return signal

    def hu(self) -> np.ndarray:
        hu = np.where(self.whole, 40.0, -1000.0)
        hu[self.bone] = 900.0
        hu[self.air] = -1000.0
        return hu


@pytest.fixture(scope="module")
def head() -> Head:
    return Head()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def rician(signal: np.ndarray, sigma: float) -> np.ndarray:
    random = np.random.default_rng(1)
    real, imaginary = random.normal(0, sigma, (2, *signal.shape))
    return np.hypot(signal + real, imaginary)


@pytest.mark.parametrize("foramen_mm", [0.0, 22.0])
def test_brain_is_what_the_skull_encloses(head: Head, foramen_mm: float) -> None:
    z, y, x = world(head.whole.shape, SPACING_MM)
    inside = np.sqrt((x / 65) ** 2 + (y / 80) ** 2 + ((z - 10) / 75) ** 2) < 0.85
    hu = head.hu()
    hu[(np.hypot(x, y - 30) < foramen_mm / 2) & (z < -20) & head.bone] = 40.0
    volume = ct(hu)
    found = brain_mask(volume, head_mask(volume)).array > 0
    assert dice(found, inside & ~head.air) > 0.95
    assert not (found & (hu >= 300)).any()


def test_brain_does_not_depend_on_the_axes(head: Head) -> None:
    volume = ct(head.hu())
    expected = brain_mask(volume, head_mask(volume))
    for code in ORIENTATIONS[:3]:
        turned = volume.with_image(sitk.DICOMOrient(volume.image, code))
        found = brain_mask(turned, head_mask(turned))
        back = sitk.GetArrayFromImage(sitk.DICOMOrient(found.image, "LPS"))
        assert np.array_equal(back, sitk.GetArrayFromImage(sitk.DICOMOrient(expected.image, "LPS")))


def test_no_brain_without_a_skull_of_its_size(head: Head) -> None:
    small = np.full((40, 40, 40), -1000.0)
    small[5:35, 5:35, 5:35] = 40.0
    volume = ct(small)
    with pytest.raises(InputError, match="No brain is found"):
        brain_mask(volume, volume.mask(small > -500))
    with pytest.raises(InputError, match="needs HU"):
        brain_mask(mr(head.signal()), ct(head.hu()).mask(head.whole))


def test_head_is_filled_up_to_the_cut_and_keeps_its_ears(head: Head) -> None:
    for volume in (mr(head.signal()), ct(head.hu())):
        found = head_mask(volume).array > 0
        assert dice(found, head.whole) > 0.985
        assert found[head.ear].mean() > 0.75  # two voxels thick: its rim is rounded
        assert found[head.air].mean() > 0.98  # the nostril's mouth is rounded


def test_head_is_found_through_bias_noise_and_ghosts(head: Head) -> None:
    z, y, _ = world(head.whole.shape, SPACING_MM)
    field = 1.7 ** (z / 100) * 1.3 ** (y / 100)  # the ends differ fivefold
    signal = head.signal() * field
    ghost = 0.1 * np.roll(signal, 40, axis=1)
    found = head_mask(mr(rician(np.maximum(signal, ghost), 6.0))).array > 0
    assert dice(found, head.whole) > 0.975


def test_ghost_as_bright_as_tissue_would_be_taken_for_head(head: Head) -> None:
    """The test above can fail: it is the darkness of a ghost that keeps it out."""
    ghost = 0.8 * np.roll(head.signal(), 40, axis=1)
    found = head_mask(mr(np.maximum(head.signal(), ghost))).array > 0
    assert dice(found, head.whole) < 0.95


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_masks_do_not_depend_on_the_order_of_the_axes(head: Head, code: str) -> None:
    volume = ct(head.hu())
    turned = volume.with_image(sitk.DICOMOrient(volume.image, code))
    for find in (head_mask, body_contour, head_field_of_view):
        expected = sitk.DICOMOrient(find(volume).image, code)
        found = find(turned)
        assert found.grid.matches(turned.grid)
        assert np.array_equal(found.array, sitk.GetArrayViewFromImage(expected))


def test_finer_voxels_give_the_same_head() -> None:
    coarse, fine = Head(2.0), Head(1.0)
    volume_ml = [
        np.count_nonzero(head_mask(mr(h.signal(), s)).array) * s**3
        for h, s in ((coarse, 2.0), (fine, 1.0))
    ]
    assert volume_ml[0] == pytest.approx(volume_ml[1], rel=0.01)
    # Two voxels of 0.5 mm make a working voxel; the last of an odd number is not lost.
    part = np.s_[:, :, :131]
    found = head_mask(mr(fine.signal()[part], 0.5)).array > 0
    assert dice(found, fine.whole[part]) > 0.98
    assert found[100, 100, -1]


@pytest.mark.parametrize("find", [head_mask, body_contour])
@pytest.mark.parametrize(
    "volume", [partial(mr, np.full((20, 20, 20), 7.0)), partial(ct, np.full((20, 20, 20), -1000.0))]
)
def test_an_empty_image_is_refused(
    find: Callable[[Volume], Volume], volume: Callable[[], Volume]
) -> None:
    with pytest.raises(InputError, match="No body is found"):
        find(volume())


def test_a_ct_that_is_not_in_hu_is_refused(head: Head) -> None:
    volume = Volume(ct(head.hu()).image, Role.CT, Unit.ARBITRARY)
    with pytest.raises(InputError, match="HU"):
        head_mask(volume)


def test_body_keeps_both_legs_apart_and_drops_specks() -> None:
    z, y, x = world((40, 80, 120), SPACING_MM)
    legs = np.broadcast_to(
        (np.hypot(x - 50, y) < 40) | (np.hypot(x + 50, y) < 40) & (z < 1e9), (40, 80, 120)
    )
    gas = np.sqrt((x - 50) ** 2 + y**2 + z**2) < 12
    marrow_at_the_cut = (np.hypot(x + 50, y) < 8) & (z > 20)
    hu = np.where(legs & ~gas & ~marrow_at_the_cut, 30.0, -1000.0)
    hu[3:6, 2:4, 60:64] = 0.0
    found = body_contour(ct(hu)).array > 0
    assert np.array_equal(found, legs)


def test_tissue_classes_at_their_limits(head: Head) -> None:
    values = [-1000.0, -500.0, -499.0, -201.0, -200.0, 0.0, 299.0, 300.0, 2000.0]
    volume = ct(np.array(values).reshape(1, 1, -1))
    everywhere = volume.mask(np.ones((1, 1, len(values)), dtype=bool))
    nowhere = volume.mask(np.zeros((1, 1, len(values)), dtype=bool))
    found = {f: f(volume, everywhere).array.ravel() for f in (air_mask, soft_tissue_mask)}
    assert found[air_mask].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert found[soft_tissue_mask].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert skull_mask(volume, everywhere).array.ravel().tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert not skull_mask(volume, nowhere).array.any()
    with pytest.raises(InputError, match="grid"):
        skull_mask(volume, ct(head.hu()))
    with pytest.raises(InputError, match="HU"):
        skull_mask(Volume(volume.image, Role.MR, Unit.ARBITRARY), everywhere)


def test_field_of_view_starts_at_the_vertex_and_leaves_the_neck_out(head: Head) -> None:
    kept = head_field_of_view(mr(head.signal()), 120.0).array
    assert np.array_equal(kept.any((1, 2)), kept.all((1, 2)))
    slices = np.flatnonzero(kept.any((1, 2)))
    assert slices.size == 60
    below_top_mm = (kept.shape[0] - 1 - slices[-1]) * SPACING_MM
    assert below_top_mm == pytest.approx(head.vertex_mm_from_top, abs=SPACING_MM)
    # A longer extent ends where the image ends.
    assert head_field_of_view(mr(head.signal()), 500.0).array[0].all()


def test_a_speck_above_the_head_is_not_its_vertex(head: Head) -> None:
    mask = head.whole.copy()
    mask[-1, 50, 45:50] = True
    found = head_field_of_view(ct(head.hu()).mask(mask), 120.0).array
    plain = head_field_of_view(ct(head.hu()).mask(head.whole), 120.0).array
    assert np.array_equal(found, plain)


def test_a_field_of_view_without_a_head_or_an_extent_is_refused(head: Head) -> None:
    volume = ct(head.hu())
    with pytest.raises(InputError, match="vertex"):
        head_field_of_view(volume.mask(np.zeros_like(head.whole)))
    with pytest.raises(InputError, match="above zero"):
        head_field_of_view(volume, 0.0)


def test_masks_say_how_they_were_made(head: Head) -> None:
    found = head_field_of_view(mr(head.signal()), 150.0)
    assert found.role == Role.MASK
    assert found.image.GetPixelID() == sitk.sitkUInt8
    assert found.provenance.steps[-1].name == "head_field_of_view"
    assert found.provenance.steps[-1].settings == {"extent_mm": 150.0}


@pytest.mark.pack
@pytest.mark.parametrize(
    ("name", "volume_ml"),
    [("child_3y_t1", (2500, 3600)), ("adult_t1_1mm_no_neck", (3000, 3800))],
)
def test_real_heads_have_plausible_volumes(
    data_pack: Path, name: str, volume_ml: tuple[float, float]
) -> None:
    read = sitk.ReadImage(str(data_pack / "heads" / f"{name}.nii.gz"))
    found = head_mask(Volume(read, Role.MR, Unit.ARBITRARY))
    assert volume_ml[0] < found.array.sum() * found.grid.voxel_mm3 / 1000 < volume_ml[1]

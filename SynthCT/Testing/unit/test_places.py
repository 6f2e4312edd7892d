"""The worst places of an image."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SynthCTLib.errors import InputError
from SynthCTLib.metrics.places import worst_places
from SynthCTLib.volume import Role, Unit, Volume

DIRECTIONS = {
    "LPS": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "RAS": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
}


def image_of(array: np.ndarray, direction: tuple[int, ...] = DIRECTIONS["LPS"]) -> Volume:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((-20.0, 5.0, 7.0))
    image.SetDirection([float(v) for v in direction])
    return Volume(image, Role.CT, Unit.HU)


def whole(volume: Volume) -> Volume:
    return volume.mask(np.ones(volume.array.shape, bool))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_clusters_are_found_where_they_are_worst_first(direction: tuple[int, ...]) -> None:
    array = np.zeros((24, 30, 40))
    array[4:8, 5:9, 6:10] = -300  # 64 voxels
    array[16:22, 20:26, 28:36] = 200  # 288 voxels
    volume = image_of(array, direction)
    large, small = worst_places(volume, whole(volume), sigma_mm=1.0)[:2]
    for place, centre, mean in ((large, (31.5, 22.5, 18.5), 200), (small, (7.5, 6.5, 5.5), -300)):
        world = volume.grid.index_to_world @ [*centre, 1.0]
        assert np.abs(np.array(place.position_lps_mm) - world[:3]).max() <= 9.0
        index = np.linalg.solve(volume.grid.index_to_world, [*place.position_lps_mm, 1.0])[:3]
        x, y, z = np.round(index).astype(int)
        assert array[z, y, x] == mean
        assert 0.5 < place.mean / mean <= 1.0  # the cluster reaches a little beyond
    assert 1.0 <= large.volume_ml / (288 * 6 / 1000) < 2.0
    assert small.volume_ml < large.volume_ml


def test_only_the_mask_counts() -> None:
    array = np.zeros((20, 20, 20))
    array[2:5, 2:5, 2:5], array[12:15, 12:15, 12:15] = 1000, 10
    volume = image_of(array)
    inside = np.zeros(array.shape, bool)
    inside[8:] = True
    places = worst_places(volume, volume.mask(inside), sigma_mm=1.0)
    assert len(places) == 1
    assert 0 < places[0].mean <= 10


def test_specks_are_no_places() -> None:
    array = np.zeros((20, 20, 20))
    array[3, 3, 3] = 5000  # 0.006 ml
    array[10:14, 10:14, 10:14] = 1000
    volume = image_of(array)
    (place,) = worst_places(volume, whole(volume), sigma_mm=0.1)
    assert place.volume_ml == pytest.approx(64 * 6 / 1000)
    assert len(worst_places(volume, whole(volume), sigma_mm=0.1, least_ml=0.0)) == 2
    assert worst_places(volume, whole(volume), sigma_mm=0.1, least_ml=1.0) == ()


def test_an_even_image_has_no_worst_place() -> None:
    volume = image_of(np.full((8, 9, 10), 50.0))
    assert worst_places(volume, whole(volume)) == ()


def test_refusals() -> None:
    volume = image_of(np.zeros((8, 9, 10)))
    with pytest.raises(InputError, match="empty"):
        worst_places(volume, volume.mask(np.zeros((8, 9, 10), bool)))
    array = np.zeros((8, 9, 10))
    array[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        worst_places(image_of(array), whole(volume))
    with pytest.raises(InputError, match="grid"):
        worst_places(volume, whole(image_of(np.zeros((8, 9, 11)))))

"""Table removal on limbs and tables whose voxels are known one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.table import TableRemoval, remove_table
from SynthCTLib.volume import Role, Unit, Volume

SPACING_MM = (1.5, 1.5, 3.0)
SHAPE = (36, 110, 130)
MUSCLE, BONE, SHELL, FOAM, AIR = 50.0, 900.0, 120.0, -850.0, -1000.0


def millimetres() -> tuple[np.ndarray, ...]:
    """Distances from the middle of the grid: z up, y to the back, x to the left."""
    return tuple(
        np.meshgrid(
            *(
                (np.arange(n) - (n - 1) / 2) * s
                for n, s in zip(SHAPE, SPACING_MM[::-1], strict=True)
            ),
            indexing="ij",
        )
    )


Z, Y, X = millimetres()


@dataclass
class Scene:
    """A CT put together from parts; ``body`` and ``table`` are the voxels of each."""

    hu: np.ndarray = field(default_factory=lambda: np.full(SHAPE, AIR, dtype=np.float32))
    body: np.ndarray = field(default_factory=lambda: np.zeros(SHAPE, dtype=bool))
    table: np.ndarray = field(default_factory=lambda: np.zeros(SHAPE, dtype=bool))

    def with_table(self, surface_mm: float = 40.0, radius_mm: float = 400.0) -> Scene:
        """Two curved shells 3 mm thick with 25 mm of foam between them, and a thick rail below."""
        depth = Y - surface_mm + X**2 / (2 * radius_mm)
        self._table((depth >= 0) & (depth < 28), FOAM)
        self._table((depth >= 0) & (depth < 3) | (depth >= 25) & (depth < 28), SHELL)
        self._table((np.abs(X + 40) < 10) & (depth >= 31), SHELL)
        return self

    def with_holder(self, lowest_mm: float) -> Scene:
        """A cradle 3 mm thick, an arc of 110 mm radius, as holds a head."""
        away = np.hypot(X, Y - lowest_mm + 110)
        self._table((away >= 110) & (away < 113) & (lowest_mm - 50 < Y), SHELL)
        return self

    def with_limb(
        self, x: float = 0.0, y: float = 0.0, radius_mm: float = 34.0, share: float = 0.9
    ) -> Scene:
        """A tapering limb with its bone; what would reach into the table is flattened."""
        size = radius_mm * (1 - (1 - share) * (Z / Z.max()) ** 2)
        limb = (np.hypot((X - x) / 1.2, Y - y) < size) & ~self.table
        self.hu[limb] = MUSCLE
        self.hu[limb & (np.hypot(X - x, Y - y) < 9)] = BONE
        self.body |= limb
        return self

    def with_body(self, part: np.ndarray, hu: float = MUSCLE) -> Scene:
        self.hu[part & ~self.table] = hu
        self.body |= part & ~self.table
        return self

    def with_sheet(self) -> Scene:
        """A folded sheet over everything, touching the skin: cloth is about -600 HU."""
        wave = Y + 40 + 6 * np.sin(X / 15)
        sheet = (np.abs(wave) < 2.5) & ~self.body
        self.hu[sheet] = -600.0
        self.table |= sheet
        return self

    def _table(self, part: np.ndarray, hu: float) -> None:
        self.hu[part] = hu
        self.table |= part

    @property
    def volume(self) -> Volume:
        image = sitk.GetImageFromArray(self.hu)
        image.SetSpacing(SPACING_MM)
        image.SetOrigin((-20.0, 11.0, 7.0))
        return Volume(image, Role.CT, Unit.HU)

    def judge(self, result: TableRemoval, *, contact: bool = False) -> None:
        """The body is whole and the table gone, but for the one voxel that blurring makes skin.

        In contact the face between body and plate is found to a voxel, but for a few.
        """
        kept = result.volume.array != AIR
        lost = np.count_nonzero(self.body & (result.volume.array != self.hu))
        assert lost <= (1e-4 * np.count_nonzero(self.body) if contact else 0)
        skin = ndimage.binary_dilation(self.body, np.ones((3, 3, 3)), iterations=1 + contact)
        left = np.count_nonzero(kept & self.table & ~skin)
        assert left <= (0.005 * np.count_nonzero(self.table) if contact else 0)
        assert result.removed_voxels == np.count_nonzero(result.removed.array)
        voxel_ml = np.prod(SPACING_MM) / 1000
        assert result.removed_ml == pytest.approx(result.removed_voxels * voxel_ml)


def test_table_foam_rail_and_sheet_go_and_the_limb_stays() -> None:
    scene = Scene().with_table().with_limb(y=-2.0).with_sheet()
    result = remove_table(scene.volume)
    scene.judge(result)
    assert result.removed_voxels >= 0.995 * np.count_nonzero(scene.table)


def test_a_limb_resting_on_the_shell_is_cut_from_it() -> None:
    scene = Scene().with_table().with_limb(y=12.0)
    touching = (scene.body & np.roll(scene.table, -1, axis=1)).any(axis=1)
    assert touching.sum(axis=1).min() * SPACING_MM[0] > 20  # mm of contact in every slice
    scene.judge(remove_table(scene.volume), contact=True)


def test_two_limbs_on_one_table() -> None:
    scene = Scene().with_table(radius_mm=900.0)
    scene.with_limb(x=-38, y=17.0, radius_mm=26.0).with_limb(x=38, y=17.0, radius_mm=26.0)
    scene.judge(remove_table(scene.volume), contact=True)


@pytest.mark.parametrize("gap_mm", [4.0, 0.0, -1.0])
def test_a_head_holder_goes_even_where_it_touches(gap_mm: float) -> None:
    scene = Scene().with_holder(50.0).with_limb(y=-gap_mm, radius_mm=50.0)
    scene.judge(remove_table(scene.volume), contact=True)


def test_a_contact_is_not_cut_where_nothing_shows_the_plate() -> None:
    """What parts body and plate is the bare plate on either side: without it the body is kept."""
    scene = Scene().with_table().with_limb(y=12.0)
    beside = scene.table & (np.abs(X) > 20)
    scene.hu[beside], scene.table[beside] = AIR, False
    result = remove_table(scene.volume)
    assert result.body.array[scene.body].all()
    with pytest.raises(AssertionError):
        scene.judge(result, contact=True)


def test_second_limb_and_a_sliver_at_the_edge_are_kept() -> None:
    scene = Scene().with_table(surface_mm=44.0).with_limb(x=-12.0, y=0.0)
    scene.with_limb(x=82.0, y=5.0, radius_mm=22.0)
    edge = (np.hypot(X - 108, Y + 40) < 13) & (np.abs(Z) < 25)  # one voxel reaches into the field
    assert 0 < np.count_nonzero(edge.any(axis=(0, 1))) <= 3
    scene.with_body(edge)
    scene.judge(remove_table(scene.volume))


def test_thin_parts_of_the_body_are_kept() -> None:
    scene = Scene().with_table(surface_mm=44.0).with_limb(y=-2.0)
    ear = (np.abs(Y + 10) < 2.3) & (X > 30) & (X < 58) & (np.abs(Z) < 15)
    scene.with_body(ear)
    scene.judge(remove_table(scene.volume))


def test_a_cast_around_the_limb_is_kept() -> None:
    scene = Scene().with_table(surface_mm=48.0).with_limb(y=-4.0, radius_mm=30.0, share=1.0)
    around = np.hypot(X / 1.2, Y + 4)
    scene.with_body((around >= 30) & (around < 36), -900.0)
    scene.with_body((around >= 36) & (around < 40), 300.0)
    scene.judge(remove_table(scene.volume))


def test_gas_and_lung_inside_stay_even_where_the_field_of_view_cuts_them() -> None:
    scene = Scene().with_table(surface_mm=60.0)
    scene.with_body(np.hypot((X + 50) / 1.3, Y) < 50)
    scene.with_body(np.hypot((X + 75) / 1.2, Y) < 30, -800.0)  # open at the right edge, all along
    gas = np.sqrt((X + 20) ** 2 + Y**2 + Z**2) < 9
    scene.hu[gas] = -1000.0
    result = remove_table(scene.volume)
    assert result.body.array[scene.body].all()
    assert np.array_equal(result.volume.array[scene.body], scene.hu[scene.body])


def test_a_patient_who_fills_the_field_of_view_is_left_alone() -> None:
    scene = Scene().with_body(np.ones(SHAPE, dtype=bool))
    result = remove_table(scene.volume)
    assert result.removed_voxels == 0
    assert np.array_equal(result.volume.array, scene.hu)


def test_a_ct_without_table_comes_back_voxel_for_voxel() -> None:
    scene = Scene().with_limb()
    scene.hu += np.random.default_rng(3).normal(0, 15, SHAPE).astype(np.float32)
    result = remove_table(scene.volume)
    assert (result.removed_voxels, result.removed_ml) == (0, 0.0)
    assert np.array_equal(result.volume.array, scene.hu)
    assert result.volume.provenance.steps[-1].settings == {"removed_voxels": 0}


@pytest.mark.parametrize("code", ["RAS", "ASR", "SRA", "PIR", "LIA"])
def test_the_order_of_the_axes_does_not_matter(code: str) -> None:
    scene = Scene().with_table().with_limb(y=12.0)
    volume = scene.volume
    turned = volume.with_image(sitk.DICOMOrient(volume.image, code))
    expected = sitk.DICOMOrient(remove_table(volume).volume.image, code)
    found = remove_table(turned)
    assert found.volume.grid.matches(turned.grid)
    assert np.array_equal(found.volume.array, sitk.GetArrayViewFromImage(expected))


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_the_patient_may_lie_on_any_side(quarter_turns: int) -> None:
    scene = Scene().with_table().with_limb(y=12.0)
    turned = Scene(
        *(
            np.rot90(a, quarter_turns, axes=(1, 2)).copy()
            for a in (scene.hu, scene.body, scene.table)
        )
    )
    image = sitk.GetImageFromArray(turned.hu)
    image.SetSpacing(SPACING_MM)
    turned.judge(remove_table(Volume(image, Role.CT, Unit.HU)), contact=True)


def test_integers_stay_integers_and_the_input_is_untouched() -> None:
    scene = Scene().with_table().with_limb(y=-2.0)
    volume = scene.volume.with_array(scene.hu.astype(np.int16))
    before = volume.array.copy()
    result = remove_table(volume)
    assert result.volume.array.dtype == np.int16
    assert np.array_equal(volume.array, before)
    assert result.volume.provenance.steps[-1].name == "remove_table"


def test_what_is_no_ct_of_a_body_is_refused() -> None:
    with pytest.raises(InputError, match="HU"):
        remove_table(Volume(Scene().with_limb().volume.image, Role.MR, Unit.ARBITRARY))
    with pytest.raises(InputError, match="No body"):
        remove_table(Scene().volume)

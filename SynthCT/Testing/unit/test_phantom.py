"""The phantom: labels to tissues, tissues to MR and CT, cleaning, and the shipped label maps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from scipy import ndimage

from SynthCTLib.errors import InputError
from SynthCTLib.phantom import (
    Contrast,
    PhantomOptions,
    UptakeOptions,
    clean_labels,
    make_fdg,
    make_pair,
)
from SynthCTLib.phantom.activity import BETWEEN_SUBJECTS, CORTEX_SUV, UPTAKE_SUV, WHITE_SUV
from SynthCTLib.phantom.fields import FWHM_PER_SIGMA, blur, smooth_field, stream
from SynthCTLib.phantom.render import compose, render_ct, render_mr, tissues_of
from SynthCTLib.phantom.tissues import APPEARANCE, TISSUE_OF_LABEL, Tissue
from SynthCTLib.resources import resource
from SynthCTLib.volume import Role, Unit, Volume, sha256_of

PLAIN = PhantomOptions(
    texture=0,
    mr_blur_mm=0,
    mr_noise=0,
    mr_bias=0,
    hu_spread=0,
    ct_blur_mm=0,
    ct_noise_hu=0,
)
CUBE = (1.0, 1.0, 1.0)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def label_map(
    array: np.ndarray,
    spacing: tuple[float, float, float] = CUBE,
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Volume:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-70.0, 12.5, 33.0))
    image.SetDirection(direction)
    return Volume(image, Role.MASK, Unit.ARBITRARY)


def ball_head(size: int = 48) -> np.ndarray:
    """Brain, CSF, skull, soft tissue and skin as shells; an airway; no two directions alike."""
    z, y, x = np.mgrid[:size, :size, :size] - (size - 1) / 2
    radius = np.sqrt((1.1 * z) ** 2 + y**2 + (1.05 * (x + 1)) ** 2) * 48 / size
    head = np.zeros((size,) * 3, np.int16)
    for outer, label in ((22, 511), (20, 507), (14, 515), (10, 24), (8, 3), (6, 2)):
        head[radius < outer] = label
    head[: size // 4, : size // 2, size // 2 - 2 : size // 2 + 2] = 0
    return head


# --- the pair ------------------------------------------------------------------------------


def test_pair_lies_on_the_grid_of_the_labels_with_its_roles_and_units() -> None:
    labels = label_map(ball_head(24)[:, :20, :17], spacing=(0.9, 1.1, 2.0), direction=OBLIQUE)
    pair = make_pair(labels, seed=1)
    for volume, role, unit in ((pair.mr, Role.MR, Unit.ARBITRARY), (pair.ct, Role.CT, Unit.HU)):
        assert volume.grid == labels.grid
        assert (volume.role, volume.unit) == (role, unit)
        assert volume.array.dtype == np.float32
        assert np.isfinite(volume.array).all()
    assert pair.ct.provenance.steps[-1].settings["seed"] == 1


def test_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    labels = label_map(ball_head(32))
    first, again, other = (make_pair(labels, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.mr.array, again.mr.array)
    assert np.array_equal(first.ct.array, again.ct.array)
    assert not np.array_equal(first.mr.array, other.mr.array)
    assert not np.array_equal(first.ct.array, other.ct.array)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    labels = label_map(ball_head(24))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first = make_pair(labels, seed=3)
    drawn = torch.rand(1).item(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert drawn == (torch.rand(1).item(), np.random.rand())  # noqa: NPY002
    assert np.array_equal(first.mr.array, make_pair(labels, seed=3).mr.array)


def test_settings_of_the_mr_leave_the_ct_alone() -> None:
    labels = label_map(ball_head(24))
    other = PhantomOptions(contrast=Contrast.RANDOM, mr_noise=0, texture=0, mr_bias=0.5)
    first, second = make_pair(labels, seed=3), make_pair(labels, other, seed=3)
    assert np.array_equal(first.ct.array, second.ct.array)
    assert not np.array_equal(first.mr.array, second.mr.array)


@pytest.mark.parametrize("code", ["RAS", "PIR", "SAL", "LIP", "ARS"])
def test_axis_order_of_the_file_does_not_change_the_head(code: str) -> None:
    labels = label_map(ball_head(24)[:, :20, :17], spacing=(0.9, 1.1, 2.0))
    turned = labels.with_image(sitk.DICOMOrient(labels.image, code))
    straight, pair = make_pair(labels, seed=5), make_pair(turned, seed=5)
    assert pair.mr.grid == turned.grid
    for made, expected in ((pair.mr, straight.mr), (pair.ct, straight.ct)):
        back = sitk.GetArrayFromImage(sitk.DICOMOrient(made.image, "LPS"))
        assert np.array_equal(back, expected.array)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rendering_without_chance_commutes_with_flips(axis: int) -> None:
    options = replace(PLAIN, mr_blur_mm=2.0, ct_blur_mm=1.5)
    tissues = tissues_of(torch.from_numpy(ball_head(24)))
    for render, tolerance in ((render_mr, 1e-5), (render_ct, 1e-2)):
        straight = render(tissues, CUBE, options, stream(0, 0))
        turned = render(tissues.flip(axis), CUBE, options, stream(0, 0))
        assert torch.allclose(turned.flip(axis), straight, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.with_array(v.array + 0.5), "whole numbers"),
        (lambda v: v.with_array(v.array.astype(np.float32), role=Role.MR), "role mask"),
        (lambda v: v.with_array(np.where(v.array == 24, 77, v.array)), r"no tissue \(77\)"),
        (lambda v: v.with_array(np.where(v.array == 24, -3, v.array)), r"no tissue \(-3\)"),
        (lambda v: v.with_array(np.where(v.array == 24, 9999, v.array)), r"no tissue \(9999\)"),
    ],
)
def test_label_map_that_cannot_be_rendered_is_refused(change: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_pair(change(label_map(ball_head(24))), seed=1)


def test_whole_numbers_stored_as_float_are_labels() -> None:
    labels = label_map(ball_head(24))
    as_float = labels.with_array(labels.array.astype(np.float32))
    assert np.array_equal(make_pair(as_float, seed=1).ct.array, make_pair(labels, seed=1).ct.array)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed is -1"):
        make_pair(label_map(ball_head(24)), seed=-1)


# --- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"contrast": "t7"}, "contrast 't7'"),
        ({"mr_noise": -0.1}, "mr_noise is -0.1"),
        ({"ct_blur_mm": math.nan}, "ct_blur_mm is nan"),
        ({"hu_spread": math.inf}, "hu_spread is inf"),
    ],
)
def test_option_that_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PhantomOptions(**settings)


def test_contrast_may_be_given_by_name() -> None:
    assert PhantomOptions(contrast="random").contrast is Contrast.RANDOM  # type: ignore[arg-type]


# --- signal and HU -------------------------------------------------------------------------


@pytest.mark.parametrize("tissue", list(Tissue))
def test_without_chance_and_blur_each_tissue_has_its_table_value(tissue: Tissue) -> None:
    block = torch.full((4, 4, 4), int(tissue), dtype=torch.uint8)
    look = APPEARANCE[tissue]
    assert torch.all(render_mr(block, CUBE, PLAIN, stream(0, 0)) == np.float32(look.t1))
    assert torch.all(render_ct(block, CUBE, PLAIN, stream(0, 0)) == np.float32(look.hu))


def test_every_label_is_rendered_as_its_tissue() -> None:
    labels = torch.tensor(sorted(TISSUE_OF_LABEL)).reshape(1, 1, -1)
    expected = [int(TISSUE_OF_LABEL[label]) for label in sorted(TISSUE_OF_LABEL)]
    assert tissues_of(labels).flatten().tolist() == expected
    # Fat and diploe have no label: they are parts of 507 and 515.
    assert set(Tissue) - set(TISSUE_OF_LABEL.values()) == {Tissue.FAT, Tissue.DIPLOE}


def test_block_of_bone_has_the_mean_and_spread_of_the_table() -> None:
    block = torch.full((96, 96, 96), int(Tissue.CORTICAL_BONE), dtype=torch.uint8)
    look = APPEARANCE[Tissue.CORTICAL_BONE]
    options = PhantomOptions(ct_blur_mm=0)
    hu = render_ct(block, CUBE, options, stream(11, 0))
    assert hu.mean().item() == pytest.approx(look.hu, abs=0.1 * look.hu_sd)
    assert hu.std().item() == pytest.approx(math.hypot(look.hu_sd, options.ct_noise_hu), rel=0.1)
    half = render_ct(block, CUBE, replace(options, hu_spread=0.5), stream(11, 0))
    assert half.std().item() == pytest.approx(hu.std().item() / 2, rel=0.02)


def test_air_away_from_tissue_is_minus_1000_exactly_and_nothing_is_below() -> None:
    pair = make_pair(label_map(ball_head(48)), seed=2)
    far = ndimage.distance_transform_edt(ball_head(48) == 0) > 4
    assert far.sum() > 1000
    assert (pair.ct.array[far] == -1000).all()
    assert pair.ct.array.min() == -1000


def test_mr_of_air_is_rician_noise() -> None:
    sigma = 0.03
    air = torch.zeros((64, 64, 64), dtype=torch.uint8)
    noise = render_mr(air, CUBE, PhantomOptions(mr_noise=sigma), stream(1, 0))
    assert noise.mean().item() == pytest.approx(math.sqrt(math.pi / 2) * sigma, rel=0.01)
    assert noise.std().item() == pytest.approx(math.sqrt(2 - math.pi / 2) * sigma, rel=0.01)


def test_bias_field_is_smooth_and_as_strong_as_asked() -> None:
    block = torch.full((40, 120, 40), int(Tissue.WHITE_MATTER), dtype=torch.uint8)
    fields = [
        torch.log(render_mr(block, CUBE, replace(PLAIN, mr_bias=0.2), stream(seed, 0)))
        for seed in range(24)
    ]
    assert torch.stack(fields).std().item() == pytest.approx(0.2, rel=0.25)
    assert max(field.diff(dim=1).abs().max().item() for field in fields) < 0.02  # per mm


def test_texture_varies_the_signal_within_a_tissue_as_the_table_says() -> None:
    block = torch.full((96, 96, 96), int(Tissue.FAT), dtype=torch.uint8)
    signal = render_mr(block, CUBE, replace(PLAIN, texture=1.0), stream(2, 0))
    assert signal.std().item() == pytest.approx(APPEARANCE[Tissue.FAT].t1_sd, rel=0.1)


def test_random_contrast_draws_each_tissue_and_volume_anew_and_leaves_air_dark() -> None:
    tissues = torch.arange(len(Tissue), dtype=torch.uint8).reshape(1, 1, 1, -1).repeat(3, 2, 2, 1)
    signal = render_mr(tissues, CUBE, replace(PLAIN, contrast=Contrast.RANDOM), stream(0, 0))
    assert torch.all(signal[..., Tissue.AIR] == 0)
    assert torch.equal(signal[:, 0, 0], signal[:, 1, 1])
    assert len(torch.unique(signal[:, 0, 0, 1:])) == 3 * (len(Tissue) - 1)
    assert 0 <= signal.min() < signal.max() <= 1


def test_batch_is_rendered_like_its_volumes() -> None:
    heads = [ball_head(20), ball_head(20).transpose(2, 1, 0).copy()]
    options = replace(PLAIN, mr_blur_mm=1.5, ct_blur_mm=1.5)
    batch = tissues_of(torch.from_numpy(np.stack(heads)))[:, None]
    for render in (render_mr, render_ct):
        together = render(batch, CUBE, options, stream(0, 0))
        assert together.shape == (2, 1, 20, 20, 20)
        for index in range(2):
            alone = render(batch[index, 0], CUBE, options, stream(0, 0))
            assert torch.allclose(together[index, 0], alone, rtol=1e-5, atol=1e-2)
    composed = compose(batch, CUBE, stream(0, 0))
    assert composed.shape == batch.shape
    assert not torch.equal(composed[0], composed[1])


# --- composition ---------------------------------------------------------------------------


def test_soft_tissue_is_fat_under_the_skin_and_mostly_muscle_below() -> None:
    labels = np.full((40, 48, 48), 507, np.int16)
    labels[37:] = 511
    tissues = tissues_of(torch.from_numpy(labels))
    composed = compose(tissues, CUBE, stream(1, 0))
    fat = (composed == Tissue.FAT).float().mean(dim=(1, 2))
    assert fat[35:37].min() > 0.98
    assert 0.05 < fat[:25].mean() < 0.4
    assert torch.isin(composed[:37], torch.tensor([Tissue.FAT, Tissue.MUSCLE])).all()
    assert torch.equal(composed[37:], tissues[37:])


def test_orbit_is_filled_with_fat() -> None:
    labels = np.full((48, 48, 48), 507, np.int16)
    z, y, x = np.mgrid[:48, :48, :48] - 23.5
    radius = np.sqrt(z**2 + y**2 + x**2)
    labels[radius < 12] = 506
    composed = compose(tissues_of(torch.from_numpy(labels)), CUBE, stream(1, 0)).numpy()
    assert (composed[(radius >= 12) & (radius < 15)] == Tissue.FAT).all()
    assert (composed[radius > 21] == Tissue.MUSCLE).mean() > 0.6


def test_thick_bone_has_a_diploe_between_two_tables_and_thin_bone_has_none() -> None:
    labels = np.full((40, 32, 32), 24, np.int16)
    labels[6:8] = 515
    labels[20:30] = 515
    composed = compose(tissues_of(torch.from_numpy(labels)), CUBE, stream(1, 0))
    share = (composed == Tissue.DIPLOE).float().mean(dim=(1, 2))
    assert share[24:26].min() > 0.9
    assert share[[20, 29]].max() == 0
    assert share[:20].max() == 0


# --- fields --------------------------------------------------------------------------------


def test_blur_agrees_with_scipy_on_anisotropic_voxels() -> None:
    image = np.random.default_rng(0).normal(size=(12, 20, 30)).astype(np.float32)
    spacing = (0.5, 1.0, 2.0)
    sigma = [3.0 / FWHM_PER_SIGMA / s for s in reversed(spacing)]
    expected = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=6)
    blurred = blur(torch.from_numpy(image), 3.0, spacing).numpy()
    assert np.abs(blurred - expected).max() < 2e-3


def test_smooth_field_has_unit_variance_and_the_autocorrelation_of_its_kernel() -> None:
    spacing, fwhm_mm = (0.5, 1.0, 1.5), 6.0
    field = smooth_field((60, 60, 60, 60), fwhm_mm, spacing, stream(1, 0))
    assert field.mean().item() == pytest.approx(0, abs=0.04)
    per_voxel = field.square().mean(dim=0)
    assert per_voxel.mean().item() == pytest.approx(1, abs=0.03)
    assert per_voxel[0].mean().item() == pytest.approx(1, abs=0.1)  # at the edge as inside
    sigma = fwhm_mm / FWHM_PER_SIGMA
    for dim, step in ((1, 1.5), (2, 1.0), (3, 0.5)):
        near, off = field.narrow(dim, 0, 56), field.narrow(dim, 4, 56)
        expected = math.exp(-((4 * step / sigma) ** 2) / 4)
        assert (near * off).mean().item() == pytest.approx(expected, abs=0.03)


def test_streams_of_a_seed_are_unlike_for_each_purpose() -> None:
    drawn = [torch.rand(4, generator=stream(s, p)).tolist() for s in (1, 2) for p in (0, 1)]
    assert len({tuple(d) for d in drawn}) == 4


# --- cleaning ------------------------------------------------------------------------------


def test_cleaning_removes_islands_and_keeps_what_touches_by_a_corner() -> None:
    head = np.zeros((20, 20, 20), np.int16)
    head[5:15, 5:15, 5:15] = 507
    head[15, 15, 15] = 511
    expected = head.copy()
    head[1, 1, 1:4] = 24
    assert np.array_equal(clean_labels(label_map(head)).array, expected)


def test_cleaning_keeps_sinus_and_airway_and_fills_specks_and_threads() -> None:
    head = np.zeros((30, 30, 30), np.int16)
    head[2:28, 2:28, 2:28] = 507
    head[2:28, 14:28, 2:28] = 515
    whole = head.copy()
    whole[24, 13, 20] = 515
    head[5:10, 5:10, 5:10] = 0  # a sinus
    head[15, :6, 15] = 0  # a thin airway, open to the outside
    kept = head == 0
    head[20, 20, 5:25] = 0  # a thread of noise in bone
    head[24, 13, 20] = 0  # a speck where bone and soft tissue meet becomes bone
    cleaned = clean_labels(label_map(head)).array
    inner = np.zeros_like(kept)
    inner[6:9, 6:9, 6:9] = True
    assert (cleaned[inner] == 0).all()
    assert (cleaned[15, :6, 15] == 0).all()
    assert (cleaned[20, 20, 5:25] == 515).all()
    assert np.array_equal(cleaned[~kept], whole[~kept])


def test_cleaning_twice_changes_nothing_more_and_the_caller_keeps_his_labels() -> None:
    head = ball_head(32)
    head[16, 16, 16] = 0
    head[0, 0, 0] = 24
    labels = label_map(head.copy())
    once = clean_labels(labels)
    assert once.grid == labels.grid
    assert once.role == Role.MASK
    assert np.array_equal(labels.array, head)
    assert np.array_equal(clean_labels(once).array, once.array)


def test_cleaning_refuses_a_map_of_air() -> None:
    with pytest.raises(InputError, match="nothing but air"):
        clean_labels(label_map(np.zeros((8, 8, 8), np.int16)))


# --- what ships ----------------------------------------------------------------------------


def test_shipped_label_maps_are_those_of_the_card_and_none_is_held_out() -> None:
    folder = resource("Atlases")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    assert "Apache License" in (folder / "LICENSE.txt").read_text()
    files = {entry["file"] for entry in card["atlases"]}
    assert files == {f"heads/{path.name}" for path in (folder / "heads").glob("*.nii.gz")}
    assert not {entry["id"] for entry in card["atlases"]} & set(card["held_out"])
    for entry in card["atlases"]:
        assert sha256_of(folder / entry["file"]) == entry["sha256"]
        labels = sitk.ReadImage(folder / entry["file"])
        tissues_of(torch.from_numpy(sitk.GetArrayFromImage(labels).astype(np.int32)))


@pytest.mark.pack
def test_every_label_of_the_pack_has_a_tissue(data_pack: Path) -> None:
    paths = sorted((data_pack / "labels").glob("head_*.nii.gz"))
    assert len(paths) == 18
    for path in paths:
        image = sitk.ReadImage(path, sitk.sitkInt32)
        tissues_of(torch.from_numpy(sitk.GetArrayFromImage(image)))


# FDG

SAME_FOR_ALL = UptakeOptions(between_subjects=0, regional=0, fwhm_mm=0, noise=0)


def test_every_tissue_has_the_published_uptake() -> None:
    labels = label_map(ball_head())
    pet = make_fdg(labels, SAME_FOR_ALL, seed=3)
    assert (pet.role, pet.unit, pet.grid) == (Role.PET, Unit.SUV, labels.grid)
    for label, suv in ((0, 0.0), (2, WHITE_SUV), (3, CORTEX_SUV), (24, 0.0), (515, 0.6)):
        np.testing.assert_allclose(pet.array[labels.array == label], suv, rtol=1e-6)
    assert set(UPTAKE_SUV) == set(Tissue)


def test_people_differ_in_the_whole_brain_and_in_its_parts_alone() -> None:
    labels = label_map(ball_head())
    grey, muscle = labels.array == 3, labels.array == 515
    whole = UptakeOptions(regional=0, fwhm_mm=0, noise=0)
    means = []
    for seed in range(200):
        values = make_fdg(labels, whole, seed=seed).array
        assert np.ptp(values[grey]) < 1e-3
        np.testing.assert_allclose(values[muscle], 0.6, rtol=1e-6)
        means.append(values[grey].mean() / CORTEX_SUV)
    assert np.std(means) == pytest.approx(BETWEEN_SUBJECTS, rel=0.15)
    regional = make_fdg(labels, UptakeOptions(between_subjects=0, fwhm_mm=0, noise=0), seed=1)
    spread = (regional.array[grey] / CORTEX_SUV).std()
    assert 0.02 < spread < 0.2


def test_a_pet_is_as_noisy_in_a_cubic_centimetre_whatever_the_voxels() -> None:
    noisy = UptakeOptions(between_subjects=0, regional=0, fwhm_mm=10.0)
    found = []
    for size, mm in ((40, 1.0), (20, 2.0)):
        labels = label_map(np.full((size,) * 3, 3, np.int16), (mm,) * 3)
        values = make_fdg(labels, noisy, seed=5).array
        inner = slice(size // 4, -size // 4)
        found.append(values[inner, inner, inner].std())
    assert found[0] == pytest.approx(found[1], rel=0.5)


def test_a_pet_does_not_depend_on_the_order_of_the_axes() -> None:
    labels = label_map(ball_head())
    turned = labels.with_image(sitk.PermuteAxes(labels.image, [2, 0, 1]))
    made, again = make_fdg(labels, seed=4), make_fdg(turned, seed=4)
    back = sitk.PermuteAxes(again.image, [1, 2, 0])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), made.array)


def test_an_uptake_that_cannot_be_is_refused() -> None:
    labels = label_map(ball_head())
    with pytest.raises(InputError, match="seed"):
        make_fdg(labels, seed=-1)
    with pytest.raises(InputError, match="negative"):
        UptakeOptions(noise=-0.1)
    with pytest.raises(InputError, match="width"):
        UptakeOptions(regional_mm=0)
    with pytest.raises(InputError, match="label map"):
        make_fdg(make_pair(labels, seed=1).mr, seed=1)

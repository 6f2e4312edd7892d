"""Where training examples come from: varied heads, random scans, and folders of pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.nn import functional

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import write_volume
from SynthCTLib.imaging.grids import resample
from SynthCTLib.phantom.fields import stream
from SynthCTLib.phantom.options import Contrast
from SynthCTLib.phantom.render import compose, tissues_of
from SynthCTLib.phantom.scan import RandomScan, ScanOptions, texture_bank
from SynthCTLib.phantom.signal import inversion_recovery, signal_table, spin_echo, spoiled_echo
from SynthCTLib.phantom.tissues import Tissue
from SynthCTLib.phantom.variation import CORTICAL, STILL, vary
from SynthCTLib.progress import Progress
from SynthCTLib.registration.quality import Kind
from SynthCTLib.synthesis.preparation import Preparation
from SynthCTLib.training.heads import HeadSettings, HeadSource
from SynthCTLib.training.pair_variation import PairVariation
from SynthCTLib.training.pairs import (
    PairSettings,
    PairSource,
    centres_of,
    find_subjects,
    followed,
    item_of,
    prepared_pair,
    split_of,
)
from SynthCTLib.volume import Role, Unit, Volume

PLAIN = ScanOptions(
    contrasts={Contrast.T1: 1.0},
    jitter=0,
    noise=0,
    bias=0,
    blur_mm=(0.0, 0.0),
    thick_slices=0,
    ghosting=0,
    dental_void=0,
    cut_below=0,
    cut_above=0,
    cut_beside=0,
    level=0,
)
SIDE = 64


def ball_head(side: int = SIDE) -> np.ndarray:
    """A ball of skin, muscle, skull, fluid and white matter, with an airway below it."""
    z, y, x = np.ogrid[:side, :side, :side]
    c = (side - 1) / 2
    r = np.sqrt((z - c) ** 2 + (y - c) ** 2 + (x - c) ** 2)
    labels = np.zeros((side,) * 3, np.int16)
    for radius, label in ((27, 511), (25, 507), (23, CORTICAL), (17, 24), (15, 2)):
        labels[r < radius] = label
    labels[:12, 30:34, 30:34] = 0
    return labels


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    for name, side in (("ball_a", 64), ("ball_b", 60)):
        image = sitk.GetImageFromArray(np.pad(ball_head(), (64 - side) // 2)[:64, :64, :64])
        sitk.WriteImage(image, folder / f"{name}.nii.gz")
    return folder


def head_source(label_maps: Path, folder: Path, **changes: object) -> HeadSource:
    settings = HeadSettings(
        anatomies=("ball_a", "ball_b"),
        held_back=("ball_a",),
        canvas=(64, 64, 64),
        patch=32,
        first_heads=2,
        steps_per_head=2,
        heads_in_use=3,
    )
    return HeadSource(replace(settings, **changes), label_maps, folder, 5, "cpu")  # type: ignore[arg-type]


# Contrast


def test_sequences_by_their_closed_forms() -> None:
    def number(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)

    t1, t2, m = number(1000.0), number(100.0), number(0.8)
    # A flip of 90 degrees and a long TR leave the proton density, decayed by TE.
    full = spoiled_echo(t1, t2, m, number(1e6), number(100.0), number(90.0))
    assert float(full) == pytest.approx(0.8 * np.exp(-1))
    # At Ernst's angle, arccos(exp(-TR/T1)), the signal is largest.
    angles = torch.linspace(1, 89, 881, dtype=torch.float64)
    signal = spoiled_echo(t1, t2, m, number(50.0), number(0.0), angles)
    ernst = np.degrees(np.arccos(np.exp(-0.05)))
    assert float(angles[signal.argmax()]) == pytest.approx(ernst, abs=0.1)
    assert float(spin_echo(t1, t2, m, number(1000.0), number(0.0))) == pytest.approx(
        0.8 * (1 - np.exp(-1))
    )
    # Nulled at TI = T1 ln 2 for a long TR.
    null = inversion_recovery(t1, t2, m, number(1e6), number(0.0), number(1000 * np.log(2)))
    assert float(null) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("contrast", "order"),
    [
        (Contrast.T1, [Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.CSF]),
        (Contrast.MPRAGE, [Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.CSF]),
        (Contrast.T2, [Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER]),
        (Contrast.FLAIR, [Tissue.GREY_MATTER, Tissue.WHITE_MATTER, Tissue.CSF]),
        (Contrast.INVERTED, [Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER]),
    ],
)
def test_tissues_have_the_order_that_the_contrast_is_known_by(
    contrast: Contrast, order: list[Tissue]
) -> None:
    table = signal_table(contrast, (64,), stream(1, 0))
    means = table.means.mean(0) if table.means.dim() > 1 else table.means
    values = [float(means[t]) for t in order]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("contrast", [c for c in Contrast if c != Contrast.RANDOM])
def test_cortical_bone_and_air_are_dark_in_every_contrast_but_the_random(
    contrast: Contrast,
) -> None:
    means = signal_table(contrast, (8,), stream(2, 0)).means.reshape(-1, len(Tissue))
    if contrast not in (Contrast.T1, Contrast.INVERTED):
        assert means.shape[0] == 8
    assert float(means[:, Tissue.AIR].max()) == 0
    assert float(means[:, Tissue.CORTICAL_BONE].max()) < 0.15 * float(means.max())
    random = signal_table(Contrast.RANDOM, (64,), stream(2, 0)).means
    assert float(random[:, Tissue.CORTICAL_BONE].max()) > 0.5


# Varied heads


def test_a_head_not_varied_stays_or_is_mirrored() -> None:
    labels = torch.from_numpy(ball_head())
    labels[20:30, 20:30, 40:50] = 17  # something on one side
    known = torch.ones_like(labels, dtype=torch.bool)
    seen = set()
    for seed in range(8):
        varied, where = vary(labels, known, (SIDE,) * 3, STILL, stream(seed, 0))
        mirrored = torch.equal(varied, labels.flip(2))
        assert mirrored or torch.equal(varied, labels)
        assert bool(where.all())
        seen.add(mirrored)
    assert seen == {True, False}


def test_a_larger_head_has_more_of_everything_and_a_turned_one_as_much() -> None:
    labels = torch.from_numpy(ball_head())
    known = torch.ones_like(labels, dtype=torch.bool)
    grown, _ = vary(labels, known, (SIDE,) * 3, replace(STILL, scale=(1.1, 1.1)), stream(1, 0))
    ratio = int((grown > 0).sum()) / int((labels > 0).sum())
    assert ratio == pytest.approx(1.1**3, rel=0.02)
    turned, _ = vary(labels, known, (SIDE,) * 3, replace(STILL, rotation_degrees=20), stream(1, 0))
    assert not torch.equal(turned, labels)
    assert int((turned > 0).sum()) == pytest.approx(int((labels > 0).sum()), rel=0.02)


@pytest.mark.parametrize(("change", "grows"), [({"thin": 1.0}, False), ({"thick": 1.0}, True)])
def test_skulls_are_thinned_and_thickened(change: dict[str, float], grows: bool) -> None:
    labels = torch.from_numpy(ball_head())
    known = torch.ones_like(labels, dtype=torch.bool)
    varied, _ = vary(labels, known, (SIDE,) * 3, replace(STILL, **change), stream(3, 0))
    before, after = int((labels == CORTICAL).sum()), int((varied == CORTICAL).sum())
    assert (after > 1.02 * before) if grows else (after < 0.98 * before)
    assert torch.equal(varied > 0, (labels > 0) | (labels.flip(2) > 0))  # the outline stays


def test_a_craniotomy_is_a_hole_in_bone_filled_with_tissue() -> None:
    labels = torch.from_numpy(ball_head())
    known = torch.ones_like(labels, dtype=torch.bool)
    varied, _ = vary(labels, known, (SIDE,) * 3, replace(STILL, craniotomy=1.0), stream(3, 0))
    removed = (labels.flip(2) == CORTICAL) & (varied != CORTICAL)
    if not removed.any():
        removed = (labels == CORTICAL) & (varied != CORTICAL)
    assert 200 < int(removed.sum()) < int((labels == CORTICAL).sum())
    assert set(varied[removed].unique().tolist()) <= {24, 507}


def test_below_the_cut_nothing_is_known() -> None:
    labels = torch.from_numpy(ball_head())
    known = torch.ones_like(labels, dtype=torch.bool)
    known[:8] = False
    _, where = vary(labels, known, (96, SIDE, SIDE), STILL, stream(1, 0))
    assert not bool(where[: 16 + 8].any())  # the block is centred; below it its lowest goes on
    assert bool(where[16 + 8 :].all())


# Random scans


def composed() -> torch.Tensor:
    return compose(tissues_of(torch.from_numpy(ball_head())), (1.0, 1.0, 1.0), stream(1, 1))


def test_a_plain_scan_is_the_signal_of_the_tissues() -> None:
    tissues = composed()
    known = torch.ones_like(tissues, dtype=torch.bool)
    scan = RandomScan(tissues, known, PLAIN, stream(2, 2))
    textures = torch.zeros((1, 96, 96, 96))
    patch = scan.patch((16, 16, 16), 32, textures)
    inner = tissues[16:48, 16:48, 16:48].long()
    expected = (scan.means[inner] / scan.level).clamp(0, 1.5)
    assert torch.allclose(patch[0], expected, atol=1e-6)
    assert bool((patch[1] == 1).all())
    bright = scan.signal[tissues > 0].quantile(0.995)
    assert scan.level == pytest.approx(float(bright), rel=0.1)


def test_the_overview_is_the_pooled_scan() -> None:
    """Mean, share scanned, and the least and largest of cubes of 2 mm, as the network pools."""
    from SynthCTLib.networks import build_network

    tissues = composed()
    known = torch.ones_like(tissues, dtype=torch.bool)
    known[:10] = False
    scan = RandomScan(tissues, known, PLAIN, stream(2, 2))
    whole = scan.whole(torch.zeros((1, 96, 96, 96)))
    pooled = build_network("two_view_unet", {}).pool(whole[None])[0]
    overview = scan.overview()
    assert overview.shape == pooled.shape == (4, 16, 16, 16)
    assert torch.allclose(overview, pooled, atol=2e-2)
    assert not torch.allclose(overview, pooled.flip(1), atol=0.2)


def test_outside_the_field_of_view_a_scan_is_empty_and_says_so() -> None:
    tissues = composed()
    known = torch.ones_like(tissues, dtype=torch.bool)
    cut = replace(PLAIN, cut_below=1.0, cut_beside=1.0, noise=0.05)
    scan = RandomScan(tissues, known, cut, stream(9, 2))
    whole = scan.whole(torch.zeros((1, 96, 96, 96)))
    assert 0 < float(whole[1].mean()) < 1
    assert float(whole[0][whole[1] == 0].abs().max()) == 0
    assert torch.equal(whole[1] > 0, scan.scanned)


def test_noise_and_texture_have_their_strength() -> None:
    tissues = torch.full((64, 64, 64), int(Tissue.WHITE_MATTER), dtype=torch.uint8)
    known = torch.ones_like(tissues, dtype=torch.bool)
    textures = texture_bank(2, 96, stream(1, 1))
    assert float(textures.var()) == pytest.approx(1, rel=0.1)
    scan = RandomScan(tissues, known, PLAIN, stream(2, 2))
    values = scan.patch((16, 16, 16), 32, textures)[0]
    assert float(values.std()) == pytest.approx(float(scan.spreads[Tissue.WHITE_MATTER]), rel=0.3)
    noisy = RandomScan(tissues, known, replace(PLAIN, noise=0.05), stream(2, 2))
    quiet = noisy.patch((16, 16, 16), 32, torch.zeros_like(textures))[0]
    assert float(quiet.std()) == pytest.approx(noisy.sigma / noisy.level, rel=0.1)


# The source of heads


def test_a_batch_depends_on_its_step_alone(label_maps: Path, tmp_path: Path) -> None:
    one = head_source(label_maps, tmp_path / "one")
    for step in range(4):
        one.batch(step)
    late = one.batch(4)
    fresh = head_source(label_maps, tmp_path / "two").batch(4)
    again = head_source(label_maps, tmp_path / "one").batch(4)  # heads from disk
    for other in (fresh, again):
        assert torch.equal(late.images, other.images)
        assert torch.equal(late.targets, other.targets)
    assert not torch.equal(late.images, one.batch(5).images)
    assert not torch.equal(late.images, one.batch(4, rank=1).images)


def test_heads_no_longer_drawn_from_are_forgotten_and_made_again_the_same(
    label_maps: Path, tmp_path: Path
) -> None:
    source = head_source(label_maps, tmp_path)
    first = source.batch(0)
    for step in range(1, 17):
        source.batch(step)
    kept = sorted(p.name for p in tmp_path.glob("head-*.npz"))
    assert 1 <= len(kept) <= source.settings.heads_in_use + 1
    assert "head-5-000000.npz" not in kept
    again = head_source(label_maps, tmp_path).batch(0)
    assert torch.equal(again.images, first.images)


def test_patches_and_overviews_show_the_same_place(label_maps: Path, tmp_path: Path) -> None:
    source = head_source(label_maps, tmp_path, scan=PLAIN)
    for step in range(3):
        batch = source.batch(step)
        assert batch.overviews is not None
        placed = zip(batch.overviews.volume, batch.overviews.corners, strict=True)
        for index, (volume, corner) in enumerate(placed):
            here = (0, *(slice(c // 4, c // 4 + 8) for c in corner))
            coarse = batch.overviews.targets[volume][0][here]
            fine = functional.avg_pool3d(batch.targets[index], 4)[0]
            assert torch.allclose(coarse, fine, atol=1e-2)
            seen = batch.overviews.images[volume][0][here]
            pooled = functional.avg_pool3d(batch.images[index], 4)[0]
            # The patch has the texture of its tissues, which the overview leaves out.
            assert (
                float(torch.corrcoef(torch.stack([seen.flatten(), pooled.flatten()]))[0, 1]) > 0.9
            )
        assert all(c % 8 == 0 for corner in batch.overviews.corners for c in corner)
        assert all(n % 4 == 0 for image in batch.overviews.images for n in image.shape[2:])


def test_a_held_back_anatomy_is_a_case_as_it_is(label_maps: Path, tmp_path: Path) -> None:
    (case,) = head_source(label_maps, tmp_path).cases()
    assert case.image.shape[1:] == case.target.shape == case.weight.shape
    assert float(case.target.max()) > 700
    assert float(case.weight.sum()) > 50_000


def test_wrong_settings_of_heads_are_refused(label_maps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiples"):
        HeadSettings(anatomies=("a",), canvas=(60, 64, 64))
    with pytest.raises(InputError, match="no label map"):
        head_source(label_maps, tmp_path, anatomies=("absent",))


# The source of pairs


def write_pair(folder: Path, seed: int, mask: bool = False) -> None:
    """A body whose CT is a function of its MR in every voxel, oblique and anisotropic."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    labels = ball_head(48 + 16)[8:56, 8:56, 8:56]
    values = np.where(labels > 0, 200 + 600 * rng.random(labels.shape), 0)
    values[20 + seed : 24 + seed, 10:30, 10:20] = 950
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((4.0, 4.0, 4.0))
    image.SetOrigin((-90.0, -100.0, 30.0))
    mr = Volume(image, Role.MR, Unit.ARBITRARY)
    hu = np.where(values > 0, values - 500, -1000).astype(np.float32)
    write_volume(mr, folder / "mr.nii.gz")
    write_volume(mr.with_array(hu, role=Role.CT, unit=Unit.HU), folder / "ct.nii.gz")
    if mask:
        write_volume(mr.mask(values > 0), folder / "mask.nii.gz")


PAIRS = PairSettings(
    spacing_mm=4.0,
    patch=(16, 16, 16),
    batch=2,
    anatomy="body",
    register="none",
    remove_table=False,
    mirror=("x",),
    folds=3,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(3):
        write_pair(folder / f"sub-{number}", number, mask=number == 0)
    return folder


def pair_source(pairs: Path, cache: Path) -> PairSource:
    subjects = find_subjects(pairs)
    split = split_of(tuple(s.name for s in subjects), 3, 1, 0)
    preparation = Preparation(method="robust", percentiles=(0.0, 100.0), scanned_channel=True)
    return PairSource(PAIRS, subjects, split, preparation, cache, 1, "cpu", Progress())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_patches_of_pairs_belong_together(pairs: Path, tmp_path: Path) -> None:
    """The CT is a function of the MR: so it must be in every patch, mirrored or not."""
    source = pair_source(pairs, tmp_path)
    for step in range(4):
        batch = source.batch(step)
        assert batch.images.shape == (2, 2, 16, 16, 16)
        for image, hu, weight in zip(batch.images, batch.targets, batch.weights, strict=True):
            inside = (hu > -900) & (weight > 0)
            assert int(inside.sum()) > 200
            x, y = image[:1][inside].numpy(), hu[inside].numpy()
            assert np.abs(np.polyval(np.polyfit(x, y, 1), x) - y).max() < 5
    assert source.epoch_steps == 1
    again = pair_source(pairs, tmp_path)
    assert torch.equal(again.batch(3).images, source.batch(3).images)
    assert not torch.equal(source.batch(2).images, source.batch(3).images)
    (case,) = source.cases()
    assert case.name == source.split.validation[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_pairs_that_do_not_fit_in_memory_give_the_same_patches_from_the_disk(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = pair_source(pairs, tmp_path)
    first = held.batch(3)
    for file in (tmp_path / "pairs").iterdir():
        file.rename(file.with_suffix(".away"))  # what is held needs no file
    assert torch.equal(held.batch(3).images, first.images)
    for file in (tmp_path / "pairs").iterdir():
        file.rename(file.with_suffix(".pt"))
    monkeypatch.setattr("SynthCTLib.training.pairs.HELD_BYTES", 0)
    read = pair_source(pairs, tmp_path)
    assert torch.equal(read.batch(3).images, first.images)
    assert torch.equal(read.batch(3).targets, first.targets)
    assert not read._held
    # A record of where each voxel came from would slow every step down, and nothing reads it.
    assert type(first.images) is torch.Tensor


def two_view_source(pairs: Path, cache: Path, **changes: object) -> PairSource:
    subjects = find_subjects(pairs)
    split = split_of(tuple(s.name for s in subjects), 3, 1, 0)
    preparation = Preparation(method="robust", percentiles=(0.0, 100.0), scanned_channel=True)
    settings = replace(PAIRS, **changes)  # type: ignore[arg-type]
    return PairSource(
        settings, subjects, split, preparation, cache, 1, "cpu", Progress(), overviews=True
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_wide_view_of_pairs_is_the_pooled_whole_round_each_patch(
    pairs: Path, tmp_path: Path
) -> None:
    source = two_view_source(pairs, tmp_path, bone_share=0.5, air_weight=0.25)
    batch = source.batch(0)
    looks = batch.overviews
    assert looks is not None
    assert looks.volume == (0, 1)
    for index, (z, y, x) in enumerate(looks.corners):
        assert z % 8 == y % 8 == x % 8 == 0
        place = tuple(slice(c // 4, c // 4 + 4) for c in (z, y, x))
        hu = torch.nn.functional.avg_pool3d(batch.targets[index : index + 1], 4)
        assert torch.allclose(looks.targets[index][(..., *place)], hu, atol=1e-2)
        image = torch.nn.functional.avg_pool3d(batch.images[index : index + 1], 4)
        assert torch.allclose(looks.images[index][(0, slice(0, 2), *place)], image[0], atol=1e-3)
        assert all(n % 4 == 0 for n in looks.images[index].shape[2:])
    air = batch.targets < -900
    assert set(batch.weights[air].unique().tolist()) <= {0.0, 0.25}
    assert set(batch.weights[~air].unique().tolist()) <= {0.0, 1.0}
    (case,) = source.cases()
    assert case.image.shape[1:] == case.target.shape == (48, 48, 48)
    with pytest.raises(InputError, match="multiples of 8"):
        two_view_source(pairs, tmp_path, patch=(12, 16, 16))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_varied_pairs_follow_from_the_step(pairs: Path, tmp_path: Path) -> None:
    changes = {"variation": PairVariation(("x",), 10, 0.1, 0.1, 0.1, 0.01)}
    first, second = (two_view_source(pairs, tmp_path, **changes) for _ in range(2))
    plain = two_view_source(pairs, tmp_path)
    assert torch.equal(first.batch(5).images, second.batch(5).images)
    assert not torch.equal(first.batch(5).images, plain.batch(5).images)


def test_centres_of_patches_lie_on_bone_as_often_as_asked() -> None:
    hu = torch.full((1, 4, 4, 4), -1000.0)
    hu[:, 1:] = 0
    hu[:, 3] = 500
    weight = torch.ones_like(hu)
    weight[:, :, 0] = 0
    centres = centres_of(hu, weight, 0.7)
    bone = centres[hu >= 300].sum()
    assert float(bone / centres.sum()) == pytest.approx(0.7 + 0.3 / 3, rel=1e-4)
    assert float(centres[hu < -300].sum()) == 0
    assert float(centres[:, :, 0].sum()) == 0


def test_a_bent_limb_is_followed() -> None:
    """Bone, marrow, muscle and fat; the CT is bent by 12 mm. Most of it is no rigid movement."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in (32, 64, 64)), indexing="ij")

    def limb(shift: np.ndarray) -> np.ndarray:
        r = np.hypot(y - 32, x - 32 - shift)
        return np.select([r < 3, r < 7, r < 17, r < 22], [4, 3, 2, 1], 0)

    straight, bent = limb(np.zeros(z.shape)), limb(6 * np.sin(z / 31 * np.pi))
    image = sitk.GetImageFromArray(np.float32([0, 800, 300, 50, 750])[straight])
    image.SetSpacing((2.0, 2.0, 4.0))
    mr = Volume(image, Role.MR, Unit.ARBITRARY)
    hu = np.float32([-1000, -100, 50, 1200, 100])[bent]
    ct = mr.with_array(hu, role=Role.CT, unit=Unit.HU)
    found, fallback = followed(mr, ct)
    assert found.kind == Kind.DEFORMABLE
    assert fallback == ""
    inner = (slice(4, 28), slice(8, 56), slice(8, 56))
    bone = straight[inner] == 3
    moved = resample(ct, mr.grid, transform=found.transform).array[inner] > 450
    assert 2 * (moved & bone).sum() / (moved.sum() + bone.sum()) > 0.95  # rigid alone: 0.85


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_where_a_padded_mr_is_empty_the_tissue_of_the_ct_does_not_count(tmp_path: Path) -> None:
    write_pair(tmp_path / "sub-0", 0)
    image = sitk.ReadImage(str(tmp_path / "sub-0/mr.nii.gz"))
    values = sitk.GetArrayFromImage(image)
    values[:, :, 30:] = 0  # the slab was not scanned
    values[24, 24, 20] = 0  # a dark voxel
    padded = sitk.GetImageFromArray(values)
    padded.CopyInformation(image)
    sitk.WriteImage(padded, str(tmp_path / "sub-0/mr.nii.gz"))
    (subject,) = find_subjects(tmp_path)
    kept, counted = (
        prepared_pair(item_of(subject, replace(PAIRS, padded_mr=padded_mr), Preparation()))
        for padded_mr in (False, True)
    )
    assert bool(kept["weight"].all())
    weight, hu = counted["weight"][0].numpy(), counted["hu"][0].numpy()
    assert not weight[:, :, 30:][hu[:, :, 30:] > -300].any()
    assert weight[hu < -900].all()  # air there is no contradiction
    assert weight[:, :, :30].all()
    assert not (counted["centres"][0].numpy()[~weight]).any()


def test_folds_part_the_subjects() -> None:
    names = tuple(f"s{n}" for n in range(11))
    splits = [split_of(names, 5, fold, 3) for fold in range(1, 6)]
    tested = [name for split in splits for name in split.test]
    assert sorted(tested) == sorted(names)
    for split in splits:
        assert set(split.train) | set(split.test) == set(names)
        assert not set(split.train) & set(split.test)
        assert set(split.validation) <= set(split.test)
    with pytest.raises(InputError, match="no fold 6"):
        split_of(names, 5, 6, 3)
    with pytest.raises(InputError, match="folds"):
        split_of(names[:3], 5, 1, 3)


def test_layouts_of_folders_and_what_lacks_in_them(pairs: Path, tmp_path: Path) -> None:
    assert [s.name for s in find_subjects(pairs)] == ["sub-0", "sub-1", "sub-2"]
    assert find_subjects(pairs)[0].mask is not None

    # Data sets are often folders of links: these count as well, and a circle of them ends.
    linked = tmp_path / "linked"
    linked.mkdir()
    for subject in ("sub-0", "sub-2"):
        (linked / subject).symlink_to(pairs / subject, target_is_directory=True)
    (linked / "again").symlink_to(linked, target_is_directory=True)
    assert [s.name for s in find_subjects(linked)] == ["sub-0", "sub-2"]
    synthrad = tmp_path / "synthrad"
    write_pair(synthrad / "brain/1BA001", 1)
    assert [s.name for s in find_subjects(synthrad)] == ["brain-1BA001"]
    (synthrad / "brain/1BA002").mkdir()
    (synthrad / "brain/1BA002/mr.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="1BA002"):
        find_subjects(synthrad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pairs"):
        find_subjects(tmp_path / "empty")
    with pytest.raises(InputError, match="no folder"):
        find_subjects(tmp_path / "absent")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_pair_that_cannot_be_used_is_named(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number in range(3):
        write_pair(folder / f"sub-{number}", number)
    flat = sitk.Image((40, 40, 40), sitk.sitkFloat32) + 7
    write_volume(Volume(flat, Role.MR, Unit.ARBITRARY), folder / "sub-1/mr.nii.gz")
    subjects = find_subjects(folder)
    split = replace(split_of(("sub-0", "sub-1", "sub-2"), 3, 1, 0), train=("sub-0", "sub-1"))
    with pytest.raises(InputError, match="sub-1"):
        PairSource(PAIRS, subjects, split, Preparation(), tmp_path / "c", 1, "cpu", Progress())

"""Examples from a folder of real pairs: each subject's MR and CT, cut into random patches.

    data/subject/mr.nii.gz, ct.nii.gz [, mask.nii.gz]

and the same a folder deeper, as the SynthRAD challenges lay out theirs (``data/brain/1BA001/``).
Pairs are prepared once and kept by MONAI's persistent cache, and in memory as far as they fit;
patches are cut and mirrored by its random transforms, whose seed is the step. A network of two
views sees the whole pair as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.data import PersistentDataset
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms import Compose, RandFlipd, RandWeightedCropd, SpatialPadd, Transform
from pydantic import Field
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import Interpolator, isotropic_grid, resample, scanned_field, to_lps
from SynthCTLib.imaging.masks import body_contour, head_mask
from SynthCTLib.imaging.table import remove_table
from SynthCTLib.networks.two_view_unet import CONTEXT_POOLING, pooled
from SynthCTLib.progress import Progress
from SynthCTLib.registration import (
    ROUGH_MM,
    ROUGH_SAMPLES,
    Registration,
    RigidOptions,
    follow_bending,
    register_rigid,
)
from SynthCTLib.synthesis.atlas_prior import AtlasPrior, weights_of
from SynthCTLib.synthesis.patchwise import check_space
from SynthCTLib.synthesis.preparation import Preparation, prepare
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.synthesis.template import brain_on, onto_template, template_grid
from SynthCTLib.synthesis.window import SIDE_MULTIPLE, START_MULTIPLE
from SynthCTLib.training.examples import Batch, Case, Corner, Overviews, Residue
from SynthCTLib.training.pair_variation import PairVariation, varied
from SynthCTLib.volume import AIR_HU, Grid, Role, Volume, sha256_of

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
Count = Annotated[int, Field(ge=1)]
HELD_BYTES = 2 << 30  # of prepared pairs in memory; the others are read again for every patch
HELD_SHARE = 0.25  # instead, of what is free on a GPU

# A limb lies in the second scanner much as in the first; what bends is followed afterwards.
RIGID = RigidOptions(
    spacings_mm=ROUGH_MM, final_samples=ROUGH_SAMPLES, search_degrees=15.0, search_mm=25.0
)
BONE_HU = 300.0
TISSUE_HU = -300.0
NEARLY_AIR_HU = -900.0
KEYS = ("image", "hu", "weight")
RESIDUE_KEYS = ("gain", "base")  # see ``examples.Residue``
LEAST_SIDE = 48  # of a volume that a network of two views is shown


@dataclass(frozen=True)
class PairSettings:
    """How pairs become patches.

    ``spacing_mm``: cubic voxels; ``space``: the MR's ``own``, or ``mni``, heads brought affinely
    onto Colin 27 (Paper 2); ``patch`` (z, y, x) in voxels; ``batch`` patches a step.
    ``register``: ``rigid`` brings each CT onto its MR, ``deformable`` then follows what bent in
    between, for limbs; ``none`` takes them as they lie.
    ``bone_share`` of the patches are centred on bone, the rest anywhere in the body. ``mirror``:
    axes (x, y, z) along which patches are mirrored, half of them. ``variation``: how whole pairs
    are varied before. ``folds``: parts of the subjects, each of which is the test part of one fold.
    ``padded_mr``: the MR holds exact zeros where it was not scanned; tissue of the CT there does
    not count. ``air_weight``: of voxels below -900 HU in the loss. ``masked_loss``: only the body
    counts.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    spacing_mm: Annotated[float, Field(gt=0)] = 1.0
    patch: tuple[Count, Count, Count] = (96, 96, 96)
    batch: Count = 2
    anatomy: Literal["head", "body"] = "head"
    register: Literal["rigid", "deformable", "none"] = "rigid"
    remove_table: bool = True
    ct_range_hu: tuple[float, float] = (-1000.0, 2400.0)
    bone_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    mirror: tuple[Literal["x", "y", "z"], ...] = ()
    folds: Annotated[int, Field(ge=2)] = 5
    masked_loss: bool = False
    air_weight: Annotated[float, Field(gt=0)] = 1.0
    space: Literal["own", "mni"] = "own"
    padded_mr: bool = False
    variation: PairVariation = field(default_factory=PairVariation)


@dataclass(frozen=True)
class Subject:
    """The files of a subject."""

    name: str
    mr: Path
    ct: Path
    mask: Path | None


@dataclass(frozen=True)
class Split:
    """Names of the subjects of each part; the validation subject is one of the test part's.

    So it is in Paper 1, section 3.3.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def find_subjects(folder: Path) -> tuple[Subject, ...]:
    """All subjects below a folder, by name. Raises InputError naming those that lack an image."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the folder of the pairs with --data.")
    found, incomplete = {}, []
    places = sorted({p.parent for p in _files_below(folder) if _stem(p) in ("mr", "ct")})
    for place in places:
        images = {_stem(p): p for p in sorted(place.iterdir()) if _stem(p) in ("mr", "ct", "mask")}
        if "mr" in images and "ct" in images:
            name = place.relative_to(folder).as_posix().replace("/", "-")
            found[name] = Subject(name, images["mr"], images["ct"], images.get("mask"))
        else:
            incomplete.append(place.name)
    if incomplete:
        raise InputError(
            f"{_listed(incomplete)} in {folder} lack an mr or a ct image: "
            "add it, or move these folders away."
        )
    if not found:
        raise InputError(
            f"There are no pairs in {folder}: give a folder with one folder for each subject that "
            "holds mr.nii.gz and ct.nii.gz."
        )
    return tuple(found[name] for name in sorted(found))


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, linked folders too; one that leads back to itself is passed by."""
    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        seen.add(Path(place).resolve())
        inner[:] = [n for n in inner if (Path(place) / n).resolve() not in seen]
        yield from (Path(place) / name for name in names)


def split_of(names: tuple[str, ...], folds: int, fold: int, seed: int) -> Split:
    """The parts of a fold (from 1). Raises InputError when there are fewer subjects than folds."""
    if len(names) < folds:
        raise InputError(
            f"There are {len(names)} subjects and {folds} folds: add subjects, or set fewer folds "
            "in the recipe."
        )
    if not 1 <= fold <= folds:
        raise InputError(f"There is no fold {fold} of {folds}: give a number from 1 to {folds}.")
    order = np.random.default_rng(seed).permutation(len(names))
    test = tuple(names[i] for i in order[fold - 1 :: folds])
    return Split(tuple(n for n in sorted(names) if n not in test), test[:1], test)


class PairSource:
    """See the module. ``folder`` keeps prepared pairs."""

    def __init__(
        self,
        settings: PairSettings,
        subjects: tuple[Subject, ...],
        split: Split,
        preparation: Preparation,
        folder: Path,
        seed: int,
        device: str,
        progress: Progress,
        *,
        overviews: bool = False,
        prior: AtlasPrior | None = None,
    ) -> None:
        self.settings, self.split, self.seed, self.device = settings, split, seed, device
        self.overviews = overviews
        self._keys = (*KEYS, *RESIDUE_KEYS) if prior is not None else KEYS
        by = settings.variation
        try:
            check_space(settings.space, preparation)
        except ValueError as error:
            raise InputError(f"The recipe cannot work: {error}.") from error
        if prior is not None and (by.mirror or by.changes_shape or by.changes_contrast):
            raise InputError(
                "Pairs with an atlas prior are not varied: leave out variation, and mirror patches "
                "with mirror."
            )
        if overviews and any(side % START_MULTIPLE for side in settings.patch):
            raise InputError(
                f"A patch of {settings.patch} voxels does not fit a network of two views: give "
                f"multiples of {START_MULTIPLE}."
            )
        progress.stage("Preparing the pairs", 1.0)
        items = {s.name: item_of(s, settings, preparation, prior) for s in subjects}
        self._cases = PersistentDataset(
            [items[n] for n in split.validation], PreparedPair(folder), folder / "pairs"
        )
        self._pairs = PersistentDataset(
            [items[n] for n in split.train], PreparedPair(folder), folder / "pairs"
        )
        whole = len(self._pairs) + len(self._cases)
        for index in range(len(self._pairs)):  # fills the cache; raises before any training
            self._prepare(index)
            fallback = self._pairs[index].get("fallback", "")
            if fallback:
                progress.note(f"Subject {split.train[index]}: {fallback}")
            progress.update((index + 1) / whole, split.train[index])
        self._random = self._patches()
        self._held: dict[int, dict[str, Tensor]] = {}
        self._room = _room_on(device)

    def _pair(self, index: int) -> dict[str, Tensor]:
        """A prepared pair of the training part on the device, from memory or from the disk."""
        if index in self._held:
            return self._held[index]
        kept = self._pairs[index]
        pair = {key: torch.as_tensor(kept[key]).to(self.device) for key in (*self._keys, "centres")}
        size = sum(value.nbytes for value in pair.values())
        if size <= self._room:
            self._held[index] = pair
            self._room -= size
        return pair

    def _prepare(self, index: int) -> None:
        """Fill the cache; MONAI wraps what a transform raises."""
        try:
            self._pairs[index]
        except RuntimeError as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            raise

    @property
    def epoch_steps(self) -> int:
        """Steps in which each subject gives one patch (Paper 1's epoch)."""
        return max(1, -(-len(self._pairs) // self.settings.batch))

    def batch(self, step: int, rank: int = 0) -> Batch:
        """One patch of each of a few subjects; every subject once before any comes again."""
        count = self.settings.batch
        drawn, seen, corners = [], [], []
        for number in range(step * count, (step + 1) * count):
            epoch, place = divmod(number, len(self._pairs))
            order = np.random.default_rng((self.seed, rank, epoch)).permutation(len(self._pairs))
            draw = (self.seed * 1_000_003 + number * 64 + rank) % 2**32
            pair = self._varied(self._pair(int(order[place])), draw)
            if self.overviews:
                whole = whole_volume(pair, self.settings.patch)
                corner = self._corner(whole, np.random.default_rng(draw))
                drawn.append(_block(whole, corner, self.settings.patch))
                seen.append(_overview(whole))
                corners.append(corner)
            else:
                self._random.set_random_state(seed=draw)
                with _plain_tensors():
                    drawn.append(self._random(dict(pair))[0])
        images, hu, weights, *residue = (
            torch.stack([torch.as_tensor(d[key]) for d in drawn]).float() for key in self._keys
        )
        weights = torch.where(hu > NEARLY_AIR_HU, weights, weights * self.settings.air_weight)
        lacking = Residue(*residue) if residue else None
        if not self.overviews:
            return Batch(images, hu, weights, residue=lacking)
        pooled_images, targets, known = zip(*seen, strict=True)
        looks = Overviews(pooled_images, targets, known, tuple(range(count)), tuple(corners))
        return Batch(images, hu, weights, looks, lacking)

    def cases(self) -> Iterator[Case]:
        """The validation subjects, whole."""
        for name, kept in zip(self.split.validation, self._cases, strict=True):
            pair = whole_volume(kept, self.settings.patch) if self.overviews else kept
            image, hu, weight, *residue = (
                torch.as_tensor(pair[key]).float().to(self.device) for key in self._keys
            )
            lacking = Residue(residue[0][0], residue[1][0]) if residue else None
            yield Case(name, image, hu[0], weight[0], lacking)

    def _varied(self, pair: dict[str, Tensor], draw: int) -> dict[str, Tensor]:
        by = self.settings.variation
        if not (by.mirror or by.changes_shape or by.changes_contrast):
            return pair
        image, hu, weight = (pair[k].float() for k in ("image", "hu", "weight"))
        generator = torch.Generator(self.device).manual_seed(draw)
        image, hu, weight = varied(image, hu, weight, by, generator)
        made = {"image": image, "hu": hu, "weight": weight}
        return {**made, "centres": centres_of(hu, weight, self.settings.bone_share)}

    def _corner(self, whole: Mapping[str, Tensor], rng: np.random.Generator) -> Corner:
        """A corner at a multiple of 8 voxels, for a patch about a voxel drawn from the centres."""
        cumulated = whole["centres"].flatten().double().cumsum(0)
        shape = tuple(whole["centres"].shape[1:])
        drawn = int(torch.searchsorted(cumulated, rng.uniform(0, float(cumulated[-1]))))
        centre = np.unravel_index(min(drawn, len(cumulated) - 1), shape)
        z, y, x = (
            min(
                max(START_MULTIPLE * round((int(c) - side / 2) / START_MULTIPLE), 0),
                (n - side) // START_MULTIPLE * START_MULTIPLE,
            )
            for c, side, n in zip(centre, self.settings.patch, shape, strict=True)
        )
        return z, y, x

    def _patches(self) -> Compose:
        keys, patch = self._keys, self.settings.patch
        axis = {"z": 0, "y": 1, "x": 2}
        return Compose(
            [
                SpatialPadd((*keys, "centres"), patch, mode="constant"),
                RandWeightedCropd(keys, "centres", patch, num_samples=1),
                *(RandFlipd(keys, prob=0.5, spatial_axis=axis[a]) for a in self.settings.mirror),
            ]
        )


def _room_on(device: str) -> int:
    """Bytes for prepared pairs in the memory of a device."""
    if torch.device(device).type != "cuda":
        return HELD_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(HELD_SHARE * free)


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """MONAI's transforms without their record of where a voxel came from, which nothing reads."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


def whole_volume(pair: Mapping[str, Any], patch: Corner) -> dict[str, Tensor]:
    """A pair on a canvas whose sides are multiples of 16 and a patch at least, float32.

    Not scanned beyond, as where the model is used.
    """
    made = {}
    for key in (k for k in (*KEYS, *RESIDUE_KEYS, "centres") if k in pair):
        outside = AIR_HU if key in ("hu", "base") else 0.0
        values = torch.as_tensor(pair[key]).float()
        padding: list[int] = []
        for n, side in zip(reversed(values.shape[1:]), reversed(patch), strict=True):
            least = max(n, side, LEAST_SIDE)
            more = -(-least // SIDE_MULTIPLE) * SIDE_MULTIPLE - n
            padding += [more // 2, more - more // 2]
        made[key] = functional.pad(values, padding, value=outside)
    return made


def _block(whole: Mapping[str, Tensor], corner: Corner, patch: Corner) -> dict[str, Tensor]:
    z, y, x = (slice(c, c + side) for c, side in zip(corner, patch, strict=True))
    return {key: values[:, z, y, x] for key, values in whole.items()}


def _overview(whole: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What a wide view sees of a pair, its HU and where they are known, (1, c, z, y, x)."""
    return (
        pooled(whole["image"][None]),
        functional.avg_pool3d(whole["hu"][None], CONTEXT_POOLING),
        functional.avg_pool3d(whole["weight"][None], CONTEXT_POOLING),
    )


def centres_of(hu: Tensor, weight: Tensor, bone_share: float) -> Tensor:
    """Where patches may be centred: a share of the weight on bone, the rest anywhere in tissue."""
    tissue = (weight > 0) & (hu > TISSUE_HU)
    if not bool(tissue.any()):
        tissue = weight > 0
    bone = tissue & (hu >= BONE_HU)
    shares = ((tissue, 1 - bone_share), (bone, bone_share))
    return torch.stack([m.float() * (1e6 * s / max(1, int(m.sum()))) for m, s in shares]).sum(0)


class PreparedPair(Transform):
    """:func:`prepared_pair` as MONAI's cache wants it: a transform, not random."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.cache_dir = cache_dir

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Prepare one subject."""
        return prepared_pair(item, self.cache_dir)


def prepared_pair(item: dict[str, Any], cache_dir: Path | None = None) -> dict[str, Any]:
    """One subject: channels of the MR, HU, weights, and where patches may be centred.

    All (channels, z, y, x) in LPS order with cubic voxels. The CT is brought onto the MR and is
    -1000 HU where it was not scanned; weights are 0 there. ``fallback`` says in words where the
    registration is another than was asked for. With a prior also gain and base; ``cache_dir`` keeps
    its atlases. Raises InputError naming the subject.
    """
    settings: PairSettings = item["settings"]
    try:
        mr = to_lps(read_volume(item["mr"], Role.MR)).volume
        ct = read_volume(item["ct"], Role.CT)
        if settings.remove_table:
            ct = remove_table(ct).volume
        transform, fallback = None, ""
        if settings.register == "rigid":
            transform = register_rigid(mr, ct, RigidOptions()).transform
        elif settings.register == "deformable":
            found, fallback = followed(mr, ct)
            transform = found.transform
        place = _place(mr, settings)
        grid = place.grid
        fine = resample(mr, grid, transform=place.to_mr)
        to_ct = transform
        if place.to_mr is not None and transform is not None:
            to_ct = sitk.CompositeTransform([transform, place.to_mr])
        elif place.to_mr is not None:
            to_ct = place.to_mr
        hu = resample(ct, grid, transform=to_ct, interpolator=Interpolator.BSPLINE)
        scanned = scanned_field(mr, grid, place.to_mr).array > 0
        both = scanned & (scanned_field(ct, grid, to_ct).array > 0)
        region = _region(mr, fine, place.to_mr, item, settings)
        channels = prepare(fine.array, scanned, region, item["preparation"], brain=place.brain)
        residue = _residue(mr, place, item["prior"], cache_dir) if "prior" in item else {}
    except InputError as error:
        raise InputError(f"Subject {item['name']}: {error}") from error
    values = np.clip(hu.array, *settings.ct_range_hu)
    if settings.padded_mr:
        both &= ~(padding_of(fine.array) & (values > TISSUE_HU))
    weight = both & region if settings.masked_loss else both
    body = region & both
    bone = body & (values >= BONE_HU)
    centres = _even(body) * (1 - settings.bone_share) + _even(bone) * settings.bone_share
    return {
        "image": torch.from_numpy(channels.astype(np.float16)),
        "hu": torch.from_numpy(np.round(values).astype(np.int16))[None],
        "weight": torch.from_numpy(weight)[None],
        "centres": torch.from_numpy(centres.astype(np.float32))[None],
        "fallback": fallback,
        **residue,
    }


def padding_of(mr: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where an MR holds nothing but zeros, in pieces five voxels wide and more.

    A dark voxel of bone may be 0, and air; no tissue is over a length.
    """
    beyond = np.pad(mr == 0, 2, mode="edge")  # what is empty at the edge goes on there
    empty: npt.NDArray[np.bool_] = ndimage.binary_opening(beyond, iterations=2)[2:-2, 2:-2, 2:-2]
    return empty


class _Place(NamedTuple):
    """Where a subject is prepared: a grid, the way from there to the MR, and its brain if known."""

    grid: Grid
    to_mr: sitk.Transform | None
    brain: npt.NDArray[np.bool_] | None


def _place(mr: Volume, settings: PairSettings) -> _Place:
    if settings.space == "own":
        return _Place(isotropic_grid(mr.grid, settings.spacing_mm), None, None)
    to_template = onto_template(mr, head_mask(mr), None, Progress())
    grid = template_grid(settings.spacing_mm)
    return _Place(grid, to_template.GetInverse(), brain_on(grid))


def _residue(
    mr: Volume, place: _Place, prior: AtlasPrior, cache_dir: Path | None
) -> dict[str, Tensor]:
    """Gain and base of a subject: Paper 2, equation 5, with the prior CT made from its MR."""
    model = open_model(prior.model, Machine(cache_dir=cache_dir))
    found = model.synthesize({Role.MR: mr}, Progress())
    atlas = resample(found.volume, place.grid, transform=place.to_mr)
    weights = weights_of(atlas, prior)
    made = {"gain": weights.network, "base": weights.atlas * atlas.array}
    return {key: torch.from_numpy(made[key].astype(np.float16))[None] for key in RESIDUE_KEYS}


def followed(mr: Volume, ct: Volume) -> tuple[Registration, str]:
    """A CT brought onto the MR of the same limb: rigidly, then as far as it bends credibly.

    The second is empty, or says what was refused. Raises RegistrationFailed when not even the
    rigid registration is credible.
    """
    found = follow_bending(mr, ct, register_rigid(mr, ct, RIGID))
    kept = () if found.control_mm is not None else ("The rigid registration is taken.",)
    return found.registration, " ".join((*found.refused, *kept))


def _even(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """A million shared evenly among the voxels of a mask."""
    return mask * np.float32(1e6 / max(1, int(np.count_nonzero(mask))))


def _region(
    mr: Volume,
    fine: Volume,
    to_mr: sitk.Transform | None,
    item: dict[str, Any],
    settings: PairSettings,
) -> npt.NDArray[np.bool_]:
    """Head or body on the grid of ``fine``; a head in template space is found in its own."""
    if item["mask"]:
        mask = resample(read_volume(item["mask"], Role.MASK), fine.grid, transform=to_mr)
        return np.asarray(mask.array > 0)
    if to_mr is not None:
        return np.asarray(resample(head_mask(mr), fine.grid, transform=to_mr).array > 0)
    found = head_mask(fine) if settings.anatomy == "head" else body_contour(fine)
    return np.asarray(found.array > 0)


def item_of(
    subject: Subject,
    settings: PairSettings,
    preparation: Preparation,
    prior: AtlasPrior | None = None,
) -> dict[str, Any]:
    """What decides the prepared pair, and so the key it is kept under."""
    files = {"mr": subject.mr, "ct": subject.ct, "mask": subject.mask}
    return {
        "name": subject.name,
        "settings": settings,
        "preparation": preparation,
        **({} if prior is None else {"prior": prior}),
        "hashes": [sha256_of(p) for p in files.values() if p is not None],
        **{role: path and str(path) for role, path in files.items()},
    }


def _stem(path: Path) -> str:
    name = path.name.lower()
    suffix = next((s for s in SUFFIXES if name.endswith(s)), None)
    return name.removesuffix(suffix) if suffix else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

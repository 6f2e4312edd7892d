"""Examples without end: head label maps varied, scanned at random, and looked at in patches.

The anatomies are varied ahead of their use (the slow part) and kept on disk; every scan of one is
new. What a step sees follows from the seed and the step alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from SynthCTLib.errors import InputError
from SynthCTLib.imaging.files import read_label_map
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.phantom import PhantomOptions, clean_labels
from SynthCTLib.phantom.fields import stream
from SynthCTLib.phantom.known import known_region
from SynthCTLib.phantom.options import Contrast
from SynthCTLib.phantom.render import compose, render_ct, tissues_of
from SynthCTLib.phantom.scan import RandomScan, ScanOptions, texture_bank
from SynthCTLib.phantom.tissues import Tissue
from SynthCTLib.phantom.variation import STILL, VariationOptions, vary
from SynthCTLib.training.examples import Batch, Case, Corner, Overviews
from SynthCTLib.whole_file import whole_file

_UNIT: tuple[float, float, float] = (1.0, 1.0, 1.0)
_BELOW = 6  # voxels kept under the lowest tissue, where nothing is known
_TEXTURES, _TEXTURE_SIDE = 6, 160
_HEADS_IN_MEMORY = 32
_MARGINS = (4.0, 26.0)  # mm around the head in the crop a network is given
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class HeadSettings:
    """What is drawn, and how often.

    ``anatomies``: names of label maps in the data folder. ``canvas`` (z, y, x) and ``patch`` in
    voxels of 1 mm, the first multiples of 32, the second of 8. A new head comes into use every
    ``steps_per_head`` steps, and the last ``heads_in_use`` are drawn from. ``air_weight``: weight
    in the loss of air away from all tissue.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    anatomies: tuple[str, ...]
    held_back: tuple[str, ...] = ()
    canvas: tuple[Positive, Positive, Positive] = (256, 256, 192)
    patch: Positive = 96
    heads_per_step: Positive = 2
    patches_per_head: Positive = 2
    heads_in_use: Positive = 24
    first_heads: Positive = 8
    steps_per_head: Positive = 12
    air_weight: float = 0.3
    variation: VariationOptions = field(default_factory=VariationOptions)
    scan: ScanOptions = field(default_factory=ScanOptions)

    def __post_init__(self) -> None:
        if any(n % 32 for n in self.canvas) or self.patch % 8 or self.patch > min(self.canvas):
            raise InputError(
                f"Heads of {self.canvas} voxels in patches of {self.patch} do not fit together: "
                "give multiples of 32, and for the patch of 8, not larger than the head."
            )


@dataclass(frozen=True)
class _Head:
    tissues: Tensor
    known: Tensor
    hu: Tensor


class HeadSource:
    """See the module. ``folder`` keeps varied heads; ``labels`` holds the label maps."""

    def __init__(
        self, settings: HeadSettings, labels: Path, folder: Path, seed: int, device: str
    ) -> None:
        self.settings, self.labels, self.folder = settings, labels, folder
        self.seed, self.device = seed, device
        self._anatomies: dict[str, tuple[Tensor, Tensor]] = {}
        self._heads: OrderedDict[int, _Head] = OrderedDict()
        self._textures: Tensor | None = None
        for name in (*settings.anatomies, *settings.held_back):
            if not (labels / f"{name}.nii.gz").is_file():
                raise InputError(
                    f"There is no label map {name}.nii.gz in {labels}: "
                    "give the folder of the label maps with --data."
                )

    @property
    def epoch_steps(self) -> int:
        """Steps in which as many new heads come into use as there are anatomies."""
        return self.settings.steps_per_head * len(self.settings.anatomies)

    def batch(self, step: int, rank: int = 0) -> Batch:
        """Patches of a few scans, with the overviews they are from."""
        generator = self._stream(1, step, rank)
        newest = self.settings.first_heads + step // self.settings.steps_per_head
        oldest = max(0, newest - self.settings.heads_in_use)
        chosen = torch.randint(
            oldest,
            newest,
            (self.settings.heads_per_step,),
            generator=torch.Generator().manual_seed(
                int(torch.randint(2**31, (1,), generator=generator, device=self.device))
            ),
        ).tolist()
        images, targets, weights, volume, corners, overviews = [], [], [], [], [], []
        for position, index in enumerate(chosen):
            head = self._head(index)
            scan = RandomScan(head.tissues, head.known, self.settings.scan, generator)
            begin, size = self._crop(head, scan, generator)
            overviews.append(self._overview(head, scan, begin, size))
            for _ in range(self.settings.patches_per_head):
                corner = self._corner(head, scan, begin, size, generator)
                z, y, x = (b + c for b, c in zip(begin, corner, strict=True))
                image, target, weight = self._patch(head, scan, (z, y, x))
                images.append(image)
                targets.append(target)
                weights.append(weight)
                volume.append(position)
                corners.append(corner)
        pooled, hu, seen = zip(*overviews, strict=True)
        return Batch(
            torch.stack(images),
            torch.stack(targets),
            torch.stack(weights),
            Overviews(pooled, hu, seen, tuple(volume), tuple(corners)),
        )

    def cases(self) -> Iterator[Case]:
        """One T1-like scan of each anatomy held back, not varied."""
        for number, name in enumerate(self.settings.held_back):
            generator = self._stream(2, number, 0)
            labels, known = self._anatomy(name)
            head = self._rendered(
                *vary(labels, known, self.settings.canvas, STILL, generator), generator
            )
            plain = ScanOptions(
                contrasts={Contrast.T1: 1.0},
                jitter=0.0,
                noise=0.02,
                bias=0.1,
                blur_mm=(1.2, 1.2),
                thick_slices=0,
                ghosting=0,
                dental_void=0,
                cut_below=0,
                cut_above=0,
                cut_beside=0,
                level=0.0,
            )
            scan = RandomScan(head.tissues, head.known, plain, generator)
            begin, size = self._crop(head, scan, generator)
            z, y, x = (slice(b, b + n) for b, n in zip(begin, size, strict=True))
            image = scan.whole(self._texture())[:, z, y, x]
            weight = (scan.scanned & (head.tissues > 0))[z, y, x].float()
            yield Case(name, image, head.hu[z, y, x].float(), weight)

    def _head(self, index: int) -> _Head:
        """A varied head: from memory, from disk, or made now."""
        if index in self._heads:
            self._heads.move_to_end(index)
            return self._heads[index]
        path = self._path(index)
        head = self._kept(path) or self._made(index, path)
        self._heads[index] = head
        while len(self._heads) > _HEADS_IN_MEMORY:
            self._heads.popitem(last=False)
        return head

    def _path(self, index: int) -> Path:
        return self.folder / f"head-{self.seed}-{index:06d}.npz"

    def _kept(self, path: Path) -> _Head | None:
        if not path.is_file():
            return None
        with np.load(path) as arrays:
            return _Head(
                *(torch.from_numpy(arrays[n]).to(self.device) for n in ("tissues", "known", "hu"))
            )

    def _made(self, index: int, path: Path) -> _Head:
        generator = self._stream(0, index, 0)
        names = self.settings.anatomies
        order = np.random.default_rng((self.seed, index // len(names))).permutation(len(names))
        labels, known = self._anatomy(names[order[index % len(names)]])
        varied, seen = vary(labels, known, self.settings.canvas, self.settings.variation, generator)
        head = self._rendered(varied, seen, generator)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as out:
            np.savez(out, tissues=head.tissues.cpu(), known=head.known.cpu(), hu=head.hu.cpu())
        # Heads no longer drawn from are forgotten: each is some 60 MB. One that a rewound step asks
        # for again is made again, the same.
        self._path(index - self.settings.heads_in_use).unlink(missing_ok=True)
        return head

    def _rendered(self, labels: Tensor, known: Tensor, generator: torch.Generator) -> _Head:
        tissues = compose(tissues_of(labels), _UNIT, generator)
        hu = render_ct(tissues, _UNIT, PhantomOptions(), generator)
        return _Head(tissues, known, hu.round().to(torch.int16))

    def _anatomy(self, name: str) -> tuple[Tensor, Tensor]:
        """Labels and where they are known, cropped to the tissue with a few voxels below it."""
        if name not in self._anatomies:
            kept = self.folder / f"anatomy-{name}.npz"
            if kept.is_file():
                with np.load(kept) as arrays:
                    labels, known = arrays["labels"], arrays["known"]
            else:
                labels, known = read_anatomy(self.labels / f"{name}.nii.gz")
                self.folder.mkdir(parents=True, exist_ok=True)
                with whole_file(kept) as part, part.open("wb") as out:
                    np.savez(out, labels=labels, known=known)
            self._anatomies[name] = (
                torch.from_numpy(labels).to(self.device),
                torch.from_numpy(known).to(self.device),
            )
        return self._anatomies[name]

    def _texture(self) -> Tensor:
        if self._textures is None:
            self._textures = texture_bank(_TEXTURES, _TEXTURE_SIDE, self._stream(3, 0, 0))
        return self._textures

    def _crop(
        self, head: _Head, scan: RandomScan, generator: torch.Generator
    ) -> tuple[Corner, Corner]:
        """Corner and size of the part of the canvas a network is given: the head and a margin.

        Sizes are multiples of 16, as where the network is used, corners of 4.
        """
        seen = ((head.tissues > 0) & scan.scanned)[::2, ::2, ::2]
        margins = torch.rand(3, generator=generator, device=self.device).tolist()
        begin, size = [], []
        for axis, (whole, draw) in enumerate(zip(self.settings.canvas, margins, strict=True)):
            others = tuple(a for a in range(3) if a != axis)
            filled = torch.nonzero(seen.amax(others) > 0)
            low, high = (2 * int(filled[0]), 2 * int(filled[-1]) + 2) if len(filled) else (0, whole)
            margin = int(_MARGINS[0] + (_MARGINS[1] - _MARGINS[0]) * draw)
            side = max(-(-(high - low + 2 * margin) // 16) * 16, -(-self.settings.patch // 16) * 16)
            side = min(side, whole)
            start = min(max((low + high - side) // 2 // 4 * 4, 0), whole - side)
            begin.append(start)
            size.append(side)
        return (begin[0], begin[1], begin[2]), (size[0], size[1], size[2])

    def _corner(
        self,
        head: _Head,
        scan: RandomScan,
        begin: Corner,
        shape: Corner,
        generator: torch.Generator,
    ) -> Corner:
        """A corner for a patch in the crop: round bone six times of ten, other tissue three, any.

        Always round a voxel that was scanned, if one is found.
        """
        size = self.settings.patch
        wish = float(torch.rand(1, generator=generator, device=self.device))
        points = torch.rand((256, 3), generator=generator, device=self.device)
        points = (points * torch.tensor(shape, device=self.device)).long()
        places = tuple((points + torch.tensor(begin, device=self.device)).T)
        found = head.tissues[places]
        if wish < 0.6:
            fit = found >= int(Tissue.CORTICAL_BONE)
        else:
            fit = found > 0 if wish < 0.9 else torch.ones_like(found, dtype=torch.bool)
        seen = scan.scanned[places]
        chosen = points[int((2 * seen.int() + (fit & seen).int()).argmax())].tolist()
        z, y, x = (
            min(max(8 * round((c - size / 2) / 8), 0), n - size)
            for c, n in zip(chosen, shape, strict=True)
        )
        return z, y, x

    def _patch(
        self, head: _Head, scan: RandomScan, corner: Corner
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = self.settings.patch
        z, y, x = (slice(c, c + size) for c in corner)
        image = scan.patch(corner, size, self._texture())
        hu = head.hu[z, y, x].float()
        weight = scan.scanned[z, y, x].float()
        weight = torch.where(_near_tissue(hu), weight, weight * self.settings.air_weight)
        return image, hu[None], weight[None]

    def _overview(
        self, head: _Head, scan: RandomScan, begin: Corner, size: Corner
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the wide view sees of a crop, its HU and where it was scanned, (1, c, z, y, x)."""
        z, y, x = (slice(b, b + n) for b, n in zip(begin, size, strict=True))
        hu = functional.avg_pool3d(head.hu[None, None, z, y, x].float(), 4)
        scanned = functional.avg_pool3d(scan.scanned[None, None, z, y, x].float(), 4)
        z, y, x = (slice(b // 4, (b + n) // 4) for b, n in zip(begin, size, strict=True))
        return scan.overview()[None, :, z, y, x], hu, scanned

    def _stream(self, purpose: int, number: int, rank: int) -> torch.Generator:
        mixed = int(np.random.SeedSequence((self.seed, purpose, number, rank)).generate_state(1)[0])
        return stream(mixed, purpose, self.device)


def _near_tissue(hu: Tensor) -> Tensor:
    """Where a cube of 4 voxels or a neighbour of it holds tissue (z, y, x, multiples of 4).

    Air away from all tissue is easy and plenty; that in the head and at the skin is neither.
    """
    cubes = functional.max_pool3d((hu > -500)[None, None].float(), 4)
    cubes = functional.max_pool3d(cubes, 3, 1, 1)
    near: Tensor = functional.interpolate(cubes, scale_factor=4.0, mode="nearest")[0, 0] > 0
    return near


def read_anatomy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cleaned labels (int16) and where they are known (bool), (z, y, x) in LPS, cropped."""
    labels = to_lps(clean_labels(read_label_map(path))).volume
    known = known_region(labels).array > 0
    tissue = np.argwhere(labels.array)
    low, high = tissue.min(axis=0), tissue.max(axis=0) + 1
    low[0] = max(0, low[0] - _BELOW)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return labels.array[box].astype(np.int16), known[box].copy()

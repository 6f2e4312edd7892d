"""A random MR scan of a head of tissues: contrast, field of view and faults of the image.

Made for training, where only parts of a scan are needed at full resolution: the scan is described
once, and rendered where it is looked at. Tensors are (z, y, x) in LPS order, 1 mm, on any device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from SynthCTLib.phantom.fields import blur, smooth_field
from SynthCTLib.phantom.options import Contrast
from SynthCTLib.phantom.render import by_tissue, texture_field
from SynthCTLib.phantom.signal import signal_table
from SynthCTLib.phantom.tissues import Tissue

_UNIT: tuple[float, float, float] = (1.0, 1.0, 1.0)
_MARGIN = 8  # voxels around a patch, for the blur
_OVERVIEW_MM = 2
_BIAS_FWHM_MM = 120.0

Corner = tuple[int, int, int]


def _mixture() -> dict[Contrast, float]:
    return {
        Contrast.T1: 0.30,
        Contrast.SPOILED_ECHO: 0.08,
        Contrast.MPRAGE: 0.12,
        Contrast.T2: 0.12,
        Contrast.PD: 0.05,
        Contrast.FLAIR: 0.05,
        Contrast.INVERTED: 0.03,
        Contrast.DARK_BONE: 0.25,
    }


@dataclass(frozen=True)
class ScanOptions:
    """How scans differ. Probabilities of faults, and the largest size of each.

    ``contrasts``: share of each contrast. ``jitter``: relative standard deviation of every tissue's
    mean under the fitted contrasts. ``noise``: standard deviation of the channels, relative to
    white matter. ``blur_mm``: least and largest width in plane; ``thick_slices`` of the scans have
    slices of up to ``slice_mm`` along one axis. ``cut_*``: share of scans whose field of view ends
    inside the head. ``level``: spread of the brightness at which a scan is normalised.
    """

    contrasts: Mapping[Contrast, float] = field(default_factory=_mixture)
    jitter: float = 0.10
    noise: float = 0.05
    bias: float = 0.25
    blur_mm: tuple[float, float] = (0.6, 1.8)
    thick_slices: float = 0.25
    slice_mm: float = 4.5
    ghosting: float = 0.12
    dental_void: float = 0.12
    empty_background: float = 0.35
    cut_below: float = 0.5
    cut_above: float = 0.08
    cut_beside: float = 0.12
    level: float = 0.10
    ceiling: float = 1.5


class RandomScan:
    """One scan of one head. What it draws is drawn when it is made: patches only draw noise."""

    def __init__(
        self,
        tissues: Tensor,
        known: Tensor,
        options: ScanOptions,
        generator: torch.Generator,
    ) -> None:
        self.options, self.generator = options, generator
        self.tissues = tissues
        self._draws = torch.rand(24, generator=generator, device=tissues.device).tolist()
        self.contrast = self._contrast()
        table = signal_table(self.contrast, (), generator)
        jitter = torch.randn(len(Tissue), generator=generator, device=tissues.device)
        means = table.means * (options.jitter * jitter).exp_()
        self.means, self.spreads = means / means.max().clamp(min=1e-6), table.spreads
        self.signal = by_tissue(self.means, tissues)
        self._spoil()
        self.scanned = known & self._field_of_view()
        self.sigma = options.noise * self._draw() ** 2
        self.widths_mm = self._widths()
        self.empty = self._draw() < options.empty_background
        shape = tuple(n // 4 for n in tissues.shape)
        strength = options.bias * self._draw()
        field_4mm = smooth_field(shape, _BIAS_FWHM_MM, (4.0, 4.0, 4.0), generator)
        self.bias = (strength * field_4mm).exp_()
        self.level = self._level()

    def overview(self) -> Tensor:
        """The whole scan as a network of two views pools it: (4, z/4, y/4, x/4).

        Mean signal, share scanned, and least and largest signal of the cubes of 2 mm in each of
        4 mm. Noise is that of a mean over eight voxels.
        """
        signal = functional.avg_pool3d(self.signal[None, None], _OVERVIEW_MM)[0, 0]
        signal *= _doubled(self.bias)
        if self.sigma:
            white = torch.randn(signal.shape, generator=self.generator, device=signal.device)
            clean = signal
            signal = (clean.square() + 1.571 * self.sigma**2).sqrt_()
            signal.add_(white, alpha=0.8 * self.sigma / 8**0.5).clamp_(min=0)
            if self.empty:
                signal[clean < 2 * self.sigma] = 0
        signal = (signal / self.level).clamp_(max=self.options.ceiling)
        scanned = functional.avg_pool3d(self.scanned[None, None].float(), _OVERVIEW_MM)[0, 0]
        signal *= scanned
        both = torch.stack([signal, scanned])[None]
        largest = functional.max_pool3d(both[:, :1], 2)
        least = -functional.max_pool3d(-both[:, :1], 2)
        return torch.cat([functional.avg_pool3d(both, 2), least, largest], dim=1)[0]

    def patch(self, corner: Corner, size: int, textures: Tensor) -> Tensor:
        """Signal and scanned mask of a cube, (2, size, size, size), from a corner (z, y, x).

        ``corner`` is a multiple of 4. ``textures`` (n, z, y, x) are fields of variance 1, larger
        than the cube with its margin.
        """
        signal = _cube(self.signal, corner, size)
        place = torch.rand(4, generator=self.generator, device=signal.device).tolist()
        texture = _random_cube(textures, place, size + 2 * _MARGIN)
        spread = by_tissue(self.spreads, _cube(self.tissues, corner, size))
        signal = blur(signal.addcmul(texture, spread).clamp_(min=0), self.widths_mm, _UNIT)
        inner = (slice(_MARGIN, _MARGIN + size),) * 3
        signal = signal[inner] * self._bias_in(corner, size)
        if self.sigma:
            shape = (2, *signal.shape)
            noise = torch.randn(shape, generator=self.generator, device=signal.device)
            noise *= self.sigma
            noisy = torch.hypot(noise[0] + signal, noise[1])
            if self.empty:
                noisy[signal < 2 * self.sigma] = 0
            signal = noisy
        scanned = self.scanned[_block(corner, size)].float()
        signal = (signal / self.level).clamp_(0, self.options.ceiling)
        return torch.stack([signal * scanned, scanned])

    def whole(self, textures: Tensor) -> Tensor:
        """The scan of the whole head at full resolution, (2, z, y, x), in cubes of 32 voxels.

        The sides of the head are multiples of 32.
        """
        side = 32
        blocks = torch.zeros((2, *self.signal.shape), device=self.signal.device)
        for corner in itertools.product(*(range(0, n, side) for n in self.signal.shape)):
            z, y, x = corner
            place = _block((z, y, x), side)
            blocks[(slice(None), *place)] = self.patch((z, y, x), side, textures)
        return blocks

    def _draw(self) -> float:
        return float(self._draws.pop())

    def _contrast(self) -> Contrast:
        draw = self._draw() * sum(self.options.contrasts.values())
        for contrast, share in self.options.contrasts.items():
            draw -= share
            if draw <= 0:
                return contrast
        return contrast

    def _spoil(self) -> None:
        """Ghosts of a head that moved, and the signal lost around metal in teeth."""
        ghosting, strength, axis = self._draw(), self._draw(), int(3 * self._draw())
        if ghosting < self.options.ghosting:
            half = self.signal.shape[axis] // (2 + int(2 * self._draw()))
            self.signal = self.signal.add(self.signal.roll(half, axis), alpha=0.12 * strength)
        void, radius, place = self._draw(), 8 + 16 * self._draw(), self._draw()
        if void < self.options.dental_void:
            low = self.tissues[: self.tissues.shape[0] // 2]
            bone = torch.nonzero(low[::4, ::4, ::4] == int(Tissue.CORTICAL_BONE)) * 4
            if len(bone):
                frontal = bone[bone[:, 1].argsort()][: max(1, len(bone) // 4)]
                centre = frontal[int(place * len(frontal))]
                ranges = [torch.arange(n, device=bone.device) for n in self.signal.shape]
                z, y, x = ((r - c).square() for r, c in zip(ranges, centre, strict=True))
                self.signal[(z[:, None, None] + y[:, None] + x) < radius**2] = 0

    def _field_of_view(self) -> Tensor:
        """Where the scan has values: a box, cut inside the head as chance has it."""
        shape = self.tissues.shape
        low, high = [0, 0, 0], list(shape)
        if self._draw() < self.options.cut_below:
            low[0] = int(0.5 * self._draw() * shape[0])
        if self._draw() < self.options.cut_above:
            high[0] -= int(0.25 * self._draw() * shape[0])
        if self._draw() < self.options.cut_beside:
            axis, side = 1 + int(2 * self._draw()), self._draw()
            cut = int(0.22 * self._draw() * shape[axis])
            if side < 0.5:
                low[axis] = cut
            else:
                high[axis] -= cut
        box = torch.zeros(shape, dtype=torch.bool, device=self.tissues.device)
        box[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
        return box

    def _widths(self) -> tuple[float, float, float]:
        low, high = self.options.blur_mm
        widths = [low + (high - low) * self._draw()] * 3
        if self._draw() < self.options.thick_slices:
            widths[int(3 * self._draw())] = 1.5 + (self.options.slice_mm - 1.5) * self._draw()
        return widths[0], widths[1], widths[2]

    def _level(self) -> float:
        """The 99.5th percentile of the head in view, with an error as of a head mask not exact."""
        coarse = (slice(None, None, 3),) * 3
        seen = (self.tissues[coarse] != int(Tissue.AIR)) & self.scanned[coarse]
        values = self.signal[coarse][seen]
        draw = torch.randn(1, generator=self.generator, device=self.signal.device)
        if not len(values):
            return 1.0
        bright = values.kthvalue(max(1, math.ceil(0.995 * len(values)))).values
        return float((bright + 1e-3) * (self.options.level * draw).exp())

    def _bias_in(self, corner: Corner, size: int) -> Tensor:
        coarse = self.bias[_block((corner[0] // 4, corner[1] // 4, corner[2] // 4), size // 4)]
        grown = functional.interpolate(
            coarse[None, None], scale_factor=4.0, mode="trilinear", align_corners=False
        )
        return grown[0, 0]


def texture_bank(count: int, side: int, generator: torch.Generator) -> Tensor:
    """``count`` fields of variance 1, (count, side, side, side), for :meth:`RandomScan.patch`."""
    return texture_field((count, side, side, side), _UNIT, 0.5, generator)


def _doubled(coarse: Tensor) -> Tensor:
    grown = functional.interpolate(
        coarse[None, None], scale_factor=2.0, mode="trilinear", align_corners=False
    )
    return grown[0, 0]


def _block(corner: Corner, size: int) -> tuple[slice, slice, slice]:
    z, y, x = (slice(c, c + size) for c in corner)
    return z, y, x


def _cube(volume: Tensor, corner: Corner, size: int) -> Tensor:
    """The cube with its margin; beyond the volume its edge goes on."""
    for axis, (c, n) in enumerate(zip(corner, volume.shape, strict=True)):
        begin, end = c - _MARGIN, c + size + _MARGIN
        if begin >= 0 and end <= n:
            volume = volume.narrow(axis, begin, end - begin)
        else:
            index = torch.arange(begin, end, device=volume.device).clamp_(0, n - 1)
            volume = volume.index_select(axis, index)
    return volume


def _random_cube(textures: Tensor, place: list[float], size: int) -> Tensor:
    room = [textures.shape[0] - 1, *(n - size for n in textures.shape[1:])]
    which, z, y, x = (int(p * (r + 1)) for p, r in zip(place, room, strict=True))
    return textures[which, z : z + size, y : y + size, x : x + size]

"""The mean MR signal of each tissue under a sequence, and its spread: where contrast comes from.

The equations are the textbook ones (Bernstein, King, Zhou, Handbook of MRI Pulse Sequences, 2004,
chapters 14 and 16); relaxation times are of 3 T where they were measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from SynthCTLib.phantom.options import Contrast
from SynthCTLib.phantom.tissues import APPEARANCE, Tissue

RANDOM_TEXTURE = 0.08  # largest within-tissue spread under random contrast
_JITTER = 0.12  # of relaxation times and proton density, relative standard deviation
_INVERTED_WHITE = 1.35  # T1-like signal that an inverted image shows black


class _Relaxation(NamedTuple):
    t1_ms: float
    t2_ms: float
    density: float  # proton density, water = 1


# Stanisz et al., MRM 54 (2005) 507, 3 T: white and grey matter, muscle, spinal cord, blood.
# Gold et al., AJR 183 (2004) 343, 3 T: fat, marrow, fluid. CSF: Lin et al., JMRI 13 (2001) 1 (T1).
# Cortical bone: Du and Bydder, NMR Biomed 26 (2013) 489: T2* of 0.4 ms. Deep grey matter between
# white and grey; skin and mucosa between muscle and blood: chosen.
_WHITE = _Relaxation(1084, 69, 0.70)
_GREY = _Relaxation(1820, 99, 0.82)
_FLUID = _Relaxation(4163, 1500, 1.00)
_MUSCLE = _Relaxation(1412, 50, 0.79)
_BLOOD = _Relaxation(1932, 275, 0.85)
_FAT = _Relaxation(371, 133, 0.90)
RELAXATION: Mapping[Tissue, _Relaxation] = {
    Tissue.WHITE_MATTER: _WHITE,
    Tissue.GREY_MATTER: _GREY,
    Tissue.CEREBELLAR_CORTEX: _GREY,
    Tissue.BRAIN_STEM: _Relaxation(1200, 72, 0.73),
    Tissue.THALAMUS: _Relaxation(1450, 80, 0.77),
    Tissue.CAUDATE: _Relaxation(1650, 88, 0.80),
    Tissue.PUTAMEN: _Relaxation(1550, 80, 0.79),
    Tissue.PALLIDUM: _Relaxation(1250, 60, 0.75),
    Tissue.HIPPOCAMPUS: _Relaxation(1800, 100, 0.83),
    Tissue.LESION: _Relaxation(1900, 150, 0.88),
    Tissue.CHOROID_PLEXUS: _Relaxation(2400, 250, 0.90),
    Tissue.CSF: _FLUID,
    Tissue.ARTERY: _BLOOD,
    Tissue.VEIN: _BLOOD,
    Tissue.EYE: _Relaxation(3620, 767, 1.00),
    Tissue.EYE_MUSCLE: _MUSCLE,
    Tissue.OPTIC_NERVE: _Relaxation(1083, 78, 0.72),
    Tissue.SPINAL_CORD: _Relaxation(993, 78, 0.72),
    Tissue.MUCOSA: _Relaxation(1700, 110, 0.88),
    Tissue.SKIN: _Relaxation(1000, 45, 0.75),
    Tissue.MUSCLE: _MUSCLE,
    Tissue.FAT: _FAT,
    Tissue.CORTICAL_BONE: _Relaxation(240, 0.4, 0.20),
    Tissue.DIPLOE: _Relaxation(400, 15, 0.40),
    Tissue.CANCELLOUS_BONE: _Relaxation(365, 60, 0.60),
}


@dataclass(frozen=True)
class SignalTable:
    """Mean and within-tissue standard deviation of the signal, (..., tissues); white matter near 1.

    Leading axes are one row per volume of a batch.
    """

    means: Tensor
    spreads: Tensor


def signal_table(
    contrast: Contrast, batch: tuple[int, ...], generator: torch.Generator
) -> SignalTable:
    """The signal of every tissue under a contrast.

    ``T1`` is the table fitted to real heads and takes nothing from the generator; ``INVERTED`` is
    its negative among tissues, air and cortical bone staying dark. ``RANDOM`` draws every tissue
    from 0 to 1, as SynthSeg does; ``DARK_BONE`` the same with air and cortical bone dark, as they
    are in every sequence but those with ultrashort echo times. The others are sequences with
    random settings and relaxation times of a standard deviation of 12 %.
    """
    device = generator.device
    if contrast == Contrast.T1:
        return SignalTable(_column("t1", device), _column("t1_sd", device))
    if contrast == Contrast.INVERTED:
        means = (_INVERTED_WHITE - _column("t1", device)).clamp_(min=0.05)
        dark = [int(Tissue.AIR), int(Tissue.CORTICAL_BONE), int(Tissue.DIPLOE)]
        means[dark] = _column("t1", device)[dark]
        return SignalTable(means, _column("t1_sd", device))
    shape = (*batch, len(Tissue))
    if contrast in (Contrast.RANDOM, Contrast.DARK_BONE):
        return _random(contrast, shape, generator)
    return _sequence(contrast, shape, generator)


def _random(contrast: Contrast, shape: tuple[int, ...], generator: torch.Generator) -> SignalTable:
    means, spreads = torch.rand((2, *shape), generator=generator, device=generator.device)
    means[..., Tissue.AIR] = 0
    spreads[..., Tissue.AIR] = 0
    if contrast == Contrast.DARK_BONE:
        means[..., Tissue.CORTICAL_BONE] *= 0.12
        means[..., Tissue.DIPLOE] *= 0.4
    return SignalTable(means, spreads * RANDOM_TEXTURE)


def _sequence(
    contrast: Contrast, shape: tuple[int, ...], generator: torch.Generator
) -> SignalTable:
    device = generator.device
    rows = [RELAXATION.get(tissue, _Relaxation(1.0, 1.0, 0.0)) for tissue in Tissue]
    table = torch.tensor(rows, dtype=torch.float32, device=device)
    noise = torch.randn((3, *shape), generator=generator, device=device)
    t1, t2, density = table.T.reshape(3, *(1,) * (len(shape) - 1), -1) * (_JITTER * noise).exp_()
    draw = torch.rand((3, *shape[:-1], 1), generator=generator, device=device)

    def between(index: int, low: float, high: float) -> Tensor:
        return low + (high - low) * draw[index]

    if contrast == Contrast.SPOILED_ECHO:
        signal = spoiled_echo(
            t1, t2, density, between(0, 8, 30), between(1, 2, 6), between(2, 12, 30)
        )
    elif contrast == Contrast.MPRAGE:
        signal = inversion_recovery(
            t1, t2, density, between(0, 1900, 2600), between(1, 2, 5), between(2, 800, 1100)
        )
    elif contrast == Contrast.T2:
        signal = spin_echo(t1, t2, density, between(0, 3000, 7000), between(1, 70, 120))
    elif contrast == Contrast.PD:
        signal = spin_echo(t1, t2, density, between(0, 2500, 5000), between(1, 10, 30))
    else:
        signal = inversion_recovery(
            t1, t2, density, between(0, 8000, 10000), between(1, 80, 120), between(2, 2200, 2600)
        )
    brightest = signal[..., [int(Tissue.WHITE_MATTER), int(Tissue.GREY_MATTER)]].amax(-1, True)
    means = signal / brightest.clamp_(min=1e-6)
    spreads = means * 0.08
    return SignalTable(means, spreads)


def spoiled_echo(
    t1: Tensor, t2: Tensor, density: Tensor, tr: Tensor, te: Tensor, flip_degrees: Tensor
) -> Tensor:
    """Steady state of a spoiled gradient echo (Ernst): M sin a (1-E1) / (1 - cos a E1) E2. ms."""
    flip = flip_degrees * (math.pi / 180)
    e1 = (-tr / t1).exp()
    return density * flip.sin() * (1 - e1) / (1 - flip.cos() * e1) * (-te / t2).exp()


def spin_echo(t1: Tensor, t2: Tensor, density: Tensor, tr: Tensor, te: Tensor) -> Tensor:
    """Spin echo with TE << TR: M (1 - exp(-TR/T1)) exp(-TE/T2). Times in ms."""
    return density * (1 - (-tr / t1).exp()) * (-te / t2).exp()


def inversion_recovery(
    t1: Tensor, t2: Tensor, density: Tensor, tr: Tensor, te: Tensor, ti: Tensor
) -> Tensor:
    """Magnitude after inversion: M |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2). Times in ms."""
    recovered = 1 - 2 * (-ti / t1).exp() + (-tr / t1).exp()
    return density * recovered.abs() * (-te / t2).exp()


def _column(name: str, device: torch.device) -> Tensor:
    values = [getattr(APPEARANCE[tissue], name) for tissue in Tissue]
    return torch.tensor(values, dtype=torch.float32, device=device)

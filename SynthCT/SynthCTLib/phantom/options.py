"""The settings of a simulated pair."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum

from SynthCTLib.errors import InputError


class Contrast(StrEnum):
    """Where the mean MR signal of each tissue comes from."""

    T1 = "t1"
    SPOILED_ECHO = "spoiled-echo"
    MPRAGE = "mprage"
    T2 = "t2"
    PD = "pd"
    FLAIR = "flair"
    INVERTED = "inverted"
    RANDOM = "random"
    DARK_BONE = "dark-bone"


@dataclass(frozen=True)
class PhantomOptions:
    """How an anatomy is rendered. Raises InputError when a value cannot work.

    ``contrast``: where the mean signal of each tissue comes from, see ``signal.signal_table``.
    ``texture`` and ``hu_spread`` multiply the within-tissue spread of the MR and of the CT.
    ``mr_noise`` is the standard deviation of the two channels behind the Rician noise, relative to
    white matter; ``mr_bias`` that of the logarithm of the bias field.
    ``ct_noise_hu`` is the standard deviation of the noise in soft tissue.
    Blurs (partial volume) are full widths at half maximum in mm.
    """

    contrast: Contrast = Contrast.T1
    texture: float = 1.0
    mr_blur_mm: float = 1.2
    mr_noise: float = 0.015
    mr_bias: float = 0.10
    hu_spread: float = 1.0
    ct_blur_mm: float = 1.0
    ct_noise_hu: float = 6.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "contrast", _contrast(self.contrast))
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name != "contrast" and not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"The phantom option {setting.name} is {value}: "
                    "give a finite number that is not negative."
                )


def _contrast(name: str) -> Contrast:
    try:
        return Contrast(name)
    except ValueError:
        known = ", ".join(Contrast)
        raise InputError(f"The phantom knows no contrast {name!r}: choose {known}.") from None

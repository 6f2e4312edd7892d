"""Which window of HU a figure clips to, and the dynamic range it divides by: presets by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from SynthCTLib.errors import InputError


@dataclass(frozen=True)
class IntensityRange:
    """The window that images are clipped to (HU), and the dynamic range that a figure divides by.

    Figures made with different ranges cannot be compared.
    """

    name: str
    low_hu: float
    high_hu: float
    data_range: float
    source: str

    def __post_init__(self) -> None:
        if not (self.low_hu < self.high_hu and self.data_range > 0.0):
            raise InputError(
                f"The intensity range {self.name} is empty: low must be below high and the "
                "dynamic range above 0."
            )


PAPER_2 = IntensityRange(
    "paper-2", -1024.0, 3071.0, 4096.0, "paper 2 eq. 8: CT in 0..4095 (HU + 1024), vmax = 4096"
)
SYNTHRAD_2023 = IntensityRange(
    "synthrad-2023", -1024.0, 3000.0, 4024.0, "SynthRAD2023/metrics, commit 3200007"
)
SYNTHRAD_2025 = IntensityRange(
    "synthrad-2025", -1024.0, 3000.0, 4024.0, "SynthRAD2025/metrics, commit 0beef65"
)
SYNTHRAD_2025_CHALLENGE = IntensityRange(
    "synthrad-2025-challenge",
    -1024.0,
    3071.0,
    4095.0,
    "SynthRAD2025/evaluation, the container that scored the challenge, commit 17cac47",
)

# Papers 1 and 3 give no PSNR, paper 4 does not state its range, and the PSNR that paper 5 prints
# (73.9 dB at a mean square of 23) follows from no range of 8-bit images: they have no preset.
PRESETS: Mapping[str, IntensityRange] = MappingProxyType(
    {r.name: r for r in (PAPER_2, SYNTHRAD_2023, SYNTHRAD_2025, SYNTHRAD_2025_CHALLENGE)}
)


def intensity_range_named(name: str) -> IntensityRange:
    """The preset of that name. Raises InputError, listing the names, when there is none."""
    try:
        return PRESETS[name]
    except KeyError:
        raise InputError(
            f"There is no intensity range '{name}': choose one of {', '.join(PRESETS)}."
        ) from None

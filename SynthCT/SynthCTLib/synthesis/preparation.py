"""How an image becomes the input channels of a network: the same code for training and for use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from SynthCTLib.errors import InputError

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Share = Annotated[float, Field(ge=0, le=100)]

HISTOGRAM_BINS = 256
HISTOGRAM_RANGE = (-1.0, 1.0)
NOISELESS = 0.1  # of the noise's standard deviation; a background with a lower median is clean


@dataclass(frozen=True)
class Preparation:
    """Intensities of the input (MR, CT, PET), and which channels a network sees.

    ``histogram``: histogram equalisation over the scanned field, then -1 to 1, -1 outside (Paper 1,
    section 3.3). ``robust``: the values between two percentiles of the head become 0 to 1, clipped
    to 0..``ceiling``, 0 outside the scanned field. ``fixed``: those between two ``limits`` in the
    unit of the input (a CT's window, SUV) become 0 to 1, clipped, 0 outside the scanned field.
    ``power``: these two raise what they have made to a power, so that a hot tumour leaves the rest
    some contrast. ``centred``: they make -1..1 of 0 to the largest. ``brain``: the mean of the
    brain becomes 0 and its standard deviation 1, and what was not scanned what the value 0 becomes
    (Paper 2, section 3.1; needs template space, which says where the brain is). ``masked``: what
    lies outside the head is set to the smallest value before. ``noise``: where the background of
    the image holds none, Rician noise of this share of the head's 99.5th percentile is laid over it
    before, so that an equalisation finds a background as it was trained with. ``scanned_channel``:
    a second channel, 1 where the input was scanned.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    method: Literal["histogram", "robust", "brain", "fixed"] = "robust"
    percentiles: tuple[Share, Share] = (0.0, 99.5)
    ceiling: Annotated[float, Field(gt=0)] = 1.5
    limits: tuple[float, float] | None = None
    power: Annotated[float, Field(gt=0, le=1)] = 1.0
    centred: bool = False
    masked: bool = False
    noise: Annotated[float, Field(ge=0)] = 0.0
    scanned_channel: bool = False

    def __post_init__(self) -> None:
        if not self.percentiles[0] < self.percentiles[1]:
            raise ValueError(f"the percentiles {self.percentiles} do not rise")
        if (self.limits is not None) != (self.method == "fixed"):
            raise ValueError("limits belong to the method fixed, which needs them")
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"the limits {self.limits} do not rise")
        if self.masked and self.noise:
            raise ValueError("masked removes the background that noise is for")
        if self.centred and self.method in ("histogram", "brain"):
            raise ValueError(f"the method {self.method} is centred already")

    @property
    def outside(self) -> float:
        """What a channel holds where nothing was scanned."""
        return -1.0 if self.centred or self.method == "histogram" else 0.0

    @property
    def channels(self) -> int:
        """How many channels :func:`prepare` makes."""
        return 2 if self.scanned_channel else 1


def prepare(
    mr: Array, scanned: Mask, head: Mask, settings: Preparation, brain: Mask | None = None
) -> Array:
    """Input channels (C, z, y, x), float32, from an image (z, y, x) in the unit of its role.

    ``scanned``: where the image has values; ``head``: which voxels are the head (or body), by which
    ``robust`` scales and outside which ``masked`` removes what there is; ``brain``: which are
    brain, roughly, for the method of that name. The inputs are not changed. Raises InputError when
    the image is the same everywhere in the head, or no brain was scanned.
    """
    values = np.asarray(mr, dtype=np.float32)
    if settings.masked:
        lowest = values[scanned].min() if scanned.any() else np.float32(0)
        values = np.where(head, values, lowest)
    noise = missing_noise(values, scanned, head, settings)
    if noise:
        values = with_noise(values, noise)
    if settings.method == "histogram":
        low, high = HISTOGRAM_RANGE
        channel = equalized(values, scanned) * np.float32(high - low) + np.float32(low)
        channel = np.where(scanned, channel, np.float32(low))
    elif settings.method == "brain":
        mean, deviation = brain_moments(values, scanned if brain is None else scanned & brain)
        channel = (np.where(scanned, values, np.float32(0)) - mean) / deviation
    else:
        dark, bright = (
            bounds(values[head & scanned], settings.percentiles)
            if settings.limits is None
            else (np.float32(v) for v in settings.limits)
        )
        ceiling = np.float32(1 if settings.method == "fixed" else settings.ceiling)
        channel = np.clip((values - dark) / (bright - dark), 0, ceiling)
        if settings.power != 1:
            channel, ceiling = channel**settings.power, ceiling**settings.power
        channel = np.where(scanned, channel, np.float32(0))
        if settings.centred:
            channel = channel * (2 / ceiling) - 1
    if settings.scanned_channel:
        return np.stack([channel, scanned.astype(np.float32)])
    return channel[np.newaxis]


def missing_noise(mr: Array, scanned: Mask, head: Mask, settings: Preparation) -> float:
    """Standard deviation of the noise that ``prepare`` lays over an image; 0 where it lays none.

    That is ``noise`` of the head's 99.5th percentile if the background is clean: if its median is
    below a tenth of it (of Rayleigh noise the median is 1.18 times).
    """
    if not settings.noise:
        return 0.0
    background = mr[scanned & ~head]
    if not background.size:
        return 0.0
    _, bright = bounds(mr[head & scanned], (0, 99.5))
    deviation = settings.noise * float(bright)
    return deviation if float(np.median(background)) < NOISELESS * deviation else 0.0


def with_noise(values: Array, deviation: float) -> Array:
    """An image with Rician noise, always the same."""
    rng = np.random.default_rng(0)
    real, imaginary = (
        np.float32(deviation) * rng.standard_normal(values.shape, np.float32) for _ in range(2)
    )
    noisy: Array = np.hypot(values + real, imaginary)
    return noisy


def bounds(values: Array, percentiles: tuple[float, float]) -> tuple[np.float32, np.float32]:
    """The two percentiles of the values. Raises InputError when they are not apart."""
    if values.size:
        low, high = (np.float32(v) for v in np.percentile(values, percentiles))
        if np.isfinite(high - low) and high > low:
            return low, high
    raise InputError(
        "The image has the same value everywhere in the head or body, so that no contrast can be "
        "scaled: check that it is the right image."
    )


def brain_moments(values: Array, brain: Mask) -> tuple[np.float32, np.float32]:
    """Mean and standard deviation in the brain. Raises InputError when it is flat or absent."""
    known = values[brain]
    if known.size:
        mean, deviation = np.float32(known.mean()), np.float32(known.std())
        if np.isfinite(mean) and deviation > 0:
            return mean, deviation
    raise InputError(
        "The MR shows no brain where the template has it, so that no contrast can be scaled: "
        "check that it is an MR of the whole head."
    )


def equalized(values: Array, counted: Mask) -> Array:
    """Histogram equalisation to 0..1: the cumulative histogram at each value.

    The rule of MONAI's ``HistogramNormalize`` with 256 bins: a histogram over the range of the
    ``counted`` voxels, its cumulative sum rescaled to 0..1, interpolated linearly between the
    centres of the bins. Raises InputError when all counted values are equal.
    """
    known = values[counted]
    bounds(known, (0, 100))
    counts, edges = np.histogram(known, HISTOGRAM_BINS)
    cumulative = counts.cumsum().astype(np.float64)
    cumulative = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
    centres = (edges[:-1] + edges[1:]) / 2
    made: Array = np.interp(values, centres, cumulative).astype(np.float32)
    return made

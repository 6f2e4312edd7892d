"""Residual learning with an atlas prior: Paper 2, section 2.4, equations 5 to 7.

    S = W1 S_DNN + W2 S_atlas,    W = alpha W_bone + beta

An atlas model makes S_atlas, a prior CT. W_bone says roughly where bone is: the atlases' bone,
smoothed by a Gaussian and saturated at a threshold. A network, any of ``networks``, makes S_DNN.
With W1 = W_bone and W2 = 1 (the defaults) it learns what the prior lacks, near bone alone; with
W2 = 1 - W_bone it takes the prior's place there.

The paper merges the atlases' warped bone masks. Here bone is where their mean CT reaches
``bone_hu``: at 300 HU and six atlases that is where about one in three of them has bone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from pydantic import ConfigDict, Field

from SynthCTLib.errors import MissingModel
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis import patchwise
from SynthCTLib.synthesis.patchwise import PatchwiseSettings, PatchwiseSynthesizer
from SynthCTLib.synthesis.registry import Machine, open_model
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import ModelCard, Synthesis, Synthesizer, input_of
from SynthCTLib.volume import AIR_HU, Role, Step, Unit, Volume

Array = npt.NDArray[np.float32]

# What a difference of two CTs can be; the sum is kept within the range of a CT.
DIFFERENCE_HU = 4000.0


@dataclass(frozen=True)
class AtlasPrior:
    """The prior and its weights.

    ``model``: the atlas model that makes the prior CT, by name. ``bone_hu``: what is bone in it.
    ``sigma_mm``: of the Gaussian that smooths the bone mask. ``threshold``: t of equation 6.
    ``alpha`` and ``beta`` of equation 7, for W1 (the network's) and W2 (the atlas's); both weights
    must stay within 0 and 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str = "atlas-affine"
    bone_hu: float = 300.0
    sigma_mm: Annotated[float, Field(gt=0)] = 4.0
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.3
    alpha: tuple[float, float] = (1.0, 0.0)
    beta: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for a, b in zip(self.alpha, self.beta, strict=True):
            if not (0 <= b <= 1 and 0 <= a + b <= 1):
                raise ValueError(f"a weight of {a} W + {b} leaves the range from 0 to 1")


class Weights(NamedTuple):
    """W1, the network's, and W2, the atlas's, (z, y, x), each 0 to 1."""

    network: Array
    atlas: Array


def weights_of(atlas: Volume, prior: AtlasPrior) -> Weights:
    """The weights that a prior CT (HU) gives on its own grid (equations 6 and 7)."""
    bone = sitk.Cast(atlas.image >= prior.bone_hu, sitk.sitkFloat32)
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(bone, prior.sigma_mm))
    roughly = saturated(smooth, prior.threshold)
    first, second = (
        np.clip(np.float32(a) * roughly + np.float32(b), 0, 1)
        for a, b in zip(prior.alpha, prior.beta, strict=True)
    )
    return Weights(first, second)


def saturated(smooth: npt.NDArray[Any], threshold: float) -> Array:
    """Equation 6: 1 above the threshold t, I / t below it."""
    values: Array = np.clip(np.asarray(smooth, np.float32) / np.float32(threshold), 0, 1)
    return values


@dataclass(frozen=True)
class AtlasPriorSettings:
    """What the model card states: the prior, and the network as in the family ``patchwise``."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    network: PatchwiseSettings
    prior: AtlasPrior = field(default_factory=AtlasPrior)


class AtlasPriorSynthesizer:
    """Pseudo-CT of an MR head: an atlas's, and a network's difference from it near bone."""

    def __init__(
        self,
        card: ModelCard,
        settings: AtlasPriorSettings,
        atlas: Synthesizer,
        network: PatchwiseSynthesizer,
    ) -> None:
        self.card, self.settings = card, settings
        self.atlas, self.network = atlas, network

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Make the prior, the difference, and their weighted sum.

        CT (HU) on the MR's grid, the atlas's coverage, and as uncertainty the atlas's weighted by
        W2 where there is one. Raises what the atlas and the network raise.
        """
        source = input_of(inputs, Role.MR, self.card)
        prior = self.atlas.synthesize(inputs, progress.within("Atlas prior", 0.7))
        found = self.network.synthesize(inputs, progress.within("Difference from the prior", 0.25))
        progress.stage("Adding", 0.05)
        weights = weights_of(prior.volume, self.settings.prior)
        hu = weights.network * found.volume.array + weights.atlas * prior.volume.array
        out = self.settings.network.output
        known = prior.coverage.array > 0
        hu = np.where(known, np.clip(hu, out.low, out.high), np.float32(AIR_HU))
        step = Step(
            "synthesize",
            {"model": self.card.name, "version": self.card.version, **asdict(self.settings)},
        )
        volume = source.with_array(hu.astype(np.float32), role=Role.CT, unit=Unit.HU, step=step)
        uncertainty = None
        if prior.uncertainty is not None:
            spread = weights.atlas * prior.uncertainty.array
            uncertainty = source.with_array(spread, role=Role.UNCERTAINTY, step=step)
        progress.update(1.0)
        facts = {"prior": dict(prior.facts), "network": dict(found.facts)}
        return Synthesis(volume, prior.coverage, uncertainty, facts, spread=prior.spread)


def difference_settings(settings: PatchwiseSettings) -> PatchwiseSettings:
    """The network's settings for a difference: no air outside the head, and no CT's range."""
    output = replace(settings.output, low=-DIFFERENCE_HU, high=DIFFERENCE_HU, outside=0.0)
    return replace(settings, output=output)


def build(card: ModelCard, machine: Machine) -> AtlasPriorSynthesizer:
    """The family's entry for the registry. Raises MissingModel when the atlas model is unknown."""
    settings = settings_of(card, AtlasPriorSettings)
    if settings.prior.model == card.name:
        raise MissingModel(f"Model {card.name} is its own prior: name an atlas model on its card.")
    atlas = open_model(settings.prior.model, machine)
    network = patchwise.open_patchwise(card, difference_settings(settings.network), machine)
    return AtlasPriorSynthesizer(card, settings, atlas, network)

"""Virtual PET: a CT becomes an FDG PET by two networks, blended (Paper 3).

A fully convolutional network (FCN-4s) answers hot lesions best and is blurred elsewhere; a
conditional GAN looks like a PET and misses lesions. Where the FCN's SUV exceeds a threshold its
answer is taken, elsewhere the GAN's, blended by Laplacian pyramids of the axial slices (section
2.5, ``synthesis.blending``). A CT does not determine the uptake of a tracer: what such a PET shows
was learned from others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.blending import blended
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import ModelCard, Synthesis, input_of
from SynthCTLib.synthesis.triplanar import (
    Answer,
    PlaceSettings,
    SliceModel,
    SliceNetworkSettings,
    onto_input,
)
from SynthCTLib.volume import Role, Volume

Array = npt.NDArray[np.float32]
MASK_SUV = 2.5  # Paper 3, section 2.4: malignant tumours usually exceed it


@dataclass(frozen=True)
class VirtualPetSettings:
    """What the card states: both networks, where they look, and how they are blended.

    ``levels`` of the pyramids at most; the paper does not state its number.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    fcn: SliceNetworkSettings
    gan: SliceNetworkSettings
    place: PlaceSettings = field(default_factory=PlaceSettings)
    mask_suv: Annotated[float, Field(gt=0)] = MASK_SUV
    levels: Annotated[int, Field(ge=1)] = 6


class VirtualPetSynthesizer:
    """PET (SUV) of a CT (HU)."""

    def __init__(self, card: ModelCard, settings: VirtualPetSettings, machine: Machine) -> None:
        self.card, self.settings = card, settings
        self.models = (
            SliceModel(card, settings.fcn, machine),
            SliceModel(card, settings.gan, machine),
        )

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Make the PET on the grid of the CT, 0 outside the body.

        Raises InputError when no body is found. No uncertainty is given: the difference of two
        networks that are good at different things is none.
        """
        settings = self.settings
        source = input_of(inputs, self.card.task.input_role, self.card)
        progress.stage("Finding the body", 0.1)
        work = settings.place.view(source)
        fcn, gan = self.models
        lesions = fcn.answer(work, progress.within("FCN", 0.35))
        looks = gan.answer(work, progress.within("Conditional GAN", 0.35))
        progress.stage("Blending", 0.1)
        values, mask = mixed(lesions.values, looks.values, work.region, settings)
        facts = {
            "fcn": dict(lesions.facts),
            "gan": dict(looks.facts),
            "mask_suv": settings.mask_suv,
            "mask_ml": round(float(mask.sum()) * work.grid.voxel_mm3 / 1000, 2),
        }
        progress.stage("Back onto the grid of the CT", 0.1)
        return onto_input(
            self.card, asdict(settings), source, work, Answer(values, None, facts), progress
        )


def mixed(
    hot: Array, looks: Array, body: npt.NDArray[np.bool_], settings: VirtualPetSettings
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The FCN's and the GAN's answer (SUV) as one, and the mask by which they were blended.

    Both are taken as 0 outside the body: what a network says there was never asked for, and the
    coarse levels of the pyramids would carry it inside.
    """
    inner, outer = (np.where(body, values, np.float32(0)) for values in (hot, looks))
    mask = inner > settings.mask_suv
    output = settings.fcn.output
    return blended(inner, outer, mask, settings.levels).clip(output.low, output.high), mask


def build(card: ModelCard, machine: Machine) -> VirtualPetSynthesizer:
    """The family's entry for the registry."""
    return VirtualPetSynthesizer(card, settings_of(card, VirtualPetSettings), machine)

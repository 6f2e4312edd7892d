"""One tissue inside the outline of the body: the attenuation correction without any bone.

The baseline that every other model must beat, and the one that works for any part of the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from SynthCTLib.imaging.masks import body_contour
from SynthCTLib.progress import Progress
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.synthesis.settings import settings_of
from SynthCTLib.synthesis.synthesizer import Anatomy, ModelCard, Synthesis, input_of
from SynthCTLib.volume import AIR_HU, Role, Step, Unit, Volume


@dataclass(frozen=True)
class UniformSettings:
    """The HU written inside the body: 40 is muscle at 120 kVp (soft tissue of segmented MR-AC)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tissue_hu: float = 40.0


class UniformSynthesizer:
    """Soft tissue inside the body contour of the input, air outside."""

    def __init__(self, card: ModelCard, settings: UniformSettings) -> None:
        self.card = card
        self.settings = settings

    def synthesize(self, inputs: Mapping[Role, Volume], progress: Progress) -> Synthesis:
        """Make the two-class CT on the grid of the input."""
        source = input_of(inputs, self.card.task.input_role, self.card)
        progress.stage("Finding the outline of the body", 1.0)
        body = body_contour(source)
        hu = np.where(body.array > 0, self.settings.tissue_hu, AIR_HU).astype(np.float32)
        step = Step("synthesize", {"model": self.card.name, "version": self.card.version})
        volume = source.with_array(hu, role=Role.CT, unit=Unit.HU, step=step)
        everywhere = source.mask(np.ones(hu.shape, bool))
        progress.update(1.0)
        facts = {"tissue_hu": self.settings.tissue_hu}
        return Synthesis(volume, everywhere, None, facts, {Anatomy.BODY: body})


def build(card: ModelCard, machine: Machine) -> UniformSynthesizer:
    """The family's entry for the registry."""
    del machine
    return UniformSynthesizer(card, settings_of(card, UniformSettings))

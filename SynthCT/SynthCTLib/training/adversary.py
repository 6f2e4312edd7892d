"""The adversary: a discriminator trained against the network, one step each in turn.

    L_G = losses of the recipe + weight * fool(D(S), real)
    L_D = 1/2 (judge(D(I), real) + judge(D(S), synthetic))

with S the network's answer, I the true image. ``least-squares`` (Mao et al., ICCV 2017; Paper 2,
equations 3 and 4) has squares of D's distance from 1 (real) and 0 (synthetic), with the 1/2 of
the equations; ``cross-entropy`` is the original GAN's in the form of Isola et al. (pix2pix, CVPR
2017), which never asks the network to please with a saturated discriminator. Both see images in the
network's own numbers, not in HU, and nothing where a target is not known.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from SynthCTLib.errors import InputError
from SynthCTLib.networks import build_network
from SynthCTLib.training.examples import Batch
from SynthCTLib.training.processes import Processes
from SynthCTLib.training.recipe import AdversaryPart, OutputPart, Recipe


class Adversary:
    """The discriminator of a recipe, its optimiser, and what the network hears from it."""

    def __init__(self, recipe: Recipe, part: AdversaryPart, device: str) -> None:
        self.part, self.output = part, recipe.output
        self.network: nn.Module = build_network(part.network.name, part.network.settings).to(device)
        own = part.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), own.learning_rate, own.betas, weight_decay=own.weight_decay
        )
        # A loss scaled for fp16 would need a scaler of its own.
        self.autocast = torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16"
        )

    def fool(self, batch: Batch, predicted: Tensor) -> Tensor:
        """What the network is to make small: the distance of D(S) from real.

        ``predicted`` in HU or SUV. The discriminator gets no gradient from it.
        """
        wanted = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in wanted:
            parameter.requires_grad_(False)
        try:
            return distance(self._judged(batch, predicted), True, self.part.loss)
        finally:
            for parameter in wanted:
                parameter.requires_grad_(True)

    def learn(self, batch: Batch, predicted: Tensor, share: float, processes: Processes) -> Tensor:
        """One step of the discriminator (Paper 2, equation 4); gives its loss.

        ``share``: of its learning rate, as the network's schedule has it. A gradient that is not
        finite changes nothing.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = share * self.part.optimiser.learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        real = distance(self._judged(batch, batch.targets), True, self.part.loss)
        synthetic = distance(self._judged(batch, predicted.detach()), False, self.part.loss)
        # The 1/2 of each square is in ``distance``; cross-entropies are averaged (Isola et al.).
        loss = real + synthetic if self.part.loss == "least-squares" else (real + synthetic) / 2
        loss.backward()
        processes.average_gradients(self.network)
        norm = nn.utils.clip_grad_norm_(
            self.network.parameters(), self.part.optimiser.clip_norm or math.inf
        )
        if torch.isfinite(norm):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _judged(self, batch: Batch, image: Tensor) -> Tensor:
        seen = own_numbers(image, batch.weights, self.output)
        if self.part.conditional:
            seen = torch.cat((batch.images, seen), dim=1)
        with self.autocast:
            return self.network(seen)


def own_numbers(image: Tensor, weights: Tensor, output: OutputPart) -> Tensor:
    """From HU or SUV to the network's numbers; the lowest of the range where there is no weight."""
    known = torch.where(weights > 0, image, image.new_tensor(output.low))
    return (known - output.offset) / output.scale


def distance(judged: Tensor, real: bool, loss: str) -> Tensor:
    """Mean distance of judgements from 1 (real) or 0 (synthetic)."""
    values = judged.float()
    wanted = torch.full_like(values, float(real))
    if loss == "least-squares":
        return (values - wanted).square().mean() / 2
    return functional.binary_cross_entropy_with_logits(values, wanted)


def adversary_of(recipe: Recipe, device: str) -> Adversary | None:
    """The recipe's adversary, or None. Raises InputError when it does not fit the network."""
    part = recipe.adversary
    if part is None:
        return None
    channels = 1 + (recipe.preparation.channels if part.conditional else 0)
    stated = part.network.settings.get("in_channels", 1)
    if stated != channels:
        raise InputError(
            f"The discriminator of recipe {recipe.name} sees {channels} channels and its settings "
            f"state {stated}: set in_channels to {channels}."
        )
    return Adversary(recipe, part, device)

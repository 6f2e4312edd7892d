"""What a network is asked for: from a batch to the loss, and from a case to its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from SynthCTLib.errors import InputError
from SynthCTLib.training.examples import Batch, Case
from SynthCTLib.training.losses import Loss, loss_named, stated_error
from SynthCTLib.training.recipe import OutputPart, Recipe

SKETCH_WEIGHT = 0.5
ERROR_WEIGHT = 0.05


@runtime_checkable
class TwoViews(Protocol):
    """A network with a wide view, see ``networks.two_view_unet``."""

    context_pooling: int

    def look(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Features and sketch of pooled volumes."""
        ...

    def fine(self, patch: Tensor, features: Tensor) -> Tensor:
        """The answer in patches."""
        ...


@runtime_checkable
class OwnTerms(Protocol):
    """A network that adds terms of its own to the loss, such as a codebook's."""

    def own_terms(self) -> Mapping[str, Tensor]:
        """The terms of the last pass by name; they are added as they are."""
        ...


@dataclass(frozen=True)
class Asked:
    """What came of a batch: the loss, its terms by name (no gradient), the answer (HU or SUV)."""

    loss: Tensor
    parts: Mapping[str, Tensor]
    predicted: Tensor


class Objective:
    """The weighted sum of the recipe's losses.

    ``two-view`` adds the L1 of the sketch; a network of two output channels is also taught to
    state its error in the second (``losses.stated_error``).
    """

    def __init__(self, recipe: Recipe) -> None:
        self.output: OutputPart = recipe.output
        self.two_views = recipe.objective == "two-view"
        self.patch = recipe.model.window.patch
        self.sketch_loss = loss_named("l1", {})
        self.losses: tuple[tuple[str, float, Loss], ...] = tuple(
            (part.name, part.weight, loss_named(part.name, part.settings)) for part in recipe.losses
        )

    def ask(self, network: nn.Module, batch: Batch, autocast: torch.autocast) -> Asked:
        """The network's answer to a batch, and the loss of it."""
        with autocast:
            if self.two_views:
                predicted, sketches = self._both_views(network, batch)
            else:
                predicted, sketches = network(batch.images), []
        answer = self.answer(predicted[:, :1])
        if batch.residue is not None:
            answer = batch.residue.answer(answer)
        parts = {name: loss(answer, batch.targets, batch.weights) for name, _, loss in self.losses}
        weights = {name: weight for name, weight, _ in self.losses}
        if batch.overviews is not None and sketches:
            seen = zip(sketches, batch.overviews.targets, batch.overviews.weights, strict=True)
            terms = [self.sketch_loss(self.answer(sketch), t, w) for sketch, t, w in seen]
            parts["sketch"] = torch.stack(terms).mean()
            weights["sketch"] = SKETCH_WEIGHT
        if isinstance(network, OwnTerms):
            parts |= network.own_terms()
            weights |= dict.fromkeys(network.own_terms(), 1.0)
        if predicted.shape[1] == 2:
            stated = predicted[:, 1:]
            parts["error"] = stated_error(stated, answer, batch.targets, batch.weights)
            weights["error"] = ERROR_WEIGHT
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return Asked(total, {name: value.detach() for name, value in parts.items()}, answer)

    def answer(self, y: Tensor) -> Tensor:
        """From the network's numbers to HU, or SUV where a PET is made.

        Not clipped: a clipped value has no gradient.
        """
        return self.output.scale * y.float() + self.output.offset

    def case_mae(self, network: nn.Module, case: Case, autocast: torch.autocast) -> float:
        """Weighted mean absolute error of a whole volume (HU or SUV), clipped to the stated range.

        A network of two views sees the volume at once, any other in patches of the model's window.
        """
        with torch.inference_mode(), autocast:
            if self.two_views:
                predicted = network(case.image[None])
            else:
                predicted = sliding_window_inference(
                    case.image[None], self.patch, 1, network, 0.25, mode="gaussian"
                )
        answer = self.answer(predicted)[0, 0]
        if case.residue is not None:
            answer = case.residue.answer(answer)
        answer = answer.clamp(self.output.low, self.output.high)
        error = (answer - case.target).abs() * case.weight
        return float(error.sum() / case.weight.sum().clamp(min=1))

    def _both_views(self, network: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        if not isinstance(network, TwoViews) or batch.overviews is None:
            raise InputError(
                "The objective two-view needs a network with a wide view and a source that gives "
                "overviews: choose two_view_unet and heads, or the objective patch."
            )
        looked = [network.look(image) for image in batch.overviews.images]
        pooling = network.context_pooling
        side = [n // pooling for n in batch.images.shape[2:]]
        cut = [
            looked[volume][0][(slice(None), slice(None), *_places(corner, side, pooling))]
            for volume, corner in zip(batch.overviews.volume, batch.overviews.corners, strict=True)
        ]
        return network.fine(batch.images, torch.cat(cut)), [sketch for _, sketch in looked]


def _places(corner: tuple[int, int, int], side: list[int], pooling: int) -> tuple[slice, ...]:
    return tuple(slice(c // pooling, c // pooling + n) for c, n in zip(corner, side, strict=True))

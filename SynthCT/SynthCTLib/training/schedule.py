"""How the learning rate changes over a training."""

from __future__ import annotations

from typing import Any

from SynthCTLib.training.recipe import Recipe


class Schedule:
    """The rate at each step, and the plateau rule; see ``recipe.SchedulePart``."""

    def __init__(self, recipe: Recipe) -> None:
        self.part, self.first_rate = recipe.schedule, recipe.optimiser.learning_rate
        self.steps = recipe.steps
        self.phase = 0
        self.finished = False
        self.best_epoch, self.best_mae = 0, float("inf")

    @property
    def keeps_best(self) -> bool:
        """Whether the best weights are kept rather than the last."""
        return self.part.kind == "plateau"

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.part.warmup_steps))
        if self.part.kind == "plateau":
            return warm * (self.first_rate, *self.part.rates)[self.phase]
        decay = self.part.decay_share * self.steps
        left = (self.steps - step) / decay if decay else 1.0
        return self.first_rate * warm * min(1.0, left)

    def validated(self, epoch: int, mae: float) -> bool:
        """Take note of an error; whether the next phase begins now, from the best weights."""
        if self.part.kind != "plateau":
            return False
        if mae < self.best_mae - self.part.improvement:
            self.best_epoch, self.best_mae = epoch, mae
            return False
        if epoch - self.best_epoch < self.part.patience_epochs:
            return False
        self.best_epoch = epoch
        if self.phase == len(self.part.rates):
            self.finished = True
            return False
        self.phase += 1
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "phase": self.phase,
            "finished": self.finished,
            "best_epoch": self.best_epoch,
            "best_mae": self.best_mae,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)

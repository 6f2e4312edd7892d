"""The log of a training: a CSV file, and TensorBoard's where it is installed."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CSV_FILE = "log.csv"
EVERY_STEPS = 10
_SMOOTH = 0.9
_COLUMNS = ("step", "rate", "loss", "finite", "validation_mae")


class Journal:
    """A line every few steps, and one for each validation; what a resume undid is forgotten."""

    def __init__(self, folder: Path, step: int, *, writes: bool = True) -> None:
        self.recent = float("nan")
        self._file: Any = None
        self._board: Any = None
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CSV_FILE
        kept = _rows_until(path, step)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._file, (*_COLUMNS, "parts"), restval="")
        self._rows.writeheader()
        self._rows.writerows(kept)
        self._file.flush()
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def is_due(self, step: int) -> bool:
        """Whether this step is logged (reading a loss from a GPU waits for it)."""
        return step % EVERY_STEPS == 0 or step < EVERY_STEPS

    def add(
        self, step: int, loss: float, parts: Mapping[str, float], rate: float, finite: bool
    ) -> None:
        """Log a step."""
        if finite:
            old = self.recent if self.recent == self.recent else loss
            self.recent = _SMOOTH * old + (1 - _SMOOTH) * loss
        listed = " ".join(f"{name}={value:.5g}" for name, value in parts.items())
        self._write(
            step=step, rate=f"{rate:.3g}", loss=f"{loss:.6g}", finite=int(finite), parts=listed
        )
        if self._board:
            self._board.add_scalar("loss/total", loss, step)
            self._board.add_scalar("rate", rate, step)
            for name, value in parts.items():
                self._board.add_scalar(f"loss/{name}", value, step)

    def validated(self, step: int, mae: float) -> None:
        """Log the error on the validation cases, in the unit of what the task makes."""
        self._write(step=step, validation_mae=f"{mae:.5g}")
        if self._board:
            self._board.add_scalar("validation/mae", mae, step)

    def close(self) -> None:
        """Close the files."""
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def _write(self, **row: object) -> None:
        if self._file:
            self._rows.writerow(row)
            self._file.flush()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.is_file() or step == 0:
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if int(row["step"]) <= step]

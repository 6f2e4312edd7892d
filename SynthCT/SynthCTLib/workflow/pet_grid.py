"""A µ-map on the grid of a PET, with the hardware that was in the scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from SynthCTLib.imaging.files import read_volume, reading_notes
from SynthCTLib.physics.mumap import add_hardware, check_mu_map, to_pet_grid
from SynthCTLib.progress import Progress
from SynthCTLib.volume import Role, Volume


@dataclass(frozen=True)
class PetGrid:
    """Where a µ-map goes. All None and empty: it stays on its own grid as it is.

    ``pet`` is an image on the wanted grid, ``fwhm_mm`` the resolution of the PET, ``hardware`` are
    µ-maps of table and coils in 1/cm on the wanted grid.
    """

    pet: Path | None = None
    fwhm_mm: float | None = None
    hardware: Sequence[Path] = ()


@dataclass(frozen=True)
class PreparedMu:
    """The map for the reconstruction, and how the patient lay in the PET (None: not told)."""

    mu: Volume
    position: str | None


def prepare(mu: Volume, target: PetGrid, progress: Progress) -> PreparedMu:
    """Resample, smooth and complete a µ-map; everything the user must know is said.

    Raises InputError for what is no µ-map in 1/cm, for a PET that it does not overlap, and for
    hardware on another grid.
    """
    check_mu_map(mu)
    position = mu.provenance.tags.get("PatientPosition")
    if target.pet is not None or target.fwhm_mm is not None:
        grid = mu.grid
        if target.pet is not None:
            pet = read_volume(target.pet, Role.PET)
            _say(progress, reading_notes(pet))
            grid, position = pet.grid, pet.provenance.tags.get("PatientPosition", position)
        placed = to_pet_grid(mu, grid, target.fwhm_mm)
        _say(progress, placed.warnings)
        mu = placed.mu
        check_mu_map(mu)
    if target.hardware:
        parts = [read_volume(path, Role.MU_MAP) for path in target.hardware]
        for part in parts:
            _say(progress, reading_notes(part))
        completed = add_hardware(mu, parts)
        _say(progress, completed.warnings)
        mu = completed.mu
    return PreparedMu(mu, None if position is None else str(position))


def _say(progress: Progress, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        progress.note(sentence)

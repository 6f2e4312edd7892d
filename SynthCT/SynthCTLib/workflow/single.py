"""Single steps from file to file: register, and the µ-map of a CT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.imaging.files import read_volume, reading_notes, write_volume
from SynthCTLib.imaging.gate import Severity, inspect
from SynthCTLib.imaging.grids import Interpolator, resample, scanned_field
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.progress import Progress
from SynthCTLib.registration import (
    AffineOptions,
    DeformableOptions,
    Registration,
    RigidOptions,
    examined,
    register_affine,
    register_deformable,
    register_rigid,
    write_transform,
)
from SynthCTLib.volume import Role, Volume
from SynthCTLib.whole_file import at_its_place, reason_of, whole_files
from SynthCTLib.workflow.outcome import fit_record
from SynthCTLib.workflow.pet_grid import PetGrid, prepare

KINDS = ("rigid", "affine", "deformable")


def register_files(
    fixed_path: Path,
    fixed_role: Role,
    moving_path: Path,
    moving_role: Role,
    kind: str,
    output: Path,
    *,
    overwrite: bool,
    threads: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Register and write ``transform.h5``, ``moved.nii.gz`` and ``scanned.nii.gz`` into a folder.

    Returns the facts of the registration as plain values. Raises InputError for a wrong kind or an
    input that the gate refuses, RegistrationFailed when it did not work; then nothing is written.
    """
    if kind not in KINDS:
        raise InputError(f"There is no registration {kind!r}: choose one of {', '.join(KINDS)}.")
    names = ("transform.h5", "moved.nii.gz", "scanned.nii.gz")
    for name in names:
        _refuse_existing(output / name, overwrite)
    progress.stage("Reading", 0.1)
    fixed = _admitted(fixed_path, fixed_role, None, progress)
    moving = _admitted(moving_path, moving_role, None, progress)
    found = _register(fixed, moving, kind, threads, progress.within("Registering", 0.65))
    if kind == "rigid":
        within = progress.within("Examining the registration", 0.1)
        found = examined(fixed, moving, found, threads=threads, progress=within)
    for sentence in found.doubts:
        progress.note(f"Registration: {sentence}")
    progress.stage("Writing", 0.15)
    cubic = Interpolator.NEAREST if moving.role == Role.MASK else Interpolator.BSPLINE
    moved = resample(moving, fixed.grid, transform=found.transform, interpolator=cubic)
    with _together(output) as staged:
        write_transform(found.transform, staged / names[0])
        write_volume(moved, staged / names[1])
        write_volume(scanned_field(moving, fixed.grid, found.transform), staged / names[2])
        progress.update(1.0)
    return {
        "kind": str(found.kind),
        "converged": found.converged,
        "normalised mutual information": round(found.quality.mutual_information, 4),
        "overlap": round(found.quality.overlap, 3),
        "folding": found.quality.folding,
        "suspicions": list(found.doubts),
        **({} if found.fit is None else fit_record(found.fit)),
    }


def _register(
    fixed: Volume, moving: Volume, kind: str, threads: int | None, progress: Progress
) -> Registration:
    rigid_share = {"rigid": 1.0, "affine": 0.5, "deformable": 0.2}[kind]
    found = register_rigid(
        fixed,
        moving,
        RigidOptions(threads=threads),
        progress=progress.within("Rigid", rigid_share),
    )
    if kind in ("affine", "deformable"):
        found = register_affine(
            fixed,
            moving,
            AffineOptions(threads=threads),
            initial=found,
            progress=progress.within("Affine", 0.5 if kind == "affine" else 0.2),
        )
    if kind == "deformable":
        found = register_deformable(
            fixed,
            moving,
            DeformableOptions(threads=threads),
            initial=found,
            progress=progress.within("Deformable", 0.6),
        )
    return found


def mu_map_file(
    ct_path: Path,
    output: Path,
    convention: str,
    target: PetGrid,
    *,
    series: str | None,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Write the µ-map (1/cm at 511 keV) of a CT, on its own grid or on that of a PET.

    Raises InputError for an input that the gate refuses and whatever :func:`prepare` refuses.
    """
    _refuse_existing(output, overwrite)
    progress.stage("Reading", 0.4)
    ct = _admitted(ct_path, Role.CT, series, progress)
    progress.stage("Converting", 0.3)
    mu = hu_to_mu(ct, convention)
    mu = prepare(mu, target, progress).mu
    progress.stage("Writing", 0.3)
    _folder(output.parent)
    write_volume(mu, output)
    progress.update(1.0)


def _admitted(path: Path, role: Role, series: str | None, progress: Progress) -> Volume:
    if not path.exists():
        raise InputError(f"There is no file {path}: check its name.")
    volume = read_volume(path, role, series=series)
    for note in reading_notes(volume):
        progress.note(note)
    for finding in inspect(volume):
        if finding.severity == Severity.ERROR:
            raise InputError(finding.message)
        progress.say(f"{finding.severity}: {finding.message}")
    return volume


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: choose another name or add --overwrite.")


@contextmanager
def _together(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files appear in ``folder`` all at once or not at all."""
    staged = folder
    try:
        with whole_files(folder) as staged:
            yield staged
    except OutputError as error:
        raise at_its_place(error, staged, folder) from error
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written ({reason_of(error)}).") from error


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {path} cannot be made ({error.strerror}): choose another."
        ) from error

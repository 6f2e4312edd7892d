"""The atlas pairs: simulated MR and CT of the shipped head label maps, made once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SynthCTLib import __version__
from SynthCTLib.errors import MissingModel, OutputError
from SynthCTLib.imaging.files import read_label_map, read_volume, write_volume
from SynthCTLib.phantom import PhantomOptions, make_pair
from SynthCTLib.phantom.known import known_region
from SynthCTLib.progress import Progress
from SynthCTLib.registration import (
    ROUGH_MM,
    ROUGH_SAMPLES,
    AffineOptions,
    RigidOptions,
    read_transform,
    register_affine,
    register_rigid,
    write_transform,
)
from SynthCTLib.resources import resource
from SynthCTLib.synthesis.alignment import LEAST_LIKENESS
from SynthCTLib.synthesis.registry import Machine
from SynthCTLib.volume import Role, Volume, sha256_of

PHANTOM_SEED = 20


@dataclass(frozen=True)
class Atlas:
    """One anatomy: simulated MR and CT, where its map knows what is there, and its place.

    ``known`` is a mask of the tissue and of the air around it that was mapped: below the cut of the
    neck or face nothing is known. ``from_template`` takes LPS mm points of the template atlas to
    this one.
    """

    name: str
    mr: Volume
    ct: Volume
    known: Volume
    from_template: sitk.Transform


def open_atlases(names: tuple[str, ...], machine: Machine, progress: Progress) -> tuple[Atlas, ...]:
    """The atlas pairs: from the machine's cache, or made from their label maps.

    Without a cache that can be written, they are made anew for this run and that is said.
    """
    progress.stage("Opening the atlases", 0.9)
    pairs = []
    for index, name in enumerate(names):
        pairs.append(_open_pair(name, machine, progress))
        progress.update((index + 1) / len(names), name)
    progress.stage("Relating the atlases to each other", 0.1)
    template = pairs[0]
    return tuple(
        Atlas(p.name, p.mr, p.ct, p.known, _from_template(template, p, machine, progress))
        for p in pairs
    )


@dataclass(frozen=True)
class _Pair:
    name: str
    key: str
    mr: Volume
    ct: Volume
    known: Volume


def _open_pair(name: str, machine: Machine, progress: Progress) -> _Pair:
    path = resource("Atlases", "heads", f"{name}.nii.gz")
    if not path.is_file():
        raise MissingModel(f"The atlas {name} is not installed: reinstall SynthCT.")
    options = PhantomOptions(mr_noise=0.0, mr_bias=0.0)  # an atlas needs neither
    recipe = {
        "labels": sha256_of(path),
        "options": asdict(options),
        "seed": PHANTOM_SEED,
        "version": __version__,
    }
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    roles = {"mr": Role.MR, "ct": Role.CT, "known": Role.MASK}
    files = _cached(machine, {part: f"{name}-{key}-{part}.nii.gz" for part in roles})
    if files and all(file.is_file() for file in files.values()):
        volumes = {part: read_volume(files[part], role) for part, role in roles.items()}
        return _Pair(name, key, **volumes)
    labels = read_label_map(path)
    pair = make_pair(labels, options, seed=PHANTOM_SEED, device=machine.device)
    volumes = {
        "mr": _as_int16(pair.mr, 1000.0 / float(np.percentile(pair.mr.array, 99.9))),
        "ct": _as_int16(pair.ct, 1.0),
        "known": known_region(labels),
    }
    if files:
        _keep(files, volumes, progress)
    return _Pair(name, key, **volumes)


def _as_int16(volume: Volume, scale: float) -> Volume:
    return volume.with_array(np.round(volume.array * scale).astype(np.int16))


def _cached(machine: Machine, names: Mapping[str, str]) -> dict[str, Path] | None:
    if machine.cache_dir is None:
        return None
    return {part: machine.cache_dir / "atlases" / name for part, name in names.items()}


def _keep(files: Mapping[str, Path], volumes: Mapping[str, Volume], progress: Progress) -> None:
    """Write to the cache; a cache that cannot be written costs time later, not the result."""
    try:
        for part, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_volume(volumes[part], file)
    except (OutputError, OSError) as error:
        progress.note(f"The atlases could not be kept for the next run: {error}")


def _from_template(
    template: _Pair, atlas: _Pair, machine: Machine, progress: Progress
) -> sitk.Transform:
    """Affine transform from the template's points to the atlas's, kept beside the pairs."""
    if atlas is template:
        return sitk.AffineTransform(3)
    files = _cached(machine, {"affine": f"{atlas.name}-{atlas.key}-from-{template.key}.h5"})
    if files and files["affine"].is_file():
        return read_transform(files["affine"])
    rigid = register_rigid(
        template.mr,
        atlas.mr,
        RigidOptions(
            spacings_mm=ROUGH_MM,
            final_samples=ROUGH_SAMPLES,
            threads=machine.threads,
            least_quality=LEAST_LIKENESS,
        ),
    )
    affine = register_affine(
        template.mr,
        atlas.mr,
        AffineOptions(threads=machine.threads, least_quality=LEAST_LIKENESS),
        initial=rigid,
    )
    if files:
        try:
            write_transform(affine.transform, files["affine"])
        except (OutputError, OSError) as error:
            progress.note(f"The atlases could not be kept for the next run: {error}")
    return affine.transform

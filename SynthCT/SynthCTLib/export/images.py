"""NIfTI, NRRD and MetaImage: float32 on the volume's own grid, with a JSON sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from SynthCTLib.export.origin import Origin, sidecar_of, write_sidecar
from SynthCTLib.imaging.files import write_volume
from SynthCTLib.volume import Role, Volume, sha256_of


def write_images(
    volumes: Mapping[str, Volume], suffix: str, folder: Path, origin: Origin
) -> tuple[Path, ...]:
    """Write each volume as ``NAME + suffix`` (.nii.gz, .nrrd, .mha) with ``NAME.json`` beside it.

    Values are float32 (masks uint8); role, unit and whether the image is synthetic stand in the
    header too. Raises OutputError when a file cannot be written.
    """
    written = []
    for name, volume in volumes.items():
        image, sidecar = folder / f"{name}{suffix}", folder / f"{name}.json"
        if volume.role != Role.MASK:
            volume = replace(volume, image=sitk.Cast(volume.image, sitk.sitkFloat32))
        write_volume(volume, image)
        write_sidecar(
            sidecar_of(volume, origin, file=image.name, file_sha256=sha256_of(image)), sidecar
        )
        written += [image, sidecar]
    return tuple(written)

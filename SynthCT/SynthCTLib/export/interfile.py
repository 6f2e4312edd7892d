"""µ-maps as Interfile: STIR's dialect, and that of the Siemens Biograph mMR.

Interfile has no orientation. An oblique map is put upright before it is written, by linear
interpolation, and the result says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.imaging.interfile import (
    POSITION_OF,
    SIEMENS_AXES,
    STIR_AXES,
    SYNTHETIC_COMMENT,
)
from SynthCTLib.physics.mumap import check_mu_map, to_pet_grid
from SynthCTLib.volume import Grid, Step, Volume
from SynthCTLib.whole_file import reason_of

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# UCL/pet-rd-tools, lib/nmtools/MRAC-mMR.hpp; NiftyPET has the same matrix.
MMR_SIZE = (344, 344, 127)
MMR_SPACING_MM = (2.08626, 2.08626, 2.03125)
_UPRIGHT_MM = 0.01  # a tilt that moves no corner by more is the rounding of a header


@dataclass(frozen=True)
class Placed:
    """A µ-map ready for a format, and the sentences on what had to be done to it."""

    mu: Volume
    notes: tuple[str, ...] = ()


def upright(mu: Volume) -> Placed:
    """The map on axes along the patient's, in the order left, posterior, superior.

    Axes are permuted and flipped without interpolation where that is enough. An oblique map is
    interpolated linearly onto a grid with the spacings of its nearest axes that covers all of it;
    µ is 0 beyond its field.
    """
    canonical = to_lps(mu).volume
    grid = canonical.grid
    straight = Grid(grid.size, grid.spacing_mm, grid.origin_mm, IDENTITY)
    if grid.matches(straight, _UPRIGHT_MM):
        image = sitk.Image(canonical.image)
        image.SetDirection(IDENTITY)
        return Placed(canonical.with_image(image))
    around = _box_around(grid)
    placed = to_pet_grid(canonical, around)
    note = (
        "The µ-map lies obliquely and Interfile has no orientation: it was interpolated onto "
        f"upright axes ({' x '.join(str(n) for n in around.size)} voxels)."
    )
    step = Step("upright", {"interpolator": "linear", "outside": 0.0})
    return Placed(placed.mu.with_image(placed.mu.image, step=step), (note,))


def on_mmr_grid(mu: Volume) -> Placed:
    """The map on the matrix of the mMR's own µ-maps, 344 x 344 x 127.

    A map that has this matrix and voxel size stays as it is. Any other is sampled on such a grid
    around the centre of its own field, and the note says that the place on the scanner is lost.
    """
    flat = upright(mu)
    grid = flat.mu.grid
    if grid.size == MMR_SIZE and np.allclose(grid.spacing_mm, MMR_SPACING_MM, atol=1e-3):
        return flat
    half = (np.asarray(MMR_SIZE) - 1) / 2 * MMR_SPACING_MM
    x, y, z = (float(v) for v in grid.centre_mm - half)
    placed = to_pet_grid(mu, Grid(MMR_SIZE, MMR_SPACING_MM, (x, y, z), IDENTITY))
    note = (
        "The µ-map was put on the mMR's grid around its own centre, not where the patient lay on "
        "the scanner; give the PET with --grid for that. "
        f"{placed.uncovered_share:.0%} of the grid lies outside the µ-map: µ is 0 there."
    )
    return Placed(placed.mu, (note,))


def write_stir(
    mu: Volume, folder: Path, name: str, *, position: str = "HFS", centred: bool = False
) -> tuple[Path, ...]:
    """Write ``NAME.hv`` and ``NAME.v`` for STIR; float32, 1/cm, which STIR takes for granted.

    ``position`` is how the patient lay on the scanner (DICOM's HFS, HFP, FFS, FFP): it decides
    which way STIR's axes run in the patient. The first pixel offset keeps the patient's frame.
    ``centred`` gives that up: x and y are centred on the scanner's axis and z begins at 0, where
    STIR has its first ring.

    Raises InputError when the volume is no plausible µ-map in 1/cm, lies obliquely or the position
    is unknown; OutputError when it cannot be written.
    """
    check_mu_map(mu)
    if position not in STIR_AXES:
        raise InputError(
            f"STIR has no axes for the patient position {position!r}: use one of "
            f"{', '.join(STIR_AXES)}."
        )
    image = _along(mu, STIR_AXES[position])
    size, spacing = image.GetSize(), image.GetSpacing()
    first = np.reshape(image.GetDirection(), (3, 3)).T @ image.GetOrigin()
    if centred:
        first = np.array([-(size[0] - 1) / 2 * spacing[0], -(size[1] - 1) / 2 * spacing[1], 0.0])
    orientation, rotation = next(k for k, v in POSITION_OF.items() if v == position)
    lines = [
        "!INTERFILE :=",
        *([SYNTHETIC_COMMENT] if mu.provenance.is_synthetic else []),
        "; linear attenuation at 511 keV, 1/cm",
        "!imaging modality := PT",
        "!version of keys := STIR6.0",
        f"name of data file := {name}.v",
        "!GENERAL DATA :=",
        f"patient orientation := {orientation}",
        f"patient rotation := {rotation}",
        "!GENERAL IMAGE DATA :=",
        "!type of data := PET",
        "imagedata byte order := LITTLEENDIAN",
        "!PET STUDY (General) :=",
        "!PET data type := Image",
        "process status := Reconstructed",
        "!number format := float",
        "!number of bytes per pixel := 4",
        "number of dimensions := 3",
    ]
    for i, axis in enumerate("xyz"):
        lines += [
            f"matrix axis label [{i + 1}] := {axis}",
            f"!matrix size [{i + 1}] := {size[i]}",
            f"scaling factor (mm/pixel) [{i + 1}] := {spacing[i]:.9g}",
        ]
    lines += [f"first pixel offset (mm) [{i + 1}] := {first[i]:.9g}" for i in range(3)]
    lines += ["number of time frames := 1", "!END OF INTERFILE :="]
    return _write(image, lines, folder / f"{name}.hv", folder / f"{name}.v")


def write_mmr(mu: Volume, folder: Path, name: str) -> tuple[Path, ...]:
    """Write ``NAME.v.hdr`` and ``NAME.v`` in the form of the Siemens mMR's own µ-maps.

    Float32, 1/cm, axes to left, posterior, superior. The form has no origin: the middle of the
    grid is the middle of the scanner. Raises as :func:`write_stir`.
    """
    check_mu_map(mu)
    image = _along(mu, SIEMENS_AXES)
    size, spacing = image.GetSize(), image.GetSpacing()
    values = sitk.GetArrayViewFromImage(image)
    lines = [
        "!INTERFILE:=",
        *([SYNTHETIC_COMMENT] if mu.provenance.is_synthetic else []),
        "%comment:=linear attenuation at 511 keV, made by SynthCT",
        "!originating system:=2008",
        "",
        "!GENERAL DATA:=",
        f"!name of data file:={name}.v",
        "",
        "!GENERAL IMAGE DATA:=",
        "!type of data:=PET",
        "imagedata byte order:=LITTLEENDIAN",
        "%patient orientation:=HFS",
        "!PET data type:=image",
        "number format:=float",
        "!number of bytes per pixel:=4",
        "number of dimensions:=3",
        *(f"matrix axis label[{i + 1}]:={axis}" for i, axis in enumerate("xyz")),
        *(f"matrix size[{i + 1}]:={size[i]}" for i in range(3)),
        *(f"scaling factor (mm/pixel) [{i + 1}]:={spacing[i]:.9g}" for i in range(3)),
        "start horizontal bed position (mm):=0.0",
        "end horizontal bed position (mm):=0.0",
        "start vertical bed position (mm):=0.0",
        "",
        "!IMAGE DATA DESCRIPTION:=",
        "!total number of data sets:=1",
        "number of time frames:=1",
        "!image duration (sec)[1]:=0",
        "!image relative start time (sec)[1]:=0",
        "",
        "%SUPPLEMENTARY ATTRIBUTES:=",
        "quantification units:=1/cm",
        "slice orientation:=Transverse",
        "%image zoom:=1",
        "%x-offset (mm):=0.0",
        "%y-offset (mm):=0.0",
        "%image slope:=1",
        "%image intercept:=0.0",
        f"maximum pixel count:={values.max():.9g}",
        f"minimum pixel count:={values.min():.9g}",
        "!END OF INTERFILE:=",
    ]
    return _write(image, lines, folder / f"{name}.v.hdr", folder / f"{name}.v")


def _along(mu: Volume, axes: str) -> sitk.Image:
    """The map as float32 with its axes running to the named sides of the patient."""
    grid = to_lps(mu).volume.grid
    if not grid.matches(Grid(grid.size, grid.spacing_mm, grid.origin_mm, IDENTITY), _UPRIGHT_MM):
        raise InputError(
            "The µ-map lies obliquely and Interfile has no orientation: put it on the PET's grid "
            "or on upright axes first."
        )
    return sitk.DICOMOrient(sitk.Cast(mu.image, sitk.sitkFloat32), axes)


def _write(image: sitk.Image, lines: list[str], header: Path, data: Path) -> tuple[Path, ...]:
    try:
        sitk.GetArrayViewFromImage(image).astype("<f4").tofile(data)
        header.write_text("\n".join(lines) + "\n", encoding="ascii")
    except OSError as error:
        raise OutputError(f"{header} cannot be written ({reason_of(error)}).") from error
    return header, data


def _box_around(grid: Grid) -> Grid:
    """An upright grid with the same spacings around all voxel centres of an oblique one."""
    corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= np.asarray(grid.size) - 1
    world = (corners @ grid.index_to_world.T)[:, :3]
    low, high = world.min(axis=0), world.max(axis=0)
    spacing = np.asarray(grid.spacing_mm)
    size = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    x, y, z = (float(v) for v in (low + high - (size - 1) * spacing) / 2)
    return Grid((int(size[0]), int(size[1]), int(size[2])), grid.spacing_mm, (x, y, z), IDENTITY)

"""What is lost on the way out: the largest error of value and place, by format and by reader.

    python benchmarks/export_roundtrip.py [--geometries N]

Simulated heads with fractional HU on random grids: any orientation, anisotropic, up to 0.9 m off
centre, right- and left-handed. Each is exported and read back by other software, and by SynthCT's
own reader. The value error is over all voxels, the position error the largest distance between the
places that both give a corner voxel. A reader that is not installed is named and left out. At the
end, what the validators say of every DICOM file.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SynthCTLib.export.dicom_parametric import write_parametric_mu
from SynthCTLib.export.dicom_slices import write_ct_series, write_integer_mu
from SynthCTLib.export.dicom_study import placeholder_study
from SynthCTLib.export.images import write_images
from SynthCTLib.export.interfile import upright, write_mmr, write_stir
from SynthCTLib.export.origin import Origin
from SynthCTLib.imaging.files import read_volume
from SynthCTLib.imaging.grids import to_lps
from SynthCTLib.physics.mumap import hu_to_mu
from SynthCTLib.volume import Grid, Role, Unit, Volume

LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
STUDY, ORIGIN = placeholder_study("phantom", "benchmark"), Origin("phantom")


@dataclass(frozen=True)
class Found:
    """Voxels (x, y, z) as a reader gives them, and its matrix from index to LPS mm (None: none)."""

    values: npt.NDArray[Any]
    index_to_world: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class Case:
    """A format, a reader, and how to go there and back."""

    name: str
    reader: str
    of: str
    write: Callable[[Volume, Path], object]
    read: Callable[[Path], Found]
    rounding: str
    oblique: bool = True
    needs: str | None = None


def head(grid: Grid, seed: int) -> Volume:
    """A bone shell with a block at the left, front, top; noise tells one voxel from the next."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    world = np.stack([x, y, z, np.ones_like(x)], -1) @ grid.index_to_world.T
    place = (world[..., :3] - grid.centre_mm) / (np.linalg.norm(grid.extent_mm) / 4)
    radius = np.linalg.norm(place, axis=-1)
    hu = np.where(radius < 1, 40.0, -1000.0)
    hu[(radius > 0.93) & (radius < 1)] = 900.0
    hu[(place > [0.2, -0.5, 0.1]).all(-1) & (place < [0.6, -0.1, 0.5]).all(-1)] = 1500.0
    hu += np.where(radius < 1, np.random.default_rng(seed).uniform(-9, 9, hu.shape), 0)
    return Volume(grid.blank(), Role.CT, Unit.HU).with_array(hu.astype(np.float32))


def random_grid(seed: int, oblique: bool) -> Grid:
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix() if oblique else np.eye(3)
    direction = direction[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    size, (x, y, z) = rng.integers(16, 64, 3), rng.uniform(-900, 900, 3)
    sx, sy, sz = rng.uniform(150, 300, 3) / size
    return Grid(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(sx), float(sy), float(sz)),
        (float(x), float(y), float(z)),
        tuple(float(v) for v in direction.ravel()),
    )


# --- readers -------------------------------------------------------------------------------


def of_image(image: sitk.Image, scale: float = 1.0) -> Found:
    values = sitk.GetArrayFromImage(image).T.astype(np.float64) * scale
    return Found(values, Grid.of(image).index_to_world)


def by_simpleitk(name: str) -> Callable[[Path], Found]:
    return lambda folder: of_image(sitk.ReadImage(str(folder / name)))


def by_nibabel(folder: Path) -> Found:
    image = nibabel.load(folder / "ct.nii.gz")
    return Found(np.asarray(image.dataobj), LPS_OF_RAS @ image.affine)


def by_gdcm(scale: float) -> Callable[[Path], Found]:
    def read(folder: Path) -> Found:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        return of_image(reader.Execute(), scale)

    return read


def by_synthct(name: str, role: Role) -> Callable[[Path], Found]:
    return lambda folder: of_image(read_volume(folder / name, role).image)


def by_pydicom(folder: Path) -> Found:
    dataset = pydicom.dcmread(folder / "mumap.dcm")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(
        np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float), (2, 3)
    )
    down, right = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    places = [
        np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = row * right, column * down
    matrix[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
    matrix[:3, 3] = places[0]
    return Found(dataset.pixel_array.T, matrix)


def by_dcmqi(folder: Path) -> Found:
    program = find("paramap2itkimage")
    assert program is not None
    subprocess.run(
        [program, "--inputDICOM", folder / "mumap.dcm", "--outputDirectory", folder, "-n", "x"],
        check=True,
        capture_output=True,
    )
    return of_image(sitk.ReadImage(str(folder / "x-pmap.nrrd")))


def by_medcon(header: str) -> Callable[[Path], Found]:
    def read(folder: Path) -> Found:
        program = find("medcon")
        assert program is not None
        subprocess.run(
            [program, "-f", header, "-c", "nifti", "-o", "x", "-w"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        return Found(np.asarray(nibabel.load(folder / "x.nii").dataobj), None)

    return read


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


# --- formats -------------------------------------------------------------------------------


def images(suffix: str) -> Callable[[Volume, Path], object]:
    return lambda volume, folder: write_images({"ct": volume}, suffix, folder, ORIGIN)


def ct_series(volume: Volume, folder: Path) -> object:
    return write_ct_series(volume, folder, STUDY, ORIGIN)


def integers(volume: Volume, folder: Path) -> object:
    return write_integer_mu(volume, folder, STUDY, ORIGIN)


def parametric(volume: Volume, folder: Path) -> object:
    return write_parametric_mu(volume, folder, STUDY, ORIGIN)


def stir(volume: Volume, folder: Path) -> object:
    return write_stir(upright(volume).mu, folder, "mumap")


def mmr(volume: Volume, folder: Path) -> object:
    return write_mmr(upright(volume).mu, folder, "mumap")


CT, MU = "ct", "mu"
CASES = (
    Case("nifti", "nibabel", CT, images(".nii.gz"), by_nibabel, "none"),
    Case("nifti", "SimpleITK", CT, images(".nii.gz"), by_simpleitk("ct.nii.gz"), "none"),
    Case("nrrd", "SimpleITK", CT, images(".nrrd"), by_simpleitk("ct.nrrd"), "none"),
    Case("metaimage", "SimpleITK", CT, images(".mha"), by_simpleitk("ct.mha"), "none"),
    Case("dicom", "SimpleITK (GDCM)", CT, ct_series, by_gdcm(1.0), "0.5 HU"),
    Case("dicom", "SynthCT", CT, ct_series, by_synthct("", Role.CT), "0.5 HU"),
    Case("dicom-int", "SimpleITK (GDCM), /10000", MU, integers, by_gdcm(1e-4), "5e-5 1/cm"),
    Case("dicom-int", "SynthCT", MU, integers, by_synthct("", Role.MU_MAP), "5e-5 1/cm"),
    Case("dicom-pm", "pydicom", MU, parametric, by_pydicom, "none"),
    Case("dicom-pm", "dcmqi", MU, parametric, by_dcmqi, "none", needs="paramap2itkimage"),
    Case("dicom-pm", "SynthCT", MU, parametric, by_synthct("", Role.MU_MAP), "none"),
    Case("interfile", "SynthCT", MU, stir, by_synthct("mumap.hv", Role.MU_MAP), "none", False),
    Case("interfile", "(X)MedCon", MU, stir, by_medcon("mumap.hv"), "none", False, "medcon"),
    Case("interfile-mmr", "(X)MedCon", MU, mmr, by_medcon("mumap.v.hdr"), "none", False, "medcon"),
)


def errors(case: Case, volume: Volume) -> tuple[float, float]:
    """Largest value error (HU or 1/cm) and position error (mm; NaN where no place is read)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(volume, folder)
        found = case.read(folder)
    if found.index_to_world is None:  # axes as written: STIR's, or left, posterior, superior
        axes = "LPI" if case.name == "interfile" else "LPS"
        expected = sitk.GetArrayFromImage(sitk.DICOMOrient(volume.image, axes)).T
        return float(np.abs(found.values - expected).max()), float("nan")
    image = sitk.GetImageFromArray(np.ascontiguousarray(found.values.T))
    spacing = np.linalg.norm(found.index_to_world[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(found.index_to_world[:3, 3].tolist())
    image.SetDirection((found.index_to_world[:3, :3] / spacing).ravel().tolist())
    ours = to_lps(volume).volume
    theirs = to_lps(Volume(image, volume.role, volume.unit)).volume
    assert ours.grid.size == theirs.grid.size
    corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= np.asarray(ours.grid.size) - 1
    apart = corners @ (ours.grid.index_to_world - theirs.grid.index_to_world).T
    off = np.abs(theirs.array.astype(np.float64) - ours.array.astype(np.float64)).max()
    return float(off), float(np.linalg.norm(apart[:, :3], axis=1).max())


def validate(count: int) -> None:
    """Print what dciodvfy says of each DICOM file, and dcentvfy of all files of a geometry."""
    one, several = find("dciodvfy"), find("dcentvfy")
    if one is None or several is None:
        print("\nThe validators dciodvfy and dcentvfy are not installed.")
        return
    print(
        "\n| format | geometries | files | errors (dciodvfy) | warnings | inconsistencies of the "
        "files of a study (dcentvfy) |\n|---|--:|--:|--:|--:|--:|"
    )
    for name, of, write in (
        ("dicom", CT, ct_series),
        ("dicom-int", MU, integers),
        ("dicom-pm", MU, parametric),
    ):
        files = said_errors = said_warnings = inconsistent = 0
        for seed in range(count):
            ct = head(random_grid(seed, True), seed)
            with tempfile.TemporaryDirectory() as folder:
                write(ct if of == CT else hu_to_mu(ct), Path(folder))
                paths = sorted(Path(folder).glob("*.dcm"))
                for path in paths:
                    said = said_by([one, "-new", str(path)])
                    said_errors += sum("Error" in line for line in said)
                    said_warnings += sum("Warning" in line for line in said)
                inconsistent += len(said_by([several, *map(str, paths)]))
            files += len(paths)
        print(f"| {name} | {count} | {files} | {said_errors} | {said_warnings} | {inconsistent} |")


def said_by(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--geometries", type=int, default=20)
    count = parser.parse_args().geometries
    print(f"Simulated heads, N = {count} random geometries a row.\n")
    print(
        "| format | read by | geometries | stated rounding | largest value error | position, mm |"
    )
    print("|---|---|---|---|---|---|")
    for case in CASES:
        if case.needs and find(case.needs) is None:
            print(f"| {case.name} | {case.reader} | not installed | | | |")
            continue
        found = []
        for seed in range(count):
            ct = head(random_grid(seed, case.oblique), seed)
            found.append(errors(case, ct if case.of == CT else hu_to_mu(ct)))
        value, place = np.max(found, axis=0)
        unit = "HU" if case.of == CT else "1/cm"
        where = "not read" if np.isnan(place) else f"{place:.1e}"
        shape = "oblique" if case.oblique else "any axis order"
        print(
            f"| {case.name} | {case.reader} | {shape} | {case.rounding} | {value:.2g} {unit} "
            f"| {where} |",
            flush=True,
        )
    validate(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
